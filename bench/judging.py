"""Judging - profile in, verdict and Data Docs out - at three sizes of the same month: its time must not depend on the rows."""

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from bench.gate import MONTHS, OURS_IMPORTS
from bench.measure import MIB, Part, in_child, median, take_turns
from bench.months import Case, make_case
from pipeline.ports import Progress

SMALLEST = 30_000
LARGER = 10
"""The largest month has so many times the customers asked for."""

REPEATS = 5
"""Judgements per process; the first also pays what Great Expectations loads late, the median of the rest counts."""


def measure_and_judge(source: str, lake: str, run: str, history: list[str], out: str) -> dict[str, float]:
    """Seconds of measuring a run against last month, and of judging its profile."""
    from bench.measure import Stopwatch
    from pipeline.adapters.engine import DuckDBEngine
    from pipeline.judge import build_data_docs, judge, load_suites
    from pipeline.settings import PROJECT_ROOT

    landed, earlier = Case(Path(source), Path(lake), run, tuple(history)).landed()
    suites = load_suites(PROJECT_ROOT / "expectations" / "suites")
    watch = Stopwatch()
    with watch.stage("measure"), DuckDBEngine().measure(landed, earlier, suites.measuring) as measured:
        counted, factors, currency = (
            (measured.profile(), measured.lags(), measured.signals()),
            measured.factors(),
            measured.currency,
        )
    spent: dict[str, list[float]] = {"judge": [], "data_docs": [], "processor": []}
    for turn in range(REPEATS):
        again, processor = Stopwatch(), time.process_time()
        with again.stage("judge"):
            verdict = judge(
                *counted, lambda: factors, suites, billing_period=landed.billing_period,
                history=[month.billing_period for month in earlier], currency=currency,
            )  # fmt: skip
        with again.stage("data_docs"):
            build_data_docs(verdict, Path(out) / str(turn))
        for stage, seconds in (again.seconds | {"processor": time.process_time() - processor}).items():
            spent[stage].append(seconds)
    warm = {stage: statistics.median(times[1:]) for stage, times in spent.items()}
    return {"measure": watch.seconds["measure"], "first": spent["judge"][0], "cohorts": len(counted[0])} | warm


def run(home: Path, customers: int, rounds: int, progress: Progress) -> Part:
    """Measure and judge a small month, the month asked for and one ten times as large, taking turns."""
    part = Part("judging", "Judging: the same suites over the profile of a small and of a large month")
    cases = {}
    for size in sorted({min(SMALLEST, customers), customers, LARGER * customers}):
        months = MONTHS if size <= customers else 2
        case = make_case(home, size, months, progress)
        cases[size] = Case(case.source, case.lake, case.run, case.history[:1])
    contenders = {f"{size:,}": lambda case=case: _trial(case, home) for size, case in cases.items()}
    trials = take_turns(contenders, rounds, progress, "judging")
    shutil.rmtree(home / "judging-out", ignore_errors=True)
    processor = {}
    for name, done in trials.items():
        answer = _middle([trial.answer for trial in done])
        processor[name] = answer["processor"]
        part.rows.append({
            "charges": name, "cohorts": int(answer["cohorts"]), "measuring s": answer["measure"], "first judging s": answer["first"],
            "judging s": answer["judge"], "Data Docs s": answer["data_docs"],
            "processor s": answer["processor"], "peak MB": round(median(done, "peak_bytes") / MIB),
        })  # fmt: skip
    smallest, *_, largest = processor.values()
    part.goal(
        "judging the largest month / the smallest in processor seconds, flat is below 1.5", largest / smallest, most=1.5
    )
    part.notes = [
        "one earlier month each; the profile has a row per cohort, however many rows the month has",
        "processor seconds are of judging and Data Docs together, both in Python on one thread",
    ]
    return part


def _trial(case: Case, home: Path):
    return in_child(
        "bench.judging:measure_and_judge", imports=OURS_IMPORTS, source=case.source, lake=case.lake, run=case.run,
        history=list(case.history), out=home / "judging-out",
    )  # fmt: skip


def _middle(answers: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(answer[name] for answer in answers) for name in answers[0]}
