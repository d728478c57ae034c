-- Words the other files use.

-- Runs of 13 to 19 digits, bare or grouped as card numbers are printed (4-4-4-4, 4-6-5, ...), standing by themselves: inside
-- a longer word of letters and digits, such as a hexadecimal token, they are not looked for.
CREATE TEMP MACRO numbers_in(text) AS
    regexp_extract_all(
        replace(text, '_', ' '),
        '\b([0-9]{13,19}|[0-9]{4}([ -][0-9]{4}){2}[ -][0-9]{1,7}|[0-9]{4}([ -][0-9]{4}){3}[ -][0-9]{3}|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5})\b');

-- A quick test that lets no such number through. Such a number is twelve characters or longer and has nothing but digits and what stands
-- between them, so in a text of up to twenty it covers the ninth and the twelfth: two looks spare most texts the search.
CREATE TEMP MACRO may_hold_card(text) AS
    CASE WHEN strlen(text) <= 12 OR strlen(text) <= 20 AND (substr(text, 9, 1) > '9' OR substr(text, 12, 1) > '9') THEN FALSE
         ELSE regexp_matches(text, '[0-9]{4}[ -]?[0-9]{4,6}[ -]?[0-9]{4}') END;

-- For text that is shown: no number as long as a card's leaves here, whatever its check digit.
CREATE TEMP MACRO hide_numbers(text) AS regexp_replace(text, '[0-9]([ -]?[0-9]){12,}', '(number hidden)', 'g');

-- First six and last four digits, as the card industry allows a number to be shown.
CREATE TEMP MACRO mask_card(text) AS
    left(regexp_replace(text, '[^0-9]', '', 'g'), 6) || '******' || right(regexp_replace(text, '[^0-9]', '', 'g'), 4);

-- a / b as a share, NULL (never NaN or infinity) where there is nothing to divide by.
CREATE TEMP MACRO share(part, whole) AS
    CASE WHEN whole > 0 THEN CAST(part AS DOUBLE) / CAST(whole AS DOUBLE) END;

-- Whether an amount moved by more than a percentage of what it was; both positive, exact up to 13 digits.
CREATE TEMP MACRO moved(amount, before, percent) AS
    abs(CAST(amount AS DOUBLE) - CAST(before AS DOUBLE)) * 100 > CAST(before AS DOUBLE) * percent;

-- Whether a bill lies about so many times between the lowest and the highest of some others, a tenth more or less.
CREATE TEMP MACRO is_about(bill, low, high, times) AS bill * 1.1 >= low * times AND bill <= high * times * 1.1;

-- The smaller of two, and NULL where the first is.
CREATE TEMP MACRO least_of(value, ceiling) AS CASE WHEN value > ceiling THEN ceiling ELSE value END;

-- How surprising so many hits are where so many are expected, in nats: of events that come one by one (Poisson), so many or more are
-- seen with a probability of at most e^-surprise (Chernoff's bound). Zero for what is expected, NULL where nothing is.
CREATE TEMP MACRO surprise(hits, expected) AS
    CASE WHEN hits > expected THEN hits * ln(hits / expected) - (hits - expected) WHEN expected IS NOT NULL THEN 0 END;

-- The same for so few.
CREATE TEMP MACRO deficit(hits, expected) AS
    CASE WHEN hits >= expected THEN 0 WHEN hits = 0 THEN expected ELSE hits * ln(hits / expected) - (hits - expected) END;

-- A surprise where months differ by more than chance. Up to twice as much may be chance in so few of them, and is a factor that is known well
-- enough; from there on the spread is itself an estimate, and far-off counts are likelier by as much (Student's t instead of the normal).
CREATE TEMP MACRO dispersed(surprise, dispersion, month_count) AS
    CASE WHEN dispersion <= 2 THEN surprise / greatest(dispersion, 1)
         ELSE month_count / 2 * ln(1 + 2 * surprise / (dispersion * (month_count - 1))) END;

-- The smallest group that is counted: rows of one issuer, payment method and plan. A hash of the three stands for them: of some hundred
-- cells no two share one.
CREATE TEMP MACRO cell_of(issuer, payment_method, plan_code) AS
    hash(coalesce(issuer, ''), coalesce(payment_method, ''), coalesce(plan_code, ''));

-- An account - a customer's bills of one cycle - as months are joined by it: whole numbers join faster than texts. Two of some million
-- accounts would share a hash once in a million months, and would then be compared with each other's bills.
CREATE TEMP MACRO account_of(customer_id, bill_cycle) AS hash(customer_id, coalesce(bill_cycle, 1));

-- Whether an amount is the digits of an id; shorter ones meet by chance.
CREATE TEMP MACRO is_id(amount, grid, customer_id, charge_id) AS
    amount >= 1000 * grid AND (ends_with(customer_id, CAST(amount // grid AS VARCHAR)) OR ends_with(charge_id, CAST(amount // grid AS VARCHAR)));

-- Nothing but blanks. The comparison spares most texts the trimming: blanks sort before everything that is printed.
CREATE TEMP MACRO is_blank(text) AS (text IS NULL OR (text < '!' AND trim(text) = ''));

-- Small enough that sums and products of a few of them cannot overflow.
CREATE TEMP MACRO fits(amount) AS amount BETWEEN -10000000000000 AND 10000000000000;

-- Which kind of cohort a row of GROUPING SETS is: the one that it was grouped by.
CREATE TEMP MACRO cohort_kind(issuer, payment_method, plan) AS
    CASE WHEN issuer IS NOT NULL THEN 'issuer' WHEN payment_method IS NOT NULL THEN 'payment_method'
         WHEN plan IS NOT NULL THEN 'plan' ELSE 'run' END;

-- The largest amount of each bin of the report's histogram: ..., -5, -2, -1, 0, 1, 4, 9, 19, 49, 99, ...; the last takes whatever is left.
CREATE TEMP MACRO largest_in_bins() AS list_sort(list_distinct(
    flatten(list_transform(range(0, 18), lambda k: [
        -5 * CAST(pow(10, k) AS BIGINT), -2 * CAST(pow(10, k) AS BIGINT), -1 * CAST(pow(10, k) AS BIGINT),
        CAST(pow(10, k) AS BIGINT) - 1, 2 * CAST(pow(10, k) AS BIGINT) - 1, 5 * CAST(pow(10, k) AS BIGINT) - 1]))
    || [9223372036854775807]));
