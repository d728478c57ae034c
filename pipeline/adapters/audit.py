"""The audit log in PostgreSQL: who did what, sealed in a chain, and what the books say to hold against an anchored head.

Belongs here: appending an act, sealing, finding where the chain breaks, digests of the books' rows. Does not: the file outside the
database that heads are kept in (`heads`), or what follows from a difference (`pipeline.audit`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import psycopg
from psycopg import sql

from pipeline.adapters.bulk import expect_millions
from pipeline.adapters.postgres import Server
from pipeline.core.heads import TableDigest
from pipeline.errors import FatalError

ANCHORED = "head"
"""The act by which the log names a head that was anchored: a head file that lacks one of them was cut."""

BEGINNING = "-infinity"
"""Where the books begin, as PostgreSQL writes it."""

_SAME_EVERYWHERE = {"timezone": "UTC", "datestyle": "ISO, YMD", "extra_float_digits": "1", "bytea_output": "hex"}
"""Settings under which a row has one text, whoever asks."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the log says of a head that was anchored: its number and the digest of its line."""

    number: int
    digest: str


def append_audit(connection: psycopg.Connection, action: str, subject: str, detail: dict[str, Any]) -> None:
    """Append to the audit log as whoever `connection` is, in its transaction; waits for nobody."""
    connection.execute("SELECT makegood.record_act(%s, %s, %s)", (action, subject, json.dumps(detail, default=str)))


class AuditLog:
    """Reads the log, and seals what has been committed to it."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def append(self, action: str, subject: str, detail: dict[str, Any]) -> None:
        """Append an act of the service login."""
        with self._server.connect() as connection:
            append_audit(connection, action, subject, detail)

    def seal(self) -> None:
        """Seal every committed act that is not sealed yet."""
        with self._server.connect() as connection:
            connection.execute("SELECT makegood.seal_acts()")

    def require_whole(self) -> None:
        """Check the chain of seals, the newest acts included.

        Raises:
            FatalError: a row was removed or altered; names the first that does not follow.
        """
        self.seal()
        with self._server.connect() as connection:
            row = connection.execute("SELECT audit_id FROM audit_break").fetchone()
        if row:
            raise FatalError(f"the audit log is broken at row {row[0]}: it, or a row before it, was removed or altered")

    # -- what a head vouches for --------------------------------------------------------------------------------

    def now(self) -> str:
        """The database's clock (ISO 8601, UTC)."""
        with self._server.connect() as connection:
            return connection.execute("SELECT clock_timestamp()").fetchone()[0].astimezone(UTC).isoformat()

    def newest_seal(self) -> tuple[int, str]:
        """How many acts are sealed, and the seal of the last."""
        with self._server.connect() as connection:
            row = connection.execute("SELECT seal_number, seal FROM audit_seal ORDER BY 1 DESC LIMIT 1").fetchone()
        return row or (0, "")

    def seal_of(self, act: int) -> str | None:
        """The seal of the act at that place of the chain; None if there is none."""
        with self._server.connect() as connection:
            row = connection.execute("SELECT seal FROM audit_seal WHERE seal_number = %s", (act,)).fetchone()
        return row[0] if row else None

    def first_break(self) -> str | None:
        """Where the chain of seals breaks, in words; None while it is whole."""
        with self._server.connect() as connection:
            row = connection.execute("SELECT seal_number, audit_id FROM audit_break").fetchone()
        return (
            f"act {row[0]} (row {row[1]}) or one before it was altered or removed: its seal does not follow"
            if row
            else None
        )

    def anchors(self) -> list[Anchor]:
        """The heads that were anchored, as the log has them; a person's row of that name says nothing."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT (detail ->> 'head')::bigint, detail ->> 'sha256' FROM audit WHERE action = %s AND person = 'makegood_pipeline'"
                " ORDER BY audit_id",
                (ANCHORED,),
            ).fetchall()
        return [Anchor(*row) for row in rows]

    def settled_before(self) -> str:
        """The moment (ISO 8601, UTC) before which no row of the books can be added any more: no open transaction began earlier."""
        with self._server.connect() as connection:
            return connection.execute("SELECT makegood.settled_before()").fetchone()[0].astimezone(UTC).isoformat()

    def tables(self) -> dict[str, tuple[str, ...]]:
        """The books, with their columns: every table whose rows carry the time at which they were appended, and no reader may write to."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
                " WHERE c.relnamespace = 'makegood'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped"
                " AND c.relname <> 'audit' AND NOT has_any_column_privilege('makegood_analyst', c.oid, 'INSERT')"
                " AND has_table_privilege(c.oid, 'SELECT')"
                " GROUP BY c.relname HAVING bool_or(a.attname = ANY(%s)) ORDER BY c.relname",
                (list(_TIMES),),
            ).fetchall()
        return {table: tuple(columns) for table, columns in rows}

    def digest(self, table: str, columns: Sequence[str], since: str, until: str) -> TableDigest | None:
        """The digest of a table's rows that were recorded from `since` on and before `until`; None where it lacks a column."""
        time = next((name for name in _TIMES if name in columns), "")
        amount = sql.Identifier("amount_minor") if "amount_minor" in columns else sql.SQL("NULL::bigint")
        query = _DIGEST.format(
            amount=amount, columns=sql.SQL(", ").join(map(sql.Identifier, columns)), table=sql.Identifier(table),
            time=sql.Identifier(time), since=sql.Literal(since), until=sql.Literal(until),
        )  # fmt: skip
        with self._server.connect() as connection:
            expect_millions(connection)
            for name, value in _SAME_EVERYWHERE.items():
                connection.execute("SELECT set_config(%s, %s, true)", (name, value))
            try:
                with connection.transaction():
                    rows, total, digest = connection.execute(query).fetchone()
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
                return None
        return TableDigest(table, tuple(columns), rows, None if total is None else int(total), digest)


_TIMES = ("recorded_at", "opened_at", "verified_at")
"""Columns that say when a row was recorded; a table has one of them."""

_DIGEST = sql.SQL(
    "SELECT coalesce(sum(rows), 0)::bigint, sum(amount)::text,"
    "  encode(sha256(coalesce(string_agg(digest, ''::bytea ORDER BY day), ''::bytea)), 'hex')"
    " FROM (SELECT day, count(*) AS rows, sum(amount) AS amount, sha256(string_agg(digest, ''::bytea ORDER BY digest)) AS digest"
    "  FROM (SELECT ({time} AT TIME ZONE 'UTC')::date AS day, {amount} AS amount,"
    "    sha256(convert_to(ROW({columns})::text, 'UTF8')) AS digest"
    "   FROM {table} WHERE {time} >= {since}::timestamptz AND {time} < {until}::timestamptz) recorded GROUP BY day) days"
)
"""Rows, amount and digest of what was recorded in a time: day by day, since the digests of all rows of years fit into no value."""
