-- Bills of an amount that suddenly many have: more than twice as many as in either month before, three more, and chance. A cap, a date, a
-- filler or one customer's amount in everybody's bill leaves such a heap. Counted anew where cells are left out: what heaps up at the
-- new price of one plan is no heap of the others.
DELETE FROM signal_counts WHERE signal = 'heaped';
CREATE OR REPLACE TEMP TABLE heaps AS
WITH counted AS (
    SELECT amount, count(*) FILTER (WHERE recency = 0) AS now, count(*) FILTER (WHERE recency = 1) AS last, count(*) FILTER (WHERE recency = 2) AS before,
        count(*) FILTER (WHERE recency = 3) AS prior
    FROM (
        SELECT 0 AS recency, amount_0 AS amount FROM accounts SEMI JOIN chosen_cells USING (cell) WHERE amount_0 > 0
        UNION ALL SELECT 1, amount_1 FROM accounts SEMI JOIN chosen_cells ON chosen_cells.cell = previous_cell WHERE amount_1 > 0
        UNION ALL SELECT 2, amount_2 FROM accounts SEMI JOIN chosen_cells ON chosen_cells.cell = cell_2 WHERE amount_2 > 0
        UNION ALL SELECT 3, amount_3 FROM accounts SEMI JOIN chosen_cells ON chosen_cells.cell = cell_2 WHERE amount_3 > 0
    ) GROUP BY amount HAVING count(*) >= 10
)
SELECT amount, surprise(now, 2 * greatest(last, before) + 3) > 12 AS is_heap_now, surprise(last, 2 * before + 3) > 12 AS was_heap,
    surprise(before, 2 * prior + 3) > 12 AS was_heap_before
FROM counted;
INSERT INTO signal_counts
SELECT cell, 0, 'heaped', count(*), count(*) FILTER (WHERE amount_0 IN (SELECT amount FROM heaps WHERE is_heap_now))
FROM accounts WHERE amount_0 > 0 GROUP BY 1;
INSERT INTO signal_counts
SELECT previous_cell, 1, 'heaped', count(*), count(*) FILTER (WHERE amount_1 IN (SELECT amount FROM heaps WHERE was_heap))
FROM accounts WHERE amount_1 > 0 AND (SELECT month_count FROM parameters) >= 2 GROUP BY 1;
INSERT INTO signal_counts
SELECT cell_2, 2, 'heaped', count(*), count(*) FILTER (WHERE amount_2 IN (SELECT amount FROM heaps WHERE was_heap_before))
FROM accounts WHERE amount_2 > 0 AND (SELECT month_count FROM parameters) >= 3 GROUP BY 1;
