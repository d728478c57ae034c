-- What two people say ahead will be different, and what people said of findings. Rows are facts: inserted, never changed.

-- A change is in force from its approval to its withdrawal, and for the periods it names; so it expires by itself.
CREATE TABLE declared_change (
    change_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CHECK (kind ~ '^[a-z_]+$'),
    cohort       text NOT NULL CHECK (cohort ~ '^(run|(issuer|payment_method|plan):.+)$'),
    rule         text CHECK ((rule IS NOT NULL) = (kind = 'rule')),
    first_period text NOT NULL CHECK (first_period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    last_period  text NOT NULL CHECK (last_period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    percent      double precision CHECK (percent BETWEEN -100 AND 1000),
    reason       text NOT NULL CHECK (length(trim(reason)) > 0),
    person       text NOT NULL DEFAULT session_user,
    channel      text NOT NULL DEFAULT 'database',
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (change_id, person),
    CONSTRAINT one_to_twelve_months CHECK (
        12 * (left(last_period, 4)::integer - left(first_period, 4)::integer)
            + right(last_period, 2)::integer - right(first_period, 2)::integer BETWEEN 0 AND 11)
);

-- Single use by the primary key; bound to who asked by the foreign key; two people by the check.
CREATE TABLE declared_change_approval (
    change_id    bigint PRIMARY KEY,
    requested_by text NOT NULL,
    approver     text NOT NULL DEFAULT session_user,
    channel      text NOT NULL DEFAULT 'database',
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT nobody_approves_their_own_change CHECK (approver <> requested_by),
    FOREIGN KEY (change_id, requested_by) REFERENCES declared_change (change_id, person)
);

CREATE TABLE declared_change_withdrawal (
    change_id   bigint PRIMARY KEY REFERENCES declared_change,
    person      text NOT NULL DEFAULT session_user,
    channel     text NOT NULL DEFAULT 'database',
    reason      text NOT NULL DEFAULT '',
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- What was declared is part of what a run was judged under.
ALTER TABLE verification
    ADD COLUMN declared_digest text NOT NULL DEFAULT 'none',
    DROP CONSTRAINT verification_run_id_suite_digest_history_digest_key,
    ADD UNIQUE (run_id, suite_digest, history_digest, declared_digest);

-- Whether a finding was a real fault; of several words on one finding the newest counts.
CREATE TABLE finding_decision (
    decision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id      text NOT NULL REFERENCES run,
    rule        text NOT NULL,
    cohort      text,          -- NULL: all cohorts that the rule failed for
    severity    text NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
    kind        text NOT NULL CHECK (kind IN ('accept', 'reject')),
    reason      text NOT NULL CHECK (length(trim(reason)) > 0),
    person      text NOT NULL DEFAULT session_user,
    channel     text NOT NULL DEFAULT 'database',
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX finding_decision_by_run ON finding_decision (run_id);

CREATE TRIGGER person_is_the_login BEFORE INSERT ON declared_change FOR EACH ROW EXECUTE FUNCTION person_is_the_login();
CREATE TRIGGER person_is_the_login BEFORE INSERT ON declared_change_withdrawal FOR EACH ROW EXECUTE FUNCTION person_is_the_login();
CREATE TRIGGER person_is_the_login BEFORE INSERT ON finding_decision FOR EACH ROW EXECUTE FUNCTION person_is_the_login();
CREATE TRIGGER approver_is_a_person BEFORE INSERT ON declared_change_approval FOR EACH ROW EXECUTE FUNCTION approver_is_a_person();

GRANT SELECT ON declared_change, declared_change_approval, declared_change_withdrawal, finding_decision
    TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT ON declared_change, declared_change_withdrawal, finding_decision TO makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT ON declared_change_approval TO makegood_approver;
