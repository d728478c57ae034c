-- Signals by cohort: how many bills show each, how many would be normal, and how surprising the difference is.
--
-- Normal is the largest share that the signal had in an earlier month, or what was learned from more of them; a cohort's own share is
-- drawn towards the whole run's, as if prior_weight more of its bills had shown that. A month in which more than event_share showed it,
-- beside one in which fewer did, was an event - a price change, cards issued anew - and says nothing of normal. Expected is the larger of
-- normal and of the cohort's own. Up to `slack` times as many still count as normal, and half a bill is expected even of what has never
-- been seen. From surprise and deficit goes what comes of asking many cohorts: the logarithm of their number.
-- The whole run is judged by the mean and spread of many months as well, without slack, where the engine has counted them.
WITH chosen AS (
    SELECT * FROM chosen_cells
),
added AS (
    SELECT
        signal, recency,
        CASE GROUPING(issuer_cohort, payment_method_cohort, plan_cohort)
            WHEN 7 THEN 'run' WHEN 3 THEN 'issuer' WHEN 5 THEN 'payment_method' WHEN 6 THEN 'plan'
            WHEN 1 THEN 'issuer_method' ELSE 'issuer_plan' END AS cohort_kind,
        concat_ws(' / ', issuer_cohort, payment_method_cohort, plan_cohort) AS cohort,
        CAST(sum(base) AS BIGINT) AS base, CAST(sum(hits) AS BIGINT) AS hits
    FROM signal_counts JOIN chosen USING (cell)
    GROUP BY GROUPING SETS (
        (signal, recency), (signal, recency, issuer_cohort), (signal, recency, payment_method_cohort), (signal, recency, plan_cohort),
        (signal, recency, issuer_cohort, payment_method_cohort), (signal, recency, issuer_cohort, plan_cohort))
),
run AS (SELECT signal, recency, share(hits, base) AS run_share FROM added WHERE cohort_kind = 'run' AND recency > 0 AND base > 0),
shares AS (
    SELECT a.cohort_kind, a.cohort, a.signal, share(e.hits, e.base) AS counted, (coalesce(e.hits, 0) + prior_weight * run_share) / (coalesce(e.base, 0) + prior_weight) AS drawn,
        -- the count itself is chance: a standard deviation more, and half a bill, may still be normal
        CASE WHEN e.base > 0 THEN (e.hits + sqrt(e.hits) + 0.5) / e.base END AS own
    FROM added a
    JOIN run r ON r.signal = a.signal
    LEFT JOIN added e ON e.signal = a.signal AND e.recency = r.recency AND e.cohort_kind = a.cohort_kind AND e.cohort = a.cohort
    CROSS JOIN parameters
    WHERE a.recency = 0
),
without_events AS (
    SELECT shares.* FROM shares CROSS JOIN parameters
    QUALIFY greatest(drawn, counted) <= event_share OR row_number() OVER (PARTITION BY cohort_kind, cohort, signal ORDER BY drawn, own) = 1
),
normal AS (
    SELECT cohort_kind, cohort, signal, max(drawn) AS highest, max(greatest(drawn, own)) AS likely, min(drawn) AS lowest
    FROM without_events GROUP BY ALL
),
judged AS (
    SELECT a.cohort_kind, a.cohort, a.signal, a.base, a.hits, share(a.hits, a.base) AS share,
        coalesce(l.highest, n.highest, d.normal_share) AS normal_share,
        d.slack * coalesce(l.highest, n.likely, d.normal_share) * a.base + 0.5 AS expected,
        coalesce(l.lowest, n.lowest) / d.slack * a.base AS expected_least,
        CASE WHEN l.highest IS NULL THEN m.share * a.base + 0.5 END AS mean_hits, m.dispersion, m.month_count
    FROM added a
    JOIN signal_defaults d USING (signal)
    LEFT JOIN normal n USING (cohort_kind, cohort, signal)
    LEFT JOIN learned l USING (cohort_kind, cohort, signal)
    LEFT JOIN many_months m ON a.cohort_kind = 'run' AND m.signal = a.signal
    WHERE a.recency = 0
    UNION ALL BY NAME
    -- nobody at all to look at
    SELECT 'run' AS cohort_kind, '' AS cohort, signal, 0 AS base, 0 AS hits FROM signal_defaults
    WHERE signal NOT IN (SELECT signal FROM added WHERE recency = 0)
)
SELECT cohort_kind, cohort, signal, base, hits, share, normal_share,
    share - normal_share AS excess_share,
    CASE WHEN normal_share IS NULL THEN 0 ELSE 1 END AS has_normal,
    greatest(surprise(hits, expected), CASE WHEN signal <> 'joined' THEN dispersed(surprise(hits, mean_hits), dispersion, month_count) END)
        - ln(count(*) OVER (PARTITION BY cohort_kind, signal)) AS surprise,
    greatest(coalesce(deficit(hits, expected_least), 0), CASE WHEN signal = 'joined' THEN dispersed(deficit(hits, mean_hits), dispersion, month_count) END)
        - ln(count(*) OVER (PARTITION BY cohort_kind, signal)) AS deficit
FROM judged
WHERE base > 0 OR cohort_kind = 'run'
ORDER BY CASE cohort_kind WHEN 'run' THEN 0 WHEN 'issuer' THEN 1 WHEN 'payment_method' THEN 2 WHEN 'plan' THEN 3 ELSE 4 END, cohort, signal
