"""What may be asked of the book: what became of operations, what state payments are in, all of it.

Belongs here: questions. Does not: anything that books - but for one: being asked about an operation that
was set aside counts towards booking it.
"""

from pathlib import Path

import pyarrow as pa

from pipeline.sandbox.book import REFERENCE_KEY, Book
from pipeline.sandbox.rules import book_due, find_states, release_held


def inquire(book: Book, asked: pa.Table) -> pa.Table:
    """What became of each operation or payment asked about, in the order of `asked`.

    `asked` has `merchant_reference` or `payment_id`. The answer has one row for each: the key, then status
    (succeeded, declined, pending, not_found), reason, payment_id (of a void or refund: its own), amount_minor,
    currency, original_payment_id (of a void or refund), and of the payment: state, charged_minor, acquired_at,
    expires_at, refunded_minor, refundable_minor.

    Raises:
        ValueError: `asked` has neither column.
    """
    book_due(book)
    connection = book.connection
    by_reference = "merchant_reference" in asked.column_names
    if not by_reference and "payment_id" not in asked.column_names:
        raise ValueError("ask by merchant_reference or by payment_id")
    asked = asked.append_column("n", pa.array(range(asked.num_rows), pa.int64()))
    connection.register("asked_arrow", asked)
    key = _REFERENCE_KEY if by_reference else _PAYMENT_KEY
    connection.execute(f"CREATE OR REPLACE TEMP TABLE asked AS SELECT *, {key} FROM asked_arrow")
    connection.unregister("asked_arrow")
    if not by_reference:
        find_states(book, "SELECT DISTINCT payment_no FROM asked WHERE payment_no IS NOT NULL")
        return connection.execute(_ANSWER_BY_PAYMENT).to_arrow_table()
    connection.execute(_FIND_BY_REFERENCE)
    find_states(book, "SELECT DISTINCT payment_no FROM found WHERE payment_no IS NOT NULL")
    answer = connection.execute(_ANSWER, {"late_answer": book.settings["late_answer"]}).to_arrow_table()
    _count_inquiry(book)
    return answer


def _count_inquiry(book: Book) -> None:
    """Operations set aside are booked once they were asked about often enough: the next inquiry finds them."""
    if not book.one("SELECT count(*) FROM held"):
        return
    book.connection.execute(
        "UPDATE held SET inquiries = inquiries + 1 WHERE merchant_reference IN (SELECT merchant_reference FROM asked)"
    )
    release_held(book, f"inquiries >= {int(book.settings['late_inquiries'])}")


def export_book(book: Book, to: Path) -> int:
    """Write the whole book to a Parquet file, one row per thing that happened; answers the number of rows."""
    book_due(book)
    part = to.with_name(f".{to.name}.part")
    with book.many_threads():
        book.connection.execute(
            f"COPY ({_BOOK}) TO '{str(part).replace(chr(39), chr(39) * 2)}' (FORMAT parquet)",
            {"now": book.now()},
        )
    part.replace(to)
    return book.one("SELECT num_rows FROM parquet_file_metadata(?)", str(to))


_REFERENCE_KEY = f"{REFERENCE_KEY} AS reference_key"
_PAYMENT_KEY = "try_number(payment_id) AS payment_no"

_FIND_BY_REFERENCE = """
CREATE OR REPLACE TEMP TABLE found AS
SELECT merchant_reference, payment_no AS reference, payment_no, refusal, amount_minor, currency, NULL AS original
FROM payment SEMI JOIN asked USING (reference_key, merchant_reference)
UNION ALL
SELECT merchant_reference, modification_no, payment_no, refusal, amount_minor, currency, CAST(payment_no AS VARCHAR)
FROM modification SEMI JOIN asked USING (reference_key, merchant_reference);
CREATE OR REPLACE TEMP TABLE keyed AS
SELECT a.n, CAST(f.reference AS VARCHAR) AS payment_id, a.merchant_reference, f.* EXCLUDE (merchant_reference),
    h.merchant_reference IS NOT NULL AS is_held
FROM asked a LEFT JOIN found f USING (merchant_reference)
LEFT JOIN (SELECT DISTINCT merchant_reference FROM held) h USING (merchant_reference)"""

_OF_PAYMENT = """s.state, s.amount_minor AS charged_minor, s.acquired_at AT TIME ZONE 'UTC' AS acquired_at,
    s.expires_at AT TIME ZONE 'UTC' AS expires_at, s.refunded_minor,
    if(s.state = 'acquired', s.amount_minor - s.refunded_minor, 0) AS refundable_minor"""

_ANSWER = f"""
SELECT k.merchant_reference,
    CASE WHEN k.reference IS NULL THEN if(k.is_held, $late_answer, 'not_found') WHEN k.refusal IS NULL THEN 'succeeded' ELSE 'declined' END
        AS status,
    r.reason, k.payment_id, k.amount_minor, k.currency, k.original AS original_payment_id, {_OF_PAYMENT}
FROM keyed k LEFT JOIN state s USING (payment_no) LEFT JOIN refusal r ON r.refusal = k.refusal
QUALIFY row_number() OVER (PARTITION BY k.n ORDER BY k.reference) = 1
ORDER BY k.n"""

# A payment's number is its own: one look-up says everything, and nothing can be meant twice.
_ANSWER_BY_PAYMENT = f"""
SELECT s.merchant_reference,
    CASE WHEN s.payment_no IS NULL THEN 'not_found' WHEN s.refusal IS NULL THEN 'succeeded' ELSE 'declined' END AS status,
    r.reason, a.payment_id, s.amount_minor, s.currency, CAST(NULL AS VARCHAR) AS original_payment_id, {_OF_PAYMENT}
FROM asked a LEFT JOIN state s USING (payment_no) LEFT JOIN refusal r ON r.refusal = s.refusal
ORDER BY a.n"""

_BOOK = """
WITH undone AS (SELECT DISTINCT payment_no FROM modification WHERE kind = 'void' AND refusal IS NULL)
SELECT CAST(payment_no AS VARCHAR) AS payment_id, merchant_reference, instrument_token, kind, amount_minor, currency, status,
    happened_at AT TIME ZONE 'UTC' AS "at"
FROM (
    SELECT payment_no, merchant_reference, instrument_token, 'authorise' AS kind, amount_minor, currency, p.happened_at,
        CASE WHEN refusal IS NOT NULL THEN 'declined'
             WHEN a.payment_no IS NULL AND u.payment_no IS NULL AND expires_at <= $now THEN 'expired'
             ELSE 'succeeded' END AS status
    FROM payment p LEFT JOIN acquisition a USING (payment_no) LEFT JOIN undone u USING (payment_no)
    UNION ALL BY NAME
    SELECT payment_no, merchant_reference, instrument_token, 'acquire' AS kind, amount_minor, currency, a.happened_at,
        'succeeded' AS status
    FROM acquisition a JOIN payment p USING (payment_no)
    UNION ALL BY NAME
    SELECT payment_no, m.merchant_reference, instrument_token, m.kind, m.amount_minor, m.currency, m.happened_at,
        if(m.refusal IS NULL, 'succeeded', 'declined') AS status
    FROM modification m JOIN payment p USING (payment_no)
)"""
