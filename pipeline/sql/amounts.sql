-- Bills by amount, this run and the latest earlier months, in bins at 1, 2, 5 x powers of ten: the same bins for every month, and exact
-- up to 15 digits. Zero has a bin of its own; negative bills are mirrored.
WITH amounts AS (
    SELECT run_period AS billing_period, amount_minor FROM charges CROSS JOIN parameters
    UNION ALL
    SELECT months.billing_period, amount_minor FROM history JOIN months USING (recency) WHERE recency <= 3
),
bare AS (
    SELECT billing_period, sign(amount_minor) AS sign, abs(CAST(amount_minor AS DOUBLE)) AS size
    FROM amounts WHERE amount_minor IS NOT NULL
),
-- The power of ten below it; the logarithm may be a hair too high just under a power of ten, hence the second look.
powers AS (
    SELECT *, CASE WHEN size = 0 THEN 1 WHEN pow(10, floor(log10(size))) > size THEN pow(10, floor(log10(size)) - 1)
                   ELSE pow(10, floor(log10(size))) END AS power
    FROM bare
),
edges AS (
    SELECT billing_period, sign,
           CAST(CASE WHEN size >= 5 * power THEN 5 WHEN size >= 2 * power THEN 2 WHEN size > 0 THEN 1 ELSE 0 END * power AS DECIMAL(38, 0)) AS low,
           CAST(CASE WHEN size >= 5 * power THEN 10 WHEN size >= 2 * power THEN 5 WHEN size > 0 THEN 2 ELSE 1 END * power AS DECIMAL(38, 0)) AS high,
           count(*) AS count
    FROM powers GROUP BY ALL
)
SELECT billing_period,
       CASE WHEN sign < 0 THEN 1 - high ELSE low END AS low_minor,
       CASE WHEN sign < 0 THEN 1 - low ELSE high END AS high_minor,
       count
FROM edges ORDER BY billing_period, low_minor
