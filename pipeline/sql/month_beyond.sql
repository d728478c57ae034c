-- A month more of what bills consist of beside the others, for signals whose one normal month was an event.
CREATE OR REPLACE TEMP TABLE accounts AS
SELECT accounts.*, beyond.cell AS cell_3, beyond.card AS card_3, beyond.base AS base_3, beyond.discount AS discount_3
FROM accounts LEFT JOIN (
    SELECT account_of(customer_id, bill_cycle) AS account, any_value(cell_of(issuer, payment_method, plan_code)) AS cell,
        any_value(hash(instrument_token)) AS card, any_value(base_fee_minor) AS base, any_value(discount_minor) AS discount
    FROM month_3 WHERE customer_id <> '' GROUP BY 1
) AS beyond USING (account);
INSERT INTO moves
SELECT here.cell, there.cell, here.plan_code = there.plan_code, here.payment_method <> there.payment_method, here.issuer <> there.issuer
FROM (SELECT DISTINCT cell_2 AS cell, cell_3 AS last_cell FROM accounts WHERE cell_2 <> cell_3) AS moved
JOIN cells AS here ON here.cell = moved.cell
JOIN cells AS there ON there.cell = moved.last_cell
WHERE (moved.cell, moved.last_cell) NOT IN (SELECT (cell, last_cell) FROM moves);
