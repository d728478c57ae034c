"""Many failed rules become few causes, and a cause is named only where the rest of the evidence agrees."""

from collections.abc import Sequence
from dataclasses import replace

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
        {
            "cohort_kind": kind,
            "cohort": name,
            "signal": rule,
            "base": 10_000,
            "hits": hits,
            "normal_share": 0.0,
            "surprise": 50.0,
        }
        | row,
        {},
    )


def broken(rule: str, *, rows: int, of: int) -> Failure:
    found = failure(rule, hits=rows, **{rule: rows}, row_count=of)
    return replace(found, rule=replace(found.rule, unit="count", kwargs={"column": rule, "max_value": 0}))


def named(*failures: Failure, factors: Sequence[dict] = (), lags: Sequence[dict] = ()) -> list[str]:
    signals = [
        {"cohort_kind": "run", "cohort": "", "signal": f.rule.name, "base": 10_000, "hits": f.row["hits"], "normal_share": 0.0}
        for f in failures
    ]  # fmt: skip
    return [cause.name for cause in causes(failures, lambda each: each.rule.name, signals, factors, lags)]


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


def test_one_amount_in_every_bill_of_an_issuer_is_no_cap_though_none_there_is_larger():
    heap = failure("heaped", hits=400, cohort="issuer:Byeolbit", base=400)
    top = failure("at_the_maximum", hits=400, severity="warning")
    assert named(heap, top, factors=[factor("heaped", 0.7, 1.0, 1.4, amounts=1)])[0] == "one_amount"
    some = failure("heaped", hits=40, cohort="issuer:Byeolbit", base=400)
    assert named(some, top, factors=[factor("heaped", 0.7, 1.0, 1.4, amounts=1)])[0] == "capped"


def test_a_cap_that_many_pay_anyway_is_still_a_cap():
    lower = failure("base_changed", hits=390, base=400)
    top = failure("at_the_maximum", hits=410, severity="warning")
    assert named(lower, top, factors=[factor("base_changed", 0.25, 0.33, 0.5)])[0] == "capped"
    assert named(lower, factors=[factor("base_changed", 0.25, 0.33, 0.5)])[0] != "capped"


def test_heaps_that_lost_usage_leaves_are_neither_a_cap_nor_one_amount():
    heap, lost = failure("heaped", hits=900), failure("usage_vanished", hits=1_300)
    assert named(heap, lost, factors=[factor("heaped", 0.7, 0.9, 1.0, amounts=2)]) == ["usage"]


def test_a_common_factor_is_seen_though_other_bills_are_far_off_by_themselves():
    odd = failure("far_below", hits=300), failure("off_grid", hits=400)
    groups = [factor("far_off", 0.001, 0.04, 5), factor("off_grid", 0.0007, 0.00077, 0.0008)]
    assert named(*odd, factors=groups) == ["currency"]


def test_digits_lost_by_all_are_neither_zeroed_nor_capped():
    zero, low, base = (
        failure("zeroed", hits=6_000),
        failure("far_below", hits=1_500),
        failure("base_changed", hits=8_000),
    )
    heap = failure("heaped", hits=3_000)
    factors = [factor("heaped", 0.00002, 0.0001, 0.0002, amounts=8), factor("base_changed", 0.00002, 0.0001, 0.0002)]
    assert named(zero, low, base, heap, factors=factors)[0] == "truncated"
    assert named(zero, failure("base_changed", hits=6_000))[0] == "zeroed"


def test_bills_of_zero_are_named_also_where_so_many_were_zero_before_that_only_their_fees_are_odd():
    fees, zero = failure("base_changed", hits=200), failure("zeroed", hits=190, severity="warning")
    assert named(fees, zero)[0] == "zeroed"
    assert named(fees)[0] == "wrong_customer"


def test_doubled_usage_is_one_cause_whether_or_not_it_moved_the_totals():
    doubled = failure("usage_doubled", hits=3_500)
    raised = failure("usage_high", hits=3_500, severity="warning")
    assert named(doubled, raised) == ["usage"]
    assert named(doubled, raised, failure("total_drift", hits=10_000)) == ["usage"]


def test_totals_that_moved_with_usage_say_so():
    total = failure("total_drift", hits=0)
    assert named(total, failure("usage_high", hits=3_000, severity="warning")) == ["usage"]
    assert named(total, failure("usage_high", hits=300, severity="warning"))[0] == "drift"


def test_fees_that_differ_both_ways_are_other_customers_bills_and_no_new_prices():
    assert named(failure("base_changed", hits=900), factors=[factor("base_changed", 0.8, 1.0, 1.4)]) == [
        "wrong_customer"
    ]


def test_a_new_base_fee_for_some_of_a_plan_is_not_the_plans_new_price():
    some = failure("base_changed", hits=100, cohort="plan:5G-55", base=1_000)
    everybody = failure("base_changed", hits=990, cohort="plan:5G-55", base=1_000)
    step = factor("base_changed", 0.95, 0.955, 0.96)
    assert named(some, factors=[step]) == ["stale_tariff"]
    assert named(everybody, factors=[step]) == ["price_change"]


def test_base_fees_that_move_by_a_small_step_every_month_creep():
    step = factor("base_changed", 1.0099, 1.01, 1.01)
    assert named(failure("stale_base", hits=160), factors=[step]) == ["slow_creep"]
    assert named(failure("heaped", hits=30), factors=[step, factor("heaped", 1.01, 1.01, 1.01, amounts=2)]) == [
        "slow_creep"
    ]
    assert named(failure("stale_base", hits=160)) == ["stale_tariff"]


def test_wrong_labels_and_dates_are_an_earlier_months_bills_where_about_as_many_more_repeat_it():
    label, dates = (broken(rule, rows=30, of=30_000) for rule in ("wrong_period", "service_outside_period"))
    lags = [
        {"cohort_kind": "run", "comparable": 24_000, "normal_share": 0.0025, "repeated": number}
        for number in (60, 55, 65)
    ]
    repeating = [*lags, lags[0] | {"repeated": 95}]
    assert named(label, dates, lags=repeating) == ["earlier_month"]
    assert named(label, dates, lags=lags) == ["label"]
    assert named(label, lags=repeating) == ["label"], "the dates are right, so the bill is this month's"
    often = [lag | {"repeated": 90} for lag in lags]
    assert named(label, dates, lags=[*often, *repeating]) == ["label"], "so many repeat any month"


def test_what_nothing_explains_is_told_by_its_own_rule():
    assert named(failure("some_new_rule", hits=5)) == ["some_new_rule"]


def test_a_warning_that_a_cause_explains_is_no_cause_of_its_own():
    assert named(failure("times_10", hits=200), failure("mean_drift_notable", hits=0, severity="warning")) == [
        "unit_slip"
    ]


def test_a_clean_run_has_no_cause():
    assert named() == []
