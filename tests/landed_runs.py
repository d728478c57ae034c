"""Landed runs for tests of the gate: made-up months that are clean, so that one planted defect is the only one."""

import calendar
import datetime as dt
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters.engine import DuckDBEngine
from pipeline.core.tax import tax_minor
from pipeline.core.verdict import Verification
from pipeline.judge import load_suites
from pipeline.ports import HistoryPeriod, LandedRun, SourceFile
from pipeline.schema import LANDED_SCHEMA
from pipeline.settings import PROJECT_ROOT
from pipeline.verify import verify

Rows = list[dict[str, Any]]

SUITES = PROJECT_ROOT / "expectations" / "suites"
AS_OF = dt.datetime(2023, 9, 12, 2, tzinfo=dt.UTC)
ISSUERS = ("HANBIT", "MIREU", "SORA")


def month(period: str, customers: int = 1500) -> Rows:
    """A clean month: every customer billed, amounts new each month, components that add up."""
    year, number = map(int, period.split("-"))
    draw = random.Random(period)
    rows = []
    for customer in range(1, customers + 1):
        base, usage, discount = 30000 + 5000 * (customer % 4), draw.randrange(40000), 1000 * (customer % 3)
        tax = tax_minor(base + usage - discount)
        rows.append(
            {
                "charge_id": f"{period}-C{customer:06d}",
                "customer_id": f"C{customer:06d}",
                "billing_period": period,
                "bill_cycle": 1,
                "amount_minor": base + usage - discount + tax,
                "currency": "KRW",
                "payment_method": "check_card" if customer % 10 == 0 else "credit_card",
                "issuer": ISSUERS[customer % 3],
                "instrument_token": f"tok_secret_{customer}",
                "plan_code": f"PLAN-{customer % 4}",
                "base_fee_minor": base,
                "usage_fee_minor": usage,
                "discount_minor": discount,
                "tax_minor": tax,
                "service_start": dt.date(year, number, 1),
                "service_end": dt.date(year, number, calendar.monthrange(year, number)[1]),
                "source_file": "charges.parquet",
                "source_row": customer,
            }
        )
    return rows


def land(folder: Path, period: str, rows: Rows, **manifest: int) -> LandedRun:
    """`rows` as a landed run; `manifest` overrides what the manifest promised (`row_count`, `control_total_minor`)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{period}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=LANDED_SCHEMA), path)
    files = []
    for name in sorted({row["source_file"] for row in rows}):
        amounts = [row["amount_minor"] or 0 for row in rows if row["source_file"] == name]
        promised = {"row_count": len(amounts), "control_total_minor": sum(amounts)} | manifest
        files.append(
            SourceFile(
                name, "0" * 64, len(amounts), sum(amounts), promised["row_count"], promised["control_total_minor"]
            )
        )
    total = sum(file.control_total_minor for file in files)
    return LandedRun(f"{period}-0123456789ab", period, "source", path, "0" * 64, len(rows), total, tuple(files), AS_OF)


def as_history(runs: Sequence[LandedRun], standing: str = "released") -> list[HistoryPeriod]:
    return [HistoryPeriod(run.billing_period, run.run_id, run.path, standing) for run in runs]


def verified(run: LandedRun, history: Sequence[HistoryPeriod], report_dir: Path) -> Verification:
    return verify(run, history, engine=DuckDBEngine(), suites=load_suites(SUITES), report_dir=report_dir, as_of=AS_OF)
