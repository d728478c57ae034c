-- The same notices: operations and their outcomes are joined once, not once for each step.
CREATE OR REPLACE VIEW notice_due AS
    SELECT d.*
    FROM (SELECT o.incident_id, o.customer_id,
                 CASE WHEN o.kind <> 'rebill' THEN o.kind WHEN c.status = 'succeeded' THEN 'rebill' ELSE 'rebill_declined' END AS step,
                 o.operation_id, o.amount_minor, o.currency, c.reason, CASE o.kind WHEN 'rebill' THEN c.effective_on END AS effective_on
          FROM operation o JOIN outcome c USING (operation_id)
          WHERE (o.kind IN ('void', 'refund') AND c.status = 'succeeded') OR (o.kind = 'rebill' AND c.effective_on IS NOT NULL)
          UNION ALL
          SELECT v.incident_id, o.customer_id, 'void', o.operation_id, o.amount_minor, o.currency, NULL, NULL
          FROM deviation v JOIN operation o ON o.operation_id = v.original_id WHERE v.kind = 'expired'
          UNION ALL
          SELECT v.incident_id, o.customer_id, 'returned', o.operation_id, o.amount_minor, o.currency, NULL, NULL
          FROM (SELECT incident_id, original_id, sum(amount_minor) AS amount_minor FROM deviation
                WHERE kind IN ('already_returned', 'shrunk') GROUP BY incident_id, original_id) v
          JOIN operation o ON o.operation_id = v.original_id AND o.amount_minor = v.amount_minor) d
    WHERE NOT EXISTS (SELECT FROM notice n
                      WHERE n.incident_id = d.incident_id AND n.customer_id = d.customer_id AND n.step = d.step);
