-- What becomes of the due reversals of one wave, by what the acquirer says of their payments now: a row for each line, in their order.
--
-- Tables given: wave_line (due lines), payment_state (the acquirer's answer, row for row). Parameters: $step, $kind, $incident_id.
-- `verdict` is 'send', a kind of deviation, or a reason to leave the line for a later call. Only what a line does not say itself is
-- computed here; the rest of an operation is the line's own columns.
SELECT
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
    END AS verdict,
    coalesce(s.state = 'voided', false) AS is_voided,
    -- a void takes the whole approval back; a refund gives back what nobody has given back yet
    CAST(if($step = 'cancel', l.wrong_minor, least(l.amount_minor, s.refundable_minor)) AS BIGINT) AS moved_minor,
    md5(concat($kind, '|', $incident_id, '|', l.billing_period, '|', l.bill_cycle, '|', l.occurrence, '|', l.attempt, '|', l.customer_id))
        AS operation_id
FROM wave_line l POSITIONAL JOIN payment_state s
