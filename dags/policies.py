"""What Airflow does after a failure: the error's class decides, in one table for every task.

Belongs here: retries and the defaults all DAGs share. Does not: which error a stage raises (`pipeline.errors`).
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from pipeline.errors import FatalError, GateClosed, OutcomeUnknown, RetriableError

RETRIES = 3
"""Times a failure of the world is tried again: with the delays below it is given a quarter of an hour to recover."""

RETRY_DELAY = timedelta(minutes=2)
"""Before the first retry; it doubles each time: a restart of the database or the acquirer takes about this long."""

RETRY_DELAY_MAX = timedelta(minutes=20)
"""No retry waits longer: a night ends before the offices open."""

LOOK_UP_DELAY = timedelta(minutes=5)
"""Before unknown operations are looked up again: acquirers answer late, rarely later than some minutes."""

BY_ERROR_CLASS = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=GateClosed,
            action=RetryAction.FAIL,
            reason="the data failed, or nobody with the right to has released it: trying again cannot help",
        ),
        RetryRule(
            exception=FatalError, action=RetryAction.FAIL, reason="a person must look before anything else is tried"
        ),
        RetryRule(
            exception=OutcomeUnknown,
            action=RetryAction.RETRY,
            retry_delay=LOOK_UP_DELAY,
            reason="something was sent and not answered: it is looked up, never sent again",
        ),
        RetryRule(
            exception=RetriableError, action=RetryAction.RETRY, reason="the world failed: the same call is made again"
        ),
    ]
)
"""Error class -> retry. Anything else (a lost worker, a bug) is retried too: every stage may be repeated as it is."""

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "billing",
    "retries": RETRIES,
    "retry_delay": RETRY_DELAY,
    "retry_exponential_backoff": True,
    "max_retry_delay": RETRY_DELAY_MAX,
    "retry_policy": BY_ERROR_CLASS,
}
