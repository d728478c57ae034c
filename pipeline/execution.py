"""The one way money moves: due operations, intent, rail, outcome - in that order.

Belongs here: sending the waves of one scope (a released run, a step of an approved plan) so that a crash, a retry, a
clear or a second sender moves nothing twice. Does not: who may send or what is due (`release`, and `remedy` for the
remediation's verbs). Each step is committed before the next begins:

1. the operations exist, each under its idempotency key: all of them before the first wave goes out (a release), or each wave's
   just in time, from what is true by then (a remediation);
2. the wave's file - written, read back and matched to the operations, if need be while they are being committed - is recorded
   with its sequence number;
3. the hand-over is recorded, then the file is handed over - repeating that is harmless, the acquirer takes a sequence
   number once;
4. the answers are recorded with their entries; whatever got none is unknown: looked up, never sent again.
"""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.wave import NOT_A_FAILURE, StopRule
from pipeline.errors import FatalError, GateClosed, OutcomeUnknown, SendingStopped
from pipeline.ports import BatchFile, PaymentRail, Progress
from pipeline.schema import OPERATION_SCHEMA

ANSWER_TIMEOUT_SECONDS = 120.0
"""How long a wave waits for its answers before its operations are called unknown: many times what the acquirer needs."""


class Ledger(Protocol):
    """What sending needs of the books; see `adapters.ledger` for each promise."""

    def sending(self) -> Any: ...
    def waves(self, scope: str) -> list[Any]: ...
    def unanswered_hand_overs(self) -> list[tuple[str, Any]]: ...
    def read_wave(self, scope: str, wave: int) -> tuple[pa.Table, pa.Table]: ...
    def record_batch(self, scope: str, wave: int, file: BatchFile) -> int: ...
    def record_event(self, batch_id: int, event: str, detail: str = "") -> None: ...
    def record_answers(
        self, scope: str, batch_id: int, operations: pa.Table, answers: pa.Table, *, effective_on: date
    ) -> None: ...
    def unknown(self, scope: str) -> pa.Table: ...
    def resolve(self, scope: str, answers: pa.Table, *, effective_on: date) -> None: ...
    def moved_minor(self, scope: str) -> int: ...


class KillSwitch(Protocol):
    """Asked before every wave."""

    def stopped_by(self) -> tuple[str, datetime, str] | None: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A wave whose intents are committed, or are just being; the cards it charges have been introduced.

    Attributes:
        operations: as committed (`OPERATION_SCHEMA`).
        await_commit: returns once the intents are committed, and raises what kept them from it.
    """

    number: int
    operations: pa.Table
    await_commit: Callable[[], None]


def prepared(number: int, intended: pa.Table, await_commit: Callable[[], None]) -> Prepared:
    """A wave from its intents: the columns of a stored operation, and `original_payment_id`."""
    names = ["merchant_reference" if name == "operation_id" else name for name in intended.column_names]
    operations = intended.rename_columns(names).select(OPERATION_SCHEMA.names).sort_by("merchant_reference")
    return Prepared(number, operations.cast(OPERATION_SCHEMA), await_commit)


def always_open() -> None:
    """The guard of what has no window."""


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

    def send(
        self,
        scope: str,
        *,
        only_wave: int | None = None,
        upcoming: Iterable[Prepared] = (),
        upcoming_alone: bool = False,
        guard: Callable[[], None] = always_open,
    ) -> None:
        """Send every wave of `scope` that has no answers yet (or only one of them), oldest first; look up the unknown first.

        Calling it again after a crash, or twice at once, goes on where the first stopped.

        Args:
            upcoming: waves that follow; asked for one at a time, while the acquirer works on the one before, and never
                while somebody else sends.
            upcoming_alone: stored waves that were never handed over are left alone; whoever brings `upcoming` decides on them anew.
            guard: asked right before every hand-over; raises when that moment is not one to send in.

        Raises:
            SendingStopped: a person stopped sending, or a stop rule was broken; what was sent is recorded.
            GateClosed: from `guard` or `upcoming`; what was sent is recorded.
            FatalError: a file does not say what was meant, or the acquirer refused it; nothing of that wave went out.
        """
        with self.ledger.sending():
            for held_scope, wave in self.ledger.unanswered_hand_overs():  # first: sequence numbers admit no gap
                self._send_all(held_scope, [wave], always_open)
            self.look_up_unknown(scope)
            stored = [] if upcoming_alone else self.ledger.waves(scope)
            waves = [w for w in stored if not w.answered and only_wave in (None, w.number)]
            self._send_all(scope, chain(waves, upcoming), guard)

    def require_sending_allowed(self, scope: str) -> None:
        """Pass while nobody has stopped sending.

        Raises:
            SendingStopped: somebody has.
        """
        order = self.switch.stopped_by()
        if order:
            person, at, reason = order
            why = f" ({reason})" if reason else ""
            raise SendingStopped(
                f"{scope}: sending was stopped by {person} at {at:%Y-%m-%d %H:%M %Z}{why}; `makegood resume` lifts it"
            )

    def moved_minor(self, scope: str) -> int:
        """What the scope has moved or may have moved; only worth a query where there is a cap."""
        return 0 if self.rule.amount_minor_max is None else self.ledger.moved_minor(scope)

    def require_below_cap(self, scope: str, wave: int, moved_minor: int) -> None:
        """Pass while all that the scope has moved, and moves with this wave, stays below the cap.

        Raises:
            SendingStopped: it would not; the wave must not be sent.
        """
        cap = self.rule.amount_minor_max
        if cap is not None and moved_minor > cap:
            raise SendingStopped(
                f"{scope}: wave {wave} would bring what moves to {moved_minor}, above the cap of {cap};"
                " it was not sent. A person must look"
            )

    def look_up_unknown(self, scope: str) -> None:
        """Ask the acquirer what became of operations that were sent and never answered."""
        unknown = self.ledger.unknown(scope)
        if unknown.num_rows:
            answers = self.rail.inquire(unknown["merchant_reference"].combine_chunks())
            self.ledger.resolve(scope, answers, effective_on=self.effective_on)

    def _send_all(self, scope: str, waves: Iterable[Any], guard: Callable[[], None]) -> None:
        """Send `waves` in order. While the acquirer works on one, the next is written and the one before is recorded;
        the next goes out only after the answers have passed the stop rule."""
        moved_minor = self.moved_minor(scope)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="recording") as thread:
            under_way = _UnderWay(self._record, thread)
            try:
                for sent, wave in enumerate(waves):
                    self.progress("waves sent", sent, None)
                    upcoming = self._ready(scope, wave, after=under_way.ready)
                    if under_way.ready:
                        under_way.answers = self._answers(under_way.ready)
                        self._require_healthy(under_way.ready, under_way.answers)
                    if not upcoming.handed_over:
                        self.require_sending_allowed(scope)
                        moved_minor += upcoming.file.total_minor
                        self.require_below_cap(scope, upcoming.wave, moved_minor)
                        guard()
                    under_way.await_recording()  # so that, whatever happens, no more than two waves are without their answers
                    self._hand_over(upcoming)
                    under_way.followed_by(upcoming)
            except GateClosed:
                self._finish(under_way)
                raise
            self._finish(under_way)
            if under_way.ready:
                self._require_healthy(under_way.ready, under_way.answers)

    def _finish(self, under_way: "_UnderWay") -> None:
        """Wait for the answers to what has gone out and record them."""
        under_way.await_recording()
        if under_way.ready:
            if under_way.answers is None:
                under_way.answers = self._answers(under_way.ready)
            self._record(under_way.ready, under_way.answers)

    def _ready(self, scope: str, wave: Any, *, after: "_Ready | None") -> "_Ready":
        """The wave's file, written, read back, matched and recorded - or, after a crash, the file that was handed over."""
        if isinstance(wave, Prepared):
            operations = wave.operations
        else:
            operations, cards = self.ledger.read_wave(scope, wave.number)
            if wave.handed_over:
                return _Ready(scope, wave.number, operations, wave.file, wave.batch_id, handed_over=True)
            if operations["kind"][0].as_py() in ("charge", "rebill"):
                self.rail.introduce(cards)
            if wave.batch_id is not None:  # a file that a crash left is never trusted, only replaced
                self.ledger.record_event(wave.batch_id, "rejected", "written but never handed over; written again")
        sequence = after.file.sequence + 1 if after else self.rail.next_sequence()
        file = self.rail.write(operations, sequence=sequence, echo=f"{scope} wave {wave.number}")
        require_match(self.rail.read_back(file), operations, file)
        if isinstance(wave, Prepared):
            wave.await_commit()
        batch_id = self.ledger.record_batch(scope, wave.number, file)
        return _Ready(scope, wave.number, operations, file, batch_id, handed_over=False)

    def _hand_over(self, ready: "_Ready") -> None:
        if not ready.handed_over:
            require_as_written(
                ready.file
            )  # it has waited for the wave before; once recorded as handed over it must be sendable
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

    def _require_healthy(self, ready: "_Ready", answers: pa.Table) -> None:
        """Stop the line where a wave's answers say that the file, not the customers, is wrong.

        Raises:
            SendingStopped: with the reason; the wave's answers still have to be recorded.
        """
        total = ready.operations.num_rows
        declined = answers.filter(pc.equal(answers["status"], "declined"))
        failed = declined.num_rows - (pc.sum(pc.is_in(declined["reason"], pa.array(NOT_A_FAILURE))).as_py() or 0)
        succeeded = pc.sum(pc.equal(answers["status"], "succeeded")).as_py() or 0
        unknown = total - declined.num_rows - succeeded
        broken = self.rule.broken_by(declined=failed, unknown=unknown, total=total)
        if broken:
            raise SendingStopped(
                f"{ready.scope}: stopped after wave {ready.wave}: {broken}. Look at the report; calling again goes on"
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


@dataclass(slots=True)
class _UnderWay:
    """The wave that has gone out last, and the recording of the one before it, which goes on in `thread`: the books take that
    while the next wave's intents are written.

    Attributes:
        ready: the wave; None before the first.
        answers: to it, once they are here.
    """

    record: "Callable[[_Ready, pa.Table], None]"
    thread: ThreadPoolExecutor
    ready: _Ready | None = None
    answers: pa.Table | None = None
    recording: Future | None = None

    def followed_by(self, ready: _Ready) -> None:
        """`ready` has gone out now; the wave before it is to be recorded."""
        if self.ready:
            self.recording = self.thread.submit(self.record, self.ready, self.answers)
        self.ready, self.answers = ready, None

    def await_recording(self) -> None:
        """Return once nothing is being recorded; raises what that raised."""
        if self.recording:
            recording, self.recording = self.recording, None
            recording.result()


def require_as_written(file: BatchFile) -> None:
    """Prove that the bytes on disk are those that were read back and matched.

    Raises:
        FatalError: they are not; nothing was sent.
    """
    with file.path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
            raise FatalError(
                f"{file.path.name} is not as it was written (its SHA-256 differs): somebody changed it, it was not sent."
                " Calling again writes it anew"
            )


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
    is_undo = meant.num_rows and meant["kind"][0].as_py() in ("void", "refund")
    carried = [name for name in OPERATION_SCHEMA.names if not (is_undo and name == "instrument_token")]
    for name in carried:
        if not said[name].combine_chunks().equals(meant[name].combine_chunks()):
            raise FatalError(f"{file.path.name} differs from what was meant in {name}; it was not sent")
