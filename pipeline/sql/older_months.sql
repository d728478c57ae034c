-- The same repeats for the months older than the five latest; the engine lays them out as older_months: recency, account, amount.
INSERT INTO lag_facts
SELECT
    cell,
    recency,
    count(*) FILTER (WHERE varied_now AND amount_0 > 0 AND amount > 0),
    count(*) FILTER (WHERE varied_now AND amount_0 > 0 AND amount_0 = amount),
    0,
    count(*) FILTER (WHERE varied_before AND amount_1 > 0 AND amount > 0),
    count(*) FILTER (WHERE varied_before AND amount_1 > 0 AND amount_1 = amount)
FROM (
    SELECT
        cell, amount_0, amount_1, recency, amount,
        amount_1 <> amount_2 AND amount <> amount_1 AND amount <> amount_2 AS varied_now,
        amount_2 <> amount_3 AND amount <> amount_2 AND amount <> amount_3 AS varied_before
    FROM older_months
    -- Only accounts whose bills vary, below, can be comparable; fewer of them join faster.
    JOIN (FROM accounts WHERE cell IS NOT NULL AND (amount_0 > 0 AND amount_1 <> amount_2 OR amount_1 > 0 AND amount_2 <> amount_3)) USING (account)
) AS older
GROUP BY cell, recency;
