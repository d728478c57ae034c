-- The rules a row can break by itself, each said once, and the rows that break one: the profile counts them, quarantine lists them.
-- All rows are looked at here, and only here.

CREATE TEMP VIEW checked AS
SELECT
    charge.*,

    is_blank(charge.charge_id) AS missing_charge_id,
    is_blank(charge.customer_id) AS missing_customer_id,
    is_blank(charge.billing_period) AS missing_billing_period,
    amount_minor IS NULL AS missing_amount,
    is_blank(currency) AS missing_currency,
    is_blank(payment_method) AS missing_payment_method,
    is_blank(issuer) AS missing_issuer,
    is_blank(instrument_token) AS missing_instrument_token,

    duplicate_charge_ids.charge_id IS NOT NULL AS duplicate_charge_id,
    duplicate_accounts.customer_id IS NOT NULL AS duplicate_account,

    coalesce(charge.billing_period <> run_period, FALSE) AS wrong_period,
    coalesce(service_start > service_end OR service_start < first_day OR service_start > last_day
        OR service_end < first_day OR service_end > last_day, FALSE) AS service_outside_period,

    payment_method_is_unknown AND NOT is_blank(payment_method) AS unknown_payment_method,
    NOT is_blank(currency) AND (currency <> run_currency
        OR run_currency NOT IN (SELECT currency FROM known_currencies)) AS wrong_currency,
    plan_is_new AS unknown_plan,

    -- Components are judged where all four are given: otherwise net or tax is NULL, hence FALSE. A component too large for the
    -- arithmetic (no bill is: 10 to the 13th) counts as disagreeing.
    coalesce(has_huge_component OR net_minor + tax_minor <> amount_minor, FALSE) AS components_disagree,
    -- Tax is rounded half up, away from zero for a credit: without a division, |tax| x 10000 exceeds |net| x rate by at most
    -- half a unit, or falls short of it by less.
    coalesce(
        abs(checked_tax_minor) * 10000 - abs(net_minor) * tax_basis_points > 5000
        OR abs(checked_tax_minor) * 10000 - abs(net_minor) * tax_basis_points <= -5000
        OR sign(checked_tax_minor) * sign(net_minor) < 0, FALSE) AS wrong_tax,

    coalesce(amount_minor > amount_limit_minor, FALSE) AS over_limit,

    -- Twelve digits in a row, or grouped as on a card: worth the closer look below. Columns of few values are looked at once
    -- per value.
    may_hold_card(charge.charge_id) OR may_hold_card(charge.customer_id) OR may_hold_card(instrument_token) OR cell_may_hold_card
        OR is_card_number(instrument_token)  -- however it is grouped: what a release leaves out is never let pass
        OR coalesce(may_hold_card(currency), FALSE) OR coalesce(may_hold_card(charge.billing_period), FALSE) AS may_hold_card
FROM (
    SELECT *,
        NOT (fits(base_fee_minor) AND fits(usage_fee_minor) AND fits(discount_minor) AND fits(tax_minor)) AS has_huge_component,
        CASE WHEN fits(base_fee_minor) AND fits(usage_fee_minor) AND fits(discount_minor) AND fits(tax_minor)
             THEN base_fee_minor + usage_fee_minor - discount_minor END AS net_minor,
        CASE WHEN fits(tax_minor) THEN tax_minor END AS checked_tax_minor
    FROM charges_in_cells
    JOIN (SELECT cell, payment_method_is_unknown, plan_is_new, may_hold_card AS cell_may_hold_card FROM cells) USING (cell)
) AS charge
CROSS JOIN parameters
LEFT JOIN duplicate_charge_ids ON duplicate_charge_ids.charge_id = charge.charge_id
LEFT JOIN duplicate_accounts
    ON duplicate_accounts.customer_id = charge.customer_id
    AND duplicate_accounts.bill_cycle = coalesce(charge.bill_cycle, 1);

CREATE TEMP TABLE suspicious AS
SELECT * FROM checked
WHERE may_hold_card
    OR missing_charge_id OR missing_customer_id OR missing_billing_period OR missing_amount OR missing_currency
    OR missing_payment_method OR missing_issuer OR missing_instrument_token OR duplicate_charge_id OR duplicate_account
    OR wrong_period OR service_outside_period OR unknown_payment_method OR wrong_currency OR unknown_plan
    OR components_disagree OR wrong_tax OR over_limit;

-- Card numbers where none belongs: bare or grouped as on a card, alone or within a text.
CREATE TEMP TABLE card_numbers AS
WITH suspects AS (SELECT * FROM suspicious WHERE may_hold_card),
texts AS (
    SELECT source_file, source_row, 'charge_id' AS in_column, charge_id AS text FROM suspects
    UNION ALL SELECT source_file, source_row, 'customer_id', customer_id FROM suspects
    UNION ALL SELECT source_file, source_row, 'instrument_token', instrument_token FROM suspects
    UNION ALL SELECT source_file, source_row, 'issuer', issuer FROM suspects
    UNION ALL SELECT source_file, source_row, 'plan_code', plan_code FROM suspects
    UNION ALL SELECT source_file, source_row, 'payment_method', payment_method FROM suspects
    UNION ALL SELECT source_file, source_row, 'currency', currency FROM suspects
    UNION ALL SELECT source_file, source_row, 'billing_period', billing_period FROM suspects
),
candidates AS (
    SELECT source_file, source_row, in_column, unnest(numbers_in(text)) AS number FROM texts
    UNION ALL SELECT source_file, source_row, 'instrument_token', instrument_token FROM suspects
)
SELECT source_file, source_row, min(in_column) AS in_column,
       bool_or(in_column = 'charge_id') AS in_charge_id, bool_or(in_column = 'customer_id') AS in_customer_id
FROM candidates WHERE is_card_number(number) GROUP BY 1, 2;

CREATE TEMP VIEW broken AS
SELECT
    suspicious.*,
    card_numbers.source_row IS NOT NULL AS card_number,
    card_numbers.in_column AS card_number_in,
    coalesce(card_numbers.in_charge_id, FALSE) AS card_number_in_charge_id,
    coalesce(card_numbers.in_customer_id, FALSE) AS card_number_in_customer_id
FROM suspicious
LEFT JOIN card_numbers
    ON card_numbers.source_row = suspicious.source_row AND card_numbers.source_file = suspicious.source_file;
