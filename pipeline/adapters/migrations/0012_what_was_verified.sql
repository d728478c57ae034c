-- What verdicts rest on beside a run's own rows: bounds that people put in force, and history. Rows are facts: inserted, never changed.

-- The newest row rules: a file of learned bounds is used only if it has this digest; NULL means that none may be used.
CREATE TABLE learned_bounds (
    bounds_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest      text CHECK (digest ~ '^[0-9a-f]{64}$'),
    person      text NOT NULL DEFAULT session_user,
    channel     text NOT NULL DEFAULT 'database',
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER person_is_the_login BEFORE INSERT ON learned_bounds FOR EACH ROW EXECUTE FUNCTION person_is_the_login();

-- Bytes of a run's partition whose rows were read back and found to be the run's: a year of history is proven by its bytes. What is
-- charged is not; its rows are read back every time.
CREATE TABLE proven_bytes (
    run_id      text NOT NULL REFERENCES run,
    sha256      text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, sha256)
);

GRANT SELECT ON learned_bounds, proven_bytes
    TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT (digest) ON learned_bounds TO makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT (run_id, sha256) ON proven_bytes TO makegood_pipeline;
