-- How many charges and how much money, month by month; this run last, and there even if it is empty.
SELECT billing_period, CAST(coalesce(sum(charges), 0) AS BIGINT) AS charges, CAST(coalesce(sum(total_minor), 0) AS DECIMAL(38, 0)) AS total_minor
FROM (SELECT recency, billing_period FROM months UNION ALL SELECT 0, run_period FROM parameters) AS every_month
LEFT JOIN counted_cells USING (recency)
GROUP BY recency, billing_period HAVING count(charges) > 0 OR recency = 0
ORDER BY 1
