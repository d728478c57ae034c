"""A source's folder for one period: charge files, one per issuer, and the manifest that lists them.

Belongs here: writing that layout, whole or not at all. Does not: reading it (that is extraction's work) or
what the charges are.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import UsageError

REPEATING_COLUMNS = [
    "billing_period",
    "currency",
    "payment_method",
    "issuer",
    "plan_code",
    "service_start",
    "service_end",
]
"""Columns of few distinct values: the only ones that a Parquet dictionary makes smaller."""


@dataclass(frozen=True, slots=True)
class WrittenPeriod:
    """What was written for one period.

    Attributes:
        billing_period: the month.
        path: its folder.
        row_count, control_total_minor: over all its files; minor units.
    """

    billing_period: BillingPeriod
    path: Path
    row_count: int
    control_total_minor: int


def charge_file_name(issuer: str) -> str:
    """The name of the file that holds an issuer's charges of a period."""
    return f"charges-{issuer.lower()}.parquet"


def period_folder(source: Path, period: BillingPeriod) -> Path:
    """Where a source keeps a period's charge files."""
    return source / f"billing_period={period}"


class PeriodWriter:
    """Writes one period's charge files; they appear, with their manifest, when the `with` block ends well.

    The same tables in the same order give the same bytes. An exception inside the block leaves nothing behind.
    """

    def __init__(self, source: Path, period: BillingPeriod, *, overwrite: bool = False) -> None:
        """Args:
            source: the folder that holds a folder per period; made if need be.
            period: the month to write.
            overwrite: whether a folder of that month may be replaced.

        Raises:
            UsageError: the month is there and may not be replaced.
        """
        self.path = period_folder(source, period)
        self._period = period
        if self.path.exists() and not overwrite:
            raise UsageError(f"{self.path} exists: choose another folder, or say that it may be overwritten")
        self._staging = self.path.with_name(f".{self.path.name}.partial")
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._row_count: dict[str, int] = {}
        self._control_total_minor: dict[str, int] = {}

    def __enter__(self) -> Self:
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)
        return self

    def append(self, name: str, charges: pa.Table) -> None:
        """Add `charges` to the file `name`; the first call for a name decides the file's schema."""
        if name not in self._writers:
            self._writers[name] = pq.ParquetWriter(
                self._staging / name,
                charges.schema,
                compression="zstd",
                compression_level=3,
                use_dictionary=[column for column in REPEATING_COLUMNS if column in charges.column_names],
            )
            self._row_count[name] = self._control_total_minor[name] = 0
        self._writers[name].write_table(charges)
        self._row_count[name] += charges.num_rows
        self._control_total_minor[name] += pc.sum(charges["amount_minor"]).as_py() or 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()
        if kind is None:
            self._write_manifest()
            shutil.rmtree(self.path, ignore_errors=True)
            self._staging.rename(self.path)
        else:
            shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def written(self) -> WrittenPeriod:
        """Count and total of all that was appended."""
        return WrittenPeriod(
            self._period, self.path, sum(self._row_count.values()), sum(self._control_total_minor.values())
        )

    def _write_manifest(self) -> None:
        files = []
        for name in sorted(self._writers):
            with (self._staging / name).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            files.append(
                {
                    "name": name,
                    "sha256": sha256,
                    "row_count": self._row_count[name],
                    "control_total_minor": self._control_total_minor[name],
                }
            )
        text = json.dumps({"files": files}, indent=2) + "\n"
        (self._staging / "manifest.json").write_text(text, encoding="utf-8")
