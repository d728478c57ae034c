-- What becomes of every line of assess.sql: one reason-coded action to undo it, one to charge what is right.
--
-- Tables given: line (assess.sql); live (payment_id, state, charged_minor, refunded_minor, refundable_minor - what the acquirer
-- says now); undone (original_id, state, reason, amount_minor, of the newest reversal of each charge in this incident);
-- rebilled (customer_id, bill_cycle, state, amount_minor, of the newest rebill of each bill in this incident);
-- clock (payment_method, issuer, void_back_by, refund_back_by - when an undone customer has the money, NULL if none had left).
-- Parameters: $billing_period; $leave_equal: leave a charge alone that happens to be right; $charge_missing: charge bills due
-- that nobody was charged for; $is_successor: only what is left.

-- With $leave_equal, the one charge of each bill that may stand: right to the won, whole, undisputed, and the bill's first.
CREATE OR REPLACE TEMP TABLE left_alone AS
SELECT l.customer_id, l.bill_cycle, min(l.occurrence) AS occurrence
FROM line l JOIN live v USING (payment_id)
WHERE $leave_equal AND l.state = 'succeeded' AND l.has_right_bill AND l.unusable IS NULL AND l.wrong_minor = l.right_minor
  AND v.state IN ('authorised', 'acquired') AND v.refunded_minor = 0 AND l.is_charged_elsewhere IS NOT TRUE
GROUP BY l.customer_id, l.bill_cycle;

-- Why each line is undone the way it is, or is not; kept narrow, by the line's place.
CREATE OR REPLACE TEMP TABLE verdict AS
WITH reasoned AS (
    SELECT
        l.rowid AS line_id, v.refundable_minor, u.state = 'succeeded' AND (v.state = 'voided' OR u.amount_minor = l.wrong_minor) AS is_undone_by_us,
        s.customer_id IS NOT NULL AS has_right_charge,
        CASE
            WHEN l.operation_id IS NULL THEN 'never_charged'
            WHEN l.state IN ('unknown', 'sent') THEN 'outcome_unknown'
            WHEN l.state = 'not_sent' THEN 'never_sent'
            WHEN l.state = 'declined' THEN 'charge_declined'
            WHEN u.state IN ('unknown', 'sent') THEN 'reversal_unknown'
            WHEN v.state IS NULL THEN 'unknown_to_acquirer'
            WHEN v.charged_minor <> l.wrong_minor THEN 'amount_differs_at_acquirer'
            WHEN v.state = 'declined' THEN 'declined_at_acquirer'
            WHEN v.state = 'disputed' THEN 'dispute_open'
            WHEN v.state = 'voided' THEN 'already_voided'
            WHEN v.state = 'expired' THEN 'approval_expired'
            WHEN v.state = 'refunded' OR (v.state = 'acquired' AND v.refundable_minor = 0) THEN 'already_returned'
            WHEN s.occurrence = l.occurrence THEN 'equal_left_alone'
            WHEN u.state = 'declined' AND u.reason IN ('closed_card', 'expired_card', 'unknown_card', 'payment_not_found')
                THEN 'refund_refused_' || u.reason
            WHEN v.state = 'authorised' THEN 'not_acquired'
            WHEN v.refunded_minor > 0 THEN 'rest_of_support_refund'
            ELSE 'acquired'
        END AS reversal_reason
    FROM line l
    LEFT JOIN live v ON v.payment_id = l.payment_id
    LEFT JOIN undone u ON u.original_id = l.operation_id
    LEFT JOIN left_alone s ON s.customer_id = l.customer_id AND s.bill_cycle = l.bill_cycle
)
SELECT *,
    CASE
        WHEN reversal_reason = 'not_acquired' THEN 'void'
        WHEN reversal_reason IN ('acquired', 'rest_of_support_refund') THEN 'refund'
        WHEN reversal_reason IN ('outcome_unknown', 'never_sent', 'reversal_unknown', 'unknown_to_acquirer', 'dispute_open') THEN 'wait'
        WHEN reversal_reason IN ('amount_differs_at_acquirer', 'declined_at_acquirer') OR starts_with(reversal_reason, 'refund_refused_')
            THEN 'manual'
        ELSE 'none'
    END AS reversal
FROM reasoned;

-- A bill is rebilled once, and only when none of its charges is open.
CREATE OR REPLACE TEMP TABLE open_bill AS
SELECT DISTINCT l.customer_id, l.bill_cycle
FROM line l JOIN verdict d ON d.line_id = l.rowid
WHERE d.reversal IN ('wait', 'manual');

-- The plan, a line each, in the order of its key.
WITH reasoned AS (
    SELECT l.*, d.reversal, d.reversal_reason, d.refundable_minor, d.is_undone_by_us, c.void_back_by, c.refund_back_by,
        CASE
            WHEN l.nth > 1 THEN 'with_first_charge'
            WHEN NOT l.has_right_bill THEN 'no_right_bill'
            WHEN l.unusable IS NOT NULL THEN 'right_bill_' || l.unusable
            WHEN b.state IN ('unknown', 'sent') THEN 'rebill_unknown'
            WHEN b.state = 'succeeded' AND b.amount_minor = l.right_minor THEN 'already_rebilled'
            WHEN b.state = 'succeeded' THEN 'rebilled_another_amount'
            WHEN l.right_minor < 0 THEN 'credit_carried'
            WHEN l.right_minor = 0 THEN 'zero_bill'
            WHEN d.has_right_charge THEN 'equal_left_alone'
            WHEN l.is_charged_elsewhere THEN 'charged_elsewhere'
            WHEN o.customer_id IS NOT NULL THEN 'reversal_open'
            WHEN l.operation_id IS NULL AND NOT $charge_missing THEN 'not_in_import'
            WHEN b.state = 'declined' THEN 'declined_before'
            WHEN l.operation_id IS NULL THEN 'was_never_charged'
            ELSE 'right_amount'
        END AS rebill_reason
    FROM line l
    JOIN verdict d ON d.line_id = l.rowid
    LEFT JOIN rebilled b ON b.customer_id = l.customer_id AND b.bill_cycle = l.bill_cycle
    LEFT JOIN open_bill o ON o.customer_id = l.customer_id AND o.bill_cycle = l.bill_cycle
    LEFT JOIN clock c ON c.payment_method = l.payment_method AND c.issuer = l.issuer
), decided AS (
    SELECT *,
        CASE
            WHEN rebill_reason IN ('right_amount', 'was_never_charged', 'declined_before') THEN 'rebill'
            WHEN rebill_reason IN ('reversal_open', 'rebill_unknown', 'rebilled_another_amount', 'not_in_import', 'charged_elsewhere')
                 OR starts_with(rebill_reason, 'right_bill_') THEN 'hold'
            ELSE 'no_rebill'
        END AS rebill
    FROM reasoned
)
SELECT
    customer_id, $billing_period AS billing_period, bill_cycle, CAST(occurrence AS INTEGER) AS occurrence,
    charge_id, operation_id AS original_id, payment_id, wrong_minor,
    CASE WHEN unusable IS NULL THEN right_minor END AS correct_minor,
    coalesce(wrong_currency, right_currency) AS currency, payment_method, issuer, instrument_token, class,
    reversal, reversal_reason,
    CASE reversal WHEN 'void' THEN wrong_minor WHEN 'refund' THEN refundable_minor END AS reversal_minor,
    rebill, rebill_reason,
    CASE WHEN rebill = 'rebill' THEN right_charge_id END AS rebill_charge_id,
    CASE WHEN rebill = 'rebill' THEN right_method END AS rebill_method,
    CASE WHEN rebill = 'rebill' THEN right_issuer END AS rebill_issuer,
    CASE WHEN rebill = 'rebill' THEN right_token END AS rebill_token,
    CASE reversal WHEN 'void' THEN void_back_by WHEN 'refund' THEN refund_back_by END AS money_back_by
FROM decided
WHERE NOT $is_successor OR reversal <> 'none' OR rebill <> 'no_rebill'
   -- gone without us, in whole or in part: a step has yet to keep that in the books, or has
   OR (reversal_reason IN ('approval_expired', 'already_voided', 'already_returned') AND is_undone_by_us IS DISTINCT FROM true
       AND rebill_reason <> 'already_rebilled')
ORDER BY customer_id, bill_cycle, occurrence
