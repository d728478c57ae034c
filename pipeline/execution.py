"""The one way money moves: due operations, intent, rail, outcome - in that order.

Belongs here: sending the waves of one scope (a released run, an approved plan) so that a crash, a retry, a clear
or a second sender moves nothing twice. Does not: who may send or what is due (`release`, and the remediation's
verbs). Each step is committed before the next begins:

1. the operations exist, each under its idempotency key (the caller did that);
2. the wave's file is written, read back, matched to the operations and recorded with its sequence number;
3. the hand-over is recorded, then the file is handed over - repeating that is harmless, the acquirer takes a sequence
   number once;
4. the answers are recorded with their entries; whatever got none is unknown: looked up, never sent again.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.wave import StopRule
from pipeline.errors import FatalError, OutcomeUnknown, SendingStopped
from pipeline.ports import BatchFile, PaymentRail, Progress
from pipeline.schema import OPERATION_SCHEMA

ANSWER_TIMEOUT_SECONDS = 120.0
"""How long a wave waits for its answers before its operations are called unknown: many times what the acquirer needs."""


class Ledger(Protocol):
    """What sending needs of the books; see `adapters.ledger` for each promise."""

    def sending(self) -> Any: ...
    def waves(self, scope: str) -> list[Any]: ...
    def unanswered_hand_overs(self) -> list[tuple[str, Any]]: ...
    def operations(self, scope: str, wave: int) -> pa.Table: ...
    def cards(self, scope: str, wave: int) -> pa.Table: ...
    def record_batch(self, scope: str, wave: int, file: BatchFile) -> int: ...
    def record_event(self, batch_id: int, event: str, detail: str = "") -> None: ...
    def record_answers(
        self, scope: str, batch_id: int, operations: pa.Table, answers: pa.Table, *, effective_on: date
    ) -> None: ...
    def unknown(self, scope: str) -> pa.Table: ...
    def resolve(self, scope: str, answers: pa.Table, *, effective_on: date) -> None: ...
    def tally(self, scope: str) -> Any: ...


class KillSwitch(Protocol):
    """Asked before every wave."""

    def stopped_by(self) -> tuple[str, datetime, str] | None: ...


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends scopes over one rail.

    Attributes:
        effective_on: the business day the entries carry.
        rule: when a wave's answers stop the line.
    """

    ledger: Ledger
    rail: PaymentRail
    switch: KillSwitch
    effective_on: date
    rule: StopRule
    progress: Progress

    def send(self, scope: str, *, only_wave: int | None = None) -> None:
        """Send every wave of `scope` that has no answers yet (or only one of them), oldest first; look up the unknown first.

        Calling it again after a crash, or twice at once, goes on where the first stopped.

        Raises:
            SendingStopped: a person stopped sending, or a stop rule was broken; what was sent is recorded.
            FatalError: a file does not say what was meant, or the acquirer refused it; nothing of that wave went out.
        """
        with self.ledger.sending():
            for held_scope, wave in self.ledger.unanswered_hand_overs():  # first: sequence numbers admit no gap
                self._send_all(held_scope, [wave])
            self.look_up_unknown(scope)
            waves = [w for w in self.ledger.waves(scope) if not w.answered and only_wave in (None, w.number)]
            self._send_all(scope, waves)

    def look_up_unknown(self, scope: str) -> None:
        """Ask the acquirer what became of operations that were sent and never answered."""
        unknown = self.ledger.unknown(scope)
        if unknown.num_rows:
            answers = self.rail.inquire(unknown["merchant_reference"].combine_chunks())
            self.ledger.resolve(scope, answers, effective_on=self.effective_on)

    def _send_all(self, scope: str, waves: list[Any]) -> None:
        """Send `waves` in order. While the acquirer works on one, the next is written and the one before is recorded;
        the next goes out only after the answers have passed the stop rule."""
        under_way: _Ready | None = None
        for index, wave in enumerate(waves):
            self.progress("waves sent", index, len(waves))
            upcoming = self._ready(scope, wave, after=under_way)
            answers = self._answers(under_way) if under_way else None
            if under_way and self._stops(under_way, answers):
                self._record(under_way, answers)
                raise SendingStopped(self._stops(under_way, answers))
            try:
                self._require_sending_allowed(scope)
                self._hand_over(upcoming)
            finally:
                if under_way:
                    self._record(under_way, answers)
            under_way = upcoming
        if under_way:
            answers = self._answers(under_way)
            self._record(under_way, answers)
            if reason := self._stops(under_way, answers):
                raise SendingStopped(reason)
        self.progress("waves sent", len(waves), len(waves))

    def _ready(self, scope: str, wave: Any, *, after: "_Ready | None") -> "_Ready":
        """The wave's file, written, read back, matched and recorded - or, after a crash, the file that was handed over."""
        operations = self.ledger.operations(scope, wave.number)
        if wave.handed_over:
            return _Ready(scope, wave.number, operations, wave.file, wave.batch_id, handed_over=True)
        if wave.batch_id is not None:  # a file that a crash left is never trusted, only replaced
            self.ledger.record_event(wave.batch_id, "rejected", "written but never handed over; written again")
        sequence = after.file.sequence + 1 if after else self.rail.next_sequence()
        file = self.rail.write(operations, sequence=sequence, echo=f"{scope} wave {wave.number}")
        require_match(self.rail.read_back(file), operations, file)
        batch_id = self.ledger.record_batch(scope, wave.number, file)
        self.rail.introduce(self.ledger.cards(scope, wave.number))
        return _Ready(scope, wave.number, operations, file, batch_id, handed_over=False)

    def _hand_over(self, ready: "_Ready") -> None:
        if not ready.handed_over:
            self.ledger.record_event(ready.batch_id, "handed_over")
        self.rail.submit(ready.file)

    def _answers(self, ready: "_Ready") -> pa.Table:
        try:
            return self.rail.poll(ready.file, timeout_seconds=ANSWER_TIMEOUT_SECONDS)
        except OutcomeUnknown:
            return self.rail.inquire(ready.operations["merchant_reference"].combine_chunks())
        except FatalError as error:
            self.ledger.record_event(ready.batch_id, "rejected", str(error))
            raise

    def _record(self, ready: "_Ready", answers: pa.Table) -> None:
        self.ledger.record_answers(
            ready.scope, ready.batch_id, ready.operations, answers, effective_on=self.effective_on
        )

    def _stops(self, ready: "_Ready", answers: pa.Table) -> str | None:
        total = ready.operations.num_rows
        declined = pc.sum(pc.equal(answers["status"], "declined")).as_py() or 0
        succeeded = pc.sum(pc.equal(answers["status"], "succeeded")).as_py() or 0
        broken = self.rule.broken_by(declined=declined, unknown=total - declined - succeeded, total=total)
        if broken is None:
            return None
        return f"{ready.scope}: stopped after wave {ready.wave}: {broken}. Look at the report; calling again goes on"

    def _require_sending_allowed(self, scope: str) -> None:
        order = self.switch.stopped_by()
        if order:
            person, at, reason = order
            why = f" ({reason})" if reason else ""
            raise SendingStopped(
                f"{scope}: sending was stopped by {person} at {at:%Y-%m-%d %H:%M %Z}{why}; `makegood resume` lifts it"
            )


@dataclass(frozen=True, slots=True)
class _Ready:
    """A wave whose file is proven and recorded."""

    scope: str
    wave: int
    operations: pa.Table
    file: BatchFile
    batch_id: int
    handed_over: bool


def require_match(read_back: pa.Table, operations: pa.Table, file: BatchFile) -> None:
    """Prove that the file says what was meant, operation by operation: this is where a wrong month slips in.

    Raises:
        FatalError: count, total or any field of any operation differs.
    """
    said = read_back.select(OPERATION_SCHEMA.names).sort_by("merchant_reference")
    meant = operations.sort_by("merchant_reference")
    said_total, meant_total = (pc.sum(t["amount_minor"]).as_py() or 0 for t in (said, meant))
    if said.num_rows != meant.num_rows or said_total != meant_total:
        raise FatalError(
            f"{file.path.name} says {said.num_rows} operations of {said_total} in all; meant were {meant.num_rows} of {meant_total}."
            " It was not sent"
        )
    for name in OPERATION_SCHEMA.names:
        if name != "kind" and not said[name].combine_chunks().equals(meant[name].combine_chunks()):
            raise FatalError(f"{file.path.name} differs from what was meant in {name}; it was not sent")
