-- Money: operations (what we mean to do), batches (what we sent), outcomes (what became of it, with the entry that it makes), entries.
-- Rows are inserted, never updated or deleted; every state is derived from them.

-- The key is derived from the business fact (pipeline/core/idempotency.py); the fact itself is unique beside it, so that no
-- error in deriving a key can charge anybody twice. Texts of keys compare byte by byte: faster, and the same everywhere.
CREATE TABLE operation (
    operation_id     uuid PRIMARY KEY,
    kind             text COLLATE "C" NOT NULL CHECK (kind IN ('charge', 'void', 'refund', 'rebill')),
    scope            text COLLATE "C" NOT NULL,          -- the released run or the approved plan it belongs to
    incident_id      text COLLATE "C",
    customer_id      text COLLATE "C" NOT NULL,
    billing_period   text COLLATE "C" NOT NULL,
    bill_cycle       bigint NOT NULL,
    occurrence       integer NOT NULL DEFAULT 1 CHECK (occurrence >= 1),  -- above 1: another system charged the bill again
    attempt          integer NOT NULL DEFAULT 1 CHECK (attempt >= 1),     -- above 1: after a definite failure
    charge_id        text NOT NULL,
    amount_minor     bigint NOT NULL CHECK (amount_minor > 0),
    currency         text NOT NULL,
    payment_method   text NOT NULL,
    issuer           text NOT NULL,
    instrument_token text NOT NULL,
    wave             integer NOT NULL CHECK (wave >= 0),
    original_id      uuid CHECK ((original_id IS NOT NULL) = (kind IN ('void', 'refund'))),  -- the charge that it undoes
    recorded_at      timestamptz NOT NULL DEFAULT now(),
    -- For kind 'charge' (no incident) this is the rule that a customer is charged once per period and cycle.
    CONSTRAINT one_operation_per_fact
        UNIQUE NULLS NOT DISTINCT (customer_id, billing_period, bill_cycle, kind, incident_id, occurrence, attempt)
);
-- Rows come wave by wave, so this index grows at one end only, and its equal keys are kept once. (A block index would cost less still,
-- but knows nothing of rows that came since the last vacuum - and those are the ones that are asked for.)
CREATE INDEX operation_by_wave ON operation (scope, wave);
CREATE INDEX operation_tried_again ON operation (scope, wave) WHERE attempt > 1;  -- a few, looked for with every wave's answers

-- One outgoing file. A wave goes out in exactly one accepted file.
CREATE TABLE batch (
    batch_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope           text NOT NULL,
    wave            integer NOT NULL,
    file_sequence   bigint NOT NULL,
    file_path       text NOT NULL,
    sha256          text NOT NULL,
    operation_count bigint NOT NULL CHECK (operation_count > 0),
    total_minor     numeric(38) NOT NULL,
    recorded_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX batch_by_wave ON batch (scope, wave);

CREATE TABLE batch_event (
    batch_id    bigint NOT NULL REFERENCES batch,
    event       text NOT NULL CHECK (event IN ('handed_over', 'rejected', 'answered', 'timed_out')),
    detail      text NOT NULL DEFAULT '',
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, event)
);

CREATE TYPE account AS ENUM
    ('accounts_receivable', 'billed_revenue', 'acquirer_clearing', 'bank', 'refund_payable', 'write_off', 'suspense');

-- What became of an operation, and the balanced entry that it makes: the same amount leaves `credit` and reaches `debit`. No entry where
-- nothing changes: what was withdrawn, or declined once more.
CREATE TABLE outcome (
    operation_id uuid PRIMARY KEY,
    status       text NOT NULL CHECK (status IN ('succeeded', 'declined')),
    reason       text,
    payment_id   text,
    debit        account,
    credit       account CHECK (debit <> credit),
    amount_minor bigint CHECK (amount_minor > 0),
    currency     text,
    effective_on date,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    CHECK ((status = 'declined') = (reason IS NOT NULL)),
    CHECK (status <> 'succeeded' OR payment_id IS NOT NULL),
    CONSTRAINT entry_is_whole CHECK (num_nulls(debit, credit, amount_minor, currency, effective_on) IN (0, 5))
);

-- Sent, and no answer came: unknown until an outcome says otherwise.
CREATE TABLE unanswered (
    operation_id uuid PRIMARY KEY,
    recorded_at  timestamptz NOT NULL DEFAULT now()
);

-- Entries beside the outcome's: of a step before it (suspended) or after it (settled ...). An operation has each step once.
CREATE TABLE further_entry (
    operation_id uuid NOT NULL,
    step         text NOT NULL CHECK (step <> 'final'),
    debit        account NOT NULL,
    credit       account NOT NULL CHECK (debit <> credit),
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency     text NOT NULL,
    effective_on date NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (operation_id, step)
);

-- All entries. An outcome's own is `final`: it is one to one with the outcome, so it is kept in its row, under its key.
CREATE VIEW entry AS
    SELECT operation_id, 'final' AS step, debit, credit, amount_minor, currency, effective_on, recorded_at FROM outcome WHERE debit IS NOT NULL
    UNION ALL
    SELECT operation_id, step, debit, credit, amount_minor, currency, effective_on, recorded_at FROM further_entry;

-- A foreign key checked once per statement instead of once per row: operations are never deleted, so a check at
-- insertion is a check for ever, and a wave costs one join. The join goes row by row through the key's index, whatever the
-- planner believes of tables that grew a moment ago: its cost is the wave's, not the table's.
CREATE FUNCTION belongs_to_an_operation() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    IF EXISTS (SELECT FROM inserted WHERE NOT EXISTS
                   (SELECT FROM makegood.operation o WHERE o.operation_id = inserted.operation_id)) THEN
        RAISE EXCEPTION '% names an operation that does not exist', TG_TABLE_NAME USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER belongs_to_an_operation AFTER INSERT ON outcome
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION belongs_to_an_operation();
CREATE TRIGGER belongs_to_an_operation AFTER INSERT ON unanswered
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION belongs_to_an_operation();
CREATE TRIGGER belongs_to_an_operation AFTER INSERT ON further_entry
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION belongs_to_an_operation();

-- Money is sent only by hand-over of a batch; this is where each wave stands.
CREATE VIEW wave_state AS
    SELECT b.batch_id, b.scope, b.wave, b.file_sequence, b.file_path, b.sha256, b.operation_count, b.total_minor,
           bool_or(e.event = 'handed_over') IS TRUE AS handed_over,
           bool_or(e.event = 'rejected') IS TRUE AS rejected,
           bool_or(e.event = 'answered') IS TRUE AS answered
    FROM batch b LEFT JOIN batch_event e USING (batch_id)
    GROUP BY b.batch_id;

CREATE VIEW operation_state AS
    SELECT o.*, c.reason, c.payment_id,
           CASE WHEN c.status IS NOT NULL THEN c.status
                WHEN u.operation_id IS NOT NULL THEN 'unknown'
                WHEN w.handed_over THEN 'sent'
                ELSE 'not_sent' END AS state
    FROM operation o
    LEFT JOIN outcome c USING (operation_id)
    LEFT JOIN unanswered u USING (operation_id)
    LEFT JOIN wave_state w ON w.scope = o.scope AND w.wave = o.wave AND NOT w.rejected;

-- What is undone of a charge - done, under way or unknown - never exceeds what was charged. Checked set-wise, like above. Nearly every
-- reversal is the only one of its charge: then its own amount is all there is to compare, and nothing is added up.
CREATE INDEX operation_by_original ON operation (original_id) WHERE original_id IS NOT NULL;
CREATE FUNCTION undoes_no_more_than_was_charged() RETURNS trigger LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    offender record;
BEGIN
    -- Sorted, so that one look-up after another meets the same pages; the sum is lateral, or a wave would meet every reversal.
    SELECT touched.original_id, charged.operation_id IS NOT NULL AS was_charged INTO offender
    FROM (SELECT operation_id, original_id, amount_minor FROM inserted WHERE original_id IS NOT NULL ORDER BY original_id) touched
    LEFT JOIN makegood.operation charged ON charged.operation_id = touched.original_id AND charged.kind IN ('charge', 'rebill')
    CROSS JOIN LATERAL (
        SELECT CASE WHEN EXISTS (SELECT FROM makegood.operation another WHERE another.original_id = touched.original_id
                                                                          AND another.operation_id <> touched.operation_id)
            THEN (SELECT sum(undoing.amount_minor)
                  FROM makegood.operation undoing LEFT JOIN makegood.outcome done ON done.operation_id = undoing.operation_id
                  WHERE undoing.original_id = touched.original_id AND done.status IS DISTINCT FROM 'declined')
            ELSE touched.amount_minor END AS amount_minor
    ) undone
    WHERE charged.operation_id IS NULL OR undone.amount_minor > charged.amount_minor
    LIMIT 1;
    IF offender.was_charged THEN
        RAISE EXCEPTION 'more would be undone than was charged by operation %', offender.original_id USING ERRCODE = 'check_violation';
    ELSIF offender.original_id IS NOT NULL THEN
        RAISE EXCEPTION 'what is undone must have been charged' USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER undoes_no_more_than_was_charged AFTER INSERT ON operation
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION undoes_no_more_than_was_charged();

CREATE VIEW balance AS
    SELECT account, currency, sum(amount_minor) AS balance_minor
    FROM (SELECT debit AS account, currency, amount_minor FROM entry
          UNION ALL SELECT credit, currency, -amount_minor FROM entry) sides
    GROUP BY account, currency;
