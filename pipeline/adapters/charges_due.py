"""Find what a landed run still owes the acquirer: `sql/charges_due.sql` run by DuckDB over its Parquet."""

from collections.abc import Set
from importlib import resources

import pyarrow as pa

from pipeline.adapters import duck
from pipeline.adapters.ledger import OPERATION_COLUMNS
from pipeline.core.wave import CANARY_SIZES, WAVE_SIZE
from pipeline.ports import Due, LandedRun


def find_due(run: LandedRun, charged: pa.Table, *, first_wave: int = 0, held_issuers: Set[str] = frozenset()) -> Due:
    """Class every row of `run` and key the due ones as operations in waves.

    Args:
        charged: what the period has been charged already (`ledger.CHARGED_SCHEMA`).
        first_wave: number of the first wave: one that the run does not have yet.
        held_issuers: issuers whose charges of the period an open incident is putting right.
    """
    with duck.connect() as connection:
        connection.read_parquet(str(run.path), hive_partitioning=False).create_view("landed")
        connection.register("charged", charged)
        connection.execute(_query("charges_due.sql"), {"held_issuers": sorted(held_issuers)})
        rows = connection.execute(
            "SELECT class, count(*), coalesce(sum(amount_minor), 0)::BIGINT, coalesce(sum(charged_minor), 0)::BIGINT"
            " FROM classed GROUP BY class ORDER BY class"
        ).fetchall()
        operations = connection.execute(
            _query("charges_due_waves.sql"),
            {"billing_period": run.billing_period, "run_id": run.run_id, "canary": CANARY_SIZES[0], "second": CANARY_SIZES[1],
             "wave_size": WAVE_SIZE, "first_wave": first_wave},
        ).to_arrow_table()  # fmt: skip
    classes = {
        name: {"rows": count, "amount_minor": amount} | ({"charged_minor": before} if before else {})
        for name, count, amount, before in rows
    }
    return Due(operations.select([*OPERATION_COLUMNS, "original_payment_id"]), classes)


def _query(name: str) -> str:
    return (resources.files("pipeline") / "sql" / name).read_text(encoding="utf-8")
