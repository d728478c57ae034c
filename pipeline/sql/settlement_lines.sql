-- One row per line of a settlement file: what is wrong with it, or what it says. Read from `raw`, whose columns are text; amounts
-- in major units become whole minor units exactly, and moments become days of the business time zone.
-- Joined beforehand: `currency_exponent` (ISO 4217) and `time_zone` (name in the file, name in the time zone database).
CREATE OR REPLACE TEMP TABLE stored AS
SELECT "Merchant Account", "Psp Reference", "Merchant Reference", "Creation Date", "TimeZone", "Type", "Modification Reference",
    "Gross Currency", "Gross Debit (GC)", "Gross Credit (GC)", "Batch Number"
FROM raw;

-- There are few moments in a file and many lines.
CREATE OR REPLACE TEMP TABLE moment AS
SELECT "Creation Date", "TimeZone", z.name IS NOT NULL AS has_zone, coalesce(year(try_strptime("Creation Date", '%Y-%m-%d %H:%M:%S')) BETWEEN 1970 AND 9998, false) AS is_moment,
    CAST(timezone($business_zone, timezone(z.zone, try_strptime("Creation Date", '%Y-%m-%d %H:%M:%S'))) AS DATE) AS settled_on
FROM (SELECT DISTINCT "Creation Date", "TimeZone" FROM stored) LEFT JOIN time_zone z ON z.name = "TimeZone";

CREATE OR REPLACE TEMP TABLE parsed AS
WITH typed AS (
    SELECT
        "Merchant Account" AS account, "Psp Reference" AS psp_reference, "Merchant Reference" AS merchant_reference, "Type" AS type,
        coalesce("Modification Reference", '') AS modification_reference, "Gross Currency" AS currency,
        e.exponent, m.has_zone, m.is_moment, m.settled_on,
        TRY_CAST("Batch Number" AS BIGINT) AS batch_number,
        "Gross Credit (GC)" IS NOT NULL AS is_credit,
        ("Gross Debit (GC)" IS NULL) = ("Gross Credit (GC)" IS NULL) AS is_not_one_side,
        coalesce("Gross Credit (GC)", "Gross Debit (GC)") AS amount,
        "Type" IN (SELECT type FROM not_customers) AS is_set_aside
    FROM stored
    LEFT JOIN currency_exponent e ON e.currency = "Gross Currency"
    LEFT JOIN moment m ON m."Creation Date" IS NOT DISTINCT FROM stored."Creation Date" AND m."TimeZone" IS NOT DISTINCT FROM stored."TimeZone"
),
exact AS (
    SELECT *,
        CASE WHEN regexp_full_match(amount, '[0-9]{1,15}') THEN CAST(amount AS BIGINT) * CAST(pow(10, exponent) AS BIGINT)
             WHEN regexp_full_match(amount, '[0-9]{1,15}[.][0-9]{1,6}')
                  -- digits beyond the currency's own must be zeros; then the rest is the whole number meant
                  AND regexp_full_match(substr(split_part(amount, '.', 2), exponent + 1), '0*')
             THEN CAST(split_part(amount, '.', 1) || rpad(substr(split_part(amount, '.', 2), 1, exponent), CAST(exponent AS INTEGER), '0') AS BIGINT)
        END AS amount_minor
    FROM typed
)
SELECT account, psp_reference, merchant_reference, type, modification_reference, currency, batch_number, is_credit, amount_minor,
    is_set_aside, settled_on,
    CASE WHEN batch_number IS NULL THEN 'Batch Number is no whole number'
         WHEN is_set_aside THEN NULL
         WHEN psp_reference IS NULL THEN 'Psp Reference is empty'
         WHEN NOT has_zone THEN 'TimeZone is unknown'
         WHEN NOT is_moment THEN 'Creation Date is no YYYY-MM-DD HH:MM:SS'
         WHEN exponent IS NULL THEN 'Gross Currency is unknown'
         WHEN is_not_one_side THEN 'not exactly one of Gross Debit and Gross Credit'
         WHEN amount_minor IS NULL THEN 'the amount is no whole number of minor units'
    END AS problem
FROM exact
