-- Who may be charged the right amount now: whose wrong charges are certainly undone, and who was not charged it yet.
--
-- Tables given: step_line (the lines of plan_line.sql that are asked about), unclear (rebills_unclear.sql); rebilled (rebill operations
-- with their state; whose bill it is only where it is not a first attempt that succeeded, which its key - `rebill_id` of plan_line - says
-- as well), billed_elsewhere (bills that another incident has rebilled, or may have), retry_day (declines so far, days after the first
-- one). Parameters: $day (the business day), $final_reasons.
WITH tried AS (
    SELECT
        customer_id, billing_period, bill_cycle,
        max(attempt) AS attempts,
        bool_or(state = 'succeeded') AS is_done,
        max(state) FILTER (WHERE state IN ('unknown', 'sent', 'not_sent')) AS under_way,
        count(*) FILTER (WHERE state = 'declined' AND reason NOT IN ('withdrawn', 'never_received')) AS declines,
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
        WHEN t.declines IS NULL OR t.declines = 0 OR t.refusal IN ('withdrawn', 'never_received') THEN 'due'
        WHEN r.days IS NULL THEN 'declined_for_good'
        WHEN list_contains($final_reasons, t.refusal) THEN if(t.tried_token = l.rebill_token, 'declined_for_good', 'due')
        WHEN t.first_declined_on + r.days > CAST($day AS DATE) THEN 'declined_until_retry'
        ELSE 'due'
    END AS class
FROM step_line l
LEFT JOIN unclear u USING (customer_id, billing_period, bill_cycle)
LEFT JOIN tried t USING (customer_id, billing_period, bill_cycle)
LEFT JOIN billed_elsewhere b USING (customer_id, billing_period, bill_cycle)
LEFT JOIN retry_day r ON r.declines = t.declines
WHERE l.rebill = 'rebill'
