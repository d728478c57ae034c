-- What the approved plans of an incident meant against its operations: meant and never done, done and never meant. Reads `planned`
-- (lines of every approved plan, the newest with the highest `number`), and `operation`, `claim`, `deviation` of match.sql.
CREATE OR REPLACE TEMP TABLE meant AS
SELECT * REPLACE (CAST(original_id AS UUID) AS original_id) FROM planned
QUALIFY row_number() OVER (PARTITION BY customer_id, billing_period, bill_cycle, occurrence ORDER BY number DESC) = 1;

CREATE OR REPLACE TEMP TABLE meant_bill AS
SELECT customer_id, billing_period, bill_cycle, max(correct_minor) AS correct_minor, max(rebill_last) AS rebill_last
FROM meant WHERE rebill = 'rebill' GROUP BY ALL;

-- A rebill that went out stays meant when a later plan has nothing left to say of its bill, or holds it until its outcome is known.
CREATE OR REPLACE TEMP VIEW meant_ever AS
SELECT customer_id, billing_period, bill_cycle, correct_minor AS amount_minor FROM planned WHERE rebill = 'rebill';

CREATE OR REPLACE TEMP TABLE undo AS
SELECT operation_id, kind, amount_minor, original_id FROM operation WHERE of_incident AND kind IN ('void', 'refund');

CREATE OR REPLACE TEMP TABLE recharge AS
SELECT operation_id, customer_id, billing_period, bill_cycle, amount_minor FROM operation WHERE of_incident AND kind = 'rebill';

CREATE OR REPLACE TEMP TABLE against_plan AS
-- an undo that was meant: its window is over, and neither an operation nor a deviation speaks of it
SELECT 'missing' AS kind, key_of(m.original_id) AS reference, coalesce(m.reversal_minor, m.wrong_minor) AS amount_minor, m.reversal_last AS since,
    'the plan meant to ' || m.reversal || ' it; nothing was sent' AS detail
FROM meant m ANTI JOIN undo USING (original_id) ANTI JOIN deviation USING (original_id)
WHERE m.reversal IN ('void', 'refund') AND m.reversal_last < $today
UNION ALL
-- a rebill that was meant, named by the key it would have had
SELECT 'missing', md5('rebill|' || $incident_id || '|' || b.billing_period || '|' || b.bill_cycle || '|1|1|' || b.customer_id), b.correct_minor,
    b.rebill_last, 'the plan meant to rebill it; nothing was sent'
FROM meant_bill b ANTI JOIN recharge USING (customer_id, billing_period, bill_cycle)
WHERE b.rebill_last < $today
UNION ALL
SELECT 'extra', key_of(u.operation_id), u.amount_minor, CAST($today AS DATE), 'a ' || u.kind || ' that no approved plan has'
FROM undo u ANTI JOIN meant USING (original_id)
UNION ALL
SELECT 'extra', key_of(r.operation_id), r.amount_minor, CAST($today AS DATE), 'a rebill that no approved plan has'
FROM recharge r ANTI JOIN meant_ever USING (customer_id, billing_period, bill_cycle)
UNION ALL
SELECT 'amount', key_of(u.operation_id), u.amount_minor, CAST($today AS DATE),
    'the plan meant to ' || m.reversal || ' ' || coalesce(m.reversal_minor, m.wrong_minor)
FROM undo u SEMI JOIN claim USING (operation_id) JOIN meant m USING (original_id)  -- a refund that was refused for it moved nothing
WHERE u.amount_minor > coalesce(m.reversal_minor, m.wrong_minor)
UNION ALL
SELECT 'amount', key_of(r.operation_id), r.amount_minor, CAST($today AS DATE), 'no approved plan meant to rebill that amount'
FROM recharge r ANTI JOIN meant_ever exact USING (customer_id, billing_period, bill_cycle, amount_minor)
SEMI JOIN meant_ever bill USING (customer_id, billing_period, bill_cycle);
