-- The same repeats for one month older than the four latest; the engine lays it out as older_month, of the given recency.
INSERT INTO lag_facts
SELECT
    cell,
    min(recency),
    count(*) FILTER (WHERE varied_now AND amount_0 > 0 AND older.amount > 0),
    count(*) FILTER (WHERE varied_now AND amount_0 > 0 AND amount_0 = older.amount),
    0,
    count(*) FILTER (WHERE varied_before AND amount_1 > 0 AND older.amount > 0),
    count(*) FILTER (WHERE varied_before AND amount_1 > 0 AND amount_1 = older.amount)
FROM (
    SELECT
        cell, amount_0, amount_1, recency, older_month.amount_minor AS amount,
        amount_1 <> amount_2 AND older_month.amount_minor <> amount_1 AND older_month.amount_minor <> amount_2 AS varied_now,
        amount_2 <> amount_3 AND older_month.amount_minor <> amount_2 AND older_month.amount_minor <> amount_3 AS varied_before
    FROM accounts
    JOIN older_month ON older_month.customer_id = accounts.customer_id
        AND coalesce(older_month.bill_cycle, 1) = accounts.bill_cycle
    WHERE cell IS NOT NULL
) AS older
GROUP BY cell;
