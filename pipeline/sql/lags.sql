-- Repeats by cohort and earlier month: of the comparable bills (facts.sql says which), the share that is to the unit the bill of
-- that month, and the share that is normal: last month's run against its own month as far back. Where too few bills can say what is
-- normal - a small cohort, or history's oldest month - the largest share that the whole of last month's run had with any month is
-- taken; without that either it is unknown, and nothing is taken off. Never is more than a ceiling called normal, so that one wrong month in history cannot hide the next.
WITH chosen AS (
    SELECT * FROM chosen_cells
),
added AS (
    SELECT
        months.recency,
        cohort_kind(issuer_cohort, payment_method_cohort, plan_cohort) AS cohort_kind,
        coalesce(issuer_cohort, payment_method_cohort, plan_cohort, '') AS cohort,
        CAST(coalesce(sum(comparable), 0) AS BIGINT) AS comparable,
        CAST(coalesce(sum(repeated), 0) AS BIGINT) AS repeated,
        CAST(coalesce(sum(flat), 0) AS BIGINT) AS flat,
        CAST(coalesce(sum(previous_comparable), 0) AS BIGINT) AS previous_comparable,
        CAST(coalesce(sum(previous_repeated), 0) AS BIGINT) AS previous_repeated
    FROM chosen
    CROSS JOIN months
    LEFT JOIN lag_facts ON lag_facts.cell = chosen.cell AND lag_facts.recency = months.recency
    GROUP BY GROUPING SETS ((months.recency), (issuer_cohort, months.recency), (payment_method_cohort, months.recency),
                            (plan_cohort, months.recency))
),
named AS (
    SELECT cohort_kind, cohort, billing_period, lag,
           comparable, repeated, flat, previous_comparable, previous_repeated
    FROM added JOIN months USING (recency)
),
latest AS (SELECT lag AS latest_lag FROM months WHERE recency = 1),
fallback AS (
    SELECT max(share(previous_repeated, previous_comparable)) AS run_share
    FROM named CROSS JOIN parameters WHERE cohort_kind = 'run' AND previous_comparable >= comparable_minimum
),
normal AS (
    SELECT named.cohort_kind, named.cohort, named.lag - latest_lag AS lag,
           share(named.previous_repeated, named.previous_comparable) AS normal_share,
           -- what may still be normal where that is the count: two standard deviations more, and one bill
           named.previous_repeated + 2 * sqrt(named.previous_repeated) + 1 AS likely, named.previous_comparable AS of_bills
    FROM named CROSS JOIN parameters CROSS JOIN latest
    WHERE named.previous_comparable >= comparable_minimum
),
-- A cohort is drawn towards the run, whose repeats are chance as much as its own; with little history the run itself towards a default.
run_normal AS (SELECT lag, likely / of_bills AS run_likely FROM normal WHERE cohort_kind = 'run'),
likely AS (
    SELECT cohort_kind, cohort, lag, normal_share,
        CASE WHEN cohort_kind <> 'run' THEN (likely + repeat_prior_weight * coalesce(run_likely, normal_share)) / (of_bills + repeat_prior_weight)
             WHEN month_count < 5 THEN greatest(run_likely, normal_share_least) ELSE run_likely END AS likely_share
    FROM normal LEFT JOIN run_normal USING (lag) CROSS JOIN parameters
)
SELECT
    cohort_kind, cohort, billing_period AS compared_with, lag, comparable, repeated,
    share(repeated, comparable) AS repeat_share,
    least_of(coalesce(normal_share, run_share), normal_share_ceiling) AS normal_share,
    share(repeated, comparable) - coalesce(least_of(coalesce(normal_share, run_share), normal_share_ceiling), 0) AS repeat_excess,
    -- where nothing says what is normal, a stated default does
    surprise(repeated - flat, repeat_slack * least_of(coalesce(likely_share, run_share, normal_share_default), normal_share_ceiling) * comparable + 0.5)
        - ln(count(*) OVER (PARTITION BY cohort_kind)) AS repeat_surprise
FROM named
LEFT JOIN likely USING (cohort_kind, cohort, lag)
CROSS JOIN fallback
CROSS JOIN parameters
ORDER BY CASE cohort_kind WHEN 'run' THEN 0 WHEN 'issuer' THEN 1 WHEN 'payment_method' THEN 2 ELSE 3 END, cohort, lag
