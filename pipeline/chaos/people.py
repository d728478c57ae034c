"""Resuming as a person would: call again, do what the message says, wait for the next window; never SQL, never a file by hand.

Belongs here: what a person does after a command has ended, by its exit code, its result and its message alone. Does not: what went
wrong - nobody has told the person.
"""

import re
import shlex
from datetime import datetime, timedelta

from pipeline.chaos.program import Said
from pipeline.chaos.story import AGAIN_AT, APPROVE, REBILLED_AT, SETTLE, STEPS, UNDONE_AT, Step
from pipeline.chaos.world import World

CALLS_MAX = 10
"""Calls of one command before a person gives up: then there is no way out."""

ROUNDS = (3, 7, 11)
"""Days after the 11th on which a successor plan begins, should anything be left by then."""

CLOSED_AT = "2023-09-29T13:00"
"""By now every settlement file has come, whatever it took."""

PEOPLE = ("operator", "approver")
"""Who is there; what takes two takes both."""

_ADVICE = re.compile(r"`makegood ([^`]+)`")


class NoWayOutError(Exception):
    """A person has done what there was to do, and it is not done."""


def is_done(step: Step, said: Said, *, known: bool = True) -> bool:
    """Whether a command says that its job is done, and nothing is left to call it again for.

    Args:
        known: whether something unknown counts as left; what is may also be looked up by the next step, or the daily settlement.
    """
    if said.code != 0:
        return False
    if step.name in ("release", "escape"):
        return not (known and said.result["unknown"]) and not said.result["not_sent"]
    if step.is_remedy:
        is_sent = not said.result["stopped"] and "not_sent" not in said.result["left"]
        return is_sent and not (known and said.result["unknown"]["count"])
    return True


def carry_on(world: World, step: Step, said: Said | None, at: str | None = None, *, known: bool = True) -> Said:
    """Call a step until it is done.

    Args:
        said: what its last call came to; None if it has not been called.
        at: the hour; None for the step's own.
        known: as of `is_done`.

    Returns:
        What its last call came to: done, or outside its window, or of a plan that does not hold any more.

    Raises:
        NoWayOutError: it makes no progress, and nothing that it says helps.
    """
    at = at or step.at
    for call in range(CALLS_MAX):
        if said is not None and (is_done(step, said, known=known) or _needs_another_plan(step, said)):
            return said
        if said is not None:
            _take_advice(world, said, at)
        if call > 3 and at:  # what was accepted late is booked by now
            at = (datetime.fromisoformat(at) + timedelta(hours=2)).isoformat(timespec="minutes")
        said = world.run(*step.argv(world, at), login=step.login)
    if is_done(step, said, known=known) or _needs_another_plan(step, said):
        return said
    raise NoWayOutError(
        f"{' '.join(said.argv)} ends with {said.code} again and again: {said.error or said.noise[-300:] or said.result}"
    )


def put_right(world: World, *, after: str) -> Said:
    """From the step after `after` to the incident's closing, with as many successor plans as it takes."""
    steps = [
        ("plan", UNDONE_AT),
        ("cancel", UNDONE_AT),
        ("refund", UNDONE_AT),
        ("rebill", REBILLED_AT),
        ("rebill", AGAIN_AT),
    ]
    names = [name for name, _ in steps]
    start = names.index(after) + 1 if after in names else 0 if after == "open" else len(steps)
    if after == "plan":
        carry_on(world, APPROVE, None)
    for name, hour in steps[start:]:
        if name == "plan":
            _approved(world, hour, ())
        else:
            carry_on(world, STEPS[name], None, hour, known=False)
    for days in ROUNDS:
        if not _successor(world, datetime.fromisoformat(UNDONE_AT) + timedelta(days=days)):
            break
    if after != "close":
        for name in ("reconcile", "close"):
            carry_on(world, STEPS[name], None, CLOSED_AT)
    return world.commands[-1]


def _successor(world: World, begin: datetime) -> bool:
    """Carry out a plan for whatever is left, in windows that begin then; False if nothing is left that a plan could do."""
    hours = [(begin + timedelta(days=days)).isoformat(timespec="minutes") for days in range(4)]
    _settle(world, hours[0])
    draft = world.run(*STEPS["plan"].argv(world, hours[0])[:3], "--as-of", hours[0], *_windows(begin))
    if draft.code == 0 and not any(_is_work(row) for row in draft.result["reasons"]):
        return False
    if not _approved(world, hours[0], _windows(begin)):
        return False
    for name, hour in (("cancel", hours[0]), ("refund", hours[0]), *(("rebill", hour) for hour in hours[1:])):
        carry_on(world, STEPS[name], None, hour, known=False)
    return True


def _is_work(reason: dict) -> bool:
    """Whether a line of a plan is something to do or to wait for; a card that was declined for good is neither."""
    return reason["action"] in ("void", "refund", "rebill", "wait", "hold") and reason["reason"] != "declined_before"


def _settle(world: World, at: str) -> None:
    """The daily settlement; once more where the acquirer itself did not know yet."""
    for _ in range(2):
        if not world.run(*SETTLE.argv(world, at)).result.get("unknown"):
            return


def _approved(world: World, at: str, windows: tuple[str, ...]) -> bool:
    """Have a plan for what is left asked for and approved; False if nothing is left to plan."""
    _settle(world, at)
    said = world.run(*STEPS["plan"].argv(world, at), *windows, login="operator")
    for _ in range(CALLS_MAX):
        if said.code == 0 or "nothing is left" in said.error:
            break
        _take_advice(world, said, at)
        said = world.run(*STEPS["plan"].argv(world, at), *windows, login="operator")
    if said.code:
        if "nothing is left" in said.error:
            return False
        raise NoWayOutError(f"no plan can be made: {said.error or said.noise[-300:]}")
    carry_on(world, APPROVE, None, at)
    return True


def _windows(reversal_at: datetime) -> tuple[str, ...]:
    day = timedelta(days=1)
    first, rebill = reversal_at.date(), reversal_at.date() + day
    return ("--reversal-days", f"{first}..{first + day}", "--rebill-days", f"{rebill}..{rebill + 2 * day}")


ANOTHER_PLAN = ("incident plan", "plan anew", "has no approved plan", "is on hold")
"""What a step says when no call of it can help any more, but a new plan can."""


def _needs_another_plan(step: Step, said: Said) -> bool:
    text = said.error + str(said.result.get("stopped") or "")
    return step.is_remedy and any(words in text for words in ANOTHER_PLAN)


def _take_advice(world: World, said: Said, at: str | None) -> None:
    """Do what a message says, as far as it names commands."""
    for advice in _ADVICE.findall(said.error):
        words = shlex.split(advice)
        if words[0] == "resume":
            for person in PEOPLE:
                world.run("resume", "--reason", "looked into it", login=person)
        elif words[:2] == ["sending", "repair"]:
            moment = ["--as-of", at] if at else []
            world.run("sending", "repair", *moment)
            world.run("sending", "repair", "--apply", *moment, login=PEOPLE[0])
        elif words[0] == "settle":
            world.run("settle", *(["--as-of", at] if at else []))
        elif words[:2] == ["incident", "reconcile"]:
            world.run(*STEPS["reconcile"].argv(world, at))
