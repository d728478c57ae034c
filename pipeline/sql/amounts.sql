-- Bills by amount, this run and the latest earlier months, in bins at 1, 2, 5 x powers of ten: the same bins for every month, and
-- exact. Zero has a bin of its own; negative bills are mirrored. The histogram names a bin by the largest amount in it.
WITH amounts AS (
    SELECT 0 AS recency, amount_minor FROM charges
    UNION ALL SELECT recency, amount_minor FROM history WHERE recency <= 3
),
counted AS (
    SELECT recency, unnest(map_entries(histogram(amount_minor, largest_in_bins()))) AS bin
    FROM amounts WHERE amount_minor IS NOT NULL GROUP BY recency
),
binned AS (
    SELECT coalesce(months.billing_period, run_period) AS billing_period, bin.key AS largest, CAST(bin.value AS BIGINT) AS count
    FROM counted LEFT JOIN months USING (recency) CROSS JOIN parameters
),
edges AS (
    SELECT lag(largest) OVER (ORDER BY largest) + 1 AS low_minor, largest
    FROM (SELECT unnest(largest_in_bins()) AS largest) AS bins
)
SELECT billing_period, coalesce(low_minor, largest) AS low_minor, CAST(largest AS HUGEINT) + 1 AS high_minor, count
FROM binned JOIN edges USING (largest)
WHERE count > 0
ORDER BY billing_period, low_minor
