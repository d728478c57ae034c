-- Somebody else gave a whole wrong charge back: its customer hears of it as well, once, from what the acquirer has confirmed.
CREATE OR REPLACE VIEW notice_due AS
    SELECT d.*
    FROM (SELECT o.incident_id, o.customer_id, o.kind AS step, o.operation_id, o.amount_minor, o.currency, c.reason, NULL::date AS effective_on
          FROM operation o JOIN outcome c USING (operation_id)
          WHERE o.kind IN ('void', 'refund') AND c.status = 'succeeded'
          UNION ALL
          SELECT v.incident_id, o.customer_id, 'void', o.operation_id, o.amount_minor, o.currency, NULL, NULL
          FROM deviation v JOIN operation o ON o.operation_id = v.original_id WHERE v.kind = 'expired'
          UNION ALL
          SELECT v.incident_id, o.customer_id, 'returned', o.operation_id, o.amount_minor, o.currency, NULL, NULL
          FROM (SELECT incident_id, original_id, sum(amount_minor) AS amount_minor FROM deviation
                WHERE kind IN ('already_returned', 'shrunk') GROUP BY incident_id, original_id) v
          JOIN operation o ON o.operation_id = v.original_id AND o.amount_minor = v.amount_minor
          UNION ALL
          SELECT o.incident_id, o.customer_id, 'rebill', o.operation_id, o.amount_minor, o.currency, NULL, c.effective_on
          FROM operation o JOIN outcome c USING (operation_id)
          WHERE o.kind = 'rebill' AND c.status = 'succeeded' AND c.effective_on IS NOT NULL
          UNION ALL
          SELECT o.incident_id, o.customer_id, 'rebill_declined', o.operation_id, o.amount_minor, o.currency, c.reason, c.effective_on
          FROM operation o JOIN outcome c USING (operation_id)
          WHERE o.kind = 'rebill' AND c.status = 'declined' AND c.effective_on IS NOT NULL) d
    WHERE NOT EXISTS (SELECT FROM notice n
                      WHERE n.incident_id = d.incident_id AND n.customer_id = d.customer_id AND n.step = d.step);
