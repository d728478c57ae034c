"""The scorecard counts what it says it counts, keeps its halves apart, and goes on where it was stopped."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.core.billing_period import BillingPeriod
from pipeline.core.tax import tax_minor
from pipeline.generate import CATALOGUE, Behaviour
from pipeline.generate.bill_parts import BillParts
from pipeline.generate.month import Month
from pipeline.ports import no_progress
from pipeline.scorecard import run as scorecard
from pipeline.scorecard.bases import BASES_PER_HALF, MONTHS, Base, bases, make
from pipeline.scorecard.cases import NOT_OF_AN_ISSUER, SMALL_ISSUER, clean, sizes_of
from pipeline.scorecard.page import to_markdown, to_text, write_page
from pipeline.scorecard.run import Asked, Store, made_up
from pipeline.scorecard.tally import is_promised, tally
from pipeline.scorecard.trial import CONTENDERS, GATE, Row
from pipeline.settings import PROJECT_ROOT

SAMPLE = PROJECT_ROOT / "data" / "sample"
SUITES = PROJECT_ROOT / "expectations" / "suites"


def _row(fault: str | None = "times_100", size: float | None = 0.01, **given: object) -> Row:
    kind = "fault" if fault else "clean"
    cause = fault and CATALOGUE[fault].cause
    row = Row(
        f"s/{fault}/{size}/{given}",
        "s",
        "sample",
        "2005-09",
        kind,
        fault,
        size,
        GATE,
        cause=cause,
        charges=1_000,
        affected=10,
    )
    return replace(row, **given)


def test_a_miss_is_counted_and_listed():
    found = tally([_row(held=True, causes=["unit_slip"]), _row(held=False)])
    assert found["by_size"] == [{"contender": GATE, "size": 0.01, "tried": 2, "held": 1, "named": 1}]
    assert [(miss["promised"], miss["affected"]) for miss in found["misses"]] == [(True, 10)]
    assert found["faults"][0]["caught_from"] is None


def test_a_held_month_with_another_cause_first_is_no_right_diagnosis():
    found = tally([_row(held=True, causes=["doubled", "unit_slip"])])
    assert found["diagnosis"] == {"held": 1, "named": 0}
    assert found["wrong_causes"][0]["causes"] == ["doubled", "unit_slip"]


def test_a_right_month_that_is_held_is_a_false_hold():
    found = tally([_row(None, None, held=True, rules=["far_above run: too many"]), _row(None, None, held=False)])
    (group,) = found["clean"]
    assert (group["months"], group["held"], group["rules"]) == (2, 1, {"far_above": 1})
    assert len(found["false_holds"]) == 1


def test_a_hold_proves_nothing_where_the_right_month_is_held_too():
    right = _row(None, None, held=True, rules=["far_above run: too many"])
    found = tally([right, _row(held=True), _row(held=True, contender="3 sigma")])
    assert [(row["contender"], row["tried"], row["held"]) for row in found["by_size"]] == [
        (GATE, 1, 0),
        ("3 sigma", 1, 1),
    ]
    assert found["held_anyway"] == ["s/2005-09 by makegood"] and found["diagnosis"]["held"] == 0


def test_what_a_source_cannot_show_counts_nowhere():
    found = tally([_row("wrong_plan", cannot="no column plan_code"), _row(held=True)])
    assert found["cases"] == 1 and found["by_size"][0]["tried"] == 1
    assert found["cannot_show"] == [{"source": "s", "fault": "wrong_plan", "why": "no column plan_code"}]


def test_repeats_of_few_customers_are_promised_only_where_hardly_a_bill_repeats_by_itself():
    few = _row("earlier_month", 0.001, affected=1)
    assert is_promised(few, {("s", "2005-09"): 0.00005})
    assert not is_promised(few, {("s", "2005-09"): 0.002})
    assert not is_promised(few, {})


def test_the_halves_share_no_seed_and_no_settings():
    tuning, reporting = bases("tuning"), bases("reporting")
    assert not {base.seed for base in tuning} & {base.seed for base in reporting}
    assert not {base.behaviour for base in tuning} & {base.behaviour for base in reporting}


def test_bills_to_the_cent_add_up_and_stay_what_they_were(tmp_path: Path):
    behaviour = Behaviour(flat_share=0.3, zero_share=0.05, credit_share=0.05)
    made = {}
    for currency in ("KRW", "TWD"):
        base = Base(f"made-{currency}", 2, behaviour, BillingPeriod(2023, 8), currency, customers=500, months=1)
        made[currency] = Month.read(make(base, tmp_path), base.first_period).charges.sort_by("customer_id")
    won, cents = (BillParts.of(made[currency]) for currency in ("KRW", "TWD"))
    assert (cents.amount == made["TWD"]["amount_minor"].to_numpy()).all()
    assert (cents.tax == tax_minor(cents.net)).all()
    assert (np.sign(cents.amount) == np.sign(won.amount)).all()
    assert (cents.amount[cents.usage == 0] == 100 * won.amount[won.usage == 0]).all()
    assert np.mean(cents.amount[(cents.usage > 0) & (cents.net > 0)] % 100 != 0) > 0.9


@pytest.mark.parametrize("half", ["tuning", "reporting"])
def test_each_half_has_300_right_months(half):
    found = [case for base in bases(half) for case in clean(made_up(base))]
    assert sum(case.kind == "clean" for case in found) >= 300
    assert any(case.kind == "price change" for case in found)
    assert len(found) == BASES_PER_HALF * (MONTHS - 1)


def test_every_fault_is_tried_at_every_promised_size():
    found = scorecard.cases(Asked(base_count=1), SAMPLE)
    for fault in CATALOGUE.values():
        sizes = {case.size for case in found if case.fault == fault.name and case.source.kind == "sample"}
        assert set(sizes_of(fault)) <= sizes
        assert (SMALL_ISSUER in sizes) == (fault.scope == "customers" and fault.name not in NOT_OF_AN_ISSUER)


def test_what_was_found_is_not_tried_again_and_other_suites_are(tmp_path: Path):
    base = Base("small", 2, Behaviour(), BillingPeriod(2023, 8), customers=10, months=2)
    (case,) = clean(made_up(base))
    store = Store(tmp_path / "results.jsonl", SUITES)
    row = replace(_row(None, None), case=case.key)
    store.keep(case, [row])
    with store.path.open("a") as file:
        file.write('{"key": "cut o')
    assert Store(store.path, SUITES).known() == {store.key(case, GATE): row}
    changed = tmp_path / "suites"
    changed.mkdir()
    for path in SUITES.glob("*.json"):
        content = json.loads(path.read_text())
        (changed / path.name).write_text(json.dumps(content | {"about": "changed"}))
    assert Store(store.path, changed).key(case, GATE) not in store.known()
    assert Store(store.path, changed).key(case, "3 sigma") == store.key(case, "3 sigma")


def test_the_page_says_what_was_missed_and_draws_what_was_caught(tmp_path: Path):
    rows = [_row(held=True, contender=name, causes=["unit_slip"]) for name in CONTENDERS]
    rows += [_row("doubled", 0.01), _row(None, None, period="2005-08", held=True, rules=["far_above run: too many"])]
    result = {"half": "tuning", "base_count": 2, "asked": 6} | tally(rows)
    page = to_markdown(result)
    assert "**Unfinished**: 5 of 6 cases." in page
    assert "Missed, though promised" in page and "s/doubled/0.01" in page
    assert "1 of 1" in page and "far_above run: too many" in page
    assert "s/doubled/0.01" in to_text(result)
    picture = write_page(result, tmp_path / "scorecard.md")
    assert (tmp_path / "scorecard.md").read_text() == page
    assert "1 of 2" in picture.read_text() and 'xmlns="http://www.w3.org/2000/svg"' in picture.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "no_such"],
        ["--sizes", "0"],
        ["--sizes", "a"],
        ["--processes", "0"],
        ["--only", "doubled", "--right-months"],
    ],
)
def test_what_makes_no_sense_is_refused(arguments, capsys):
    assert main(["scorecard", *arguments, "--json"]) == 2
    assert "error" in json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_stopped_scorecard_goes_on(tmp_path: Path):
    asked = Asked(only=("times_100",), sizes=(0.01,), base_count=1)
    given = {"home": tmp_path, "sample": SAMPLE, "suites": SUITES, "processes": 1, "progress": no_progress}
    first = scorecard.run_scorecard(asked, **given)
    lines = (tmp_path / scorecard.RESULTS_NAME).read_text()
    assert [(row.fault, row.held) for row in first if row.contender == GATE] == [("times_100", True), (None, False)] * 2
    assert scorecard.run_scorecard(asked, **given, so_far=True) == first
    again = scorecard.run_scorecard(asked, **given)
    assert again == first
    assert (tmp_path / scorecard.RESULTS_NAME).read_text() == lines
