-- Putting a wrong run right: the incident, the plan, its approval, what came otherwise, notices, settlement, proof.
-- As everywhere: rows are facts, inserted and never changed; the newest correction or plan of an incident is the one in force.

CREATE TABLE incident (
    incident_id    text COLLATE "C" PRIMARY KEY CHECK (incident_id ~ '^inc-[0-9]{4}-[0-9]{2}-[0-9a-f]{8}$'),
    billing_period text NOT NULL,
    charge_scope   text NOT NULL,            -- scope of the wrong charges' operations: the wrong run, or an import
    issuers        text[],                   -- only what was sent to these issuers; NULL means all
    reason         text NOT NULL DEFAULT '',
    opened_by      text NOT NULL DEFAULT session_user,
    opened_at      timestamptz NOT NULL DEFAULT now()
);

-- The run with the right amounts; a later one replaces it, and with it every plan made before.
CREATE TABLE incident_correction (
    correction_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident_id   text COLLATE "C" NOT NULL REFERENCES incident,
    corrected_run text NOT NULL REFERENCES run,
    person        text NOT NULL DEFAULT session_user,
    recorded_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE incident_closing (
    incident_id text COLLATE "C" PRIMARY KEY REFERENCES incident,
    proof       jsonb NOT NULL,
    person      text NOT NULL DEFAULT session_user,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- While an incident is open, everything in its cohort is on hold: no other run may charge it.
CREATE VIEW incident_hold AS
    SELECT incident_id, billing_period, charge_scope, issuers FROM incident i
    WHERE NOT EXISTS (SELECT FROM incident_closing c WHERE c.incident_id = i.incident_id);

-- A signed thing: its lines lie in a file whose content has this digest. `total_minor` and `operation_count` are what an
-- approver agrees to: every reversal and every rebill.
CREATE TABLE plan (
    plan_digest     text COLLATE "C" PRIMARY KEY CHECK (plan_digest ~ '^[0-9a-f]{64}$'),
    incident_id     text COLLATE "C" NOT NULL REFERENCES incident,
    corrected_run   text NOT NULL REFERENCES run,
    successor_of    text COLLATE "C" REFERENCES plan,
    file            text NOT NULL,
    reversal_first  date NOT NULL,
    reversal_last   date NOT NULL CHECK (reversal_first <= reversal_last),
    rebill_first    date NOT NULL CHECK (reversal_first <= rebill_first),
    rebill_last     date NOT NULL CHECK (rebill_first <= rebill_last),
    operation_count bigint NOT NULL,
    total_minor     bigint NOT NULL,
    summary         jsonb NOT NULL,          -- count and amount per action, reason, issuer and payment method
    requested_by    text NOT NULL DEFAULT session_user,
    channel         text NOT NULL DEFAULT 'database',
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    plan_number     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    UNIQUE (plan_digest, operation_count, total_minor, requested_by)
);

-- Lines of a plan that are not plainly undone and rebilled, by name: what is open, and why.
CREATE TABLE plan_exception (
    plan_digest    text COLLATE "C" NOT NULL REFERENCES plan,
    customer_id    text COLLATE "C" NOT NULL,
    billing_period text COLLATE "C" NOT NULL,
    bill_cycle     bigint NOT NULL,
    occurrence     integer NOT NULL,
    reversal       text NOT NULL CHECK (reversal IN ('void', 'refund', 'none', 'wait', 'manual')),
    rebill         text NOT NULL CHECK (rebill IN ('rebill', 'hold', 'no_rebill')),
    reason         text NOT NULL,
    wrong_minor    bigint,
    correct_minor  bigint,
    PRIMARY KEY (plan_digest, customer_id, billing_period, bill_cycle, occurrence)
);
CREATE INDEX plan_exception_by_customer ON plan_exception (customer_id);

-- Bound to digest, count, total and requester by the foreign key; single use by the primary key; two people by the check.
CREATE TABLE approval (
    plan_digest     text COLLATE "C" PRIMARY KEY,
    operation_count bigint NOT NULL,
    total_minor     bigint NOT NULL,
    requested_by    text NOT NULL,
    approver        text NOT NULL DEFAULT session_user,
    channel         text NOT NULL DEFAULT 'database',
    expires_at      timestamptz NOT NULL,
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT nobody_approves_their_own_plan CHECK (approver <> requested_by),
    FOREIGN KEY (plan_digest, operation_count, total_minor, requested_by)
        REFERENCES plan (plan_digest, operation_count, total_minor, requested_by)
);

CREATE TABLE plan_rejection (
    plan_digest text COLLATE "C" PRIMARY KEY REFERENCES plan,
    person      text NOT NULL DEFAULT session_user,
    channel     text NOT NULL DEFAULT 'database',
    reason      text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- Where live state made us do other than planned, once and by name.
CREATE TABLE deviation (
    incident_id    text COLLATE "C" NOT NULL REFERENCES incident,
    original_id    uuid NOT NULL,            -- the wrong charge's operation
    kind           text NOT NULL CHECK (kind IN ('void_became_refund', 'shrunk', 'already_returned', 'expired', 'disputed',
                                                 'charge_was_declined', 'still_unknown', 'refund_returned')),
    amount_minor   bigint NOT NULL CHECK (amount_minor >= 0),  -- what we do not move because of it
    detail         text NOT NULL DEFAULT '',
    recorded_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (original_id, kind)
);

-- A message that was handed to a channel: one per incident, customer and step, whatever the number of operations.
CREATE TABLE notice (
    incident_id  text COLLATE "C" NOT NULL,
    customer_id  text COLLATE "C" NOT NULL,
    step         text COLLATE "C" NOT NULL,
    operation_id uuid NOT NULL,
    channel      text NOT NULL,
    receipt      text NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (incident_id, customer_id, step)
);

-- The outbox: an outcome of an incident's operation is, from the transaction that recorded it, a message due - until a
-- receipt says that it went. No message can be lost, or speak of what is not so: a refused void or refund says nothing,
-- because nothing has come of it yet; an approval that expired by itself is, for the customer, one that was voided.
-- One branch per step, so that asking for a step looks at its operations alone.
CREATE VIEW notice_due AS
    SELECT d.*
    FROM (SELECT o.incident_id, o.customer_id, o.kind AS step, o.operation_id, o.amount_minor, o.currency, c.reason, NULL::date AS effective_on
          FROM operation o JOIN outcome c USING (operation_id)
          WHERE o.kind IN ('void', 'refund') AND c.status = 'succeeded'
          UNION ALL
          SELECT v.incident_id, o.customer_id, 'void', o.operation_id, o.amount_minor, o.currency, NULL, NULL
          FROM deviation v JOIN operation o ON o.operation_id = v.original_id WHERE v.kind = 'expired'
          UNION ALL
          SELECT o.incident_id, o.customer_id, 'rebill', o.operation_id, o.amount_minor, o.currency, NULL, c.effective_on
          FROM operation o JOIN outcome c USING (operation_id)
          WHERE o.kind = 'rebill' AND c.status = 'succeeded' AND c.effective_on IS NOT NULL
          UNION ALL
          SELECT o.incident_id, o.customer_id, 'rebill_declined', o.operation_id, o.amount_minor, o.currency, c.reason, c.effective_on
          FROM operation o JOIN outcome c USING (operation_id)
          WHERE o.kind = 'rebill' AND c.status = 'declined' AND c.effective_on IS NOT NULL) d
    WHERE NOT EXISTS (SELECT FROM notice n
                      WHERE n.incident_id = d.incident_id AND n.customer_id = d.customer_id AND n.step = d.step);

CREATE TABLE settlement_file (
    sha256       text COLLATE "C" PRIMARY KEY,   -- the same file under another name is the same file
    name         text NOT NULL,
    batch_number bigint NOT NULL,
    row_count    bigint NOT NULL,
    debit_minor  numeric(38) NOT NULL,
    credit_minor numeric(38) NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now()
);

-- A line or an operation that does not match; `resolved` rows close it. Named, dated, never deleted.
CREATE TABLE settlement_break (
    break_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL CHECK (kind IN ('missing', 'extra', 'amount', 'sign', 'twice', 'undone_but_settled',
                                                'recharged_without_undo', 'state')),
    reference     text NOT NULL,             -- merchant or modification reference; never a token
    scope         text,
    amount_minor  bigint NOT NULL,
    since         date NOT NULL,             -- business day from which it ages
    detail        text NOT NULL DEFAULT '',
    recorded_at   timestamptz NOT NULL DEFAULT now()
);
-- Not unique: what was resolved may break again. That one break is open once is seen to by a lock (adapters/reconciliation.py).
CREATE INDEX settlement_break_by_reference ON settlement_break (reference, kind);
CREATE TABLE settlement_break_resolution (
    break_id    bigint PRIMARY KEY REFERENCES settlement_break,
    detail      text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE VIEW open_break AS
    SELECT b.* FROM settlement_break b
    WHERE NOT EXISTS (SELECT FROM settlement_break_resolution r WHERE r.break_id = b.break_id);

-- What a closed incident leaves behind: a run that the gate must hold from then on.
CREATE TABLE regression_case (
    incident_id text COLLATE "C" PRIMARY KEY REFERENCES incident,
    wrong_run   text NOT NULL,
    history     jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- People: whoever logged in, or the user whom Airflow authenticated and its service passes on.
CREATE FUNCTION requester_is_a_person() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_user = 'makegood_airflow' THEN
        IF NEW.requested_by = session_user THEN
            RAISE EXCEPTION 'a plan passed on by Airflow names the user who asked for it' USING ERRCODE = 'check_violation';
        END IF;
        NEW.channel := 'airflow';
    ELSIF session_user IN ('makegood_pipeline', 'makegood_owner') THEN
        RAISE EXCEPTION 'a service login asks for nothing; log in as a person' USING ERRCODE = 'check_violation';
    ELSE
        NEW.requested_by := session_user;
        NEW.channel := 'database';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER requester_is_a_person BEFORE INSERT ON plan FOR EACH ROW EXECUTE FUNCTION requester_is_a_person();

CREATE FUNCTION approver_is_a_person() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_user = 'makegood_airflow' THEN
        IF NEW.approver = session_user THEN
            RAISE EXCEPTION 'an approval passed on by Airflow names the user who gave it' USING ERRCODE = 'check_violation';
        END IF;
        NEW.channel := 'airflow';
    ELSIF session_user IN ('makegood_pipeline', 'makegood_owner') THEN
        RAISE EXCEPTION 'a service login approves nothing; log in as a person' USING ERRCODE = 'check_violation';
    ELSE
        NEW.approver := session_user;
        NEW.channel := 'database';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER approver_is_a_person BEFORE INSERT ON approval FOR EACH ROW EXECUTE FUNCTION approver_is_a_person();
CREATE TRIGGER person_is_the_session BEFORE INSERT ON plan_rejection FOR EACH ROW EXECUTE FUNCTION person_is_the_session();
CREATE TRIGGER person_is_the_session BEFORE INSERT ON incident_correction FOR EACH ROW EXECUTE FUNCTION person_is_the_session();
CREATE TRIGGER person_is_the_session BEFORE INSERT ON incident_closing FOR EACH ROW EXECUTE FUNCTION person_is_the_session();

GRANT SELECT ON ALL TABLES IN SCHEMA makegood
    TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT ON incident, incident_correction, incident_closing, deviation, notice, settlement_file, settlement_break,
    settlement_break_resolution, regression_case TO makegood_pipeline;
GRANT INSERT ON incident, incident_correction, plan, plan_exception, plan_rejection, incident_closing
    TO makegood_airflow, makegood_operator;
GRANT INSERT ON plan, plan_exception, plan_rejection, approval TO makegood_approver;
GRANT INSERT ON approval TO makegood_airflow;
