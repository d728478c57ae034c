"""Release a run: its positive charges become operations and go to the acquirer, once; or say why not.

Belongs here: who and what allows a run to be charged, and what of it is due. Does not: judging data (`verify`)
or sending (`execution`). Releasing twice, by any path, charges once: the operations' keys are business facts.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.core.billing_period import BillingCalendar, BillingPeriod
from pipeline.core.verdict import PEOPLE_NEEDED
from pipeline.errors import GateClosed, OutsideWindow
from pipeline.execution import Prepared, Sender, prepared
from pipeline.ports import Due, LandedRun, PaymentRail
from pipeline.schema import CARD_SCHEMA


@dataclass(frozen=True, slots=True)
class Released:
    """What a run has come to, over all calls.

    Attributes:
        charged, declined, unknown, not_sent: operations by state.
        amount_minor, currency: what was charged; no currency while there is nothing to charge.
        not_charged: rows that became no operation in this call, by reason.
    """

    run_id: str
    charged: int
    declined: int
    unknown: int
    not_sent: int
    amount_minor: int
    currency: str | None
    not_charged: dict[str, dict[str, int]]

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class Books(Protocol):
    """What a release needs of the ledger beside sending."""

    def charged(self, billing_period: str) -> pa.Table: ...
    def next_wave(self, scope: str) -> int: ...
    def intend(self, scope: str, operations: pa.Table) -> None: ...
    def releasing(self, billing_period: str) -> Any: ...
    def tally(self, scope: str) -> Any: ...


def require_allowed(standing: Any, calendar: BillingCalendar, day: date) -> str:
    """Why this run may be charged on `day`: "the gate and the calendar" or the names of the people who decided.

    Raises:
        GateClosed: it was not verified, is held, was rejected or superseded.
        OutsideWindow: the gate released it, but the calendar expects another period on that day.
    """
    run_id = standing.run_id
    if standing.charged_by_other:
        raise GateClosed(
            f"{run_id} is superseded: {standing.superseded_by} has already been charged for {standing.billing_period}"
        )
    if standing.rejecters:
        raise GateClosed(f"{run_id} was rejected by {' and '.join(standing.rejecters)}; send a corrected file")
    if len(standing.releasers) >= PEOPLE_NEEDED:
        return " and ".join(standing.releasers)
    ask = (
        f"two different people can release it all the same: `makegood run decide {run_id} --release --reason TEXT`"
        f" ({len(standing.releasers)} of {PEOPLE_NEEDED} have)"
    )
    if not standing.verdicts:
        raise GateClosed(f"{run_id} has not been verified; run `makegood verify` first")
    if "hold" in standing.verdicts:
        raise GateClosed(f"{run_id} is held; its report says why. Send a corrected file, or {ask}")
    if standing.superseded_by:
        raise GateClosed(
            f"{run_id} is superseded by {standing.superseded_by}, which passed the gate later; release that one, or {ask}"
        )
    expected = calendar.expected(day)
    if expected != BillingPeriod.parse(standing.billing_period):
        says = f"expects {expected}" if expected else "charges nothing"
        raise OutsideWindow(
            f"{run_id} passed the gate, but on {day} the billing calendar {says}, not {standing.billing_period}. With the"
            f" practice acquirer pass --as-of with a day of that period; otherwise {ask}"
        )
    return "the gate and the billing calendar"


def require_not_held(run_id: str, incidents: Iterable[Any]) -> None:
    """Refuse to charge what an incident is putting right.

    Args:
        incidents: the open ones of the run's period, and any that is about the run itself.

    Raises:
        GateClosed: the run's charges were wrong, or its whole period is on hold.
    """
    for incident in incidents:
        name = incident.incident_id
        if incident.charge_scope == run_id:
            raise GateClosed(f"{run_id} is what {name} puts right; nothing of it is charged any more")
        if incident.issuers is None:
            raise GateClosed(
                f"{incident.billing_period} is on hold while {name} is open: its bills are charged by the incident's rebill, once"
                " the wrong charge is undone"
            )


def prepare(run: LandedRun, *, ledger: Books, find_due: Callable[..., Due]) -> dict[str, dict[str, int]]:
    """Commit the run's due charges as operations; returns every class of row with its count and amount.

    Repeating it finds them charged already. One preparation of a period at a time.
    """
    with ledger.releasing(run.billing_period):
        due = _due(run, ledger, find_due)
        if due.operations.num_rows:
            ledger.intend(run.run_id, due.operations)
    return due.classes


def release(
    run: LandedRun,
    *,
    ledger: Books,
    find_due: Callable[..., Due],
    sender: Sender,
    require_still_allowed: Callable[[], object],
) -> Released:
    """Prepare and send a run that `require_allowed` allowed: nothing goes out before all of it is committed.

    Args:
        require_still_allowed: asked once it is this sender's turn, which may have taken a while.

    Raises:
        GateClosed: it may not be charged any more.
        SendingStopped, FatalError, RetriableError: as `execution.Sender.send`; calling again goes on.
    """
    with ledger.releasing(run.billing_period), sender.turn() as turn:
        require_still_allowed()
        due = _due(run, ledger, find_due)
        with closing(_waves(run.run_id, due.operations, ledger, sender.rail)) as upcoming:
            sender.send(turn, run.run_id, upcoming=upcoming)
    return outcome(run.run_id, ledger=ledger, classes=due.classes)


def _due(run: LandedRun, ledger: Books, find_due: Callable[..., Due]) -> Due:
    return find_due(run, ledger.charged(run.billing_period), first_wave=ledger.next_wave(run.run_id))


def _waves(scope: str, operations: pa.Table, ledger: Books, rail: PaymentRail) -> Iterator[Prepared]:
    """The waves of `operations`, which are committed as one; meanwhile their cards are introduced and the first file is written."""
    if not operations.num_rows:
        return
    numbers = operations["wave"].to_numpy()  # they rise
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="intending") as thread:
        committed = thread.submit(ledger.intend, scope, operations)
        rail.introduce(operations.select(CARD_SCHEMA.names))
        for number in range(int(numbers[0]), int(numbers[-1]) + 1):
            start, end = np.searchsorted(numbers, [number, number + 1])
            wave = operations.slice(start, end - start)
            yield prepared(number, wave, committed.result)


def outcome(run_id: str, *, ledger: Books, classes: dict[str, dict[str, int]] | None = None) -> Released:
    """What a run has come to so far."""
    tally = ledger.tally(run_id)
    return Released(
        run_id=run_id,
        charged=tally.count("succeeded"),
        declined=tally.count("declined"),
        unknown=tally.count("unknown") + tally.count("sent"),
        not_sent=tally.count("not_sent"),
        amount_minor=tally.amount_minor("succeeded"),
        currency=tally.currency,
        not_charged={name: figures for name, figures in (classes or {}).items() if name != "due"},
    )
