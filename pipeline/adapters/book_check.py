"""The ledger beside the acquirer's own book, operation by operation: what one of them says and the other does not.

Belongs here: laying the two side by side and counting. Does not: settlement (`reconciliation`), or the proof of an incident (`proof`).
"""

from importlib import resources
from pathlib import Path

import pyarrow as pa
from psycopg import sql

from pipeline.adapters import duck
from pipeline.adapters.bulk import fetch
from pipeline.adapters.postgres import Server, conninfo

_OPERATIONS = sql.SQL(
    "SELECT o.operation_id, o.kind, o.amount_minor, coalesce(c.status, CASE WHEN u.operation_id IS NULL THEN 'open' ELSE 'unknown' END)"
    " FROM operation o LEFT JOIN outcome c USING (operation_id) LEFT JOIN unanswered u USING (operation_id)"
    " WHERE o.scope NOT LIKE 'import-%'"
)
_OPERATION_SCHEMA = pa.schema(
    [("operation_id", pa.uuid()), ("kind", pa.string()), ("amount_minor", pa.int64()), ("status", pa.string())]
)


def differences(server: Server, book: Path) -> dict[str, int]:
    """Operations that ledger and book (a Parquet file that the acquirer exported) tell differently, counted by how; empty if none."""
    operations = fetch(conninfo(server.pipeline_url), _OPERATIONS, _OPERATION_SCHEMA)
    query = (resources.files("pipeline") / "sql" / "book_check.sql").read_text(encoding="utf-8")
    with duck.connect() as connection:
        connection.register("operation", operations)
        connection.read_parquet(str(book)).create_view("book")
        return dict(connection.execute(query).fetchall())
