-- The keys of the rebills of one wave, in the order of their lines. Table given: wave_line. Parameter: $incident_id.
SELECT md5(concat('rebill|', $incident_id, '|', billing_period, '|', bill_cycle, '|1|', attempt, '|', customer_id)) AS operation_id
FROM wave_line
