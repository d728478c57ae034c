"""The settlement details file: what was paid out for each business day, in Adyen's columns.

One file, one batch number, per day on which something was acquired or refunded, written once the day is
over. A voided approval is never acquired and so never appears; a refund is a debit row with its own
modification reference. Amounts are in major units, times in UTC. Fees are zero: this acquirer works for
nothing.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.sandbox.batchfile import exponents_sql
from pipeline.sandbox.book import UNSETTLED, Book


def settle(book: Book, folder: Path) -> list[str]:
    """Write the file of every day that is over and not settled yet; answers their names."""
    names = []
    while book.unsettled_since is not None and (end := _end_of_day(book, book.unsettled_since)) <= book.now():
        with book.many_threads():
            names.append(_settle_until(book, folder, end))
    return names


def _end_of_day(book: Book, moment: datetime) -> datetime:
    """When the business day `moment` falls in is over."""
    day = moment.replace(tzinfo=UTC).astimezone(book.timezone).date() + timedelta(days=1)
    return datetime(day.year, day.month, day.day, tzinfo=book.timezone).astimezone(UTC).replace(tzinfo=None)


def _settle_until(book: Book, folder: Path, end: datetime) -> str:
    """Give everything unsettled before `end` the next batch number and write its file, both or neither."""
    connection = book.connection
    batch = 1 + max(
        book.one(f"SELECT max(settlement_batch) FROM {table}") or 0 for table in ("acquisition", "modification")
    )
    name = f"settlement_detail_report_batch_{batch}.csv"
    part = folder / f".{name}.part"
    connection.begin()
    unsettled = f"settlement_batch = {batch} WHERE settlement_batch IS NULL AND happened_at < $end"
    connection.execute(f"UPDATE acquisition SET {unsettled}", {"end": end})
    connection.execute(f"UPDATE modification SET {unsettled} AND kind = 'refund' AND refusal IS NULL", {"end": end})
    quoted = str(part).replace("'", "''")
    connection.execute(f"COPY ({_ROWS.format(batch=batch)}) TO '{quoted}' (FORMAT csv, HEADER)")
    part.replace(folder / name)
    connection.commit()
    book.unsettled_since = book.one(f"SELECT min(happened_at) FROM ({UNSETTLED})")
    return name


_AMOUNT = f"""CASE {exponents_sql()}
    WHEN 0 THEN CAST(amount_minor AS VARCHAR)
    WHEN 3 THEN concat(amount_minor // 1000, '.', lpad(CAST(amount_minor % 1000 AS VARCHAR), 3, '0'))
    ELSE concat(amount_minor // 100, '.', lpad(CAST(amount_minor % 100 AS VARCHAR), 2, '0')) END"""

_ROWS = f"""
WITH account AS (SELECT company_account, merchant_account FROM batch_file ORDER BY booked_at DESC, sequence DESC LIMIT 1),
entry AS (
    SELECT payment_no, p.merchant_reference, payment_method, p.happened_at, 'Settled' AS type, payment_no AS modification_no,
        p.amount_minor, p.currency
    FROM acquisition a JOIN payment p USING (payment_no) WHERE a.settlement_batch = {{batch}}
    UNION ALL
    SELECT payment_no, p.merchant_reference, payment_method, m.happened_at, 'Refunded', modification_no, m.amount_minor, m.currency
    FROM modification m JOIN payment p USING (payment_no) WHERE m.settlement_batch = {{batch}}
), shown AS (SELECT *, {_AMOUNT} AS amount, type = 'Settled' AS is_credit FROM entry)
SELECT company_account AS "Company Account", merchant_account AS "Merchant Account", payment_no AS "Psp Reference",
    merchant_reference AS "Merchant Reference", payment_method AS "Payment Method",
    strftime(happened_at, '%Y-%m-%d %H:%M:%S') AS "Creation Date", 'UTC' AS "TimeZone", type AS "Type",
    modification_no AS "Modification Reference", currency AS "Gross Currency", if(is_credit, NULL, amount) AS "Gross Debit (GC)",
    if(is_credit, amount, NULL) AS "Gross Credit (GC)", '1' AS "Exchange Rate", currency AS "Net Currency",
    if(is_credit, NULL, amount) AS "Net Debit (NC)", if(is_credit, amount, NULL) AS "Net Credit (NC)", '0' AS "Commission (NC)",
    '0' AS "Markup (NC)", '0' AS "Scheme Fees (NC)", '0' AS "Interchange (NC)", {{batch}} AS "Batch Number"
FROM shown, account"""
