"""Lead sending out of states that no sender leads itself out of: books behind the acquirer, and files that were lost.

Belongs here: finding what is wrong by laying the books beside what the rail has, saying it, and putting it right. Does not: sending
anything. Whatever may have moved money is put right only while sending is stopped until two people resume it.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import FileRefused, SendingStopped
from pipeline.execution import Sender, Turn
from pipeline.ports import BatchFile, Noted, SentFile

NEEDS_TWO = ("enter", "lost")
"""Findings after which two people have to let sending go on: money has moved that the books did not know, or is to be sent again."""

TOLD = {
    "take_back": "written and never handed over, or not delivered: it is taken back, and its wave is decided anew",
    "wait": "with the acquirer: its answers are waited for, and recorded",
    "enter": "went out, and the books know nothing of it: its operations and answers are entered",
    "lost": "was handed over and the acquirer never had it: its operations are to be sent again",
    "unclear": "was handed over and lies in no known place; the acquirer may still have it: wait, then look again",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One file whose fate the books do not know, or know wrongly.

    Attributes:
        kind: a key of `TOLD`.
        file: its name.
        scope, wave: what it was written for, as its header says.
    """

    kind: str
    file: str
    sequence: int
    scope: str
    wave: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"what": TOLD[self.kind]}


class Books(Protocol):
    """What repairing needs of the ledger; see `adapters.ledger` for each promise."""

    def sending(self, rail: str, noted: Noted, *, also_behind: bool = False) -> Any: ...
    def open_files(self, rail: str) -> list[tuple[str, Any]]: ...
    def silent_files(self, rail: str) -> list[tuple[str, Any]]: ...
    def last_sequence(self, rail: str) -> int: ...
    def headers(self, rail: str) -> dict[int, set[str]]: ...
    def read_wave(self, scope: str, wave: int) -> tuple[pa.Table, pa.Table]: ...
    def order_stop_of_two(self, reason: str) -> None: ...
    def intend_missing(self, turn: Turn, scope: str, wave: int, operations: pa.Table) -> None: ...
    def reenter_batch(self, turn: Turn, scope: str, wave: int, file: BatchFile) -> None: ...
    def declare_lost(self, turn: Turn, scope: str, wave: Any, *, effective_on: Any) -> None: ...


class Rail(Protocol):
    """What repairing needs of a rail beside sending."""

    identity: str

    def noted(self) -> Noted: ...
    def note(self, noted: Noted) -> None: ...
    def next_sequence(self) -> int: ...
    def whereabouts(self, file: BatchFile) -> str: ...
    def sent_files(self) -> list[SentFile]: ...
    def read_sent(self, sent: SentFile) -> tuple[BatchFile, pa.Table]: ...
    def inquire(self, merchant_references: pa.Array) -> pa.Table: ...


Meant = Callable[[str, int, pa.Table], pa.Table]
"""Told scope, wave and the operations in a file: the rows that the books once had of them."""


@dataclass(frozen=True, slots=True)
class Repair:
    """The books beside a rail."""

    books: Books
    rail: Rail
    sender: Sender
    meant: Meant

    def find(self) -> list[Finding]:
        """What is to be put right, in the order of file numbers; changes nothing."""
        return sorted((finding for finding, _ in self._found()), key=lambda finding: finding.sequence)

    def apply(self) -> list[Finding]:
        """Put it right; returns what was found. Repeating it goes on where it stopped.

        Raises:
            RetriableError: another sender is at work.
            FatalError: a file cannot be entered; what was found before it is done.
        """
        with self.books.sending(self.rail.identity, self.rail.noted(), also_behind=True) as turn:
            # found only now: a sender that was at work has ended, or can record nothing more
            found = sorted(self._found(), key=lambda pair: pair[0].sequence)
            if any(finding.kind in NEEDS_TWO for finding, _ in found):
                self.books.order_stop_of_two("the books were repaired; two people look, then resume")
            # what never went is taken back first: a file that did is entered in its place. Each is entered with its answers, for the next
            # may be about what it declined
            self._settle_open(turn)
            for finding, subject in sorted(found, key=lambda pair: pair[0].kind == "enter"):
                self._put_right(turn, finding, subject)
                self._settle_open(turn)
            # what was noted and never went would keep these books behind for ever
            last = max(self.rail.next_sequence() - 1, self.books.last_sequence(turn.rail))
            self.rail.note(Noted(turn.epoch, last))
        return [finding for finding, _ in found]

    def _settle_open(self, turn: Turn) -> None:
        """Take back, or record the answers to, what any sender's turn would; what the answers say stops no repair."""
        for scope, wave in self.books.open_files(turn.rail):
            where = self.rail.whereabouts(wave.file)
            if where != "missing" and (wave.handed_over or where != "delivered"):
                with suppress(SendingStopped, FileRefused):
                    self.sender.settle(turn, scope, wave)

    def _found(self) -> Iterator[tuple[Finding, Any]]:
        delivered = set()
        for scope, wave in self.books.open_files(self.rail.identity):
            where = self.rail.whereabouts(wave.file)
            if where == "delivered":
                delivered.add(wave.file.header)
                kind = "wait" if wave.handed_over else "enter"
            elif where in ("staged", "withdrawn") or not wave.handed_over:
                kind = "take_back"
            else:
                kind = "lost" if self._never_had(scope, wave) else "unclear"
            yield _finding(kind, scope, wave), (scope, wave)
        for scope, wave in self.books.silent_files(self.rail.identity):
            if self.rail.whereabouts(wave.file) == "missing" and self._never_had(scope, wave):
                yield _finding("lost", scope, wave), (scope, wave)
        headers = self.books.headers(self.rail.identity)
        for sent in self.rail.sent_files():
            if sent.header not in delivered and not headers.get(sent.sequence, set()) & {sent.header, ""}:
                yield Finding("enter", sent.name, sent.sequence, sent.scope, sent.wave), sent

    def _never_had(self, scope: str, wave: Any) -> bool:
        """Whether the acquirer knows none of the file's operations, and takes its very number next or has another file under it."""
        number, header = wave.file.sequence, wave.file.header
        has_another = any(sent.sequence == number and sent.header != header for sent in self.rail.sent_files())
        if self.rail.next_sequence() > number and not has_another:
            return False
        operations, _ = self.books.read_wave(scope, wave.number)
        answers = self.rail.inquire(operations["merchant_reference"].combine_chunks())
        return pc.all(pc.equal(answers["status"], "not_found"), min_count=0).as_py()

    def _put_right(self, turn: Turn, finding: Finding, subject: Any) -> None:
        match finding.kind:
            case "enter":
                self._enter(turn, finding, subject)
            case "lost":
                self.books.declare_lost(turn, *subject, effective_on=self.sender.effective_on)

    def _enter(self, turn: Turn, finding: Finding, subject: Any) -> None:
        """Enter a file's operations, and that it was handed over; its answers are read like any other's."""
        if isinstance(subject, SentFile):
            file, operations = self.rail.read_sent(subject)
            self.books.intend_missing(
                turn, finding.scope, finding.wave, self.meant(finding.scope, finding.wave, operations)
            )
        else:  # the books have it up to the moment before it was handed over
            file = subject[1].file
        self.books.reenter_batch(turn, finding.scope, finding.wave, file)


def _finding(kind: str, scope: str, wave: Any) -> Finding:
    return Finding(kind, wave.file.path.name, wave.file.sequence, scope, wave.number)
