-- Who may do what. Nobody but the owner may change or remove a row of money, decision or audit - and the owner's login is
-- used for migrations alone.

GRANT USAGE ON SCHEMA makegood TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;
GRANT SELECT ON ALL TABLES IN SCHEMA makegood
    TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT ON run, verification, operation, batch, batch_event, outcome, unanswered, further_entry, audit, sending_order
    TO makegood_pipeline;
GRANT INSERT ON decision, review, audit, sending_order TO makegood_airflow, makegood_operator, makegood_approver;
GRANT INSERT ON review, audit TO makegood_analyst;
