"""Days on which money may move, and days on which banks work.

Belongs here: windows as whole days of the business time zone, the default ones of an incident, counting business days.
Does not: asking what time it is now, or knowing any country's holidays (`adapters.holiday_calendar`).
"""

from collections.abc import Set
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

DEFAULT_REVERSAL_DAYS = (11, 12)
"""Days of the month, both included, on which wrong charges are voided and refunded."""

DEFAULT_REBILL_DAYS = (12, 13)
"""Days of the month on which the right amounts are charged. The 12th is in both: who was undone on the 11th can be charged on it."""

DEFAULTS_REACH_DAYS = 7
"""How far off the default windows may open and still be meant; for anything later a person names the days."""

ONE_DAY = timedelta(days=1)
SATURDAY = 5


@dataclass(frozen=True, slots=True)
class Window:
    """Days `first` to `last`, both included: from the first's midnight up to, not including, the midnight after the last."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"a window that begins on {self.first} cannot end on {self.last}")

    @classmethod
    def parse(cls, text: str) -> "Window":
        """`2023-09-11..2023-09-12`, or one day alone.

        Raises:
            ValueError: it is neither.
        """
        first, _, last = text.partition("..")
        try:
            return cls(date.fromisoformat(first), date.fromisoformat(last or first))
        except ValueError as error:
            raise ValueError(
                f"a window is FIRST..LAST such as 2023-09-11..2023-09-12; not {text!r} ({error})"
            ) from None

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"

    def opens(self, timezone: ZoneInfo) -> datetime:
        """The instant the first day begins."""
        return datetime.combine(self.first, time(), timezone)

    def closes(self, timezone: ZoneInfo) -> datetime:
        """The instant the day after the last begins: no longer in the window."""
        return datetime.combine(self.last + ONE_DAY, time(), timezone)

    def contains(self, as_of: datetime, timezone: ZoneInfo) -> bool:
        """Whether `as_of` (time-zone aware) falls on one of the days."""
        if as_of.tzinfo is None:
            raise ValueError("a moment has a time zone")
        return self.first <= as_of.astimezone(timezone).date() <= self.last


@dataclass(frozen=True, slots=True)
class Windows:
    """When wrong charges are undone, and when the right amounts are charged; the two may overlap.

    Raises:
        ValueError: charging would begin, or end, before undoing does.
    """

    reversal: Window
    rebill: Window

    def __post_init__(self) -> None:
        if self.rebill.first < self.reversal.first or self.rebill.last < self.reversal.last:
            raise ValueError(
                f"rebill {self.rebill} would come before reversal {self.reversal}: nobody is charged before being undone"
            )


def default_windows(as_of_day: date) -> Windows:
    """The windows of the month that `as_of_day` (business time zone) falls in."""
    days = [as_of_day.replace(day=day) for day in (*DEFAULT_REVERSAL_DAYS, *DEFAULT_REBILL_DAYS)]
    return Windows(Window(*days[:2]), Window(*days[2:]))


def why_not_meant(windows: Windows, as_of_day: date) -> str | None:
    """Why default windows cannot be what is meant on `as_of_day`: they have begun to pass, or are far off; None if they can."""
    if windows.reversal.last < as_of_day:
        return f"the default reversal window {windows.reversal} is past on {as_of_day}"
    if (windows.reversal.first - as_of_day).days > DEFAULTS_REACH_DAYS:
        return (
            f"the default reversal window {windows.reversal} is more than {DEFAULTS_REACH_DAYS} days off on {as_of_day}"
        )
    return None


def is_business_day(day: date, holidays: Set[date]) -> bool:
    """Neither Saturday, Sunday nor one of `holidays`."""
    return day.weekday() < SATURDAY and day not in holidays


def add_business_days(day: date, count: int, holidays: Set[date]) -> date:
    """The `count`th business day after `day`; with 0 the day itself, or the first business day after it."""
    assert count >= 0
    if count == 0 and is_business_day(day, holidays):
        return day
    for _ in range(max(count, 1)):
        day += ONE_DAY
        while not is_business_day(day, holidays):
            day += ONE_DAY
    return day


def business_days_between(first: date, last: date, holidays: Set[date]) -> int:
    """Business days after `first`, up to and including `last`; 0 when `last` is not later."""
    return sum(
        is_business_day(date.fromordinal(n), holidays) for n in range(first.toordinal() + 1, last.toordinal() + 1)
    )
