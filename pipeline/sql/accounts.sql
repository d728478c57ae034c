-- What is billed twice, and every account's amounts over the months. The engine has laid out earlier_1 .. earlier_4: customer_id,
-- bill_cycle, amount (and for the latest, cell) of the four latest months, NULL and blank customers left out.

-- Charge ids that more than one row carries.
CREATE TEMP TABLE duplicate_charge_ids AS
SELECT charge_id FROM charges WHERE charge_id <> '' GROUP BY charge_id HAVING count(*) > 1;

CREATE TEMP TABLE this_month AS
SELECT customer_id, coalesce(bill_cycle, 1) AS bill_cycle, count(*) AS bills, max(amount_minor) AS amount, max(cell) AS cell
FROM charges_in_cells WHERE customer_id <> '' GROUP BY 1, 2;

CREATE TEMP TABLE duplicate_accounts AS
SELECT customer_id, bill_cycle FROM this_month WHERE bills > 1;
