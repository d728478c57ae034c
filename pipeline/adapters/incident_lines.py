"""An incident's charges line by line: `sql/assess.sql` and `sql/plan.sql` run by DuckDB.

Belongs here: handing tables to the SQL and small tables back, and cutting lines into waves. Does not: what a line means
(`sql/`), what a policy allows (`plan`), or where the tables come from (`incident_books`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.adapters import duck
from pipeline.adapters.card_numbers import define_card_number
from pipeline.core.wave import CANARY_SIZES, WAVE_SIZE
from pipeline.schema import PLAN_SCHEMA

SQL = Path(__file__).resolve().parent.parent / "sql"


LIVE_SCHEMA = pa.schema(
    [("payment_id", pa.string()), ("state", pa.string()), ("charged_minor", pa.int64()), ("refunded_minor", pa.int64()),
     ("refundable_minor", pa.int64())]
)  # fmt: skip
"""What planning needs of the acquirer's word on a payment."""

CLOCK_SCHEMA = pa.schema(
    [
        ("payment_method", pa.string()),
        ("issuer", pa.string()),
        ("void_back_by", pa.date32()),
        ("refund_back_by", pa.date32()),
    ]
)


class IncidentLines:
    """The lines of one incident, laid side by side once; made by `lay_out`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, billing_period: str) -> None:
        self._connection = connection
        self._billing_period = billing_period

    def totals(self) -> list[dict[str, Any]]:
        """Lines, customers and amounts by class, issuer and payment method; no customer among them."""
        return self._connection.execute(_sql("assess_totals.sql")).to_arrow_table().to_pylist()

    def examples(self, classes: tuple[str, ...], limit: int) -> list[dict[str, Any]]:
        """Up to `limit` lines of each class by customer id, for people to look at."""
        return (
            self._connection.execute(
                "SELECT class, customer_id, bill_cycle, occurrence, wrong_minor, right_minor FROM line WHERE list_contains($classes, class)"
                " QUALIFY row_number() OVER (PARTITION BY class ORDER BY customer_id, bill_cycle, occurrence) <= $limit"
                " ORDER BY class, customer_id, bill_cycle, occurrence",
                {"classes": list(classes), "limit": limit},
            )
            .to_arrow_table()
            .to_pylist()
        )

    def instruments(self) -> list[tuple[str, str]]:
        """Payment methods and issuers that were charged."""
        rows = self._connection.execute(
            "SELECT DISTINCT payment_method, issuer FROM line WHERE operation_id IS NOT NULL ORDER BY ALL"
        )
        return rows.fetchall()

    def plan(
        self, *, live: pa.Table, undone: pa.Table, rebilled: pa.Table,
        clock: Callable[[str, str], tuple[date | None, date | None]], leave_equal: bool, charge_missing: bool, is_successor: bool,
    ) -> pa.Table:  # fmt: skip
        """Decide every line: `PLAN_SCHEMA`, in the order of customer, cycle and occurrence, cut into waves.

        Args:
            live: the acquirer's word on each approved charge (`LIVE_SCHEMA`).
            undone, rebilled: what this incident has done already; see `sql/plan.sql`.
            clock: payment method and issuer to the days on which a void's and a refund's money is back.
        """
        connection = self._connection
        dates = [(method, issuer, *clock(method, issuer)) for method, issuer in self.instruments()]
        clocks = pa.Table.from_pylist([dict(zip(CLOCK_SCHEMA.names, row, strict=True)) for row in dates], CLOCK_SCHEMA)
        given = {"live": live.select(LIVE_SCHEMA.names), "undone": undone, "rebilled": rebilled, "clock": clocks}
        for name, table in given.items():
            connection.register(name, table)
        parameters = {"leave_equal": leave_equal, "charge_missing": charge_missing, "is_successor": is_successor,
                      "billing_period": self._billing_period}  # fmt: skip
        lines = _run(connection, "plan.sql", parameters).to_arrow_table()
        for name in given:
            connection.unregister(name)
        lines = lines.append_column("wave", waves_of(lines))
        return lines.select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA)


@contextmanager
def lay_out(
    *, billing_period: str, wrong: pa.Table, elsewhere: pa.Table, corrected: Path, issuers: tuple[str, ...] | None
) -> Iterator[IncidentLines]:
    """Put the wrong charges beside the right bills; the lines live as long as the block.

    Args:
        wrong: the incident's charges; see `sql/assess.sql`.
        elsewhere: customer_id, bill_cycle and first occurrence of what else the period was charged.
        corrected: the corrected run's Parquet file.
    """
    with duck.connect(preserve_insertion_order=False) as connection:
        define_card_number(connection)
        connection.read_parquet(str(corrected), hive_partitioning=False).create_view("landed")
        connection.register("wrong", wrong)
        connection.register("elsewhere", elsewhere)
        _run(connection, "assess.sql", {"issuers": list(issuers) if issuers is not None else None})
        connection.unregister("wrong")
        connection.unregister("elsewhere")
        del wrong, elsewhere  # a quarter of a gigabyte that planning has better use for
        yield IncidentLines(connection, billing_period)


def waves_of(lines: pa.Table) -> pa.Array:
    """The wave of each line, lines of one customer in the same; only lines that move money count towards a wave's size.

    Args:
        lines: sorted by customer.
    """
    if not lines.num_rows:
        return pa.array([], pa.int32())
    customer = lines["customer_id"].combine_chunks()
    moves = pc.or_(pc.is_in(lines["reversal"], pa.array(["void", "refund"])), pc.equal(lines["rebill"], "rebill"))
    moving = moves.combine_chunks().to_numpy(zero_copy_only=False)
    before = np.cumsum(moving) - moving  # lines that move money ahead of this one
    is_first = np.ones(lines.num_rows, dtype=bool)
    is_first[1:] = pc.not_equal(customer[1:], customer[:-1]).to_numpy(zero_copy_only=False)
    ahead_of_customer = before[is_first][np.cumsum(is_first) - 1]
    canary, second = CANARY_SIZES
    later = 2 + (ahead_of_customer - canary - second) // WAVE_SIZE
    waves = np.where(ahead_of_customer < canary, 0, np.where(ahead_of_customer < canary + second, 1, later))
    return pa.array(waves.astype(np.int32))


def _run(connection: duckdb.DuckDBPyConnection, name: str, parameters: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """Run a file's statements, each with the parameters that it names; returns the connection with the last one's rows."""
    for statement in duckdb.extract_statements(_sql(name)):
        wanted = {key: parameters[key] for key in statement.named_parameters if key in parameters}
        connection.execute(statement, wanted)
    return connection


def _sql(name: str) -> str:
    return (SQL / name).read_text(encoding="utf-8")
