"""Plan, ledger and settlement files laid side by side: `sql/match.sql` run by DuckDB, its result kept in PostgreSQL.

Belongs here: reading the operations, matching set-wise, and appending settled entries, files and breaks in one transaction.
Does not: what a break is called or when one is due (`core.settlement`), or what to do about one (`reconcile`, `close`).
Everything is derived anew from all files and all operations each time; so files may come late, twice or in any order, and
calling it again changes nothing.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from importlib import resources
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
from psycopg import sql

from pipeline.adapters import duck
from pipeline.adapters.bulk import copy_in, fetch
from pipeline.adapters.deviations import VOIDED
from pipeline.adapters.postgres import Server, conninfo
from pipeline.adapters.settlement_files import SettlementFile
from pipeline.core.ledger import Posting
from pipeline.core.settlement import returned_elsewhere_posting, settlement_posting

_OPERATION = pa.schema(
    [("operation_id", pa.uuid()), ("kind", pa.string()), ("bill", pa.int64()), ("attempt", pa.int32()), ("amount_minor", pa.int64()),
     ("currency", pa.string()), ("original_id", pa.uuid()), ("of_incident", pa.bool_())]
)  # fmt: skip
_RETRIED = pa.schema(
    [
        ("operation_id", pa.uuid()),
        ("customer_id", pa.string()),
        ("billing_period", pa.string()),
        ("bill_cycle", pa.int64()),
    ]
)
_KEYED = {
    "line": "row_number() OVER () AS line_no,"
    " payment_key_of(if(type = 'Refunded', modification_reference, psp_reference)) AS payment_key, *",
    "succeeded": "operation_id, payment_key_of(payment_id) AS payment_key",
}
"""SQL of tables that are keyed as they come in: a refund line is known by its own reference, any other by its payment's."""

_SUCCEEDED = pa.schema([("operation_id", pa.uuid()), ("payment_id", pa.string())])
_ID = pa.schema([("operation_id", pa.uuid())])
_DEVIATION = pa.schema(
    [("original_id", pa.uuid()), ("kind", pa.string()), ("amount_minor", pa.int64()), ("is_voided", pa.bool_())]
)
_FACT = pa.schema(
    [
        ("operation_id", pa.uuid()),
        ("scope", pa.string()),
        ("payment_method", pa.string()),
        ("effective_on", pa.date32()),
        ("payment_id", pa.string()),
    ]
)

BREAK_SCHEMA = pa.schema(
    [("kind", pa.string()), ("reference", pa.string()), ("scope", pa.string()), ("amount_minor", pa.int64()),
     ("since", pa.date32()), ("detail", pa.string())]
)  # fmt: skip
"""A difference by name: see `core.settlement.BREAK_KINDS`. `reference` is an operation's key, or the acquirer's reference."""

UNMATCHED_SCHEMA = pa.schema(
    [("operation_id", pa.string()), ("kind", pa.string()), ("amount_minor", pa.int64()), ("payment_id", pa.string()),
     ("scope", pa.string()), ("payment_method", pa.string()), ("effective_on", pa.date32())]
)  # fmt: skip
"""An operation that succeeded and that no settlement file speaks of; `operation_id` as 32 hexadecimal digits."""

PLANNED_COLUMNS = [
    "customer_id", "billing_period", "bill_cycle", "occurrence", "original_id", "wrong_minor", "correct_minor", "reversal",
    "reversal_minor", "rebill",
]  # fmt: skip

LOCK_WAIT = "10min"
"""How long a reconciliation waits for another one: as long as one of millions of lines takes, many times over."""

ASKED_ONE_BY_ONE = 10_000
"""Operations whose facts are looked up by key; above, reading the whole tables is faster."""


@dataclass(frozen=True, slots=True)
class PlannedLines:
    """An approved plan, as far as reconciling needs it: its lines (`PLANNED_COLUMNS` at least) and the last days of its windows."""

    number: int
    lines: pa.Table
    reversal_last: date
    rebill_last: date


@dataclass(frozen=True, slots=True)
class Matched:
    """What the side-by-side shows.

    Attributes:
        lines: settlement lines looked at, each line once.
        matched: by kind of operation, `{"count", "amount_minor"}`, of the lines that match.
        returned_elsewhere: refunds of somebody else that a deviation explains, likewise.
        unmatched: `UNMATCHED_SCHEMA`.
        breaks: `BREAK_SCHEMA`, without what is late.
    """

    lines: int
    matched: dict[str, dict[str, int]]
    returned_elsewhere: dict[str, int]
    unmatched: pa.Table
    breaks: pa.Table


class Reconciliation:
    """One reconciliation at work, from `side_by_side` to `record`; a context manager.

    Args:
        incident_id: whose approved plans are held against its operations; None for none.
        today: the business day.
    """

    def __init__(self, server: Server, *, incident_id: str | None, today: date) -> None:
        self._server, self._incident_id, self._today = server, incident_id, today
        self._database = duck.connect()
        self._alone = contextlib.ExitStack()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="entering")
        self._books = contextlib.ExitStack()
        self._connection: psycopg.Connection | None = None

    def __enter__(self) -> "Reconciliation":
        busy = "another reconciliation is at work; try again when it has finished"
        self._alone.enter_context(self._server.alone("reconciling", wait=LOCK_WAIT, busy=busy))
        return self

    def __exit__(self, *exception: Any) -> None:
        self._thread.shutdown()
        try:
            if self._connection and not any(exception):
                self._connection.rollback()  # what `record` has not committed was not meant
            self._books.__exit__(*exception)
        finally:
            self._database.close()
            self._alone.close()

    # -- what was found before ----------------------------------------------------------------------------------

    def looking_at(self, *given: Any) -> str:
        """A name for what is about to be matched: the books as they stand, the day, the incident, and everything `given` (JSON).

        The books are counted: their rows are never changed or removed, so as many rows are the same rows.
        """
        tables = ("operation", "outcome", "unanswered", "deviation")
        with self._server.connect() as connection:
            counted = connection.execute(
                "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in tables)
            ).fetchone()
        said = json.dumps([counted, str(self._today), self._incident_id, *given], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def found_before(self, looked_at: str) -> dict[str, Any] | None:
        """What was kept under that name."""
        with self._server.connect() as connection:
            row = connection.execute("SELECT result FROM reconciled WHERE looked_at = %s", (looked_at,)).fetchone()
        return row[0] if row else None

    def keep_found(self, looked_at: str, result: dict[str, Any]) -> None:
        """Keep a result in which nothing differs; one with differences is looked into anew each time."""
        with self._server.connect() as connection:
            connection.execute(
                "INSERT INTO reconciled (looked_at, result) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (looked_at, json.dumps(result)),
            )

    # -- laying side by side ------------------------------------------------------------------------------------

    def side_by_side(self, lines: pa.Table, plans: Iterable[PlannedLines]) -> Matched:
        """Match `lines` (`settlement_files.LINE_SCHEMA`) with the operations, and these with the approved `plans`.

        Args:
            plans: asked for when the lines are matched; until then the memory is theirs.
        """
        self._database.execute("CREATE TEMP MACRO payment_key_of(reference) AS hash(reference)")
        self._load("line", lines)
        for name, query, schema in (
            ("operation", _OPERATIONS.format(incident=sql.Literal(self._incident_id or "")), _OPERATION),
            ("succeeded", _SUCCEEDED_OPERATIONS, _SUCCEEDED),
            ("unknown", _UNKNOWN_OPERATIONS, _ID),
            ("settled", _SETTLED_OPERATIONS, _ID),
            ("deviation", _DEVIATIONS, _DEVIATION),
        ):
            self._load(name, self._fetch(query, schema))
        self._run("match.sql")
        self._begin_entering()
        self._database.execute(
            "DROP VIEW current_line; DROP TABLE line; DROP TABLE succeeded; DROP TABLE voided; DROP TABLE beside"
        )
        breaks = self._breaks(self._against_plan(list(plans)))
        matched = self._database.execute(
            "SELECT kind, count(*), sum(amount_minor)::BIGINT FROM matched GROUP BY kind ORDER BY kind"
        ).fetchall()
        returned = self._database.execute(
            "SELECT count(*), coalesce(sum(amount_minor), 0)::BIGINT FROM returned_elsewhere"
        ).fetchone()
        return Matched(
            lines=self._database.execute("SELECT count(*) FROM judged_line").fetchone()[0],
            matched={kind: {"count": count, "amount_minor": amount} for kind, count, amount in matched},
            returned_elsewhere={"count": returned[0], "amount_minor": returned[1]},
            unmatched=self._unmatched(),
            breaks=breaks,
        )

    def _against_plan(self, plans: list[PlannedLines]) -> str:
        """SQL of what contradicts the plan."""
        if self._incident_id is None or not plans:
            return ""
        tables = []
        for plan in plans:
            table = plan.lines.select(PLANNED_COLUMNS)
            for name, value in (
                ("number", pa.scalar(plan.number, pa.int64())),
                ("reversal_last", pa.scalar(plan.reversal_last, pa.date32())),
                ("rebill_last", pa.scalar(plan.rebill_last, pa.date32())),
            ):
                table = table.append_column(name, pa.repeat(value, table.num_rows))
            tables.append(table)
        self._load("planned", pa.concat_tables(tables))
        self._load("retried", self._fetch(_RETRIED_REBILLS.format(incident=sql.Literal(self._incident_id)), _RETRIED))
        self._run("planned.sql")
        return (
            " UNION ALL BY NAME SELECT *, $incident_id AS plan_scope FROM against_plan"
            " WHERE reference NOT IN (SELECT reference FROM broken)"
        )

    def _breaks(self, against_plan: str) -> pa.Table:
        self._database.execute(
            f"CREATE TEMP TABLE every_break AS SELECT *, NULL::VARCHAR AS plan_scope FROM broken{against_plan}",
            {"incident_id": self._incident_id} if against_plan else None,
        )
        ids = self._database.execute("SELECT DISTINCT operation_id FROM every_break WHERE operation_id IS NOT NULL")
        self._load("fact", self._facts(ids.to_arrow_table()))
        return (
            self._database.execute(
                "SELECT kind, reference, coalesce(plan_scope, scope) AS scope, amount_minor, since, detail"
                " FROM every_break LEFT JOIN fact USING (operation_id)"
                " QUALIFY row_number() OVER (PARTITION BY kind, reference ORDER BY since) = 1 ORDER BY kind, reference"
            )
            .to_arrow_table()
            .cast(BREAK_SCHEMA)
        )

    def _unmatched(self) -> pa.Table:
        ids = self._database.execute("SELECT operation_id FROM unmatched").to_arrow_table()
        self._load("fact", self._facts(ids))
        return (
            self._database.execute(
                "SELECT key_of(operation_id) AS operation_id, kind, amount_minor, payment_id, scope, payment_method, effective_on"
                " FROM unmatched JOIN fact USING (operation_id)"
            )
            .to_arrow_table()
            .cast(UNMATCHED_SCHEMA)
        )

    def _facts(self, ids: pa.Table) -> pa.Table:
        """Scope, payment method, business day and the acquirer's id of operations."""
        if not ids.num_rows:
            return _FACT.empty_table()
        condition = sql.SQL("true")
        if ids.num_rows <= ASKED_ONE_BY_ONE:
            condition = sql.SQL("o.operation_id = ANY({}::uuid[])").format(
                sql.Literal([str(value) for value in ids["operation_id"].to_pylist()])
            )
        return self._fetch(_FACTS.format(condition=condition), _FACT)

    # -- keeping the result -------------------------------------------------------------------------------------

    def record(self, files: Iterable[SettlementFile], breaks: pa.Table) -> dict[str, int]:
        """Append what is settled, the files it stands in, new breaks and resolutions of old ones: one transaction.

        Args:
            breaks: `BREAK_SCHEMA`, all that there are now; an open one that is not among them is resolved.

        Returns:
            `entered` (operations entered as settled), `new_breaks`, `resolved`.
        """
        entered = self._entering.result()
        for file in files:
            self._connection.execute(
                "INSERT INTO settlement_file (sha256, name, batch_number, row_count, debit_minor, credit_minor)"
                " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (file.sha256, file.name, file.batch_number, file.row_count, file.debit_minor, file.credit_minor),
            )
        self._enter_returned_elsewhere(self._connection)
        kept = self._keep_breaks(self._connection, breaks)
        self._connection.commit()
        return {"entered": entered, **kept}

    def _begin_entering(self) -> None:
        """Have the entries of what is settled appended while the rest is looked into; nothing is committed before `record`."""
        self._connection = self._books.enter_context(self._server.connect())
        self._entering = self._thread.submit(self._enter, self._connection, self._database.cursor())

    def _enter(self, connection: psycopg.Connection, database: duckdb.DuckDBPyConnection) -> int:
        """Append the entries of what is settled and was not entered before; returns their number."""
        fresh = "FROM matched WHERE NOT is_entered"
        entered = 0
        for (kind,) in database.execute(f"SELECT DISTINCT kind {fresh}").fetchall():
            posting = settlement_posting(kind)
            reader = database.execute(
                f"SELECT operation_id, '{posting.step}' AS step, '{posting.debit}' AS debit, '{posting.credit}' AS credit,"
                f" amount_minor, currency, settled_on AS effective_on {fresh} AND kind = '{kind}' ORDER BY operation_id"
            ).to_arrow_reader(100_000)
            entered += copy_in(connection, "further_entry", reader, reader.schema.names)
        return entered

    def _enter_returned_elsewhere(self, connection: psycopg.Connection) -> None:
        for (reference,) in self._database.execute("SELECT modification_reference FROM returned_elsewhere").fetchall():
            posting = returned_elsewhere_posting(reference)
            connection.execute(
                "INSERT INTO further_entry (operation_id, step, debit, credit, amount_minor, currency, effective_on)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                self._returned(reference, posting),
            )

    def _returned(self, reference: str, posting: Posting) -> tuple[Any, ...]:
        row = self._database.execute(
            "SELECT operation_id, amount_minor, currency, settled_on FROM returned_elsewhere WHERE modification_reference = ?",
            [reference],
        ).fetchone()
        return row[0], posting.step, posting.debit, posting.credit, *row[1:]

    def _keep_breaks(self, connection: psycopg.Connection, breaks: pa.Table) -> dict[str, int]:
        known = connection.execute(
            "SELECT break_id, kind, reference, scope FROM open_break WHERE NOT coalesce(scope, '') ~ '^inc-[^/]*$' OR scope = %s",
            (self._incident_id,),  # what contradicts another incident's plan was not looked at
        ).fetchall()
        # one whose charge has become known since is another break: it now keeps that charge's incident open
        named = list(zip(*(breaks[name].to_pylist() for name in ("kind", "reference", "scope")), strict=True))
        there, before = set(named), {tuple(rest) for _, *rest in known}
        fresh = pa.array([key not in before for key in named], pa.bool_())
        added = copy_in(connection, "settlement_break", breaks.filter(fresh).to_batches(), BREAK_SCHEMA.names)
        gone = [number for number, *rest in known if tuple(rest) not in there]
        connection.execute(
            "INSERT INTO settlement_break_resolution (break_id, detail) SELECT unnest(%s::bigint[]), %s",
            (gone, f"no longer so on {self._today}"),
        )
        return {"new_breaks": added, "resolved": len(gone)}

    # -- small things -------------------------------------------------------------------------------------------

    def _load(self, name: str, table: pa.Table) -> None:
        self._database.register("arriving", table)
        columns = _KEYED.get(name, "*")
        self._database.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {columns} FROM arriving")
        self._database.unregister("arriving")

    def _run(self, name: str) -> None:
        text = (resources.files("pipeline") / "sql" / name).read_text(encoding="utf-8")
        values = {"today": self._today, "incident_id": self._incident_id}
        for statement in duckdb.extract_statements(text):
            asked = {key: values[key] for key in values if f"${key}" in statement.query}
            self._database.execute(statement, asked)

    def _fetch(self, query: sql.Composable, schema: pa.Schema) -> pa.Table:
        return fetch(conninfo(self._server.pipeline_url), query, schema)


_OPERATIONS = sql.SQL(
    # 64 bits stand for the bill: narrow enough to bring millions, and two of them share one once in a million reconciliations
    "SELECT operation_id, kind, CASE WHEN kind IN ('charge', 'rebill')"
    " THEN hashtextextended(customer_id, hashtextextended(billing_period, bill_cycle)) END, attempt, amount_minor, currency,"
    " original_id, coalesce(incident_id = {incident}, false) FROM operation"
)
_RETRIED_REBILLS = sql.SQL(
    "SELECT operation_id, customer_id, billing_period, bill_cycle FROM operation"
    " WHERE incident_id = {incident} AND kind = 'rebill' AND attempt > 1"
)
_SUCCEEDED_OPERATIONS = sql.SQL("SELECT operation_id, payment_id FROM outcome WHERE status = 'succeeded'")
_UNKNOWN_OPERATIONS = sql.SQL("SELECT operation_id FROM unanswered EXCEPT SELECT operation_id FROM outcome")
_SETTLED_OPERATIONS = sql.SQL("SELECT operation_id FROM further_entry WHERE step = 'settled'")
_DEVIATIONS = sql.SQL("SELECT original_id, kind, amount_minor, detail = {} FROM deviation").format(sql.Literal(VOIDED))
_FACTS = sql.SQL(
    "SELECT o.operation_id, o.scope, o.payment_method, coalesce(c.effective_on, o.recorded_at::date), c.payment_id FROM operation o"
    " LEFT JOIN outcome c USING (operation_id) WHERE {condition}"
)
