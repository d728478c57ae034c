"""Verify: a landed run and its history become a verdict, with the evidence beside it.

Belongs here: the order of measuring, judging and listing, and which part of a held run may go. Does not:
who is charged when (the billing calendar guards `release`), or the page people read (`report`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.declared import DeclaredChange
from pipeline.core.rule import cohort_name
from pipeline.core.verdict import (
    WHOLE_RUN,
    Charts,
    Finding,
    HistoryUsed,
    Quarantine,
    Table,
    Verification,
)
from pipeline.errors import UsageError
from pipeline.judge import Suites, Verdict, build_data_docs, judge, load_great_expectations
from pipeline.ports import Engine, HistoryPeriod, LandedRun, Measurement, Progress, no_progress

__all__ = ["verify"]

HISTORY_LIMIT = 12
"""Earlier months a run is compared with: a year, so that every lag of a yearly cycle is seen."""

QUARANTINE_FILE = "quarantine.parquet"

SAMPLE_PER_REASON = 10
"""Quarantined rows shown per reason; all of them are in the file."""


def verify(
    run: LandedRun,
    history: Sequence[HistoryPeriod],
    *,
    engine: Engine,
    suites: Suites,
    report_dir: Path,
    as_of: datetime,
    declared: Sequence[DeclaredChange] = (),
    progress: Progress = no_progress,
) -> Verification:
    """Judge `run` against `history` and leave the evidence in `report_dir`.

    Writes `quarantine.parquet`, `data_docs/` and `verification.json` there; the same run, history, suites and declared
    changes give the same verdict. It judges the data alone: whether the period is due is not asked.

    Args:
        history: earlier periods, each at most once; the latest 12 are used.
        as_of: aware instant, for the record.
        declared: approved changes; those for other periods do nothing.

    Raises:
        UsageError: a suite's rule cannot be asked, or `as_of` has no time zone.
        FatalError: a partition cannot be read.
    """
    if as_of.tzinfo is None:
        raise UsageError("as_of needs a time zone, such as 2023-09-12T02:00+09:00")
    used = sorted(history, key=lambda month: month.billing_period, reverse=True)[:HISTORY_LIMIT]
    suites = suites.of_period(run.billing_period)
    report_dir.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    with clock.stage("imports"):
        load_great_expectations()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="data-docs") as thread, ExitStack() as stack:
        with clock.stage("measure"):
            measured = stack.enter_context(engine.measure(run, used, suites.measuring, progress))
        with clock.stage("profile"):
            tables = tables_of(measured)
        judged = _asked(run, used, measured, suites, declared)
        progress("judging", 0, None)
        with clock.stage("judge"):
            verdict = judged(*tables)
            releasable = _releasable(verdict, tables[0], measured, judged)
        docs = thread.submit(build_data_docs, verdict, report_dir / "data_docs")  # the engine does the rest meanwhile
        with clock.stage("quarantine"):
            quarantine = _quarantine(measured, report_dir)
        with clock.stage("charts"):
            charts = _charts(measured, *tables[:2], used, run)
        currency = measured.currency
    with clock.stage("data_docs"):
        page = docs.result()
    verification = Verification(
        **_facts(run),
        currency=currency,
        as_of=as_of.isoformat(),
        **_judgement(verdict, used),
        releasable=releasable,
        suite_digest=suites.digest,
        history=[HistoryUsed(month.billing_period, month.run_id, month.standing) for month in used],
        profile=tables[0],
        lags=tables[1],
        signals=tables[2],
        charts=charts,
        quarantine=quarantine,
        data_docs=str(page.relative_to(report_dir)),
        seconds=clock.seconds,
    )
    verification.save(report_dir)
    return verification


def _asked(
    run: LandedRun,
    used: Sequence[HistoryPeriod],
    measured: Measurement,
    suites: Suites,
    declared: Sequence[DeclaredChange],
) -> Any:
    """`judge` for this run: what is left to give are the tables."""
    return partial(
        judge,
        suites=suites,
        billing_period=run.billing_period,
        history=[month.billing_period for month in used],
        currency=measured.currency,
        declared=declared,
        without=partial(table_without, measured),
    )


def _releasable(verdict: Verdict, profile: Table, measured: Measurement, judged: Any) -> list[str]:
    """The cohorts that may go.

    Of a held run, the issuers without a critical failure of their own may go if the run consisting of them alone would be
    released: it is measured and judged again without the others. What is asked of the whole run only - its files, the
    completeness of its profile - concerns every issuer, and so does a rule that blocks all.
    """
    if verdict.decision == "release":
        return [WHOLE_RUN]
    failing = verdict.failing_issuers
    issuers = [row["cohort"] for row in profile if row["cohort_kind"] == "issuer" and row["row_count"]]
    others = [issuer for issuer in issuers if issuer not in failing]
    if verdict.blocks_all or verdict.whole_run_only or not failing or not others:
        return []
    with measured.without([f"issuer:{issuer}" for issuer in failing]):
        rest = judged(*tables_of(measured))
    return [f"issuer:{issuer}" for issuer in others] if rest.decision == "release" else []


def tables_of(measured: Measurement) -> tuple[Table, Table, Table, Callable[[], Table]]:
    """What the judge is given, as the measurement stands."""
    return measured.profile(), measured.lags(), measured.signals(), measured.factors


def table_without(measured: Measurement, name: str, cohorts: Sequence[str]) -> Table:
    """One of the tables that the judge is given, measured without these cohorts: `judge.TableWithout`."""
    tables = {
        "profile": measured.profile, "lags": measured.lags, "signals": measured.signals, "factors": measured.factors,
    }  # fmt: skip
    with measured.without(cohorts):
        return tables[name]()


def _quarantine(measured: Measurement, report_dir: Path) -> Quarantine:
    path = report_dir / QUARANTINE_FILE
    counts = measured.quarantine(path)
    rows = sum(entry["rows"] for entry in counts)
    sample = measured.quarantine_sample(path, SAMPLE_PER_REASON) if rows else []
    return Quarantine(QUARANTINE_FILE, rows, counts, sample)


def _charts(
    measured: Measurement, profile: Table, lags: Table, history: Sequence[HistoryPeriod], run: LandedRun
) -> Charts:
    standing = {month.billing_period: month.standing for month in history} | {run.billing_period: "this run"}
    repeats = ("compared_with", "lag", "comparable", "repeated", "repeat_share", "normal_share")
    return Charts(
        amounts=measured.amounts(),
        totals=[entry | {"standing": standing[entry["billing_period"]]} for entry in measured.totals()],
        drift=[
            {
                "cohort": cohort_name(row),
                "total_minor": row["positive_minor"],
                "previous_total_minor": row["previous_positive_minor"],
                "total_drift": row["total_drift"],
            }
            for row in profile
        ],
        repeats=[{"cohort": cohort_name(row)} | {name: row[name] for name in repeats} for row in lags],
    )


def _on_history(history: Sequence[HistoryPeriod]) -> list[Finding]:
    unverified = [month.billing_period for month in history if month.standing == "unverified"]
    if not unverified:
        return []
    return [
        Finding(
            rule="history_unverified",
            severity="info",
            cohort=WHOLE_RUN,
            observed=f"{len(unverified)} of {len(history)} months",
            expected="months that were released or corrected",
            explanation=f"whole run: it was compared with {', '.join(sorted(unverified))} as the source has them; "
            "nobody has verified these months, so what looks normal may not be",
            confidence="certain",
        )
    ]


def _judgement(verdict: Verdict, used: Sequence[HistoryPeriod]) -> dict[str, Any]:
    """What a verification repeats of its verdict, with what is to be said of the history it rests on."""
    return {
        "decision": verdict.decision,
        "causes": verdict.causes,
        "findings": verdict.findings + _on_history(used),
        "not_judged": verdict.not_judged,
        "rules": verdict.rules,
        "declared": verdict.declared,
    }


def _facts(run: LandedRun) -> dict[str, Any]:
    """What a verification repeats of its run."""
    names = ("run_id", "billing_period", "source", "row_count", "control_total_minor")
    return {name: getattr(run, name) for name in names} | {"files": [_file(file) for file in run.files]}


def _file(file: Any) -> dict[str, Any]:
    names = ("name", "sha256", "row_count", "control_total_minor", "manifest_row_count", "manifest_control_total_minor")
    return {name: getattr(file, name) for name in names}


class _Clock:
    """Seconds per stage; monotonic, for the record only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)
