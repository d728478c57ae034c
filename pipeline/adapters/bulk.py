"""Arrow tables into and out of PostgreSQL by COPY: the only fast way, in one place.

An empty string and a NULL stay apart: Arrow's CSV quotes the one and leaves the other bare, as COPY expects.
"""

import io
from collections.abc import Iterable

import psycopg
import pyarrow as pa
import pyarrow.csv as pacsv
from psycopg import sql

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


def copy_out(connection: psycopg.Connection, query: sql.Composable, schema: pa.Schema) -> pa.Table:
    """The rows of `query` as `schema`; empty and NULL stay apart."""
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(query)
    sink = io.BytesIO()
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for block in copy:
            sink.write(block)
    if sink.tell() == 0:
        return schema.empty_table()
    sink.seek(0)
    convert = pacsv.ConvertOptions(
        column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    return pacsv.read_csv(
        sink, pacsv.ReadOptions(column_names=schema.names), pacsv.ParseOptions(newlines_in_values=True), convert
    )
