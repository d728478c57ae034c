-- People: who may stop and resume, what nobody may set, with what an incident closes, and a log of acts that nobody's transaction delays.

-- -- the kill switch ----------------------------------------------------------------------------------------------------

-- A stop stands until enough different people have lifted it, each under their own name. What the pipeline itself finds wrong with the
-- database takes two. Orders to resume are history: lifting is a row of its own.
ALTER TABLE sending_order
    ALTER COLUMN action SET DEFAULT 'stop',
    ADD COLUMN needs_people integer NOT NULL DEFAULT 1 CHECK (needs_people BETWEEN 1 AND 2),
    ADD CONSTRAINT only_stops CHECK (action = 'stop') NOT VALID;

CREATE TABLE sending_lift (
    order_id    bigint NOT NULL REFERENCES sending_order,
    person      text NOT NULL DEFAULT session_user,
    channel     text NOT NULL DEFAULT 'database',
    reason      text NOT NULL DEFAULT '',
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, person)
);

-- An order to resume lifted the stops before it: those of a lower number and of an earlier time, since a number could be made up.
INSERT INTO sending_lift (order_id, person, reason, recorded_at)
    SELECT DISTINCT ON (s.order_id) s.order_id, r.person, r.reason, r.recorded_at
    FROM sending_order s JOIN sending_order r ON r.action = 'resume' AND r.order_id > s.order_id AND r.recorded_at >= s.recorded_at
    WHERE s.action = 'stop' ORDER BY s.order_id, r.order_id DESC;

CREATE VIEW open_stop AS
    SELECT s.order_id, s.person, s.reason, s.recorded_at, s.needs_people, l.lifted_by
    FROM sending_order s CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(person ORDER BY recorded_at), '{}') AS lifted_by FROM sending_lift WHERE order_id = s.order_id) l
    WHERE s.action = 'stop' AND cardinality(l.lifted_by) < s.needs_people;

-- The pipeline's own stop; one for the same reason that nobody has lifted yet is enough. Returns its number.
CREATE FUNCTION order_stop(reason text, needs_people integer) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE number bigint;
BEGIN
    SELECT order_id INTO number FROM makegood.open_stop o
    WHERE o.reason = $1 AND o.needs_people >= $2 AND o.lifted_by = '{}' ORDER BY order_id LIMIT 1;
    IF number IS NULL THEN
        INSERT INTO makegood.sending_order (reason, needs_people) VALUES ($1, $2) RETURNING order_id INTO number;
    END IF;
    RETURN number;
END $$;
REVOKE ALL ON FUNCTION order_stop(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION order_stop(text, integer) TO makegood_pipeline;

-- -- who, and when ------------------------------------------------------------------------------------------------------

-- A person is whoever logged in, and an act is done when its row is written, however long ago the transaction began. Beside these
-- functions, the grants below keep everybody from naming person, channel, time or number; Airflow names the person it authenticated.
CREATE OR REPLACE FUNCTION person_is_the_login() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_user = 'makegood_airflow' THEN
        IF NEW.person = session_user THEN
            RAISE EXCEPTION 'a decision passed on by Airflow names the user who took it' USING ERRCODE = 'check_violation';
        END IF;
        NEW.channel := 'airflow';
    ELSIF session_user IN ('makegood_pipeline', 'makegood_owner') THEN
        RAISE EXCEPTION 'a service login decides nothing; log in as a person' USING ERRCODE = 'check_violation';
    ELSE
        NEW.person := session_user;
        NEW.channel := 'database';
    END IF;
    NEW.recorded_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION person_is_the_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_user <> 'makegood_airflow' THEN
        NEW.person := session_user;
    END IF;
    NEW.recorded_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION requester_is_a_person() RETURNS trigger LANGUAGE plpgsql AS $$
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
    NEW.recorded_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION approver_is_a_person() RETURNS trigger LANGUAGE plpgsql AS $$
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
    NEW.recorded_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE FUNCTION opener_is_the_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.opened_by := session_user;
    NEW.opened_at := clock_timestamp();
    RETURN NEW;
END $$;
CREATE TRIGGER opener_is_the_session BEFORE INSERT ON incident FOR EACH ROW EXECUTE FUNCTION opener_is_the_session();
CREATE TRIGGER person_is_the_login BEFORE INSERT ON sending_lift FOR EACH ROW EXECUTE FUNCTION person_is_the_login();
DROP TRIGGER person_is_the_session ON plan_rejection;
CREATE TRIGGER person_is_the_login BEFORE INSERT ON plan_rejection FOR EACH ROW EXECUTE FUNCTION person_is_the_login();

-- -- closing with proof -------------------------------------------------------------------------------------------------

-- What the pipeline has proven of an incident. No person may write one: it is computed from the source and the acquirer's book.
CREATE TABLE incident_proof (
    proof_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident_id text COLLATE "C" NOT NULL REFERENCES incident,
    proof       jsonb NOT NULL CHECK (num_nulls(proof ->> 'residual_minor', proof ->> 'open', proof ->> 'unexplained') = 0),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (proof_id, incident_id)
);
ALTER TABLE incident_closing
    ADD COLUMN proof_id bigint,
    ADD FOREIGN KEY (proof_id, incident_id) REFERENCES incident_proof (proof_id, incident_id);

-- Whoever closes says on which proof; what it says, and what the books say, decides whether that is possible. Planned for millions.
CREATE FUNCTION closes_with_proof() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off SET work_mem = '256MB' AS $$
DECLARE
    about  makegood.incident;
    proven makegood.incident_proof;
    stand  record;
BEGIN
    SELECT * INTO about FROM makegood.incident i WHERE i.incident_id = NEW.incident_id;
    SELECT * INTO proven FROM makegood.incident_proof p WHERE p.incident_id = NEW.incident_id ORDER BY proof_id DESC LIMIT 1;
    IF proven.proof_id IS NULL OR NEW.proof_id IS DISTINCT FROM proven.proof_id THEN
        RAISE EXCEPTION '% closes with the newest proof that the pipeline has made of it', NEW.incident_id USING ERRCODE = 'check_violation';
    END IF;
    IF (proven.proof ->> 'residual_minor')::numeric <> 0 OR (proven.proof ->> 'unexplained')::numeric <> 0 THEN
        RAISE EXCEPTION 'the proof of % leaves a residual', NEW.incident_id USING ERRCODE = 'check_violation';
    END IF;
    IF (proven.proof ->> 'open')::numeric <> 0 AND trim(coalesce(proven.proof ->> 'accepted_open', '')) = '' THEN
        RAISE EXCEPTION 'bills of % are open and nobody has accepted them', NEW.incident_id USING ERRCODE = 'check_violation';
    END IF;
    IF EXISTS (SELECT FROM makegood.open_break b WHERE b.scope IN (about.charge_scope, about.incident_id)
                                                    OR starts_with(b.scope, about.incident_id || '/')) THEN
        RAISE EXCEPTION 'breaks of % are open', NEW.incident_id USING ERRCODE = 'check_violation';
    END IF;
    SELECT count(*) FILTER (WHERE c.operation_id IS NULL) AS unanswered,
           count(*) FILTER (WHERE o.kind IN ('refund', 'rebill') AND c.status = 'succeeded' AND s.operation_id IS NULL) AS unsettled,
           count(*) FILTER (WHERE greatest(o.recorded_at, c.recorded_at) > proven.recorded_at) AS newer
    INTO stand
    FROM makegood.operation o
    LEFT JOIN makegood.outcome c ON c.operation_id = o.operation_id
    LEFT JOIN makegood.further_entry s ON s.operation_id = o.operation_id AND s.step = 'settled'
    WHERE o.incident_id = about.incident_id
       OR (o.kind = 'charge' AND o.scope = about.charge_scope AND (about.issuers IS NULL OR o.issuer = ANY (about.issuers)));
    IF stand.unanswered + stand.unsettled + stand.newer > 0 THEN
        RAISE EXCEPTION '% has % operations without an outcome, % without settlement, % later than the proof',
            NEW.incident_id, stand.unanswered, stand.unsettled, stand.newer USING ERRCODE = 'check_violation';
    END IF;
    NEW.proof := proven.proof;
    RETURN NEW;
END $$;
CREATE TRIGGER closes_with_proof BEFORE INSERT ON incident_closing FOR EACH ROW EXECUTE FUNCTION closes_with_proof();

-- -- the audit log ------------------------------------------------------------------------------------------------------

-- Acts are appended without looking at one another, so that nobody who leaves a transaction open delays anybody else; they are sealed
-- later, once committed, in a chain of its own. A row is written by this function alone, which sets who and when.
DROP TRIGGER seal ON audit;
DROP TRIGGER person_is_the_session ON audit;
DROP FUNCTION seal_audit();
DROP VIEW audit_break;

CREATE FUNCTION record_act(action text, subject text, detail jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF $1 !~ '^[a-z_]{1,40}$' OR length($2) NOT BETWEEN 1 AND 200 OR jsonb_typeof($3) <> 'object' OR length($3::text) > 100000 THEN
        RAISE EXCEPTION 'an act is a short word, its subject a name, its detail an object' USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO makegood.audit (person, action, subject, detail, recorded_at) VALUES (session_user, $1, $2, $3, clock_timestamp());
END $$;
REVOKE ALL ON FUNCTION record_act(text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_act(text, text, jsonb)
    TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;

CREATE TABLE audit_seal (
    seal_number bigint PRIMARY KEY,          -- the place in the chain, from 1, without a gap
    audit_id    bigint NOT NULL UNIQUE REFERENCES audit,
    seal        text NOT NULL
);
INSERT INTO audit_seal SELECT row_number() OVER (ORDER BY audit_id), audit_id, seal FROM audit;

-- The seal that follows `previous`. A row that came with its seal was sealed by the rule of its time.
CREATE FUNCTION seal_of_act(previous text, act audit) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN act.seal <> ''
        THEN makegood.seal_of(previous, act.person, act.action, act.subject, act.detail, act.recorded_at)
        ELSE encode(sha256(convert_to(jsonb_build_array(previous, act.audit_id, act.person, act.action, act.subject, act.detail,
                                                        extract(epoch FROM act.recorded_at))::text, 'UTF8')), 'hex') END
$$;

-- Seal what was committed and is not sealed yet. The table's lock is out of a reader's reach, and nobody but the pipeline calls this.
CREATE FUNCTION seal_acts() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number   bigint;
    previous text;
    act      makegood.audit;
BEGIN
    LOCK TABLE makegood.audit_seal IN SHARE ROW EXCLUSIVE MODE;
    SELECT seal_number, seal INTO number, previous FROM makegood.audit_seal ORDER BY seal_number DESC LIMIT 1;
    FOR act IN SELECT a.* FROM makegood.audit a
               WHERE NOT EXISTS (SELECT FROM makegood.audit_seal s WHERE s.audit_id = a.audit_id) ORDER BY a.audit_id LOOP
        number := coalesce(number, 0) + 1;
        previous := makegood.seal_of_act(coalesce(previous, ''), act);
        INSERT INTO makegood.audit_seal VALUES (number, act.audit_id, previous);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION seal_acts() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION seal_acts() TO makegood_pipeline;

-- The first act whose seal does not follow from the one before it; no row when the log is whole.
CREATE VIEW audit_break AS
    SELECT seal_number, audit_id
    FROM (SELECT s.seal_number, s.audit_id, s.seal, row_number() OVER chain AS place, a.audit_id IS NOT NULL AS is_there,
                 seal_of_act(coalesce(lag(s.seal) OVER chain, ''), a) AS due
          FROM audit_seal s LEFT JOIN audit a USING (audit_id) WINDOW chain AS (ORDER BY s.seal_number)) chained
    WHERE seal <> due OR seal_number <> place OR NOT is_there
    ORDER BY seal_number LIMIT 1;

-- Before this moment no row of the books can be added any more: rows carry the time at which their transaction began, or a later one, and
-- no open transaction of a login that may write them began before it. Readers do not count, or one could hold the moment back. Of a server
-- that does not let us see others' transactions, what is an hour old is taken to be settled.
CREATE FUNCTION settled_before() RETURNS timestamptz LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT least(now(), min(CASE WHEN a.state IS NULL THEN now() - interval '1 hour' ELSE a.xact_start END)) - interval '0.1 s'
    FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
      AND (r.rolname IN ('makegood_pipeline', 'makegood_airflow') OR pg_has_role(r.oid, 'makegood_operator', 'MEMBER')
           OR pg_has_role(r.oid, 'makegood_approver', 'MEMBER'))
$$;
REVOKE ALL ON FUNCTION settled_before() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION settled_before() TO makegood_pipeline;

-- Rows come in the order of time: a block index finds a day's at next to no cost for those who write them.
CREATE INDEX operation_by_time ON operation USING brin (recorded_at);
CREATE INDEX outcome_by_time ON outcome USING brin (recorded_at);
CREATE INDEX unanswered_by_time ON unanswered USING brin (recorded_at);
CREATE INDEX further_entry_by_time ON further_entry USING brin (recorded_at);
CREATE INDEX notice_by_time ON notice USING brin (recorded_at);

-- -- who may do what ----------------------------------------------------------------------------------------------------

-- Nobody may write a column that says who, when or which number; docs/privileges.md is the table of all this, and a test tries it.
REVOKE INSERT ON decision, review, incident, incident_correction, incident_closing, plan, plan_exception, plan_rejection, approval,
    sending_order, audit, declared_change, declared_change_approval, declared_change_withdrawal, finding_decision
    FROM makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;

GRANT INSERT (action, reason) ON sending_order TO makegood_pipeline, makegood_operator, makegood_approver;
GRANT INSERT (action, reason, person) ON sending_order TO makegood_airflow;
GRANT INSERT (order_id, reason) ON sending_lift TO makegood_operator, makegood_approver;
GRANT INSERT (order_id, reason, person) ON sending_lift TO makegood_airflow;

GRANT INSERT (run_id, kind, reason) ON decision TO makegood_operator, makegood_approver;
GRANT INSERT (run_id, kind, reason, person) ON decision TO makegood_airflow;
GRANT INSERT (run_id, comment) ON review TO makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT (run_id, comment, person) ON review TO makegood_airflow;
GRANT INSERT (kind, cohort, rule, first_period, last_period, percent, reason) ON declared_change
    TO makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT (change_id, requested_by) ON declared_change_approval TO makegood_approver;
GRANT INSERT (change_id, reason) ON declared_change_withdrawal TO makegood_operator, makegood_approver, makegood_analyst;
GRANT INSERT (run_id, rule, cohort, severity, kind, reason) ON finding_decision TO makegood_operator, makegood_approver, makegood_analyst;

GRANT INSERT (incident_id, billing_period, charge_scope, issuers, reason) ON incident TO makegood_pipeline, makegood_operator;
GRANT INSERT (incident_id, corrected_run) ON incident_correction TO makegood_pipeline, makegood_operator;
GRANT INSERT (incident_id, proof) ON incident_proof TO makegood_pipeline;
GRANT INSERT (incident_id, proof_id) ON incident_closing TO makegood_pipeline, makegood_operator;
GRANT INSERT (incident_id, proof_id, person) ON incident_closing TO makegood_airflow;

GRANT INSERT (plan_digest, incident_id, corrected_run, successor_of, file, reversal_first, reversal_last, rebill_first, rebill_last,
              operation_count, total_minor, summary) ON plan TO makegood_operator, makegood_approver;
GRANT INSERT (plan_digest, incident_id, corrected_run, successor_of, file, reversal_first, reversal_last, rebill_first, rebill_last,
              operation_count, total_minor, summary, requested_by) ON plan TO makegood_airflow;
GRANT INSERT ON plan_exception TO makegood_airflow, makegood_operator, makegood_approver;
GRANT INSERT (plan_digest, reason) ON plan_rejection TO makegood_operator, makegood_approver;
GRANT INSERT (plan_digest, reason, person) ON plan_rejection TO makegood_airflow;
GRANT INSERT (plan_digest, operation_count, total_minor, requested_by, expires_at) ON approval TO makegood_approver;
GRANT INSERT (plan_digest, operation_count, total_minor, requested_by, expires_at, approver) ON approval TO makegood_airflow;

-- An auditor reads everything, also what comes later, and writes nothing. A payment token is for the pipeline alone.
GRANT USAGE ON SCHEMA makegood TO makegood_auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA makegood TO makegood_auditor;
ALTER DEFAULT PRIVILEGES IN SCHEMA makegood GRANT SELECT ON TABLES TO makegood_auditor;
GRANT SELECT ON sending_lift, open_stop, incident_proof, audit_seal, audit_break
    TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;
DO $$
DECLARE
    relation text;
    columns  text;
    people   text := 'makegood_airflow, makegood_operator, makegood_approver, makegood_analyst, makegood_auditor';
BEGIN
    FOREACH relation IN ARRAY ARRAY['operation', 'operation_state'] LOOP
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
        WHERE attrelid = relation::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'instrument_token';
        EXECUTE format('REVOKE SELECT ON %I FROM %s', relation, people);
        EXECUTE format('GRANT SELECT (%s) ON %I TO %s', columns, relation, people);
    END LOOP;
    EXECUTE format('REVOKE SELECT ON mutex FROM %s', people);  -- names of locks are nobody's business
END $$;
