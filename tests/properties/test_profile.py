"""The profile counts what plain Python counts, for any months; cohorts add up to the run."""

import random
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.engine import DuckDBEngine
from pipeline.judge import load_suites
from tests.landed_runs import SUITES, Rows, as_history, land, month

MONTHS = ["2023-03", "2023-04", "2023-05", "2023-06", "2023-07", "2023-08", "2023-09"]
MEASURING = load_suites(SUITES).measuring | {"comparable_minimum": 1}

# Few values on few customers, so that bills repeat, vanish, double and turn negative all the time.
BILL = st.tuples(
    st.integers(0, 7),  # customer
    st.sampled_from([-100, 0, 100, 120, 200, 200, 300]),  # amount
    st.sampled_from(["HANBIT", "SORA", None]),
    st.sampled_from(["credit_card", "check_card", "pigeon"]),
    st.sampled_from(["A", "B", None]),
    st.sampled_from([1, 2, None]),  # cycle
    st.sampled_from(["right", "right", "right", "wrong"]),  # label
)
BILLS = st.lists(BILL, max_size=14)


def rows(period: str, bills: list[tuple]) -> Rows:
    charges = []
    for number, (customer, amount, issuer, method, plan, cycle, label) in enumerate(bills, start=1):
        row = month(period, 1)[0] | {
            "charge_id": f"{number % 9}",
            "customer_id": f"C{customer}" if customer else "",
            "amount_minor": amount,
            "issuer": issuer,
            "payment_method": method,
            "plan_code": plan,
            "bill_cycle": cycle,
            "billing_period": period if label == "right" else "1999-01",
            "source_row": number,
        }
        row |= dict.fromkeys(("base_fee_minor", "usage_fee_minor", "discount_minor", "tax_minor"))
        charges.append(row)
    return charges


def members(kind: str, cohort: str, row: dict) -> bool:
    if kind == "run":
        return True
    value = row[{"issuer": "issuer", "payment_method": "payment_method", "plan": "plan_code"}[kind]]
    return (value or "(none)") == cohort


def key(row: dict) -> tuple:
    return row["customer_id"], row["bill_cycle"] or 1


def amounts_by_account(charges: Rows) -> dict[tuple, int]:
    found: dict[tuple, int] = {}
    for row in charges:
        if row["customer_id"]:
            found[key(row)] = max(found.get(key(row), row["amount_minor"]), row["amount_minor"])
    return found


@settings(max_examples=60)
@given(st.lists(BILLS, min_size=1, max_size=7))
def test_the_profile_counts_what_plain_python_counts(months):
    *earlier, this = [rows(period, bills) for period, bills in zip(MONTHS[-len(months) :], months, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        run = land(Path(folder), MONTHS[-1], this)
        history = as_history(
            [land(Path(folder), p, r) for p, r in zip(MONTHS[-len(months) : -1], earlier, strict=True)]
        )
        with DuckDBEngine().measure(run, history, MEASURING) as measured:
            profile, lags, totals = measured.profile(), measured.lags(), measured.totals()
    last = earlier[-1] if earlier else []
    ids = Counter(row["charge_id"] for row in this)
    accounts = Counter(key(row) for row in this if row["customer_id"])
    for entry in profile:
        mine = [row for row in this if members(entry["cohort_kind"], entry["cohort"], row)]
        before = [row for row in last if members(entry["cohort_kind"], entry["cohort"], row)]
        assert entry["row_count"] == len(mine)
        assert entry["total_minor"] == sum(row["amount_minor"] for row in mine)
        assert entry["zero_count"] == sum(row["amount_minor"] == 0 for row in mine)
        assert entry["previous_row_count"] == len(before)
        assert entry["previous_total_minor"] == sum(row["amount_minor"] for row in before)
        assert entry["wrong_period"] == sum(row["billing_period"] != MONTHS[-1] for row in mine)
        assert entry["missing_customer_id"] == sum(row["customer_id"] == "" for row in mine)
        assert entry["unknown_payment_method"] == sum(row["payment_method"] == "pigeon" for row in mine)
        assert entry["duplicate_charge_id"] == sum(ids[row["charge_id"]] > 1 for row in mine)
        assert entry["duplicate_account"] == sum(accounts[key(row)] > 1 for row in mine)
        positive = sorted(row["amount_minor"] for row in mine if row["amount_minor"] > 0)
        assert entry["median_minor"] == (positive[(len(positive) - 1) // 2] if positive else None)
        assert entry["mean_minor"] == (sum(positive) // len(positive) if positive else None)
    for column in (
        "row_count",
        "total_minor",
        "wrong_period",
        "duplicate_account",
        "previous_row_count",
        "account_count",
    ):
        for kind in ("issuer", "payment_method", "plan"):
            parts = sum(entry[column] for entry in profile if entry["cohort_kind"] == kind)
            assert parts == profile[0][column], (column, kind)
    now, then = amounts_by_account(this), amounts_by_account(last)
    whole = profile[0]
    assert whole["account_count"] == len(now)
    assert whole["missing_count"] == len(set(then) - set(now))
    assert whole["new_count"] == len(set(now) - set(then))
    both = [(now[a], then[a]) for a in set(now) & set(then) if now[a] > 0 and then[a] > 0]
    assert (whole["compared_count"], whole["moved_count"]) == (
        len(both),
        sum(abs(new - old) * 100 > 30 * old for new, old in both),
    )
    assert totals[-1] == {"billing_period": MONTHS[-1], "charges": len(this), "total_minor": whole["total_minor"]}
    check_lags(lags, now, [amounts_by_account(charges) for charges in reversed(earlier)])


def test_repeats_are_counted_by_the_definition_in_a_year_of_months():
    """Every account is billed each month, from few amounts: all ways in which three months can differ or not occur."""
    draw = random.Random(2023)
    periods = [f"2022-{number:02d}" for number in range(9, 13)] + [f"2023-{number:02d}" for number in range(1, 10)]
    months = []
    for period in periods:
        bills = [
            (customer, draw.choice([0, 100, 200, 300]), "SORA", "credit_card", "A", 1, "right")
            for customer in range(1, 300)
        ]
        months.append(rows(period, bills))
    with tempfile.TemporaryDirectory() as folder:
        *earlier, this = [land(Path(folder), period, charges) for period, charges in zip(periods, months, strict=True)]
        with DuckDBEngine().measure(this, as_history(earlier), MEASURING) as measured:
            lags = measured.lags()
    check_lags(lags, amounts_by_account(months[-1]), [amounts_by_account(month) for month in reversed(months[:-1])])
    for entry in (entry for entry in lags if entry["cohort_kind"] == "issuer" and entry["lag"] < 12):
        *before, last, _ = months
        natural = shares_of(amounts_by_account(last), [amounts_by_account(month) for month in reversed(before)])
        assert entry["normal_share"] == min(natural[entry["lag"] - 1], MEASURING["normal_share_ceiling"])


def shares_of(now: dict[tuple, int], earlier: list[dict[tuple, int]]) -> list[float]:
    counted = [counts(now, earlier, index) for index in range(len(earlier))]
    return [repeated / comparable for comparable, repeated in counted]


def check_lags(lags: list[dict], now: dict[tuple, int], earlier: list[dict[tuple, int]]) -> None:
    """`earlier`: latest month first. Restates the definition of docs/gate.md, account by account."""
    whole = [entry for entry in lags if entry["cohort_kind"] == "run"]
    assert [entry["lag"] for entry in whole] == list(range(1, len(earlier) + 1))
    for index, entry in enumerate(whole):
        assert (entry["comparable"], entry["repeated"]) == counts(now, earlier, index), entry


def counts(now: dict[tuple, int], earlier: list[dict[tuple, int]], index: int) -> tuple[int, int]:
    others = [other for other in range(len(earlier)) if other != index][:2]
    comparable = repeated = 0
    for account, amount in now.items():
        bills = [earlier[each].get(account) for each in (index, *others)]
        varied = others and None not in bills and len(set(bills)) == len(bills)
        if varied and amount > 0 and bills[0] > 0:
            comparable += 1
            repeated += amount == bills[0]
    return comparable, repeated
