"""Operations, batches, outcomes and entries in PostgreSQL: append-only, in tables, by COPY.

Belongs here: storing intents before effects and outcomes after, and reading where they stand. Does not:
deciding what to send (`release`, `plan`) or when (`execution`).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from pipeline.adapters.bulk import copy_in, expect_millions, fetch
from pipeline.adapters.postgres import Server, conninfo
from pipeline.core.ledger import Posting, posting_for
from pipeline.errors import (
    FatalError,
    GateClosed,
    MakegoodError,
    OutsideWindow,
    RetriableError,
    SenderLost,
    SendingStopped,
)
from pipeline.failpoints import failpoint
from pipeline.ports import BatchFile, Noted
from pipeline.schema import CARD_SCHEMA, OPERATION_SCHEMA, OUTCOME_SCHEMA

OPERATION_COLUMNS = [
    "operation_id", "kind", "scope", "incident_id", "customer_id", "billing_period", "bill_cycle", "occurrence", "attempt",
    "charge_id", "amount_minor", "currency", "payment_method", "issuer", "instrument_token", "wave", "original_id",
]  # fmt: skip

ENTRY_COLUMNS = ["operation_id", "step", "debit", "credit", "amount_minor", "currency", "effective_on"]

OUTCOME_COLUMNS = [
    "operation_id", "status", "reason", "payment_id", "debit", "credit", "amount_minor", "currency", "effective_on",
]  # fmt: skip
"""An outcome and the entry that it makes; the entry's columns are empty where it makes none."""

CHARGED_SCHEMA = pa.schema([
    ("customer_id", pa.string()), ("bill_cycle", pa.int64()), ("amount_minor", pa.int64()), ("attempt", pa.int32()),
    ("is_ended", pa.bool_()),
])  # fmt: skip

NEVER_SENT = ("withdrawn", "never_received")
"""Reasons of an operation that moved nothing and never will: ended before it went out, or found to have been lost on its way."""

BUSINESS_TIMEZONE = ZoneInfo("Asia/Seoul")
"""In which windows are days, where an installation says nothing else."""

LOCK_WAIT = "10min"
"""How long a second sender waits for the first: longer than the slowest wave, shorter than a night."""

BUSY = "another release or remediation is at work; try again when it has finished"

TURN_WAIT = "30s"
"""How long whoever has the lock waits for what a sender before it has not finished in the database: a hand-over takes milliseconds."""

HAND_OVER_PAUSE = "10s"
"""How long a sender may pause amid recording a hand-over before the database ends that for it: nobody waits for one that hangs."""

BEHIND = "the database is behind the acquirer, which has files that it knows nothing of: `makegood sending repair` enters them"

REFUSALS: dict[str, type[MakegoodError]] = {
    "MG001": SenderLost,
    "MG002": SendingStopped,
    "MG003": GateClosed,
    "MG004": OutsideWindow,
    "MG005": FatalError,
}
"""What the database's own functions raise (migration 0010), and what that means to a caller."""

FINAL_STATES = pa.array(["succeeded", "declined"])
"""What an acquirer can say that nothing later changes; anything else leaves an operation unknown."""

_OPERATIONS = sql.SQL(
    "SELECT replace(o.operation_id::text, '-', ''), o.kind, o.customer_id, o.instrument_token, o.amount_minor, o.currency,"
    " CASE WHEN o.original_id IS NOT NULL THEN (SELECT c.payment_id FROM outcome c WHERE c.operation_id = o.original_id) END,"
    " o.payment_method, o.issuer"
    " FROM operation o WHERE {condition} ORDER BY o.operation_id"
)
_WITH_CARDS = pa.schema([*OPERATION_SCHEMA, *(CARD_SCHEMA.field(name) for name in ("payment_method", "issuer"))])


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave of a scope and how far it has come.

    Attributes:
        batch_id, file: the outgoing file once written; None before, and when it was withdrawn.
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
    currency: str | None

    def count(self, state: str) -> int:
        return self.counts.get(state, 0)

    def amount_minor(self, state: str) -> int:
        return self.amounts_minor.get(state, 0)


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to send, for as long as nobody else has taken it.

    Attributes:
        epoch: numbers the turns; the database refuses what an older one wants to record.
        rail: identity of the rail it sends over.
    """

    epoch: int
    rail: str
    _lock: psycopg.Connection

    def require(self) -> None:
        """Pass while the lock's connection stands.

        Raises:
            SenderLost: it does not; somebody else may be sending.
        """
        try:
            self._lock.execute("SELECT 1")
        except psycopg.Error:
            raise SenderLost(
                "the connection that holds the sender's lock is lost; calling again waits for its turn"
            ) from None


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raise what the database's functions refuse as what it means to a caller."""
    try:
        yield
    except psycopg.Error as error:
        if refusal := REFUSALS.get(error.sqlstate or ""):
            raise refusal(error.diag.message_primary) from None
        raise


class PostgresLedger:
    """The books. Every method is one transaction; none updates or deletes a row.

    Args:
        as_of: the simulated instant that windows are held against; None takes the database's clock.
        timezone: in which windows are days.
    """

    def __init__(
        self, server: Server, *, as_of: datetime | None = None, timezone: ZoneInfo = BUSINESS_TIMEZONE
    ) -> None:
        self._server = server
        self._as_of, self._timezone = as_of, timezone

    def _fetch(self, query: sql.Composable, schema: pa.Schema) -> pa.Table:
        return fetch(conninfo(self._server.pipeline_url), query, schema)

    @contextlib.contextmanager
    def sending(self, rail: str, noted: Noted, *, also_behind: bool = False) -> Iterator[Turn]:
        """Be the only sender: file sequence numbers and live state allow one at a time.

        Args:
            rail: its identity.
            noted: what is known outside this database to have gone out.
            also_behind: for whoever enters what is missing.

        Raises:
            RetriableError: another sender did not finish within `LOCK_WAIT`.
            SendingStopped: this database is behind what went out - restored from a backup, or promoted late; sending is stopped.
        """
        with self._server.alone("sending", wait=LOCK_WAIT, busy=BUSY) as lock:
            failpoint("lock.taken")
            with self._server.connect() as connection:
                connection.execute(f"SET LOCAL lock_timeout = '{TURN_WAIT}'")
                try:
                    epoch, is_behind = connection.execute(
                        "SELECT * FROM begin_sending(%s, %s, %s, %s)",
                        (rail, noted.epoch, noted.sequence, noted.accepted),
                    ).fetchone()
                    if is_behind and not also_behind:
                        connection.execute("SELECT order_stop(%s, 2)", (BEHIND,))
                except psycopg.errors.LockNotAvailable:
                    raise RetriableError(
                        "a sender that lost its lock hangs amid a hand-over; end that process, then try again"
                    ) from None
            if is_behind and not also_behind:
                raise SendingStopped(BEHIND)
            yield Turn(epoch, rail, lock)

    @contextlib.contextmanager
    def releasing(self, billing_period: str) -> Iterator[None]:
        """Be the only one to turn a run of this period into operations.

        Raises:
            RetriableError: somebody else is, for longer than `LOCK_WAIT`.
        """
        with self._server.alone(f"period {billing_period}", wait=LOCK_WAIT, busy=BUSY):
            yield

    # -- intents ------------------------------------------------------------------------------------------------

    def charged(self, billing_period: str) -> pa.Table:
        """Charges of a period, and rebills where no charge had been, sent or not (`CHARGED_SCHEMA`); `is_ended` says of one that it
        moved nothing and never will."""
        query = sql.SQL(
            "WITH ended AS MATERIALIZED (SELECT operation_id FROM outcome WHERE status = 'declined' AND reason = ANY({reasons}))"
            " SELECT customer_id, bill_cycle, amount_minor, attempt, e.operation_id IS NOT NULL FROM operation o"
            " LEFT JOIN ended e USING (operation_id)"
            " WHERE kind = 'charge' AND occurrence = 1 AND billing_period = {period}"
            " UNION ALL SELECT r.customer_id, r.bill_cycle, r.amount_minor, 1, false FROM operation r"
            " WHERE r.kind = 'rebill' AND r.attempt = 1 AND r.billing_period = {period} AND NOT EXISTS"
            " (SELECT FROM operation c WHERE c.customer_id = r.customer_id AND c.billing_period = r.billing_period"
            "  AND c.bill_cycle = r.bill_cycle AND c.kind = 'charge' AND c.operation_id NOT IN (SELECT operation_id FROM ended))"
        ).format(period=sql.Literal(billing_period), reasons=sql.Literal(list(NEVER_SENT)))
        return self._fetch(query, CHARGED_SCHEMA)

    def intend(self, scope: str, operations: pa.Table) -> None:
        """Commit `operations` (`OPERATION_COLUMNS`), whole or not at all.

        Raises:
            FatalError: one of them exists already, or more would be undone than was charged; nothing was written.
        """
        with self._server.connect() as connection:
            try:
                copy_in(connection, "operation", operations.to_batches(), OPERATION_COLUMNS)
                failpoint("intents.commit")
            except (psycopg.errors.UniqueViolation, psycopg.errors.CheckViolation) as error:
                rule = error.diag.constraint_name or error.diag.message_primary
                raise FatalError(f"{scope}: money would move twice ({rule}); nothing was written") from None
        failpoint("intents.committed")

    # -- waves --------------------------------------------------------------------------------------------------

    def next_wave(self, scope: str) -> int:
        """The number of the scope's next wave."""
        with self._server.connect() as connection:
            last = connection.execute("SELECT max(wave) FROM operation WHERE scope = %s", (scope,)).fetchone()[0]
        return 0 if last is None else last + 1

    def waves(self, scope: str) -> list[Wave]:
        """The scope's waves in order, but those that were ended."""
        with self._server.connect() as connection:
            rows = connection.execute(
                f"SELECT o.wave, {_FILE}, handed_over, answered FROM (SELECT DISTINCT wave FROM operation WHERE scope = %(scope)s"
                "  EXCEPT SELECT wave FROM wave_end WHERE scope = %(scope)s) o"
                " LEFT JOIN live_batch s ON s.scope = %(scope)s AND s.wave = o.wave ORDER BY o.wave",
                {"scope": scope},
            ).fetchall()
        return [_wave(row) for row in rows]

    def open_files(self, rail: str) -> list[tuple[str, Wave]]:
        """Files of any scope whose fate is open - recorded, and neither answered nor out of the acquirer's reach - in order."""
        with self._server.connect() as connection:
            rows = connection.execute(
                f"SELECT scope, wave, {_FILE}, handed_over, answered FROM live_batch WHERE NOT answered"
                " AND coalesce(rail, %(rail)s) = %(rail)s ORDER BY file_sequence",
                {"rail": rail},
            ).fetchall()
        return [(row[0], _wave(row[1:])) for row in rows]

    def silent_files(self, rail: str) -> list[tuple[str, Wave]]:
        """Files handed over of whose operations nothing at all was heard, in order."""
        with self._server.connect() as connection:
            rows = connection.execute(
                f"SELECT scope, wave, {_FILE}, handed_over, answered FROM live_batch b WHERE answered"
                " AND coalesce(rail, %(rail)s) = %(rail)s AND EXISTS (SELECT FROM operation o JOIN unanswered u USING (operation_id)"
                "  WHERE o.scope = b.scope AND o.wave = b.wave) AND NOT EXISTS (SELECT FROM operation o JOIN outcome c USING (operation_id)"
                "  WHERE o.scope = b.scope AND o.wave = b.wave AND c.reason IS DISTINCT FROM 'never_received') ORDER BY file_sequence",
                {"rail": rail},
            ).fetchall()
        return [(row[0], _wave(row[1:])) for row in rows]

    def headers(self, rail: str) -> dict[int, set[str]]:
        """By file number, the headers of what was handed over under it and not taken back; empty for files of before headers were kept."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT file_sequence, array_agg(coalesce(header, '')) FROM live_batch"
                " WHERE handed_over AND coalesce(rail, %(rail)s) = %(rail)s GROUP BY 1",
                {"rail": rail},
            ).fetchall()
        return {sequence: set(headers) for sequence, headers in rows}

    def last_sequence(self, rail: str) -> int:
        """Number of the last file of a rail that was handed over, and neither refused nor taken back; 0 for none."""
        with self._server.connect() as connection:
            return connection.execute("SELECT last_sequence(%s)", (rail,)).fetchone()[0]

    def read_wave(self, scope: str, wave: int) -> tuple[pa.Table, pa.Table]:
        """A wave's operations as a rail takes them (`OPERATION_SCHEMA`), in the order of their keys, and their cards (`CARD_SCHEMA`)."""
        condition = sql.SQL("o.scope = {} AND o.wave = {}").format(sql.Literal(scope), sql.Literal(wave))
        found = self._fetch(_OPERATIONS.format(condition=condition), _WITH_CARDS)
        return found.select(OPERATION_SCHEMA.names), found.select(CARD_SCHEMA.names)

    def record_batch(self, turn: Turn, scope: str, wave: int, file: BatchFile) -> int:
        """Keep what a wave's file contains, before it may go out; returns its batch id.

        Raises:
            SenderLost: another sender has taken over.
            FatalError: the wave, or the file's number, has another file that may move money.
        """
        with refusals(), self._server.connect() as connection:
            row = connection.execute(
                "SELECT record_batch(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (turn.epoch, turn.rail, scope, wave, file.sequence, str(file.path), str(file.staged), file.header, file.sha256,
                 file.operation_count, file.total_minor),
            ).fetchone()  # fmt: skip
            return row[0]

    def hand_over(self, turn: Turn, batch_id: int) -> None:
        """Record that a file goes out now: the one door, which the database opens only if everything that must be true is.

        Raises:
            SenderLost: another sender has taken over.
            SendingStopped: somebody has stopped sending.
            OutsideWindow, GateClosed: the plan's window is closed, or plan or run may not be carried out (any more).
            FatalError: the file is not of just the operations that its wave has.
        """
        with refusals(), self._server.connect() as connection:
            connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{HAND_OVER_PAUSE}'")
            connection.execute(
                "SELECT hand_over(%s, %s, %s, %s)", (turn.epoch, batch_id, self._as_of, str(self._timezone))
            )

    def record_event(self, turn: Turn, batch_id: int, event: str, detail: str = "") -> None:
        """Append what happened to a file: `rejected`, `withdrawn` or `damaged`; repeating it changes nothing.

        Raises:
            SenderLost: another sender has taken over.
            FatalError: that cannot have happened to the file as it stands.
        """
        with refusals(), self._server.connect() as connection:
            connection.execute("SELECT record_event(%s, %s, %s, %s)", (turn.epoch, batch_id, event, detail))

    def end_unsent(self, turn: Turn, scopes: list[str], reason: str, waves: list[int] | None = None) -> int:
        """End intents of these scopes - of all waves, or some - that are in no file that may move money; returns their number. What is
        due is decided anew.

        Raises:
            SenderLost: another sender has taken over.
        """
        failpoint("withdraw.record")
        with refusals(), self._server.connect() as connection:
            ended = connection.execute(
                "SELECT end_unsent(%s, %s, %s, %s)", (turn.epoch, scopes, reason, waves)
            ).fetchone()[0]
        failpoint("withdraw.recorded")
        return ended

    # -- leading out --------------------------------------------------------------------------------------------

    def order_stop_of_two(self, reason: str) -> None:
        """Stop sending until two people resume it."""
        with self._server.connect() as connection:
            connection.execute("SELECT order_stop(%s, 2)", (reason,))

    def intend_missing(self, turn: Turn, scope: str, wave: int, operations: pa.Table) -> None:
        """Commit those of a wave's `operations` (`OPERATION_COLUMNS`) that the books lack. An earlier attempt that they have and that
        was never sent had been ended, or there would be no later one: it is ended again.

        Raises:
            SenderLost: another sender has taken over.
            FatalError: as `intend`.
        """
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT replace(operation_id::text, '-', '') FROM operation WHERE scope = %s AND wave = %s",
                (scope, wave),
            ).fetchall()
        known = pa.array([row[0] for row in rows], pa.string())
        missing = operations.filter(pc.invert(pc.is_in(operations["operation_id"], known)))
        if missing.num_rows:
            self._end_attempts_before(turn, missing.filter(pc.greater(missing["attempt"], 1)))
            self.intend(scope, missing)

    def _end_attempts_before(self, turn: Turn, operations: pa.Table) -> None:
        """End the waves, never sent, of which `operations` are later attempts."""
        facts = operations.select(
            ["customer_id", "billing_period", "bill_cycle", "kind", "incident_id", "occurrence"]
        ).to_pydict()
        with self._server.connect() as connection:
            waves = connection.execute(
                "SELECT DISTINCT o.scope, o.wave FROM operation o"
                " JOIN unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::integer[])"
                "  f(customer_id, billing_period, bill_cycle, kind, incident_id, occurrence)"
                " ON f.customer_id = o.customer_id AND f.billing_period = o.billing_period AND f.bill_cycle = o.bill_cycle"
                " AND f.kind = o.kind AND f.incident_id IS NOT DISTINCT FROM o.incident_id AND f.occurrence = o.occurrence"
                " WHERE NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = o.operation_id)",
                list(facts.values()),
            ).fetchall()
        for scope, wave in waves:
            self.end_unsent(turn, [scope], "a later attempt went out", [wave])

    def reenter_batch(self, turn: Turn, scope: str, wave: int, file: BatchFile) -> None:
        """Enter that a wave's file was handed over; possible only while sending is stopped until two people resume it.

        Raises:
            GateClosed: it is not.
            FatalError: the wave has another file.
        """
        with refusals(), self._server.connect() as connection:
            connection.execute(
                "SELECT reenter_batch(%s, %s, %s, %s, %s, %s, %s, %s)",
                (turn.epoch, turn.rail, scope, wave, file.sequence, str(file.path), file.header, file.sha256),
            )

    def declare_lost(self, turn: Turn, scope: str, wave: Wave, *, effective_on: date) -> None:
        """Enter that the acquirer never had a wave's file; possible only while sending is stopped until two people resume it.

        Raises:
            GateClosed: it is not.
            FatalError: something was heard of it.
        """
        if wave.answered:
            unknown = self.unknown(scope)
            operations, _ = self.read_wave(scope, wave.number)
            of_wave = pc.is_in(unknown["merchant_reference"], operations["merchant_reference"].combine_chunks())
            self.resolve(scope, _never_received(unknown.filter(of_wave)), effective_on=effective_on)
        with refusals(), self._server.connect() as connection:
            connection.execute(
                "SELECT declare_lost(%s, %s, %s)", (turn.epoch, wave.batch_id, "lost: the acquirer never had it")
            )

    # -- outcomes -----------------------------------------------------------------------------------------------

    def record_answers(
        self, turn: Turn, scope: str, batch_id: int, operations: pa.Table, answers: pa.Table, *, effective_on: date
    ) -> None:
        """Record the outcomes of a batch's `operations` with their entries, and as unknown whatever got none.

        One transaction; repeating it for the same batch changes nothing.

        Raises:
            SenderLost: another sender has taken over; nothing was recorded.
            FatalError: an answer is for an operation outside the batch, twice, or for another amount.
        """
        finals = _finals(scope, operations, answers)
        unanswered = _without(operations, finals)
        detail = f"{answers.num_rows} answers"
        with refusals(), self._server.connect() as connection:
            is_first = connection.execute(
                "SELECT record_event(%s, %s, 'answered', %s)", (turn.epoch, batch_id, detail)
            ).fetchone()[0]
            if not is_first:
                return
            after_decline = _after_decline(connection, scope, batch_id)
            _record(connection, finals, effective_on, was_unknown=False, after_decline=after_decline)
            _suspend(connection, unanswered, effective_on, after_decline=after_decline)

    def unknown(self, scope: str) -> pa.Table:
        """Operations that were sent and never answered (`OPERATION_SCHEMA`)."""
        condition = sql.SQL(
            "o.scope = {} AND EXISTS (SELECT FROM unanswered u WHERE u.operation_id = o.operation_id)"
            " AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = o.operation_id)"
        ).format(sql.Literal(scope))
        return self._fetch(_OPERATIONS.format(condition=condition), _WITH_CARDS).select(OPERATION_SCHEMA.names)

    def resolve(self, scope: str, answers: pa.Table, *, effective_on: date) -> None:
        """Record what an inquiry found out; `pending` and `not_found` leave an operation unknown.

        Raises:
            FatalError: as `record_answers`.
        """
        with self._server.connect() as connection:
            connection.execute("SELECT take_mutex(%s)", (f"resolve {scope}",))
            unknown = self.unknown(scope)
            still_open = pc.is_in(answers["merchant_reference"], unknown["merchant_reference"].combine_chunks())
            finals = _finals(scope, unknown, answers.filter(still_open))
            after_decline = _after_decline(connection, scope, None)
            _record(connection, finals, effective_on, was_unknown=True, after_decline=after_decline)

    def moved_minor(self, scope: str) -> int:
        """What a scope has moved or may have moved: its files that went out, less what was declined of them."""
        with self._server.connect() as connection:
            sent = connection.execute(
                "SELECT coalesce(sum(total_minor), 0)::bigint FROM live_batch WHERE scope = %s AND handed_over",
                (scope,),
            ).fetchone()[0]
            if not sent:
                return 0
            expect_millions(connection)
            declined = connection.execute(
                "SELECT coalesce(sum(o.amount_minor), 0)::bigint FROM operation o JOIN outcome c USING (operation_id)"
                " WHERE o.scope = %s AND c.status = 'declined' AND c.reason <> ALL (%s)",
                (scope, list(NEVER_SENT)),
            ).fetchone()[0]
            return sent - declined

    def tally(self, scope: str) -> Tally:
        """Counts and amounts of a scope by state."""
        with self._server.connect() as connection:
            expect_millions(connection)
            rows = connection.execute(
                "SELECT state, count(*), sum(amount_minor)::bigint, min(currency) FROM operation_state"
                " WHERE scope = %s GROUP BY state",
                (scope,),
            ).fetchall()
        return Tally({r[0]: r[1] for r in rows}, {r[0]: r[2] for r in rows}, rows[0][3] if rows else None)

    def balances(self) -> list[dict]:
        """What stands on every account, by currency; the sum over accounts is zero by construction."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT account::text, currency, balance_minor::bigint FROM balance ORDER BY account, currency"
            ).fetchall()
        return [
            {"account": account, "currency": currency, "balance_minor": figure} for account, currency, figure in rows
        ]

    def open_breaks(self) -> dict[str, int]:
        """Breaks of settlement that nothing has resolved, counted by kind."""
        with self._server.connect() as connection:
            return dict(
                connection.execute("SELECT kind, count(*) FROM open_break GROUP BY kind ORDER BY kind").fetchall()
            )

    def damaged_answers(self) -> list[dict]:
        """Answers that could not be trusted, newest first: scope, wave, detail, at. What they were about was asked about by key."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT scope, wave, detail, e.recorded_at FROM batch JOIN batch_event e USING (batch_id) WHERE event = 'damaged'"
                " ORDER BY e.recorded_at DESC"
            ).fetchall()
        return [dict(zip(("scope", "wave", "detail", "at"), row, strict=True)) for row in rows]

    def unfinished(self) -> list[dict]:
        """Scopes that hold operations not sent, sent or unknown: what `stop` reports, by name."""
        with self._server.connect() as connection:
            expect_millions(connection)
            rows = connection.execute(
                "SELECT scope, state, count(*) FROM operation_state WHERE state IN ('not_sent', 'sent', 'unknown')"
                " GROUP BY scope, state ORDER BY scope, state"
            ).fetchall()
        return [{"scope": scope, "state": state, "operations": count} for scope, state, count in rows]


_FILE = "batch_id, file_path, staged_path, file_sequence, header, sha256, operation_count, total_minor::bigint"


def _wave(row: tuple) -> Wave:
    number, batch_id, path, staged, sequence, header, digest, count, total, handed_over, answered = row
    file = None
    if batch_id is not None:
        file = BatchFile(Path(path), Path(staged) if staged else None, sequence, header or "", digest, count, total)
    return Wave(number, batch_id, file, handed_over=bool(handed_over), answered=bool(answered))


def _finals(scope: str, operations: pa.Table, answers: pa.Table) -> pa.Table:
    """The final ones among `answers`, each with the kind, amount and currency of its operation.

    Raises:
        FatalError: they are not answers to `operations`.
    """
    place = pc.index_in(
        answers["merchant_reference"].combine_chunks(), operations["merchant_reference"].combine_chunks()
    )
    foreign = place.null_count
    twice = answers.num_rows - pc.count_distinct(answers["merchant_reference"]).as_py()
    asked = operations.select(["kind", "amount_minor", "currency"]).take(place)
    other = pc.sum(pc.not_equal(answers["amount_minor"], asked["amount_minor"])).as_py() or 0
    if foreign or twice or other:
        raise FatalError(
            f"{scope}: the acquirer answered {foreign} operations that were not sent, {twice} twice and {other} for"
            " another amount; nothing was recorded, ask the acquirer"
        )
    joined = answers.select(["merchant_reference", "status", "reason", "payment_id"])
    for name in asked.column_names:
        joined = joined.append_column(name, asked[name])
    return joined.filter(pc.is_in(joined["status"], FINAL_STATES))


def _never_received(operations: pa.Table) -> pa.Table:
    """The outcomes (`OUTCOME_SCHEMA`) of operations that were lost on their way."""
    said = {"status": "declined", "reason": "never_received", "payment_id": None}
    columns = {name: pa.repeat(pa.scalar(value, pa.string()), operations.num_rows) for name, value in said.items()}
    columns |= {name: operations[name] for name in ("merchant_reference", "amount_minor")}
    return pa.table({name: columns[name] for name in OUTCOME_SCHEMA.names})


def _without(operations: pa.Table, finals: pa.Table) -> pa.Table:
    answered = pc.is_in(operations["merchant_reference"], finals["merchant_reference"].combine_chunks())
    return operations.filter(pc.invert(answered))


def _keyed(table: pa.Table) -> pa.Table:
    return table.rename_columns(["operation_id" if n == "merchant_reference" else n for n in table.column_names])


def _after_decline(connection: psycopg.Connection, scope: str, batch_id: int | None) -> pa.Array:
    """References of a scope's operations (of one batch, or all) whose amount lies where a declined attempt left it."""
    rows = connection.execute(
        "SELECT replace(o.operation_id::text, '-', '') FROM operation o"
        " WHERE o.scope = %(scope)s AND o.attempt > 1"
        " AND (%(batch)s::bigint IS NULL OR o.wave = (SELECT b.wave FROM batch b WHERE b.batch_id = %(batch)s))"
        " AND EXISTS (SELECT FROM operation p JOIN outcome e ON e.operation_id = p.operation_id"
        "   WHERE p.customer_id = o.customer_id AND p.billing_period = o.billing_period AND p.bill_cycle = o.bill_cycle"
        "   AND p.incident_id IS NOT DISTINCT FROM o.incident_id AND p.occurrence = o.occurrence AND p.attempt < o.attempt"
        "   AND (p.kind = 'rebill') = (o.kind = 'rebill') AND (e.credit = 'refund_payable' OR e.debit = 'accounts_receivable'))",
        {"scope": scope, "batch": batch_id},
    ).fetchall()
    return pa.array([row[0] for row in rows], pa.string())


def _record(
    connection: psycopg.Connection, finals: pa.Table, effective_on: date, *, was_unknown: bool, after_decline: pa.Array
) -> None:
    """Append outcomes, each with the entry that it makes."""
    posted = [
        batch
        for state in FINAL_STATES.to_pylist()
        for these, posting in _groups(
            finals.filter(pc.equal(finals["status"], state)),
            state,
            was_unknown=was_unknown,
            after_decline=after_decline,
        )
        for batch in with_entry(_keyed(these), posting, effective_on).to_batches()
    ]
    copy_in(connection, "outcome", posted, OUTCOME_COLUMNS)


def _suspend(
    connection: psycopg.Connection, operations: pa.Table, effective_on: date, *, after_decline: pa.Array
) -> None:
    """Append `operations` as unanswered, with the entries that set their amounts aside."""
    copy_in(connection, "unanswered", _keyed(operations).to_batches(), ["operation_id"])
    for these, posting in _groups(operations, "unknown", was_unknown=False, after_decline=after_decline):
        entries = with_entry(_keyed(these), posting, effective_on)
        entries = entries.append_column("step", pa.repeat(posting.step, entries.num_rows))
        copy_in(connection, "further_entry", entries.to_batches(), ENTRY_COLUMNS)


def _groups(
    operations: pa.Table, state: str, *, was_unknown: bool, after_decline: pa.Array
) -> Iterator[tuple[pa.Table, Posting | None]]:
    """`operations` (merchant_reference, kind), all come to `state`, by the posting that this makes."""
    is_retry = pc.is_in(operations["merchant_reference"], after_decline)
    for kind in pc.unique(operations["kind"]).to_pylist():
        for retried in (False, True):
            these = operations.filter(pc.and_(pc.equal(operations["kind"], kind), pc.equal(is_retry, retried)))
            if these.num_rows:
                yield these, posting_for(kind, state, was_unknown=was_unknown, after_decline=retried)


def with_entry(operations: pa.Table, posting: Posting | None, effective_on: date) -> pa.Table:
    """`operations` (amount_minor, currency) with the other columns of the entry that `posting` makes; None empties them all."""
    entry = {name: getattr(posting, name, None) for name in ("debit", "credit")}
    entry |= {"effective_on": str(effective_on) if posting else None}
    if posting is None:
        operations = operations.drop_columns(["amount_minor", "currency"])
        entry |= {"amount_minor": None, "currency": None}
    for name, value in entry.items():
        operations = operations.append_column(name, pa.repeat(pa.scalar(value, pa.string()), operations.num_rows))
    return operations
