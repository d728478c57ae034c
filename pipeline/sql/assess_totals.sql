-- Counts and sums of the lines of assess.sql, by class, issuer, payment method and currency.
--
-- charged_minor: taken from customers by mistake. due_minor: what is due for the same bills, each bill counted once.
-- net_minor: positive where customers paid too much.
SELECT
    class,
    coalesce(issuer, right_issuer, '') AS issuer,
    coalesce(payment_method, right_method, '') AS payment_method,
    coalesce(wrong_currency, right_currency, '') AS currency,
    count(*) AS lines,
    count(DISTINCT customer_id) AS customers,
    CAST(coalesce(sum(charged), 0) AS BIGINT) AS charged_minor,
    CAST(coalesce(sum(due), 0) AS BIGINT) AS due_minor,
    CAST(coalesce(sum(charged), 0) - coalesce(sum(due), 0) AS BIGINT) AS net_minor
FROM (
    SELECT *,
        CASE WHEN state = 'succeeded' THEN wrong_minor ELSE 0 END AS charged,
        CASE WHEN nth = 1 AND unusable IS NULL AND right_minor > 0 THEN right_minor ELSE 0 END AS due
    FROM line
)
GROUP BY ALL
ORDER BY class, issuer, payment_method, currency
