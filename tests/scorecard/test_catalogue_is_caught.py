"""The whole catalogue at small size: every fault is held and says what it is, and right months of every kind are released."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.adapters.engine import MANY_MONTHS, SIGNAL_MONTHS
from pipeline.core.billing_period import BillingPeriod
from pipeline.generate import CATALOGUE, Behaviour
from pipeline.judge import load_suites
from pipeline.scorecard.bases import ARRANGEMENTS, FLAT_SHARES, SEASONS, Base
from pipeline.scorecard.cases import Case, clean, faults
from pipeline.scorecard.run import QUICK_FAULTS, Asked, cases, made_up
from pipeline.scorecard.trial import GATE, Row, Trials
from pipeline.settings import PROJECT_ROOT

SAMPLE = PROJECT_ROOT / "data" / "sample"
FIRST = BillingPeriod(2023, 4)
CUSTOMERS, MONTHS = 3_000, 6
HIT = 0.05
CAUSE_FIRST = 0.97

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return Trials(tmp_path_factory.mktemp("scorecard"), load_suites(PROJECT_ROOT / "expectations" / "suites"))


def _base(name: str, **behaviour: object) -> Base:
    return Base(name, 4, Behaviour(**behaviour), FIRST, customers=CUSTOMERS, months=MONTHS)


@pytest.fixture(scope="module")
def made(trials: Trials) -> list[Row]:
    """Every fault that any share is promised of, in made-up bills with joiners, leavers and prices that changed the month before."""
    base = _base("promised", monthly_churn=0.02, price_change_period=FIRST.plus(MONTHS - 2), price_change_percent=5)
    promised = [name for name, fault in CATALOGUE.items() if fault.smallest is not None]
    return _tried(trials, faults(made_up(base), promised, (HIT,)))


@pytest.fixture(scope="module")
def real(trials: Trials) -> list[Row]:
    """A dozen faults in one percent of the sample's real bills."""
    return _tried(
        trials, (case for case in cases(Asked(quick=True), SAMPLE) if case.source.kind == "sample" and case.fault)
    )


def _tried(trials: Trials, wanted: Iterator[Case]) -> list[Row]:
    rows = [row for case in wanted for row in trials.row(case, [GATE])]
    return [row for row in rows if row.cannot is None]


def test_every_fault_of_the_catalogue_is_held_in_made_up_months(made: Sequence[Row]):
    promised = {name for name, fault in CATALOGUE.items() if fault.smallest is not None}
    assert {row.fault for row in made} == promised, "a fault could not be shown, so nobody knows whether it is caught"
    assert [row.case for row in made if not row.held] == []


def test_a_dozen_faults_are_held_in_one_percent_of_real_bills(real: Sequence[Row]):
    assert {row.fault for row in real} == set(QUICK_FAULTS)
    assert [row.case for row in real if not row.held] == []


def test_the_right_cause_is_named_first(made: Sequence[Row], real: Sequence[Row]):
    held = [row for row in (*made, *real) if row.held]
    wrong = [f"{row.case}: {row.causes[:2]}, not {row.cause}" for row in held if not row.cause_named]
    assert len(wrong) <= (1 - CAUSE_FIRST) * len(held), wrong


@pytest.mark.parametrize("place", range(len(FLAT_SHARES)))
def test_right_months_of_every_kind_are_released(trials: Trials, place: int):
    """Without flat bills and with four in five flat; few and many joiners; every season and arrangement of files."""
    base = _base(
        f"right-{place}",
        flat_share=FLAT_SHARES[place],
        monthly_churn=(0.002, 0.05, 0.02)[place],
        plan_change_share=(0.02, 0.001, 0.005)[place],
        usage_percent_by_month=SEASONS[place + 1],
    )
    base = replace(base, arrangement=ARRANGEMENTS[place], months=4)
    rows = _tried(trials, clean(made_up(base)))
    assert len(rows) == base.months - 1
    assert [(row.case, row.rules) for row in rows if row.held] == []


@pytest.mark.parametrize(
    "fault, share, rule", [("customers_dropped", 0.02, "missing run"), ("joiners_missing", 0.02, "joined_too_few run")]
)
def test_customers_missing_among_many_that_come_and_go_are_held_once_many_months_are_known(
    trials: Trials, fault: str, share: float, rule: str
):
    base = replace(_base("restless", monthly_churn=0.05), months=MANY_MONTHS + SIGNAL_MONTHS + 1)
    source = made_up(base)
    (case,) = faults(source, [fault], (share,))
    (row,) = trials.row(case, [GATE])
    assert row.held and row.rules[0].startswith(rule), row.rules
    assert row.cause_named, row.causes
    rows = _tried(trials, clean(source))
    assert [(row.case, row.rules) for row in rows if row.held] == []
    (short,) = faults(made_up(replace(base, name="short", months=MONTHS)), [fault], (share,))
    assert not trials.row(short, [GATE])[0].held, "two months could tell it, so many were not needed"


def test_usage_billed_twice_to_everybody_is_held_and_named(trials: Trials):
    (case,) = faults(made_up(_base("metered", flat_share=0.0)), ["usage_twice"], (1.0,))
    (row,) = trials.row(case, [GATE])
    assert row.held and row.causes[0] == "usage", (row.rules, row.causes)
    assert row.rules[0].startswith("usage_doubled run: whole run"), row.rules


def test_a_holiday_that_lifts_usage_by_half_is_released(trials: Trials):
    holiday = FIRST.plus(MONTHS - 1).month
    season = tuple(150 if month == holiday else 100 for month in range(1, 13))
    base = _base("holiday", flat_share=0.0, usage_percent_by_month=season)
    (row,) = [
        row for row in _tried(trials, clean(made_up(base))) if row.case.split("/")[1] == str(FIRST.plus(MONTHS - 1))
    ]
    assert not row.held, row.rules


def test_a_price_change_is_released_where_it_was_declared_and_held_where_it_was_not(trials: Trials):
    source = made_up(_base("dearer", price_change_period=FIRST.plus(MONTHS - 1), price_change_percent=6))
    (case,) = (case for case in clean(source) if case.kind == "price change")
    (row,) = trials.row(case, [GATE])
    assert not row.held, row.rules
    landed = trials.landed(source)
    verdict, _ = trials.judge(landed.of(str(case.period)), landed.before(str(case.period)))
    assert verdict.decision == "hold"


def test_the_samples_months_are_released(trials: Trials):
    rows = _tried(
        trials, (case for case in cases(Asked(quick=True), SAMPLE) if case.key.startswith("sample") and not case.fault)
    )
    assert len(rows) == 5
    assert [(row.case, row.rules) for row in rows if row.held] == []


def test_a_month_whose_files_came_on_two_nights_was_waited_for(trials: Trials, tmp_path: Path):
    source = trials.landed(made_up(replace(_base("nights"), arrangement="by night", months=2)))
    assert all(len(run.files) == 8 for run in source.runs)
    first, second = ({file.name for file in run.files} for run in source.runs)
    assert first != second, "files of both months have the same names, so nothing was tried"
