-- The run profile: one row per cohort, one column per metric. Cohorts are the union of this run's and history's, so one that is
-- absent this month has its row, with zeros. Issuers in left_out are left out of every cohort: that is how the gate asks whether the
-- others could go without them. Shares are NULL where there is nothing to divide by; whether that is a reason to hold
-- is for the suites to say.
WITH chosen AS (
    SELECT * FROM chosen_cells
),
added AS (
    SELECT
        cohort_kind(issuer_cohort, payment_method_cohort, plan_cohort) AS cohort_kind,
        coalesce(issuer_cohort, payment_method_cohort, plan_cohort, '') AS cohort,
        CAST(coalesce(sum(row_count), 0) AS BIGINT) AS row_count,
        CAST(coalesce(sum(positive_count), 0) AS BIGINT) AS positive_count,
        CAST(coalesce(sum(zero_count), 0) AS BIGINT) AS zero_count,
        CAST(coalesce(sum(negative_count), 0) AS BIGINT) AS negative_count,
        CAST(coalesce(sum(total_minor), 0) AS DECIMAL(38, 0)) AS total_minor,
        CAST(coalesce(sum(positive_minor), 0) AS DECIMAL(38, 0)) AS positive_minor,
        CAST(coalesce(sum(missing_charge_id), 0) AS BIGINT) AS missing_charge_id,
        CAST(coalesce(sum(missing_customer_id), 0) AS BIGINT) AS missing_customer_id,
        CAST(coalesce(sum(missing_billing_period), 0) AS BIGINT) AS missing_billing_period,
        CAST(coalesce(sum(missing_amount), 0) AS BIGINT) AS missing_amount,
        CAST(coalesce(sum(missing_currency), 0) AS BIGINT) AS missing_currency,
        CAST(coalesce(sum(missing_payment_method), 0) AS BIGINT) AS missing_payment_method,
        CAST(coalesce(sum(missing_issuer), 0) AS BIGINT) AS missing_issuer,
        CAST(coalesce(sum(missing_instrument_token), 0) AS BIGINT) AS missing_instrument_token,
        CAST(coalesce(sum(duplicate_charge_id), 0) AS BIGINT) AS duplicate_charge_id,
        CAST(coalesce(sum(duplicate_account), 0) AS BIGINT) AS duplicate_account,
        CAST(coalesce(sum(wrong_period), 0) AS BIGINT) AS wrong_period,
        CAST(coalesce(sum(service_outside_period), 0) AS BIGINT) AS service_outside_period,
        CAST(coalesce(sum(unknown_payment_method), 0) AS BIGINT) AS unknown_payment_method,
        CAST(coalesce(sum(wrong_currency), 0) AS BIGINT) AS wrong_currency,
        CAST(coalesce(sum(unknown_plan), 0) AS BIGINT) AS unknown_plan,
        CAST(coalesce(sum(components_count), 0) AS BIGINT) AS components_count,
        CAST(coalesce(sum(components_disagree), 0) AS BIGINT) AS components_disagree,
        CAST(coalesce(sum(wrong_tax), 0) AS BIGINT) AS wrong_tax,
        CAST(coalesce(sum(over_limit), 0) AS BIGINT) AS over_limit,
        CAST(coalesce(sum(card_number), 0) AS BIGINT) AS card_number,
        CAST(coalesce(sum(previous_row_count), 0) AS BIGINT) AS previous_row_count,
        CAST(coalesce(sum(previous_positive_count), 0) AS BIGINT) AS previous_positive_count,
        CAST(coalesce(sum(previous_zero_count), 0) AS BIGINT) AS previous_zero_count,
        CAST(coalesce(sum(previous_negative_count), 0) AS BIGINT) AS previous_negative_count,
        CAST(coalesce(sum(previous_total_minor), 0) AS DECIMAL(38, 0)) AS previous_total_minor,
        CAST(coalesce(sum(previous_positive_minor), 0) AS DECIMAL(38, 0)) AS previous_positive_minor,
        CAST(coalesce(sum(account_count), 0) AS BIGINT) AS account_count,
        CAST(coalesce(sum(missing_count), 0) AS BIGINT) AS missing_count,
        CAST(coalesce(sum(new_count), 0) AS BIGINT) AS new_count,
        CAST(coalesce(sum(compared_count), 0) AS BIGINT) AS compared_count,
        CAST(coalesce(sum(moved_count), 0) AS BIGINT) AS moved_count,
        CAST(coalesce(sum(previous_compared_count), 0) AS BIGINT) AS previous_compared_count,
        CAST(coalesce(sum(previous_moved_count), 0) AS BIGINT) AS previous_moved_count
    FROM chosen
    LEFT JOIN row_facts USING (cell)
    LEFT JOIN broken_facts USING (cell)
    LEFT JOIN previous_row_facts USING (cell)
    LEFT JOIN account_facts USING (cell)
    GROUP BY GROUPING SETS ((), (issuer_cohort), (payment_method_cohort), (plan_cohort))
),
-- Medians do not add up. They are a bill that exists (the lower of the middle two), hence whole.
middle AS (
    SELECT cohort_kind(issuer_cohort, payment_method_cohort, plan_cohort) AS cohort_kind,
           coalesce(issuer_cohort, payment_method_cohort, plan_cohort, '') AS cohort,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY amount_minor) AS median_minor
    FROM charges_in_cells JOIN chosen USING (cell) WHERE amount_minor > 0
    GROUP BY GROUPING SETS ((), (issuer_cohort), (payment_method_cohort), (plan_cohort))
),
previous_middle AS (
    SELECT cohort_kind(issuer_cohort, payment_method_cohort, plan_cohort) AS cohort_kind,
           coalesce(issuer_cohort, payment_method_cohort, plan_cohort, '') AS cohort,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY amount_minor) AS previous_median_minor
    FROM last_month_in_cells JOIN chosen USING (cell) WHERE amount_minor > 0
    GROUP BY GROUPING SETS ((), (issuer_cohort), (payment_method_cohort), (plan_cohort))
),
-- What was read, what the extract says it read, and what the manifest promised. These say something of the whole run only.
loaded AS (
    SELECT source_file AS name, count(*) AS loaded_count, CAST(coalesce(sum(amount_minor), 0) AS DECIMAL(38, 0)) AS loaded_minor
    FROM charges GROUP BY source_file
),
arrivals AS (
    SELECT
        count(*) FILTER (WHERE coalesce(loaded_count, 0) <> coalesce(row_count, 0)
            OR coalesce(loaded_minor, 0) <> coalesce(control_total_minor, 0)) AS files_unlike_landed,
        count(manifest_row_count) AS manifest_file_count,
        count(*) FILTER (WHERE manifest_row_count <> row_count) AS files_unlike_manifest_rows,
        count(*) FILTER (WHERE manifest_control_total_minor <> control_total_minor) AS files_unlike_manifest_total
    FROM files FULL JOIN loaded USING (name)
)
SELECT
    added.*,
    -- The mean positive bill, in whole minor units.
    CAST(CAST(positive_minor AS HUGEINT) // nullif(positive_count, 0) AS BIGINT) AS mean_minor,
    CAST(CAST(previous_positive_minor AS HUGEINT) // nullif(previous_positive_count, 0) AS BIGINT) AS previous_mean_minor,
    median_minor, previous_median_minor,
    -- Drift: by which share something is above or below last month's.
    share(row_count - previous_row_count, previous_row_count) AS row_count_drift,
    share(positive_minor - previous_positive_minor, previous_positive_minor) AS total_drift,
    share(positive_minor, positive_count) / share(previous_positive_minor, previous_positive_count) - 1 AS mean_drift,
    share(median_minor - previous_median_minor, previous_median_minor) AS median_drift,
    share(zero_count, row_count) - share(previous_zero_count, previous_row_count) AS zero_share_change,
    share(negative_count, row_count) - share(previous_negative_count, previous_row_count) AS negative_share_change,
    share(missing_count, account_count - new_count + missing_count) AS missing_share,
    share(new_count, account_count) AS new_share,
    share(moved_count, compared_count) AS moved_share,
    share(previous_moved_count, previous_compared_count) AS previous_moved_share,
    share(moved_count, compared_count) - coalesce(share(previous_moved_count, previous_compared_count), 0) AS moved_excess,
    CASE WHEN cohort_kind = 'run' THEN files_unlike_landed END AS files_unlike_landed,
    CASE WHEN cohort_kind = 'run' THEN manifest_file_count END AS manifest_file_count,
    CASE WHEN cohort_kind = 'run' THEN files_unlike_manifest_rows END AS files_unlike_manifest_rows,
    CASE WHEN cohort_kind = 'run' THEN files_unlike_manifest_total END AS files_unlike_manifest_total
FROM added
LEFT JOIN middle USING (cohort_kind, cohort)
LEFT JOIN previous_middle USING (cohort_kind, cohort)
CROSS JOIN arrivals
ORDER BY CASE cohort_kind WHEN 'run' THEN 0 WHEN 'issuer' THEN 1 WHEN 'payment_method' THEN 2 ELSE 3 END, cohort
