-- Settlement lines against operations: every line and every operation gets a verdict. Run in order; reads
--   line        lines of all settlement files (adapters/settlement_files.py)
--   operation   operation_id, kind, bill (a number for customer, period and cycle), attempt, amount_minor, currency, original_id
--   succeeded   operation_id, payment_id (the acquirer's id) of operations that succeeded
--   unknown     operation_id of operations that nobody knows the outcome of
--   settled     operation_id of operations entered as settled before
--   deviation   original_id, kind, amount_minor, is_voided: where the acquirer's state made us do other than planned

CREATE OR REPLACE TEMP MACRO key_of(operation_id) AS replace(CAST(operation_id AS VARCHAR), '-', '');

-- A batch that came in two files was issued again: the same line of both is one line, the later file's.
CREATE OR REPLACE TEMP TABLE fresh_line AS
WITH issued_again AS (SELECT account, batch_number FROM line GROUP BY ALL HAVING count(DISTINCT file_number) > 1),
numbered AS (
    SELECT *, row_number() OVER (PARTITION BY file_number, type, psp_reference, modification_reference) AS nth
    FROM line SEMI JOIN issued_again USING (account, batch_number)
)
SELECT * EXCLUDE (nth) FROM numbered
QUALIFY row_number() OVER (PARTITION BY account, batch_number, type, psp_reference, modification_reference, nth ORDER BY file_number DESC) = 1
UNION ALL BY NAME
SELECT * FROM line ANTI JOIN issued_again USING (account, batch_number);

-- What the acquirer should pay out or take back: every charge and refund that succeeded - but for approvals that were voided, and
-- charges of which the acquirer said that they expired, were voided by somebody else or never approved.
CREATE OR REPLACE TEMP TABLE voided AS
SELECT o.original_id AS operation_id FROM operation o SEMI JOIN succeeded USING (operation_id) WHERE o.kind = 'void';

CREATE OR REPLACE TEMP TABLE claim AS
SELECT o.operation_id, o.kind, o.amount_minor, o.currency, s.payment_id, o.original_id,
    v.operation_id IS NOT NULL AS is_voided, gone.original_id IS NOT NULL AS is_gone
FROM operation o
JOIN succeeded s USING (operation_id)
LEFT JOIN voided v ON v.operation_id = o.operation_id
LEFT JOIN (SELECT DISTINCT original_id FROM deviation WHERE is_voided OR kind IN ('expired', 'charge_was_declined')) gone ON gone.original_id = o.operation_id
WHERE o.kind <> 'void';

-- A refund line is known by its own reference, anything else by its payment's.
CREATE OR REPLACE TEMP TABLE judged_line AS
WITH keyed AS (
    SELECT *, if(type = 'Refunded', modification_reference, psp_reference) AS payment_id FROM fresh_line
),
repeated AS (  -- as a rule none; numbers are grouped faster than texts
    SELECT payment_id FROM keyed WHERE hash(payment_id) IN (SELECT hash(payment_id) FROM keyed GROUP BY ALL HAVING count(*) > 1)
    GROUP BY payment_id HAVING count(*) > 1
),
counted AS (
    SELECT *, row_number() OVER (PARTITION BY payment_id, type ORDER BY settled_on, batch_number) AS nth FROM keyed SEMI JOIN repeated USING (payment_id)
    UNION ALL BY NAME
    SELECT *, 1 AS nth FROM keyed ANTI JOIN repeated USING (payment_id)
)
SELECT l.*, c.operation_id, c.kind, c.amount_minor AS meant_minor, c.currency AS meant_currency,
    CASE WHEN c.operation_id IS NULL OR l.type NOT IN ('Settled', 'Refunded') THEN 'extra'
         WHEN nth > 1 THEN 'twice'
         WHEN (c.kind = 'refund') <> (l.type = 'Refunded') OR (c.kind = 'refund') = l.is_credit THEN 'sign'
         WHEN c.is_voided THEN 'undone_but_settled'
         WHEN c.is_gone THEN 'state'
         WHEN c.amount_minor <> l.amount_minor OR c.currency <> l.currency THEN 'amount'
         ELSE 'matched' END AS verdict
FROM counted l LEFT JOIN claim c USING (payment_id);

-- Somebody else - the acquirer's support - gave money back on a payment of ours, and a deviation has said so: explained up to its amount.
CREATE OR REPLACE TEMP TABLE returned_elsewhere AS
WITH said AS (
    SELECT original_id, sum(amount_minor) AS amount_minor FROM deviation WHERE kind IN ('already_returned', 'shrunk') GROUP BY original_id
)
SELECT l.modification_reference, l.amount_minor, l.currency, l.settled_on, c.operation_id
FROM judged_line l JOIN claim c ON c.payment_id = l.psp_reference JOIN said d ON d.original_id = c.operation_id
WHERE l.verdict = 'extra' AND l.type = 'Refunded' AND NOT l.is_credit AND l.currency = c.currency
QUALIFY sum(l.amount_minor) OVER (PARTITION BY c.operation_id ORDER BY l.settled_on, l.modification_reference) <= d.amount_minor;

CREATE OR REPLACE TABLE matched AS  -- not a temporary one: it is entered through a connection of its own
SELECT operation_id, kind, amount_minor, currency, settled_on, operation_id IN (FROM settled) AS is_entered
FROM judged_line WHERE verdict = 'matched';

-- A claim that no line speaks of; whether it is late is for the calendar to say.
CREATE OR REPLACE TEMP TABLE unmatched AS
SELECT operation_id, kind, amount_minor, currency, payment_id FROM claim
WHERE NOT is_voided AND NOT is_gone
  AND operation_id NOT IN (FROM settled)
  AND NOT EXISTS (SELECT 1 FROM judged_line l WHERE l.operation_id = claim.operation_id);

-- A bill whose right amount was charged, or may have been, while a wrong charge of it still stands.
CREATE OR REPLACE TEMP TABLE recharged AS
WITH taken_again AS (
    SELECT o.operation_id, o.bill, o.amount_minor FROM operation o WHERE kind = 'rebill' AND (o.operation_id IN (SELECT operation_id FROM succeeded) OR o.operation_id IN (FROM unknown))
),
undone AS (
    SELECT original_id AS operation_id, sum(amount_minor) AS amount_minor FROM (
        SELECT o.original_id, o.amount_minor FROM operation o SEMI JOIN succeeded USING (operation_id) WHERE o.kind IN ('void', 'refund')
        UNION ALL
        SELECT original_id, amount_minor FROM deviation WHERE kind IN ('expired', 'already_returned', 'shrunk', 'charge_was_declined')
    ) GROUP BY original_id
),
standing AS MATERIALIZED (  -- few: nearly every charge of a bill that was charged again is undone
    SELECT o.operation_id, o.bill, o.amount_minor - coalesce(u.amount_minor, 0) AS standing_minor
    FROM operation o SEMI JOIN succeeded USING (operation_id) LEFT JOIN undone u USING (operation_id)
    WHERE o.kind = 'charge' AND o.amount_minor > coalesce(u.amount_minor, 0)
)
SELECT r.operation_id, r.amount_minor, s.standing_minor
FROM taken_again r JOIN standing s USING (bill)
QUALIFY row_number() OVER (PARTITION BY r.operation_id ORDER BY s.operation_id) = 1;

-- Everything that does not fit, by name; `missing` and what the plan meant come after, when the calendar has been asked. A line for no
-- payment that is known may still name an operation of ours, which then did not succeed here: it belongs to that operation.
CREATE OR REPLACE TEMP TABLE odd_line AS
SELECT l.*, TRY_CAST(l.merchant_reference AS UUID) AS said_id FROM judged_line l
WHERE l.verdict <> 'matched'
  AND NOT (l.type = 'Refunded' AND l.modification_reference IN (SELECT modification_reference FROM returned_elsewhere));

CREATE OR REPLACE TEMP TABLE broken AS
SELECT CASE WHEN l.verdict = 'extra' AND u.operation_id IS NOT NULL THEN 'state' ELSE l.verdict END AS kind,
    coalesce(key_of(l.operation_id), key_of(u.operation_id), nullif(l.modification_reference, ''), l.psp_reference) AS reference,
    coalesce(l.operation_id, u.operation_id, c.operation_id, n.operation_id) AS operation_id, l.amount_minor, l.settled_on AS since,
    CASE WHEN l.verdict = 'extra' AND u.operation_id IS NOT NULL THEN 'settled, while its outcome is unknown here'
         WHEN l.verdict = 'state' THEN 'settled, although the acquirer had said that the approval was gone'
         WHEN l.verdict = 'amount' THEN 'meant were ' || l.meant_minor || ' ' || l.meant_currency || ', settled were ' || l.amount_minor || ' ' || l.currency
         WHEN l.verdict = 'sign' THEN l.kind || ' settled as ' || l.type || if(l.is_credit, ', credit', ', debit')
         WHEN l.verdict = 'twice' THEN 'once more in batch ' || l.batch_number
         WHEN l.verdict = 'undone_but_settled' THEN 'voided, and in batch ' || l.batch_number
         WHEN c.operation_id IS NOT NULL THEN l.type || ' in batch ' || l.batch_number || ' on a payment of ours; no operation of ours did it'
         WHEN n.operation_id IS NOT NULL THEN l.type || ' in batch ' || l.batch_number || ' under the reference of a ' || n.kind
             || ' of ours, for a payment that is not known here'
         ELSE l.type || ' in batch ' || l.batch_number || ' for a payment that is not known here' END AS detail
FROM odd_line l
LEFT JOIN unknown u ON u.operation_id = l.said_id AND l.operation_id IS NULL AND l.type = 'Settled'
LEFT JOIN claim c ON c.payment_id = l.psp_reference AND l.operation_id IS NULL
LEFT JOIN operation n ON n.operation_id = l.said_id AND l.operation_id IS NULL
UNION ALL BY NAME
SELECT 'recharged_without_undo' AS kind, key_of(operation_id) AS reference, operation_id, standing_minor AS amount_minor,
    CAST($today AS DATE) AS since, 'a wrong charge of the same bill still stands with this amount' AS detail
FROM recharged;
