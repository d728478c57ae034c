-- What is billed twice, and this month's bills one per account. The engine has laid out earlier_1 .. earlier_5: the five latest months
-- by customer_id and bill_cycle, NULL and blank customers left out.

-- Charge ids that more than one row carries.
CREATE TEMP TABLE duplicate_charge_ids AS
SELECT charge_id FROM charges WHERE charge_id <> '' GROUP BY charge_id HAVING count(*) > 1;

CREATE TEMP TABLE duplicate_accounts AS
SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle FROM charges WHERE customer_id <> '' GROUP BY 1, 2 HAVING count(*) > 1;

-- Of an account billed twice the larger of each figure stands for both; whatever else is asked, the duplicate holds the run.
CREATE TEMP VIEW this_month AS
WITH bills AS (
    SELECT
        customer_id, coalesce(bill_cycle, 1) AS bill_cycle, cell, amount_minor AS amount, hash(instrument_token) AS card,
        base_fee_minor AS base, usage_fee_minor AS usage, discount_minor AS discount, is_id(amount_minor, grid, customer_id, charge_id) AS id_like,
        hash(source_file) AS file, source_row
    FROM charges_in_cells CROSS JOIN grid WHERE customer_id <> ''
)
SELECT * FROM bills ANTI JOIN duplicate_accounts USING (customer_id, bill_cycle)
UNION ALL BY NAME
SELECT
    customer_id, bill_cycle, max(cell) AS cell, max(amount) AS amount, max(card) AS card, max(base) AS base, max(usage) AS usage,
    max(discount) AS discount, max(id_like) AS id_like, max(file) AS file, max(source_row) AS source_row
FROM bills SEMI JOIN duplicate_accounts USING (customer_id, bill_cycle) GROUP BY 1, 2;
