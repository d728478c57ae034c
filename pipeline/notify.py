"""Tell customers what was done: one message per incident, customer and step, about outcomes that are certain.

Belongs here: quiet hours, batches, and the order of delivery and receipt. Does not: wording (`sql/notices.sql` and the
templates), or how a message travels - that is a `Channel`. A batch is delivered whole under its own name and receipted
after; what a crash left delivered and unreceipted is recognised by its name, so nobody is told twice.
"""

from collections import Counter
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import OutsideWindow
from pipeline.ports import Progress

QUIET_FROM_HOUR, QUIET_UNTIL_HOUR = 21, 8
"""Nobody is written to between nine in the evening and eight in the morning, business time: Korean law forbids advertising
then, and a message about money wakes people as well."""

BATCH_MESSAGES = 50_000
"""Messages of one batch: what a crash may leave to be recognised, and what is in memory at a time."""

STEPS = ("void", "refund", "returned", "rebill", "rebill_declined")
"""`returned`: somebody else gave the whole wrong charge back, and nothing was left for us to return."""


class Channel(Protocol):
    """A way to customers: a local sink, a text message or mail provider.

    Attributes:
        name: goes into receipts.
    """

    name: str

    def batches(self, incident_id: str) -> list[str]:
        """Names of the batches it has taken."""

    def deliver(self, incident_id: str, batch: str, messages: pa.Table) -> None:
        """Take a batch (id, customer_id, operation_id, channel, to, language, text, bytes) whole or not at all, once."""

    def keys(self, incident_id: str, batch: str) -> pa.Table:
        """Customer, operation and channel of every message of a batch it has taken."""


class Outbox(Protocol):
    """What is due and what was told; see `adapters.messages`."""

    incident_id: str

    def alone(self) -> AbstractContextManager[None]: ...
    def word(self, step: str) -> dict[str, int]: ...
    def messages(self, start: int, count: int) -> pa.Table: ...
    def receipts(self, step: str) -> set[str]: ...
    def record(self, step: str, keys: pa.Table, receipt: str) -> None: ...
    def told(self) -> dict[str, int]: ...


def require_waking_hours(as_of: datetime, timezone: ZoneInfo) -> None:
    """Refuse quiet hours.

    Raises:
        OutsideWindow: nobody is written to now.
    """
    local = as_of.astimezone(timezone)
    if QUIET_UNTIL_HOUR <= local.hour < QUIET_FROM_HOUR:
        return
    raise OutsideWindow(
        f"it is {local:%H:%M}: messages go out from {QUIET_UNTIL_HOUR:02}:00 to {QUIET_FROM_HOUR}:00; --now sends them all the same"
    )


def notify(outbox: Outbox, channel: Channel, *, progress: Progress, dry_run: bool = False) -> dict[str, Any]:
    """Send every message that is due and was not sent; calling it again sends nothing twice.

    Returns:
        `sent` (by step: customers told so far), `now` (by step: messages of this call, by channel), `left` (by step: customers
        `without_contact`, `not_final_yet`). In a dry run `now` is what would be sent.

    Raises:
        RetriableError: somebody else is sending this incident's messages.
    """
    now: dict[str, dict[str, int]] = {}
    left: dict[str, dict[str, int]] = {}
    with outbox.alone():
        for step in STEPS:
            if not dry_run:
                _receipt_what_was_delivered(outbox, channel, step)
            found = outbox.word(step)
            open_now = {name: found[name] for name in ("without_contact", "not_final_yet") if found[name]}
            if open_now:
                left[step] = open_now
            if found["messages"]:
                now[step] = dict(_send(outbox, channel, step, found["messages"], progress, dry_run))
        return {"incident_id": outbox.incident_id, "sent": outbox.told(), "now": now, "left": left}


def _receipt_what_was_delivered(outbox: Outbox, channel: Channel, step: str) -> None:
    known = outbox.receipts(step)
    for batch in _batches_of(channel, outbox.incident_id, step):
        receipt = f"{channel.name}:{batch}"
        if receipt not in known:
            outbox.record(step, channel.keys(outbox.incident_id, batch), receipt)


def _send(outbox: Outbox, channel: Channel, step: str, total: int, progress: Progress, dry_run: bool) -> Counter[str]:
    counted: Counter[str] = Counter()
    delivered = len(_batches_of(channel, outbox.incident_id, step))
    for start in range(0, total, BATCH_MESSAGES):
        progress(f"messages ({step.replace('_', ' ')})", start, total)
        messages = outbox.messages(start, BATCH_MESSAGES)
        if not dry_run:
            delivered += 1
            batch = f"{step}-{delivered:04d}"
            channel.deliver(outbox.incident_id, batch, messages)
            outbox.record(step, messages, f"{channel.name}:{batch}")
        for row in pc.value_counts(messages["channel"].combine_chunks()).to_pylist():
            counted[row["values"]] += row["counts"]
    progress(f"messages ({step.replace('_', ' ')})", total, total)
    return counted


def _batches_of(channel: Channel, incident_id: str, step: str) -> list[str]:
    """A step's batches; `rebill` is not `rebill_declined`."""
    return [name for name in channel.batches(incident_id) if name.rpartition("-")[0] == step]
