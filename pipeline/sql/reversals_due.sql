-- Where every line of a plan stands that a step has to undo: done, under way, settled otherwise, refused, or due.
--
-- Tables given: step_line (the lines of plan_line.sql that are asked about), moved (void and refund operations of the
-- incident with their state), deviated (what live state made us do otherwise). Parameters: $step (cancel or refund), $kind (void or refund).
WITH tried AS (
    SELECT
        original,
        max(attempt) AS attempts,
        max(state) FILTER (WHERE state IN ('unknown', 'sent', 'not_sent')) AS under_way,
        arg_max(reason, attempt) FILTER (WHERE state = 'declined' AND kind = $kind) AS refusal
    FROM moved WHERE state <> 'succeeded' GROUP BY original
),
otherwise AS (
    SELECT
        original,
        bool_or(kind IN ('expired', 'already_returned', 'charge_was_declined')) AS is_settled,
        bool_or(kind = 'void_became_refund') AS became_refund
    FROM deviated GROUP BY original
)
SELECT
    l.line,
    CAST(coalesce(t.attempts, 0) + 1 AS INTEGER) AS attempt,
    coalesce(l.reversal_minor, l.wrong_minor) AS amount_minor,
    CASE
        WHEN $step = 'cancel' AND o.became_refund THEN 'became_refund'
        WHEN l.original IN (SELECT original FROM moved WHERE state = 'succeeded') THEN 'done'
        WHEN t.under_way IS NOT NULL THEN t.under_way
        WHEN o.is_settled THEN 'settled_otherwise'
        WHEN t.refusal NOT IN ('withdrawn', 'never_received', 'disputed', 'not_acquired', 'over_refund') THEN 'refused'
        ELSE 'due'
    END AS class
FROM step_line l
LEFT JOIN tried t USING (original)
LEFT JOIN otherwise o USING (original)
WHERE l.reversal = CASE $step WHEN 'cancel' THEN 'void' ELSE 'refund' END
   OR ($step = 'refund' AND l.reversal = 'void' AND o.became_refund)
