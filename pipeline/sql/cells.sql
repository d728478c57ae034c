-- The groups everything is counted in. Before this runs, the engine has laid out:
--   charges              this run, as landed
--   history              earlier months, all of them: recency (1 = latest) and the columns of charges
--   month_1 .. month_5   the five latest of them; empty where history is shorter
--   months               recency, billing_period, lag (calendar months before this run)
--   parameters           one row: what the suites and the run fix
--   known_currencies, known_payment_methods

-- The smallest groups that are ever counted: issuer x payment method x plan. Every cohort is a union of them,
-- so each fact below is counted once per cell and added up afterwards. History's cells are included: a cohort
-- that has vanished this month keeps its rows, with zeros.
CREATE TEMP TABLE counted_cells AS
SELECT
    recency, coalesce(issuer, '') AS issuer, coalesce(payment_method, '') AS payment_method, coalesce(plan_code, '') AS plan_code,
    count(*) AS charges, CAST(coalesce(sum(amount_minor), 0) AS DECIMAL(38, 0)) AS total_minor
FROM (SELECT CAST(0 AS INTEGER) AS recency, * FROM charges UNION ALL BY NAME FROM history) AS every_month
GROUP BY 1, 2, 3, 4;

CREATE TEMP TABLE cells AS
WITH found AS (
    SELECT issuer, payment_method, plan_code, CAST(sum(charges) AS BIGINT) AS charges FROM counted_cells GROUP BY 1, 2, 3
)
SELECT
    cell_of(issuer, payment_method, plan_code) AS cell,
    issuer, payment_method, plan_code,
    payment_method NOT IN (SELECT payment_method FROM known_payment_methods) AS payment_method_is_unknown,
    plan_code <> '' AND plan_code NOT IN (SELECT plan_code FROM counted_cells WHERE recency > 0) AND EXISTS (SELECT 1 FROM months) AS plan_is_new,
    may_hold_card(concat_ws('|', issuer, payment_method, plan_code)) AS may_hold_card,
    -- Cohort names. Past the limit, values are counted together: a column full of garbage makes no million cohorts,
    -- and no cohort is a single customer.
    CASE WHEN dense_rank() OVER (ORDER BY issuer_charges DESC, issuer) > cohort_limit THEN '(others)'
         WHEN issuer = '' THEN '(none)' ELSE hide_numbers(issuer) END AS issuer_cohort,
    CASE WHEN dense_rank() OVER (ORDER BY payment_method_charges DESC, payment_method) > cohort_limit THEN '(others)'
         WHEN payment_method = '' THEN '(none)' ELSE hide_numbers(payment_method) END AS payment_method_cohort,
    CASE WHEN dense_rank() OVER (ORDER BY plan_charges DESC, plan_code) > cohort_limit THEN '(others)'
         WHEN plan_code = '' THEN '(none)' ELSE hide_numbers(plan_code) END AS plan_cohort
FROM (
    SELECT *,
        sum(charges) OVER (PARTITION BY issuer) AS issuer_charges,
        sum(charges) OVER (PARTITION BY payment_method) AS payment_method_charges,
        sum(charges) OVER (PARTITION BY plan_code) AS plan_charges
    FROM found
) AS weighed
CROSS JOIN parameters;

-- The cells that profile, lags and signals add up: all of them, unless the gate asks how the run would look without some.
CREATE TEMP VIEW chosen_cells AS
SELECT * FROM cells WHERE issuer_cohort NOT IN (SELECT cohort FROM left_out WHERE cohort_kind = 'issuer')
    AND payment_method_cohort NOT IN (SELECT cohort FROM left_out WHERE cohort_kind = 'payment_method')
    AND plan_cohort NOT IN (SELECT cohort FROM left_out WHERE cohort_kind = 'plan');

-- A month's charges with the cell each belongs to.
CREATE TEMP VIEW charges_in_cells AS
SELECT *, cell_of(issuer, payment_method, plan_code) AS cell FROM charges;

CREATE TEMP VIEW last_month_in_cells AS
SELECT *, cell_of(issuer, payment_method, plan_code) AS cell FROM month_1;

CREATE TEMP VIEW month_before_in_cells AS
SELECT *, cell_of(issuer, payment_method, plan_code) AS cell FROM month_2;
