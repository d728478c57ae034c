"""Arrow tables into and out of PostgreSQL, in one place: COPY in, and ADBC out, which makes no Python object per row.

An empty string and a NULL stay apart: Arrow's CSV quotes the one and leaves the other bare, as COPY expects.
"""

import io
from collections.abc import Iterable

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pyarrow as pa
import pyarrow.csv as pacsv
from psycopg import sql
from psycopg.conninfo import make_conninfo

AT_ONCE = {"enable_nestloop": "off", "work_mem": "256MB"}
"""Settings for queries over a million rows. Tables that grew a moment ago have no statistics yet: taken for a few rows, they would be
looked up one by one, and a view of all waves made up anew for each. And a million outcomes to join fit into memory, one query at a time."""

_CSV = pacsv.WriteOptions(include_header=False, quoting_style="needed")


def copy_in(connection: psycopg.Connection, table: str, batches: Iterable[pa.RecordBatch], columns: list[str]) -> int:
    """Append `batches` to `columns` of `table`; returns the number of rows. Runs in the caller's transaction."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    rows = 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for batch in batches:
            sink = io.BytesIO()
            pacsv.write_csv(batch.select(columns), sink, _CSV)
            copy.write(sink.getbuffer())
            rows += batch.num_rows
    return rows


def expect_millions(connection: psycopg.Connection) -> None:
    """Have the queries of this transaction planned as `fetch` has its own."""
    for name, value in AT_ONCE.items():
        connection.execute("SELECT set_config(%s, %s, true)", (name, value))


def fetch(conninfo: str, query: sql.Composable, schema: pa.Schema) -> pa.Table:
    """The committed rows of `query` as `schema`, its columns in that order.

    Args:
        conninfo: as libpq reads it; the query runs in a connection of its own.
    """
    options = " ".join(f"-c {name}={value}" for name, value in ({"search_path": "makegood"} | AT_ONCE).items())
    with adbc.connect(make_conninfo(conninfo, options=options)) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string(None))
        table = cursor.fetch_arrow_table()
    return table.rename_columns(schema.names).cast(schema)
