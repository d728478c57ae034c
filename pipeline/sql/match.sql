-- Settlement lines against operations: every line and every operation gets a verdict. Run in order; reads
--   line        lines of all settlement files (adapters/settlement_files.py), numbered by line_no, with the payment_key of what each is about
--   operation   operation_id, kind, bill (a number for customer, period and cycle), attempt, amount_minor, currency, original_id
--   succeeded   operation_id, payment_key (of the acquirer's id) of operations that succeeded
--   unknown     operation_id of operations that nobody knows the outcome of
--   settled     operation_id of operations entered as settled before
--   deviation   original_id, kind, amount_minor, is_voided: where the acquirer's state made us do other than planned
-- A payment_key is payment_key_of(the acquirer's id): 64 bits, which are compared many times faster than texts; two ids share one, and would
-- be about the same amount as well, less than once in a million reconciliations.

CREATE OR REPLACE TEMP MACRO key_of(operation_id) AS replace(CAST(operation_id AS VARCHAR), '-', '');

-- A batch that came in two files was issued again: the same line of both is one line, the later file's.
CREATE OR REPLACE TEMP TABLE superseded AS
WITH issued_again AS (SELECT account, batch_number FROM line GROUP BY ALL HAVING count(DISTINCT file_number) > 1),
numbered AS (
    SELECT *, row_number() OVER (PARTITION BY file_number, type, psp_reference, modification_reference ORDER BY line_no) AS nth
    FROM line SEMI JOIN issued_again USING (account, batch_number)
)
SELECT line_no FROM numbered
QUALIFY row_number() OVER (PARTITION BY account, batch_number, type, psp_reference, modification_reference, nth ORDER BY file_number DESC) > 1;

CREATE OR REPLACE TEMP VIEW current_line AS FROM line ANTI JOIN superseded USING (line_no);

CREATE OR REPLACE TEMP TABLE later_line AS  -- of several about the same; as a rule there are none
SELECT line_no FROM current_line SEMI JOIN (SELECT payment_key FROM current_line GROUP BY payment_key HAVING count(*) > 1) USING (payment_key)
QUALIFY row_number() OVER (PARTITION BY payment_key, type ORDER BY settled_on, batch_number, line_no) > 1;

-- What the acquirer should pay out or take back: every charge and refund that succeeded - but for approvals that were voided, and
-- charges of which the acquirer said that they expired, were voided by somebody else or never approved.
CREATE OR REPLACE TEMP TABLE voided AS
SELECT o.original_id AS operation_id FROM operation o SEMI JOIN succeeded USING (operation_id) WHERE o.kind = 'void';

CREATE OR REPLACE TEMP TABLE gone AS
SELECT DISTINCT original_id AS operation_id FROM deviation WHERE is_voided OR kind IN ('expired', 'charge_was_declined');

CREATE OR REPLACE TEMP TABLE claim AS
SELECT o.operation_id, o.kind, o.bill, o.amount_minor, o.currency, o.original_id, s.payment_key
FROM (FROM operation WHERE kind <> 'void') o ANTI JOIN voided USING (operation_id) ANTI JOIN gone USING (operation_id)
JOIN succeeded s USING (operation_id);

-- Every line beside its claim, and the claims that no line speaks of.
CREATE OR REPLACE TEMP TABLE beside AS
SELECT l.*, coalesce(l.payment_key, c.payment_key) AS key, c.operation_id, c.kind, c.amount_minor AS meant_minor, c.currency AS meant_currency
FROM (SELECT line_no, payment_key, type, is_credit, amount_minor, currency, settled_on FROM current_line) l FULL JOIN claim c USING (payment_key);

-- A claim that no line speaks of; whether it is late is for the calendar to say.
CREATE OR REPLACE TEMP TABLE unmatched AS
SELECT operation_id, kind, meant_minor AS amount_minor FROM beside WHERE line_no IS NULL AND operation_id NOT IN (FROM settled);

-- Lines without a claim, few as a rule: some are about a payment that should not have settled.
CREATE OR REPLACE TEMP TABLE no_claim AS
SELECT s.payment_key AS key, o.operation_id, o.kind, o.amount_minor, o.currency, o.operation_id IN (FROM voided) AS is_voided
FROM succeeded s SEMI JOIN (FROM beside WHERE operation_id IS NULL) b ON b.key = s.payment_key JOIN operation o USING (operation_id)
WHERE o.kind <> 'void';

CREATE OR REPLACE TEMP TABLE judged_line AS
WITH found AS (
    SELECT b.* REPLACE (
            coalesce(b.operation_id, n.operation_id) AS operation_id, coalesce(b.kind, n.kind) AS kind,
            coalesce(meant_minor, n.amount_minor) AS meant_minor, coalesce(meant_currency, n.currency) AS meant_currency),
        n.is_voided, line_no IN (FROM later_line) AS is_later
    FROM beside b LEFT JOIN no_claim n ON n.key = b.key AND b.operation_id IS NULL WHERE line_no IS NOT NULL
)
SELECT line_no, operation_id, kind, meant_minor, meant_currency, settled_on,
    CASE WHEN operation_id IS NULL OR type NOT IN ('Settled', 'Refunded') THEN 'extra'
         WHEN is_later THEN 'twice'
         WHEN (kind = 'refund') <> (type = 'Refunded') OR (kind = 'refund') = is_credit THEN 'sign'
         WHEN is_voided THEN 'undone_but_settled'
         WHEN is_voided IS NOT NULL THEN 'state'
         WHEN meant_minor <> amount_minor OR meant_currency <> currency THEN 'amount'
         ELSE 'matched' END AS verdict
FROM found;

CREATE OR REPLACE TABLE matched AS  -- not a temporary one: it is entered through a connection of its own
SELECT operation_id, kind, meant_minor AS amount_minor, meant_currency AS currency, settled_on, operation_id IN (FROM settled) AS is_entered
FROM judged_line WHERE verdict = 'matched';

-- Lines that do not fit, in full, and what is known of the payments that they name.
CREATE OR REPLACE TEMP TABLE odd_line AS
SELECT l.*, j.operation_id, j.kind, j.meant_minor, j.meant_currency, j.verdict, payment_key_of(l.psp_reference) AS psp_key,
    TRY_CAST(l.merchant_reference AS UUID) AS said_id
FROM line l JOIN (FROM judged_line WHERE verdict <> 'matched') j USING (line_no);

CREATE OR REPLACE TEMP TABLE odd_payment AS
SELECT s.payment_key AS psp_key, o.operation_id, o.currency
FROM succeeded s SEMI JOIN odd_line l ON l.psp_key = s.payment_key JOIN operation o USING (operation_id) WHERE o.kind <> 'void';

-- Somebody else - the acquirer's support - gave money back on a payment of ours, and a deviation has said so: explained up to its amount.
CREATE OR REPLACE TEMP TABLE returned_elsewhere AS
WITH said AS (
    SELECT original_id, sum(amount_minor) AS amount_minor FROM deviation WHERE kind IN ('already_returned', 'shrunk') GROUP BY original_id
)
SELECT l.modification_reference, l.amount_minor, l.currency, l.settled_on, c.operation_id
FROM odd_line l JOIN odd_payment c USING (psp_key) JOIN said d ON d.original_id = c.operation_id
WHERE l.verdict = 'extra' AND l.type = 'Refunded' AND NOT l.is_credit AND l.currency = c.currency
QUALIFY sum(l.amount_minor) OVER (PARTITION BY c.operation_id ORDER BY l.settled_on, l.modification_reference) <= d.amount_minor;

-- A bill whose right amount was charged, or may have been, while a wrong charge of it still stands.
CREATE OR REPLACE TEMP TABLE recharged AS
WITH taken_again AS (
    SELECT operation_id, bill, amount_minor FROM claim WHERE kind = 'rebill'
    UNION ALL
    SELECT operation_id, bill, amount_minor FROM operation SEMI JOIN unknown USING (operation_id) WHERE kind = 'rebill'
),
undone AS (
    SELECT original_id AS operation_id, sum(amount_minor) AS amount_minor FROM (
        SELECT original_id, amount_minor FROM claim WHERE kind = 'refund'
        UNION ALL
        SELECT original_id, amount_minor FROM deviation WHERE kind IN ('expired', 'already_returned', 'shrunk', 'charge_was_declined')
    ) GROUP BY original_id
),
standing AS MATERIALIZED (  -- few: nearly every charge of a bill that was charged again is undone
    SELECT c.operation_id, c.bill, c.amount_minor - coalesce(u.amount_minor, 0) AS standing_minor
    FROM (
        SELECT operation_id, bill, amount_minor FROM claim WHERE kind = 'charge'
        UNION ALL
        SELECT operation_id, bill, amount_minor FROM operation SEMI JOIN gone USING (operation_id) SEMI JOIN succeeded USING (operation_id)
        WHERE kind = 'charge' AND operation_id NOT IN (FROM voided)
    ) c LEFT JOIN undone u USING (operation_id)
    WHERE c.amount_minor > coalesce(u.amount_minor, 0)
)
SELECT r.operation_id, r.amount_minor, s.standing_minor
FROM taken_again r JOIN standing s USING (bill)
QUALIFY row_number() OVER (PARTITION BY r.operation_id ORDER BY s.operation_id) = 1;

-- Everything that does not fit, by name; `missing` and what the plan meant come after, when the calendar has been asked. A line for no
-- payment that is known may still name an operation of ours, which then did not succeed here: it belongs to that operation.
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
LEFT JOIN odd_payment c ON c.psp_key = l.psp_key AND l.operation_id IS NULL
LEFT JOIN operation n ON n.operation_id = l.said_id AND l.operation_id IS NULL
WHERE NOT (l.type = 'Refunded' AND l.modification_reference IN (SELECT modification_reference FROM returned_elsewhere))
UNION ALL BY NAME
SELECT 'recharged_without_undo' AS kind, key_of(operation_id) AS reference, operation_id, standing_minor AS amount_minor,
    CAST($today AS DATE) AS since, 'a wrong charge of the same bill still stands with this amount' AS detail
FROM recharged;
