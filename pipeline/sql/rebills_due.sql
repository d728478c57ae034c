-- Who may be charged the right amount now: nobody whose wrong charges are not certainly undone - every one of the bill's.
--
-- Tables given: plan_line, moved, deviated (see reversals_due.sql); rebilled (rebill operations with their state; whose bill it is only
-- where it is not a first attempt that succeeded, which its key - `rebill_id` of plan_line - says as well), settled (originals whose
-- refund the acquirer has paid), billed_elsewhere (bills that another incident has rebilled, or may have), retry_day (declines so far, days after the first one). Parameters: $day (the business day), $final_reasons.
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
)
SELECT customer_id, billing_period, bill_cycle, min(reason) AS reason
FROM line_standing WHERE reason IS NOT NULL GROUP BY ALL;

CREATE OR REPLACE TEMP TABLE classed AS
WITH tried AS (
    SELECT
        customer_id, billing_period, bill_cycle,
        max(attempt) AS attempts,
        bool_or(state = 'succeeded') AS is_done,
        max(state) FILTER (WHERE state IN ('unknown', 'sent', 'not_sent')) AS under_way,
        count(*) FILTER (WHERE state = 'declined' AND reason <> 'withdrawn') AS declines,
        min(declined_on) AS first_declined_on,
        arg_max(reason, attempt) FILTER (WHERE state = 'declined') AS refusal,
        arg_max(instrument_token, attempt) AS tried_token
    FROM rebilled WHERE customer_id IS NOT NULL GROUP BY ALL
)
SELECT
    l.line,
    CAST(coalesce(t.attempts, 0) + 1 AS INTEGER) AS attempt,
    l.correct_minor AS amount_minor,
    t.first_declined_on + r.days AS retry_on,
    CASE
        WHEN t.is_done OR l.rebill_id IN (SELECT operation_id FROM rebilled WHERE state = 'succeeded') THEN 'done'
        WHEN t.under_way IS NOT NULL THEN t.under_way
        WHEN b.customer_id IS NOT NULL THEN 'billed_elsewhere'
        WHEN u.reason IS NOT NULL THEN u.reason
        WHEN l.correct_minor <= 0 OR l.rebill_token IS NULL THEN 'not_chargeable'
        WHEN t.declines IS NULL OR t.declines = 0 OR t.refusal = 'withdrawn' THEN 'due'
        WHEN r.days IS NULL THEN 'declined_for_good'
        WHEN list_contains($final_reasons, t.refusal) THEN if(t.tried_token = l.rebill_token, 'declined_for_good', 'due')
        WHEN t.first_declined_on + r.days > CAST($day AS DATE) THEN 'declined_until_retry'
        ELSE 'due'
    END AS class
FROM plan_line l
LEFT JOIN unclear u USING (customer_id, billing_period, bill_cycle)
LEFT JOIN tried t USING (customer_id, billing_period, bill_cycle)
LEFT JOIN billed_elsewhere b USING (customer_id, billing_period, bill_cycle)
LEFT JOIN retry_day r ON r.declines = t.declines
WHERE l.rebill = 'rebill';
