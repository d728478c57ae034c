-- What is odd about each bill of one month, by the account's own bills before it: a boolean per signal, beside the booleans that say
-- among which bills it is counted. The engine fills in the month: how many months back it lies (0: this run), and
-- the three before it. core/signals.py says what each signal means.
CREATE OR REPLACE TEMP VIEW flags_{now} AS
WITH bills AS (
    SELECT
        {cell} AS cell,
        amount_{now} AS amount, amount_{last} AS last, amount_{before} AS before, amount_{prior} AS prior,
        coalesce({earlier}) IS NOT NULL AS billed_earlier,
        {cell} IS NOT NULL AND amount_{last} IS NOT NULL AS continued,
        here.plan_code = there.plan_code AS same_plan,
        here.payment_method <> there.payment_method AS method_changed,
        here.issuer <> there.issuer AS issuer_changed,
        {attributes}
    FROM accounts
    LEFT JOIN cells AS here ON here.cell = {cell}
    LEFT JOIN cells AS there ON there.cell = {cell_last}
    WHERE {cell} IS NOT NULL
),
ranged AS (
    SELECT *,
        CAST(least(last, before, prior) AS DOUBLE) AS low, CAST(greatest(last, before, prior) AS DOUBLE) AS high,
        CAST(amount AS DOUBLE) AS bill,
        -- a single earlier month cannot say that a customer's bills are steady
        month_count >= 2 AND last > 0 AND before > 0 AND prior > 0 AND amount IS NOT NULL AS thrice_billed
    FROM bills CROSS JOIN parameters
)
SELECT
    cell, amount, last,
    coalesce(thrice_billed AND high <= low * 1.25, FALSE) AS steady,
    TRUE AS billed,
    continued,
    continued AND same_plan AS kept_plan,
    coalesce(continued AND same_plan AND base IS NOT NULL AND last_base IS NOT NULL, FALSE) AS kept_plan_with_base,
    coalesce(continued AND same_plan AND amount > 0 AND discount IS NOT NULL AND last_discount > 0, FALSE) AS discounted,
    coalesce(continued AND usage IS NOT NULL AND last_usage > 0 AND usage_before > 0, FALSE) AS metered,
    coalesce(continued AND amount > 0 AND amount <> last, FALSE) AS billed_anew,

    coalesce(is_about(bill, low, high, 10) AND amount % (10 * grid) = 0, FALSE) AS times_10,
    coalesce(is_about(bill, low, high, 100) AND amount % (100 * grid) = 0, FALSE) AS times_100,
    coalesce(is_about(bill, low, high, 1000) AND amount % (1000 * grid) = 0, FALSE) AS times_1000,
    coalesce(is_about(bill, low, high, 0.1), FALSE) AS tenth,
    coalesce(is_about(bill, low, high, 0.01), FALSE) AS hundredth,
    coalesce(is_about(bill, low, high, 2), FALSE) AS doubled,
    coalesce(is_about(bill, low, high, 0.5), FALSE) AS halved,
    coalesce(bill >= 5 * high, FALSE) AS far_above,
    coalesce(bill > 0 AND bill * 5 <= low, FALSE) AS far_below,
    coalesce(amount = 0, FALSE) AS zeroed,
    coalesce(is_about(-bill, low, high, 1), FALSE) AS sign_flipped,
    coalesce(amount % (1000 * grid) = 0, FALSE) AS rounded_off,

    last IS NULL AND NOT billed_earlier AS joined,
    last IS NULL AND billed_earlier AS returned,
    coalesce(NOT same_plan, FALSE) AS plan_changed,
    coalesce(method_changed, FALSE) AS method_changed,
    coalesce(issuer_changed, FALSE) AS issuer_changed,
    coalesce(card <> last_card, FALSE) AS card_changed,
    coalesce(base <> last_base, FALSE) AS base_changed,
    coalesce(discount = 0, FALSE) AS discount_dropped,
    coalesce(is_about(CAST(discount AS DOUBLE), last_discount, last_discount, 2), FALSE) AS discount_doubled,
    coalesce(usage = 0, FALSE) AS usage_vanished,
    coalesce(usage > 2.0 * greatest(last_usage, usage_before), FALSE) AS usage_high
FROM ranged CROSS JOIN grid;
