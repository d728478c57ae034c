"""An in-memory DuckDB that shares nothing with another process.

Left alone, every in-memory database spills into one folder of the directory it was started in, under the same file names: two
commands at once would write into each other's. Here each has a folder of its own, gone with the connection.
"""

import shutil
import tempfile
import weakref
from typing import Any

import duckdb

THREADS = 2
MEMORY_LIMIT = "1500MB"
"""A stage shares its machine with the database, the acquirer and Airflow; beyond this it spills."""


def connect(**config: Any) -> duckdb.DuckDBPyConnection:
    """An empty database; `config` is DuckDB's, over the limits above."""
    spill = tempfile.mkdtemp(prefix="makegood-spill-")
    connection = duckdb.connect(
        config={"threads": THREADS, "memory_limit": MEMORY_LIMIT, "temp_directory": spill} | config
    )
    weakref.finalize(connection, shutil.rmtree, spill, ignore_errors=True)
    return connection
