-- Who was hurt, and how: every wrong charge beside the bill that should have been charged.
--
-- Views given: wrong (the incident's charges: operation_id, customer_id, bill_cycle, occurrence, charge_id, amount_minor,
-- currency, payment_method, issuer, instrument_token, state, payment_id), landed (the corrected run's Parquet), elsewhere
-- (customer_id, bill_cycle, first: what the period was charged outside the incident, and the lowest occurrence of that, 0 for a rebill).
-- Parameters: $issuers, the incident's; NULL for all.

-- Keys that have several right bills: as a rule none. Numbers are grouped faster than texts, and say where to look.
CREATE OR REPLACE TEMP TABLE ambiguous AS
SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle FROM landed
WHERE hash(customer_id, coalesce(bill_cycle, 1)) IN (
    SELECT hash(customer_id, coalesce(bill_cycle, 1)) FROM landed GROUP BY ALL HAVING count(*) > 1)
GROUP BY ALL HAVING count(*) > 1;

-- The right bill of each account and cycle. One that cannot be charged as it stands says why in `unusable`.
CREATE OR REPLACE TEMP VIEW right_bill AS
SELECT
    l.customer_id, coalesce(l.bill_cycle, 1) AS bill_cycle, l.charge_id, l.amount_minor, l.currency, l.payment_method, l.issuer,
    l.instrument_token,
    CASE WHEN a.customer_id IS NOT NULL THEN 'ambiguous'
         WHEN l.charge_id IS NULL OR l.amount_minor IS NULL OR l.currency IS NULL OR l.payment_method IS NULL OR l.issuer IS NULL
              OR l.instrument_token IS NULL THEN 'incomplete'
         WHEN is_card_number(l.instrument_token) THEN 'card_number'
    END AS unusable
FROM landed l LEFT JOIN ambiguous a ON a.customer_id = l.customer_id AND a.bill_cycle = coalesce(l.bill_cycle, 1)
WHERE l.customer_id IS NOT NULL
  AND (a.customer_id IS NULL OR l.charge_id = (
      SELECT min(m.charge_id) FROM landed m WHERE m.customer_id = a.customer_id AND coalesce(m.bill_cycle, 1) = a.bill_cycle
  ));

-- Bills that were charged more than once: few, so that ranking them costs nothing. The charge that was approved comes first.
CREATE OR REPLACE TEMP TABLE again AS
SELECT w.operation_id, row_number() OVER (
    PARTITION BY w.customer_id, w.bill_cycle ORDER BY (w.state = 'succeeded') DESC, w.occurrence
) AS nth, min(w.occurrence) OVER (PARTITION BY w.customer_id, w.bill_cycle) AS first
FROM wrong w SEMI JOIN (SELECT customer_id, bill_cycle FROM wrong WHERE occurrence > 1) t USING (customer_id, bill_cycle);

-- One line for each wrong charge, and one for each bill due that nobody was charged for.
CREATE OR REPLACE TEMP TABLE line AS
WITH charged AS (
    SELECT
        w.customer_id, w.bill_cycle, w.occurrence, w.operation_id, w.charge_id, w.payment_id, w.state,
        w.amount_minor AS wrong_minor, w.currency AS wrong_currency, w.payment_method, w.issuer, w.instrument_token,
        r.charge_id AS right_charge_id, r.amount_minor AS right_minor, r.currency AS right_currency,
        r.payment_method AS right_method, r.issuer AS right_issuer, r.instrument_token AS right_token,
        r.customer_id IS NOT NULL AS has_right_bill,
        CASE WHEN r.currency <> w.currency THEN 'currency' ELSE r.unusable END AS unusable,
        coalesce(a.nth, 1) AS nth,
        -- of several incidents that charged one bill, only that with its first charge may rebill it
        e.first < coalesce(a.first, w.occurrence) AS is_charged_elsewhere
    FROM wrong w
    LEFT JOIN right_bill r ON r.customer_id = w.customer_id AND r.bill_cycle = w.bill_cycle
    LEFT JOIN again a ON a.operation_id = w.operation_id
    LEFT JOIN elsewhere e ON e.customer_id = w.customer_id AND e.bill_cycle = w.bill_cycle
), uncharged AS (
    SELECT
        r.customer_id, r.bill_cycle, 0 AS occurrence, r.charge_id AS right_charge_id, r.amount_minor AS right_minor,
        r.currency AS right_currency, r.payment_method AS right_method, r.issuer AS right_issuer,
        r.instrument_token AS right_token, true AS has_right_bill, r.unusable, 1 AS nth
    FROM right_bill r
    ANTI JOIN wrong w ON w.customer_id = r.customer_id AND w.bill_cycle = r.bill_cycle
    ANTI JOIN elsewhere e ON e.customer_id = r.customer_id AND e.bill_cycle = r.bill_cycle
    WHERE (r.unusable IS NOT NULL OR r.amount_minor > 0) AND ($issuers IS NULL OR list_contains($issuers, r.issuer))
)
SELECT *,
    CASE
        WHEN operation_id IS NULL THEN 'missing'
        WHEN state IN ('unknown', 'sent') THEN 'unknown'
        WHEN state = 'not_sent' THEN 'not_sent'
        WHEN state = 'declined' THEN 'declined'
        WHEN nth > 1 THEN 'twice'
        WHEN NOT has_right_bill THEN 'not_billed'
        WHEN unusable IS NOT NULL THEN 'unusable'
        WHEN right_minor < 0 THEN 'credit'
        WHEN right_minor = 0 THEN 'zero'
        WHEN wrong_minor > right_minor THEN 'over'
        WHEN wrong_minor < right_minor THEN 'under'
        ELSE 'equal'
    END AS class
FROM (FROM charged UNION ALL BY NAME FROM uncharged);
