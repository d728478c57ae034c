-- What the approved plans of an incident meant against its operations: meant and never done, done and never meant. Reads `planned`
-- (lines of every approved plan, the newest with the highest `number`), `retried` (whose bills the rebills after a first attempt are), and
-- `operation`, `claim`, `deviation` of match.sql. A bill is known by the key that a first attempt to rebill it has: one number to compare.
CREATE OR REPLACE TEMP MACRO rebill_key(incident_id, billing_period, bill_cycle, customer_id) AS
    CAST(md5(concat('rebill|', incident_id, '|', billing_period, '|', bill_cycle, '|1|1|', customer_id)) AS UUID);

CREATE OR REPLACE TEMP TABLE keyed_line AS
SELECT number, CAST(original_id AS UUID) AS original_id, occurrence, wrong_minor, correct_minor, reversal, reversal_minor, rebill, reversal_last, rebill_last,
    rebill_key($incident_id, billing_period, bill_cycle, customer_id) AS bill_key
FROM planned;

-- The newest word on each charge; where there is one plan alone, it has it.
CREATE OR REPLACE TEMP TABLE outdated AS
SELECT number, bill_key, occurrence FROM keyed_line WHERE (SELECT count(DISTINCT number) FROM keyed_line) > 1
QUALIFY row_number() OVER (PARTITION BY bill_key, occurrence ORDER BY number DESC) > 1;

CREATE OR REPLACE TEMP VIEW meant AS FROM keyed_line ANTI JOIN outdated USING (number, bill_key, occurrence);

-- A rebill that went out stays meant when a later plan has nothing left to say of its bill, or holds it until its outcome is known.
CREATE OR REPLACE TEMP VIEW meant_ever AS
SELECT bill_key, correct_minor AS amount_minor FROM keyed_line WHERE rebill = 'rebill';

CREATE OR REPLACE TEMP TABLE recharge AS
SELECT operation_id, amount_minor, operation_id AS bill_key FROM operation WHERE of_incident AND kind = 'rebill' AND attempt = 1
UNION ALL
SELECT operation_id, o.amount_minor, rebill_key($incident_id, r.billing_period, r.bill_cycle, r.customer_id)
FROM retried r JOIN operation o USING (operation_id);

-- Undo by undo beside what was meant, as far as the two do not agree.
CREATE OR REPLACE TEMP TABLE odd_undo AS
SELECT coalesce(u.original_id, m.original_id) AS original_id, u.operation_id, u.kind, u.amount_minor, m.reversal, m.wrong_minor, m.reversal_minor,
    m.reversal_last, m.bill_key IS NOT NULL AS is_meant
FROM (FROM operation WHERE of_incident AND kind IN ('void', 'refund')) u FULL JOIN meant m USING (original_id)
WHERE m.bill_key IS NULL OR u.amount_minor > coalesce(m.reversal_minor, m.wrong_minor)
   OR u.operation_id IS NULL AND m.reversal IN ('void', 'refund') AND m.reversal_last < $today;

-- Rebills of an amount that no plan has for their bill.
CREATE OR REPLACE TEMP TABLE odd_recharge AS FROM recharge ANTI JOIN meant_ever USING (bill_key, amount_minor);

CREATE OR REPLACE TEMP TABLE against_plan AS
-- an undo that was meant: its window is over, and neither an operation nor a deviation speaks of it
SELECT 'missing' AS kind, key_of(original_id) AS reference, coalesce(reversal_minor, wrong_minor) AS amount_minor, reversal_last AS since,
    'the plan meant to ' || reversal || ' it; nothing was sent' AS detail
FROM odd_undo ANTI JOIN deviation USING (original_id) WHERE operation_id IS NULL
UNION ALL
-- a rebill that was meant, named by the key it would have had
SELECT 'missing', key_of(bill_key), max(correct_minor), max(rebill_last), 'the plan meant to rebill it; nothing was sent'
FROM meant ANTI JOIN recharge USING (bill_key)
WHERE rebill = 'rebill' GROUP BY bill_key HAVING max(rebill_last) < $today
UNION ALL
SELECT 'extra', key_of(operation_id), amount_minor, CAST($today AS DATE), 'a ' || kind || ' that no approved plan has'
FROM odd_undo WHERE NOT is_meant
UNION ALL
SELECT 'extra', key_of(operation_id), amount_minor, CAST($today AS DATE), 'a rebill that no approved plan has'
FROM odd_recharge ANTI JOIN meant_ever USING (bill_key)
UNION ALL
SELECT 'amount', key_of(u.operation_id), u.amount_minor, CAST($today AS DATE),
    'the plan meant to ' || u.reversal || ' ' || coalesce(u.reversal_minor, u.wrong_minor)
FROM odd_undo u SEMI JOIN claim USING (operation_id)  -- a refund that was refused for it moved nothing
WHERE u.is_meant
UNION ALL
SELECT 'amount', key_of(operation_id), amount_minor, CAST($today AS DATE), 'no approved plan meant to rebill that amount'
FROM odd_recharge SEMI JOIN meant_ever USING (bill_key);
