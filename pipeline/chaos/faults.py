"""What can go wrong, and to which cells it does not apply.

Belongs here: one small function per fault, done to a world whose command waits, is paused or is dead at a point; and the reasons why
a cell - a step, a point, a fault - makes no sense. Does not: what comes after (`people`, `judge`).
"""

import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.chaos import program
from pipeline.chaos.story import STEPS, Step
from pipeline.chaos.world import World
from pipeline.failpoints import FAILPOINTS

MOMENT = "moment"
"""The point that every step has: any moment of its life, drawn by the seed."""

POINTS = (MOMENT, *FAILPOINTS)

WITH_FILE = (
    "file.written",
    "file.matched",
    "file.recorded",
    "hand_over.begin",
    "hand_over.recorded",
    "hand_over.noted",
)
"""Points at which a file is written and has not been delivered."""

RESUMED = ("recall.begin", "recall.moved", "recall.recorded", "withdraw.record", "withdraw.recorded")
"""Points that a call comes past only after an earlier one has died."""

DIES_AT = "hand_over.noted:1:kill"
"""Where that earlier call has died: its hand-over was recorded, and its file not delivered."""

IN_FLIGHT = ("hand_over.recorded", "hand_over.noted")
"""Points at which a hand-over has been recorded: a process that lives may still deliver this one file."""

WITH_ANSWER = ("hand_over.delivered", "answers.wait")
"""Points at which a file has gone out whose answer nobody has read."""

WITH_ANSWER_UNRECORDED = (*WITH_ANSWER, "answers.read", "answers.record")

BEHIND = (*WITH_FILE, "intents.commit", "intents.committed")
"""Points of a wave at which the answer of the wave before is still to be read."""

TOGETHER_SECONDS = 0.4
"""How long a second caller is given to get as far as it can beside the first."""

TAKEOVER_SECONDS = 8.0
"""How long whoever takes over is given to end; it may wait for a transaction that the paused process has left open."""


@dataclass(slots=True)
class Scene:
    """A trial as a fault meets it.

    Attributes:
        command: the command at its point; dead, paused or waiting.
        at: the hour at which people act now; a fault may move it.
        forbidden: since when nothing may be sent: the files the acquirer had by then.
        sent: what was sent all the same.
        given_up: cards whose money others gave back.
        lift: what ends the fault, in order.
    """

    world: World
    step: Step
    point: str
    fault: "Fault"
    draw: random.Random
    command: program.Command | None = None
    at: str | None = None
    forbidden: set[str] | None = None
    sent: set[str] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    lift: list[Callable[[], Any]] = field(default_factory=list)
    backup: Path | None = None
    others: list[program.Command] = field(default_factory=list)

    def forbid(self) -> None:
        """From now on nothing may be sent."""
        self.forbidden = files_sent(self.world)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: what it is one of, for counting.
        action: what happens to the command at its point: `kill`, `error`, `stop` (SIGSTOP) or `wait`.
        act: what is done to the world then.
        before: what is done before the command is started.
        unless: why a cell is none for it; each returns a reason, or None.
        is_long: takes more than some seconds.
    """

    name: str
    kind: str
    action: str
    act: Callable[[Scene], Any]
    unless: tuple[Callable[["Cell"], str | None], ...] = ()
    before: Callable[[Scene], Any] | None = None
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault at one point of one step."""

    step: str
    point: str
    fault: str

    def __str__(self) -> str:
        return f"{self.step} {self.point} {self.fault}"

    def why_not(self, visits: Mapping[str, Mapping[str, int]]) -> str | None:
        """Why it does not apply, or None.

        Args:
            visits: by step, how often it comes past each point.
        """
        if self.step not in visits:
            return "its world was not made"
        if self.point != MOMENT and not visits[self.step].get(self.point):
            return "the step does not come past this point"
        fault = FAULTS[self.fault]
        if self.point == MOMENT and fault.action in ("error", "stop"):
            return "it needs a point with a name: at a random moment a library's own lock may be held"
        return next((reason for unless in (_only_incidents, *fault.unless) if (reason := unless(self))), None)


# -- why a cell is none -----------------------------------------------------------------------------------------------


def _sends_nothing(cell: Cell) -> str | None:
    return None if STEPS[cell.step].moves_money else "the step sends nothing"


def _no_file(cell: Cell) -> str | None:
    return None if cell.point in WITH_FILE else "no file waits to go out here"


def _no_answer(cell: Cell) -> str | None:
    return None if cell.point in (*WITH_ANSWER, *BEHIND) else "no answer lies unread here"


def _no_answer_left(cell: Cell) -> str | None:
    return None if cell.point in (*WITH_ANSWER_UNRECORDED, *BEHIND) else "no answer lies unrecorded here"


def _no_plan(cell: Cell) -> str | None:
    return None if STEPS[cell.step].is_remedy else "the step has no plan"


def _no_wrong_run(cell: Cell) -> str | None:
    return None if cell.step == "escape" else "an incident is opened over wrong charges that are going out"


def _only_incidents(cell: Cell) -> str | None:
    """The wrong month escapes as the right one is charged; only what comes after differs."""
    is_about = _no_wrong_run in FAULTS[cell.fault].unless
    return None if cell.step != "escape" or is_about else "as in `release`"


def _no_lock(cell: Cell) -> str | None:
    return None if STEPS[cell.step].moves_money else "the step does not take the senders' lock"


def _no_clock(cell: Cell) -> str | None:
    return None if STEPS[cell.step].at else "the step has no clock"


def _cannot_mount(_cell: Cell) -> str | None:
    return None if can_mount() else "needs the right to mount"


# -- looking ----------------------------------------------------------------------------------------------------------


def files_sent(world: World) -> set[str]:
    """Names of the files that have reached the acquirer, taken or not."""
    waiting = {path.name for path in (world.bank / "in").glob("[!.]*.csv")}
    answered = {path.name.removesuffix("_ack") for path in (world.bank / "ack").glob("[!.]*_ack")}
    return (
        waiting
        | answered
        | {path.name.removesuffix("_result") for path in (world.bank / "result").glob("[!.]*_result")}
    )


def _sequence(path: Path) -> int:
    found = re.search(r"_(\d+)_", path.name)
    return int(found[1]) if found else -1


def answers(world: World, folder: str = "result") -> list[Path]:
    """Answer files, oldest first."""
    return sorted((path for path in (world.bank / folder).glob("[!.]*") if path.is_file()), key=_sequence)


def outgoing(world: World) -> list[Path]:
    """Staged files that the acquirer has not got, oldest first; the copies in the outbox are evidence, nobody delivers them."""
    known = files_sent(world)
    found = [path for path in (world.bank / "staged").glob("[!.]*.csv") if path.name.partition("-")[2] not in known]
    return sorted(found, key=_sequence)


class NothingThereError(Exception):
    """What a fault is done to is not there at this visit of the point: no fault happened."""


def _last(found: list[Path]) -> Path:
    if not found:
        raise NothingThereError
    return found[-1]


# -- answers ----------------------------------------------------------------------------------------------------------


def _damage(change: Callable[[bytes, random.Random], bytes], folder: str = "result") -> Callable[[Scene], None]:
    """Replace the newest answer by what `change` makes of it."""

    def act(scene: Scene) -> None:
        path = _last(answers(scene.world, folder))
        _replace(path, change(path.read_bytes(), scene.draw))

    return act


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.chaos")
    part.write_bytes(content)
    part.replace(path)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(1, len(content))]


def _flip(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(7))]) + content[place + 1 :]


def _bad_utf8(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + b"\xff\xfe" + content[place:]


def _unknown_status(content: bytes, _draw: random.Random) -> bytes:
    return re.sub(rb",(Authorised|Received|Success|Refused|Error|Cancelled),", b",Perplexed,", content, count=1)


def _other_header(content: bytes, _draw: random.Random) -> bytes:
    return re.sub(rb"^(FH,(?:[^,\n]*,){5})(\d+)", lambda m: m[1] + str(int(m[2]) + 7).encode(), content, count=1)


def _line_dropped(content: bytes, _draw: random.Random) -> bytes:
    """The last line and its sub-line are gone, and the trailer counts one less: it looks whole."""
    body, trailer, end = content.rpartition(b"\nBT,")
    cut = body.rfind(b"\nL,")
    count, rest = end.split(b"\n", 1)
    return body[:cut] + trailer + str(int(count) - 1).encode() + b"\n" + rest if cut > 0 else content


def _foreign(content: bytes, draw: random.Random) -> bytes:
    references = re.findall(rb"\b[0-9a-f]{32}\b", content)
    return content.replace(references[-1], f"{draw.getrandbits(128):032x}".encode(), 1) if references else content


def _stale(scene: Scene) -> None:
    """An earlier file's answer comes under the newest one's name."""
    found = answers(scene.world)
    if len(found) < 2:
        raise NothingThereError
    _replace(found[-1], scene.draw.choice(found[:-1]).read_bytes())


def _refused(reason: str) -> Callable[[bytes, random.Random], bytes]:
    """An acknowledgement that names our file, and refuses it for `reason`."""

    def change(content: bytes, _draw: random.Random) -> bytes:
        header, number = content.split(b"\n", 1)[0], content.rpartition(b"N,")[2]
        return header + f"\nE,0,,{reason}\nN,".encode() + number

    return change


def _late(scene: Scene) -> None:
    """The newest answer is not there until the caller has given up."""
    hidden = [
        (path, path.with_name(f".{path.name}.late"))
        for path in (_last(answers(scene.world, f)) for f in ("result", "ack"))
    ]
    for path, aside in hidden:
        path.replace(aside)
    scene.lift.append(lambda: [aside.replace(path) for path, aside in hidden])


# -- outgoing files ---------------------------------------------------------------------------------------------------


def _lost(scene: Scene) -> None:
    _last(outgoing(scene.world)).unlink()


def _emptied(scene: Scene) -> None:
    _last(outgoing(scene.world)).write_bytes(b"")


def _foreign_content(scene: Scene) -> None:
    path = _last(outgoing(scene.world))
    others = [p for p in (scene.world.home / "outgoing").rglob("*.csv") if p.name != path.name]
    path.write_bytes(scene.draw.choice(sorted(others)).read_bytes() if others else b"not a batch file\n")


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


def _restart(scene: Scene) -> None:
    scene.world.stop_postgres(at_once=True)
    scene.world.start_postgres()


def _backends(scene: Scene) -> None:
    scene.world.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'makegood_pipeline'")


def _lock_backend(scene: Scene) -> None:
    """The connection that holds the senders' lock is gone, as after a failover; the others are not."""
    ended = scene.world.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity a WHERE usename = 'makegood_pipeline' AND state = 'idle in transaction'"
        " AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.relation = 'mutex'::regclass)"
    )
    if not ended:
        raise NothingThereError


def _restore_begin(scene: Scene) -> None:
    """The database of before the step is back; the acquirer and the files have gone on."""
    scene.world.restore_postgres(scene.world.saved(scene.step.world) / "home" / "postgres")


def _save_midway(scene: Scene) -> None:
    """A first call dies after a wave; the backup is of then."""
    dead = scene.world.start(
        *scene.step.argv(scene.world),
        login=scene.step.login,
        failpoint=f"hand_over.delivered:{scene.draw.randint(1, 2)}:kill",
    )
    scene.world.wait(dead)
    scene.backup = scene.world.folder / "backup"
    subprocess.run(["rm", "-rf", str(scene.backup)], check=True)
    scene.world.save_postgres(scene.backup)


def _restore_midway(scene: Scene) -> None:
    scene.world.restore_postgres(scene.backup)


# -- the acquirer -----------------------------------------------------------------------------------------------------


def _bank_killed(scene: Scene) -> None:
    _signal_bank(scene.world, signal.SIGKILL)


def _bank_away(scene: Scene) -> None:
    """It is there and does not answer, until the caller has given up."""
    _signal_bank(scene.world, signal.SIGSTOP)
    scene.lift.append(lambda: _signal_bank(scene.world, signal.SIGCONT))


def _signal_bank(world: World, number: int) -> None:
    import os

    process = world.bank_process()
    if process is None:
        raise NothingThereError
    os.kill(process, number)


# -- disk -------------------------------------------------------------------------------------------------------------


def _disk_full(scene: Scene) -> None:
    scene.command.limit_files(0)


def _read_only(scene: Scene) -> None:
    folder = scene.world.home / "outgoing"
    folder.mkdir(exist_ok=True)
    for arguments in (["--bind", str(folder), str(folder)], ["-o", "remount,bind,ro", str(folder)]):
        subprocess.run(["mount", *arguments], check=True)
    scene.lift.append(lambda: subprocess.run(["umount", str(folder)], check=True))


def can_mount() -> bool:
    """Whether this process may mount: a folder that is read-only for root as well takes that."""
    import os

    return os.geteuid() == 0 and bool(
        int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16) >> 21 & 1
    )


# -- callers ----------------------------------------------------------------------------------------------------------


def _second(scene: Scene, seconds: float = TOGETHER_SECONDS) -> None:
    """Somebody else calls the same command, and gets as far as it can."""
    other = scene.world.start(*scene.step.argv(scene.world), login=scene.step.login)
    scene.others.append(other)
    other.process.join(seconds)


def _takeover(scene: Scene) -> None:
    """The command is paused and its lock is gone; another takes over and ends; then the first goes on."""
    _lock_backend(scene)
    _second(scene, TAKEOVER_SECONDS)


def _takeover_after_restart(scene: Scene) -> None:
    _restart(scene)
    _second(scene, TAKEOVER_SECONDS)


# -- people and clocks ------------------------------------------------------------------------------------------------


def _stop_order(scene: Scene) -> None:
    scene.forbid()
    scene.world.require("stop", "--reason", "chaos", login="operator")


def _plan_rejected(scene: Scene) -> None:
    scene.forbid()
    scene.world.require(
        "incident",
        "reject",
        scene.world.facts["incident"],
        "--reason",
        "chaos",
        "--as-of",
        scene.step.at,
        login="approver",
        codes=(0, 3),
    )


def _window_closed(scene: Scene) -> None:
    """Nobody calls again before its last day is over."""
    scene.forbid()
    scene.at = {"rebill": "2023-09-15T13:00"}.get(scene.step.name, "2023-09-14T13:00")


def _clock_back(scene: Scene) -> None:
    """The next call is made on a machine whose clock is two days behind."""
    earlier = scene.step.at.replace(scene.step.at[8:10], f"{int(scene.step.at[8:10]) - 2:02d}")
    scene.world.run(*scene.step.argv(scene.world, earlier), login=scene.step.login)


def _incident_opened(scene: Scene) -> None:
    """An incident is opened over what goes out; it may wait for what is in flight, and holds from when it is there."""
    opened = scene.world.start(*STEPS["open"].argv(scene.world, scene.step.at), login="operator")
    opened.process.join(program.COMMAND_SECONDS if scene.command.is_over else TOGETHER_SECONDS * 4)
    scene.others.append(opened)
    if opened.is_over:
        scene.forbid()


def _support_refund(scene: Scene) -> None:
    """A support agent gives a customer the money back, at the acquirer, behind our back."""
    book = scene.world.book().to_pylist()
    acquired = sorted(row["payment_id"] for row in book if row["kind"] == "acquire")
    touched = {row["payment_id"] for row in book if row["kind"] in ("void", "refund")}
    candidates = [payment for payment in acquired if payment not in touched]
    if not candidates:
        raise NothingThereError
    payment = scene.draw.choice(candidates)
    scene.world.ask_bank("event", kind="support_refund", payment_id=payment)
    scene.given_up |= {row["instrument_token"] for row in book if row["payment_id"] == payment}


def die_before_delivery(scene: Scene) -> None:
    """A first call dies between a recorded hand-over and the file's delivery."""
    dead = scene.world.start(*scene.step.argv(scene.world), login=scene.step.login, failpoint=DIES_AT)
    scene.world.wait(dead)


def _nothing(_scene: Scene) -> None:
    """What happened to the command is the fault."""


def _pause(_scene: Scene) -> None:
    time.sleep(TOGETHER_SECONDS)


_RESULTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "result_cut": _cut, "result_flipped": _flip, "result_empty": lambda _content, _draw: b"", "result_bad_utf8": _bad_utf8,
    "result_unknown_status": _unknown_status, "result_other_header": _other_header, "result_line_dropped": _line_dropped,
    "result_foreign": _foreign,
}  # fmt: skip
_ACKNOWLEDGEMENTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "ack_cut": _cut, "ack_flipped": _flip, "ack_empty": lambda _content, _draw: b"", "ack_bad_utf8": _bad_utf8,
    "ack_says_used_before": _refused("file sequence number was used before"), "ack_says_duplicate": _refused("duplicate file"),
}  # fmt: skip


def _all_faults() -> list[Fault]:
    sends, pending, left, file = (
        (_sends_nothing,),
        (_sends_nothing, _no_answer),
        (_sends_nothing, _no_answer_left),
        (_no_file,),
    )
    found = [
        Fault("kill", "caller", "kill", _nothing),
        Fault("error", "caller", "error", _nothing),
        Fault("pause", "caller", "stop", _pause),
        Fault("two_callers", "caller", "wait", _second),
        Fault("takeover", "caller", "stop", _takeover, (_no_lock,)),
        Fault("takeover_after_restart", "caller", "stop", _takeover_after_restart, (_no_lock,), is_long=True),
        Fault("database_restarted", "database", "wait", _restart, is_long=True),
        Fault("killed_and_database_restarted", "database", "kill", _restart, is_long=True),
        Fault("backends_ended", "database", "wait", _backends),
        Fault("lock_backend_ended", "database", "wait", _lock_backend, (_no_lock,)),
        Fault("database_restored_to_before", "database", "wait", _restore_begin, is_long=True),
        Fault("killed_and_database_restored_to_before", "database", "kill", _restore_begin, is_long=True),
        Fault("killed_and_database_restored_to_midway", "database", "kill", _restore_midway, sends, _save_midway, is_long=True),
        Fault("acquirer_killed", "acquirer", "wait", _bank_killed),
        Fault("acquirer_away", "acquirer", "wait", _bank_away, is_long=True),
        Fault("disk_full", "disk", "wait", _disk_full),
        Fault("outbox_read_only", "disk", "wait", _read_only, (*sends, _cannot_mount)),
        Fault("stop_order", "people", "wait", _stop_order, sends),
        Fault("killed_and_stop_order", "people", "kill", _stop_order, sends),
        Fault("plan_rejected", "people", "wait", _plan_rejected, (_no_plan,)),
        Fault("killed_and_plan_rejected", "people", "kill", _plan_rejected, (_no_plan,)),
        Fault("killed_and_window_closed", "people", "kill", _window_closed, (_no_plan,)),
        Fault("killed_and_clock_back", "people", "kill", _clock_back, (_no_clock,)),
        Fault("incident_opened", "people", "wait", _incident_opened, (_no_wrong_run,)),
        Fault("killed_and_incident_opened", "people", "kill", _incident_opened, (_no_wrong_run,)),
        Fault("support_refund", "people", "wait", _support_refund, (_no_plan,)),
        Fault("result_late", "answer", "wait", _late, pending),
        Fault("result_stale", "answer", "wait", _stale, pending),
        Fault("killed_and_result_stale", "answer", "kill", _stale, left),
        Fault("file_lost", "file", "wait", _lost, file),
        Fault("killed_and_file_lost", "file", "kill", _lost, file),
        Fault("file_emptied", "file", "wait", _emptied, file),
        Fault("killed_and_file_emptied", "file", "kill", _emptied, file),
        Fault("file_foreign", "file", "wait", _foreign_content, file),
        Fault("killed_and_file_foreign", "file", "kill", _foreign_content, file),
    ]  # fmt: skip
    for folder, changes in (("result", _RESULTS), ("ack", _ACKNOWLEDGEMENTS)):
        for name, change in changes.items():
            found.append(Fault(name, "answer", "wait", _damage(change, folder), pending))
            found.append(Fault(f"killed_and_{name}", "answer", "kill", _damage(change, folder), left))
    return found


FAULTS = {fault.name: fault for fault in _all_faults()}
"""Every fault by name."""


def all_cells() -> list[Cell]:
    """The whole matrix, applicable or not."""
    return [Cell(step, point, fault) for step in STEPS for point in POINTS for fault in FAULTS]


def kinds_of(names: Counter[str]) -> Counter[str]:
    """Counts by fault, as counts by kind."""
    kinds: Counter[str] = Counter()
    for name, count in names.items():
        kinds[FAULTS[name].kind] += count
    return kinds
