-- Whether one of the signals whose normal month is a single one, with no other to tell by, was there in so much of a cohort that the
-- month was an event. The engine fills in which signals.
SELECT EXISTS (
    SELECT signal FROM signal_counts JOIN cells USING (cell) CROSS JOIN parameters
    WHERE recency = 1 AND signal IN ({signals})
    GROUP BY GROUPING SETS ((signal), (signal, issuer_cohort), (signal, payment_method_cohort), (signal, plan_cohort))
    HAVING sum(base) >= any_value(comparable_minimum) AND share(sum(hits), sum(base)) > any_value(event_share)
)
