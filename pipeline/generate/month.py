"""A period's charge files in memory: all rows in one table, and which file each is in.

Belongs here: reading a period's Parquet files so, writing them again, and keys of bills. Does not: what is wrong with them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import UsageError
from pipeline.generate.charge_files import PeriodWriter, period_folder

ACCOUNT_KEY = ("customer_id", "bill_cycle")
"""Whose bill it is, within a period."""


@dataclass(frozen=True, slots=True)
class Month:
    """Some months' rows are right, some are not; this is only where they are.

    Attributes:
        billing_period: whose folder they lie in; their labels may say another.
        charges: the rows, all files' one after the other.
        file: for each row, the index of its file's name.
        names: the files.
    """

    billing_period: BillingPeriod
    charges: pa.Table
    file: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def read(cls, source: Path, period: BillingPeriod) -> "Month":
        """The period's files in name order.

        Raises:
            UsageError: there are none.
        """
        paths = charge_files(source, period)
        tables = [pq.ParquetFile(path).read() for path in paths]
        file = np.repeat(np.arange(len(paths)), [table.num_rows for table in tables])
        charges = pa.concat_tables(tables, promote_options="default").combine_chunks()
        return cls(period, charges, file, tuple(path.name for path in paths))

    def with_column(self, name: str, values: pa.Array) -> "Month":
        """The same rows with other values in a column."""
        return replace(self, charges=with_column(self.charges, name, values))

    def write(self, writer: PeriodWriter) -> None:
        """Write each file that has rows; rows keep their order, and rows added to a file come last in it."""
        order = np.argsort(self.file, kind="stable")
        in_order = bool((np.diff(self.file) >= 0).all())
        charges = self.charges if in_order else self.charges.take(pa.array(order))
        ends = np.searchsorted(self.file[order], np.arange(len(self.names)), side="right")
        start = 0
        for name, end in zip(self.names, ends.tolist(), strict=True):
            if end > start:
                writer.append(name, charges.slice(start, end - start))
            start = end


def with_column(charges: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """`charges` with other values in a column that it has, of the same type."""
    index = charges.column_names.index(name)
    field = charges.field(name)
    return charges.set_column(index, field, values.cast(field.type))


def charge_files(source: Path, period: BillingPeriod) -> list[Path]:
    """The period's Parquet files in name order.

    Raises:
        UsageError: there are none.
    """
    folder = period_folder(source, period)
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UsageError(f"{folder} has no Parquet charge files: choose a period that the source has")
    return files


def account_keys(charges: pa.Table) -> pa.ChunkedArray:
    """One text per row that says whose bill it is."""
    parts = [pc.cast(charges[name], pa.string()) for name in ACCOUNT_KEY if name in charges.column_names]
    return pc.binary_join_element_wise(*parts, "/")
