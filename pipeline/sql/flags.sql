-- What is odd about each bill of one month, by the account's own bills before it: a boolean per signal, beside the booleans that say
-- among which bills it is counted. The engine fills in the month: how many months back it lies (0: this run), and
-- the three before it. core/signals.py says what each signal means. A bill is about so many times a customer's others when it lies between
-- so many times the lowest and so many times the highest, a tenth more or less.
-- Nearly all bills show nothing at all, and most of that can be told by little: `is_remarkable` is TRUE for every bill with a flag and
-- for few others, so that only those are looked at flag by flag.
CREATE OR REPLACE TEMP VIEW flags_{now} AS
WITH bills AS (
    SELECT
        {cell} AS cell,
        amount_{now} AS amount, amount_{last} AS last, amount_{before} AS before, amount_{prior} AS prior,
        coalesce({earlier}) IS NOT NULL AS billed_earlier,
        {cell} IS NOT NULL AND amount_{last} IS NOT NULL AS continued,
        {cell} <> {cell_last} AS changed_cell,
        {cell} = {cell_last} OR moves.same_plan AS same_plan,
        moves.method_changed,
        moves.issuer_changed,
        {attributes}
    FROM accounts
    LEFT JOIN moves ON moves.cell = {cell} AND moves.last_cell = {cell_last}
    WHERE {cell} IS NOT NULL
),
ranged AS (
    SELECT *,
        CAST(amount AS DOUBLE) / greatest(last, before, prior) AS times_high, CAST(amount AS DOUBLE) / least(last, before, prior) AS times_low,
        CAST(greatest(last, before, prior) AS DOUBLE) <= CAST(least(last, before, prior) AS DOUBLE) * 1.25 AS is_steady,
        -- NULL, as below wherever a flag cannot be told, counts as FALSE; a single earlier month cannot say that a customer's bills are steady
        month_count >= 2 AND last > 0 AND before > 0 AND prior > 0 AND amount IS NOT NULL AS thrice_billed
    FROM bills CROSS JOIN parameters
)
SELECT
    cell, amount, last,
    thrice_billed AND is_steady AS steady,
    TRUE AS billed,
    continued,
    continued AND same_plan AND base IS NOT NULL AND last_base IS NOT NULL AS kept_plan_with_base,
    -- a bill waived as a whole is a discount that ends with it
    continued AND same_plan AND amount > 0 AND last > 0 AND discount IS NOT NULL AND last_discount > 0 AS discounted,
    continued AND usage IS NOT NULL AND last_usage > 0 AND usage_before > 0 AS metered,
    continued AND amount > 0 AND amount <> last AS billed_anew,

    last IS NULL OR steady AND (times_low >= 1.8 OR times_high <= 0.55) OR changed_cell OR amount % (1000 * grid) = 0 OR card <> last_card
        OR base <> last_base OR discount <> last_discount
        OR usage = 0 AND last_usage > 0 OR CAST(usage AS DOUBLE) > 2 * CAST(greatest(last_usage, usage_before) AS DOUBLE) AS is_remarkable,

    times_low * 1.1 >= 10 AND times_high <= 11 AND amount % (10 * grid) = 0 AS times_10,
    times_low * 1.1 >= 100 AND times_high <= 110 AND amount % (100 * grid) = 0 AS times_100,
    times_low * 1.1 >= 1000 AND times_high <= 1100 AND amount % (1000 * grid) = 0 AS times_1000,
    times_low * 1.1 >= 0.1 AND times_high <= 0.11 AS tenth,
    times_low * 1.1 >= 0.01 AND times_high <= 0.011 AS hundredth,
    -- usage doubles and halves a bill by itself; a base fee does not
    times_low * 1.1 >= 2 AND times_high <= 2.2 AND (base IS NULL OR same_plan AND is_about(CAST(base AS DOUBLE), last_base, last_base, 2)) AS doubled,
    times_low * 1.1 >= 0.5 AND times_high <= 0.55 AND (base IS NULL OR same_plan AND is_about(CAST(base AS DOUBLE), last_base, last_base, 0.5)) AS halved,
    times_high >= 5 AS far_above,
    times_low > 0 AND times_low <= 0.2 AS far_below,
    amount = 0 AS zeroed,
    times_low * 1.1 <= -1 AND times_high >= -1.1 AS sign_flipped,
    amount % (1000 * grid) = 0 AS rounded_off,

    last IS NULL AND NOT billed_earlier AS joined,
    last IS NULL AND billed_earlier AS returned,
    NOT same_plan AS plan_changed,
    method_changed,
    issuer_changed,
    card <> last_card AS card_changed,
    base <> last_base AS base_changed,
    discount = 0 AS discount_dropped,
    is_about(CAST(discount AS DOUBLE), last_discount, last_discount, 2) AS discount_doubled,
    usage = 0 AS usage_vanished,
    CAST(usage AS DOUBLE) > 2 * CAST(greatest(last_usage, usage_before) AS DOUBLE) AS usage_high
FROM ranged CROSS JOIN grid;
