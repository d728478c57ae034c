-- What odd bills are of the bills before them: the quartiles of the ratio, by what is odd. One factor that they share tells a slipped unit
-- or an exchange rate from bills that are simply somebody else's.
WITH odd AS (
    SELECT 'heaped' AS kind, CAST(amount_0 AS DOUBLE) / amount_1 AS ratio, amount_0 AS amount FROM accounts SEMI JOIN chosen_cells USING (cell)
    WHERE amount_1 > 0 AND amount_0 IN (SELECT amount FROM heaps WHERE is_heap_now)
    UNION ALL
    SELECT 'far_off', CAST(amount AS DOUBLE) / last, amount FROM flags_0 SEMI JOIN chosen_cells USING (cell) WHERE steady AND (far_above OR far_below)
    UNION ALL
    SELECT 'off_grid', CAST(amount AS DOUBLE) / last, amount FROM flags_0 SEMI JOIN chosen_cells USING (cell) CROSS JOIN grid WHERE steady AND amount > 0 AND amount % grid <> 0
    UNION ALL
    SELECT 'base_changed', CAST(base_0 AS DOUBLE) / base_1, base_0 FROM accounts
    JOIN chosen_cells here ON here.cell = accounts.cell JOIN cells there ON there.cell = accounts.previous_cell
    WHERE here.plan_code = there.plan_code AND base_0 <> base_1 AND base_0 > 0 AND base_1 > 0
)
SELECT kind, count(*) AS bills, count(DISTINCT amount) AS amounts, quantile_cont(ratio, 0.25) AS lower, median(ratio) AS middle, quantile_cont(ratio, 0.75) AS upper
FROM odd GROUP BY kind ORDER BY kind
