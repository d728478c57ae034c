"""`makegood replay`: the whole story on the practice acquirer, with a simulated clock, in a home of its own.

Belongs here: the order of the days - the wrong month escapes on the 11th, is voided and refunded on the 11th, rebilled on the 12th
and 13th, settled, proven and closed. Does not: any step's work; every step is the one that operators take. The people are the
embedded installation's first two, each with their own login.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.bootstrap import Makegood
from pipeline.core.billing_period import BillingPeriod
from pipeline.core.window import Window
from pipeline.errors import FatalError, UsageError
from pipeline.generate import Behaviour, generate, with_wrong_month
from pipeline.ports import Progress
from pipeline.settings import Settings

INCIDENT_PERIOD = BillingPeriod(2023, 9)
INCIDENT_CHARGED_WITH = BillingPeriod(2023, 7)
INCIDENT_FIRST = BillingPeriod(2023, 6)
"""The incident: September 2023 charged with July's amounts; three months of history before it."""

CHARGED_AT_HOUR = 9
"""Business hour of the 11th at which the wrong month goes out."""

UNDONE_AFTER = timedelta(hours=1)
REBILLED_AFTER = (timedelta(days=1, hours=1), timedelta(days=2, hours=1))
SETTLED_AFTER = timedelta(days=5)
"""From the wrong charges: undone on the same day; rebilled on the 12th, and on the 13th whose money had to be back first; by the
16th every settlement file has come."""

MARKER = "replay.json"
"""Marks a folder as a replay's home; only such a one is ever replaced."""

REMEDIATION_STAGES = ("open", "plan", "approve", "cancel", "refund", "rebill", "reconcile", "close")
"""What counts as putting it right: everything after the wrong charges, from the incident to its proof."""


@dataclass
class Replay:
    """One replay under way: its home, its people and what each stage took."""

    settings: Settings
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.progress(f"replay: {name}", 0, None)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def at(self, when: datetime, login: str | None = None) -> Makegood:
        """The installation at a simulated moment, as a person."""
        return Makegood(replace(self.settings, login=login, password=None), as_of=when, progress=self.progress)


def replay(
    settings: Settings,
    *,
    source: Path | None,
    period: str | None,
    charged_with: str | None,
    customers: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Charge `period` with the amounts of `charged_with`, put it right in its windows, and prove it by the acquirer's book.

    Args:
        source: real charge files, with the labels of both months; None makes up `customers` customers, each with a bill to pay,
            check cards in the incident's proportion, and the incident's own months.

    Returns:
        What `replay --json` prints: `charged, voided, refunded, rebilled` count operations that succeeded, `held` lines that the plan
        leaves open, `right` bills for which the acquirer's book holds exactly what is due.

    Raises:
        UsageError: neither a source nor a number of customers.
        FatalError: the gate did not hold the wrong month, or a step did not end as it must.
    """
    if settings.database_url:
        raise UsageError(
            "a replay makes up money; it runs on the embedded database alone, so unset MAKEGOOD_DATABASE_URL"
        )
    wrong_period, amounts_of, name = _months(source, period, charged_with, customers)
    home = _fresh_home(settings.home / "replay" / name)
    run = Replay(replace(settings, home=home), progress)
    if source is None:
        source = home / "source"
        with run.stage("generate"):
            generate(
                source, customers=customers, first_period=INCIDENT_FIRST, months=wrong_period.months_since(INCIDENT_FIRST) + 1,
                behaviour=Behaviour(zero_share=0, credit_share=0), progress=progress,
            )  # fmt: skip
    with run.stage("mischarge"):
        with_wrong_month(source, home / "wrong", period=wrong_period, amounts_of=amounts_of, progress=progress)
    charged_at = datetime(wrong_period.year, wrong_period.month, 11, CHARGED_AT_HOUR, tzinfo=settings.timezone)
    with run.at(
        charged_at
    ).rail():  # the acquirer is there all along, as one would be: no step has to start and stop it
        wrong, right = _charge_the_wrong_month(run, charged_at, str(source), str(home / "wrong"), wrong_period)
        return _put_it_right(run, charged_at, wrong, right)


def _months(
    source: Path | None, period: str | None, charged_with: str | None, customers: int | None
) -> tuple[BillingPeriod, BillingPeriod, str]:
    """The wrong month, the month whose amounts it carries, and a name for the replay."""
    if source is None:
        if not customers or customers < 1:
            raise UsageError("replay what? --customers N, or --source DIR --period YYYY-MM --charged-with YYYY-MM")
        return INCIDENT_PERIOD, INCIDENT_CHARGED_WITH, f"{customers}-customers"
    if not period or not charged_with:
        raise UsageError("a replay of a source needs --period and --charged-with, such as 2005-09 and 2005-07")
    try:
        months = BillingPeriod.parse(period), BillingPeriod.parse(charged_with)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if months[1] >= months[0]:
        raise UsageError(f"--charged-with {charged_with} must lie before --period {period}")
    return *months, f"{period}-with-{charged_with}"


def _fresh_home(home: Path) -> Path:
    if home.exists():
        if not (home / MARKER).exists():
            raise FatalError(f"{home} is not a replay's home; move it away")
        shutil.rmtree(home)
    home.mkdir(parents=True)
    (home / MARKER).write_text("{}")
    return home


def _charge_the_wrong_month(
    run: Replay, when: datetime, source: str, wrong_source: str, period: BillingPeriod
) -> tuple[str, str]:
    """Land and judge the wrong month - the gate holds it - and let it escape all the same; returns both run ids."""
    app = run.at(when)
    with run.stage("gate on the wrong month"):
        landed = app.extract(wrong_source, period)
        held = app.verify(landed.run.run_id, wrong_source)
    if held.verification.decision != "hold":
        raise FatalError(f"the gate would have released {landed.run.run_id}: {held.report}")
    wrong = landed.run.run_id
    for person in ("operator", "approver"):
        run.at(when, person).decide(wrong, kind="release", reason="replay: the day the gate was overruled")
    with run.stage("original charging"):
        app.release(wrong)
    with run.stage("gate on the right month"):
        right = app.extract(source, period).run.run_id
        judged = app.verify(right, source)
    if judged.verification.decision != "release":
        raise FatalError(f"the gate holds the right month {right}: {judged.report}")
    return wrong, right


def _put_it_right(run: Replay, charged_at: datetime, wrong: str, right: str) -> dict[str, Any]:
    """From the incident to its closing, each step at its own time, by the person whose it is."""
    operator = run.at(charged_at + UNDONE_AFTER, "operator")
    approver = run.at(charged_at + UNDONE_AFTER, "approver")
    with run.stage("open"):
        opened = operator.open_incident(wrong=wrong, corrected=right, reason="replay: the wrong month was charged")
    incident = opened["incident_id"]
    with run.stage("plan"):
        reversal, rebill = _windows(charged_at.date())
        plan = operator.request_approval(operator.plan(incident, reversal=reversal, rebill=rebill))
    with run.stage("approve"):
        approver.approve(plan)
    with run.stage("cancel"):
        voided = operator.cancel(incident)
    with run.stage("refund"):
        refunded = operator.refund(incident)
    for after in REBILLED_AFTER:
        with run.stage("rebill"):
            rebilled = run.at(charged_at + after, "operator").rebill(incident)
    settled = run.at(charged_at + SETTLED_AFTER, "operator")
    with run.stage("reconcile"):
        reconciled = settled.reconcile(incident)
    with run.stage("notify"):
        notices = settled.notify(incident)
    with run.stage("close"):
        closed = settled.close(incident)
    with run.stage("report"):
        page = settled.render_incident(incident)
    tally = operator.ledger.tally(wrong)
    return {
        "incident_id": incident,
        "impact": operator.stated_impact(plan),
        "charged": tally.count("succeeded"),
        "voided": voided["done"]["count"],
        "refunded": refunded["done"]["count"],
        "rebilled": rebilled["done"]["count"],
        "held": plan.summary["open"],
        "right": closed["right"],
        "residual_minor": closed["residual_minor"],
        "breaks": reconciled["break_count"],
        "currency": tally.currency,
        "amounts_minor": {
            "charged": tally.amount_minor("succeeded"),
            "voided": voided["done"]["amount_minor"],
            "refunded": refunded["done"]["amount_minor"],
            "rebilled": rebilled["done"]["amount_minor"],
        },
        "classes": opened["classes"],
        "notices": notices,
        "book": closed["book"],
        "proof": closed["proof_text"],
        "report": str(page),
        "home": str(run.settings.home),
        "seconds": run.seconds | {"remediation": round(sum(run.seconds[name] for name in REMEDIATION_STAGES), 3)},
    }


def _windows(eleventh: date) -> tuple[Window, Window]:
    day = timedelta(days=1)
    return Window(eleventh, eleventh + day), Window(eleventh + day, eleventh + 2 * day)
