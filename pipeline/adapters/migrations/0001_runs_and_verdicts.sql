-- Runs, what the gate said of them, and what people decided. Rows are facts: inserted, never changed.

CREATE TABLE run (
    run_id              text PRIMARY KEY CHECK (run_id ~ '^[0-9]{4}-[0-9]{2}-[0-9a-f]{12}$'),
    billing_period      text NOT NULL,
    source              text NOT NULL,
    content_sha256      text NOT NULL,
    row_count           bigint NOT NULL,
    control_total_minor numeric(38) NOT NULL,
    files               jsonb NOT NULL,
    landed_at           timestamptz NOT NULL,
    recorded_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX run_by_period ON run (billing_period);

-- A verification is a run under a suite against a history. One hold among them holds the run.
CREATE TABLE verification (
    verification_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id          text NOT NULL REFERENCES run,
    suite_digest    text NOT NULL,
    history_digest  text NOT NULL,
    decision        text NOT NULL CHECK (decision IN ('release', 'hold')),
    findings        jsonb NOT NULL,
    not_judged      jsonb NOT NULL,
    report          text NOT NULL,
    verified_at     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (run_id, suite_digest, history_digest)
);

CREATE TABLE review (
    review_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id      text NOT NULL REFERENCES run,
    person      text NOT NULL DEFAULT session_user,
    comment     text NOT NULL CHECK (length(trim(comment)) > 0),
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- One row is one person's word; `decided_run` below is what two of them amount to.
CREATE TABLE decision (
    run_id      text NOT NULL REFERENCES run,
    kind        text NOT NULL CHECK (kind IN ('release', 'reject')),
    person      text NOT NULL DEFAULT session_user,
    channel     text NOT NULL DEFAULT 'database' CHECK (channel IN ('database', 'airflow')),
    reason      text NOT NULL CHECK (length(trim(reason)) > 0),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, kind, person)
);

CREATE VIEW decided_run AS
    SELECT run_id,
           count(*) FILTER (WHERE kind = 'release') AS releasers,
           count(*) FILTER (WHERE kind = 'reject') AS rejecters
    FROM decision
    GROUP BY run_id;

-- The kill switch: the newest order rules.
CREATE TABLE sending_order (
    order_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action      text NOT NULL CHECK (action IN ('stop', 'resume')),
    person      text NOT NULL DEFAULT session_user,
    reason      text NOT NULL DEFAULT '',
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- Who did what, each row sealed by the one before it: a removed or altered row breaks the chain.
CREATE TABLE audit (
    audit_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person      text NOT NULL DEFAULT session_user,
    action      text NOT NULL,
    subject     text NOT NULL,
    detail      jsonb NOT NULL DEFAULT '{}',
    recorded_at timestamptz NOT NULL DEFAULT now(),
    seal        text NOT NULL DEFAULT ''
);

CREATE FUNCTION seal_of(previous text, person text, action text, subject text, detail jsonb, recorded_at timestamptz)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(sha256(convert_to(concat_ws(E'\x1f', previous, person, action, subject, detail::text,
                                              extract(epoch FROM recorded_at)::text), 'UTF8')), 'hex')
$$;

CREATE FUNCTION seal_audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE previous text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('makegood.audit'));
    SELECT seal INTO previous FROM makegood.audit ORDER BY audit_id DESC LIMIT 1;
    NEW.seal := makegood.seal_of(coalesce(previous, ''), NEW.person, NEW.action, NEW.subject, NEW.detail, NEW.recorded_at);
    RETURN NEW;
END $$;
CREATE TRIGGER seal BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION seal_audit();

-- The id of the first audit row whose seal does not follow from the one before it; no row when the log is whole.
CREATE VIEW audit_break AS
    SELECT min(audit_id) AS audit_id
    FROM (SELECT audit_id, seal,
                 seal_of(coalesce(lag(seal) OVER (ORDER BY audit_id), ''), person, action, subject, detail, recorded_at) AS due
          FROM audit) chained
    WHERE seal <> due
    HAVING count(*) > 0;

-- A person is whoever logged in. Only the Airflow service login may pass on a name, that of a user whom Airflow
-- authenticated; the pipeline's own login can decide nothing.
CREATE FUNCTION person_is_the_login() RETURNS trigger LANGUAGE plpgsql AS $$
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
    RETURN NEW;
END $$;
CREATE TRIGGER person_is_the_login BEFORE INSERT ON decision FOR EACH ROW EXECUTE FUNCTION person_is_the_login();

CREATE FUNCTION person_is_the_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF session_user <> 'makegood_airflow' THEN
        NEW.person := session_user;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER person_is_the_session BEFORE INSERT ON review FOR EACH ROW EXECUTE FUNCTION person_is_the_session();
CREATE TRIGGER person_is_the_session BEFORE INSERT ON sending_order FOR EACH ROW EXECUTE FUNCTION person_is_the_session();
CREATE TRIGGER person_is_the_session BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION person_is_the_session();
