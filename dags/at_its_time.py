"""Tasks that have a time of their own, and wait for it without holding a worker.

Belongs here: waiting, going on at a later time, and what time it is in a rehearsal. Does not: whether money may move at that
time - a wait ends at once for a time that is past, so every step of money asks its window's guard by itself (`pipeline.remedy`).

A run with the Param `as_of` is a rehearsal on the practice acquirer. Its clock begins at `as_of` and is put forward to the time
each task is due; nobody waits for it.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator, Context

REHEARSED_WAIT = timedelta(seconds=6)
"""How long a rehearsal waits for anything: until the scheduler has noted that the task waits; before, it takes it for lost."""

Does = Callable[[Context, datetime], tuple[Any, datetime | None]]
"""Told the run and what time it is; returns the task's result, and when it is to be called again (None: never)."""


class AtItsTime(BaseOperator):
    """Do something once its time has come, and again for as long as it names a later time.

    Args:
        due: told the run, when the task is due at the earliest.
        does: the work; called again after a failure or a clear, it must move nothing twice.
    """

    def __init__(self, *, due: Callable[[Context], datetime], does: Does, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.due = due
        self.does = does

    def execute(self, context: Context) -> Any:
        """Do it now if it is due, else wait."""
        before = time_before(context, self.upstream_task_ids)
        due = max(self.due(context), before)
        if due > (before if is_rehearsal(context) else datetime.now(UTC)):
            self._wait(context, due)
        return self._do(context, due)

    def execute_complete(self, context: Context, event: Any, due: str) -> Any:
        """Do it: the time has come."""
        return self._do(context, datetime.fromisoformat(due))

    def _do(self, context: Context, due: datetime) -> Any:
        result, again = self.does(context, due if is_rehearsal(context) else datetime.now(UTC))
        if again is not None:
            self.log.info("%s", result)
            self._wait(context, again)
        return result | {"at": due.isoformat()}

    def _wait(self, context: Context, due: datetime) -> NoReturn:
        self.log.info("waiting until %s, without a worker", due)
        moment = datetime.now(UTC) + REHEARSED_WAIT if is_rehearsal(context) else due
        self.defer(
            trigger=DateTimeTrigger(moment=moment), method_name="execute_complete", kwargs={"due": due.isoformat()}
        )


def is_rehearsal(context: Context) -> bool:
    """Whether the run has a clock of its own."""
    return context["params"]["as_of"] is not None


def time_before(context: Context, task_ids: set[str]) -> datetime:
    """When the run began, or the latest of these tasks ended: a rehearsal's clock is never put back."""
    begun = context["params"]["as_of"] or context["dag_run"].run_after.isoformat()
    ended = [
        said["at"]
        for said in context["ti"].xcom_pull(task_ids=sorted(task_ids))
        if isinstance(said, dict) and "at" in said
    ]
    return max(datetime.fromisoformat(text) for text in (begun, *ended))


def as_of(context: Context, moment: datetime) -> str | None:
    """`moment` as the installation is opened with it: only a rehearsal names the time."""
    return moment.isoformat() if is_rehearsal(context) else None
