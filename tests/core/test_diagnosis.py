"""Many failed rules become few causes, and a cause is named only where the rest of the evidence agrees."""

from pipeline.core.diagnosis import causes
from pipeline.core.rule import Failure, Rule


def failure(rule: str, *, hits: int, severity: str = "critical", cohort: str = "run", **row: object) -> Failure:
    stated = Rule(
        name=rule, suite="signals.json", table="signals", rank=3, severity=severity, type="", description=f"{rule} is as ever.",
        kwargs={"column": "surprise", "max_value": 9}, says="", unit="nats", confidence="near certain",
    )  # fmt: skip
    kind, _, name = cohort.partition(":")
    return Failure(
        stated,
        "failed",
        {"cohort_kind": kind, "cohort": name, "signal": rule, "hits": hits, "surprise": 50.0} | row,
        {},
    )


def named(*failures: Failure, factors: list | None = None) -> list[str]:
    signals = [
        {"cohort_kind": "run", "cohort": "", "signal": f.rule.name, "base": 10_000, "hits": f.row["hits"], "normal_share": 0.0}
        for f in failures
    ]  # fmt: skip
    return [cause.name for cause in causes(failures, lambda each: each.rule.name, signals, factors or [])]


def factor(kind: str, lower: float, middle: float, upper: float, amounts: int = 500) -> dict:
    return {"kind": kind, "bills": 500, "amounts": amounts, "lower": lower, "middle": middle, "upper": upper}


def test_whatever_a_slipped_unit_breaks_is_one_cause():
    rules = ("times_10", "far_above", "base_changed", "rounded_off", "total_drift")
    assert named(*(failure(rule, hits=200) for rule in rules)) == ["unit_slip"]


def test_two_faults_are_two_causes():
    assert named(failure("times_10", hits=200), failure("missing", hits=300)) == ["unit_slip", "customers_missing"]


def test_a_factor_that_is_no_power_of_ten_is_an_exchange_rate():
    odd = failure("far_below", hits=200)
    assert named(odd, factors=[factor("far_off", 0.0007, 0.00077, 0.0009)]) == ["currency"]
    assert named(odd, factors=[factor("far_off", 0.09, 0.1, 0.11)]) != ["currency"]


def test_one_amount_is_a_cap_only_where_people_paid_more_before():
    heap = failure("heaped", hits=300)
    assert named(heap, factors=[factor("heaped", 0.5, 0.7, 0.9, amounts=1)]) == ["capped"]
    assert named(heap, factors=[factor("heaped", 0.5, 1.2, 3.0, amounts=1)]) == ["one_amount"]


def test_repeats_that_come_by_chance_do_not_hide_what_is_larger():
    few = failure("repeat_share", hits=0, repeated=30, comparable=10_000, normal_share=0.001)
    assert named(few, failure("zeroed", hits=2_000))[0] == "zeroed"
    many = failure("repeat_share", hits=0, repeated=9_000, comparable=10_000, normal_share=0.001)
    assert named(many, failure("zeroed", hits=2_000)) == ["earlier_month"]


def test_what_nothing_explains_is_told_by_its_own_rule():
    assert named(failure("some_new_rule", hits=5)) == ["some_new_rule"]


def test_a_warning_that_a_cause_explains_is_no_cause_of_its_own():
    assert named(failure("times_10", hits=200), failure("mean_drift_notable", hits=0, severity="warning")) == [
        "unit_slip"
    ]


def test_a_clean_run_has_no_cause():
    assert named() == []
