-- Customers of last month who are not billed.
INSERT INTO signal_counts
SELECT previous_cell, 0, 'missing', count(*), count(*) FILTER (WHERE cell IS NULL) FROM accounts WHERE previous_cell IS NOT NULL GROUP BY 1;
INSERT INTO signal_counts
SELECT cell, 1, 'missing', count(*), count(*) - coalesce(any_value(stayed), 0)
FROM (SELECT cell FROM month_before_in_cells WHERE customer_id <> '')
LEFT JOIN (SELECT cell_2 AS cell, count(*) AS stayed FROM accounts WHERE previous_cell IS NOT NULL AND cell_2 IS NOT NULL GROUP BY 1) USING (cell)
GROUP BY 1;
