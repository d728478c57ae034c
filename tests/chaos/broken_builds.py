"""Builds that are broken on purpose: each lacks one of the rules that keep customers from being charged twice.

Belongs here: taking a rule away, in this process or in its own database, and putting it back. Does not: what catches it. In how many
seeds each is caught: ``python -m tests.chaos.broken_builds --seeds 1..200``.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pyarrow as pa

from pipeline.adapters.ledger import Turn
from pipeline.chaos import simulated_month
from pipeline.chaos.simulated_rail import SimulatedRail
from pipeline.chaos.simulated_seed import Ground
from pipeline.chaos.simulation import simulate
from pipeline.errors import FileRefused
from pipeline.execution import Sender
from pipeline.schema import OUTCOME_SCHEMA


@contextmanager
def rewritten(ground: Ground, function: str, *changes: tuple[str, str]) -> Iterator[None]:
    """A function of the database with some of its text replaced."""
    ((text,),) = ground.database.rows("SELECT pg_get_functiondef(%s::regproc)", f"makegood.{function}")
    changed = text
    for old, new in changes:
        assert old in changed, old
        changed = changed.replace(old, new)
    ground.database.admin.execute(changed)
    try:
        yield
    finally:
        ground.database.admin.execute(text)


@contextmanager
def no_idempotency_key(ground: Ground) -> Iterator[None]:
    """Operations get random keys, and no fact is unique."""
    draw = random.Random(1)
    columns = "customer_id, billing_period, bill_cycle, kind, incident_id, occurrence, attempt"
    admin = ground.database.admin
    admin.execute("ALTER TABLE operation DROP CONSTRAINT one_operation_per_fact")
    try:
        with patch.object(simulated_month, "key_of", lambda **_: UUID(int=draw.getrandbits(128))):
            yield
    finally:
        ground.database.restore(ground.released)
        admin.execute(
            f"ALTER TABLE operation ADD CONSTRAINT one_operation_per_fact UNIQUE NULLS NOT DISTINCT ({columns})"
        )


@contextmanager
def no_fencing_in_the_database(ground: Ground) -> Iterator[None]:
    """Whoever lost the turn may go on recording and handing over."""
    with (
        rewritten(ground, "require_epoch", ("WHERE epoch = p_epoch FOR KEY SHARE", "FOR KEY SHARE")),
        rewritten(
            ground, "hand_over", ("WHERE epoch = p_epoch FOR NO KEY UPDATE", "FOR NO KEY UPDATE"),
            ("OR file.epoch IS DISTINCT FROM p_epoch", ""),
        ),
        patch.object(Turn, "require", lambda _: None),
    ):  # fmt: skip
        yield


@contextmanager
def no_recall(ground: Ground) -> Iterator[None]:
    """A successor takes for withdrawn what it has not moved."""
    recall = SimulatedRail.recall

    def says_withdrawn(rail: SimulatedRail, file: Any) -> str:
        return "withdrawn" if rail.whereabouts(file) == "staged" else recall(rail, file)

    with patch.object(SimulatedRail, "recall", says_withdrawn):
        yield


@contextmanager
def no_fencing(ground: Ground) -> Iterator[None]:
    """Neither of the two."""
    with no_fencing_in_the_database(ground), no_recall(ground):
        yield


@contextmanager
def unknown_is_failed(ground: Ground) -> Iterator[None]:
    """What got no answer is taken for never received, and charged under the next attempt."""

    def failed(_: Sender, operations: pa.Table) -> pa.Table:
        said = {"status": "declined", "reason": "never_received"}
        rows = [row | said for row in operations.select(["merchant_reference", "amount_minor"]).to_pylist()]
        return pa.Table.from_pylist(rows, OUTCOME_SCHEMA)

    with patch.object(Sender, "_ask", failed):
        yield


@contextmanager
def door_asks_nothing(ground: Ground) -> Iterator[None]:
    """Stops, holds, rejections and windows are not asked again as the hand-over is recorded."""
    with rewritten(
        ground, "hand_over", ("ORDER BY order_id DESC LIMIT 1;", "ORDER BY order_id DESC LIMIT 1; refusal := NULL;"),
        ("refusal := planned.refusal;", ""), ("is_late := planned.is_outside_window;", ""),
        ("refusal := run_refusal(file.scope, file.wave);", ""),
    ):  # fmt: skip
        yield


@contextmanager
def damaged_is_refused(ground: Ground) -> Iterator[None]:
    """An answer that makes no sense is taken for a refusal of the whole file."""
    with patch.object(SimulatedRail, "damaged", staticmethod(FileRefused)):
        yield


@contextmanager
def ceiling_without_lock(ground: Ground) -> Iterator[None]:
    """Two transactions that give the same charge back do not wait for each other."""
    with rewritten(ground, "attempts_follow_failures", ("PERFORM makegood.take_mutex('ceilings');", "NULL;")):
        yield


TAKEN_OVER = ("takeover", "repair")
HANDING_OVER = {
    "story": "release", "kinds": TAKEN_OVER,
    "points": ("file.recorded", "hand_over.begin", "hand_over.recorded", "hand_over.noted"),
}  # fmt: skip

BUILDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "no idempotency key": (
        no_idempotency_key,
        {"story": "release", "kinds": TAKEN_OVER, "points": ("lock.taken", "due.found", "intents.commit")},
    ),
    "no fencing in the database": (no_fencing_in_the_database, HANDING_OVER),
    "no recall": (no_recall, HANDING_OVER),
    "no fencing at all": (no_fencing, HANDING_OVER),
    "unknown is failed": (unknown_is_failed, {"story": "release"}),
    "the door asks nothing": (door_asks_nothing, {"kinds": ("stop", "reject", "incident", "window_closes")}),
    "damaged is refused": (damaged_is_refused, {"story": "release", "kinds": ("damaged", "damaged_ack")}),
    "ceiling without a lock": (ceiling_without_lock, {"story": "ceiling"}),
}
"""By name: the build, and the faults that bear on it."""


def main() -> None:
    """Print, for each build, in how many seeds it is caught: with every fault, and with those that bear on it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="1..100")
    parser.add_argument("--builds", nargs="*", default=list(BUILDS))
    parser.add_argument("--own", action="store_true", help="with the faults that bear on each alone")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("..")
    seeds = range(int(first), int(last) + 1)
    with tempfile.TemporaryDirectory(prefix="simulation-") as folder, ExitStack() as stack:
        ground = Ground(Path(folder))
        stack.callback(ground.close)
        ground.charge()  # by a build that is whole
        sys.stdout.write(
            "| broken build | caught with its faults | caught with any | first words |\n|---|---|---|---|\n"
        )
        for name in asked.builds:
            build, chosen = BUILDS[name]
            own_story = {key: value for key, value in chosen.items() if key == "story" and value == "ceiling"}
            with build(ground):
                own = simulate(ground, seeds, **chosen)
                every = own if asked.own else simulate(ground, seeds, **own_story)
            words = next(iter((own["violations"] | every["violations"]).values()), ["-"])[0]
            counts = " | ".join(f"{len(found['violations'])} of {len(seeds)}" for found in (own, every))
            sys.stdout.write(f"| {name} | {counts} | {words} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
