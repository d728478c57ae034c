-- Signals that need more than an account's own bills. Each is counted for this run (recency 0) and for what is normal (recency 1):
-- the same count a month earlier, or a control where a month earlier could not say.

-- Of the missing, those that were the last rows of last month's files, one behind the other to the very end: a file cut off.
INSERT INTO signal_counts
WITH ends AS (SELECT source_file, max(source_row) AS last_row FROM month_1 GROUP BY 1),
missing AS (SELECT account, previous_cell FROM accounts WHERE cell IS NULL),
placed AS (
    SELECT previous_cell, last_row - source_row = row_number() OVER (PARTITION BY source_file ORDER BY source_row DESC) - 1 AS is_at_the_end
    FROM missing JOIN month_1 m ON account_of(m.customer_id, m.bill_cycle) = missing.account JOIN ends USING (source_file)
)
SELECT previous_cell, 0, 'cut_off', any_value(base), count(*) FILTER (WHERE is_at_the_end)
FROM (SELECT cell AS previous_cell, sum(base) AS base FROM signal_counts WHERE signal = 'missing' AND recency = 0 GROUP BY 1)
LEFT JOIN placed USING (previous_cell) GROUP BY 1;

-- Bills that moved by more than a tenth to about what the row before or behind had last month, and so did the ones next to them: shifted
-- rows lie in a stretch, and of three such bills within five rows the middle one counts. What is normal is the same with rows further
-- away, which nothing brings together; at two distances, for one alone is chance itself.
INSERT INTO signal_counts
WITH beside AS (
    SELECT cell, file, source_row, amount_0 AS amount, amount_1 AS last, [
        lag(amount_1) OVER rows_of_file, lag(amount_1, 7) OVER rows_of_file, lag(amount_1, 12) OVER rows_of_file,
        lead(amount_1) OVER rows_of_file, lead(amount_1, 7) OVER rows_of_file, lead(amount_1, 12) OVER rows_of_file] AS others
    FROM accounts WHERE cell IS NOT NULL
    WINDOW rows_of_file AS (PARTITION BY file ORDER BY source_row)
),
moved AS (SELECT * FROM beside WHERE amount > 0 AND last > 0 AND moved(amount, last, 10)),
alike AS (
    SELECT cell, file, source_row, place FROM (SELECT *, unnest(others) AS other, unnest(range(6)) AS place FROM moved)
    WHERE other > 0 AND NOT moved(amount, other, 5)
),
in_a_row AS (
    SELECT cell, source_row, place % 3 = 0 AS is_near FROM alike
    WINDOW alike_rows AS (PARTITION BY file, place ORDER BY source_row)
    QUALIFY lead(source_row) OVER alike_rows - lag(source_row) OVER alike_rows <= 4
),
counted AS (
    SELECT cell, count(*) AS base, any_value(near) AS near, any_value(control) AS control FROM moved
    LEFT JOIN (SELECT cell, count(*) FILTER (WHERE is_near) AS near, count(*) FILTER (WHERE NOT is_near) AS control FROM in_a_row GROUP BY 1) USING (cell)
    GROUP BY cell
)
SELECT cell, 0, 'neighbours', base, coalesce(near, 0) FROM counted
UNION ALL SELECT cell, 1, 'neighbours', 2 * base, coalesce(control, 0) FROM counted;

-- Bills that go to a card which last month was another customer's, and new accounts on a card that somebody has already.
INSERT INTO signal_counts
WITH fresh AS (SELECT DISTINCT card_0 AS card FROM accounts WHERE card_0 <> card_1),
taken AS (SELECT DISTINCT card_1 AS card FROM accounts WHERE card_1 IN (FROM fresh))
SELECT cell, 0, 'another_card', count(*), count(*) FILTER (WHERE card_0 <> card_1 AND card_0 IN (FROM taken)) FROM accounts
WHERE cell IS NOT NULL AND previous_cell IS NOT NULL GROUP BY 1;
INSERT INTO signal_counts
WITH fresh AS (SELECT DISTINCT card_0 AS card FROM accounts WHERE cell IS NOT NULL AND amount_1 IS NULL),
shared AS (SELECT card_0 AS card FROM accounts WHERE card_0 IN (FROM fresh) GROUP BY 1 HAVING count(*) > 1)
SELECT cell, 0, 'shared_card', count(*), count(*) FILTER (WHERE amount_1 IS NULL AND card_0 IN (FROM shared)) FROM accounts WHERE cell IS NOT NULL GROUP BY 1;
INSERT INTO signal_counts
WITH fresh AS (SELECT DISTINCT card_1 AS card FROM accounts WHERE previous_cell IS NOT NULL AND amount_2 IS NULL),
shared AS (SELECT card_1 AS card FROM accounts WHERE card_1 IN (FROM fresh) GROUP BY 1 HAVING count(*) > 1)
SELECT previous_cell, 1, 'shared_card', count(*), count(*) FILTER (WHERE amount_2 IS NULL AND card_1 IN (FROM shared)) FROM accounts
WHERE previous_cell IS NOT NULL AND (SELECT month_count FROM parameters) >= 2 GROUP BY 1;

-- Accounts that are new while their customer was billed last month, under another cycle.
INSERT INTO signal_counts
WITH fresh AS (SELECT cell, customer FROM accounts WHERE cell IS NOT NULL AND amount_1 IS NULL),
known AS (SELECT DISTINCT hash(customer_id) AS customer FROM month_1 WHERE hash(customer_id) IN (SELECT customer FROM fresh))
SELECT cell, 0, 'second_cycle', any_value(accounts), count(*) FILTER (WHERE customer IN (FROM known))
FROM fresh JOIN (SELECT cell, count(*) AS accounts FROM accounts WHERE cell IS NOT NULL GROUP BY 1) USING (cell) GROUP BY 1;

-- A date of those weeks where an amount belongs, the digits of the customer's or the charge's id, and amounts finer than any before.
CREATE TEMP TABLE date_amounts AS
SELECT DISTINCT recency, CAST(digits AS BIGINT) * factor AS amount FROM (
    SELECT recency, unnest([strftime(day, '%Y%m%d'), strftime(day, '%y%m%d'), strftime(day, '%d%m%Y'), strftime(day, '%m%d%Y')]) AS digits
    FROM (SELECT recency, unnest(generate_series(first_day - to_days(31 + 31 * recency), last_day + to_days(31 - 31 * recency), INTERVAL 1 DAY)) AS day
          FROM parameters, (VALUES (0), (1)) months(recency))
) CROSS JOIN (VALUES (1), (100)) factors(factor);
INSERT INTO signal_counts
WITH bills AS (
    SELECT 0 AS recency, cell, amount_minor AS amount, is_id(amount_minor, grid, customer_id, charge_id) AS is_id,
        amount_minor IN (SELECT amount FROM date_amounts WHERE recency = 0) AS is_date
    FROM charges_in_cells CROSS JOIN grid WHERE customer_id <> '' AND amount_minor > 0
    UNION ALL SELECT 1, previous_cell, amount_1, FALSE, amount_1 IN (SELECT amount FROM date_amounts WHERE recency = 1) FROM accounts WHERE amount_1 > 0
),
odd AS (
    SELECT cell, recency, count(*) AS base, count(*) FILTER (WHERE is_date) AS date_like, count(*) FILTER (WHERE is_id) AS id_like,
        count(*) FILTER (WHERE amount % grid <> 0) AS off_grid
    FROM bills CROSS JOIN grid GROUP BY 1, 2
)
SELECT cell, recency, signal, base, hits
FROM odd CROSS JOIN LATERAL (VALUES ('date_like', date_like), ('id_like', id_like), ('off_grid', off_grid)) signals(signal, hits)
WHERE recency = 0 OR signal <> 'id_like';  -- chance is what is normal for ids: one in ten thousand at most, the suite says

-- Bills at exactly the largest amount of their issuer.
INSERT INTO signal_counts
WITH bills AS (
    SELECT 0 AS recency, cell, amount_0 AS amount FROM accounts WHERE amount_0 > 0
    UNION ALL SELECT 1, previous_cell, amount_1 FROM accounts WHERE amount_1 > 0
),
tops AS (SELECT recency, cell, max(max(amount)) OVER (PARTITION BY recency, issuer) AS top FROM bills JOIN cells USING (cell) GROUP BY recency, cell, issuer)
SELECT cell, recency, 'at_the_maximum', count(*), count(*) FILTER (WHERE amount = top) FROM bills JOIN tops USING (recency, cell) GROUP BY 1, 2;

-- Repeats of any earlier month together: a mixture of months shows in no single one of them.
INSERT INTO signal_counts
SELECT cell, 0, 'repeated', sum(comparable), sum(repeated - flat) FROM lag_facts GROUP BY 1
UNION ALL SELECT cell, 1, 'repeated', sum(previous_comparable), sum(previous_repeated) FROM lag_facts GROUP BY 1;

-- Accounts that still pay the base fee of last month where most of their plan does not any more.
INSERT INTO signal_counts
WITH kept AS (
    SELECT a.cell, c.plan_code, a.base_0 = a.base_1 AS is_same
    FROM accounts a JOIN cells c ON c.cell = a.cell JOIN cells p ON p.cell = a.previous_cell
    WHERE c.plan_code = p.plan_code AND a.base_0 > 0 AND a.base_1 > 0
),
repriced AS (SELECT plan_code FROM kept GROUP BY 1 HAVING count(*) FILTER (WHERE NOT is_same) > count(*) / 2)
SELECT cell, 0, 'stale_base', count(*), count(*) FILTER (WHERE is_same AND plan_code IN (FROM repriced)) FROM kept GROUP BY 1;
-- What belongs to nobody's earlier month is normally not there at all.
INSERT INTO signal_counts
SELECT cell, 1, signal, base, 0 FROM signal_counts WHERE recency = 0 AND signal IN ('cut_off', 'another_card', 'second_cycle', 'stale_base');
