"""Nothing passes unmeasured; a suite says what it means or is refused by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import expectations
from pipeline.core.calibration import Default, Learned, learn
from pipeline.core.verdict import Table
from pipeline.errors import UsageError
from pipeline.judge import Suites, Verdict, judge, load_suites
from tests.landed_runs import SUITES

HISTORY = ["2023-08", "2023-07"]


@pytest.fixture(scope="module")
def suites() -> Suites:
    return load_suites(SUITES)


def profile(suites: Suites, *cohorts: tuple[str, str]) -> Table:
    """A profile in which nothing is wrong: counts of violations are 0, populations ample, drifts nil."""
    zeros = {rule.kwargs["column"]: 0 for rule in suites.rules if rule.table == "profile"}
    counts = {column: 5000 for rule in suites.rules for column in rule.kwargs.get("judged_where", {})}
    money = dict.fromkeys(("positive_minor", "previous_positive_minor", "mean_minor", "median_minor"), 1000)
    shown = {"zero_count": 0, "missing_count": 0, "moved_count": 0, "moved_share": 0.1, "previous_moved_share": 0.1}
    row = zeros | counts | money | shown | {"row_count": 5000}
    return [{"cohort_kind": kind, "cohort": name} | row for kind, name in cohorts]


def whole(suites: Suites) -> Table:
    return profile(
        suites, ("run", ""), ("issuer", "HANBIT"), ("issuer", "SORA"), ("payment_method", "x"), ("plan", "y")
    )


def lags(table: Table, excess: float | None = 0.0) -> Table:
    return [
        {key: row[key] for key in ("cohort_kind", "cohort")}
        | {"compared_with": period, "lag": lag, "comparable": 3000, "repeated": 0}
        | {
            "repeat_share": excess,
            "normal_share": 0.0,
            "repeat_excess": excess,
            "repeat_surprise": 1000 * (excess or 0),
        }
        for row in table
        for lag, period in enumerate(HISTORY, start=1)
    ]


def signals(suites: Suites, table: Table) -> Table:
    """No signal at all."""
    nothing = {"base": 3000, "hits": 0, "share": 0.0, "normal_share": 0.0, "excess_share": 0.0, "has_normal": 1}
    return [
        {key: row[key] for key in ("cohort_kind", "cohort")}
        | {"signal": name, "surprise": 0.0, "deficit": 0.0}
        | nothing
        for row in [
            *table,
            {"cohort_kind": "issuer_method", "cohort": "a / b"},
            {"cohort_kind": "issuer_plan", "cohort": "a / c"},
        ]
        for name in suites.measuring["signals"]
    ]


def verdict(
    suites: Suites,
    table: Table,
    lag_table: Table | None = None,
    history: list[str] | None = None,
    signal_table: Table | None = None,
) -> Verdict:
    return judge(
        table,
        lags(table) if lag_table is None else lag_table,
        signals(suites, table) if signal_table is None else signal_table,
        list,
        suites,
        billing_period="2023-09",
        history=HISTORY if history is None else history,
        currency="KRW",
    )


def test_a_profile_in_which_nothing_is_wrong_is_released(suites):
    clean = verdict(suites, whole(suites))
    assert (clean.decision, clean.findings) == ("release", [])
    assert all(rule["judged"] for rule in clean.rules)


# ---- vacuous passes


def test_an_empty_profile_is_held(suites):
    empty = verdict(suites, [], [])
    assert empty.decision == "hold"
    assert "the profile has 0 rows for the whole run" in empty.findings[0].explanation


def test_a_profile_without_its_whole_run_is_held(suites):
    assert verdict(suites, whole(suites)[1:]).decision == "hold"


def test_a_profile_without_a_kind_of_cohort_is_held(suites):
    table = [row for row in whole(suites) if row["cohort_kind"] in ("run", "issuer")]
    table = [row for row in table if row["cohort_kind"] != "issuer"]
    held = verdict(suites, table)
    assert held.decision == "hold"
    assert any("no cohort of kind" in finding.explanation for finding in held.findings)


@pytest.mark.parametrize("rule", [rule.name for rule in load_suites(SUITES).rules])
def test_a_metric_that_is_null_is_held_whatever_the_severity(suites, rule):
    asked = next(each for each in suites.rules if each.name == rule)
    table, lag_table = whole(suites), lags(whole(suites))
    signal_table = signals(suites, table)
    judged = {"profile": table, "lags": lag_table, "signals": signal_table}[asked.table]
    judged = [row for row in judged if row.get("signal") == asked.kwargs.get("signal")]
    target = next(row for row in judged if row["cohort_kind"] == asked.kwargs["cohorts"][-1])
    target[asked.kwargs["column"]] = None
    held = verdict(suites, table, lag_table, signal_table=signal_table)
    assert held.decision == "hold"
    assert any(f.rule == rule and f.observed == "not measured" and "is NULL" in f.explanation for f in held.findings)


def test_a_metric_that_is_not_a_number_is_held(suites):
    table = whole(suites)
    table[0]["total_drift"] = float("nan")
    assert verdict(suites, table).decision == "hold"


def test_a_population_that_is_null_is_held_rather_than_too_small(suites):
    table = whole(suites)
    table[1]["previous_row_count"] = None
    assert verdict(suites, table).decision == "hold"


def test_a_rule_that_errs_is_held(suites):
    table = whole(suites)
    for row in table:
        del row["unknown_plan"]
    held = verdict(suites, table)
    assert held.decision == "hold"
    assert [(f.rule, f.severity, f.observed) for f in held.findings] == [("unknown_plan", "critical", "not measured")]


def test_a_month_that_was_not_compared_is_held(suites):
    table = whole(suites)
    one_month = [row for row in lags(table) if row["compared_with"] == "2023-08"]
    held = verdict(suites, table, one_month)
    assert held.decision == "hold"
    assert "not compared with 2023-07" in held.findings[0].explanation


def test_without_history_the_comparison_is_not_judged_and_said_so(suites):
    released = verdict(suites, whole(suites), [], history=[])
    assert released.decision == "release"
    assert ("repeat_share", "run", "no earlier month to compare with") in {
        (item.rule, item.cohort, item.reason) for item in released.not_judged
    }


def test_a_small_cohort_is_not_judged_and_named(suites):
    table = whole(suites)
    small = next(row for row in table if row["cohort"] == "SORA")
    small |= {"previous_positive_count": 499, "mean_drift": 9.0, "median_drift": None, "total_drift": None}
    released = verdict(suites, table)
    assert released.decision == "release"
    assert {(item.rule, item.cohort) for item in released.not_judged} == {
        (rule, "issuer:SORA") for rule in ("mean_drift", "median_drift", "total_drift")
    }


# ---- severity, and one cause told once


def test_a_warning_is_released_with_its_finding(suites):
    table = whole(suites)
    table[0]["mean_drift"] = 0.2
    released = verdict(suites, table)
    assert released.decision == "release"
    assert [(f.rule, f.severity, f.observed) for f in released.findings] == [
        ("mean_drift_notable", "warning", "+20.0 %")
    ]


def test_thresholds_are_included(suites):
    table = whole(suites)
    table[0]["mean_drift"] = 0.4
    assert verdict(suites, table).decision == "release"
    table[0]["mean_drift"] = 0.4000001
    assert verdict(suites, table).decision == "hold"


def test_a_fault_of_the_whole_run_is_told_once(suites):
    table = whole(suites)
    held = verdict(suites, table, lags(table, excess=0.99))
    assert {f.cohort for f in held.findings} == {"run"}
    assert [f.rule for f in held.findings if f.severity == "critical"] == ["repeat_share"] * len(HISTORY)
    assert [cause.name for cause in held.causes] == ["earlier_month"]


def test_a_fault_of_one_issuer_is_told_of_that_issuer(suites):
    table = whole(suites)
    for row, count in zip(table, (7, 7, 0, 7, 7), strict=True):
        row["wrong_currency"] = count
    held = verdict(suites, table)
    assert [f.cohort for f in held.findings] == ["issuer:HANBIT"]
    assert held.failing_issuers == ["HANBIT"]
    assert not held.whole_run_only


def test_the_wrong_month_comes_before_what_follows_from_it(suites):
    table = whole(suites)
    for row in table:
        row |= {"total_drift": 0.9, "mean_drift": 0.9, "missing_share": 0.5}
    held = verdict(suites, table, lags(table, excess=0.99))
    assert [f.rule for f in held.findings][:2] == ["repeat_share", "repeat_share"]


# ---- what was learned

STEADY = (0.01, -0.004, 0.006, 0.0, -0.008, 0.012, 0.004, -0.002, 0.008, -0.01, 0.002, 0.005)


@pytest.fixture
def calibrated(suites: Suites) -> Suites:
    """A year of steady totals, but for a high December, was learned for the whole run and HANBIT."""
    observations = [
        {"subject": "rule", "name": "total_drift", "cohort": cohort, "value": value, "base": 5000,
         "billing_period": f"2022-{month:02d}"}
        for cohort in ("run", "issuer:HANBIT")
        for month, value in enumerate((*STEADY[:11], 0.3), start=1)
    ]  # fmt: skip
    bounds, _ = learn(observations, {"total_drift": Default(-0.4, 0.4, "change")}, {})
    return replace(suites, learned=Learned({}, {"total_drift": (-0.4, 0.4)}, tuple(bounds), []))


def drifted(suites: Suites, cohort: str, drift: float) -> Table:
    table = whole(suites)
    next(row for row in table if row["cohort"] == cohort)["total_drift"] = drift
    return table


def test_a_drift_that_the_default_lets_through_is_held_by_what_was_learned_and_says_so(suites, calibrated):
    table = drifted(suites, "HANBIT", 0.2)
    assert verdict(suites, table).decision == "release"
    held = verdict(calibrated.of_period("2023-09"), table)
    assert [(f.rule, f.cohort, f.observed) for f in held.findings] == [("total_drift", "issuer:HANBIT", "+20.0 %")]
    low, high = calibrated.learned.ranges("total_drift", 9)["issuer:HANBIT"]
    assert held.findings[0].expected == f"between {100 * low:+.1f} % and {100 * high:+.1f} %, learned from past months"


def test_a_cohort_that_was_not_learned_keeps_the_default(suites, calibrated):
    assert verdict(calibrated.of_period("2023-09"), drifted(suites, "SORA", 0.39)).decision == "release"
    held = verdict(calibrated.of_period("2023-09"), drifted(suites, "SORA", 0.41))
    assert held.findings[0].expected == "between -40.0 % and +40.0 %"


def test_a_december_as_high_as_the_last_is_released(suites, calibrated):
    table = drifted(suites, "HANBIT", 0.3)
    assert verdict(calibrated.of_period("2023-12"), table).decision == "release"
    assert verdict(calibrated.of_period("2023-11"), table).decision == "hold"


def test_a_threshold_changed_since_counts_instead_of_what_was_learned_for_the_old_one(suites, calibrated):
    rules = tuple(
        replace(rule, kwargs=rule.kwargs | {"max_value": 0.6}) if rule.name == "total_drift" else rule
        for rule in calibrated.rules
    )
    edited = replace(calibrated, rules=rules).of_period("2023-09")
    released = verdict(edited, drifted(suites, "HANBIT", 0.5))
    assert released.decision == "release"
    assert [item.rule for item in released.not_judged] == ["total_drift"]
    assert "changed after bounds were learned" in released.not_judged[0].reason


# ---- suites


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SUITES, tmp_path / "suites"))


def edit(folder: Path, suite: str, rule: str, /, **changed: Any) -> None:
    path = folder / f"{suite}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    next(entry for entry in content["rules"] if entry["rule"] == rule).update(changed)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_threshold_changed_is_another_digest(folder, suites, monkeypatch):
    assert load_suites(folder).digest == suites.digest
    edit(folder, "charges", "wrong_tax", severity="warning")
    assert load_suites(folder).digest != suites.digest
    monkeypatch.setitem(expectations.RULE_CLASS_VERSIONS, "expect_cohort_metric_to_be_between", 99)
    assert load_suites(SUITES).digest != suites.digest


def test_the_layout_of_a_suite_file_is_no_part_of_its_digest(folder, suites):
    path = folder / "repeats.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=8), encoding="utf-8")
    assert load_suites(folder).digest == suites.digest


def test_an_analysts_threshold_decides(folder, suites):
    edit(folder, "charges", "wrong_tax", kwargs={"column": "wrong_tax", "max_value": 3, "cohorts": ["run"]})
    table = whole(suites)
    table[0]["wrong_tax"] = 3
    assert verdict(load_suites(folder), table).decision == "release"


def test_an_expectation_of_great_expectations_own_may_be_used(folder, suites):
    few = {"min_value": 100}
    edit(folder, "charges", "wrong_tax", type="expect_table_row_count_to_be_between", kwargs=few)
    held = verdict(load_suites(folder), whole(suites))
    assert [(f.rule, f.observed) for f in held.findings] == [("wrong_tax", "5")]


def test_a_slip_in_a_sentence_costs_no_finding(folder, suites):
    edit(folder, "charges", "wrong_tax", says="{where}: {no_such_metric:count}")
    table = whole(suites)
    table[0]["wrong_tax"] = 2
    held = verdict(load_suites(folder), table)
    assert held.findings[0].explanation.startswith("whole run: 2, expected none. Tax is")


@pytest.mark.parametrize(
    "changed",
    [
        {"severity": "fatal"},
        {"unit": "furlong"},
        {"threshold": 3},
        {"rank": "first"},
        {"kwargs": {"column": "wrong_tax", "cohorts": ["run"]}},
        {"kwargs": {"column": "wrong_tax", "cohorts": ["run"], "max_value": "many"}},
        {"kwargs": {"column": "wrong_tax", "cohorts": ["run"], "min_value": 2, "max_value": 1}},
        {"kwargs": {"column": "wrong_tax", "cohorts": ["run"], "max_value": 1, "max_vlaue": 0}},
        {"kwargs": {"column": "wrong_tax", "max_value": 1}},
        {"type": "expect_the_unexpected"},
        {"rule": "over_limit"},
    ],
    ids=str,
)
def test_a_bad_rule_is_refused_with_file_and_name(folder, suites, changed):
    edit(folder, "charges", "wrong_tax", **changed)
    with pytest.raises(UsageError, match=r"suite charges\.json, rule (wrong_tax|over_limit)"):
        verdict(load_suites(folder), whole(suites))


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"table": "profile"}', '{"table": "customers", "rules": []}', '{"table": "lags", "rules": [3]}'],
)
def test_a_bad_suite_file_is_refused_by_name(folder, content):
    (folder / "repeats.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"suite repeats\.json"):
        load_suites(folder)


def test_no_suites_are_no_verdict(tmp_path):
    with pytest.raises(UsageError, match="nothing would be judged"):
        load_suites(tmp_path)


def test_a_parameter_of_the_measurement_must_be_set(folder):
    (folder / "repeats.json").unlink()
    with pytest.raises(UsageError, match="comparable_minimum"):
        load_suites(folder)
