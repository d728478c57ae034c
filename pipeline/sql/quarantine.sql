-- The rows that break a rule by themselves: a row with two reasons is here twice. Never a token; a card number found in an id is shown
-- as its first six and last four digits.
WITH reasons AS (
    SELECT 'missing_charge_id' AS reason, 'charge_id' AS in_column, CAST(NULL AS VARCHAR) AS detail, * FROM broken WHERE missing_charge_id
    UNION ALL SELECT 'missing_customer_id', 'customer_id', NULL, * FROM broken WHERE missing_customer_id
    UNION ALL SELECT 'missing_billing_period', 'billing_period', NULL, * FROM broken WHERE missing_billing_period
    UNION ALL SELECT 'missing_amount', 'amount_minor', NULL, * FROM broken WHERE missing_amount
    UNION ALL SELECT 'missing_currency', 'currency', NULL, * FROM broken WHERE missing_currency
    UNION ALL SELECT 'missing_payment_method', 'payment_method', NULL, * FROM broken WHERE missing_payment_method
    UNION ALL SELECT 'missing_issuer', 'issuer', NULL, * FROM broken WHERE missing_issuer
    UNION ALL SELECT 'missing_instrument_token', 'instrument_token', NULL, * FROM broken WHERE missing_instrument_token
    UNION ALL SELECT 'duplicate_charge_id', 'charge_id', NULL, * FROM broken WHERE duplicate_charge_id
    UNION ALL SELECT 'duplicate_account', 'customer_id', 'cycle ' || coalesce(bill_cycle, 1), * FROM broken WHERE duplicate_account
    UNION ALL SELECT 'wrong_period', 'billing_period', hide_numbers(billing_period), * FROM broken WHERE wrong_period
    UNION ALL SELECT 'service_outside_period', 'service_start', coalesce(CAST(service_start AS VARCHAR), '') || ' to '
        || coalesce(CAST(service_end AS VARCHAR), ''), * FROM broken WHERE service_outside_period
    UNION ALL SELECT 'unknown_payment_method', 'payment_method', hide_numbers(payment_method), * FROM broken
        WHERE unknown_payment_method
    UNION ALL SELECT 'wrong_currency', 'currency', hide_numbers(currency), * FROM broken WHERE wrong_currency
    UNION ALL SELECT 'unknown_plan', 'plan_code', hide_numbers(plan_code), * FROM broken WHERE unknown_plan
    UNION ALL SELECT 'components_disagree', 'amount_minor', amount_minor || ' is not ' || net_minor || ' + ' || tax_minor, * FROM broken
        WHERE components_disagree
    UNION ALL SELECT 'wrong_tax', 'tax_minor', tax_minor || ' on ' || net_minor, * FROM broken WHERE wrong_tax
    UNION ALL SELECT 'over_limit', 'amount_minor', CAST(amount_minor AS VARCHAR), * FROM broken WHERE over_limit
    UNION ALL SELECT 'card_number', card_number_in, NULL, * FROM broken WHERE card_number
)
SELECT
    reason, source_file, source_row,
    CASE WHEN card_number_in_charge_id THEN mask_card(charge_id) ELSE charge_id END AS charge_id,
    CASE WHEN card_number_in_customer_id THEN mask_card(customer_id) ELSE customer_id END AS customer_id,
    in_column AS "column", detail
FROM reasons
