-- One row per account billed this month or last, its amounts side by side: amount_0 this run, amount_1 the latest earlier
-- month, and so on; NULL where it was not billed. Should this month bill an account twice, the larger bill stands for it.
-- An account is here once unless an earlier month has it twice; the limit stops such a month from multiplying itself out.
CREATE OR REPLACE TEMP TABLE accounts AS
SELECT
    customer_id, bill_cycle,
    this_month.cell AS cell, earlier_1.cell AS previous_cell,
    this_month.amount AS amount_0, earlier_1.amount AS amount_1, earlier_2.amount AS amount_2,
    earlier_3.amount AS amount_3, earlier_4.amount AS amount_4
FROM this_month
FULL JOIN earlier_1 USING (customer_id, bill_cycle)
LEFT JOIN earlier_2 USING (customer_id, bill_cycle)
LEFT JOIN earlier_3 USING (customer_id, bill_cycle)
LEFT JOIN earlier_4 USING (customer_id, bill_cycle)
LIMIT (SELECT count(*) FROM this_month) + (SELECT count(*) FROM month_1) + 1;
