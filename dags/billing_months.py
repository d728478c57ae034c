"""A timetable of billing months for backfills, that never starts a run by itself.

Belongs here: which months a range of dates means. Does not: which month the nightly run takes (`stages`).

Why not a cron expression: a cron timetable would also start a run every month, and a backfill's range filters the
*start* of each interval as an instant, so a range given in one time zone loses or gains its first month in another.
Here a range means every month that it touches, read in the business time zone.
"""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable
from pendulum import DateTime
from pendulum import datetime as pendulum_datetime

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""Start date of a DAG on this timetable; a run before it would never be scheduled."""


class BillingMonths(Timetable):
    """One interval per calendar month: from the first of the month 00:00 UTC to the first of the next.

    The interval is a label, not a window of time: in UTC so that the run's name shows the month it is for, whatever
    the business time zone (`backfill__2005-04-01T00:00:00+00:00` is April 2005).

    Args:
        timezone: IANA name of the business time zone, in which the days of a range are read.
    """

    description = "One run per past billing month, on request only: trigger a backfill over a range of dates"
    periodic = True  # what makes a DAG backfillable
    can_be_scheduled = False

    def __init__(self, timezone: str) -> None:
        self.timezone = timezone

    @property
    def summary(self) -> str:
        return "by backfill, monthly"

    def serialize(self) -> dict[str, Any]:
        return {"timezone": self.timezone}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "BillingMonths":
        return cls(data["timezone"])

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        """The month that the run's logical date falls in."""
        return _month(self._first_of_month(run_after))

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The next month of a backfill's range; None outside a backfill, which alone asks with `catchup`."""
        if not restriction.catchup or restriction.earliest is None or restriction.latest is None:
            return None
        last = last_automated_data_interval
        first = last.end if last else self._first_of_month(restriction.earliest)
        if first > self._first_of_month(restriction.latest):
            return None
        return DagRunInfo(run_after=first, data_interval=_month(first))  # Airflow names a run after its `run_after`

    def _first_of_month(self, instant: datetime) -> DateTime:
        day = instant.astimezone(ZoneInfo(self.timezone))
        return pendulum_datetime(day.year, day.month, 1, tz="UTC")


def _month(first: DateTime) -> DataInterval:
    return DataInterval(start=first, end=first.add(months=1))
