-- The floor of the gate: the same checks, metrics, cohorts and quarantine list as the pipeline's, written by hand for speed
-- and for nothing else. Three earlier months exactly; issuer, payment method and plan of a few dozen values each; no
-- protection against amounts that overflow, against an account billed twice in an earlier month, or against a cohort's name
-- holding a card number. No verdict is explained, nothing is reported.
--
-- Given: views now, last, before, oldest (landed partitions, latest first); table files (name, row_count, control_total_minor,
-- manifest_row_count, manifest_control_total_minor); variables period, first_day, last_day, currency, amount_limit_minor, tax_basis_points,
-- moved_percent, comparable_minimum, normal_share_ceiling. Left behind: tables profile, lags, quarantine, failed.

CREATE TEMP MACRO blank(text) AS (text IS NULL OR (text < '!' AND trim(text) = ''));
CREATE TEMP MACRO like_card(text) AS (strlen(text) > 12 AND regexp_matches(text, '[0-9]{4}[ -]?[0-9]{4,6}[ -]?[0-9]{4}'));
CREATE TEMP MACRO share(part, whole) AS CASE WHEN whole > 0 THEN CAST(part AS DOUBLE) / CAST(whole AS DOUBLE) END;
CREATE TEMP MACRO moved(amount, earlier) AS
    abs(CAST(amount AS DOUBLE) - CAST(earlier AS DOUBLE)) * 100 > CAST(earlier AS DOUBLE) * getvariable('moved_percent');
CREATE TEMP MACRO kind_of(issuer, payment_method, plan_code) AS
    CASE WHEN issuer IS NOT NULL THEN 'issuer' WHEN payment_method IS NOT NULL THEN 'payment_method' WHEN plan_code IS NOT NULL THEN 'plan'
         ELSE 'run' END;
CREATE TEMP MACRO named(value) AS CASE WHEN value = '' THEN '(none)' ELSE value END;
-- Luhn: from the right, every second digit counts double, and of a product its digits are added.
CREATE TEMP MACRO passes_luhn(digits) AS list_sum(list_transform(
    list_reverse(string_split(digits, '')),
    lambda digit, place: CASE WHEN place % 2 = 1 THEN CAST(digit AS INTEGER) WHEN digit > '4' THEN 2 * CAST(digit AS INTEGER) - 9
                              ELSE 2 * CAST(digit AS INTEGER) END)) % 10 = 0;
CREATE TEMP MACRO holds_card(texts) AS len(list_filter(
    regexp_extract_all(
        replace(texts, '_', ' '),
        '\b([0-9]{13,19}|[0-9]{4}([ -][0-9]{4}){2}[ -][0-9]{1,7}|[0-9]{4}([ -][0-9]{4}){3}[ -][0-9]{3}|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5})\b'),
    lambda found: regexp_full_match(regexp_replace(found, '[ -]', '', 'g'),
        '4([0-9]{12}|[0-9]{15}|[0-9]{18})|(5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}|3[47][0-9]{13}'
        || '|3(0[0-5]|[689][0-9])[0-9]{11}|3(0[0-5]|[689][0-9])[0-9]{13,16}|35(2[89]|[3-8][0-9])[0-9]{12,15}|(50|5[6-8]|6[0-9])[0-9]{14,17}'
        || '|9[0-9]{15}')
        AND passes_luhn(regexp_replace(found, '[ -]', '', 'g')))) > 0;

-- This month and last, added up by issuer, payment method, plan (and file).
CREATE TEMP TABLE now_cells AS
SELECT
    coalesce(issuer, '') AS issuer, coalesce(payment_method, '') AS payment_method, coalesce(plan_code, '') AS plan_code, source_file,
    count(*) AS row_count, count_if(amount_minor > 0) AS positive_count, count_if(amount_minor = 0) AS zero_count,
    count_if(amount_minor < 0) AS negative_count, coalesce(sum(amount_minor), 0) AS total_minor,
    coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0) AS positive_minor,
    count_if(base_fee_minor IS NOT NULL AND usage_fee_minor IS NOT NULL AND discount_minor IS NOT NULL AND tax_minor IS NOT NULL)
        AS components_count
FROM now GROUP BY ALL;

CREATE TEMP TABLE last_cells AS
SELECT
    coalesce(issuer, '') AS issuer, coalesce(payment_method, '') AS payment_method, coalesce(plan_code, '') AS plan_code,
    count(*) AS row_count, count_if(amount_minor > 0) AS positive_count, count_if(amount_minor = 0) AS zero_count,
    count_if(amount_minor < 0) AS negative_count, coalesce(sum(amount_minor), 0) AS total_minor,
    coalesce(sum(amount_minor) FILTER (WHERE amount_minor > 0), 0) AS positive_minor
FROM last GROUP BY ALL;

CREATE TEMP TABLE cells AS
WITH earlier AS (
    SELECT issuer, payment_method, plan_code FROM last_cells
    UNION SELECT coalesce(issuer, ''), coalesce(payment_method, ''), coalesce(plan_code, '') FROM before
    UNION SELECT coalesce(issuer, ''), coalesce(payment_method, ''), coalesce(plan_code, '') FROM oldest
)
SELECT *, hash(issuer, payment_method, plan_code) AS cell,
    plan_code <> '' AND plan_code NOT IN (SELECT plan_code FROM earlier) AS plan_is_new
FROM (FROM earlier UNION SELECT issuer, payment_method, plan_code FROM now_cells);

-- Keys are compared by their 64-bit hashes first: almost always that is the end of it.
CREATE TEMP TABLE twice_charge AS
WITH suspects AS (SELECT hash(charge_id) AS key FROM now WHERE charge_id <> '' GROUP BY 1 HAVING count(*) > 1)
SELECT charge_id FROM now WHERE hash(charge_id) IN (FROM suspects) AND charge_id <> '' GROUP BY 1 HAVING count(*) > 1;

CREATE TEMP TABLE twice_account AS
WITH suspects AS (
    SELECT hash(customer_id, coalesce(bill_cycle, 1)) AS key FROM now WHERE customer_id <> '' GROUP BY 1 HAVING count(*) > 1
)
SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle, max(amount_minor) AS amount,
    max(hash(coalesce(issuer, ''), coalesce(payment_method, ''), coalesce(plan_code, ''))) AS cell
FROM now WHERE hash(customer_id, coalesce(bill_cycle, 1)) IN (FROM suspects) AND customer_id <> '' GROUP BY 1, 2 HAVING count(*) > 1;

-- Rows that may break a rule by themselves: a quick look at all of them, a close one at the few it lets through. Conditions that
-- are NULL let a row through no more than false ones do.
CREATE TEMP TABLE suspects AS
SELECT now.*, twice_charge.charge_id IS NOT NULL AS duplicate_charge_id, twice_account.customer_id IS NOT NULL AS duplicate_account
FROM now
LEFT JOIN twice_charge ON twice_charge.charge_id = now.charge_id
LEFT JOIN twice_account ON twice_account.customer_id = now.customer_id AND twice_account.bill_cycle = coalesce(now.bill_cycle, 1)
WHERE twice_charge.charge_id IS NOT NULL OR twice_account.customer_id IS NOT NULL
    OR base_fee_minor + usage_fee_minor - discount_minor + tax_minor <> amount_minor
    OR abs(tax_minor * 10000 - (base_fee_minor + usage_fee_minor - discount_minor) * getvariable('tax_basis_points')) >= 5000
    OR amount_minor > getvariable('amount_limit_minor') OR amount_minor IS NULL
    OR now.billing_period <> getvariable('period') OR now.billing_period IS NULL
    OR service_start > service_end OR service_start < getvariable('first_day') OR service_start > getvariable('last_day')
    OR service_end < getvariable('first_day') OR service_end > getvariable('last_day')
    OR currency <> getvariable('currency') OR currency IS NULL
    OR payment_method NOT IN ('credit_card', 'check_card', 'bank_debit') OR payment_method IS NULL
    OR plan_code IN (SELECT plan_code FROM cells WHERE plan_is_new)
    OR now.charge_id < '!' OR now.charge_id IS NULL OR now.customer_id < '!' OR now.customer_id IS NULL
    OR issuer < '!' OR issuer IS NULL OR instrument_token < '!' OR instrument_token IS NULL
    OR like_card(now.charge_id) OR like_card(now.customer_id) OR like_card(instrument_token) OR like_card(issuer) OR like_card(plan_code);

CREATE TEMP TABLE broken AS
SELECT *,
    billing_period <> getvariable('period') AS wrong_period,
    service_start > service_end OR service_start NOT BETWEEN getvariable('first_day') AND getvariable('last_day')
        OR service_end NOT BETWEEN getvariable('first_day') AND getvariable('last_day') AS service_outside_period,
    payment_method NOT IN ('credit_card', 'check_card', 'bank_debit') AND NOT blank(payment_method) AS unknown_payment_method,
    currency <> getvariable('currency') AND NOT blank(currency) AS wrong_currency,
    plan_code IN (SELECT plan_code FROM cells WHERE plan_is_new) AS unknown_plan,
    net_minor + tax_minor <> amount_minor AS components_disagree,
    abs(tax_minor) * 10000 - abs(net_minor) * getvariable('tax_basis_points') NOT BETWEEN -4999 AND 5000
        OR sign(tax_minor) * sign(net_minor) < 0 AS wrong_tax,
    amount_minor > getvariable('amount_limit_minor') AS over_limit,
    holds_card(concat_ws('|', charge_id, customer_id, instrument_token, issuer, plan_code, payment_method, currency, billing_period))
        AS card_number
FROM (SELECT *, base_fee_minor + usage_fee_minor - discount_minor AS net_minor FROM suspects);

CREATE TEMP TABLE quarantine AS
WITH flagged AS (
    SELECT source_file, source_row, charge_id, customer_id, coalesce(issuer, '') AS issuer, coalesce(payment_method, '') AS payment_method,
        coalesce(plan_code, '') AS plan_code,
        unnest(list_filter([
            CASE WHEN blank(charge_id) THEN 'missing_charge_id' END, CASE WHEN blank(customer_id) THEN 'missing_customer_id' END,
            CASE WHEN blank(billing_period) THEN 'missing_billing_period' END, CASE WHEN amount_minor IS NULL THEN 'missing_amount' END,
            CASE WHEN blank(currency) THEN 'missing_currency' END, CASE WHEN blank(payment_method) THEN 'missing_payment_method' END,
            CASE WHEN blank(issuer) THEN 'missing_issuer' END, CASE WHEN blank(instrument_token) THEN 'missing_instrument_token' END,
            CASE WHEN duplicate_charge_id THEN 'duplicate_charge_id' END, CASE WHEN duplicate_account THEN 'duplicate_account' END,
            CASE WHEN wrong_period THEN 'wrong_period' END, CASE WHEN service_outside_period THEN 'service_outside_period' END,
            CASE WHEN unknown_payment_method THEN 'unknown_payment_method' END, CASE WHEN wrong_currency THEN 'wrong_currency' END,
            CASE WHEN unknown_plan THEN 'unknown_plan' END, CASE WHEN components_disagree THEN 'components_disagree' END,
            CASE WHEN wrong_tax THEN 'wrong_tax' END, CASE WHEN over_limit THEN 'over_limit' END,
            CASE WHEN card_number THEN 'card_number' END], lambda reason: reason IS NOT NULL)) AS reason
    FROM broken
)
SELECT * FROM flagged;

-- Accounts side by side, four months, counted as they are joined and never stored.
CREATE TEMP TABLE account_cells AS
WITH this_month AS (
    SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle, amount_minor AS amount,
        hash(coalesce(issuer, ''), coalesce(payment_method, ''), coalesce(plan_code, '')) AS cell
    FROM now ANTI JOIN twice_account AS twice
        ON twice.customer_id = now.customer_id AND twice.bill_cycle = coalesce(now.bill_cycle, 1)
    WHERE customer_id <> ''
    UNION ALL SELECT customer_id, bill_cycle, amount, cell FROM twice_account
),
accounts AS (
    SELECT this_month.cell AS cell, last.cell AS previous_cell,
        this_month.amount AS amount_0, last.amount AS amount_1, before.amount AS amount_2, oldest.amount AS amount_3,
        amount_1 <> amount_2 AND amount_3 <> amount_1 AND amount_3 <> amount_2 AND this_month.cell IS NOT NULL AS recent,
        amount_2 <> amount_3 AND this_month.cell IS NOT NULL AS earlier
    FROM this_month
    FULL JOIN (
        SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle, amount_minor AS amount,
            hash(coalesce(issuer, ''), coalesce(payment_method, ''), coalesce(plan_code, '')) AS cell
        FROM last WHERE customer_id <> '') AS last USING (customer_id, bill_cycle)
    LEFT JOIN (SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle, amount_minor AS amount FROM before WHERE customer_id <> '')
        AS before USING (customer_id, bill_cycle)
    LEFT JOIN (SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle, amount_minor AS amount FROM oldest WHERE customer_id <> '')
        AS oldest USING (customer_id, bill_cycle)
)
SELECT
    coalesce(cell, previous_cell) AS cell,
    count(cell) AS account_count, count_if(cell IS NULL) AS missing_count, count_if(previous_cell IS NULL) AS new_count,
    count_if(amount_0 > 0 AND amount_1 > 0) AS compared_count,
    count_if(amount_0 > 0 AND amount_1 > 0 AND moved(amount_0, amount_1)) AS moved_count,
    count_if(amount_1 > 0 AND amount_2 > 0) AS previous_compared_count,
    count_if(amount_1 > 0 AND amount_2 > 0 AND moved(amount_1, amount_2)) AS previous_moved_count,
    count_if(recent AND amount_0 > 0 AND amount_1 > 0) AS comparable_1, count_if(recent AND amount_0 > 0 AND amount_0 = amount_1) AS repeated_1,
    count_if(recent AND amount_0 > 0 AND amount_2 > 0) AS comparable_2, count_if(recent AND amount_0 > 0 AND amount_0 = amount_2) AS repeated_2,
    count_if(recent AND amount_0 > 0 AND amount_3 > 0) AS comparable_3, count_if(recent AND amount_0 > 0 AND amount_0 = amount_3) AS repeated_3,
    count_if(earlier AND amount_1 > 0 AND amount_2 > 0) AS previous_comparable_2,
    count_if(earlier AND amount_1 > 0 AND amount_1 = amount_2) AS previous_repeated_2,
    count_if(earlier AND amount_1 > 0 AND amount_3 > 0) AS previous_comparable_3,
    count_if(earlier AND amount_1 > 0 AND amount_1 = amount_3) AS previous_repeated_3
FROM accounts GROUP BY 1;

CREATE TEMP TABLE cohort_rows AS
WITH counted AS (
    SELECT kind_of(issuer, payment_method, plan_code) AS cohort_kind, named(coalesce(issuer, payment_method, plan_code)) AS cohort,
        reason, count(*) AS rows
    FROM quarantine
    GROUP BY GROUPING SETS ((reason), (reason, issuer), (reason, payment_method), (reason, plan_code))
)
SELECT cohort_kind, coalesce(cohort, '') AS cohort, map(list(reason), list(rows)) AS broken FROM counted GROUP BY ALL;

CREATE TEMP TABLE medians AS
SELECT kind_of(issuer, payment_method, plan_code) AS cohort_kind, coalesce(named(coalesce(issuer, payment_method, plan_code)), '') AS cohort,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY amount_minor) AS median_minor
FROM (SELECT coalesce(issuer, '') AS issuer, coalesce(payment_method, '') AS payment_method, coalesce(plan_code, '') AS plan_code, amount_minor
      FROM now WHERE amount_minor > 0)
GROUP BY GROUPING SETS ((), (issuer), (payment_method), (plan_code));

CREATE TEMP TABLE previous_medians AS
SELECT kind_of(issuer, payment_method, plan_code) AS cohort_kind, coalesce(named(coalesce(issuer, payment_method, plan_code)), '') AS cohort,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY amount_minor) AS previous_median_minor
FROM (SELECT coalesce(issuer, '') AS issuer, coalesce(payment_method, '') AS payment_method, coalesce(plan_code, '') AS plan_code, amount_minor
      FROM last WHERE amount_minor > 0)
GROUP BY GROUPING SETS ((), (issuer), (payment_method), (plan_code));

CREATE TEMP TABLE profile AS
WITH now_by_cell AS (SELECT * EXCLUDE (source_file) REPLACE (sum(row_count) AS row_count, sum(positive_count) AS positive_count,
        sum(zero_count) AS zero_count, sum(negative_count) AS negative_count, sum(total_minor) AS total_minor,
        sum(positive_minor) AS positive_minor, sum(components_count) AS components_count)
    FROM now_cells GROUP BY issuer, payment_method, plan_code),
added AS (
    SELECT kind_of(cells.issuer, cells.payment_method, cells.plan_code) AS cohort_kind,
        coalesce(named(coalesce(cells.issuer, cells.payment_method, cells.plan_code)), '') AS cohort,
        CAST(coalesce(sum(n.row_count), 0) AS BIGINT) AS row_count, CAST(coalesce(sum(n.positive_count), 0) AS BIGINT) AS positive_count,
        CAST(coalesce(sum(n.zero_count), 0) AS BIGINT) AS zero_count, CAST(coalesce(sum(n.negative_count), 0) AS BIGINT) AS negative_count,
        CAST(coalesce(sum(n.total_minor), 0) AS BIGINT) AS total_minor, CAST(coalesce(sum(n.positive_minor), 0) AS BIGINT) AS positive_minor,
        CAST(coalesce(sum(n.components_count), 0) AS BIGINT) AS components_count,
        CAST(coalesce(sum(l.row_count), 0) AS BIGINT) AS previous_row_count,
        CAST(coalesce(sum(l.positive_count), 0) AS BIGINT) AS previous_positive_count,
        CAST(coalesce(sum(l.zero_count), 0) AS BIGINT) AS previous_zero_count,
        CAST(coalesce(sum(l.negative_count), 0) AS BIGINT) AS previous_negative_count,
        CAST(coalesce(sum(l.total_minor), 0) AS BIGINT) AS previous_total_minor,
        CAST(coalesce(sum(l.positive_minor), 0) AS BIGINT) AS previous_positive_minor,
        CAST(coalesce(sum(account_count), 0) AS BIGINT) AS account_count, CAST(coalesce(sum(missing_count), 0) AS BIGINT) AS missing_count,
        CAST(coalesce(sum(new_count), 0) AS BIGINT) AS new_count, CAST(coalesce(sum(compared_count), 0) AS BIGINT) AS compared_count,
        CAST(coalesce(sum(moved_count), 0) AS BIGINT) AS moved_count,
        CAST(coalesce(sum(previous_compared_count), 0) AS BIGINT) AS previous_compared_count,
        CAST(coalesce(sum(previous_moved_count), 0) AS BIGINT) AS previous_moved_count
    FROM cells LEFT JOIN now_by_cell AS n USING (issuer, payment_method, plan_code)
    LEFT JOIN last_cells AS l USING (issuer, payment_method, plan_code) LEFT JOIN account_cells USING (cell)
    GROUP BY GROUPING SETS ((), (issuer), (payment_method), (plan_code))
),
loaded AS (SELECT source_file AS name, sum(row_count) AS loaded_count, sum(total_minor) AS loaded_minor FROM now_cells GROUP BY 1),
arrivals AS (
    SELECT
        count(*) FILTER (coalesce(loaded_count, 0) <> coalesce(row_count, 0)
            OR coalesce(loaded_minor, 0) <> coalesce(control_total_minor, 0)) AS files_unlike_landed,
        count(manifest_row_count) AS manifest_file_count, count(*) FILTER (manifest_row_count <> row_count) AS files_unlike_manifest_rows,
        count(*) FILTER (manifest_control_total_minor <> control_total_minor) AS files_unlike_manifest_total
    FROM files FULL JOIN loaded USING (name)
)
SELECT added.*, broken,
    CAST(positive_minor // nullif(positive_count, 0) AS BIGINT) AS mean_minor,
    CAST(previous_positive_minor // nullif(previous_positive_count, 0) AS BIGINT) AS previous_mean_minor,
    median_minor, previous_median_minor,
    share(row_count - previous_row_count, previous_row_count) AS row_count_drift,
    share(positive_minor - previous_positive_minor, previous_positive_minor) AS total_drift,
    share(positive_minor, positive_count) / share(previous_positive_minor, previous_positive_count) - 1 AS mean_drift,
    share(median_minor - previous_median_minor, previous_median_minor) AS median_drift,
    share(zero_count, row_count) - share(previous_zero_count, previous_row_count) AS zero_share_change,
    share(negative_count, row_count) - share(previous_negative_count, previous_row_count) AS negative_share_change,
    share(missing_count, account_count - new_count + missing_count) AS missing_share, share(new_count, account_count) AS new_share,
    share(moved_count, compared_count) AS moved_share, share(previous_moved_count, previous_compared_count) AS previous_moved_share,
    share(moved_count, compared_count) - coalesce(share(previous_moved_count, previous_compared_count), 0) AS moved_excess,
    CASE WHEN cohort_kind = 'run' THEN files_unlike_landed END AS files_unlike_landed,
    CASE WHEN cohort_kind = 'run' THEN manifest_file_count END AS manifest_file_count,
    CASE WHEN cohort_kind = 'run' THEN files_unlike_manifest_rows END AS files_unlike_manifest_rows,
    CASE WHEN cohort_kind = 'run' THEN files_unlike_manifest_total END AS files_unlike_manifest_total
FROM added LEFT JOIN medians USING (cohort_kind, cohort) LEFT JOIN previous_medians USING (cohort_kind, cohort)
LEFT JOIN cohort_rows USING (cohort_kind, cohort) CROSS JOIN arrivals;

CREATE TEMP TABLE lags AS
WITH added AS (
    SELECT kind_of(issuer, payment_method, plan_code) AS cohort_kind,
        coalesce(named(coalesce(issuer, payment_method, plan_code)), '') AS cohort,
        unnest([1, 2, 3]) AS lag,
        CAST(unnest([sum(comparable_1), sum(comparable_2), sum(comparable_3)]) AS BIGINT) AS comparable,
        CAST(unnest([sum(repeated_1), sum(repeated_2), sum(repeated_3)]) AS BIGINT) AS repeated,
        CAST(unnest([0, sum(previous_comparable_2), sum(previous_comparable_3)]) AS BIGINT) AS previous_comparable,
        CAST(unnest([0, sum(previous_repeated_2), sum(previous_repeated_3)]) AS BIGINT) AS previous_repeated
    FROM cells LEFT JOIN account_cells USING (cell) GROUP BY GROUPING SETS ((), (issuer), (payment_method), (plan_code))
),
counted AS (
    SELECT cohort_kind, cohort, lag, coalesce(comparable, 0) AS comparable, coalesce(repeated, 0) AS repeated,
        coalesce(previous_comparable, 0) AS previous_comparable, coalesce(previous_repeated, 0) AS previous_repeated
    FROM added
),
sure AS (SELECT * FROM counted WHERE previous_comparable >= getvariable('comparable_minimum')),
of_the_run AS (SELECT max(share(previous_repeated, previous_comparable)) AS run_share FROM sure WHERE cohort_kind = 'run'),
compared AS (
    SELECT c.*, coalesce(share(sure.previous_repeated, sure.previous_comparable), run_share) AS normal
    FROM counted AS c
    LEFT JOIN sure ON sure.cohort_kind = c.cohort_kind AND sure.cohort = c.cohort AND sure.lag = c.lag + 1
    CROSS JOIN of_the_run
)
SELECT cohort_kind, cohort, lag, comparable, repeated, share(repeated, comparable) AS repeat_share,
    CASE WHEN normal > getvariable('normal_share_ceiling') THEN getvariable('normal_share_ceiling') ELSE normal END AS normal_share,
    share(repeated, comparable) - least(coalesce(normal, 0), getvariable('normal_share_ceiling')) AS repeat_excess
FROM compared;

-- What holds the run: the critical rules of the suites, their bounds written out.
CREATE TEMP TABLE failed AS
SELECT unnest(map_keys(map_from_entries(list_filter(map_entries(broken), lambda entry: entry.key <> 'unknown_plan')))) AS rule,
    cohort_kind, cohort FROM profile WHERE cohort_kind IN ('run', 'issuer') AND broken IS NOT NULL
UNION ALL SELECT 'charges_present', cohort_kind, cohort FROM profile WHERE cohort_kind = 'run' AND row_count < 1
UNION ALL SELECT 'files', cohort_kind, cohort FROM profile
    WHERE files_unlike_landed > 0 OR files_unlike_manifest_rows > 0 OR files_unlike_manifest_total > 0
UNION ALL SELECT 'cohort_present', cohort_kind, cohort FROM profile
    WHERE cohort_kind <> 'run' AND previous_row_count >= 20 AND row_count < 1
UNION ALL SELECT 'customers_missing', cohort_kind, cohort FROM profile WHERE previous_row_count >= 200 AND missing_share > 0.1
UNION ALL SELECT 'customers_new', cohort_kind, cohort FROM profile
    WHERE cohort_kind IN ('run', 'issuer') AND previous_row_count >= 200 AND account_count >= 200 AND new_share > 0.2
UNION ALL SELECT 'total_drift', cohort_kind, cohort FROM profile
    WHERE cohort_kind IN ('run', 'issuer') AND previous_positive_count >= 500 AND positive_count >= 1 AND abs(total_drift) > 0.4
UNION ALL SELECT 'mean_drift', cohort_kind, cohort FROM profile
    WHERE previous_positive_count >= 500 AND positive_count >= 500 AND (abs(mean_drift) > 0.4 OR abs(median_drift) > 0.4)
UNION ALL SELECT 'moved_bills', cohort_kind, cohort FROM profile
    WHERE cohort_kind IN ('run', 'issuer') AND compared_count >= 500 AND previous_compared_count >= 500 AND moved_excess > 0.25
UNION ALL SELECT 'zero_or_negative_bills', cohort_kind, cohort FROM profile
    WHERE previous_row_count >= 500 AND row_count >= 500 AND (abs(zero_share_change) > 0.2 OR abs(negative_share_change) > 0.1)
UNION ALL SELECT 'repeat_share', cohort_kind, cohort FROM lags WHERE comparable >= 200 AND repeat_excess > 0.1;
