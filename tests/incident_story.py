"""The incident in small, for tests: a few hundred customers charged July's amounts for September, on a real acquirer."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from pipeline.bootstrap import Makegood
from pipeline.core.billing_period import BillingPeriod
from pipeline.generate import generate, with_wrong_month
from pipeline.settings import Settings

SEOUL = ZoneInfo("Asia/Seoul")
CHARGED_AT = datetime(2023, 9, 11, 3, tzinfo=SEOUL)
PLANNED_AT = datetime(2023, 9, 11, 10, tzinfo=SEOUL)
SEPTEMBER = BillingPeriod(2023, 9)


@dataclass(frozen=True)
class Story:
    """An installation in which the wrong run was charged and the right one has passed the gate."""

    settings: Settings
    right_source: Path
    wrong_run: str
    right_run: str

    def at(self, as_of: datetime, login: str | None = None) -> Makegood:
        """The installation at an instant, as a person."""
        return Makegood(replace(self.settings, login=login), as_of=as_of)


def tell(settings: Settings, folder: Path, *, customers: int = 400) -> Story:
    """Generate the charges, charge the wrong ones (two people let them pass), and have the gate pass the right ones.

    The gate itself is not asked: its verdict on the right run is put down as it would be.
    """
    right, wrong = folder / "right", folder / "wrong"
    generate(right, customers=customers, first_period=BillingPeriod(2023, 6), months=4, seed=7)
    with_wrong_month(right, wrong, period=SEPTEMBER, amounts_of=BillingPeriod(2023, 7))
    app = Makegood(settings, as_of=CHARGED_AT)
    wrong_run = app.extract(str(wrong), SEPTEMBER).run.run_id
    for person in ("operator", "approver"):
        Makegood(replace(settings, login=person), as_of=CHARGED_AT).decide(
            wrong_run, kind="release", reason="a mistake"
        )
    app.release(wrong_run)
    right_run = app.extract(str(right), SEPTEMBER).run.run_id
    pass_gate(app, right_run)
    return Story(settings, right, wrong_run, right_run)


def pass_gate(app: Makegood, run_id: str, decision: str = "release") -> None:
    """Put down a verdict on a run."""
    app.register.record_verification(
        run_id, suite_digest="s", history_digest="none", decision=decision, findings=[], not_judged=[], report="none"
    )
