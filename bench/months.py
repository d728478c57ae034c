"""The months that are measured: generated once, landed once, kept below `bench/` of the home directory."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.sources import open_source
from pipeline.core.billing_period import BillingPeriod
from pipeline.extract import extract
from pipeline.generate import generate, with_wrong_month
from pipeline.ports import HistoryPeriod, LandedRun, Progress

PERIOD = BillingPeriod.parse("2023-09")
WRONG_MONTH = BillingPeriod.parse("2023-07")


@dataclass(frozen=True, slots=True)
class Case:
    """A month to be judged and the months before it, landed.

    Attributes:
        source: its charge files.
        lake: where it was landed.
        run, history: ids of the runs; history latest first.
    """

    source: Path
    lake: Path
    run: str
    history: tuple[str, ...]

    def landed(self) -> tuple[LandedRun, list[HistoryPeriod]]:
        """The run and its history, every partition's rows read back and proven, as the gate does."""
        lake = ParquetLake(self.lake)
        run, *earlier = runs = [lake.find(run_id) for run_id in (self.run, *self.history)]
        lake.prove(runs)
        return run, [HistoryPeriod(month.billing_period, month.run_id, month.path, "released") for month in earlier]


def make_case(home: Path, customers: int, months: int, progress: Progress, *, wrong_month: bool = False) -> Case:
    """The month that is judged and the `months - 1` before it; made on first use.

    Args:
        wrong_month: the month carries July's amounts.
    """
    source = home / f"source-{customers}x{months}"
    first = PERIOD.plus(1 - months)
    if not source.exists():
        generate(source, customers=customers, first_period=first, months=months, progress=progress)
    if wrong_month:
        right, source = source, home / f"source-{customers}x{months}-wrong"
        if not source.exists():
            with_wrong_month(right, source, period=PERIOD, amounts_of=WRONG_MONTH, progress=progress)
    lake = ParquetLake(home / "lake")
    # A month counts as landed by its files' names, sizes and times, so that a second run reads nothing again.
    runs = [
        extract(
            open_source(str(source)), PERIOD.plus(-back), lake=lake, progress=progress, trust_unchanged_files=True
        ).run
        for back in range(months)
    ]
    return Case(source, home / "lake", runs[0].run_id, tuple(run.run_id for run in runs[1:]))
