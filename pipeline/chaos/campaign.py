"""Which cells are tried, in which order, and what came of it: a seeded sample, or every cell that applies; both go on where they stopped.

Belongs here: the worlds of a folder and what is found out about them once, the order of trials, their record as JSON lines, the report.
Does not: a trial (`trial`), or what the command line prints (`cli_chaos`).
"""

import fcntl
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.chaos.faults import DIES_AT, FAULTS, RESUMED, Cell, all_cells, kinds_of
from pipeline.chaos.story import STEPS, Step, make_worlds
from pipeline.chaos.trial import Known, Outcome, attempt
from pipeline.chaos.world import World
from pipeline.errors import FatalError
from pipeline.ports import Progress

MEMORY = Path("/dev/shm")
"""Where worlds lie where there is room: their files are copied for every trial, and nothing of them is kept."""

ROOM_BYTES = 4 << 30

MARKER = "chaos.json"

MAKERS = ("story", "small", "world")
"""Modules of the harness that decide what a world looks like."""

FAILED = ("violation", "no_way_out", "broken")


def default_folder(home: Path) -> Path:
    """Where a harness keeps its worlds: in memory where there is room, else below the home; one folder per home."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES:
        return MEMORY / f"makegood-chaos-{sha256(str(home).encode()).hexdigest()[:8]}"
    return home / "chaos"


@contextmanager
def worlds(folder: Path, progress: Progress, *, until: str | None = None) -> Iterator[tuple[World, Known]]:
    """The worlds of a folder, made if they are not those of this code; ended with the block.

    Args:
        until: the last world to make, of those before a step that moves money; None makes all.

    Raises:
        FatalError: the folder is somebody else's, or another harness works in it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FatalError(f"another harness works in {folder}; wait for it, or name another with --folder") from None
        yield from _worlds(folder, progress, until)


def _worlds(folder: Path, progress: Progress, until: str | None) -> Iterator[tuple[World, Known]]:
    marker, world = folder / MARKER, World(folder)
    digest = _code_digest()
    try:
        if not marker.exists() or json.loads(marker.read_text())["code"] != digest:
            if folder.exists() and any(folder.iterdir()) and not marker.exists():
                raise FatalError(f"{folder} is not a harness's folder; name another with --folder")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
            marker.write_text(json.dumps({"code": ""}))
            folder.chmod(0o711)  # the server's own user passes through
            progress("chaos: making worlds", 0, None)
            make_worlds(world, until=until)
            known = _find_out(world, progress)
            marker.write_text(json.dumps({"code": digest, "visits": known.visits, "seconds": known.seconds}))
        said = json.loads(marker.read_text())
        visits = {step: Counter(counts) for step, counts in said["visits"].items()}
        yield world, Known(visits, said["seconds"])
    finally:
        world.close()


def _find_out(world: World, progress: Progress) -> Known:
    """Run every step once without a fault, and write down which points it comes past and how long it takes."""
    known = Known({}, {})
    steps = [step for step in STEPS.values() if world.saved(step.world).exists()]
    for number, step in enumerate(steps):
        progress("chaos: tracing steps", number, len(steps))
        known.visits[step.name] = _trace(world, step)
        known.seconds[step.name] = round(world.commands[-1].seconds, 3)
        if step.moves_money:
            resumed = _trace(world, step, after_death=True)
            known.visits[step.name] |= Counter({point: resumed[point] for point in RESUMED})
    return known


def _trace(world: World, step: Step, *, after_death: bool = False) -> Counter[str]:
    """How often a step comes past each point; or does when an earlier call has died before its first file was delivered."""
    world.restore(step.world)
    trace = world.folder / "trace"
    trace.unlink(missing_ok=True)
    if after_death:
        dead = world.start(*step.argv(world), login=step.login, failpoint=DIES_AT)
        world.wait(dead)
    world.require(*step.argv(world), login=step.login, trace=trace)
    return Counter(trace.read_text().split() if trace.exists() else [])


def _code_digest() -> str:
    """Of everything that a world is made by: the product, and of the harness only what lives through the story."""
    root, here = Path(__file__).resolve().parents[1], Path(__file__).resolve().parent
    found = (path for path in root.rglob("*") if path.suffix in (".py", ".sql", ".json", ".txt", ".html"))
    files = sorted(path for path in found if path.parent != here or path.stem in MAKERS)
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be tried.

    Attributes:
        seeds: how many trials of the sample; None tries every cell that applies once.
        seed: where the sample begins; it decides every trial.
        step, point, fault: this one alone.
        is_quick: without faults that take long.
    """

    seeds: int | None
    seed: int = 1
    step: str | None = None
    point: str | None = None
    fault: str | None = None
    is_quick: bool = False

    def cells(self, known: Known) -> list[Cell]:
        """The cells asked for that apply."""
        return [cell for cell in all_cells() if self._names(cell) and cell.why_not(known.visits) is None]

    def _names(self, cell: Cell) -> bool:
        wanted = all(ask in (None, getattr(cell, name)) for name, ask in self._given())
        return wanted and not (self.is_quick and FAULTS[cell.fault].is_long)

    def _given(self) -> tuple[tuple[str, str | None], ...]:
        return (("step", self.step), ("point", self.point), ("fault", self.fault))

    def trials(self, known: Known) -> Iterator[tuple[Cell, int]]:
        """Cell and seed of every trial, in order. A sample takes the faults in turn, so that the rare ones are in it."""
        cells = self.cells(known)
        if self.seeds is None:
            yield from ((cell, self.seed) for cell in cells)
            return
        by_fault: dict[str, list[Cell]] = {}
        for cell in cells:
            by_fault.setdefault(cell.fault, []).append(cell)
        names = sorted(by_fault)
        for seed in range(self.seed, self.seed + self.seeds if names else self.seed):
            draw = random.Random(seed)
            yield draw.choice(by_fault[names[seed % len(names)]]), seed


@dataclass(slots=True)
class Record:
    """Trials, one JSON object a line, in a file that a later call goes on with."""

    file: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, file: Path | None) -> "Record":
        if file is None:
            return cls(Path(tempfile.mkstemp(prefix="chaos-", suffix=".jsonl")[1]))
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return cls(file, rows)

    def has(self, cell: Cell, seed: int) -> bool:
        return any(
            (row["step"], row["point"], row["fault"], row["seed"]) == (cell.step, cell.point, cell.fault, seed)
            for row in self.rows
        )

    def add(self, outcome: Outcome) -> None:
        row = outcome.to_json()
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def run(asked: Asked, *, folder: Path, record: Record, progress: Progress) -> dict[str, Any]:
    """Try what is asked and was not tried before; returns the report over all of the record."""
    begun = time.monotonic()
    with worlds(folder, progress) as (world, known):
        trials = [(cell, seed) for cell, seed in asked.trials(known) if not record.has(cell, seed)]
        for number, (cell, seed) in enumerate(trials):
            progress("chaos: trials", number, len(trials))
            record.add(attempt(world, cell, seed, known))
        return report(record.rows, known) | {
            "record": str(record.file),
            "minutes": round((time.monotonic() - begun) / 60, 1),
        }


def report(rows: list[dict[str, Any]], known: Known) -> dict[str, Any]:
    """What trials have come to, in counts, and everything that failed with the command that replays it."""
    happened = [row for row in rows if row["ended"] != "missed"]
    applicable = {(cell.step, cell.point, cell.fault) for cell in all_cells() if cell.why_not(known.visits) is None}
    seconds = sorted(row["seconds"] for row in rows)
    faults = Counter(row["fault"] for row in happened)
    return {
        "trials": len(rows),
        "faults_count": len(happened),
        "ended": dict(Counter(row["ended"] for row in rows)),
        "by_kind": dict(kinds_of(faults)),
        "by_fault": dict(sorted(faults.items())),
        "cells": len({(row["step"], row["point"], row["fault"]) for row in happened} & applicable),
        "cells_applicable": len(applicable),
        "seconds_median": seconds[len(seconds) // 2] if seconds else None,
        "failed": [row | {"replay": replay_command(row)} for row in rows if row["ended"] in FAILED],
    }


def replay_command(row: dict[str, Any]) -> str:
    """The command that tries exactly this again."""
    return f"makegood chaos --seeds 1 --seed {row['seed']} --step {row['step']} --point {row['point']} --fault {row['fault']}"


def matrix(folder: Path, progress: Progress) -> list[dict[str, Any]]:
    """Every cell, with the reason why it is none where it is."""
    with worlds(folder, progress) as (_, known):
        return [
            {"step": cell.step, "point": cell.point, "fault": cell.fault, "why_not": cell.why_not(known.visits)}
            for cell in all_cells()
        ]
