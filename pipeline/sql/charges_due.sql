-- What a landed run still owes the acquirer: its positive charges, classed, keyed and cut into waves.
--
-- Views given: landed (the run's Parquet), charged (customer_id, bill_cycle, amount_minor, attempt, is_ended: what the period has been
-- charged already, and what of it ended before it went out).
-- Parameter: $held_issuers, on hold while an incident of theirs is open.
-- A class is a reason: only 'due' is charged, everything else is counted by name so that no row is lost.

-- Keys that several rows have: as a rule none. Numbers are grouped faster than texts, and say where to look.
CREATE OR REPLACE TEMP TABLE ambiguous AS
SELECT customer_id, bill_cycle FROM landed
WHERE hash(customer_id, bill_cycle) IN (SELECT hash(customer_id, bill_cycle) FROM landed GROUP BY ALL HAVING count(*) > 1)
GROUP BY ALL HAVING count(*) > 1;

-- Bills whose charges so far were all ended before they went out: they are charged under the next attempt.
CREATE OR REPLACE TEMP TABLE ended AS
SELECT customer_id, bill_cycle, max(attempt) AS attempts FROM charged GROUP BY ALL HAVING bool_and(is_ended);

CREATE OR REPLACE TEMP TABLE classed AS
SELECT
    l.customer_id, l.bill_cycle, l.charge_id, l.amount_minor, l.currency, l.payment_method, l.issuer, l.instrument_token,
    c.amount_minor AS charged_minor, CAST(1 + coalesce(e.attempts, 0) AS INTEGER) AS attempt,
    CASE
        WHEN l.customer_id IS NULL OR l.bill_cycle IS NULL OR l.charge_id IS NULL OR l.amount_minor IS NULL
             OR l.currency IS NULL OR l.payment_method IS NULL OR l.issuer IS NULL OR l.instrument_token IS NULL
             THEN 'incomplete'
        WHEN regexp_full_match(l.instrument_token, '[0-9 -]{13,}')  -- few tokens get as far as the closer look
             AND regexp_full_match(regexp_replace(l.instrument_token, '[ -]', '', 'g'), '[0-9]{13,19}') THEN 'card_number'
        WHEN a.customer_id IS NOT NULL THEN 'ambiguous'
        WHEN l.amount_minor = 0 THEN 'zero'
        WHEN l.amount_minor < 0 THEN 'credit'
        WHEN c.amount_minor = l.amount_minor THEN 'already_charged'
        WHEN c.amount_minor IS NOT NULL THEN 'correction'
        WHEN list_contains($held_issuers, l.issuer) THEN 'on_hold'
        ELSE 'due'
    END AS class
FROM landed l
LEFT JOIN ambiguous a ON a.customer_id = l.customer_id AND a.bill_cycle = l.bill_cycle
LEFT JOIN (FROM charged WHERE NOT is_ended) c ON c.customer_id = l.customer_id AND c.bill_cycle = l.bill_cycle
LEFT JOIN ended e ON e.customer_id = l.customer_id AND e.bill_cycle = l.bill_cycle;
