"""The timetable of what runs once a day by itself.

Belongs here: the hour, and that a new installation waits for it. Does not: what a run is about (`charge_run`, `settlement`).
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable

from pipeline.settings import Settings

FIRST_RUN_GRACE = timedelta(0)
"""How long after its hour a first run is still made up for. Airflow's default is a tenth of a day, which its `False` means as well: an
Airflow set up at four in the morning would charge customers at once. A night missed later, by an Airflow that had run, is made up for."""


def every_day(*, at_hour: int) -> CronTriggerTimetable:
    """Every day at `at_hour` in the business time zone."""
    timezone = Settings.from_environment().timezone.key
    return CronTriggerTimetable(f"0 {at_hour} * * *", timezone=timezone, run_immediately=FIRST_RUN_GRACE)
