-- Bills that nobody may be charged again for, and why: not every wrong charge of theirs is certainly undone.
--
-- Tables given: plan_line (plan_line.sql), moved, deviated (see reversals_due.sql); settled (originals whose refund the acquirer has paid);
-- charged_since (charges of the period that went out, or of which something was heard, since the plan was made, and that may have succeeded).
-- Parameter: $day (the business day).
CREATE OR REPLACE TEMP TABLE unclear AS
WITH undone AS (
    SELECT
        original,
        max(state) FILTER (WHERE state IN ('unknown', 'sent', 'not_sent')) AS under_way,
        arg_max(reason, attempt) FILTER (WHERE state = 'declined') AS refusal
    FROM moved WHERE state <> 'succeeded' GROUP BY original
),
otherwise AS (
    SELECT
        original,
        bool_or(kind IN ('expired', 'already_returned', 'charge_was_declined')) AS is_settled,
        bool_or(kind = 'disputed') AS is_disputed
    FROM deviated GROUP BY original
),
line_standing AS (
    SELECT
        l.customer_id, l.billing_period, l.bill_cycle,
        CASE
            WHEN l.rebill = 'hold' THEN 'hold'
            WHEN l.reversal IN ('wait', 'manual') THEN l.reversal
            -- the plan took it for never charged: then there is nothing of it to undo, and now there may be
            WHEN l.reversal_reason IN ('never_charged', 'never_sent', 'charge_declined') AND c.customer_id IS NOT NULL THEN 'charged_since'
            WHEN u.under_way = 'unknown' THEN 'reversal_unknown'
            WHEN u.under_way IS NOT NULL THEN 'reversal_under_way'
            -- money back on an account comes days after the acquirer's yes; the acquirer's payment says so, else the issuer's lead time
            WHEN l.original IN (SELECT original FROM moved WHERE state = 'succeeded' AND kind = 'refund') AND l.payment_method <> 'credit_card' AND s.original IS NULL
                 AND (l.money_back_by IS NULL OR l.money_back_by > CAST($day AS DATE)) THEN 'refund_not_credited'
            WHEN l.original IN (SELECT original FROM moved WHERE state = 'succeeded') OR o.is_settled OR l.reversal = 'none' THEN NULL
            WHEN o.is_disputed THEN 'disputed'
            WHEN u.refusal IS NOT NULL THEN 'reversal_declined'
            ELSE 'reversal_not_done'
        END AS reason
    FROM plan_line l
    LEFT JOIN undone u USING (original)
    LEFT JOIN otherwise o USING (original)
    LEFT JOIN settled s USING (original)
    LEFT JOIN charged_since c ON c.customer_id = l.customer_id AND c.billing_period = l.billing_period AND c.bill_cycle = l.bill_cycle
        AND coalesce(c.operation_id = l.original, true)
)
SELECT customer_id, billing_period, bill_cycle, min(reason) AS reason
FROM line_standing WHERE reason IS NOT NULL GROUP BY ALL;
