"""Landing a month - strict reading, hashing, an immutable Parquet partition - from Parquet and from CSV: charges per second."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from bench.gate import MONTHS
from bench.measure import MIB, Part, Unequal, in_child, median, take_turns
from bench.months import PERIOD, make_case
from pipeline.ports import Progress

IMPORTS = ("pipeline.extract", "pipeline.adapters.lake", "pipeline.adapters.sources")


def land(source: str, lake: str) -> dict[str, Any]:
    """Land the month in `source` in an empty lake."""
    from pipeline.adapters.lake import ParquetLake
    from pipeline.adapters.sources import open_source
    from pipeline.extract import extract

    run = extract(open_source(source), PERIOD, lake=ParquetLake(Path(lake))).run
    return {"run_id": run.run_id, "rows": run.row_count, "total_minor": run.control_total_minor}


def run(home: Path, customers: int, rounds: int, progress: Progress) -> Part:
    """Land the same month from Parquet and from CSV, taking turns.

    Raises:
        Unequal: the two are not the same run.
    """
    part = Part("landing", f"Landing: a month of {customers:,} bills")
    parquet = make_case(home, customers, MONTHS, progress).source
    sources = {"Parquet": parquet, "CSV": _as_csv(parquet, home / f"source-{customers}-csv")}

    def trial(source: Path):
        lake = home / "landing-lake"
        shutil.rmtree(lake, ignore_errors=True)
        return in_child("bench.landing:land", imports=IMPORTS, source=source, lake=lake)

    trials = take_turns(
        {name: lambda s=source: trial(s) for name, source in sources.items()}, rounds, progress, "landing"
    )
    shutil.rmtree(home / "landing-lake", ignore_errors=True)
    one, other = (done[0].answer for done in trials.values())
    if {name: one[name] for name in ("rows", "total_minor")} != {name: other[name] for name in ("rows", "total_minor")}:
        raise Unequal(f"Parquet landed as {one}, CSV as {other}")
    for name, done in trials.items():
        part.rows.append({
            "from": name, "MB": _megabytes(sources[name]), "seconds": median(done), "charges per s": round(one["rows"] / median(done)),
            "peak MB": round(median(done, "peak_bytes") / MIB),
        })  # fmt: skip
    return part


def _as_csv(parquet: Path, out: Path) -> Path:
    """The judged month as CSV files, without a manifest."""
    folder = out / f"billing_period={PERIOD}"
    if not folder.exists():
        partial = out / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for file in sorted((parquet / folder.name).glob("*.parquet")):
            pacsv.write_csv(pq.ParquetFile(file).read(), partial / f"{file.stem}.csv")
        partial.rename(folder)
    return out


def _megabytes(source: Path) -> float:
    return sum(file.stat().st_size for file in (source / f"billing_period={PERIOD}").iterdir()) / 1e6
