-- Every fact, counted once per cell. All of them add up, so any cohort is a sum over its cells.

CREATE TEMP TABLE row_facts AS
SELECT
    cell,
    count(*) AS row_count,
    count(*) FILTER (WHERE amount_minor > 0) AS positive_count,
    count(*) FILTER (WHERE amount_minor = 0) AS zero_count,
    count(*) FILTER (WHERE amount_minor < 0) AS negative_count,
    CAST(coalesce(sum(amount_minor), 0) AS DECIMAL(38, 0)) AS total_minor,
    CAST(coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0) AS DECIMAL(38, 0)) AS positive_minor,
    count(*) FILTER (WHERE base_fee_minor IS NOT NULL AND usage_fee_minor IS NOT NULL AND discount_minor IS NOT NULL
        AND tax_minor IS NOT NULL) AS components_count
FROM charges_in_cells GROUP BY cell;

CREATE TEMP TABLE broken_facts AS
SELECT
    cell,
    count(*) FILTER (WHERE missing_charge_id) AS missing_charge_id,
    count(*) FILTER (WHERE missing_customer_id) AS missing_customer_id,
    count(*) FILTER (WHERE missing_billing_period) AS missing_billing_period,
    count(*) FILTER (WHERE missing_amount) AS missing_amount,
    count(*) FILTER (WHERE missing_currency) AS missing_currency,
    count(*) FILTER (WHERE missing_payment_method) AS missing_payment_method,
    count(*) FILTER (WHERE missing_issuer) AS missing_issuer,
    count(*) FILTER (WHERE missing_instrument_token) AS missing_instrument_token,
    count(*) FILTER (WHERE duplicate_charge_id) AS duplicate_charge_id,
    count(*) FILTER (WHERE duplicate_account) AS duplicate_account,
    count(*) FILTER (WHERE wrong_period) AS wrong_period,
    count(*) FILTER (WHERE service_outside_period) AS service_outside_period,
    count(*) FILTER (WHERE unknown_payment_method) AS unknown_payment_method,
    count(*) FILTER (WHERE wrong_currency) AS wrong_currency,
    count(*) FILTER (WHERE unknown_plan) AS unknown_plan,
    count(*) FILTER (WHERE components_disagree) AS components_disagree,
    count(*) FILTER (WHERE wrong_tax) AS wrong_tax,
    count(*) FILTER (WHERE over_limit) AS over_limit,
    count(*) FILTER (WHERE card_number) AS card_number
FROM broken GROUP BY cell;

CREATE TEMP TABLE previous_row_facts AS
SELECT
    cell,
    count(*) AS previous_row_count,
    count(*) FILTER (WHERE amount_minor > 0) AS previous_positive_count,
    count(*) FILTER (WHERE amount_minor = 0) AS previous_zero_count,
    count(*) FILTER (WHERE amount_minor < 0) AS previous_negative_count,
    CAST(coalesce(sum(amount_minor), 0) AS DECIMAL(38, 0)) AS previous_total_minor,
    CAST(coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0) AS DECIMAL(38, 0)) AS previous_positive_minor
FROM last_month_in_cells GROUP BY cell;

-- An account that is missing is counted where it was last month, every other where it is now.
CREATE TEMP TABLE account_facts AS
SELECT
    coalesce(cell, previous_cell) AS cell,
    count(*) FILTER (WHERE cell IS NOT NULL) AS account_count,
    count(*) FILTER (WHERE cell IS NULL) AS missing_count,
    count(*) FILTER (WHERE previous_cell IS NULL) AS new_count,
    count(*) FILTER (WHERE amount_0 > 0 AND amount_1 > 0) AS compared_count,
    count(*) FILTER (WHERE amount_0 > 0 AND amount_1 > 0 AND moved(amount_0, amount_1, moved_percent)) AS moved_count,
    count(*) FILTER (WHERE amount_1 > 0 AND amount_2 > 0) AS previous_compared_count,
    count(*) FILTER (WHERE amount_1 > 0 AND amount_2 > 0 AND moved(amount_1, amount_2, moved_percent)) AS previous_moved_count
FROM accounts CROSS JOIN parameters GROUP BY 1;

-- Repeats. A flat tariff repeats every month and says nothing; so a bill is *comparable* with an earlier month only where the
-- account's bills vary: its amounts of that month and of the two latest other months are all different. Where history has two
-- months only, those two must differ; one month alone cannot tell a repeat from a flat tariff, so nothing is comparable.
-- Both bills must be positive. A comparable bill *repeats* when it is to the unit the bill of that month.
-- previous_*: the same for the latest earlier month against the months before it - what is normal.
CREATE TEMP TABLE lag_facts AS
WITH varied AS (
    SELECT
        cell, amount_0, amount_1, amount_2, amount_3, amount_4, amount_5,
        coalesce(usage_0 = 0 AND usage_1 = 0, FALSE) AS is_flat,
        month_count >= 2 AND amount_1 <> amount_2
            AND (month_count = 2 OR (amount_3 <> amount_1 AND amount_3 <> amount_2)) AS recent,
        amount_1 <> amount_2 AND amount_4 <> amount_1 AND amount_4 <> amount_2 AS fourth,
        amount_1 <> amount_2 AND amount_5 <> amount_1 AND amount_5 <> amount_2 AS fifth,
        month_count >= 3 AND amount_2 <> amount_3
            AND (month_count = 3 OR (amount_4 <> amount_2 AND amount_4 <> amount_3)) AS before,
        amount_2 <> amount_3 AND amount_5 <> amount_2 AND amount_5 <> amount_3 AS fifth_before
    FROM accounts CROSS JOIN parameters WHERE cell IS NOT NULL
),
pairs AS (
    SELECT
        cell,
        count(*) FILTER (WHERE recent AND amount_0 > 0 AND amount_1 > 0) AS comparable_1,
        count(*) FILTER (WHERE recent AND amount_0 > 0 AND amount_0 = amount_1) AS repeated_1,
        -- nothing was used in either month: two changes of price or plan in a row, and now the same again
        count(*) FILTER (WHERE recent AND amount_0 > 0 AND amount_0 = amount_1 AND is_flat) AS flat_1,
        count(*) FILTER (WHERE recent AND amount_0 > 0 AND amount_2 > 0) AS comparable_2,
        count(*) FILTER (WHERE recent AND amount_0 > 0 AND amount_0 = amount_2) AS repeated_2,
        count(*) FILTER (WHERE before AND amount_1 > 0 AND amount_2 > 0) AS previous_comparable_2,
        count(*) FILTER (WHERE before AND amount_1 > 0 AND amount_1 = amount_2) AS previous_repeated_2,
        count(*) FILTER (WHERE recent AND amount_0 > 0 AND amount_3 > 0) AS comparable_3,
        count(*) FILTER (WHERE recent AND amount_0 > 0 AND amount_0 = amount_3) AS repeated_3,
        count(*) FILTER (WHERE before AND amount_1 > 0 AND amount_3 > 0) AS previous_comparable_3,
        count(*) FILTER (WHERE before AND amount_1 > 0 AND amount_1 = amount_3) AS previous_repeated_3,
        count(*) FILTER (WHERE fourth AND amount_0 > 0 AND amount_4 > 0) AS comparable_4,
        count(*) FILTER (WHERE fourth AND amount_0 > 0 AND amount_0 = amount_4) AS repeated_4,
        count(*) FILTER (WHERE before AND amount_1 > 0 AND amount_4 > 0) AS previous_comparable_4,
        count(*) FILTER (WHERE before AND amount_1 > 0 AND amount_1 = amount_4) AS previous_repeated_4,
        count(*) FILTER (WHERE fifth AND amount_0 > 0 AND amount_5 > 0) AS comparable_5,
        count(*) FILTER (WHERE fifth AND amount_0 > 0 AND amount_0 = amount_5) AS repeated_5,
        count(*) FILTER (WHERE fifth_before AND amount_1 > 0 AND amount_5 > 0) AS previous_comparable_5,
        count(*) FILTER (WHERE fifth_before AND amount_1 > 0 AND amount_1 = amount_5) AS previous_repeated_5
    FROM varied GROUP BY cell
)
SELECT cell, 1 AS recency, comparable_1 AS comparable, repeated_1 AS repeated, flat_1 AS flat,
       CAST(0 AS BIGINT) AS previous_comparable, CAST(0 AS BIGINT) AS previous_repeated FROM pairs
UNION ALL SELECT cell, 2, comparable_2, repeated_2, 0, previous_comparable_2, previous_repeated_2 FROM pairs
UNION ALL SELECT cell, 3, comparable_3, repeated_3, 0, previous_comparable_3, previous_repeated_3 FROM pairs
UNION ALL SELECT cell, 4, comparable_4, repeated_4, 0, previous_comparable_4, previous_repeated_4 FROM pairs
UNION ALL SELECT cell, 5, comparable_5, repeated_5, 0, previous_comparable_5, previous_repeated_5 FROM pairs;
