"""Small charge files for tests: valid charges, written in any of the formats, with or without a manifest."""

import csv
import datetime as dt
import gzip
import hashlib
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.sources import FolderSource
from pipeline.core.billing_period import BillingPeriod
from pipeline.extract import Extracted, extract
from pipeline.schema import CHARGE_SCHEMA

PERIOD = BillingPeriod(2023, 9)

CHARGE = {
    "charge_id": "C-1",
    "customer_id": "0012345",
    "billing_period": "2023-09",
    "bill_cycle": 1,
    "amount_minor": 52300,
    "currency": "KRW",
    "payment_method": "credit_card",
    "issuer": "신한카드",
    "instrument_token": "tok_secret_1",
    "plan_code": "5G-뷁",
    "base_fee_minor": 45000,
    "usage_fee_minor": 3545,
    "discount_minor": 1000,
    "tax_minor": 4755,
    "service_start": dt.date(2023, 9, 1),
    "service_end": dt.date(2023, 9, 30),
}


def charges(count: int = 3, **changed: object) -> pa.Table:
    """`count` valid charges; `changed` columns have that value in every row."""
    rows = [
        CHARGE | {"charge_id": f"C-{n}", "customer_id": f"{n:07d}", "amount_minor": 100 * n} | changed
        for n in range(1, count + 1)
    ]
    return pa.Table.from_pylist(rows, schema=CHARGE_SCHEMA)


def csv_text(table: pa.Table) -> str:
    """`table` as CSV, NULL as the empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.schema.names)
    writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return text.getvalue()


def period_folder(source: Path) -> Path:
    """The folder of `PERIOD`, made if need be."""
    folder = source / f"billing_period={PERIOD}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(source: Path, name: str, content: pa.Table | str | bytes, encoding: str = "utf-8") -> Path:
    """Put a file into the period: a table in the format that `name` says, text encoded, or bytes as they are."""
    path = period_folder(source) / name
    if isinstance(content, pa.Table) and name.endswith(".parquet"):
        pq.write_table(content, path)
        return path
    text = csv_text(content) if isinstance(content, pa.Table) else content
    raw = text.encode(encoding) if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") and not isinstance(content, bytes) else raw)
    return path


def promise(path: Path, rows: int, total: int, **changed: object) -> dict:
    """A truthful manifest entry for a file, but for what is `changed`."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": path.name, "sha256": sha256, "row_count": rows, "control_total_minor": total} | changed


def write_manifest(source: Path, *entries: dict) -> None:
    """Put a manifest of `entries` into the period."""
    (period_folder(source) / "manifest.json").write_text(json.dumps({"files": entries}), encoding="utf-8")


def land(source: Path, lake: Path, **options: bool) -> Extracted:
    """Extract `PERIOD` from the folder into the lake."""
    return extract(FolderSource(source), PERIOD, lake=ParquetLake(lake), **options)


def landed(extracted: Extracted) -> pa.Table:
    """The rows that landed, provenance included."""
    with pq.ParquetFile(extracted.run.path) as file:  # not read_table, which adds the folders' names as columns
        return file.read()


def left_in(lake: Path) -> list[str]:
    """Everything in the lake, whether a partition, a note or the remains of a landing."""
    return sorted(path.relative_to(lake).as_posix() for path in lake.rglob("*"))
