"""Money is exact, periods count in months, and the calendar names the month that may be charged."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.billing_period import BillingCalendar, BillingPeriod
from pipeline.core.money import Money, format_minor

PERIODS = st.builds(BillingPeriod, st.integers(1990, 2090), st.integers(1, 12))


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (52300, "KRW", "₩52,300"),
        (391300, "TWD", "NT$3,913.00"),
        (-5, "USD", "-US$0.05"),
        (1, "KWD", "KWD 0.001"),
        (7, "XXX", "XXX 7"),
    ],
)
def test_an_amount_is_shown_with_its_currencys_decimals(amount, currency, shown):
    assert format_minor(amount, currency) == shown


@pytest.mark.parametrize("amount", [1.0, True, "5"])
def test_money_refuses_what_is_not_a_whole_number(amount):
    with pytest.raises(TypeError, match="whole number"):
        Money(amount, "KRW")


def test_money_refuses_an_unknown_currency():
    with pytest.raises(ValueError, match="unknown currency"):
        Money(1, "WON")


@pytest.mark.parametrize(
    "label", ["2023-9", "2023-13", "2023-00", "202309", "２０２３-09", "2023-09 ", "", "2023-09-01"]
)
def test_a_period_is_read_strictly(label):
    with pytest.raises(ValueError, match="YYYY-MM"):
        BillingPeriod.parse(label)


@given(PERIODS, st.integers(-500, 500))
def test_adding_months_and_counting_them_agree(period, months):
    assert period.plus(months).months_since(period) == months
    assert BillingPeriod.parse(str(period)) == period


@given(PERIODS)
def test_periods_tile_the_days_without_gap_or_overlap(period):
    assert period.plus(1).first_day.toordinal() == period.last_day.toordinal() + 1


def test_the_calendar_expects_this_month_or_an_earlier_one():
    september = date(2023, 9, 11)
    assert BillingCalendar().expected(september) == BillingPeriod(2023, 9)
    assert BillingCalendar(months_in_arrears=1).expected(september) == BillingPeriod(2023, 8)
    assert BillingCalendar(first_day=12, last_day=13).expected(september) is None
