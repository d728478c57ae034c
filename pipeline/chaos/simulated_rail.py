"""An acquirer and its folder in memory: files that are moved by whoever comes first, answers that are late, damaged or missing.

Belongs here: what `ports.PaymentRail`, `ports.LiveStates` and `repair.Rail` promise, kept without a disk; and a book that is stricter
than the practice acquirer's: a file is booked once per number and digest, but what two files say twice is booked twice. Does not: when
anything goes wrong (`simulation`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.chaos.simulated_processes import Machine
from pipeline.errors import DamagedAnswer, FatalError, FileRefused, OutcomeUnknown, SenderLost
from pipeline.ports import BatchFile, Noted, SentFile, Whereabouts
from pipeline.schema import OPERATION_SCHEMA, OUTCOME_SCHEMA, PAYMENT_STATE_SCHEMA

PLATFORM = "Simulated"


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a file."""

    header: str
    sequence: int
    operations: tuple[dict[str, Any], ...]
    scope: str
    wave: int


@dataclass(slots=True)
class Acknowledgement:
    header: str
    sequence: int
    is_accepted: bool
    next_sequence: int
    problem: str = ""
    is_damaged: bool = False


@dataclass(slots=True)
class Result:
    header: str
    answers: list[dict[str, Any]]
    is_damaged: bool = False


@dataclass(slots=True)
class Movement:
    """One line of the acquirer's book.

    Attributes:
        is_held: it was taken and is not booked yet: asked about, it is not found.
        original: what a refund gives back.
    """

    reference: str
    kind: str
    token: str
    amount_minor: int
    status: str
    payment_id: str
    original: str | None = None
    is_held: bool = False


@dataclass(eq=False)
class Acquirer:
    """The folder and what is behind it.

    Attributes:
        fates: by token, what becomes of what is charged: `ok`, `declined`, `silent` (booked, never answered), `held` (booked later).
        faults: what is to go wrong with the next file that is taken: `damaged`, `damaged_ack`, `silent`, `stale`, `taken_again`.
        booked: by header, the answers to what was booked.
        is_away: it takes no files.
    """

    staged: dict[str, Content] = field(default_factory=dict)
    withdrawn: dict[str, Content] = field(default_factory=dict)
    arrived: dict[str, Content] = field(default_factory=dict)
    evidence: dict[str, Content] = field(default_factory=dict)
    acknowledgements: dict[str, Acknowledgement] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    note: Noted = field(default_factory=lambda: Noted(0, 0))
    book: list[Movement] = field(default_factory=list)
    booked: dict[str, tuple[Acknowledgement, Result]] = field(default_factory=dict)
    last_result: Result | None = None
    next_sequence: int = 1
    fates: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    is_away: bool = False
    made: int = 0

    def take(self) -> None:
        """Take the file that comes first."""
        if self.arrived and not self.is_away:
            name = min(self.arrived, key=lambda name: self.arrived[name].sequence)
            self._book(name, self.arrived.pop(name))

    def take_all(self) -> None:
        while self.arrived and not self.is_away:
            self.take()

    def _book(self, name: str, file: Content) -> None:
        if file.header in self.booked:  # taken again, or a copy: answered again, and not booked again
            self.acknowledgements[name] = replace(self.booked[file.header][0])
            self.results[name] = replace(self.booked[file.header][1])
            return
        if file.sequence != self.next_sequence:
            problem = "was used before" if file.sequence < self.next_sequence else "leaves a gap"
            self.acknowledgements[name] = Acknowledgement(
                file.header, file.sequence, False, self.next_sequence, problem
            )
            return
        self.next_sequence += 1
        fault = self.faults.pop(0) if self.faults else ""
        answers = [self._move(operation, is_answered=fault != "silent") for operation in file.operations]
        is_damaged = fault == "damaged_ack"
        self.acknowledgements[name] = Acknowledgement(
            file.header, file.sequence, True, self.next_sequence, is_damaged=is_damaged
        )
        self.results[name] = Result(file.header, [a for a in answers if a], is_damaged=fault == "damaged")
        self.booked[file.header] = (self.acknowledgements[name], self.results[name])
        if fault == "stale" and self.last_result:  # an old answer comes again, in the place of the new one
            self.results[name] = self.last_result
        if fault == "taken_again":  # it died after booking, and finds the file once more
            self.arrived[name] = file
        self.last_result = self.results[name]

    def _move(self, operation: dict[str, Any], *, is_answered: bool) -> dict[str, Any] | None:
        self.made += 1
        is_taking = operation["kind"] in ("charge", "rebill")
        fate = self.fates.get(operation["instrument_token"] or operation["original_payment_id"], "ok")
        moved = Movement(
            operation["merchant_reference"], operation["kind"], operation["instrument_token"] or "", operation["amount_minor"],
            "declined" if fate == "declined" and is_taking else "succeeded", f"p{self.made}", operation["original_payment_id"],
            is_held=fate == "held",
        )  # fmt: skip
        self.book.append(moved)
        return _answer(moved) if is_answered and fate not in ("silent", "held") else None

    def book_held(self) -> None:
        """What was taken is booked at last."""
        for moved in self.book:
            moved.is_held = False

    def find(self, reference: str) -> Movement | None:
        return next((m for m in self.book if m.reference == reference and not m.is_held), None)

    def kept(self) -> dict[str, int]:
        """By token, what is kept of a customer's money, whatever was held."""
        kept: dict[str, int] = {}
        token_of = {m.payment_id: m.token for m in self.book if m.kind in ("charge", "rebill")}
        for moved in (m for m in self.book if m.status == "succeeded"):
            sign, token = (1, moved.token) if moved.original is None else (-1, token_of.get(moved.original, ""))
            kept[token] = kept.get(token, 0) + sign * moved.amount_minor
        return kept


def _answer(moved: Movement) -> dict[str, Any]:
    reason = "insufficient_funds" if moved.status == "declined" else None
    return {"merchant_reference": moved.reference, "status": moved.status, "reason": reason, "payment_id": moved.payment_id,
            "amount_minor": moved.amount_minor}  # fmt: skip


@dataclass(eq=False)
class SimulatedRail:
    """The way to the acquirer of one process.

    Attributes:
        at: told every moment at which this process may be interrupted beside the failpoints.
        on_deliver: told of a file that is delivered.
    """

    acquirer: Acquirer
    machine: Machine
    at: Callable[[str], None]
    on_deliver: Callable[[str, Content], None]
    simulated = True
    identity = "simulated"

    def introduce(self, cards: pa.Table) -> None:
        self._live()

    def write(self, operations: pa.Table, *, sequence: int, echo: str) -> BatchFile:
        bank = self._live()
        rows = tuple(operations.select(OPERATION_SCHEMA.names).to_pylist())
        digest = sha256(repr(rows).encode()).hexdigest()
        is_undo = rows[0]["kind"] in ("void", "refund")
        header = f"{PLATFORM},{sequence},{echo} {digest[:16]}"
        name = f"{PLATFORM}_{sequence}_{'Modification' if is_undo else 'Authorisation'}.csv"
        bank.made += 1
        staged = f"{bank.made:06d}-{name}"
        scope, _, wave = echo.rpartition(" wave ")
        bank.evidence[name] = bank.staged[staged] = Content(header, sequence, rows, scope, int(wave))
        total = sum(row["amount_minor"] for row in rows)
        return BatchFile(Path("/outbox") / name, Path("/staged") / staged, sequence, header, digest, len(rows), total)

    def read_back(self, file: BatchFile) -> pa.Table:
        return pa.Table.from_pylist(list(self._staged(file).operations), OPERATION_SCHEMA)

    def require_as_written(self, file: BatchFile) -> None:
        self._staged(file)

    def _staged(self, file: BatchFile) -> Content:
        content = self._live().staged.get(file.staged.name)
        if content is None:
            raise FatalError(f"{file.staged.name} is not there any more; it was not sent")
        return content

    # -- handing over -------------------------------------------------------------------------------------------

    def note(self, noted: Noted) -> None:
        self._live().note = noted

    def noted(self) -> Noted:
        bank = self._live()
        accepted = self.next_sequence() - 1
        return Noted(bank.note.epoch, max(accepted, bank.note.sequence), accepted)

    def deliver(self, file: BatchFile) -> None:
        bank = self._live()
        if file.path.name in bank.arrived:
            raise FatalError(f"{file.path.name} lies before the acquirer already, and is not ours: nothing was sent")
        content = bank.staged.pop(file.staged.name, None)
        if content is None:
            raise SenderLost(f"{file.path.name} was taken back by another sender; it was not sent from here")
        bank.arrived[file.path.name] = content
        self.on_deliver(file.staged.name, content)

    def recall(self, file: BatchFile) -> Whereabouts:
        bank = self._live()
        if file.staged is not None and file.staged.name in bank.staged:
            bank.withdrawn[file.staged.name] = bank.staged.pop(file.staged.name)
        where = self.whereabouts(file)
        assert where != "staged"
        return where

    def whereabouts(self, file: BatchFile) -> str:
        bank = self._live()
        if file.staged is not None:
            for place, found in (("staged", bank.staged), ("withdrawn", bank.withdrawn)):
                if file.staged.name in found:
                    return place
        name = file.path.name
        if any(name in place and place[name].header == file.header for place in (bank.arrived, bank.results)):
            return "delivered"
        said = bank.acknowledgements.get(name)
        if said and said.header == file.header and not said.is_damaged:
            return "delivered"
        return "missing" if file.staged is not None else "withdrawn"

    def sent_files(self) -> list[SentFile]:
        bank = self._live()
        found = {}
        accepted = [item for item in bank.acknowledgements.items() if item[1].is_accepted and not item[1].is_damaged]
        for name, said in [*bank.arrived.items(), *accepted, *bank.results.items()]:
            sent = bank.arrived.get(name) or bank.evidence[name]
            _, sequence, echo = said.header.split(",")
            scope, _, wave = echo.rpartition(" ")[0].rpartition(" wave ")
            found.setdefault(said.header, SentFile(name, int(sequence), said.header, scope or sent.scope, int(wave)))
        return sorted(found.values(), key=lambda sent: sent.sequence)

    def read_sent(self, sent: SentFile) -> tuple[BatchFile, pa.Table]:
        content = self._live().evidence[sent.name]
        if content.header != sent.header:
            raise FatalError(f"the evidence of {sent.name} is not the file that the acquirer has under its number")
        rows = list(content.operations)
        digest, total = sha256(repr(content.operations).encode()).hexdigest(), sum(r["amount_minor"] for r in rows)
        file = BatchFile(Path("/outbox") / sent.name, None, sent.sequence, sent.header, digest, len(rows), total)
        return file, pa.Table.from_pylist(rows, OPERATION_SCHEMA)

    # -- answers ------------------------------------------------------------------------------------------------

    def poll(self, file: BatchFile, operations: pa.Table, *, timeout_seconds: float) -> pa.Table:
        bank, name = self._live(), file.path.name
        if name in bank.arrived:
            self.at("rail.poll")
            if name in bank.arrived:
                bank.take_all()
        said, result = bank.acknowledgements.get(name), bank.results.get(name)
        if said and said.header == file.header and not said.is_accepted:
            if "gap" in said.problem:
                raise FileRefused(f"{name} was rejected whole, nothing was booked: {said.problem}")
            raise self.damaged(f"{name} is refused, which does not exclude that it was booked: {said.problem}")
        if result is None or result.header != file.header:
            raise OutcomeUnknown(f"{name}: no answer in {timeout_seconds:g} s")
        if result.is_damaged:
            raise self.damaged(f"the answer to {name} makes no sense")
        return pa.Table.from_pylist(result.answers, OUTCOME_SCHEMA)

    @staticmethod
    def damaged(message: str) -> Exception:
        """What an answer that cannot be trusted is."""
        return DamagedAnswer(message)

    def inquire(self, merchant_references: pa.Array) -> pa.Table:
        return self._states(merchant_references.to_pylist(), self._live().find).select(OUTCOME_SCHEMA.names)

    def ask_states(self, *, payment_ids: pa.Array) -> Callable[[], pa.Table]:
        by_id = {moved.payment_id: moved for moved in self._live().book}
        return lambda: self._states(payment_ids.to_pylist(), by_id.get)

    def _states(self, keys: list[str], find: Callable[[str], Movement | None]) -> pa.Table:
        book = self._live().book
        rows = []
        for key in keys:
            moved = find(key)
            if moved is None:
                rows.append({"merchant_reference": key, "status": "not_found"})
                continue
            back = sum(m.amount_minor for m in book if m.original == moved.payment_id and not m.is_held)
            is_acquired = moved.status == "succeeded"
            state = "declined" if not is_acquired else "refunded" if back >= moved.amount_minor else "acquired"
            left = moved.amount_minor - back if state == "acquired" else 0
            rows.append(_answer(moved) | {"currency": "KRW", "state": state, "charged_minor": moved.amount_minor,
                                          "refunded_minor": back, "refundable_minor": left})  # fmt: skip
        return pa.Table.from_pylist(rows, PAYMENT_STATE_SCHEMA)

    def next_sequence(self) -> int:
        bank = self._live()
        on_their_way = [content.sequence + 1 for content in bank.arrived.values()]
        legible = [said for said in bank.acknowledgements.values() if said.is_accepted and not said.is_damaged]
        newest = max(legible, key=lambda said: said.sequence, default=None)
        return max([newest.next_sequence if newest else 1, *on_their_way])

    def set_clock(self, as_of: datetime | None) -> None:
        raise FatalError("the simulation turns the clock itself")

    def _live(self) -> Acquirer:
        if self.machine.running:
            self.machine.running.require_alive()
        return self.acquirer
