-- A plan's lines with their keys: the operation of the wrong charge, and - where it is about rebills - the key that a first
-- attempt to rebill the bill has. Made once;
-- numbers of 128 bits are compared many times faster than texts. Table given: numbered (the lines). Parameters: $incident_id, $step.
CREATE TEMP TABLE line_key AS
SELECT CAST(original_id AS UUID) AS original,
    CASE WHEN $step = 'rebill' AND rebill = 'rebill'
         THEN CAST(md5(concat('rebill|', $incident_id, '|', billing_period, '|', bill_cycle, '|1|1|', customer_id)) AS UUID) END AS rebill_id
FROM numbered;

CREATE TEMP VIEW plan_line AS FROM numbered POSITIONAL JOIN line_key;
