-- What is billed twice, and this month's bills by account.

-- Charge ids that more than one row carries: looked for by hash, which is quicker, and then made sure of.
CREATE TEMP TABLE duplicate_charge_ids AS
WITH suspects AS (SELECT hash(charge_id) AS id FROM charges WHERE charge_id <> '' GROUP BY 1 HAVING count(*) > 1)
SELECT charge_id FROM charges WHERE charge_id <> '' AND hash(charge_id) IN (FROM suspects) GROUP BY charge_id HAVING count(*) > 1;

-- Accounts that are billed twice, likewise.
CREATE TEMP TABLE duplicate_accounts AS
WITH suspects AS (SELECT account_of(customer_id, bill_cycle) AS account FROM charges WHERE customer_id <> '' GROUP BY 1 HAVING count(*) > 1)
SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle FROM charges
WHERE customer_id <> '' AND account_of(customer_id, bill_cycle) IN (FROM suspects) GROUP BY 1, 2 HAVING count(*) > 1;

CREATE TEMP VIEW bills_of_this_month AS
SELECT
    account_of(customer_id, bill_cycle) AS account, hash(customer_id) AS customer, cell, amount_minor AS amount, hash(instrument_token) AS card,
    base_fee_minor AS base, usage_fee_minor AS usage, discount_minor AS discount, hash(source_file) AS file, source_row
FROM charges_in_cells WHERE customer_id <> '';
