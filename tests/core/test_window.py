"""Windows tile time with no gap and no overlap, in any zone; business days count as banks do."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.window import (
    Window,
    Windows,
    add_business_days,
    business_days_between,
    default_windows,
    is_business_day,
    why_not_meant,
)

ZONES = st.sampled_from(
    [ZoneInfo(name) for name in ("Asia/Seoul", "America/Sao_Paulo", "Africa/Cairo", "America/Havana", "UTC")]
)
DAYS = st.dates(min_value=date(2005, 1, 1), max_value=date(2035, 12, 31))
INSTANTS = st.datetimes(
    min_value=datetime(2005, 1, 2),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(2035, 12, 30),  # noqa: DTZ001
    timezones=st.just(UTC),
)
HOLIDAYS = st.frozensets(DAYS, max_size=30)
SEOUL = ZoneInfo("Asia/Seoul")


@given(INSTANTS, DAYS, st.integers(0, 40), st.integers(0, 40), ZONES)
def test_adjacent_windows_share_no_instant_and_leave_none_out(at, first, more, after, zone):
    left = Window(first, first + timedelta(days=more))
    right = Window(left.last + timedelta(days=1), left.last + timedelta(days=1 + after))
    both = Window(left.first, right.last)
    assert left.closes(zone) == right.opens(zone)
    assert left.contains(at, zone) + right.contains(at, zone) == both.contains(at, zone)


@given(DAYS, st.integers(0, 40), ZONES, st.integers(-3, 3))
def test_a_window_contains_exactly_the_instants_from_its_opening_up_to_its_closing(first, more, zone, shift):
    window = Window(first, first + timedelta(days=more))
    for edge in (window.opens(zone), window.closes(zone)):
        at = edge.astimezone(UTC) + timedelta(seconds=shift)
        assert window.contains(at, zone) == (
            window.opens(zone).astimezone(UTC) <= at < window.closes(zone).astimezone(UTC)
        )


def test_the_11th_and_12th_in_seoul_end_as_the_13th_begins_there():
    window = Window(date(2023, 9, 11), date(2023, 9, 12))
    assert window.contains(datetime(2023, 9, 10, 15, tzinfo=UTC), SEOUL)
    assert not window.contains(datetime(2023, 9, 10, 14, 59, 59, tzinfo=UTC), SEOUL)
    assert window.contains(datetime(2023, 9, 12, 14, 59, 59, 999999, tzinfo=UTC), SEOUL)
    assert not window.contains(datetime(2023, 9, 12, 15, tzinfo=UTC), SEOUL)


def test_a_moment_without_time_zone_is_in_no_window():
    with pytest.raises(ValueError, match="time zone"):
        Window(date(2023, 9, 11), date(2023, 9, 12)).contains(datetime(2023, 9, 11, 9), SEOUL)  # noqa: DTZ001


@given(DAYS)
def test_the_default_windows_overlap_on_the_12th_and_nowhere_else(day):
    windows = default_windows(day)
    assert windows.reversal.last == windows.rebill.first == day.replace(day=12)
    assert (windows.reversal.first.day, windows.rebill.last.day) == (11, 13)


@pytest.mark.parametrize(("day", "meant"), [(3, False), (4, True), (11, True), (12, True), (13, False), (30, False)])
def test_default_windows_are_meant_from_a_week_ahead_until_the_reversal_window_ends(day, meant):
    day = date(2023, 9, day)
    assert (why_not_meant(default_windows(day), day) is None) == meant


def test_one_day_is_a_window():
    assert Window.parse("2023-09-11") == Window(date(2023, 9, 11), date(2023, 9, 11))


@pytest.mark.parametrize("text", ["2023-09-12..2023-09-11", "11-12", "", "2023-02-30"])
def test_a_window_that_is_no_range_of_days_is_refused(text):
    with pytest.raises(ValueError, match=r"FIRST\.\.LAST"):
        Window.parse(text)


def test_nobody_is_rebilled_in_a_window_before_the_reversals():
    reversal, rebill = Window.parse("2023-09-12..2023-09-13"), Window.parse("2023-09-11..2023-09-13")
    with pytest.raises(ValueError, match="undone"):
        Windows(reversal, rebill)


@given(DAYS, st.integers(1, 15), HOLIDAYS)
def test_the_nth_business_day_is_a_business_day_and_the_nth(day, count, holidays):
    found = add_business_days(day, count, holidays)
    assert is_business_day(found, holidays)
    assert business_days_between(day, found, holidays) == count


@given(DAYS, st.integers(1, 8), st.integers(0, 8), HOLIDAYS)
def test_business_days_add_up(day, first, second, holidays):
    middle = add_business_days(day, first, holidays)
    assert add_business_days(middle, second, holidays) == add_business_days(day, first + second, holidays)


def test_five_business_days_after_a_day_before_chuseok_2023_fall_after_it():
    chuseok = {date(2023, 9, 28), date(2023, 9, 29), date(2023, 10, 2), date(2023, 10, 3)}
    assert add_business_days(date(2023, 9, 27), 1, chuseok) == date(2023, 10, 4)
