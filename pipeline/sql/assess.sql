-- Who was hurt, and how: every wrong charge beside the bill that should have been charged.
--
-- Views given: wrong (the incident's charges: operation_id, customer_id, bill_cycle, occurrence, charge_id, amount_minor,
-- currency, payment_method, issuer, instrument_token, state, payment_id), landed (the corrected run's Parquet), elsewhere
-- (customer_id, bill_cycle of what the period was charged outside the incident).
-- Parameters: $issuers, the incident's; NULL for all.

-- The right bill of each account and cycle. One that cannot be charged as it stands says why in `unusable`.
CREATE OR REPLACE TEMP TABLE right_bill AS
WITH named AS (
    SELECT *, coalesce(bill_cycle, 1) AS cycle,
        CASE WHEN charge_id IS NULL OR amount_minor IS NULL OR currency IS NULL OR payment_method IS NULL OR issuer IS NULL
                  OR instrument_token IS NULL THEN 'incomplete'
             WHEN regexp_full_match(regexp_replace(instrument_token, '[ -]', '', 'g'), '[0-9]{13,19}') THEN 'card_number'
        END AS broken
    FROM landed
    WHERE customer_id IS NOT NULL
)
SELECT
    customer_id, cycle AS bill_cycle,
    min(charge_id) AS charge_id, min(amount_minor) AS amount_minor, min(currency) AS currency,
    min(payment_method) AS payment_method, min(issuer) AS issuer, min(instrument_token) AS instrument_token,
    CASE WHEN count(*) > 1 THEN 'ambiguous' ELSE min(broken) END AS unusable
FROM named
GROUP BY customer_id, cycle;

-- Bills that were charged more than once: few, so that ranking them costs nothing. The charge that was approved comes first.
CREATE OR REPLACE TEMP TABLE again AS
SELECT w.operation_id, row_number() OVER (
    PARTITION BY w.customer_id, w.bill_cycle ORDER BY (w.state = 'succeeded') DESC, w.occurrence
) AS nth
FROM wrong w SEMI JOIN (SELECT customer_id, bill_cycle FROM wrong WHERE occurrence > 1) t USING (customer_id, bill_cycle);

-- One line for each wrong charge, and one for each bill due that nobody was charged for.
CREATE OR REPLACE TEMP TABLE line AS
WITH beside AS (
    SELECT
        coalesce(w.customer_id, r.customer_id) AS customer_id, coalesce(w.bill_cycle, r.bill_cycle) AS bill_cycle,
        coalesce(w.occurrence, 0) AS occurrence, w.operation_id, w.charge_id, w.payment_id, w.state,
        w.amount_minor AS wrong_minor, w.currency AS wrong_currency, w.payment_method, w.issuer, w.instrument_token,
        r.charge_id AS right_charge_id, r.amount_minor AS right_minor, r.currency AS right_currency,
        r.payment_method AS right_method, r.issuer AS right_issuer, r.instrument_token AS right_token,
        r.customer_id IS NOT NULL AS has_right_bill,
        CASE WHEN r.currency <> w.currency THEN 'currency' ELSE r.unusable END AS unusable
    FROM wrong w FULL JOIN right_bill r ON r.customer_id = w.customer_id AND r.bill_cycle = w.bill_cycle
)
SELECT
    b.*, coalesce(a.nth, 1) AS nth,
    CASE
        WHEN b.operation_id IS NULL THEN 'missing'
        WHEN b.state IN ('unknown', 'sent') THEN 'unknown'
        WHEN b.state = 'not_sent' THEN 'not_sent'
        WHEN b.state = 'declined' THEN 'declined'
        WHEN coalesce(a.nth, 1) > 1 THEN 'twice'
        WHEN NOT b.has_right_bill THEN 'not_billed'
        WHEN b.unusable IS NOT NULL THEN 'unusable'
        WHEN b.right_minor < 0 THEN 'credit'
        WHEN b.right_minor = 0 THEN 'zero'
        WHEN b.wrong_minor > b.right_minor THEN 'over'
        WHEN b.wrong_minor < b.right_minor THEN 'under'
        ELSE 'equal'
    END AS class
FROM beside b LEFT JOIN again a USING (operation_id)
WHERE b.operation_id IS NOT NULL
   OR ((b.unusable IS NOT NULL OR b.right_minor > 0)
       AND ($issuers IS NULL OR list_contains($issuers, b.right_issuer))
       AND NOT EXISTS (SELECT 1 FROM elsewhere e WHERE e.customer_id = b.customer_id AND e.bill_cycle = b.bill_cycle));
