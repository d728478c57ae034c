-- Signals that need more than an account's own bills. Each is counted for this run (recency 0) and for what is normal (recency 1):
-- the same count a month earlier, or a control where a month earlier could not say.

-- Customers of last month who are not billed.
INSERT INTO signal_counts
SELECT previous_cell, 0, 'missing', count(*), count(*) FILTER (WHERE cell IS NULL) FROM accounts WHERE previous_cell IS NOT NULL GROUP BY 1;
INSERT INTO signal_counts
SELECT cell, 1, 'missing', count(*), count(*) - coalesce(any_value(stayed), 0)
FROM (SELECT cell FROM month_before_in_cells WHERE customer_id <> '')
LEFT JOIN (SELECT cell_2 AS cell, count(*) AS stayed FROM accounts WHERE previous_cell IS NOT NULL AND cell_2 IS NOT NULL GROUP BY 1) USING (cell)
GROUP BY 1;

-- Of the missing, those that were the last rows of last month's files, with nobody behind them who is still billed: a file cut off.
INSERT INTO signal_counts
WITH placed AS (
    SELECT a.previous_cell, a.cell IS NULL AS is_missing, m.source_file, m.source_row
    FROM accounts a JOIN month_1 m ON m.customer_id = a.customer_id AND coalesce(m.bill_cycle, 1) = a.bill_cycle
),
ends AS (SELECT source_file, max(source_row) FILTER (WHERE NOT is_missing) AS last_row FROM placed GROUP BY 1)
SELECT previous_cell, 0, 'cut_off', count(*), count(*) FILTER (WHERE is_missing AND source_row > last_row)
FROM placed JOIN ends USING (source_file) GROUP BY 1;

-- Bills that moved by more than a tenth to exactly what the row before or behind had last month; the control looks seven rows away.
INSERT INTO signal_counts
WITH beside AS (
    SELECT cell, amount_0 AS amount, amount_1 AS last,
        lag(amount_1) OVER rows_of_file AS behind, lead(amount_1) OVER rows_of_file AS ahead,
        lag(amount_1, 7) OVER rows_of_file AS far_behind, lead(amount_1, 7) OVER rows_of_file AS far_ahead
    FROM accounts WHERE cell IS NOT NULL
    WINDOW rows_of_file AS (PARTITION BY file ORDER BY source_row)
),
moved AS (SELECT * FROM beside WHERE amount > 0 AND last > 0 AND moved(amount, last, 10)),
counted AS (
    SELECT cell, count(*) AS base, count(*) FILTER (WHERE amount = behind OR amount = ahead) AS near,
        count(*) FILTER (WHERE amount = far_behind OR amount = far_ahead) AS control
    FROM moved GROUP BY cell
)
SELECT cell, 0, 'neighbours', base, near FROM counted UNION ALL SELECT cell, 1, 'neighbours', base, control FROM counted;

-- Bills that go to a card which last month was another customer's, and cards that several accounts share.
INSERT INTO signal_counts
WITH cards AS (SELECT DISTINCT card_1 AS card FROM accounts WHERE card_1 IS NOT NULL)
SELECT cell, 0, 'another_card', count(*), count(*) FILTER (WHERE card_0 <> card_1 AND card_0 IN (FROM cards)) FROM accounts
WHERE cell IS NOT NULL AND previous_cell IS NOT NULL GROUP BY 1;
INSERT INTO signal_counts
WITH shared AS (SELECT card_0 FROM accounts WHERE cell IS NOT NULL GROUP BY 1 HAVING count(*) > 1)
SELECT cell, 0, 'shared_card', count(*), count(*) FILTER (WHERE card_0 IN (FROM shared)) FROM accounts WHERE cell IS NOT NULL GROUP BY 1;
INSERT INTO signal_counts
WITH shared AS (SELECT card_1 FROM accounts WHERE previous_cell IS NOT NULL GROUP BY 1 HAVING count(*) > 1)
SELECT previous_cell, 1, 'shared_card', count(*), count(*) FILTER (WHERE card_1 IN (FROM shared)) FROM accounts WHERE previous_cell IS NOT NULL
GROUP BY 1;

-- Accounts that are new while their customer was billed last month, under another cycle.
INSERT INTO signal_counts
WITH fresh AS (SELECT cell, customer_id FROM accounts WHERE cell IS NOT NULL AND amount_1 IS NULL),
known AS (SELECT DISTINCT customer_id FROM month_1 SEMI JOIN fresh USING (customer_id))
SELECT cell, 0, 'second_cycle', any_value(accounts), count(*) FILTER (WHERE customer_id IN (FROM known))
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
    SELECT 0 AS recency, cell, amount_minor AS amount, customer_id, charge_id FROM charges_in_cells
    UNION ALL SELECT 1, cell, amount_minor, customer_id, charge_id FROM last_month_in_cells
),
odd AS (
    SELECT cell, recency, count(*) FILTER (WHERE amount > 0) AS base,
        count(*) FILTER (WHERE amount > 0 AND (recency, amount) IN (SELECT (recency, amount) FROM date_amounts)) AS date_like,
        -- shorter ones meet by chance
        count(*) FILTER (WHERE amount >= 1000 * grid AND (ends_with(customer_id, CAST(amount // grid AS VARCHAR))
            OR ends_with(charge_id, CAST(amount // grid AS VARCHAR)))) AS id_like,
        count(*) FILTER (WHERE amount % grid <> 0) AS off_grid
    FROM bills CROSS JOIN grid GROUP BY 1, 2
)
SELECT cell, recency, signal, base, hits
FROM odd CROSS JOIN LATERAL (VALUES ('date_like', date_like), ('id_like', id_like), ('off_grid', off_grid)) signals(signal, hits);

-- Bills of an amount that suddenly many have: more than twice as many as in either month before, three more, and chance. A cap, a date, a
-- filler or one customer's amount in everybody's bill leaves such a heap.
CREATE TEMP TABLE amount_counts AS
SELECT amount, count(*) FILTER (WHERE recency = 0) AS count_0, count(*) FILTER (WHERE recency = 1) AS count_1, count(*) FILTER (WHERE recency = 2) AS count_2
FROM (
    SELECT 0 AS recency, amount_minor AS amount FROM charges WHERE amount_minor > 0
    UNION ALL SELECT 1, amount_minor FROM month_1 WHERE amount_minor > 0
    UNION ALL SELECT 2, amount_minor FROM month_2 WHERE amount_minor > 0
) GROUP BY amount HAVING count(*) >= 10;
INSERT INTO signal_counts
SELECT cell, 0, 'heaped', count(*), count(*) FILTER (WHERE amount_minor IN (SELECT amount FROM amount_counts WHERE surprise(count_0, 2 * greatest(count_1, count_2) + 3) > 12))
FROM charges_in_cells WHERE amount_minor > 0 GROUP BY 1;
INSERT INTO signal_counts
SELECT cell, 1, 'heaped', count(*), count(*) FILTER (WHERE amount_minor IN (SELECT amount FROM amount_counts WHERE surprise(count_1, 2 * count_2 + 3) > 12))
FROM last_month_in_cells WHERE amount_minor > 0 AND (SELECT month_count FROM parameters) >= 2 GROUP BY 1;

-- Bills at exactly the largest amount of their issuer.
INSERT INTO signal_counts
WITH bills AS (
    SELECT 0 AS recency, cell, issuer, amount_minor AS amount FROM charges_in_cells WHERE amount_minor > 0
    UNION ALL SELECT 1, cell, issuer, amount_minor FROM last_month_in_cells WHERE amount_minor > 0
),
tops AS (SELECT recency, issuer, max(amount) AS top FROM bills GROUP BY 1, 2)
SELECT cell, recency, 'at_the_maximum', count(*), count(*) FILTER (WHERE amount = top) FROM bills JOIN tops USING (recency, issuer) GROUP BY 1, 2;

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
