"""Operations, batches, outcomes and entries in PostgreSQL: append-only, in tables, by COPY.

Belongs here: storing intents before effects and outcomes after, and reading where they stand. Does not:
deciding what to send (`release`, `plan`) or when (`execution`).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psycopg
import pyarrow as pa
from psycopg import sql

from pipeline.adapters.bulk import copy_in, copy_out
from pipeline.adapters.postgres import Server
from pipeline.core.ledger import ON_INTENT, ON_SUCCESS, Posting
from pipeline.errors import FatalError, RetriableError
from pipeline.ports import BatchFile
from pipeline.schema import CARD_SCHEMA, OPERATION_SCHEMA, OUTCOME_SCHEMA

OPERATION_COLUMNS = [
    "operation_id", "kind", "scope", "incident_id", "customer_id", "billing_period", "bill_cycle", "attempt", "charge_id",
    "amount_minor", "currency", "payment_method", "issuer", "instrument_token", "wave",
]  # fmt: skip

LOCK_WAIT = "10min"
"""How long a second sender waits for the first: longer than the slowest wave, shorter than a night."""

_REFERENCE = "replace(operation_id::text, '-', '')"


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave of a scope and how far it has come.

    Attributes:
        batch_id, file: the outgoing file once written; None before.
        handed_over, answered: what has happened to it.
    """

    number: int
    batch_id: int | None
    file: BatchFile | None
    handed_over: bool
    answered: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the operations of a scope stand: counts and amounts by state, re-derived from rows each time."""

    counts: dict[str, int]
    amounts_minor: dict[str, int]

    def count(self, state: str) -> int:
        return self.counts.get(state, 0)

    def amount_minor(self, state: str) -> int:
        return self.amounts_minor.get(state, 0)


class PostgresLedger:
    """The books. Every method is one transaction; none updates or deletes a row."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Be the only sender: file sequence numbers and live state allow one at a time.

        Raises:
            RetriableError: another sender did not finish within `LOCK_WAIT`.
        """
        with self._alone("makegood.sending"):
            yield

    @contextlib.contextmanager
    def releasing(self, billing_period: str) -> Iterator[None]:
        """Be the only one to turn a run of this period into operations.

        Raises:
            RetriableError: somebody else is, for longer than `LOCK_WAIT`.
        """
        with self._alone(f"makegood.period.{billing_period}"):
            yield

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with self._server.connect() as connection:
            connection.autocommit = True
            connection.execute(f"SET lock_timeout = '{LOCK_WAIT}'")
            try:
                connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (name,))
            except psycopg.errors.LockNotAvailable:
                raise RetriableError(
                    "another release or remediation is at work; try again when it has finished"
                ) from None
            yield  # the lock goes with the connection, also when this process dies

    def charged(self, billing_period: str) -> pa.Table:
        """Original charges intended for a period, sent or not: customer_id, bill_cycle, amount_minor."""
        query = sql.SQL(
            "SELECT customer_id, bill_cycle, amount_minor FROM operation WHERE kind = 'charge' AND attempt = 1 AND billing_period = {}"
        ).format(sql.Literal(billing_period))
        schema = pa.schema([("customer_id", pa.string()), ("bill_cycle", pa.int64()), ("amount_minor", pa.int64())])
        with self._server.connect() as connection:
            return copy_out(connection, query, schema)

    def intend(self, scope: str, operations: pa.Table, *, effective_on: date) -> None:
        """Commit `operations` (`OPERATION_COLUMNS`) with the entries they make at once, whole or not at all.

        Raises:
            FatalError: one of them exists already; another release was quicker, nothing was written.
        """
        with self._server.connect() as connection:
            try:
                copy_in(connection, "operation", operations.to_batches(), OPERATION_COLUMNS)
            except psycopg.errors.UniqueViolation as error:
                raise FatalError(
                    f"{scope}: a customer would be charged twice ({error.diag.constraint_name}); nothing written"
                ) from None
            for kind, postings in ON_INTENT.items():
                where = sql.SQL("FROM operation WHERE scope = {} AND kind = {}").format(
                    sql.Literal(scope), sql.Literal(kind)
                )
                _post(connection, postings, where, effective_on)

    def waves(self, scope: str) -> list[Wave]:
        """The scope's waves in order."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT o.wave, s.batch_id, s.file_path, s.file_sequence, s.sha256, s.operation_count, s.total_minor::bigint,"
                " s.handed_over, s.answered"
                " FROM (SELECT DISTINCT wave FROM operation WHERE scope = %s) o"
                " LEFT JOIN wave_state s ON s.scope = %s AND s.wave = o.wave AND NOT s.rejected ORDER BY o.wave",
                (scope, scope),
            ).fetchall()
        return [_wave(row) for row in rows]

    def unanswered_hand_overs(self) -> list[tuple[str, Wave]]:
        """Waves of any scope whose file was handed over and whose answers are not recorded, in order of their files."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT scope, wave, batch_id, file_path, file_sequence, sha256, operation_count, total_minor::bigint,"
                " handed_over, answered FROM wave_state WHERE handed_over AND NOT answered AND NOT rejected ORDER BY file_sequence"
            ).fetchall()
        return [(row[0], _wave(row[1:])) for row in rows]

    def operations(self, scope: str, wave: int) -> pa.Table:
        """A wave's operations as a rail takes them (`OPERATION_SCHEMA`), in the order of their keys."""
        query = sql.SQL(
            "SELECT {reference}, kind, customer_id, instrument_token, amount_minor, currency, NULL::text"
            " FROM operation WHERE scope = {scope} AND wave = {wave} ORDER BY operation_id"
        ).format(reference=sql.SQL(_REFERENCE), scope=sql.Literal(scope), wave=sql.Literal(wave))
        with self._server.connect() as connection:
            return copy_out(connection, query, OPERATION_SCHEMA)

    def cards(self, scope: str, wave: int) -> pa.Table:
        """The instruments a wave charges (`CARD_SCHEMA`)."""
        query = sql.SQL(
            "SELECT DISTINCT instrument_token, payment_method, issuer FROM operation WHERE scope = {} AND wave = {}"
        ).format(sql.Literal(scope), sql.Literal(wave))
        with self._server.connect() as connection:
            return copy_out(connection, query, CARD_SCHEMA)

    def record_batch(self, scope: str, wave: int, file: BatchFile) -> int:
        """Keep what a wave's file contains, before it may go out; returns its batch id."""
        with self._server.connect() as connection:
            row = connection.execute(
                "INSERT INTO batch (scope, wave, file_sequence, file_path, sha256, operation_count, total_minor)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING batch_id",
                (scope, wave, file.sequence, str(file.path), file.sha256, file.operation_count, file.total_minor),
            ).fetchone()
            return row[0]

    def record_event(self, batch_id: int, event: str, detail: str = "") -> None:
        """Append what happened to a batch; repeating it changes nothing."""
        with self._server.connect() as connection:
            _event(connection, batch_id, event, detail)

    def record_answers(self, scope: str, wave: int, batch_id: int, answers: pa.Table, *, effective_on: date) -> None:
        """Record a wave's outcomes with their entries, and as unanswered whatever got no outcome; one transaction.

        Raises:
            FatalError: an answer is for an operation outside the wave, for another amount, or contradicts an earlier one.
        """
        with self._server.connect() as connection:
            _record(connection, scope, answers, effective_on, wave=wave)
            connection.execute(
                "INSERT INTO unanswered (operation_id) SELECT o.operation_id FROM operation o"
                " WHERE o.scope = %s AND o.wave = %s AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = o.operation_id)"
                " ON CONFLICT DO NOTHING",
                (scope, wave),
            )
            _event(connection, batch_id, "answered", f"{answers.num_rows} answers")

    def unknown(self, scope: str) -> pa.Array:
        """Merchant references that were sent and never answered."""
        query = sql.SQL(
            "SELECT {reference} FROM unanswered u JOIN operation o USING (operation_id)"
            " WHERE o.scope = {scope} AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = o.operation_id)"
        ).format(reference=sql.SQL(_REFERENCE), scope=sql.Literal(scope))
        with self._server.connect() as connection:
            table = copy_out(connection, query, pa.schema([("merchant_reference", pa.string())]))
        return table["merchant_reference"].combine_chunks()

    def resolve(self, scope: str, answers: pa.Table, *, effective_on: date) -> None:
        """Record what an inquiry found out; `pending` and `not_found` leave an operation unknown.

        Raises:
            FatalError: as `record_answers`.
        """
        with self._server.connect() as connection:
            _record(connection, scope, answers, effective_on, wave=None)

    def tally(self, scope: str) -> Tally:
        """Counts and amounts of a scope by state."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT state, count(*), sum(amount_minor)::bigint FROM operation_state WHERE scope = %s GROUP BY state",
                (scope,),
            ).fetchall()
        return Tally({r[0]: r[1] for r in rows}, {r[0]: r[2] for r in rows})

    def balances(self) -> list[dict]:
        """What stands on every account, by currency; the sum over accounts is zero by construction."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT account::text, currency, balance_minor::bigint FROM balance ORDER BY account"
            ).fetchall()
        return [
            {"account": account, "currency": currency, "balance_minor": balance} for account, currency, balance in rows
        ]

    def unfinished(self) -> list[dict]:
        """Scopes that hold operations not sent, sent or unknown: what `stop` reports, by name."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT scope, state, count(*) FROM operation_state WHERE state IN ('not_sent', 'sent', 'unknown')"
                " GROUP BY scope, state ORDER BY scope, state"
            ).fetchall()
        return [{"scope": scope, "state": state, "operations": count} for scope, state, count in rows]


def _wave(row: tuple) -> Wave:
    number, batch_id, path, sequence, digest, count, total, handed_over, answered = row
    file = None
    if batch_id is not None:
        file = BatchFile(path=Path(path), sequence=sequence, sha256=digest, operation_count=count, total_minor=total)
    return Wave(number, batch_id, file, handed_over=bool(handed_over), answered=bool(answered))


def _record(
    connection: psycopg.Connection, scope: str, answers: pa.Table, effective_on: date, *, wave: int | None
) -> None:
    connection.execute(
        "CREATE TEMP TABLE answer (merchant_reference uuid PRIMARY KEY, status text, reason text, payment_id text, amount_minor bigint)"
        " ON COMMIT DROP"
    )
    try:
        copy_in(connection, "answer", answers.to_batches(), OUTCOME_SCHEMA.names)
    except (psycopg.errors.UniqueViolation, psycopg.errors.InvalidTextRepresentation) as error:
        raise FatalError(f"{scope}: the acquirer's answers cannot be ours: {error.diag.message_primary}") from None
    connection.execute("ANALYZE answer")
    _require_ours(connection, scope, wave)
    connection.execute(
        "INSERT INTO outcome (operation_id, status, reason, payment_id) SELECT merchant_reference, status, reason, payment_id"
        " FROM answer a WHERE status IN ('succeeded', 'declined')"
        " AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = a.merchant_reference)"
    )
    for kind, postings in ON_SUCCESS.items():
        where = sql.SQL(
            "FROM operation JOIN answer ON merchant_reference = operation_id WHERE status = 'succeeded' AND kind = {}"
            " AND NOT EXISTS (SELECT FROM entry e WHERE e.operation_id = operation.operation_id AND e.step = {})"
        )
        for posting in postings:
            _post(connection, (posting,), where.format(sql.Literal(kind), sql.Literal(posting.step)), effective_on)


def _require_ours(connection: psycopg.Connection, scope: str, wave: int | None) -> None:
    """Every answer is for an operation we sent in this scope, for its amount, and agrees with what was answered before."""
    strange = connection.execute(
        "SELECT count(*) FILTER (WHERE o.operation_id IS NULL), count(*) FILTER (WHERE o.amount_minor <> a.amount_minor),"
        " count(*) FILTER (WHERE c.status <> a.status), min(a.merchant_reference::text)"
        " FROM answer a LEFT JOIN operation o ON o.operation_id = a.merchant_reference AND o.scope = %(scope)s"
        "   AND (%(wave)s::int IS NULL OR o.wave = %(wave)s)"
        " LEFT JOIN outcome c ON c.operation_id = a.merchant_reference"
        " WHERE a.status IN ('succeeded', 'declined')"
        " AND (o.operation_id IS NULL OR o.amount_minor <> a.amount_minor OR c.status <> a.status)",
        {"scope": scope, "wave": wave},
    ).fetchone()
    if any(strange[:3]):
        raise FatalError(
            f"{scope}: the acquirer answered {strange[0]} operations that were not sent, {strange[1]} for another amount and"
            f" {strange[2]} contrary to an earlier answer (first: {strange[3]}); nothing recorded, ask the acquirer"
        )


def _post(
    connection: psycopg.Connection, postings: tuple[Posting, ...], where: sql.Composable, effective_on: date
) -> None:
    for posting in postings:
        connection.execute(
            sql.SQL(
                "INSERT INTO entry (operation_id, step, debit, credit, amount_minor, currency, effective_on)"
                " SELECT operation.operation_id, {step}, {debit}, {credit}, operation.amount_minor, currency, {day} {where}"
            ).format(
                step=sql.Literal(posting.step),
                debit=sql.Literal(posting.debit),
                credit=sql.Literal(posting.credit),
                day=sql.Literal(effective_on),
                where=where,
            )
        )


def _event(connection: psycopg.Connection, batch_id: int, event: str, detail: str) -> None:
    connection.execute(
        "INSERT INTO batch_event (batch_id, event, detail) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (batch_id, event, detail),
    )
