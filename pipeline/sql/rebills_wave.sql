-- The rebills of one wave: the right amount, on the customer's present instrument. Table given: wave_line. Parameters: $scope, $incident_id, $wave.
CREATE OR REPLACE TEMP TABLE intended AS
SELECT
    md5('rebill|' || $incident_id || '|' || billing_period || '|' || bill_cycle || '|1|' || attempt || '|' || customer_id) AS operation_id,
    'rebill' AS kind, $scope AS scope, $incident_id AS incident_id, customer_id, billing_period, bill_cycle,
    CAST(1 AS INTEGER) AS occurrence, attempt, rebill_charge_id AS charge_id, amount_minor, currency, rebill_method AS payment_method,
    rebill_issuer AS issuer, rebill_token AS instrument_token, CAST($wave AS INTEGER) AS wave, NULL::VARCHAR AS original_id,
    NULL::VARCHAR AS original_payment_id
FROM wave_line ORDER BY line;
