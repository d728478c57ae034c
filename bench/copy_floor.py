"""The floor of everything that ends as rows in PostgreSQL: the very rows that were persisted, copied once more into fresh
tables of the same definition - made by the same migrations, so with the same keys, indexes, constraints and triggers - on the
same server with the same settings, one COPY a table, by the same login.
"""

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from pipeline.adapters.postgres import Server, conninfo, migrate, open_server, superuser_url
from pipeline.settings import Settings

DATABASE = "makegood_floor"

CHUNK_BYTES = 1 << 20

BY_MIGRATIONS = ("schema_migration", "sender")
"""Tables whose rows come with the schema."""

MONEY = ("operation", "batch", "batch_event", "wave_end", "outcome", "unanswered", "further_entry")
"""Tables that a charging fills, each after those it refers to."""

REMEDIATION = (
    *MONEY,
    "plan_exception",
    "deviation",
    "settlement_file",
    "settlement_break",
    "settlement_break_resolution",
)
"""Tables that a remediation fills row by row; what it writes once (incident, plan, approval) is given to the floor.
Notices come after it, as their own stage."""

ALL_ROWS = "TRUE"


def settings_in(home: Path) -> Settings:
    """The installation below `home`, with the embedded server whatever the environment says."""
    return replace(Settings.from_environment(), home=Path(home), database_url=None, login=None, password=None)


def of_installation(home: str, tables: list[str], since: str | None = None) -> dict[str, Any]:
    """`floor_of` for the embedded server below `home`."""
    settings = settings_in(Path(home))
    return floor_of(open_server(settings), superuser_url(settings), tables, since=since, dumps=Path(home) / "floor")


def floor_of(
    server: Server, superuser: str, tables: list[str], *, dumps: Path, since: str | None = None
) -> dict[str, Any]:
    """Copy the rows of `tables` once more and time only that.

    Args:
        superuser: URL of a login that may create a database; it prepares, and times nothing.
        since: a query for the instant from which rows count; the rows before it, and all other tables, are put there
            beforehand, untimed and unchecked. None counts all rows and gives none.
        dumps: folder for the rows on their way.

    Returns:
        `seconds` in all, and `tables`: name -> rows, seconds.
    """
    dumps.mkdir(parents=True, exist_ok=True)
    with _connected(superuser, server.url("makegood_pipeline")) as source:
        instant = source.execute(since).fetchone()[0] if since else None
        there = {table: _columns(source, table) for table in _tables(source)}
        given = _dump_given(source, there, tables, instant, dumps) if instant else {}
        counted = {
            table: _dump(source, table, there[table], dumps / table, _counts(there[table], instant))
            for table in tables
            if table in there
        }
    with closing(psycopg.connect(conninfo(superuser), autocommit=True)) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER makegood_owner").format(sql.Identifier(DATABASE)))
        try:
            floor_url = make_url(superuser).set(database=DATABASE).render_as_string(hide_password=False)
            _lay_out(floor_url, given, dumps)
            admin.execute("CHECKPOINT")
            return _timed_copies(floor_url, counted, dumps)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(DATABASE)))


def _timed_copies(url: str, counted: dict[str, tuple[list[str], int]], dumps: Path) -> dict[str, Any]:
    """As the owner: some tables are written by the database's own functions alone. Constraints and triggers hold for it as well."""
    spent = {}
    with psycopg.connect(conninfo(url), options="-c search_path=makegood") as connection:
        connection.execute("SET ROLE makegood_owner")
        connection.commit()
        for table, (columns, rows) in counted.items():
            if not rows:
                continue
            began = time.perf_counter()
            _copy(connection, table, columns, dumps / table)
            connection.commit()
            spent[table] = {"rows": rows, "seconds": time.perf_counter() - began}
    return {"seconds": sum(table["seconds"] for table in spent.values()), "tables": spent}


def _connected(superuser: str, pipeline: str) -> psycopg.Connection:
    """The pipeline's database as superuser: dumping needs every table."""
    url = make_url(superuser).set(database=make_url(pipeline).database)
    return psycopg.connect(conninfo(url.render_as_string(hide_password=False)), options="-c search_path=makegood")


def _lay_out(url: str, given: dict[str, tuple[list[str], int]], dumps: Path) -> None:
    """Fresh tables by the migrations, and in them what is given, its triggers silent: it was checked when it was first written."""
    with psycopg.connect(conninfo(url)) as connection:
        connection.execute("SET ROLE makegood_owner")
        migrate(connection)
    with psycopg.connect(
        conninfo(url), options="-c search_path=makegood -c session_replication_role=replica"
    ) as connection:
        for table, (columns, rows) in given.items():
            if rows:
                _copy(connection, table, columns, dumps / f"{table}.given")


def _dump_given(
    source: psycopg.Connection, there: dict[str, list[str]], tables: list[str], instant: Any, dumps: Path
) -> dict[str, tuple[list[str], int]]:
    given = {}
    for table, columns in there.items():
        if table in BY_MIGRATIONS:
            continue
        before = sql.SQL("NOT ({})").format(_counts(columns, instant)) if table in tables else sql.SQL(ALL_ROWS)
        given[table] = _dump(source, table, columns, dumps / f"{table}.given", before)
    return given


def _counts(columns: list[str], instant: Any) -> sql.Composable:
    """Which rows count; a table that does not say when a row was recorded belongs to what is measured as a whole."""
    if instant is None or "recorded_at" not in columns:
        return sql.SQL(ALL_ROWS)
    return sql.SQL("recorded_at >= {}").format(sql.Literal(instant))


def _dump(
    source: psycopg.Connection, table: str, columns: list[str], to: Path, condition: sql.Composable
) -> tuple[list[str], int]:
    """Write the rows of `table` that meet `condition` to `to`; returns its columns and the number of rows."""
    statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT").format(
        _names(columns), sql.Identifier(table), condition
    )
    with to.open("wb") as file, source.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for block in copy:
                file.write(block)
        return columns, cursor.rowcount


def _copy(connection: psycopg.Connection, table: str, columns: list[str], dump: Path) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), _names(columns))
    with dump.open("rb") as file, connection.cursor() as cursor, cursor.copy(statement) as copy:
        while block := file.read(CHUNK_BYTES):
            copy.write(block)


def _tables(source: psycopg.Connection) -> list[str]:
    """In the order in which they were made, hence each after those it refers to."""
    rows = source.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'makegood'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
        " ORDER BY oid"
    )
    return [row[0] for row in rows]


def _columns(source: psycopg.Connection, table: str) -> list[str]:
    rows = source.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
        " ORDER BY attnum",
        (table,),
    )
    return [row[0] for row in rows]


def _names(columns: list[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
