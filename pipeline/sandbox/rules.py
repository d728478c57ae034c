"""What an operation does to the book: who is approved, what may be voided, how much may be refunded.

The rules an acquirer and its issuers go by. Each takes the temporary view `operation` (see `batchfile`)
as a whole and leaves the temporary table `outcome`: line, status, reference, silent, code, reason. A
merchant reference that is known is never booked again; its first outcome is the answer.
An operation the faults set aside has no outcome yet.
"""

from datetime import timedelta

from pipeline.sandbox.book import OPERATION_KEYS, Book


def book_operations(book: Book, *, from_held: bool = False) -> None:
    """Book every operation that is not booked yet, inside the caller's transaction.

    Args:
        from_held: the operations were set aside before: they are not set aside again, and stay unanswered in result files.
    """
    kinds = {kind for (kind,) in book.connection.execute("SELECT DISTINCT kind FROM operation").fetchall()}
    if not kinds:
        book.connection.execute(_NO_OUTCOME)
    elif kinds == {"authorise"}:
        _authorise(book, from_held)
    else:
        _modify(book, from_held)


def book_due(book: Book) -> None:
    """Book what the clock has brought: acquisitions, and operations set aside long enough."""
    book.acquire_due()
    if book.one("SELECT count(*) FROM held WHERE due_at <= ?", book.now()):
        release_held(book, "due_at <= $now")


def release_held(book: Book, condition: str) -> None:
    """Book the operations set aside that meet `condition`, as if they came in now."""
    connection, now = book.connection, {"now": book.now()} if "$now" in condition else {}
    connection.begin()
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE released AS SELECT row_number() OVER () AS line, * FROM held WHERE {condition}",
        now,
    )
    connection.execute(
        "DELETE FROM held WHERE (merchant_reference, kind) IN (SELECT (merchant_reference, kind) FROM released)"
    )
    for kinds in ("kind = 'authorise'", "kind <> 'authorise'"):
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW operation AS SELECT *, {OPERATION_KEYS} FROM released WHERE {kinds}"
        )
        book_operations(book, from_held=True)
    connection.commit()


def _sort_out(book: Book, table: str) -> bool:
    """Leave `known`, the rows of `table` some operations repeat, and `fresh`, the operations never seen; was anything repeated?"""
    connection = book.connection
    # Almost always nothing is known, and the narrow key says so several times faster than the references.
    is_known = book.one(f"SELECT EXISTS (FROM {table} SEMI JOIN operation USING (reference_key))")
    is_repeated = book.one("SELECT count(DISTINCT (reference_key, kind)) < count(*) FROM operation")
    same = "reference_key, merchant_reference" + (", kind" if table == "modification" else "")
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE known AS FROM {table} SEMI JOIN operation USING ({same}) WHERE {is_known}"
    )
    connection.execute("CREATE OR REPLACE TEMP VIEW fresh AS FROM operation")
    if is_known:
        _keep_fresh(book, f"({same}) NOT IN (SELECT ({same}) FROM known)")
    if book.one("SELECT EXISTS (FROM held)"):
        _keep_fresh(book, "(merchant_reference, kind) NOT IN (SELECT (merchant_reference, kind) FROM held)")
    if is_repeated:
        _keep_fresh(book, "line IN (SELECT min(line) FROM operation GROUP BY merchant_reference, kind)")
    return is_known or is_repeated


def _keep_fresh(book: Book, condition: str) -> None:
    """Leave in `fresh` what meets `condition`."""
    book.connection.execute(f"CREATE OR REPLACE TEMP TABLE kept AS FROM fresh WHERE {condition}")
    book.connection.execute("CREATE OR REPLACE TEMP TABLE still_fresh AS FROM kept")
    book.connection.execute("CREATE OR REPLACE TEMP VIEW fresh AS FROM still_fresh")


def _set_aside(book: Book, from_held: bool) -> str:
    """Move the share of `fresh` that is to succeed late out of it; answers the SQL of who is never answered."""
    if from_held:
        return "true"
    late = book.share("late_success", "merchant_reference")
    if late != "false":
        book.connection.execute(
            f"""INSERT INTO held SELECT merchant_reference, kind, instrument_token, original, amount_minor, currency, $due, 0
                FROM fresh WHERE {late}""",
            {"due": book.now() + timedelta(seconds=int(book.settings["late_seconds"]))},
        )
        _keep_fresh(book, f"NOT ({late})")
    return book.share("timeout_after_accept", "merchant_reference")


def _authorise(book: Book, from_held: bool) -> None:
    connection, now = book.connection, book.now()
    repeats = _sort_out(book, "payment")
    silent = _set_aside(book, from_held)
    connection.execute(_USED_OF_LIMITED)
    cutoff = book.cutoff(now)
    connection.execute(
        _DECIDE_AUTHORISATION.format(
            silent=silent,
            closed_card=book.share("closed_card", "instrument_token"),
            over_limit=book.share("over_limit", "merchant_reference"),
            insufficient_funds=book.share("insufficient_funds", "merchant_reference"),
        ),
        {"base": _take_numbers(book), "now": now, "cutoff": cutoff, "expiry": book.expiry(now)},
    )
    connection.execute("INSERT INTO payment SELECT * EXCLUDE (line) FROM decided")
    moved = connection.execute(
        "INSERT INTO acquisition SELECT payment_no, happened_at, NULL FROM decided WHERE refusal IS NULL AND acquires_at = happened_at"
    ).fetchone()[0]
    if moved:
        book.expect_settlement(now)
    if book.one("SELECT count(*) FROM decided WHERE refusal IS NULL") > moved:
        book.expect_acquisition(cutoff)
    _find_outcomes(book, repeats, "'authorise'", "payment_no")


def _modify(book: Book, from_held: bool) -> None:
    connection, now = book.connection, book.now()
    repeats = _sort_out(book, "modification")
    silent = _set_aside(book, from_held)
    find_states(book, "SELECT DISTINCT payment_no FROM fresh WHERE payment_no IS NOT NULL")
    connection.execute(_DECIDE_MODIFICATION.format(silent=silent), {"base": _take_numbers(book), "now": now})
    connection.execute("INSERT INTO modification SELECT * EXCLUDE (line) FROM decided")
    if book.one("SELECT count(*) FROM decided WHERE kind = 'refund' AND refusal IS NULL"):
        book.expect_settlement(now)
    _find_outcomes(book, repeats, "kind", "modification_no")


def _take_numbers(book: Book) -> int:
    return book.take_numbers(book.one("SELECT coalesce(max(line), 0) FROM fresh"))


def _find_outcomes(book: Book, repeats: bool, kind: str, number: str) -> None:
    """Leave `outcome`, by line: what was decided now, and for repeated lines what was decided the first time."""
    first_time = f"""
        UNION ALL SELECT o.line, d.refusal, d.{number}, d.silent FROM operation o ANTI JOIN fresh USING (line)
        JOIN (SELECT merchant_reference, {kind} AS kind, refusal, {number}, silent FROM (FROM known UNION ALL BY NAME FROM decided)) d
            USING (merchant_reference, kind)"""
    book.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE outcome AS
            SELECT line, if(refusal IS NULL, 'succeeded', 'declined') AS status, {number} AS reference, silent, code,
                coalesce(reason, '') AS reason
            FROM (SELECT line, refusal, {number}, silent FROM decided {first_time if repeats else ""}) LEFT JOIN refusal USING (refusal)"""
    )


def find_states(book: Book, subjects: str) -> None:
    """Leave the temporary table `state`: the payments `subjects` (SQL of `payment_no`) names, and what they are in now."""
    book.connection.execute(f"CREATE OR REPLACE TEMP TABLE subject AS {subjects}")
    book.connection.execute(f"CREATE OR REPLACE TEMP TABLE state AS {_STATE}", {"now": book.now()})


_NO_OUTCOME = """
CREATE OR REPLACE TEMP TABLE outcome AS
SELECT 0 AS line, '' AS status, 0 AS reference, true AS silent, '' AS code, '' AS reason LIMIT 0"""

# What instruments with a limit or a balance have used - approvals less what was voided or refunded - and would have used after each line.
# Lines of the same file count even if they are declined: an issuer may be stricter than it has to be.
_USED_OF_LIMITED = """
CREATE OR REPLACE TEMP TABLE limited AS
SELECT instrument_token, limit_minor, balance_minor FROM card SEMI JOIN fresh USING (instrument_token)
WHERE limit_minor IS NOT NULL OR balance_minor IS NOT NULL;
CREATE OR REPLACE TEMP TABLE used AS
SELECT instrument_token, CAST(sum(p.amount_minor - coalesce(m.undone_minor, 0)) AS BIGINT) AS used_minor
FROM (FROM payment SEMI JOIN limited USING (instrument_token) WHERE refusal IS NULL) p
LEFT JOIN (SELECT payment_no, sum(amount_minor) AS undone_minor FROM modification
           WHERE refusal IS NULL AND EXISTS (FROM limited) GROUP BY payment_no) m USING (payment_no)
GROUP BY instrument_token;
CREATE OR REPLACE TEMP TABLE would_be_used AS
SELECT line, coalesce(used_minor, 0) + sum(amount_minor) OVER (PARTITION BY instrument_token ORDER BY line) AS would_be_used
FROM fresh SEMI JOIN limited USING (instrument_token) LEFT JOIN used USING (instrument_token)"""

_DECIDE_AUTHORISATION = """
CREATE OR REPLACE TEMP TABLE decided AS
WITH asked AS (
    SELECT f.*, c.payment_method, c.status, c.limit_minor, c.balance_minor, c.instrument_token IS NULL AS is_unknown, u.would_be_used
    FROM fresh f LEFT JOIN (FROM card SEMI JOIN fresh USING (instrument_token)) c USING (instrument_token)
    LEFT JOIN would_be_used u USING (line)
)
SELECT line, $base + line AS payment_no, reference_key, merchant_reference, instrument_token, payment_method, amount_minor, currency,
    CASE WHEN is_unknown THEN 'unknown_card' WHEN status = 'closed' OR {closed_card} THEN 'closed_card'
         WHEN would_be_used > limit_minor OR {over_limit} THEN 'over_limit'
         WHEN would_be_used > balance_minor OR {insufficient_funds} THEN 'insufficient_funds' END AS refusal,
    {silent} AS silent, CAST($now AS TIMESTAMP) AS happened_at,
    CAST(if(payment_method = 'credit_card', $cutoff, $now) AS TIMESTAMP) AS acquires_at, CAST($expiry AS TIMESTAMP) AS expires_at
FROM asked"""

_DECIDE_MODIFICATION = """
CREATE OR REPLACE TEMP TABLE decided AS
WITH asked AS (
    SELECT f.*, s.state, s.amount_minor AS charged_minor, s.refunded_minor, s.currency AS charged_in,
        row_number() OVER same AS nth, sum(f.amount_minor) OVER same AS asked_minor
    FROM fresh f LEFT JOIN state s USING (payment_no) WINDOW same AS (PARTITION BY f.payment_no, f.kind ORDER BY f.line)
)
SELECT line, $base + line AS modification_no, reference_key, merchant_reference, kind, payment_no,
    if(kind = 'void', charged_minor, amount_minor) AS amount_minor, if(kind = 'void', charged_in, currency) AS currency,
    CASE WHEN state IS NULL THEN 'not_found' WHEN state = 'declined' THEN 'refused' WHEN state = 'voided' THEN 'cancelled'
         WHEN state = 'disputed' THEN 'disputed'
         WHEN kind = 'void' THEN CASE WHEN state = 'expired' THEN 'expired' WHEN state <> 'authorised' OR refunded_minor > 0 THEN 'captured'
                                      WHEN nth > 1 THEN 'cancelled' END
         WHEN state NOT IN ('acquired', 'refunded') THEN 'not_captured' WHEN currency <> charged_in THEN 'currency'
         WHEN refunded_minor + asked_minor > charged_minor THEN 'balance' END AS refusal,
    {silent} AS silent, CAST($now AS TIMESTAMP) AS happened_at, CAST(NULL AS INTEGER) AS settlement_batch
FROM asked"""

_STATE = """
WITH voided AS (SELECT DISTINCT payment_no FROM modification SEMI JOIN subject USING (payment_no) WHERE kind = 'void' AND refusal IS NULL),
refunded AS (
    SELECT payment_no, CAST(sum(amount_minor) AS BIGINT) AS refunded_minor FROM modification SEMI JOIN subject USING (payment_no)
    WHERE kind = 'refund' AND refusal IS NULL GROUP BY payment_no
), disputed AS (SELECT DISTINCT payment_no FROM dispute)
SELECT p.payment_no, p.merchant_reference, p.amount_minor, p.currency, p.refusal, p.expires_at, a.happened_at AS acquired_at,
    coalesce(r.refunded_minor, 0) AS refunded_minor,
    CASE WHEN p.refusal IS NOT NULL THEN 'declined' WHEN v.payment_no IS NOT NULL THEN 'voided'
         WHEN d.payment_no IS NOT NULL THEN 'disputed' WHEN a.payment_no IS NOT NULL AND r.refunded_minor >= p.amount_minor THEN 'refunded'
         WHEN a.payment_no IS NOT NULL THEN 'acquired'
         WHEN p.expires_at <= $now THEN 'expired' ELSE 'authorised' END AS state
FROM (FROM payment SEMI JOIN subject USING (payment_no)) p
LEFT JOIN (FROM acquisition SEMI JOIN subject USING (payment_no)) a USING (payment_no)
LEFT JOIN voided v USING (payment_no) LEFT JOIN refunded r USING (payment_no) LEFT JOIN disputed d USING (payment_no)"""
