"""The acquirer's book: what it knows of cards, and every payment and what became of it.

Rows are added and never changed, but for a card's settings and the settlement batch an entry was paid
out in. Everything is decided for a whole batch at once, in SQL. State is derived:

    declined    the authorisation was refused
    authorised  approved, nothing has moved
    voided      approved and cancelled before acquisition
    expired     approved, never acquired, and too old
    acquired    the merchant has claimed it: money moves (check cards and bank debits: at once)
    refunded    acquired and given back in full
    disputed    acquired, and the cardholder contests it

Belongs here: the tables, the clock and what it brings, the cards. What an operation does to them is in
`rules`; what may be asked of them in `inquiry`.
"""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb

THREADS_AT_MOST = 2
"""The pipeline and its database need the processor as well."""

REFERENCE_BASE = 8_800_000_000_000_000
"""First of this acquirer's references: 16 digits, as Adyen's PSP references have 16 characters."""

DEFAULTS = {
    "clock": "",  # simulated time, ISO 8601 in UTC; empty means real time
    "timezone": "Asia/Seoul",  # whose days acquisition and settlement go by
    "cutoff_days": "1",  # credit cards are acquired at the end of the day this many days after approval
    "expire_days": "7",  # an approval not acquired in this many days is gone
    "insufficient_funds": "0",  # share of authorisations declined, by merchant reference
    "over_limit": "0",  # likewise
    "closed_card": "0",  # share of instruments closed, by token
    "timeout_after_accept": "0",  # share of operations booked and never answered, by merchant reference
    "late_success": "0",  # share of operations set aside unanswered and booked later, by merchant reference
    "late_seconds": "60",  # of the acquirer's clock, until what was set aside is booked ...
    "late_inquiries": "1",  # ... or until it was asked about this often, whichever comes first
    "late_answer": "not_found",  # what an inquiry says until then: not_found or pending
    "crash_after_booking": "0",  # 1: the process kills itself once, after the next file is booked and before it is answered
}
"""Settings by name, all text; kept in the book, so that a restart changes nothing."""

SHARES = ("insufficient_funds", "over_limit", "closed_card", "timeout_after_accept", "late_success")

REFUSALS = {
    "unknown_card": ("800", "Recurring contract not found"),
    "closed_card": ("5", "Blocked Card"),
    "over_limit": ("25", "Withdrawal amount exceeded"),
    "insufficient_funds": ("12", "Not enough balance"),
    "not_found": ("", "Transaction not found"),
    "expired": ("", "Transaction is expired"),
    "captured": ("", "Payment already captured"),
    "not_captured": ("", "Payment not captured"),
    "cancelled": ("", "Payment already cancelled"),
    "refused": ("", "Payment was not authorised"),
    "disputed": ("", "Payment is disputed"),
    "currency": ("", "Modification in different currency than authorisation"),
    "balance": ("", "Insufficient balance on payment"),
}
"""Result code and reason text of every refusal; texts are Adyen's where it prints one that fits."""

_TABLES = """
CREATE TABLE IF NOT EXISTS setting (name VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS version_of_keys (value VARCHAR);
CREATE TABLE IF NOT EXISTS card (
    instrument_token VARCHAR, payment_method VARCHAR, issuer VARCHAR, status VARCHAR, limit_minor BIGINT, balance_minor BIGINT);
CREATE TABLE IF NOT EXISTS batch_file (
    platform VARCHAR, sequence BIGINT, name VARCHAR, sha256 VARCHAR, company_account VARCHAR, merchant_account VARCHAR,
    booked_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS payment (
    payment_no BIGINT, reference_key UBIGINT, merchant_reference VARCHAR, instrument_token VARCHAR, payment_method VARCHAR,
    amount_minor BIGINT, currency VARCHAR, refusal VARCHAR, silent BOOLEAN, happened_at TIMESTAMP, acquires_at TIMESTAMP,
    expires_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS acquisition (payment_no BIGINT, happened_at TIMESTAMP, settlement_batch INTEGER);
CREATE TABLE IF NOT EXISTS modification (
    modification_no BIGINT, reference_key UBIGINT, merchant_reference VARCHAR, kind VARCHAR, payment_no BIGINT, amount_minor BIGINT,
    currency VARCHAR, refusal VARCHAR, silent BOOLEAN, happened_at TIMESTAMP, settlement_batch INTEGER);
CREATE TABLE IF NOT EXISTS dispute (payment_no BIGINT, happened_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS held (
    merchant_reference VARCHAR, kind VARCHAR, instrument_token VARCHAR, original VARCHAR, amount_minor BIGINT, currency VARCHAR,
    due_at TIMESTAMP, inquiries INTEGER);
"""
# `reference_key` is a hash of the reference, 64 bits wide: narrow enough to look for 50,000 references among millions.
# `silent` operations are booked and never answered in a result file; `refusal` is NULL where the answer was yes.

REFERENCE_KEY = "hash(merchant_reference)"
"""SQL of `reference_key`; another version of DuckDB may hash otherwise, see `Book`."""

OPERATION_KEYS = f"{REFERENCE_KEY} AS reference_key, try_number(original) AS payment_no"
"""SQL of what an operation is looked up by, from its columns."""

# A cast alone would round 7.5 to 8, and take blanks and signs.
_TRY_NUMBER = """CREATE TEMP MACRO try_number(said) AS
    CASE WHEN regexp_full_match(said, '[0-9]{1,18}') THEN CAST(said AS BIGINT) END"""

_REFUSAL_TABLE = "CREATE TEMP TABLE refusal AS SELECT * FROM (VALUES " + ", ".join(
    f"('{refusal}', '{code}', '{reason}')" for refusal, (code, reason) in REFUSALS.items()
) + ") AS t (refusal, code, reason)"  # fmt: skip


class Book:
    """One acquirer's book in one DuckDB file, which only this process has open."""

    def __init__(self, path: Path) -> None:
        # A memory bound, because an acquirer shares the rehearsal's machine with the pipeline; a checkpoint at
        # 256 MB of log instead of 16, because it would otherwise follow every other file.
        self.connection = duckdb.connect(
            str(path), config={"threads": 1, "memory_limit": "768MB", "checkpoint_threshold": "256MB"}
        )
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute(_TABLES)
        self.connection.execute(_REFUSAL_TABLE)
        self.connection.execute(_TRY_NUMBER)
        self._key_by_this_version()
        self._settings = DEFAULTS | dict(self.connection.execute("SELECT name, value FROM setting").fetchall())
        self._next_number = max(
            REFERENCE_BASE,
            self.one("SELECT max(payment_no) FROM payment") or 0,
            self.one("SELECT max(modification_no) FROM modification") or 0,
        )
        self._next_acquisition: datetime | None = self.one(f"SELECT min(acquires_at) {_TO_BE_ACQUIRED}")
        self.unsettled_since = self.one(f"SELECT min(happened_at) FROM ({UNSETTLED})")

    def _key_by_this_version(self) -> None:
        """Derive the keys of all references anew where another version of DuckDB has made them."""
        if self.one("SELECT value FROM version_of_keys") == duckdb.__version__:
            return
        self.connection.execute(
            f"""BEGIN;
                UPDATE payment SET reference_key = {REFERENCE_KEY};
                UPDATE modification SET reference_key = {REFERENCE_KEY};
                DELETE FROM version_of_keys;
                INSERT INTO version_of_keys VALUES ('{duckdb.__version__}');
                COMMIT"""
        )

    def close(self) -> None:
        self.connection.close()

    @contextlib.contextmanager
    def many_threads(self) -> Iterator[None]:
        """For work on the whole book. A file or a question of 50,000 is done sooner by one thread, which has nobody to wait for,
        and in two thirds of the processor time."""
        self.connection.execute(f"SET threads = {THREADS_AT_MOST}")
        try:
            yield
        finally:
            self.connection.execute("SET threads = 1")

    def one(self, query: str, *values: object) -> object:
        """The first value of the first row, or None."""
        row = self.connection.execute(query, list(values)).fetchone()
        return row[0] if row else None

    def take_numbers(self, count: int) -> int:
        """Reserve `count` references; the first of them is the answer plus one."""
        last = self._next_number
        self._next_number += count
        return last

    @property
    def settings(self) -> dict[str, str]:
        return dict(self._settings)

    @property
    def timezone(self) -> ZoneInfo:
        return ZoneInfo(self._settings["timezone"])

    def set(self, changes: dict[str, str]) -> None:
        """Change settings, for this process and the next.

        Raises:
            ValueError: an unknown name, or a value that cannot be meant.
        """
        for name, value in changes.items():
            _check_setting(name, value)
        for name, value in changes.items():
            self.connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", [name, value])
        self._settings |= changes

    def share(self, name: str, column: str) -> str:
        """SQL that is true for the share of `column` the setting names, always for the same values."""
        limit = int(float(self._settings[name]) * 1_000_000)
        return f"md5_number_lower({column} || '{name}') % 1000000 < {limit}" if limit else "false"

    def now(self) -> datetime:
        """The acquirer's time: UTC, without a zone, as the book keeps it."""
        clock = self._settings["clock"]
        return datetime.fromisoformat(clock).replace(tzinfo=None) if clock else datetime.now(UTC).replace(tzinfo=None)

    def cutoff(self, now: datetime) -> datetime:
        """When a credit card approval of `now` is acquired: the end of the day `cutoff_days` later, in UTC."""
        day = now.replace(tzinfo=UTC).astimezone(self.timezone).date() + timedelta(
            days=int(self._settings["cutoff_days"]) + 1
        )
        return datetime(day.year, day.month, day.day, tzinfo=self.timezone).astimezone(UTC).replace(tzinfo=None)

    def expiry(self, now: datetime) -> datetime:
        """When an approval of `now` is gone, if it was not acquired before."""
        return now + timedelta(days=int(self._settings["expire_days"]))

    def acquire_due(self) -> None:
        """Book the acquisitions whose cut-off has passed."""
        now = self.now()
        if self._next_acquisition is None or now < self._next_acquisition:
            return
        with self.many_threads():
            acquired = self.connection.execute(
                f"INSERT INTO acquisition SELECT payment_no, acquires_at, NULL {_TO_BE_ACQUIRED} AND acquires_at <= $now",
                {"now": now},
            ).fetchone()[0]
        if acquired:
            self.expect_settlement(self._next_acquisition)
        # Of what is due by now nothing is left; a voided approval still counts here, and costs a look for nothing when its time comes.
        self._next_acquisition = self.one(
            "SELECT min(acquires_at) FROM payment WHERE refusal IS NULL AND acquires_at < expires_at AND acquires_at > ?",
            now,
        )

    def expect_acquisition(self, at: datetime) -> None:
        """A credit card approval was booked that is acquired `at`."""
        self._next_acquisition = min(at, self._next_acquisition or at)

    def expect_settlement(self, at: datetime) -> None:
        """Money moved `at`, and its day is not settled."""
        self.unsettled_since = min(at, self.unsettled_since or at)

    def know_cards(self, path: Path) -> None:
        """Take a Parquet file of instruments; columns it does not have keep what is known, repeating it changes nothing.

        Raises:
            ValueError: a required column is missing.
            duckdb.Error: it is not Parquet.
        """
        columns = set(self.connection.read_parquet(str(path), hive_partitioning=False).columns)
        missing = {"instrument_token", "payment_method", "issuer"} - columns
        if missing:
            raise ValueError(f"columns missing: {', '.join(sorted(missing))}")
        status, limit, balance = (
            f"d.{name}" if name in columns else f"c.{name}" for name in ("status", "limit_minor", "balance_minor")
        )
        with self.many_threads():
            self.connection.execute(
                "CREATE OR REPLACE TEMP TABLE dropped_file AS FROM read_parquet(?, hive_partitioning = FALSE)",
                [str(path)],
            )
            # Nearly every card is known, and as it is said: only those of the file are looked at, and seldom one is written.
            self.connection.execute(
                f"""CREATE OR REPLACE TEMP TABLE known_card AS FROM card SEMI JOIN dropped_file USING (instrument_token);
                    CREATE OR REPLACE TEMP TABLE changed AS
                    SELECT DISTINCT d.instrument_token, d.payment_method, d.issuer, coalesce({status}, 'open') AS status,
                        CAST({limit} AS BIGINT) AS limit_minor, CAST({balance} AS BIGINT) AS balance_minor
                    FROM dropped_file d LEFT JOIN known_card c USING (instrument_token)
                    EXCEPT FROM known_card"""
            )
        if self.one("SELECT EXISTS (FROM changed)"):
            self.connection.execute(
                """BEGIN;
                   DELETE FROM card WHERE instrument_token IN (SELECT instrument_token FROM changed);
                   INSERT INTO card FROM changed;
                   COMMIT"""
            )
        self.connection.execute(
            "DROP TABLE dropped_file; DROP TABLE known_card; DROP TABLE changed"
        )  # a month's are many


UNSETTLED = """SELECT happened_at FROM acquisition WHERE settlement_batch IS NULL
    UNION ALL SELECT happened_at FROM modification WHERE settlement_batch IS NULL AND kind = 'refund' AND refusal IS NULL"""

_TO_BE_ACQUIRED = """FROM payment p WHERE refusal IS NULL AND acquires_at < expires_at
    AND NOT EXISTS (SELECT 1 FROM acquisition a WHERE a.payment_no = p.payment_no)
    AND NOT EXISTS (SELECT 1 FROM modification m WHERE m.payment_no = p.payment_no AND m.kind = 'void' AND m.refusal IS NULL)"""


def _check_setting(name: str, value: str) -> None:
    if name not in DEFAULTS:
        raise ValueError(f"no setting {name!r}; there are {', '.join(sorted(DEFAULTS))}")
    if name == "clock":
        if value and datetime.fromisoformat(value).utcoffset() != timedelta(0):
            raise ValueError(f"the clock is set in UTC, such as 2023-09-11T00:00:00+00:00; not {value!r}")
    elif name == "timezone":
        ZoneInfo(value)
    elif name == "late_answer":
        if value not in ("not_found", "pending"):
            raise ValueError(f"late_answer is not_found or pending, not {value!r}")
    elif name in SHARES:
        if not 0 <= float(value) <= 1:
            raise ValueError(f"{name} is a share between 0 and 1, not {value!r}")
    elif not value.isdigit():
        raise ValueError(f"{name} is a whole number, not {value!r}")
