"""The gate with a whole year of history, beside a bare query that joins those thirteen months and adds up their amounts."""

import shutil
from pathlib import Path
from typing import Any

from bench.gate import OURS_IMPORTS
from bench.measure import MIB, Part, in_child, median, ratio, take_turns
from bench.months import Case, make_case
from pipeline.ports import Progress

MONTHS = 13

FLOOR_SQL = Path(__file__).with_name("year.sql")


def floor(source: str, lake: str, run: str, history: list[str], out: str) -> dict[str, Any]:
    """The join alone."""
    import duckdb

    from pipeline.adapters.lake import ParquetLake

    stored = ParquetLake(Path(lake))
    with duckdb.connect(
        config={"threads": 2, "memory_limit": "1500MB", "preserve_insertion_order": False}
    ) as connection:
        for back, run_id in enumerate((run, *history)):
            rows = f"read_parquet('{stored.find(run_id).path}', hive_partitioning = FALSE)"
            connection.execute(f"CREATE TEMP VIEW month_{back} AS SELECT * FROM {rows}")
        return {"sums": [int(value) for value in connection.execute(FLOOR_SQL.read_text(encoding="utf-8")).fetchone()]}


def run(home: Path, customers: int, rounds: int, progress: Progress) -> Part:
    """Time both on a right month, taking turns."""
    part = Part("year", f"Gate: {customers:,} charges against twelve earlier months")
    case = make_case(home, customers, MONTHS, progress)
    contenders = {
        "ours": lambda: _trial("bench.gate:ours", case, home, OURS_IMPORTS),
        "floor": lambda: _trial("bench.year:floor", case, home, ("duckdb",)),
    }
    trials = take_turns(contenders, rounds, progress, "year")
    shutil.rmtree(home / "year-out", ignore_errors=True)
    names = {"ours": "our gate", "floor": "the bare join (bench/year.sql)"}
    for key, done in trials.items():
        part.rows.append({
            "": names[key], "seconds": median(done), "processor s": median(done, "cpu_seconds"),
            "imports s": median(done, "import_seconds"), "peak MB": round(median(done, "peak_bytes") / MIB),
            "ours / it": ratio(trials["ours"], done), "by processor": ratio(trials["ours"], done, "cpu_seconds"),
        })  # fmt: skip
    part.goal("times the bare join, at most 3", ratio(trials["ours"], trials["floor"]), most=3)
    stages = trials["ours"][0].answer["seconds"]
    part.notes = [
        "our stages, first round: "
        + ", ".join(f"{name} {spent:.2f}" for name, spent in stages.items() if name != "imports"),
        f"verdict: {trials['ours'][0].answer['decision']}",
    ]
    return part


def _trial(name: str, case: Case, home: Path, imports: tuple[str, ...]):
    out = home / "year-out"
    shutil.rmtree(out, ignore_errors=True)
    return in_child(
        name, imports=imports, source=case.source, lake=case.lake, run=case.run, history=list(case.history), out=out
    )  # fmt: skip
