"""What was declared ahead blocks no longer, what was not declared still does, and everything declared stays to be read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.adapters.engine import DuckDBEngine
from pipeline.core.declared import KINDS, DeclaredChange
from pipeline.core.verdict import Verification
from pipeline.errors import UsageError
from pipeline.judge import Suites, judge, load_suites
from pipeline.ports import HistoryPeriod
from pipeline.verify import verify
from tests.landed_runs import AS_OF, SUITES, Rows, as_history, land, month
from tests.test_judge import HISTORY, lags, signals, whole

PRICE_RISE = DeclaredChange(
    "price_change", "plan:PLAN-1", "2023-09", "2023-09", percent=5, reason="price list of September",
    declared_by="jiwoo", approved_by="minseo", change_id="7",
)  # fmt: skip


@pytest.fixture(scope="module")
def suites() -> Suites:
    return load_suites(SUITES)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> list[HistoryPeriod]:
    folder = tmp_path_factory.mktemp("history")
    return as_history([land(folder, period, month(period)) for period in ("2023-06", "2023-07", "2023-08")])


@pytest.fixture
def verified(history, suites, tmp_path):
    """Verify rows as September's run under declared changes."""

    def run(charges: Rows, *declared: DeclaredChange, suites: Suites = suites) -> Verification:
        return verify(
            land(tmp_path, "2023-09", charges), history, engine=DuckDBEngine(), suites=suites,
            report_dir=tmp_path / "report", as_of=AS_OF, declared=declared,
        )  # fmt: skip

    return run


def dearer(charges: Rows, plan: str, percent: int = 5) -> Rows:
    """The month with the base fee of one plan so much higher, components and tax right."""
    for row in charges:
        if row["plan_code"] == plan:
            row["base_fee_minor"] = row["base_fee_minor"] * (100 + percent) // 100
            net = row["base_fee_minor"] + row["usage_fee_minor"] - row["discount_minor"]
            row["tax_minor"] = (net + 5) // 10
            row["amount_minor"] = net + row["tax_minor"]
    return charges


def critical(verification: Verification) -> set[str]:
    return {f"{f.rule} {f.cohort}" for f in verification.findings if f.severity == "critical"}


# ---- what a declared change excuses


def test_a_price_rise_that_nobody_declared_is_held(verified):
    held = verified(dearer(month("2023-09"), "PLAN-1"))
    assert critical(held) == {"base_changed plan:PLAN-1"}
    assert held.declared == []


def test_a_declared_price_rise_is_released_and_stays_as_a_note(verified):
    released = verified(dearer(month("2023-09"), "PLAN-1"), PRICE_RISE)
    assert (released.decision, released.releasable) == ("release", ["run"])
    (note,) = released.findings
    assert (note.rule, note.severity, note.cohort) == ("base_changed", "info", "plan:PLAN-1")
    assert note.explanation.endswith(
        "declared: price_change of +5 % for plan:PLAN-1 by jiwoo, approved by minseo, until 2023-09: price list of September"
    )
    assert [(change["change_id"], change["lifted"]) for change in released.declared] == [("7", ["base_changed"])]
    assert released.to_json()["declared"] == released.declared


@pytest.mark.parametrize(
    "change",
    [
        DeclaredChange("price_change", "plan:PLAN-1", "2023-07", "2023-08", percent=5),
        DeclaredChange("price_change", "plan:PLAN-1", "2023-10", "2023-12", percent=5),
        DeclaredChange("price_change", "plan:PLAN-2", "2023-09", "2023-09", percent=5),
        DeclaredChange("campaign", "plan:PLAN-1", "2023-09", "2023-09"),
        DeclaredChange("rule", "plan:PLAN-1", "2023-09", "2023-09", rule="joined"),
    ],
    ids=["expired", "not yet", "another plan", "another kind", "another rule"],
)
def test_a_change_excuses_nothing_but_what_it_names(verified, change):
    held = verified(dearer(month("2023-09"), "PLAN-1"), change)
    assert critical(held) == {"base_changed plan:PLAN-1"}


def test_a_rule_may_be_waived_by_name(verified):
    waiver = DeclaredChange("rule", "plan:PLAN-1", "2023-09", "2023-09", rule="base_changed")
    assert verified(dearer(month("2023-09"), "PLAN-1"), waiver).decision == "release"


def test_a_price_rise_in_one_plan_hides_no_fault_in_another(verified):
    charges = dearer(dearer(month("2023-09"), "PLAN-1"), "PLAN-2", 7)
    held = verified(charges, PRICE_RISE)
    assert held.decision == "hold"
    assert critical(held) == {"base_changed plan:PLAN-2"}
    assert held.causes[0].affected == 375, "the bills of the declared plan are not part of the fault"


def test_customers_whom_the_new_price_did_not_reach_are_still_found(verified):
    charges = dearer(month("2023-09"), "PLAN-1")
    old = {row["customer_id"]: row for row in month("2023-09")}
    unreached = [row for row in charges if row["plan_code"] == "PLAN-1"][:40]
    for row in unreached:
        row.update(old[row["customer_id"]])
    held = verified(charges, PRICE_RISE)
    assert {name.split()[0] for name in critical(held)} == {"stale_base"}
    assert held.causes[0].affected == 40


def test_what_was_declared_keeps_no_issuer_back(verified):
    """One issuer has a fault of its own; the others may go though their plan became dearer."""
    charges = dearer(month("2023-09"), "PLAN-1")
    for row in charges:
        row["currency"] = "USD" if row["issuer"] == "SORA" else "KRW"
    assert verified(charges, PRICE_RISE).releasable == ["issuer:HANBIT", "issuer:MIREU"]
    assert verified(charges).releasable == []


def test_what_heaps_up_at_a_new_price_is_no_heap_of_those_who_always_paid_as_much(suites, tmp_path):
    """Flat bills of the dearer plan meet the amount that forty customers of another plan have paid all along."""

    def flat(period: str) -> Rows:
        rows = month(period)
        flat_bills = [row for row in rows if row["plan_code"] == "PLAN-1"]
        for row in flat_bills + [row for row in rows if row["plan_code"] == "PLAN-2"][:40]:
            base = 35000 if row["plan_code"] == "PLAN-1" else 36750
            row.update(
                base_fee_minor=base,
                usage_fee_minor=0,
                discount_minor=0,
                tax_minor=base // 10,
                amount_minor=base * 11 // 10,
            )
        return dearer(rows, "PLAN-1") if period == "2023-09" else rows

    earlier = as_history([land(tmp_path, period, flat(period)) for period in ("2023-06", "2023-07", "2023-08")])
    released = verify(
        land(tmp_path, "2023-09", flat("2023-09")), earlier, engine=DuckDBEngine(), suites=suites,
        report_dir=tmp_path / "report", as_of=AS_OF, declared=[PRICE_RISE],
    )  # fmt: skip
    assert "heaped" in released.declared[0]["lifted"], "the case shows a heap at all"
    assert released.decision == "release", critical(released)


@pytest.mark.parametrize("percent", [2, -5])
def test_another_price_than_was_declared_is_held(verified, percent):
    held = verified(dearer(month("2023-09"), "PLAN-1"), replace(PRICE_RISE, percent=percent))
    assert critical(held) == {"base_changed plan:PLAN-1"}
    (change,) = held.declared
    assert (change["lifted"], change["refused"]) == ([], f"base fees that changed did so by +5.0 %, not {percent:+g} %")


def test_two_plans_may_become_dearer_by_different_percentages(verified):
    charges = dearer(dearer(month("2023-09"), "PLAN-1"), "PLAN-2", 9)
    second = replace(PRICE_RISE, cohort="plan:PLAN-2", percent=9, change_id="8")
    assert verified(charges, PRICE_RISE, second).decision == "release"
    assert verified(charges, PRICE_RISE, replace(second, percent=5)).decision == "hold"


def test_a_closed_plan_is_missed_by_nobody(verified):
    charges = [row for row in month("2023-09") if row["plan_code"] != "PLAN-3"]
    assert "cohort_present plan:PLAN-3" in critical(verified(charges))
    closed = DeclaredChange("plan_closed", "plan:PLAN-3", "2023-09", "2023-09")
    released = verified(charges, closed)
    assert released.decision == "release", critical(released)
    assert {"cohort_present", "missing"} <= set(released.declared[0]["lifted"])


# ---- how far, judged on plain tables


def judged(suites: Suites, table, *declared: DeclaredChange, lag_table=None):
    return judge(
        table, lags(table) if lag_table is None else lag_table, signals(suites, table), list, suites,
        billing_period="2023-09", history=HISTORY, currency="KRW", declared=declared,
    )  # fmt: skip


def run_wide(kind: str = "price_change", **more) -> DeclaredChange:
    return DeclaredChange(kind, "run", "2023-09", "2023-09", **more)


@pytest.mark.parametrize(
    ("drift", "percent", "decision"),
    [
        (0.45, 5, "release"),
        (0.48, 5, "hold"),
        (0.45, None, "hold"),
        (-0.45, 5, "hold"),
        (-0.42, -5, "release"),
        (0.45, -5, "hold"),
    ],
)
def test_a_drift_may_go_as_far_as_was_declared_and_no_further(suites, drift, percent, decision):
    table = whole(suites)
    table[0]["total_drift"] = drift
    assert judged(suites, table, run_wide(percent=percent)).decision == decision


def test_amounts_of_an_earlier_month_are_excused_by_nothing(suites):
    table = whole(suites)
    everything = [run_wide(kind, percent=100) for kind in KINDS if kind != "rule"]
    waiver = run_wide("rule", rule="repeat_share")
    assert judged(suites, table, *everything, waiver, lag_table=lags(table, excess=0.99)).decision == "hold"


def test_no_broken_charge_is_excused(suites):
    rows = [r.name for r in suites.rules if r.suite == "charges.json" and r.severity == "critical"]
    assert len(rows) > 15
    assert [r.name for r in suites.rules if r.name in rows and r.lifted_by] == []


def test_what_was_not_measured_is_not_excused(suites):
    table = whole(suites)
    table[0]["total_drift"] = None
    assert judged(suites, table, run_wide(percent=5)).decision == "hold"


def test_a_change_that_cannot_be_meant_is_refused():
    for kind, cohort, first, last, more in (
        ("holiday", "run", "2023-09", "2023-09", {}),
        ("campaign", "customer:1", "2023-09", "2023-09", {}),
        ("campaign", "run", "2023-09", "2023-08", {}),
        ("campaign", "run", "2023-09", "2024-09", {}),
        ("campaign", "run", "September", "2023-09", {}),
        ("campaign", "run", "2023-09", "2023-09", {"rule": "joined"}),
        ("rule", "run", "2023-09", "2023-09", {}),
        ("price_change", "run", "2023-09", "2023-09", {"percent": 5000}),
    ):
        with pytest.raises(ValueError):
            DeclaredChange(kind, cohort, first, last, **more)


# ---- what blocks


def folder_with(tmp_path: Path, suite: str, **changed) -> Path:
    """The suites with `changed` in one file's rule `wrong_currency`, or, under `suite_wide`, in the file itself."""
    folder = Path(shutil.copytree(SUITES, tmp_path / "suites"))
    path = folder / f"{suite}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(changed.pop("suite_wide", {}))
    next(entry for entry in content["rules"] if entry["rule"] == "wrong_currency").update(changed)
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("changed", "releasable"),
    [
        ({}, ["issuer:HANBIT", "issuer:MIREU"]),
        ({"blocks": "all"}, []),
        ({"suite_wide": {"blocks": "all"}}, []),
        ({"suite_wide": {"blocks": "all"}, "blocks": "cohort"}, ["issuer:HANBIT", "issuer:MIREU"]),
        ({"blocks": "all", "severity": "warning"}, ["run"]),
    ],
    ids=["as shipped", "by rule", "by suite", "rule before suite", "a warning"],
)
def test_a_suite_says_whether_a_fault_of_one_issuer_keeps_the_others_back(verified, tmp_path, changed, releasable):
    suites = load_suites(folder_with(tmp_path, "charges", **changed))
    charges = month("2023-09")
    next(row for row in charges if row["issuer"] == "SORA")["currency"] = "USD"
    assert verified(charges, suites=suites).releasable == releasable


@pytest.mark.parametrize(
    "changed",
    [{"blocks": "issuer"}, {"suite_wide": {"blocks": "some"}}, {"lifted_by": "rule"}, {"lifted_by": ["holiday"]}],
    ids=str,
)
def test_what_blocks_or_is_lifted_in_no_known_way_is_refused(tmp_path, changed):
    with pytest.raises(UsageError, match=r"suite charges\.json"):
        load_suites(folder_with(tmp_path, "charges", **changed))
