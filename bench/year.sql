-- The least that looking at thirteen months can cost: join them by account and add up the amounts. Nothing is asked of them.
-- Given: views month_0 (the run) to month_12.
SELECT count(*), sum(month_0.amount_minor), sum(month_1.amount_minor), sum(month_2.amount_minor), sum(month_3.amount_minor),
    sum(month_4.amount_minor), sum(month_5.amount_minor), sum(month_6.amount_minor), sum(month_7.amount_minor),
    sum(month_8.amount_minor), sum(month_9.amount_minor), sum(month_10.amount_minor), sum(month_11.amount_minor), sum(month_12.amount_minor)
FROM month_0
LEFT JOIN month_1 USING (customer_id, bill_cycle)
LEFT JOIN month_2 USING (customer_id, bill_cycle)
LEFT JOIN month_3 USING (customer_id, bill_cycle)
LEFT JOIN month_4 USING (customer_id, bill_cycle)
LEFT JOIN month_5 USING (customer_id, bill_cycle)
LEFT JOIN month_6 USING (customer_id, bill_cycle)
LEFT JOIN month_7 USING (customer_id, bill_cycle)
LEFT JOIN month_8 USING (customer_id, bill_cycle)
LEFT JOIN month_9 USING (customer_id, bill_cycle)
LEFT JOIN month_10 USING (customer_id, bill_cycle)
LEFT JOIN month_11 USING (customer_id, bill_cycle)
LEFT JOIN month_12 USING (customer_id, bill_cycle)
