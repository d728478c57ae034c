"""Named points in the money path at which a test lets something fail; a comparison with None, and nothing else, when off.

Belongs here: the names of the points, and what may happen at one. Does not: any fault of the world outside this process - a point
that is told to `wait` says that it was reached, and whoever tests does to the world what it likes before it lets it go on.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RetriableError, UsageError

FAILPOINTS = (
    "lock.taken",
    "recall.begin", "recall.moved", "recall.recorded",
    "intents.commit", "intents.committed",
    "file.written", "file.matched", "file.recorded",
    "hand_over.begin", "hand_over.recorded", "hand_over.noted", "hand_over.delivered",
    "answers.wait", "answers.read", "answers.record", "answers.recorded",
    "unknown.ask", "unknown.answered", "unknown.recorded",
    "withdraw.record", "withdraw.recorded",
)  # fmt: skip
"""In the order in which a wave meets them; `tests/test_failpoints.py` holds that each is met."""

ACTIONS = ("kill", "stop", "error", "wait")
"""End this process at once; pause it as SIGSTOP does; raise `RetriableError`; or say `reached` and wait to be let go."""

WAIT_SECONDS = 600.0
"""Longest wait at a point: a test that forgot its process does not keep it for ever."""


@dataclass(slots=True)
class Armed:
    """One fault that waits for its moment.

    Attributes:
        nth: at which visit of the point, from 1.
        folder: where a wait leaves `reached` and looks for `go`.
    """

    point: str
    nth: int
    action: str
    folder: Path | None
    visits: int = 0


_armed: Armed | None = None


def arm(specification: str | None) -> None:
    """Arm one fault, `POINT:NTH:ACTION[:FOLDER]`, or none.

    Raises:
        UsageError: there is no such point or action.
    """
    global _armed
    if not specification:
        _armed = None
        return
    point, nth, action, *folder = specification.split(":", 3)
    if point not in FAILPOINTS or action not in ACTIONS or not nth.isdigit() or (action == "wait") != bool(folder):
        raise UsageError(f"no failpoint {specification!r}: write POINT:NTH:ACTION, and a folder after `wait`")
    _armed = Armed(point, int(nth), action, Path(folder[0]) if folder else None)


def failpoint(name: str) -> None:
    """Fail here, if a test has said so."""
    if _armed is not None:
        _visit(_armed, name)


def _visit(armed: Armed, name: str) -> None:
    assert name in FAILPOINTS, name
    if armed.point != name:
        return
    armed.visits += 1
    if armed.visits != armed.nth:
        return
    match armed.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "error":
            raise RetriableError(f"failpoint {name}")
        case "wait":
            (armed.folder / "reached").touch()
            deadline = time.monotonic() + WAIT_SECONDS
            while not (armed.folder / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
