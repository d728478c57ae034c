-- One message per customer of a step, in the customer's language, saying what has happened and nothing else.
--
-- Tables given: outcome_due (customer_id, operation_id, amount_minor, currency, reason, effective_on of operations whose
-- outcome nobody was told), still_open (customers with an operation of the step whose outcome is not known), promise (customer_id,
-- money_back_by, is_undone, nothing_due - from the approved plans), contact (customer_id, phone, email, language), template (language,
-- variant, text), exponent (currency, exponent). Parameters: $incident_id, $step, $final_reasons, $retry_days.
CREATE OR REPLACE TEMP TABLE told AS
SELECT
    d.customer_id,
    min(d.operation_id) AS operation_id,
    CAST(sum(d.amount_minor) AS BIGINT) AS amount_minor,
    any_value(d.currency) AS currency,
    max(d.effective_on) AS effective_on,
    max(d.reason) AS reason
FROM outcome_due d
ANTI JOIN still_open USING (customer_id)
GROUP BY d.customer_id;

CREATE OR REPLACE TEMP TABLE worded AS
WITH addressed AS (
    SELECT
        t.*, p.money_back_by, coalesce(p.nothing_due, false) AS nothing_due,
        coalesce(nullif(c.phone, ''), nullif(c.email, '')) AS address,
        coalesce(c.phone, '') <> '' AS is_text,
        if(c.language = 'en', 'en', 'ko') AS language,
        CASE
            WHEN $step IN ('void', 'refund') THEN $step || if(p.money_back_by IS NULL, '', '_back_by')
            WHEN $step = 'rebill_declined' AND list_contains($final_reasons, t.reason) THEN 'rebill_declined_card'
            WHEN $step = 'rebill' AND p.is_undone THEN 'rebill_after'
            ELSE $step
        END AS variant,
        CASE $step WHEN 'void' THEN p.money_back_by WHEN 'refund' THEN p.money_back_by WHEN 'rebill' THEN t.effective_on
                   ELSE t.effective_on + CAST($retry_days AS INTEGER) END AS day
    FROM told t
    LEFT JOIN promise p USING (customer_id)
    LEFT JOIN contact c USING (customer_id)
),
figured AS (
    SELECT
        a.*,
        format('{:,}', amount_minor // pow(10, e.exponent)::BIGINT)
            || if(e.exponent = 0, '', '.' || lpad(CAST(amount_minor % pow(10, e.exponent)::BIGINT AS VARCHAR), CAST(e.exponent AS INTEGER), '0')) AS figure
    FROM addressed a JOIN exponent e USING (currency)
    WHERE a.address IS NOT NULL
)
SELECT
    md5($incident_id || '|' || $step || '|' || customer_id) AS id,
    customer_id, operation_id, is_text, address, language,
    replace(
        replace(
            m.text || if(nothing_due AND $step IN ('void', 'refund', 'returned'), n.text, ''),
            '{amount}', if(language = 'ko' AND currency = 'KRW', figure || '원', currency || ' ' || figure)),
        '{date}', coalesce(if(language = 'ko', strftime(day, '%-m월 %-d일'), strftime(day, '%-d %B %Y')), '')) AS text
FROM figured f
JOIN template m USING (language, variant)
JOIN (FROM template WHERE variant = 'nothing_due') n USING (language);

-- A text message is counted in EUC-KR: one byte for ASCII, two for any other character; above $sms_bytes it goes as a long one (LMS).
CREATE OR REPLACE TEMP TABLE message AS
SELECT
    row_number() OVER (ORDER BY customer_id) - 1 AS place,
    id, customer_id, operation_id,
    CASE WHEN NOT is_text THEN 'email' WHEN bytes <= $sms_bytes THEN 'sms' ELSE 'lms' END AS channel,
    address AS "to", language, text, CAST(bytes AS INTEGER) AS bytes
FROM (SELECT *, length(text) + (strlen(text) - length(text)) // 2 AS bytes FROM worded)
ORDER BY customer_id;
