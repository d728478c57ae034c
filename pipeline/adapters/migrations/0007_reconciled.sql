-- What a reconciliation found when nothing differed, under what it had looked at: the settlement files, the plans, the day, and how many
-- rows the books had. Rows of money are never changed, so as many rows are the same rows, and matching them again finds the same.
CREATE TABLE reconciled (
    looked_at   text COLLATE "C" PRIMARY KEY CHECK (looked_at ~ '^[0-9a-f]{64}$'),
    result      jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON reconciled TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT ON reconciled TO makegood_pipeline;
