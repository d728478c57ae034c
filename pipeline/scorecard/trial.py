"""One case from charge files to verdict: the fault injected, landed, measured and judged as the nightly run does it.

Belongs here: the core of the scorecard, for its processes and for tests alike. Does not: which cases there are (`cases`), or what is
made of the rows (`tally`). No database: a verdict needs none.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from pipeline.adapters.engine import DuckDBEngine
from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.sources import open_source
from pipeline.core.declared import DeclaredChange
from pipeline.core.rule import cohort_name
from pipeline.core.verdict import WHOLE_RUN, Table
from pipeline.errors import UnreadableInput, UsageError
from pipeline.extract import extract
from pipeline.generate import CATALOGUE, Injected, inject
from pipeline.judge import Suites, Verdict, judge
from pipeline.ports import HistoryPeriod, LandedRun
from pipeline.scorecard.baselines import BASELINES
from pipeline.scorecard.bases import LandedSource, land, make
from pipeline.scorecard.cases import SMALL_ISSUER, Case, Tried
from pipeline.verify import table_without, tables_of

GATE = "makegood"
CONTENDERS = (GATE, *BASELINES)

RULES_KEPT = 6
"""Failed rules that a row names: enough to see why."""


@dataclass(slots=True)
class Row:
    """What a contender said of a case.

    Attributes:
        case, source, source_kind, period, kind, fault, size: the case.
        contender: `makegood` or a baseline.
        cannot: why the source cannot show the fault; then nothing was judged.
        history: months before it.
        affected: bills that are wrong, of `charges`.
        held: whether the month would not have gone out.
        cause: what the catalogue calls it; None for a right month.
        causes: what the diagnosis named, most likely first.
        rules: `rule cohort: explanation` of critical failures, the first few.
        natural_repeats: for a right month, the largest share of comparable bills that repeat an earlier month's.
        cpu_seconds: processor time from landed month to verdict.
        seconds: on the clock, with injecting and landing.
    """

    case: str
    source: str
    source_kind: str
    period: str
    kind: str
    fault: str | None
    size: float | str | None
    contender: str
    cannot: str | None = None
    history: int = 0
    affected: int = 0
    charges: int = 0
    held: bool = False
    cause: str | None = None
    causes: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    natural_repeats: float | None = None
    cpu_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def cause_named(self) -> bool:
        """Whether the right cause was named first."""
        return self.causes[:1] == [self.cause]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Trials:
    """Tries cases, one after the other; landed months are kept for the next.

    Args:
        home: bases and landed months are kept below it.
        suites: what the gate judges by.
        threads: of DuckDB.
    """

    def __init__(self, home: Path, suites: Suites, *, threads: int = 1) -> None:
        self._home = home
        self._suites = suites
        self._engine = DuckDBEngine(threads=threads)
        self.landed = lru_cache(maxsize=None)(self._land)

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory:
        """Injected months and their landing: gone with this process."""
        self._home.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=self._home, prefix="scratch-")

    def row(self, case: Case, contenders: Sequence[str] = CONTENDERS) -> list[Row]:
        """Try `case`; a row for each contender."""
        began = time.perf_counter()
        source = self.landed(case.source)
        blank = {
            "case": case.key, "source": case.source.name, "source_kind": case.source.kind, "period": str(case.period), "kind": case.kind,
            "fault": case.fault, "size": case.size, "cause": case.fault and CATALOGUE[case.fault].cause,
        }  # fmt: skip
        folder = Path(self._scratch.name) / "case"
        try:
            run, earlier, affected = self._month(case, source, folder)
        except UsageError as cannot:
            return [Row(**blank, contender=name, cannot=str(cannot)) for name in contenders]
        except UnreadableInput as refused:
            return [Row(**blank, contender=name, held=True, rules=[f"refused: {refused}"]) for name in contenders]
        facts = blank | {"history": len(earlier), "affected": affected, "charges": run.row_count}
        declared = declared_price_change(case)
        rows = [self._said(name, run, earlier, facts, declared) for name in contenders]
        shutil.rmtree(folder, ignore_errors=True)
        for row in rows:
            row.seconds = round(time.perf_counter() - began, 3)
        return rows

    def judge(
        self, run: LandedRun, earlier: Sequence[LandedRun], declared: Sequence[DeclaredChange] = ()
    ) -> tuple[Verdict, Table]:
        """The gate's verdict on a landed month beside earlier ones, the latest first; and its table of repeats."""
        suites = self._suites.of_period(run.billing_period)
        history = [HistoryPeriod(month.billing_period, month.run_id, month.path, "released") for month in earlier]
        with self._engine.measure(run, history, suites.measuring) as measured:
            tables = tables_of(measured)
            verdict = judge(
                *tables, suites, billing_period=run.billing_period, history=[month.billing_period for month in history],
                currency=measured.currency, declared=declared, without=partial(table_without, measured),
            )  # fmt: skip
        return verdict, tables[1]

    def _land(self, source: Tried) -> LandedSource:
        if source.folder:
            return land(source.folder, ParquetLake(self._home / f"lake-{source.name}"))
        folder = make(source.base, self._home / "bases")
        lake = ParquetLake(folder.with_name("lake"))
        return land(folder, lake, in_two_nights=source.base.arrangement == "by night")

    def _month(self, case: Case, source: LandedSource, folder: Path) -> tuple[LandedRun, tuple[LandedRun, ...], int]:
        """The case's month and those before it, landed, and how many of its bills are wrong."""
        period = str(case.period)
        earlier = source.before(period)
        if case.fault is None:
            return source.of(period), earlier, 0
        shutil.rmtree(folder, ignore_errors=True)
        injected = injected_month(case, source.folder, folder / "source")
        lake = ParquetLake(folder / "lake")
        wrong = open_source(folder / "source")
        run = extract(wrong, case.period, lake=lake).run
        if case.fault == "slow_creep":  # the months before are wrong too
            runs = [extract(wrong, each, lake=lake).run for each in wrong.periods() if each < case.period]
            earlier = tuple(reversed(runs))
        return run, earlier, injected.affected

    def _said(
        self,
        name: str,
        run: LandedRun,
        earlier: Sequence[LandedRun],
        facts: dict[str, Any],
        declared: Sequence[DeclaredChange],
    ) -> Row:
        began = time.process_time()
        row = Row(**facts, contender=name)
        if name != GATE:
            row.held = BASELINES[name](run, earlier)
        else:
            verdict, lags = self.judge(run, earlier, declared)
            row.held = verdict.decision == "hold"
            row.causes = [cause.name for cause in verdict.causes]
            critical = [finding for finding in verdict.findings if finding.severity == "critical"]
            row.rules = [f"{f.rule} {f.cohort}: {f.explanation}" for f in critical[:RULES_KEPT]]
            row.natural_repeats = _most_repeats(lags) if row.fault is None else None
        row.cpu_seconds = round(time.process_time() - began, 3)
        return row


def declared_price_change(case: Case) -> tuple[DeclaredChange, ...]:
    """What was declared ahead of the case's month: the price change that its made-up source has then."""
    behaviour = case.source.base and case.source.base.behaviour
    if behaviour is None or behaviour.price_change_period != case.period:
        return ()
    cohorts = [f"plan:{plan}" for plan in behaviour.price_change_plans] or [WHOLE_RUN]
    month, percent = str(case.period), float(behaviour.price_change_percent)
    return tuple(
        DeclaredChange("price_change", cohort, month, month, percent=percent, reason="dearer plans")
        for cohort in cohorts
    )


def injected_month(case: Case, source: Path, out: Path) -> Injected:
    """The case's month with its fault at `out`.

    Raises:
        UsageError: the source cannot show it.
    """
    alone = case.size == SMALL_ISSUER
    return inject(
        source, out, fault=case.fault, period=case.period, size=1.0 if alone else case.size,
        cohort={"issuer": case.source.smallest_issuer} if alone else {}, seed=case.source.seed, lag=case.source.lag,
        history=case.fault == "slow_creep",
    )  # fmt: skip


def _most_repeats(lags: Table) -> float | None:
    shares = [row["repeat_share"] for row in lags if cohort_name(row) == WHOLE_RUN and row["repeat_share"] is not None]
    return max(shares, default=None)
