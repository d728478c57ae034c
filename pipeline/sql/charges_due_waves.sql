-- The due charges of `classed` (charges_due.sql) as operations, in waves from $first_wave on. The key is the business fact, as in the database:
-- kind | incident | period | cycle | occurrence | attempt | customer.
WITH placed AS (
    SELECT *, row_number() OVER (ORDER BY customer_id, bill_cycle) AS place FROM classed WHERE class = 'due'
)
SELECT
    md5('charge||' || $billing_period || '|' || bill_cycle || '|1|' || attempt || '|' || customer_id) AS operation_id,
    'charge' AS kind, $run_id AS scope, NULL::VARCHAR AS incident_id,
    customer_id, $billing_period AS billing_period, bill_cycle,
    1 AS occurrence, attempt, charge_id,
    amount_minor, currency, payment_method, issuer, instrument_token,
    CAST($first_wave + CASE WHEN place <= $canary THEN 0
                            WHEN place <= $canary + $second THEN 1
                            ELSE 2 + (place - $canary - $second - 1) // $wave_size END AS INTEGER) AS wave,
    NULL::VARCHAR AS original_id, NULL::VARCHAR AS original_payment_id
FROM placed
ORDER BY place
