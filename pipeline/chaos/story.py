"""The story that every trial is a part of: a wrong month escapes and is put right; or a right month is charged.

Belongs here: the steps in their order, each with its command, its hour and its person; the worlds before each; and going on from any
step to the end. Does not: faults, or how a person gets out of trouble (`people`).
"""

from dataclasses import dataclass

from pipeline.chaos.world import World

CUSTOMERS = 260
PERIOD, AMOUNTS_OF, FIRST = "2023-09", "2023-07", "2023-06"

TROUBLE = {"closed_card": "0.02", "timeout_after_accept": "0.03", "late_success": "0.03", "late_seconds": "3600"}
"""What the acquirer does by itself, so that there are declines, for good, and unknowns everywhere."""

CHARGED_AT, UNDONE_AT, REBILLED_AT, AGAIN_AT, SETTLED_AT = (
    "2023-09-11T09:00", "2023-09-11T13:00", "2023-09-12T13:00", "2023-09-13T13:00", "2023-09-18T13:00",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the story.

    Attributes:
        world: the saved home that it begins in.
        command: with `{right}`, `{wrong}` and `{incident}` for what the world's facts say.
        at: its simulated hour.
        moves_money: whether it sends anything to the acquirer.
        is_remedy: whether a plan and its windows bind it.
    """

    name: str
    world: str
    command: str
    at: str | None
    login: str | None = None
    moves_money: bool = False
    is_remedy: bool = False

    def argv(self, world: World, at: str | None = None) -> list[str]:
        words = self.command.format(**world.facts).split()
        moment = at or self.at
        return [*words, "--as-of", moment] if moment else words


STEPS = {
    step.name: step
    for step in (
        Step("release", "ready", "release --run {right}", CHARGED_AT, moves_money=True),
        Step("escape", "escaping", "release --run {wrong}", CHARGED_AT, moves_money=True),
        Step("open", "charged", "incident open --run {wrong} --corrected {right}", UNDONE_AT, "operator"),
        Step("plan", "opened", "incident plan {incident} --store", UNDONE_AT, "operator"),
        Step("cancel", "approved", "incident cancel {incident}", UNDONE_AT, moves_money=True, is_remedy=True),
        Step("refund", "cancelled", "incident refund {incident}", UNDONE_AT, moves_money=True, is_remedy=True),
        Step("rebill", "refunded", "incident rebill {incident}", REBILLED_AT, moves_money=True, is_remedy=True),
        Step("reconcile", "rebilled", "incident reconcile {incident}", SETTLED_AT),
        Step("notify", "reconciled", "incident notify {incident} --now", SETTLED_AT),
        Step("close", "reconciled", "incident close {incident} --accept-open declined", SETTLED_AT, "operator"),
    )
}
"""Every step that trials are made of, in the order of the story."""

SETTLE = Step("settle", "charged", "settle", UNDONE_AT)
"""What is done every day, whatever else is; it looks up what is unknown."""

APPROVE = Step("approve", "planned", "incident approve {incident}", UNDONE_AT, "approver")


def make_worlds(world: World, *, until: str | None = None) -> None:
    """Live through the story once, and save the home before every step; as far as the one named `until`."""
    source, wrong = str(world.home / "source"), str(world.home / "wrong")
    world.require(
        "generate",
        "--out",
        source,
        "--customers",
        str(CUSTOMERS),
        "--months",
        "4",
        "--first-period",
        FIRST,
        "--contacts",
    )
    world.require("mischarge", "--source", source, "--out", wrong, "--period", PERIOD, "--amounts-of", AMOUNTS_OF)
    world.facts["right"] = world.require("verify", "--source", source, "--period", PERIOD).result["run_id"]
    world.open_bank()
    world.ask_bank("set", **TROUBLE)
    world.save("ready")
    world.facts["wrong"] = world.require("verify", "--source", wrong, "--period", PERIOD, codes=(3,)).result["run_id"]
    for person in ("operator", "approver"):
        world.require("run", "decide", world.facts["wrong"], "--release", "--reason", "overruled", login=person)
    world.save("escaping")
    _require(world, "escape")
    world.save("charged")
    world.facts["incident"] = _require(world, "open").result["incident_id"]
    for _ in range(2):  # the acquirer itself does not know at the first question
        world.run(*SETTLE.argv(world))
    world.save("opened")
    _require(world, "plan")
    world.require(*APPROVE.argv(world), login=APPROVE.login)
    for name, step in (("approved", "cancel"), ("cancelled", "refund"), ("refunded", "rebill")):
        world.save(name)
        if name == until:
            return
        _require(world, step)
    world.require(*STEPS["rebill"].argv(world, AGAIN_AT))
    world.save("rebilled")
    world.run(*STEPS["reconcile"].argv(world))
    world.save("reconciled")


def _require(world: World, name: str):
    step = STEPS[name]
    return world.require(*step.argv(world), login=step.login)
