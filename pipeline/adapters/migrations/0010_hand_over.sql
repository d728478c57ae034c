-- One sender at a time, and one door through which money leaves: `hand_over`. What the pipeline's code forgets, this refuses.

-- Locks that a reader cannot take: a row that only the function below locks, until its caller's transaction ends.
CREATE TABLE mutex (name text COLLATE "C" PRIMARY KEY);
CREATE FUNCTION take_mutex(p_name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
BEGIN
    INSERT INTO mutex (name) VALUES (p_name) ON CONFLICT DO NOTHING;
    PERFORM FROM mutex WHERE name = p_name FOR UPDATE;
END $$;

-- The only row that changes: whose turn it is to send. It holds no money; who lost it can record nothing more.
CREATE TABLE sender (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    epoch  bigint NOT NULL
);
INSERT INTO sender (epoch) VALUES (0);

-- A file's number counts per rail; `staged_path` is moved once, by whoever comes first: to the acquirer, or out of its reach.
ALTER TABLE batch
    ADD COLUMN rail text,
    ADD COLUMN staged_path text,
    ADD COLUMN header text,
    ADD COLUMN epoch bigint;
CREATE INDEX batch_by_sequence ON batch (file_sequence);
ALTER TABLE batch_event
    DROP CONSTRAINT batch_event_event_check,
    ADD CONSTRAINT batch_event_event_check
        CHECK (event IN ('handed_over', 'rejected', 'answered', 'timed_out', 'withdrawn', 'damaged', 'reentered'));

-- Files that may still move money, or have: neither refused whole nor withdrawn.
CREATE VIEW live_batch AS
    SELECT b.*, EXISTS (SELECT FROM batch_event e WHERE e.batch_id = b.batch_id AND e.event = 'handed_over') AS handed_over,
           EXISTS (SELECT FROM batch_event e WHERE e.batch_id = b.batch_id AND e.event = 'answered') AS answered
    FROM batch b
    WHERE NOT EXISTS (SELECT FROM batch_event e WHERE e.batch_id = b.batch_id AND e.event IN ('rejected', 'withdrawn'));

CREATE OR REPLACE VIEW wave_state AS
    SELECT b.batch_id, b.scope, b.wave, b.file_sequence, b.file_path, b.sha256, b.operation_count, b.total_minor,
           bool_or(e.event = 'handed_over') IS TRUE AS handed_over,
           bool_or(e.event IN ('rejected', 'withdrawn')) IS TRUE AS rejected,
           bool_or(e.event = 'answered') IS TRUE AS answered,
           b.rail, b.staged_path, b.header
    FROM batch b LEFT JOIN batch_event e USING (batch_id)
    GROUP BY b.batch_id;

-- A wave that will never go out: its operations were ended, each with the outcome `withdrawn`.
CREATE TABLE wave_end (
    scope       text COLLATE "C" NOT NULL,
    wave        integer NOT NULL,
    reason      text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, wave)
);
INSERT INTO wave_end (scope, wave, reason)
    SELECT DISTINCT o.scope, o.wave, 'withdrawn before' FROM outcome c JOIN operation o USING (operation_id)
    WHERE c.status = 'declined' AND c.reason = 'withdrawn';

-- -- taking a turn ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION require_epoch(p_epoch bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
BEGIN
    PERFORM FROM sender WHERE epoch = p_epoch FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another sender has taken over; this one records nothing more' USING ERRCODE = 'MG001';
    END IF;
END $$;

CREATE FUNCTION last_sequence(p_rail text) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
    SELECT coalesce(max(b.file_sequence), 0) FROM live_batch b WHERE b.handed_over AND coalesce(b.rail, p_rail) = p_rail
$$;

-- Returns the new epoch, and whether this database is behind what the rail, or the note beside it, knows to have gone out.
CREATE FUNCTION begin_sending(p_rail text, p_epoch bigint, p_sequence bigint, p_accepted bigint, OUT epoch bigint, OUT is_behind boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE before bigint;
BEGIN
    SELECT s.epoch INTO before FROM sender s FOR NO KEY UPDATE;
    -- What was noted may have been taken back since; what the acquirer has accepted was not, and it takes every number once.
    is_behind := p_epoch > before OR p_accepted > (
        SELECT count(DISTINCT b.file_sequence) FROM live_batch b
        WHERE b.handed_over AND coalesce(b.rail, p_rail) = p_rail AND b.file_sequence <= p_accepted) OR p_sequence > (
        SELECT coalesce(max(b.file_sequence), 0) FROM batch b JOIN batch_event e USING (batch_id)
        WHERE e.event = 'handed_over' AND coalesce(b.rail, p_rail) = p_rail);
    UPDATE sender s SET epoch = greatest(s.epoch, p_epoch) + 1 RETURNING s.epoch INTO epoch;
END $$;

-- -- the life of a file ----------------------------------------------------------------------------------------------------

-- A wave's file, written and staged. One file a wave, one wave a number.
CREATE FUNCTION record_batch(
    p_epoch bigint, p_rail text, p_scope text, p_wave integer, p_sequence bigint, p_path text, p_staged text, p_header text,
    p_sha256 text, p_count bigint, p_total numeric
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE recorded bigint;
BEGIN
    PERFORM require_epoch(p_epoch);
    PERFORM take_mutex('batch');
    IF EXISTS (SELECT FROM live_batch WHERE scope = p_scope AND wave = p_wave) THEN
        RAISE EXCEPTION 'wave % of % has a file already', p_wave, p_scope USING ERRCODE = 'MG005';
    END IF;
    IF EXISTS (SELECT FROM live_batch WHERE file_sequence = p_sequence AND coalesce(rail, p_rail) = p_rail) THEN
        RAISE EXCEPTION 'file number % is another file''s', p_sequence USING ERRCODE = 'MG005';
    END IF;
    IF EXISTS (SELECT FROM wave_end WHERE scope = p_scope AND wave = p_wave) THEN
        RAISE EXCEPTION 'wave % of % was ended', p_wave, p_scope USING ERRCODE = 'MG005';
    END IF;
    INSERT INTO batch (scope, wave, file_sequence, file_path, staged_path, header, sha256, operation_count, total_minor, rail, epoch)
        VALUES (p_scope, p_wave, p_sequence, p_path, p_staged, p_header, p_sha256, p_count, p_total, p_rail, p_epoch)
        RETURNING batch_id INTO recorded;
    RETURN recorded;
END $$;

-- Why a run may not be charged now, whatever the code above says; NULL where it may.
CREATE FUNCTION run_refusal(p_scope text, p_wave integer) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE
    period text;
    holding text;
BEGIN
    SELECT billing_period INTO period FROM run WHERE run_id = p_scope;
    IF period IS NULL THEN
        RETURN 'no such run has landed here';
    END IF;
    SELECT i.incident_id INTO holding FROM incident i
        WHERE i.charge_scope = p_scope
           OR i.billing_period = period
              AND NOT EXISTS (SELECT FROM incident_closing c WHERE c.incident_id = i.incident_id)
              AND (i.issuers IS NULL OR EXISTS (
                SELECT FROM operation o WHERE o.scope = p_scope AND o.wave = p_wave AND o.issuer = ANY (i.issuers)))
        LIMIT 1;
    IF holding IS NOT NULL THEN
        RETURN format('%s holds its bills', holding);
    END IF;
    IF EXISTS (SELECT FROM decision WHERE run_id = p_scope AND kind = 'reject') THEN
        RETURN 'it was rejected';
    END IF;
    IF (SELECT count(DISTINCT person) FROM decision WHERE run_id = p_scope AND kind = 'release') >= 2
       OR (EXISTS (SELECT FROM verification WHERE run_id = p_scope AND decision = 'release')
           AND NOT EXISTS (SELECT FROM verification WHERE run_id = p_scope AND decision = 'hold')) THEN
        RETURN NULL;
    END IF;
    RETURN 'neither the gate nor two people have released it';
END $$;

-- Why a step of a plan may not be carried out now; NULL where it may. `p_at` is the instant that windows are held against.
CREATE FUNCTION plan_refusal(p_scope text, p_at timestamptz, p_timezone text, OUT refusal text, OUT is_outside_window boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE
    incident text := split_part(p_scope, '/', 1);
    step text := split_part(p_scope, '/', 3);
    agreed record;
    today date := (p_at AT TIME ZONE p_timezone)::date;
BEGIN
    is_outside_window := false;
    SELECT p.*, a.expires_at, r.person AS rejected_by,
           p.plan_number = (SELECT max(q.plan_number) FROM plan q WHERE q.incident_id = incident) AS is_newest,
           p.corrected_run = (SELECT n.corrected_run FROM incident_correction n WHERE n.incident_id = incident
                              ORDER BY n.correction_id DESC LIMIT 1) AS is_current
        INTO agreed
        FROM plan p LEFT JOIN approval a USING (plan_digest) LEFT JOIN plan_rejection r USING (plan_digest)
        WHERE p.incident_id = incident AND left(p.plan_digest, 12) = split_part(p_scope, '/', 2);
    refusal := CASE
        WHEN agreed.plan_digest IS NULL THEN 'there is no such plan'
        WHEN agreed.rejected_by IS NOT NULL THEN format('it was rejected by %s', agreed.rejected_by)
        WHEN agreed.expires_at IS NULL THEN 'nobody has approved it'
        WHEN agreed.expires_at <= p_at THEN 'its approval has expired'
        WHEN NOT agreed.is_newest THEN 'a newer plan has replaced it'
        WHEN NOT agreed.is_current THEN 'another run corrects the incident now'
        WHEN EXISTS (SELECT FROM incident_closing c WHERE c.incident_id = incident) THEN 'the incident is closed'
    END;
    IF refusal IS NULL AND NOT (CASE step
            WHEN 'rebill' THEN today BETWEEN agreed.rebill_first AND agreed.rebill_last
            ELSE today BETWEEN agreed.reversal_first AND agreed.reversal_last END) THEN
        is_outside_window := true;
        refusal := format('it is %s, outside its window', today);
    END IF;
END $$;

-- The one door. Everything that lets money leave is asked here, in the transaction that records it: whose turn it is, stop orders, holds,
-- approval, window, and whether the file is of just the operations that the wave has. Errors: MG001 not this sender's turn, MG002 stopped,
-- MG003 not allowed, MG004 outside its window, MG005 the file is not what the wave says.
CREATE FUNCTION hand_over(p_epoch bigint, p_batch bigint, p_as_of timestamptz, p_timezone text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE
    file record;
    said record;
    planned record;
    refusal text;
    is_late boolean := false;
    step text;
BEGIN
    PERFORM FROM sender WHERE epoch = p_epoch FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another sender has taken over; this one hands nothing over' USING ERRCODE = 'MG001';
    END IF;
    SELECT * INTO file FROM live_batch WHERE batch_id = p_batch;
    IF file.batch_id IS NULL OR file.handed_over OR file.epoch IS DISTINCT FROM p_epoch THEN
        RAISE EXCEPTION 'the file is not one that this sender may hand over' USING ERRCODE = 'MG005';
    END IF;
    SELECT format('sending was stopped by %s at %s UTC%s; `makegood resume` lifts it', person,
                  to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), CASE reason WHEN '' THEN '' ELSE format(' (%s)', reason) END)
        INTO refusal FROM open_stop ORDER BY order_id DESC LIMIT 1;
    IF refusal IS NOT NULL THEN
        RAISE EXCEPTION '%: %', file.scope, refusal USING ERRCODE = 'MG002';
    END IF;
    IF file.scope LIKE '%/%/%' THEN
        step := split_part(file.scope, '/', 3);
        SELECT * INTO planned FROM plan_refusal(file.scope, coalesce(p_as_of, clock_timestamp()), p_timezone);
        refusal := planned.refusal;
        is_late := planned.is_outside_window;
    ELSE
        refusal := run_refusal(file.scope, file.wave);
    END IF;
    IF is_late THEN
        RAISE EXCEPTION '%: %', file.scope, refusal USING ERRCODE = 'MG004';
    ELSIF refusal IS NOT NULL THEN
        RAISE EXCEPTION '%: nothing more may be sent: %', file.scope, refusal USING ERRCODE = 'MG003';
    END IF;
    SELECT count(*) AS operations, coalesce(sum(amount_minor), 0) AS total,
           count(*) FILTER (WHERE kind <> CASE step WHEN 'cancel' THEN 'void' WHEN 'refund' THEN 'refund' WHEN 'rebill' THEN 'rebill'
                                          ELSE 'charge' END
                               OR incident_id IS DISTINCT FROM CASE WHEN step IS NOT NULL THEN split_part(file.scope, '/', 1) END
                               OR (step IS NULL AND occurrence > 1)) AS strangers
        INTO said FROM operation WHERE scope = file.scope AND wave = file.wave;
    IF said.operations <> file.operation_count OR said.total <> file.total_minor OR said.strangers > 0
       OR EXISTS (SELECT FROM wave_end WHERE scope = file.scope AND wave = file.wave) THEN
        RAISE EXCEPTION 'wave % of % is % operations of % in all (% of another kind), its file is % of %', file.wave, file.scope,
            said.operations, said.total, said.strangers, file.operation_count, file.total_minor USING ERRCODE = 'MG005';
    END IF;
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);  -- what was handed over is never forgotten
    END IF;
    INSERT INTO batch_event (batch_id, event) VALUES (p_batch, 'handed_over');
END $$;

-- What became of a file otherwise. `withdrawn`: the caller has moved it out of the acquirer's reach, or it was never handed over.
CREATE FUNCTION record_event(p_epoch bigint, p_batch bigint, p_event text, p_detail text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE file record;
BEGIN
    PERFORM require_epoch(p_epoch);
    SELECT * INTO file FROM live_batch WHERE batch_id = p_batch;
    IF p_event = 'answered' AND file.answered THEN
        RETURN false;
    END IF;
    IF file.batch_id IS NULL OR NOT (CASE p_event
            WHEN 'answered' THEN file.handed_over
            WHEN 'rejected' THEN file.handed_over AND NOT file.answered
            WHEN 'withdrawn' THEN NOT file.answered
            WHEN 'damaged' THEN file.handed_over ELSE false END) THEN
        RAISE EXCEPTION 'a file cannot be % as it stands', p_event USING ERRCODE = 'MG005';
    END IF;
    INSERT INTO batch_event (batch_id, event, detail) VALUES (p_batch, p_event, p_detail) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$;

-- End intents of these scopes - of all waves, or some - that are in no file that may move money: what is due is decided anew. Returns
-- their number.
CREATE FUNCTION end_unsent(p_epoch bigint, p_scopes text[], p_reason text, p_waves integer[] DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE ended bigint;
BEGIN
    PERFORM require_epoch(p_epoch);
    PERFORM take_mutex('batch');
    INSERT INTO wave_end (scope, wave, reason)
        SELECT DISTINCT o.scope, o.wave, p_reason FROM operation o
        WHERE o.scope = ANY (p_scopes) AND o.scope NOT LIKE 'import-%' AND (p_waves IS NULL OR o.wave = ANY (p_waves))
          AND NOT EXISTS (SELECT FROM live_batch b WHERE b.scope = o.scope AND b.wave = o.wave)
        ON CONFLICT DO NOTHING;
    INSERT INTO outcome (operation_id, status, reason)
        SELECT o.operation_id, 'declined', 'withdrawn' FROM wave_end w JOIN operation o USING (scope, wave)
        WHERE w.scope = ANY (p_scopes) AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = o.operation_id);
    GET DIAGNOSTICS ended = ROW_COUNT;
    RETURN ended;
END $$;

-- -- leading out of what no code foresees: only while two people have to let sending go on --------------------------------------

CREATE FUNCTION require_stop_of_two() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM open_stop WHERE needs_people >= 2) THEN
        RAISE EXCEPTION 'the books are repaired only while sending is stopped until two people resume it' USING ERRCODE = 'MG003';
    END IF;
END $$;

-- A file that went out and that this database knows nothing of, or only up to the moment before: it was restored from a backup, or
-- promoted late.
CREATE FUNCTION reenter_batch(
    p_epoch bigint, p_rail text, p_scope text, p_wave integer, p_sequence bigint, p_path text, p_header text, p_sha256 text
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE recorded bigint;
BEGIN
    PERFORM require_stop_of_two();
    SELECT batch_id INTO recorded FROM live_batch WHERE scope = p_scope AND wave = p_wave AND header = p_header AND NOT handed_over;
    IF recorded IS NOT NULL THEN
        PERFORM require_epoch(p_epoch);
        INSERT INTO batch_event (batch_id, event) VALUES (recorded, 'handed_over'), (recorded, 'reentered');
        RETURN recorded;
    END IF;
    SELECT record_batch(p_epoch, p_rail, p_scope, p_wave, p_sequence, p_path, NULL, p_header, p_sha256, count(*), sum(amount_minor))
        INTO recorded FROM operation WHERE scope = p_scope AND wave = p_wave;
    INSERT INTO batch_event (batch_id, event) VALUES (recorded, 'handed_over'), (recorded, 'reentered');
    RETURN recorded;
END $$;

-- A file that was handed over and that the acquirer never had. Where its operations were called unknown, each has come to `never_received`
-- before this is called; else its wave is sent anew.
CREATE FUNCTION declare_lost(p_epoch bigint, p_batch bigint, p_detail text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
DECLARE file record;
BEGIN
    PERFORM require_epoch(p_epoch);
    PERFORM require_stop_of_two();
    SELECT * INTO file FROM live_batch WHERE batch_id = p_batch AND handed_over;
    IF file.batch_id IS NULL THEN
        RAISE EXCEPTION 'that file was not handed over' USING ERRCODE = 'MG005';
    END IF;
    IF file.answered THEN
        IF EXISTS (SELECT FROM operation o LEFT JOIN outcome c USING (operation_id)
                   WHERE o.scope = file.scope AND o.wave = file.wave AND c.reason IS DISTINCT FROM 'never_received') THEN
            RAISE EXCEPTION 'of that file something was heard' USING ERRCODE = 'MG005';
        END IF;
        INSERT INTO wave_end (scope, wave, reason) VALUES (file.scope, file.wave, p_detail) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO batch_event (batch_id, event, detail) VALUES (p_batch, 'withdrawn', p_detail);
END $$;

-- -- what may be written ---------------------------------------------------------------------------------------------------

-- An outcome follows a hand-over; `withdrawn` follows the end of its wave. What another system charged was never ours to hand over.
CREATE FUNCTION outcome_follows_a_hand_over() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    offender record;
BEGIN
    SELECT touched.scope, touched.wave INTO offender
    FROM (SELECT o.scope, o.wave, i.reason IS NOT DISTINCT FROM 'withdrawn' AS is_withdrawn
          FROM inserted i LEFT JOIN makegood.operation o ON o.operation_id = i.operation_id GROUP BY 1, 2, 3) touched
    WHERE touched.scope IS NULL OR (touched.scope NOT LIKE 'import-%' AND NOT CASE WHEN touched.is_withdrawn
        THEN EXISTS (SELECT FROM makegood.wave_end w WHERE w.scope = touched.scope AND w.wave = touched.wave)
        ELSE EXISTS (SELECT FROM makegood.live_batch b WHERE b.scope = touched.scope AND b.wave = touched.wave AND b.handed_over) END)
    LIMIT 1;
    IF FOUND AND offender.scope IS NULL THEN
        RAISE EXCEPTION '% names an operation that does not exist', TG_TABLE_NAME USING ERRCODE = 'foreign_key_violation';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'an outcome in wave % of %, which was not handed over', offender.wave, offender.scope USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER belongs_to_an_operation ON outcome;
CREATE TRIGGER follows_a_hand_over AFTER INSERT ON outcome
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION outcome_follows_a_hand_over();

CREATE FUNCTION unanswered_follows_a_hand_over() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    IF EXISTS (SELECT FROM (SELECT o.scope, o.wave FROM inserted i LEFT JOIN makegood.operation o USING (operation_id) GROUP BY 1, 2) touched
               WHERE NOT EXISTS (SELECT FROM makegood.live_batch b WHERE b.scope = touched.scope AND b.wave = touched.wave AND b.handed_over)) THEN
        RAISE EXCEPTION 'an operation is unknown only after it was handed over' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER belongs_to_an_operation ON unanswered;
CREATE TRIGGER follows_a_hand_over AFTER INSERT ON unanswered
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION unanswered_follows_a_hand_over();

-- One charge and one rebill of a bill, whatever the attempt says, unless every other attempt has definitely failed. One transaction at a time
-- looks, so that no two can miss each other; it looks when its rows are in, so that they are copied side by side.
CREATE FUNCTION attempts_follow_failures() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    IF EXISTS (SELECT FROM inserted WHERE attempt > 1 OR original_id IS NOT NULL) THEN
        PERFORM makegood.take_mutex('ceilings');
    END IF;
    IF EXISTS (SELECT FROM inserted i JOIN makegood.operation p ON p.customer_id = i.customer_id AND p.billing_period = i.billing_period
                   AND p.bill_cycle = i.bill_cycle AND p.kind = i.kind AND p.incident_id IS NOT DISTINCT FROM i.incident_id
                   AND p.occurrence = i.occurrence AND p.operation_id <> i.operation_id
               WHERE i.attempt > 1 AND i.kind IN ('charge', 'rebill')
                 AND NOT EXISTS (SELECT FROM makegood.outcome c WHERE c.operation_id = p.operation_id AND c.status = 'declined')) THEN
        RAISE EXCEPTION 'a bill is charged again only after every attempt before has failed' USING ERRCODE = 'check_violation';
    END IF;
    IF EXISTS (SELECT FROM inserted i JOIN makegood.operation p ON p.customer_id = i.customer_id AND p.billing_period = i.billing_period
                   AND p.bill_cycle = i.bill_cycle AND p.kind = 'rebill'
               WHERE i.attempt > 1 AND i.kind = 'charge'
                 AND NOT EXISTS (SELECT FROM makegood.outcome c WHERE c.operation_id = p.operation_id AND c.status = 'declined')) THEN
        RAISE EXCEPTION 'an incident has charged the bill already' USING ERRCODE = 'check_violation';
    END IF;
    IF EXISTS (SELECT FROM inserted WHERE scope LIKE 'import-%' AND kind <> 'charge') THEN
        RAISE EXCEPTION 'only charges are imported' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
-- Triggers of one event go by name: this one has the lock before the ceiling of reversals is looked at.
CREATE TRIGGER attempts_follow_failures AFTER INSERT ON operation
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION attempts_follow_failures();

-- An incident stands before or after each hand-over, never beside one: after it, nothing of its cohort leaves any more.
CREATE FUNCTION holds_wait_for_hand_overs() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = makegood, pg_temp AS $$
BEGIN
    PERFORM FROM sender FOR NO KEY UPDATE;
    RETURN NULL;
END $$;
CREATE TRIGGER waits_for_hand_overs AFTER INSERT ON incident FOR EACH STATEMENT EXECUTE FUNCTION holds_wait_for_hand_overs();
CREATE TRIGGER waits_for_hand_overs AFTER INSERT ON plan_rejection FOR EACH STATEMENT EXECUTE FUNCTION holds_wait_for_hand_overs();
CREATE TRIGGER waits_for_hand_overs AFTER INSERT ON decision FOR EACH STATEMENT EXECUTE FUNCTION holds_wait_for_hand_overs();

-- -- who may -------------------------------------------------------------------------------------------------------------

REVOKE INSERT ON batch, batch_event FROM makegood_pipeline;
REVOKE EXECUTE ON FUNCTION take_mutex, require_epoch, last_sequence, begin_sending, record_batch, run_refusal, plan_refusal, hand_over,
    record_event, end_unsent, require_stop_of_two, reenter_batch, declare_lost FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_mutex TO makegood_pipeline, makegood_operator, makegood_approver, makegood_airflow;
GRANT EXECUTE ON FUNCTION require_epoch, last_sequence, begin_sending, record_batch, hand_over, record_event, end_unsent, reenter_batch, declare_lost
    TO makegood_pipeline;
GRANT SELECT ON mutex TO makegood_pipeline;
GRANT SELECT ON sender, live_batch, wave_end
    TO makegood_pipeline, makegood_airflow, makegood_operator, makegood_approver, makegood_analyst;
