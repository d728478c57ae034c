"""Learned bounds: robust, seasonal, never silly - and a file of them is believed only as it was written."""

import json
import random

import pytest

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.calibration import FLOORS, Bound, Default, Learned, learn

FIRST = BillingPeriod(2021, 1)
DEFAULT = Default(-0.4, 0.4, "change")
STEADY = [0.01, -0.004, 0.006, 0.0, -0.008, 0.012, 0.004, -0.002, 0.008, -0.01, 0.002, 0.005]


def observed(
    values: list[float], cohort: str = "run", base: int = 20_000, subject: str = "rule", name: str = "drift"
) -> list[dict]:
    return [
        {"subject": subject, "name": name, "cohort": cohort, "billing_period": str(FIRST.plus(month)), "value": value, "base": base}
        for month, value in enumerate(values)
    ]  # fmt: skip


def bounds_of(*series: list[dict], default: Default = DEFAULT) -> dict[str, Bound]:
    bounds, _ = learn([row for rows in series for row in rows], {"drift": default}, {})
    return {bound.cohort: bound for bound in bounds}


def test_a_steady_metric_is_bounded_near_it_and_never_below_the_floor():
    noisy, flat = bounds_of(observed(STEADY))["run"], bounds_of(observed([0.02] * 12))["run"]
    assert -0.1 < noisy.low <= min(STEADY) and max(STEADY) <= noisy.high < 0.1
    assert (flat.low, flat.high) == pytest.approx((0.02 - FLOORS["change"], 0.02 + FLOORS["change"]))


def test_one_wild_month_does_not_widen_the_bounds():
    wild = [*STEADY[:5], 3.0, *STEADY[6:]]
    found, without = bounds_of(observed(wild))["run"], bounds_of(observed(STEADY))["run"]
    assert found.high < without.high + 0.02 and found.low > without.low - 0.02
    assert found.seen[1] == 3.0


def test_a_december_is_judged_beside_last_december():
    year = [*STEADY[:11], 0.5]
    found = bounds_of(observed(year + STEADY[:6]))["run"]
    assert found.at(12)[1] >= 0.5 > found.at(6)[1]
    assert found.at(12)[0] == found.low


def test_less_than_a_year_has_no_season_and_stays_halfway_to_the_default():
    found = bounds_of(observed([*STEADY[:7], 0.3]))["run"]
    assert found.in_month == {}
    assert 0.2 < found.high < 0.4


def test_too_few_months_keep_the_default_and_are_named():
    bounds, not_learned = learn(observed(STEADY[:5], "issuer:HANBIT"), {"drift": DEFAULT}, {})
    assert bounds == []
    assert [(row["name"], row["cohort"]) for row in not_learned] == [("drift", "issuer:HANBIT")]
    assert "5 months, of at least 6" in not_learned[0]["reason"]


def test_bounds_are_no_wider_than_the_default_unless_the_months_went_further():
    restless = [0.3, -0.3] * 6
    assert (bounds_of(observed(restless))["run"].low, bounds_of(observed(restless))["run"].high) == (-0.4, 0.4)
    further = bounds_of(observed([*restless, 0.55]))["run"]
    assert further.high == 0.55 and further.low == -0.4


def test_a_bound_that_the_rule_does_not_have_is_not_learned():
    found = bounds_of(observed([abs(v) for v in STEADY]), default=Default(None, 0.1, "share"))["run"]
    assert found.low is None and found.high < 0.1


def test_a_small_cohort_is_drawn_to_the_whole_run():
    chance = random.Random(1)
    whole = observed([chance.gauss(0.0, 0.01) for _ in range(12)], base=5_000)
    apart = [0.2 + chance.gauss(0.0, 0.001) for _ in range(12)]
    found = bounds_of(whole, observed(apart, "plan:SMALL", 500), observed(apart, "plan:LARGE", 50_000))
    small, large = found["plan:SMALL"], found["plan:LARGE"]
    assert (small.low + small.high) / 2 == pytest.approx(0.1, abs=0.02)  # halfway to the run's 0
    assert (large.low + large.high) / 2 == pytest.approx(0.2, abs=0.02)
    assert small.high - small.low > 2 * (large.high - large.low)


def test_a_signals_normal_share_is_what_its_months_had_without_a_wild_one():
    shares = [0.010, 0.012, 0.009, 0.011, 0.010, 0.013, 0.2, 0.011]
    found = bounds_of(observed(shares, subject="signal", name="joined"))["run"]
    assert found.low == 0.009 and 0.013 <= found.high < 0.03


def test_a_cohort_too_small_for_a_share_of_its_own_is_named():
    bounds, not_learned = learn(observed([0.01] * 8, "plan:TINY", 150, "signal", "joined"), {}, {})
    assert bounds == [] and "150 bills" in not_learned[0]["reason"]


@pytest.fixture
def written() -> dict:
    bounds, _ = learn(observed([*STEADY[:11], 0.5]), {"drift": DEFAULT}, {("rule", "drift", "run"): (-0.4, 0.4)})
    return json.loads(json.dumps(Learned({"suites": "d"}, {"drift": (-0.4, 0.4)}, tuple(bounds), []).to_json()))


def test_what_was_written_is_read_back(written):
    found = Learned.from_json(written)
    assert found.to_json() == Learned.from_json(json.loads(json.dumps(found.to_json()))).to_json()
    assert found.ranges("drift", 12)["run"][1] >= 0.5 > found.ranges("drift", 5)["run"][1]


def test_a_bound_changed_by_hand_is_refused(written):
    written["bounds"][0]["high"] = 9.0
    with pytest.raises(ValueError, match="damaged, or changed by hand"):
        Learned.from_json(written)


@pytest.mark.parametrize("content", [[], {}, {"kind": "learned"}, {"kind": "learned", "bounds": 3}], ids=str)
def test_what_is_no_file_of_bounds_is_refused(content):
    with pytest.raises(ValueError):
        Learned.from_json(content)
