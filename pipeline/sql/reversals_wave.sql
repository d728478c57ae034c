-- What becomes of the due reversals of one wave, by what the acquirer says of their payments now.
--
-- Tables given: wave_line (due lines), payment_state (the acquirer's answer, row for row). Parameters: $step, $kind, $scope, $incident_id, $wave.
-- `verdict` is 'send', a kind of deviation, or a reason to leave the line for a later call.
CREATE OR REPLACE TEMP TABLE judged AS
SELECT
    l.*,
    s.state,
    s.refundable_minor,
    CASE
        WHEN s.state IS NULL THEN 'still_unknown'
        WHEN s.state = 'declined' THEN 'charge_was_declined'
        WHEN s.state IN ('voided', 'refunded') THEN 'already_returned'
        WHEN s.state = 'expired' THEN 'expired'
        WHEN s.state = 'disputed' THEN 'disputed'
        WHEN s.charged_minor <> l.wrong_minor OR s.currency <> l.currency THEN 'other_amount'
        WHEN $step = 'cancel' THEN if(s.state = 'authorised', 'send', 'void_became_refund')
        WHEN s.state = 'authorised' THEN 'not_acquired'
        WHEN s.refundable_minor <= 0 THEN 'already_returned'
        ELSE 'send'
    END AS verdict
FROM wave_line l POSITIONAL JOIN payment_state s;

CREATE OR REPLACE TEMP TABLE intended AS
SELECT
    md5($kind || '|' || $incident_id || '|' || billing_period || '|' || bill_cycle || '|' || occurrence || '|' || attempt || '|'
        || customer_id) AS operation_id,
    $kind AS kind, $scope AS scope, $incident_id AS incident_id, customer_id, billing_period, bill_cycle, occurrence, attempt, charge_id,
    -- a void takes the whole approval back; a refund gives back what nobody has given back yet
    if($step = 'cancel', wrong_minor, least(amount_minor, refundable_minor)) AS amount_minor,
    currency, payment_method, issuer, instrument_token, CAST($wave AS INTEGER) AS wave, original_id, payment_id AS original_payment_id
FROM judged WHERE verdict = 'send' ORDER BY line;
