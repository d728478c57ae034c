"""One cell, tried: restore, run, fail, resume as a person would, go on to the end, judge.

Belongs here: that order, and what is written down of it. Does not: any fault, any resuming, any invariant.
"""

import random
import signal
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.chaos import judge, people
from pipeline.chaos.faults import (
    BEHIND,
    FAULTS,
    IN_FLIGHT,
    MOMENT,
    RESUMED,
    Cell,
    NothingThereError,
    Scene,
    die_before_delivery,
    files_sent,
)
from pipeline.chaos.program import Said
from pipeline.chaos.story import PERIOD, STEPS
from pipeline.chaos.world import World

SHOWN_COMMANDS = 40
"""Commands that a trial's record keeps, the latest."""

LONG_SECONDS = 60.0
"""A trial that takes longer is written down whole: something waited for something in vain."""

_LEDGER = (
    "SELECT CASE WHEN o.kind IN ('charge', 'rebill') THEN 'authorise' ELSE o.kind::text END, count(*), sum(o.amount_minor)::bigint"
    " FROM operation o JOIN outcome c USING (operation_id) WHERE c.status = 'succeeded' GROUP BY 1"
)


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out once about the worlds of a folder.

    Attributes:
        visits: by step, how often it comes past each point.
        seconds: by step, how long it takes.
    """

    visits: dict[str, Counter[str]]
    seconds: dict[str, float]


@dataclass(slots=True)
class Outcome:
    """What a trial came to.

    Attributes:
        ended: `held`; `missed` (the fault did not happen: the point was not reached, or nothing was there to damage); `violation`;
            `no_way_out`; `broken` (the harness itself failed).
        said: the violations, or why there was no way out.
        commands: what was called, in order, with exit codes and errors.
    """

    cell: Cell
    seed: int
    nth: int
    ended: str = "held"
    said: list[str] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        names = ("step", "point", "fault")
        return {name: getattr(self.cell, name) for name in names} | {
            "seed": self.seed, "nth": self.nth, "ended": self.ended, "said": self.said, "seconds": round(self.seconds, 2),
            "commands": self.commands if self.ended not in ("held", "missed") or self.seconds > LONG_SECONDS else [],
        }  # fmt: skip


def attempt(world: World, cell: Cell, seed: int, known: Known) -> Outcome:
    """Try one cell; the seed decides everything that is drawn."""
    draw = random.Random(f"{seed} {cell}")
    begun = time.monotonic()
    outcome = Outcome(cell, seed, _nth(cell, draw, known))
    scene = Scene(world, STEPS[cell.step], cell.point, FAULTS[cell.fault], draw)
    try:
        world.restore(scene.step.world)
        truth = judge.Truth.read(
            world.home / "source" / f"billing_period={PERIOD}", world.home / "wrong" / f"billing_period={PERIOD}"
        )
        outcome.said = _live_through(scene, cell, outcome.nth, truth, known)
        outcome.ended = "violation" if outcome.said else "held"
    except NothingThereError:
        outcome.ended = "missed"
    except people.NoWayOutError as stuck:
        outcome.ended, outcome.said = "no_way_out", [str(stuck)]
    except Exception:
        outcome.ended, outcome.said = "broken", [traceback.format_exc(limit=6)]
    finally:
        _lift(scene)
    if outcome.ended == "no_way_out":
        outcome.said += judge.always(judge.Book(world.book()), truth)
    outcome.commands = [said.to_json() for said in world.commands[-SHOWN_COMMANDS:]]
    outcome.seconds = time.monotonic() - begun
    return outcome


def _nth(cell: Cell, draw: random.Random, known: Known) -> int:
    visits = known.visits[cell.step][cell.point]
    fault = FAULTS[cell.fault]
    first = 2 if fault.kind == "answer" and cell.point in BEHIND else 1
    last = max(1, visits // 2) if fault.before else max(1, visits)
    return draw.randint(min(first, last), last)


def _live_through(scene: Scene, cell: Cell, nth: int, truth: judge.Truth, known: Known) -> list[str]:
    """What was violated."""
    world, step = scene.world, scene.step
    if scene.fault.before:
        scene.fault.before(scene)
    elif cell.point in RESUMED:
        die_before_delivery(scene)
    said = _fail(scene, nth, known)
    others = [world.wait(other) for other in scene.others]
    _lift(scene)
    found = _after(scene, said, truth)
    if cell.step == "escape":
        found += _after_opening(world, others, truth)
    else:
        done = people.carry_on(world, step, said if scene.at is None else None, scene.at)
        if step.name == "open":
            world.facts["incident"] = done.result["incident_id"]
        found += judge.always(judge.Book(world.book()), truth)
        if cell.step != "release":
            people.put_right(world, after=cell.step)
    return found + _in_the_end(scene, cell, truth)


def _fail(scene: Scene, nth: int, known: Known) -> Said:
    """Run the step, and let the fault happen at its point; returns what became of the command."""
    world, step, fault = scene.world, scene.step, scene.fault
    armed = None if scene.point == MOMENT else f"{scene.point}:{nth}:{fault.action}"
    command = scene.command = world.start(*step.argv(world), login=step.login, failpoint=armed)
    if scene.point == MOMENT:
        time.sleep(scene.draw.uniform(0.02, 1.0) * known.seconds[step.name])
        command.signal(signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP)
        reached = fault.action == "kill" or command.wait_for_point()
    else:
        reached = command.wait_for_point()
    said = None
    if fault.action in ("kill", "error"):
        said = world.wait(command)
        reached = reached or said.code == -signal.SIGKILL or "failpoint" in said.error
    if not reached or (said and said.code == 0):
        world.wait(command)
        raise NothingThereError
    if fault.kind != "acquirer":
        world.wait_for_bank()
    fault.act(scene)
    if said is None:
        command.let_go()
        command.signal(signal.SIGCONT)
        said = world.wait(command)
    return said


def _after(scene: Scene, said: Said, truth: judge.Truth) -> list[str]:
    """What is wrong right after the fault: more than was due, something sent that was forbidden, success said of what is not done."""
    world, step = scene.world, scene.step
    world.wait_for_bank()
    found = []
    if scene.forbidden is not None:
        may_go = 1 if scene.point in IN_FLIGHT and scene.fault.action == "wait" else 0
        for _ in range(2):
            world.run(*step.argv(world, scene.at), login=step.login)
        world.wait_for_bank()
        sent = files_sent(world) - scene.forbidden
        if len(sent) > may_go:
            found.append(f"sent after it had been forbidden: {', '.join(sorted(sent))}")
    found += judge.always(judge.Book(world.book()), truth)
    if step.name == "release" and people.is_done(step, said):
        found += [
            f"it said that it is done: {what}"
            for what in judge.right_in_the_end(judge.Book(world.book()), truth, of="right")
        ]
    return found


def _after_opening(world: World, others: list[Said], truth: judge.Truth) -> list[str]:
    """The incident is open, or is opened now; the wrong month's release is called again, and refuses; everything is put right."""
    opened = others[-1] if others and others[-1].code == 0 else people.carry_on(world, STEPS["open"], None)
    world.facts["incident"] = opened.result["incident_id"]
    people.put_right(world, after="open")
    return judge.always(judge.Book(world.book()), truth)


def _in_the_end(scene: Scene, cell: Cell, truth: judge.Truth) -> list[str]:
    world = scene.world
    world.wait_for_bank()
    book = judge.Book(world.book())
    found = judge.right_in_the_end(book, truth, of="right", given_up=scene.given_up)
    found += judge.always(book, truth)
    found += judge.ledger_agrees(book, {kind: (count, total) for kind, count, total in world.rows(_LEDGER)})
    found += judge.told_once(world.home / "outbox")
    closed = world.commands[-1]
    if cell.step != "release" and closed.result.get("residual_minor") != 0:
        found.append(f"closed with a residual of {closed.result.get('residual_minor')}")
    return list(dict.fromkeys(found))


def _lift(scene: Scene) -> None:
    while scene.lift:
        scene.lift.pop()()
