-- One row per account billed this month or last, its bills side by side: ..._0 this run, ..._1 the latest earlier month, and so on;
-- NULL where it was not billed. The engine has laid out this_month and earlier_1 .. earlier_5: the five latest months by account, customers
-- without an id left out. An account is here once unless an earlier month has it twice; the limit stops such a month from multiplying itself out.
CREATE OR REPLACE TEMP TABLE accounts AS
SELECT
    account, this_month.customer, this_month.file, this_month.source_row,
    this_month.cell AS cell, earlier_1.cell AS previous_cell, earlier_2.cell AS cell_2,
    this_month.amount AS amount_0, earlier_1.amount AS amount_1, earlier_2.amount AS amount_2,
    earlier_3.amount AS amount_3, earlier_4.amount AS amount_4, earlier_5.amount AS amount_5,
    this_month.card AS card_0, earlier_1.card AS card_1, earlier_2.card AS card_2,
    this_month.base AS base_0, earlier_1.base AS base_1, earlier_2.base AS base_2,
    this_month.discount AS discount_0, earlier_1.discount AS discount_1, earlier_2.discount AS discount_2,
    this_month.usage AS usage_0, earlier_1.usage AS usage_1, earlier_2.usage AS usage_2, earlier_3.usage AS usage_3
FROM this_month
FULL JOIN earlier_1 USING (account)
LEFT JOIN earlier_2 USING (account)
LEFT JOIN earlier_3 USING (account)
LEFT JOIN earlier_4 USING (account)
LEFT JOIN earlier_5 USING (account)
LIMIT (SELECT count(*) FROM charges) + (SELECT count(*) FROM month_1) + 1;
