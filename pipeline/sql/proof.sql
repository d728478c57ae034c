-- The conservation proof: what was wrongly charged against what came back, what is due against what is held - from the source and the
-- acquirer's own book, and from nothing that planned or carried out the repair. Run in order; reads
--   wrong    one row per wrong charge of the source: customer_id, billing_period, bill_cycle, occurrence, amount_minor (positive), currency,
--            payment_method, issuer, instrument_token, payment_id (NULL where the reference below names it)
--   correct  the right bills: customer_id, billing_period, bill_cycle, amount_minor (any sign), currency, payment_method, issuer, instrument_token
--   book     the acquirer's: payment_id, merchant_reference, instrument_token, kind, amount_minor, currency, status, at
--   named    open items that people put a name to: customer_id, billing_period, bill_cycle, reason, is_written_off
--   other_incidents  incident_id of other repairs whose charges are none of this one's business
-- A reference is the business fact, hashed: kind | incident | period | cycle | occurrence | attempt | customer.

-- Every bill of the source, numbered: a number joins and groups several times faster than the names it stands for.
CREATE OR REPLACE TEMP TABLE source_bill AS
WITH charged AS (
    SELECT customer_id, billing_period, bill_cycle, any_value(payment_method) AS wrong_method, any_value(issuer) AS wrong_issuer FROM wrong GROUP BY ALL
)
SELECT row_number() OVER () AS bill_no, customer_id, billing_period, bill_cycle, coalesce(c.payment_method, w.wrong_method) AS payment_method,
    coalesce(c.issuer, w.wrong_issuer) AS issuer, c.amount_minor AS correct_minor, c.currency AS correct_in
FROM charged w FULL JOIN correct c USING (customer_id, billing_period, bill_cycle);

CREATE OR REPLACE TEMP MACRO reference_of(fact) AS CAST(md5(fact) AS UUID);

-- A reference that is no hash is none of ours.
CREATE OR REPLACE TEMP TABLE approval AS
SELECT row_number() OVER () AS number, payment_id, TRY_CAST(merchant_reference AS UUID) AS reference, instrument_token, amount_minor, currency, status, "at"
FROM book WHERE kind = 'authorise';

CREATE OR REPLACE TEMP TABLE approved_twice AS
SELECT number FROM approval SEMI JOIN (SELECT payment_id FROM approval WHERE status <> 'declined' GROUP BY payment_id HAVING count(*) > 1) USING (payment_id);

-- Which payments are wrong charges.
CREATE OR REPLACE TEMP TABLE numbered_wrong AS
SELECT b.bill_no, w.occurrence, w.amount_minor, w.currency, w.payment_method, w.issuer, w.payment_id, CASE WHEN w.payment_id IS NULL
        THEN reference_of('charge||' || w.billing_period || '|' || w.bill_cycle || '|' || w.occurrence || '|1|' || w.customer_id) END AS reference
FROM wrong w JOIN source_bill b USING (customer_id, billing_period, bill_cycle);

CREATE OR REPLACE TEMP TABLE wrong_payment AS
SELECT w.* EXCLUDE (payment_id, reference), a.number, a.payment_id, a.amount_minor AS approved_minor, a.currency AS approved_in, a.status, a."at"
FROM (FROM numbered_wrong WHERE payment_id IS NULL) w JOIN approval a USING (reference)
UNION ALL
-- a charge that was ended before it went out, and charged under a later attempt
SELECT w.* EXCLUDE (payment_id, reference), a.number, a.payment_id, a.amount_minor, a.currency, a.status, a."at"
FROM (FROM numbered_wrong ANTI JOIN approval USING (reference) WHERE payment_id IS NULL) w JOIN source_bill b USING (bill_no),
    range(2, $attempts + 1) t(attempt)
JOIN approval a ON a.reference = reference_of('charge||' || b.billing_period || '|' || b.bill_cycle || '|' || w.occurrence || '|' || attempt
                                              || '|' || b.customer_id)
UNION ALL
SELECT w.* EXCLUDE (payment_id, reference), a.number, a.payment_id, a.amount_minor, a.currency, a.status, a."at"
FROM (FROM numbered_wrong WHERE payment_id IS NOT NULL) w JOIN approval a USING (payment_id);

-- Every other approval on an instrument of anybody concerned, since the first wrong charge.
CREATE OR REPLACE TEMP TABLE other_approval AS
SELECT * FROM approval
SEMI JOIN (SELECT instrument_token FROM wrong UNION SELECT instrument_token FROM correct) USING (instrument_token)
ANTI JOIN wrong_payment USING (number)
WHERE "at" >= (SELECT coalesce(min("at"), '-infinity') FROM wrong_payment);

-- Which payments are rebills: almost always the first attempt; a later one is looked for among what is left over.
CREATE OR REPLACE TEMP TABLE rebill_payment AS
SELECT c.bill_no, a.*
FROM (FROM source_bill WHERE correct_in IS NOT NULL) c JOIN other_approval a
    ON a.reference = reference_of('rebill|' || $incident_id || '|' || c.billing_period || '|' || c.bill_cycle || '|1|1|' || c.customer_id);

CREATE OR REPLACE TEMP TABLE left_over AS
SELECT * FROM other_approval ANTI JOIN rebill_payment USING (number);

CREATE OR REPLACE TEMP TABLE person AS
SELECT DISTINCT customer_id, billing_period, bill_cycle, instrument_token FROM (
    SELECT customer_id, billing_period, bill_cycle, instrument_token FROM wrong
    UNION ALL SELECT customer_id, billing_period, bill_cycle, instrument_token FROM correct) SEMI JOIN left_over USING (instrument_token);

INSERT INTO rebill_payment
SELECT DISTINCT b.bill_no, a.*
FROM left_over a JOIN person p USING (instrument_token) JOIN source_bill b USING (customer_id, billing_period, bill_cycle), range(2, $attempts + 1) t(attempt)
WHERE a.reference = reference_of('rebill|' || $incident_id || '|' || p.billing_period || '|' || p.bill_cycle || '|1|' || attempt || '|' || p.customer_id);

-- Approvals nobody can explain: neither wrong charge nor rebill, nor another month's charge or another incident's rebill of these customers.
CREATE OR REPLACE TEMP TABLE stranger AS
WITH mine AS (SELECT a.*, p.customer_id, p.billing_period, p.bill_cycle FROM left_over a ANTI JOIN rebill_payment USING (number)
              JOIN person p USING (instrument_token) WHERE a.status <> 'declined'),
other_month AS (
    SELECT DISTINCT payment_id FROM mine, range(-$months, $months + 1) t(months), range(1, $attempts + 1) u(attempt)
    WHERE reference = reference_of('charge||' || strftime(strptime(billing_period, '%Y-%m') + to_months(CAST(months AS INTEGER)), '%Y-%m') || '|'
                                   || bill_cycle || '|1|' || attempt || '|' || customer_id)
),
other_repair AS (
    SELECT DISTINCT payment_id FROM mine, other_incidents i, range(-$months, $months + 1) t(months), range(1, $attempts + 1) u(attempt)
    WHERE reference = reference_of('rebill|' || i.incident_id || '|' || strftime(strptime(billing_period, '%Y-%m')
                                   + to_months(CAST(months AS INTEGER)), '%Y-%m') || '|' || bill_cycle || '|1|' || attempt || '|' || customer_id)
)
SELECT payment_id, any_value(customer_id) AS customer_id, any_value(billing_period) AS billing_period, any_value(bill_cycle) AS bill_cycle,
    any_value(amount_minor) AS amount_minor
FROM mine ANTI JOIN other_month USING (payment_id) ANTI JOIN other_repair USING (payment_id) GROUP BY payment_id;

-- What became of each payment of this repair.
CREATE OR REPLACE TEMP TABLE event AS
SELECT number, CASE kind WHEN 'refund' THEN merchant_reference END AS merchant_reference, kind, amount_minor, currency, status, "at"
FROM (SELECT * FROM book WHERE kind <> 'authorise')
JOIN (SELECT number, payment_id FROM wrong_payment UNION ALL SELECT number, payment_id FROM rebill_payment) USING (payment_id);

CREATE OR REPLACE TEMP TABLE refunded_twice AS
SELECT DISTINCT number FROM (
    SELECT number FROM event WHERE kind = 'refund' AND status = 'succeeded' GROUP BY number, merchant_reference HAVING count(*) > 1);

-- Which refunds are this repair's, as its rebills are found: almost always the first attempt.
CREATE OR REPLACE TEMP TABLE refund AS
SELECT DISTINCT e.merchant_reference, b.billing_period || '|' || b.bill_cycle || '|' || w.occurrence || '|' AS bill, b.customer_id
FROM event e JOIN wrong_payment w USING (number) JOIN source_bill b USING (bill_no) WHERE e.kind = 'refund';

CREATE OR REPLACE TEMP TABLE our_refund AS
SELECT merchant_reference FROM refund WHERE merchant_reference = md5('refund|' || $incident_id || '|' || bill || '1|' || customer_id);

INSERT INTO our_refund
SELECT DISTINCT merchant_reference FROM refund ANTI JOIN our_refund USING (merchant_reference), range(2, $attempts + 1) t(attempt)
WHERE merchant_reference = md5('refund|' || $incident_id || '|' || bill || attempt || '|' || customer_id);

CREATE OR REPLACE TEMP TABLE became AS
SELECT number,
    count(*) FILTER (kind = 'acquire') AS acquired,
    coalesce(sum(amount_minor) FILTER (kind = 'acquire' AND status = 'succeeded'), 0)::BIGINT AS acquired_minor,
    count(*) FILTER (kind = 'void' AND status = 'succeeded') AS voided,
    coalesce(sum(amount_minor) FILTER (kind = 'void' AND status = 'succeeded'), 0)::BIGINT AS voided_minor,
    coalesce(sum(amount_minor) FILTER (kind = 'refund' AND status = 'succeeded' AND o.merchant_reference IS NOT NULL), 0)::BIGINT AS refunded_minor,
    coalesce(sum(amount_minor) FILTER (kind = 'refund' AND status = 'succeeded' AND o.merchant_reference IS NULL), 0)::BIGINT AS returned_minor,
    count(*) FILTER (kind = 'refund' AND status = 'succeeded') AS refunds,
    bool_or(kind IN ('void', 'refund') AND status <> 'succeeded') AS undo_was_declined,
    min(currency) AS currency, max(currency) AS another_currency,
    min("at") FILTER (kind IN ('void', 'refund') AND status = 'succeeded') AS undone_at
FROM event e LEFT JOIN (SELECT DISTINCT merchant_reference FROM our_refund) o USING (merchant_reference) GROUP BY number;

CREATE OR REPLACE TEMP TABLE payment AS
WITH every AS (
    SELECT true AS is_wrong, bill_no, payment_method, issuer, number, approved_minor, approved_in, status, "at",
        amount_minor AS source_minor, currency AS source_in FROM wrong_payment
    UNION ALL BY NAME
    SELECT false AS is_wrong, r.bill_no, c.payment_method, c.issuer, r.number, r.amount_minor AS approved_minor,
        r.currency AS approved_in, r.status, r."at", greatest(c.correct_minor, 0) AS source_minor, c.correct_in AS source_in
    FROM rebill_payment r JOIN source_bill c USING (bill_no)
)
SELECT e.*, coalesce(b.acquired, 0) AS acquired, coalesce(b.voided_minor, 0) AS voided_minor, coalesce(b.refunded_minor, 0) AS refunded_minor,
    coalesce(b.returned_minor, 0) AS returned_minor, coalesce(b.undo_was_declined, false) AS undo_was_declined, b.undone_at,
    if(status = 'declined', 0, approved_minor) AS charged_minor, if(status = 'expired', approved_minor, 0) AS expired_minor,
    CASE WHEN approved_minor IS DISTINCT FROM source_minor OR approved_in IS DISTINCT FROM source_in THEN 'approved for another amount than the source has'
         WHEN d.number IS NOT NULL THEN 'one payment number, two approvals'
         WHEN status = 'declined' AND (b.acquired > 0 OR b.voided > 0 OR b.refunds > 0) THEN 'declined, and moved all the same'
         WHEN status = 'expired' AND (b.acquired > 0 OR b.voided > 0 OR b.refunds > 0) THEN 'expired, and moved all the same'
         WHEN b.voided > 1 OR r.number IS NOT NULL THEN 'undone more than once'
         WHEN b.voided = 1 AND b.voided_minor <> approved_minor THEN 'voided for another amount than was approved'
         WHEN b.voided = 1 AND (b.acquired > 0 OR b.refunds > 0) THEN 'voided, and moved all the same'
         WHEN b.acquired > 1 OR b.acquired = 1 AND b.acquired_minor <> approved_minor THEN 'acquired for another amount than was approved'
         WHEN b.refunds > 0 AND b.acquired = 0 THEN 'refunded, and never acquired'
         WHEN b.currency <> approved_in OR b.another_currency <> approved_in THEN 'moved in another currency'
         WHEN b.refunded_minor + b.returned_minor > approved_minor THEN 'more came back than was charged' END AS fault
FROM every e LEFT JOIN became b USING (number) LEFT JOIN approved_twice d USING (number) LEFT JOIN refunded_twice r USING (number);

-- Where each bill stands: what the acquirer holds for it, and what is due.
CREATE OR REPLACE TEMP TABLE bill AS
WITH held AS (
    SELECT bill_no,
        coalesce(sum(charged_minor) FILTER (is_wrong), 0)::BIGINT AS wrong_minor,
        coalesce(sum(charged_minor - expired_minor - voided_minor - refunded_minor - returned_minor) FILTER (is_wrong), 0)::BIGINT AS wrong_held_minor,
        coalesce(sum(charged_minor - expired_minor - voided_minor - refunded_minor - returned_minor) FILTER (NOT is_wrong), 0)::BIGINT AS rebill_held_minor,
        count(*) FILTER (NOT is_wrong AND status = 'succeeded') AS rebills,
        count(*) FILTER (NOT is_wrong AND status = 'declined') AS rebills_declined,
        count(*) FILTER (NOT is_wrong AND status = 'expired') AS rebills_expired,
        bool_or(is_wrong AND undo_was_declined) AS undo_was_declined,
        min(fault) AS fault
    FROM payment GROUP BY bill_no
)
SELECT bill_no, coalesce(b.correct_in, $currency) AS currency, payment_method, issuer, correct_minor, greatest(coalesce(correct_minor, 0), 0) AS due_minor,
    coalesce(wrong_minor, 0) AS wrong_minor, coalesce(wrong_held_minor, 0) AS wrong_held_minor, coalesce(rebill_held_minor, 0) AS rebill_held_minor,
    coalesce(rebills, 0) AS rebills,
    coalesce(fault, if(rebills > 1, 'rebilled more than once', NULL),
             if(wrong_held_minor < 0 OR rebill_held_minor < 0, 'more came back than was charged', NULL)) AS fault,
    n.reason AS named, coalesce(n.is_written_off, false) AS is_written_off,
    coalesce(undo_was_declined, false) AS undo_was_declined, coalesce(rebills_declined, 0) > 0 AS rebill_was_declined,
    coalesce(rebills_expired, 0) > 0 AS rebill_expired
FROM source_bill b LEFT JOIN held USING (bill_no)
LEFT JOIN (SELECT bill_no, reason, is_written_off FROM named JOIN source_bill USING (customer_id, billing_period, bill_cycle)) n USING (bill_no);

-- A bill is right, open by name, or unexplained. Open needs a reason: one the book shows (somebody declined), or a name that a person put to
-- it; and nobody is open who pays twice, or whom the right amount was taken from in part.
CREATE OR REPLACE TEMP TABLE verdict AS
SELECT *,
    wrong_held_minor + rebill_held_minor - due_minor AS difference_minor,
    CASE WHEN fault IS NOT NULL THEN 'unexplained'
         WHEN wrong_held_minor + rebill_held_minor = due_minor AND (wrong_held_minor = 0 OR rebill_held_minor = 0) THEN 'right'
         WHEN rebill_held_minor <> 0 THEN 'unexplained'
         WHEN wrong_held_minor > 0 AND (undo_was_declined OR named IS NOT NULL) THEN 'open'
         WHEN wrong_held_minor = 0 AND (rebill_was_declined OR rebill_expired OR named IS NOT NULL) THEN 'open'
         ELSE 'unexplained' END AS verdict,
    coalesce(fault, named,
        CASE WHEN wrong_held_minor > 0 AND rebill_held_minor > 0 THEN 'charged again while the wrong charge stands'
             WHEN wrong_held_minor > 0 AND undo_was_declined THEN 'the acquirer declined to undo it'
             WHEN wrong_held_minor > 0 THEN 'the wrong charge stands'
             WHEN rebill_was_declined THEN 'the rebill was declined'
             WHEN rebill_expired THEN 'the rebill was approved and expired'
             WHEN rebill_held_minor = 0 THEN 'not rebilled'
             ELSE 'rebilled for another amount' END) AS why
FROM bill;

-- Approvals and movements that belong to no bill, or to none that the source knows.
CREATE OR REPLACE TEMP TABLE loose AS
SELECT 'approved without any reason known here' AS why, customer_id, billing_period, bill_cycle, payment_id, amount_minor FROM stranger
UNION ALL
SELECT b.kind || ' of a payment that was never approved', NULL, NULL, NULL, b.payment_id, b.amount_minor
FROM book b ANTI JOIN approval USING (payment_id) WHERE b.kind <> 'authorise' AND b.status = 'succeeded'
UNION ALL
SELECT 'a rebill of a bill that the corrected run does not have', b.customer_id, b.billing_period, b.bill_cycle, r.payment_id, r.amount_minor
FROM rebill_payment r JOIN source_bill b USING (bill_no) WHERE b.correct_in IS NULL AND r.status <> 'declined';

-- wrong charged = voided + expired + refunded + returned by others + kept as the right charge + open + written off (+ residual)
CREATE OR REPLACE TEMP TABLE charged AS
SELECT p.payment_method, p.issuer, CAST(timezone($zone, p."at") AS DATE) AS day, count(*) FILTER (p.status <> 'declined') AS charges,
    sum(charged_minor)::BIGINT AS wrong_charged_minor, sum(voided_minor)::BIGINT AS voided_minor, sum(expired_minor)::BIGINT AS expired_minor,
    sum(refunded_minor)::BIGINT AS refunded_minor, sum(returned_minor)::BIGINT AS returned_by_others_minor,
    coalesce(sum(charged_minor - voided_minor - expired_minor - refunded_minor - returned_minor) FILTER (v.verdict = 'right'), 0)::BIGINT AS kept_minor,
    coalesce(sum(charged_minor - voided_minor - expired_minor - refunded_minor - returned_minor)
        FILTER (v.verdict = 'open' AND NOT v.is_written_off), 0)::BIGINT AS open_minor,
    coalesce(sum(charged_minor - voided_minor - expired_minor - refunded_minor - returned_minor)
        FILTER (v.verdict = 'open' AND v.is_written_off), 0)::BIGINT AS written_off_minor
FROM payment p JOIN verdict v USING (bill_no)
WHERE p.is_wrong
GROUP BY ALL ORDER BY ALL;

-- rebilled = correct bills - zero and credit bills - kept - open - written off (+ residual)
CREATE OR REPLACE TEMP TABLE rebilled AS
SELECT payment_method, issuer, count(*) FILTER (correct_minor IS NOT NULL) AS bills,
    count(*) FILTER (correct_minor = 0) AS zero_bills, count(*) FILTER (correct_minor < 0) AS credit_bills,
    coalesce(sum(correct_minor), 0)::BIGINT AS correct_minor, coalesce(sum(correct_minor) FILTER (correct_minor < 0), 0)::BIGINT AS credit_minor,
    sum(rebill_held_minor)::BIGINT AS rebilled_minor,
    coalesce(sum(wrong_held_minor) FILTER (verdict = 'right'), 0)::BIGINT AS kept_minor,
    coalesce(sum(due_minor) FILTER (verdict = 'open' AND NOT is_written_off), 0)::BIGINT AS open_minor,
    coalesce(sum(due_minor) FILTER (verdict = 'open' AND is_written_off), 0)::BIGINT AS written_off_minor
FROM verdict GROUP BY ALL ORDER BY ALL;

-- What moved on which day.
CREATE OR REPLACE TEMP TABLE by_day AS
WITH moved AS (
    SELECT w.payment_method, w.issuer, CAST(timezone($zone, e."at") AS DATE) AS day, e.kind, e.amount_minor
    FROM event e JOIN wrong_payment w USING (number) WHERE e.kind IN ('void', 'refund') AND e.status = 'succeeded'
    UNION ALL
    SELECT payment_method, issuer, CAST(timezone($zone, "at") AS DATE), 'rebill', charged_minor FROM payment WHERE NOT is_wrong AND status = 'succeeded'
)
SELECT day, payment_method, issuer, kind, count(*) AS operations, sum(amount_minor)::BIGINT AS amount_minor FROM moved GROUP BY ALL ORDER BY ALL;

CREATE OR REPLACE TEMP TABLE open_item AS
SELECT verdict, customer_id, billing_period, bill_cycle, NULL AS payment_id, wrong_held_minor, due_minor - rebill_held_minor AS unbilled_minor, currency, why,
    is_written_off, if(verdict = 'unexplained', greatest(abs(difference_minor), 1), 0) AS residual_minor
FROM verdict JOIN source_bill USING (bill_no) WHERE verdict <> 'right'
UNION ALL BY NAME
SELECT 'unexplained' AS verdict, customer_id, billing_period, bill_cycle, payment_id, amount_minor AS wrong_held_minor, 0 AS unbilled_minor,
    $currency AS currency, why, false AS is_written_off, amount_minor AS residual_minor
FROM loose;
