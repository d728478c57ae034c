-- How ledger and acquirer's book differ, operation by operation: a row for each way, with the number of operations.
--
-- Views given: operation (operation_id, kind, amount_minor, status: succeeded, declined, unknown, open), book (the acquirer's export).
-- What is unknown, or on its way, is no difference: it is looked up. What others did in the book is none of ours.
WITH booked AS (
    SELECT merchant_reference, amount_minor, status = 'declined' AS is_declined,
        CASE kind WHEN 'authorise' THEN 'taking' ELSE kind END AS kind
    FROM book WHERE kind <> 'acquire'
),
meant AS (
    SELECT replace(CAST(operation_id AS VARCHAR), '-', '') AS merchant_reference, amount_minor, status,
        CASE WHEN kind IN ('charge', 'rebill') THEN 'taking' ELSE kind END AS kind
    FROM operation
)
SELECT
    CASE
        WHEN b.merchant_reference IS NULL AND m.status = 'succeeded' THEN 'succeeded by the ledger, not in the book'
        WHEN b.merchant_reference IS NULL THEN NULL
        WHEN b.amount_minor <> m.amount_minor THEN 'of another amount in the book'
        WHEN m.status = 'declined' AND NOT b.is_declined THEN 'declined by the ledger, booked by the acquirer'
        WHEN m.status = 'succeeded' AND b.is_declined THEN 'succeeded by the ledger, declined by the acquirer'
    END AS way,
    count(*)
FROM meant m LEFT JOIN booked b USING (merchant_reference, kind)
GROUP BY way HAVING way IS NOT NULL ORDER BY way
