-- How many charges and how much money, month by month; this run last.
SELECT months.billing_period, count(*) AS charges, CAST(coalesce(sum(amount_minor), 0) AS DECIMAL(38, 0)) AS total_minor
FROM months JOIN history USING (recency) GROUP BY 1
UNION ALL
SELECT (SELECT run_period FROM parameters), count(*), CAST(coalesce(sum(amount_minor), 0) AS DECIMAL(38, 0)) FROM charges
ORDER BY 1
