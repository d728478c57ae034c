"""The month a bill is for.

Belongs here: reading, writing and counting months, and which month the billing calendar expects to be
charged on a day. Does not: windows of days (`window`) or anything that asks what time it is now.
"""

import re
from dataclasses import dataclass
from datetime import date

_LABEL = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, order=True)
class BillingPeriod:
    """One calendar month, written `YYYY-MM`."""

    year: int
    month: int

    @classmethod
    def parse(cls, label: str) -> "BillingPeriod":
        """The period that `label` names.

        Raises:
            ValueError: `label` is not exactly `YYYY-MM` in ASCII digits.
        """
        if not _LABEL.fullmatch(label):
            raise ValueError(f"a billing period is written YYYY-MM, such as 2023-09; not {label!r}")
        return cls(int(label[:4]), int(label[5:]))

    @classmethod
    def of(cls, day: date) -> "BillingPeriod":
        """The month `day` falls in."""
        return cls(day.year, day.month)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"

    def plus(self, months: int) -> "BillingPeriod":
        """The period `months` later (earlier, when negative)."""
        index = self.year * 12 + self.month - 1 + months
        return BillingPeriod(index // 12, index % 12 + 1)

    def months_since(self, other: "BillingPeriod") -> int:
        """How many months lie between `other` and this one; negative when `other` is later."""
        return (self.year - other.year) * 12 + self.month - other.month

    @property
    def first_day(self) -> date:
        return date(self.year, self.month, 1)

    @property
    def last_day(self) -> date:
        return date.fromordinal(self.plus(1).first_day.toordinal() - 1)

    @property
    def month_name(self) -> str:
        """The English month name, as findings say it: "July's charges in September's run"."""
        return self.first_day.strftime("%B")


@dataclass(frozen=True, slots=True)
class BillingCalendar:
    """Which period may be charged without a person deciding.

    Attributes:
        months_in_arrears: 0 when September's bill is charged in September (the incident's case), 1 when
            it is charged in October.
        first_day, last_day: days of the month on which it is charged, both included.
    """

    months_in_arrears: int = 0
    first_day: int = 1
    last_day: int = 31

    def expected(self, day: date) -> BillingPeriod | None:
        """The period expected to be charged on `day` (business time zone), or None on a day that charges nothing."""
        if not self.first_day <= day.day <= self.last_day:
            return None
        return BillingPeriod.of(day).plus(-self.months_in_arrears)
