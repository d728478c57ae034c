"""The one way money moves: due operations, intent, rail, outcome - in that order.

Belongs here: sending the waves of one scope (a released run, a step of an approved plan) so that a crash, a retry, a
clear, a pause or a second sender moves nothing twice. Does not: who may send or what is due (`release`, and `remedy` for the
remediation's verbs). Each step is committed before the next begins:

1. the operations exist, each under its idempotency key: all of them before the first wave goes out (a release), or each wave's
   just in time, from what is true by then (a remediation);
2. the wave's file - written, staged, read back and matched to the operations, if need be while they are being committed - is
   recorded with its sequence number;
3. the hand-over is recorded - the database looks, in that very transaction, whether it is this sender's turn and whether the money may
   still move - then the staged file is renamed to where the acquirer takes it;
4. the answers are recorded with their entries; whatever got none, or none that can be trusted, is unknown: looked up, never sent again.

No transaction can fence a rename. So whoever takes over renames the same staged file out of the acquirer's reach: if that succeeds it was
never handed over, and its wave is decided anew; if it fails the file is with the acquirer, and its answers are waited for.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.wave import NOT_A_FAILURE, StopRule
from pipeline.errors import DamagedAnswer, FatalError, FileRefused, GateClosed, OutcomeUnknown, SendingStopped
from pipeline.failpoints import failpoint
from pipeline.ports import BatchFile, Noted, PaymentRail, Progress
from pipeline.schema import OPERATION_SCHEMA

ANSWER_TIMEOUT_SECONDS = 120.0
"""How long a wave waits for its answers before its operations are called unknown: many times what the acquirer needs."""


class Turn(Protocol):
    """The right to send; see `adapters.ledger.Turn`."""

    epoch: int
    rail: str

    def require(self) -> None: ...


class Ledger(Protocol):
    """What sending needs of the books; see `adapters.ledger` for each promise."""

    def sending(self, rail: str, noted: Noted) -> Any: ...
    def waves(self, scope: str) -> list[Any]: ...
    def open_files(self, rail: str) -> list[tuple[str, Any]]: ...
    def last_sequence(self, rail: str) -> int: ...
    def read_wave(self, scope: str, wave: int) -> tuple[pa.Table, pa.Table]: ...
    def record_batch(self, turn: Turn, scope: str, wave: int, file: BatchFile) -> int: ...
    def hand_over(self, turn: Turn, batch_id: int) -> None: ...
    def record_event(self, turn: Turn, batch_id: int, event: str, detail: str = "") -> None: ...
    def record_answers(
        self, turn: Turn, scope: str, batch_id: int, operations: pa.Table, answers: pa.Table, *, effective_on: date
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
        answer_seconds: how long a wave waits for its answers.
    """

    ledger: Ledger
    rail: PaymentRail
    switch: KillSwitch
    effective_on: date
    rule: StopRule
    progress: Progress
    answer_seconds: float = ANSWER_TIMEOUT_SECONDS

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Be the only sender, once what an earlier one left open is settled: taken back, or answered.

        Raises:
            RetriableError: another sender did not finish in time.
            SendingStopped: this database does not know all that went out; or the answers found broke a stop rule.
            FileRefused, FatalError: as `send`.
        """
        with self.ledger.sending(self.rail.identity, self.rail.noted()) as turn:
            for scope, wave in self.ledger.open_files(turn.rail):
                self.settle(turn, scope, wave)
            yield turn

    def settle(self, turn: Turn, scope: str, wave: Any) -> None:
        """Take back a file whose fate is open - or, where it is with the acquirer, wait for its answers and record them.

        Raises:
            FatalError: it lies in no known place and is not answered, or the books do not know that it went out: it takes a person.
        """
        failpoint("recall.begin")
        where = self.rail.recall(wave.file)
        failpoint("recall.moved")
        if where == "delivered" and not wave.handed_over:
            raise FatalError(
                f"{wave.file.path.name} is with the acquirer and the database does not know that it went out: `makegood sending repair`"
            )
        if where == "withdrawn" or not wave.handed_over:
            self.ledger.record_event(turn, wave.batch_id, "withdrawn", "taken back before the acquirer had it")
            failpoint("recall.recorded")
            return
        ready = _Ready(scope, wave.number, self.ledger.read_wave(scope, wave.number)[0], wave.file, wave.batch_id)
        answers = self._answers(turn, ready, is_with_acquirer=where == "delivered")
        self._record(turn, ready, answers)
        self._require_healthy(ready, answers)

    def send(
        self,
        turn: Turn,
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
            upcoming: waves that follow; asked for one at a time, while the acquirer works on the one before.
            upcoming_alone: stored waves are left alone; whoever brings `upcoming` decides on them anew.
            guard: asked right before every hand-over; raises when that moment is not one to send in.

        Raises:
            SenderLost: another sender has taken over; what it finds is its to settle.
            SendingStopped: a person stopped sending, or a stop rule was broken; what was sent is recorded.
            GateClosed: from `guard`, `upcoming` or the database; what was sent is recorded.
            FatalError: a file does not say what was meant, or the acquirer refused it; nothing of that wave went out.
        """
        self.look_up_unknown(scope)
        stored = [] if upcoming_alone else self.ledger.waves(scope)
        waves = [w for w in stored if not w.answered and only_wave in (None, w.number)]
        self._send_all(turn, scope, chain(waves, upcoming), guard)

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
            failpoint("unknown.ask")
            answers = self._ask(unknown)
            failpoint("unknown.answered")
            self.ledger.resolve(scope, answers, effective_on=self.effective_on)
            failpoint("unknown.recorded")

    def _ask(self, operations: pa.Table) -> pa.Table:
        """What the acquirer says of `operations` by their keys; what it says of another amount is not believed, so it stays unknown."""
        answers = self.rail.inquire(operations["merchant_reference"].combine_chunks())
        place = pc.index_in(answers["merchant_reference"], operations["merchant_reference"].combine_chunks())
        is_meant = pc.equal(answers["amount_minor"], operations["amount_minor"].take(place))
        return answers.filter(pc.fill_null(is_meant, True))

    def _send_all(self, turn: Turn, scope: str, waves: Iterable[Any], guard: Callable[[], None]) -> None:
        """Send `waves` in order. While the acquirer works on one, the next is written and the one before is recorded;
        the next goes out only after the answers have passed the stop rule."""
        moved_minor = self.moved_minor(scope)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="recording") as thread:
            under_way = _UnderWay(lambda ready, answers: self._record(turn, ready, answers), thread)
            try:
                for sent, wave in enumerate(waves):
                    self.progress("waves sent", sent, None)
                    upcoming = self._ready(turn, scope, wave, after=under_way.ready)
                    if under_way.ready:
                        under_way.answers = self._answers(turn, under_way.ready)
                        self._require_healthy(under_way.ready, under_way.answers)
                    self.require_sending_allowed(scope)
                    moved_minor += upcoming.file.total_minor
                    self.require_below_cap(scope, upcoming.wave, moved_minor)
                    guard()
                    under_way.await_recording()  # so that, whatever happens, no more than two waves are without their answers
                    self._hand_over(turn, upcoming)
                    under_way.followed_by(upcoming)
            except GateClosed:
                self._finish(turn, under_way)
                raise
            self._finish(turn, under_way)
            if under_way.ready:
                self._require_healthy(under_way.ready, under_way.answers)

    def _finish(self, turn: Turn, under_way: "_UnderWay") -> None:
        """Wait for the answers to what has gone out and record them."""
        under_way.await_recording()
        if under_way.ready:
            if under_way.answers is None:
                under_way.answers = self._answers(turn, under_way.ready)
            self._record(turn, under_way.ready, under_way.answers)

    def _ready(self, turn: Turn, scope: str, wave: Any, *, after: "_Ready | None") -> "_Ready":
        """The wave's file: written, read back, matched and recorded."""
        if isinstance(wave, Prepared):
            operations = wave.operations
        else:
            operations, cards = self.ledger.read_wave(scope, wave.number)
            if operations["kind"][0].as_py() in ("charge", "rebill"):
                self.rail.introduce(cards)
        sequence = after.file.sequence + 1 if after else self._next_sequence(turn)
        file = self.rail.write(operations, sequence=sequence, echo=f"{scope} wave {wave.number}")
        failpoint("file.written")
        require_match(self.rail.read_back(file), operations, file)
        failpoint("file.matched")
        if isinstance(wave, Prepared):
            wave.await_commit()
        batch_id = self.ledger.record_batch(turn, scope, wave.number, file)
        failpoint("file.recorded")
        return _Ready(scope, wave.number, operations, file, batch_id)

    def _next_sequence(self, turn: Turn) -> int:
        """The acquirer's answers say which number it takes next - unless they are damaged, or late; the books have what went out."""
        return max(self.rail.next_sequence(), self.ledger.last_sequence(turn.rail) + 1)

    def _hand_over(self, turn: Turn, ready: "_Ready") -> None:
        failpoint("hand_over.begin")
        turn.require()
        self.rail.require_as_written(ready.file)  # it has waited for the wave before
        self.ledger.hand_over(turn, ready.batch_id)
        failpoint("hand_over.recorded")
        self.rail.note(Noted(turn.epoch, ready.file.sequence))
        failpoint("hand_over.noted")
        self.rail.deliver(ready.file)
        failpoint("hand_over.delivered")

    def _answers(self, turn: Turn, ready: "_Ready", *, is_with_acquirer: bool = True) -> pa.Table:
        """The answers to a wave. Only a refusal that excludes that the file was booked is one; whatever else is wrong is asked about."""
        failpoint("answers.wait")
        try:
            answers = self.rail.poll(ready.file, ready.operations, timeout_seconds=self.answer_seconds)
        except FileRefused as refusal:
            self.ledger.record_event(turn, ready.batch_id, "rejected", str(refusal))
            raise
        except OutcomeUnknown as why:
            if isinstance(why, DamagedAnswer):
                self.ledger.record_event(turn, ready.batch_id, "damaged", str(why))
            elif not is_with_acquirer:
                raise FatalError(
                    f"{ready.file.path.name} was handed over and lies in no known place: it was lost, or the acquirer has it and does not"
                    " answer. `makegood sending repair` says which, and leads out"
                ) from None
            answers = self._ask(ready.operations)
        failpoint("answers.read")
        return answers

    def _record(self, turn: Turn, ready: "_Ready", answers: pa.Table) -> None:
        failpoint("answers.record")
        self.ledger.record_answers(
            turn, ready.scope, ready.batch_id, ready.operations, answers, effective_on=self.effective_on
        )
        failpoint("answers.recorded")

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
