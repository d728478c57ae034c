"""What cancel, refund and rebill have in common: an approved plan, a window with both bounds, waves built from live state.

Belongs here: guarding the window, cutting what is due into waves (a canary first), reading live state while the acquirer is
busy with the wave before, and saying what came of it. Does not: what one step is about (`cancel`, `refund`, `rebill`), which
lines are due (`adapters.remedies`), or sending (`execution`).
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.wave import CANARY_SIZES, WAVE_SIZE
from pipeline.core.window import Window
from pipeline.errors import FatalError, GateClosed, OutsideWindow
from pipeline.execution import Prepared, Sender, Turn, prepared
from pipeline.ports import LiveStates

WAVES_AHEAD = 2
"""Waves whose intents are written while one is sent: committing 50,000 takes the database as long as the acquirer takes to answer
them. A call that is stopped leaves so many, and the one it was about to send; the next call withdraws and decides them anew."""


class Books(Protocol):
    """One step of an approved plan in the books; see `adapters.remedies` for each promise."""

    incident_id: str
    step: str
    scope: str

    def unknown_scopes(self) -> list[str]: ...
    def begin(self, turn: Turn) -> int: ...
    def cards(self) -> pa.Table: ...
    def due(self, start: int, count: int) -> pa.Table: ...
    def next_wave(self) -> int: ...
    def decide(self, lines: pa.Table, states: pa.Table | None, wave: int) -> tuple[pa.Table, pa.Table]: ...
    def commit(self, intended: pa.Table, deviations: pa.Table) -> None: ...
    def note_deviations(self) -> None: ...
    def report(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Guard:
    """The dated window of a step; both of its bounds hold, and they are looked at again before every wave.

    Attributes:
        clock: what time it is, time-zone aware.
        what: what the window is for, as a message says it.
    """

    window: Window
    clock: Callable[[], datetime]
    timezone: ZoneInfo
    what: str

    def __call__(self) -> None:
        """Pass while the window is open.

        Raises:
            OutsideWindow: it is not; nothing may be sent.
        """
        now = self.clock()
        if self.window.contains(now, self.timezone):
            return
        if now < self.window.opens(self.timezone):
            advice = "wait for it"
        else:
            advice = "what is left needs a successor plan with its own window and approval: `makegood incident plan`"
        raise OutsideWindow(
            f"the window for {self.what} is {self.window}, and it is {now.astimezone(self.timezone):%Y-%m-%d %H:%M}: {advice}"
        )


def carry_out(books: Books, sender: Sender, guard: Guard, live: LiveStates | None) -> dict[str, Any]:
    """Send whatever a step still asks for; calling it again moves nothing twice.

    Operations whose outcome is unknown are looked up first, whatever the day: that moves no money.

    Args:
        live: the acquirer's live state of payments, read before every wave; None for a step that undoes nothing.

    Returns:
        `Books.report`, with `stopped`: why a window that closed left the rest unsent, or None.

    Raises:
        OutsideWindow: the window is not open; nothing was sent.
        SendingStopped, FatalError, RetriableError: as `execution.Sender.send`; calling again goes on.
    """
    try:
        guard()
    except OutsideWindow:
        _look_up(books, sender)
        books.note_deviations()
        raise
    stopped = None
    try:
        with sender.turn() as turn, closing(_ahead(_waves(books, sender, turn, guard, live))) as upcoming:
            sender.send(turn, books.scope, upcoming=upcoming, upcoming_alone=True, guard=guard)
    except OutsideWindow as closed:
        stopped = str(closed)
    finally:
        books.note_deviations()
    return books.report() | {"stopped": stopped}


def preview(books: Books) -> dict[str, Any]:
    """Where a step stands and what it would send; nothing is sent or looked up."""
    return books.report() | {"stopped": None}


def _look_up(books: Books, sender: Sender) -> None:
    for scope in books.unknown_scopes():
        sender.look_up_unknown(scope)


def _waves(books: Books, sender: Sender, turn: Turn, guard: Guard, live: LiveStates | None) -> Iterator[Prepared]:
    """Commit one wave's intents after another. The question about the next wave's payments is put before this wave's is answered,
    so the acquirer answers it between two files and nobody waits; and the database takes the intents while their file is written."""
    _look_up(books, sender)
    sender.require_sending_allowed(books.scope)  # before what an earlier call left is withdrawn, only to be left again
    portions = _portions(books.begin(turn), fresh=books.next_wave() == 0)
    cards = books.cards()
    if cards.num_rows:
        sender.rail.introduce(cards)
    number, moved_minor = books.next_wave(), sender.moved_minor(books.scope)
    asked = _ask(books, live, next(portions, None))
    with ThreadPoolExecutor(max_workers=WAVES_AHEAD, thread_name_prefix="intending") as thread:
        while asked:
            lines, answer = asked
            states = answer()
            asked = _ask(books, live, next(portions, None))
            guard()
            sender.require_sending_allowed(books.scope)
            intended, deviations = books.decide(lines, states, number)
            moved_minor += pc.sum(intended["amount_minor"]).as_py() or 0
            sender.require_below_cap(books.scope, number, moved_minor)
            committed = thread.submit(books.commit, intended, deviations)
            if intended.num_rows:
                yield prepared(number, intended, committed.result)
                number += 1
            else:
                committed.result()


def _ahead(waves: Iterator[Prepared]) -> Iterator[Prepared]:
    """`waves`, each handed on when `WAVES_AHEAD` after it have been begun: the database takes their intents while it is sent."""
    begun: deque[Prepared] = deque()
    with closing(waves):
        try:
            for wave in waves:
                begun.append(wave)
                if len(begun) > WAVES_AHEAD:
                    yield begun.popleft()
        except GateClosed:
            yield from begun  # whoever sends them asks for itself whether it may
            raise
        yield from begun


def _ask(
    books: Books, live: LiveStates | None, portion: tuple[int, int] | None
) -> tuple[pa.Table, Callable[[], pa.Table | None]] | None:
    """The lines of a wave, and what to call for the state of their payments; None after the last one."""
    if portion is None:
        return None
    lines = books.due(*portion)
    if live is None:
        return lines, lambda: None
    return lines, live.ask_states(payment_ids=lines["payment_id"].combine_chunks())


def _portions(total: int, *, fresh: bool) -> Iterator[tuple[int, int]]:
    """Start and size of every wave: the canary's sizes first, where nothing of the scope has been sent."""
    start = 0
    for size in CANARY_SIZES if fresh else ():
        if start < total:
            yield start, min(size, total - start)
            start += size
    for later in range(start, total, WAVE_SIZE):
        yield later, min(WAVE_SIZE, total - later)


def require_live_states(rail: Any) -> LiveStates:
    """The rail, if it can say what state payments are in.

    Raises:
        FatalError: it cannot; what would be undone could not be checked first.
    """
    if not hasattr(rail, "ask_states"):
        raise FatalError("this rail cannot say what state a payment is in; nothing is undone without looking first")
    return rail
