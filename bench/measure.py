"""The clock and the scales: a contender in a process of its own, its time, its processor time, its memory; and the table.

Imports are timed apart, because they are paid once per process and the same by whoever uses the library.
"""

import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from pipeline.ports import Progress
from pipeline.settings import PROJECT_ROOT, inherited_environment

SAMPLE_SECONDS = 4.0
"""How often a process tree is weighed in any case. Weighing makes the kernel look at every page of every process, 0.1 to 0.2 s of a core
while 2 GB are in use: twice a second it took a third of what it weighed, every two seconds a twentieth."""

GLANCE_SECONDS = 0.5
"""How often its private memory is looked at, which costs the kernel nothing: where there is more than ever before, the tree is weighed at
once, so that a short peak is not missed."""

RISE = 1.02
"""How much more than ever before is worth weighing anew."""

MIB = 1024 * 1024


class Unequal(Exception):
    """Two contenders that should have computed the same did not: their times must not be compared."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a contender in a fresh process.

    Attributes:
        seconds, cpu_seconds: of the work itself; the latter adds up its threads and hardly minds a busy machine.
        import_seconds: of the libraries it needs.
        peak_bytes: most memory resident at once, libraries included.
        answer: what it returned.
    """

    seconds: float
    cpu_seconds: float
    import_seconds: float
    peak_bytes: int
    answer: Any


@dataclass(slots=True)
class Part:
    """What one part of the benchmark found.

    Attributes:
        rows: a table, one mapping per row, all with the same keys.
        goals: `goal, figure, met` each.
        notes: sentences that a reader needs to understand the figures.
    """

    name: str
    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    goals: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def goal(self, text: str, figure: float, *, most: float | None = None, least: float | None = None) -> None:
        """Note a goal with its figure and whether it was met."""
        met = (most is None or figure <= most) and (least is None or figure >= least)
        self.goals.append({"goal": text, "figure": round(figure, 2), "met": met})


def in_child(target: str, *, imports: Iterable[str] = (), postgres: Path | None = None, **arguments: Any) -> Trial:
    """Call `target` (`module:function`) with `arguments` in a fresh process; both ways as JSON.

    Args:
        postgres: data folder of the server it works with; then the peak is that of the whole process tree, by PSS.

    Raises:
        RuntimeError: the process failed; it said why on standard error.
    """
    request = json.dumps({"target": target, "imports": list(imports), "arguments": arguments}, default=str)
    command = [sys.executable, "-m", "bench.child"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT, env=inherited_environment()
    ) as process:
        with Scales(process.pid, postgres) if postgres else nullcontext() as scales:
            answer, _ = process.communicate(request)
    if process.returncode:
        raise RuntimeError(f"{target} failed in its process; what it said is above")
    trial = Trial(**json.loads(answer.splitlines()[-1]))
    return replace(trial, peak_bytes=scales.peak_bytes) if scales else trial


def take_turns(
    contenders: Mapping[str, Callable[[], Trial]], rounds: int, progress: Progress, what: str
) -> dict[str, list[Trial]]:
    """Every contender `rounds` times, one after another in each round, so that a busy minute hits all of them."""
    trials: dict[str, list[Trial]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for place, (name, contender) in enumerate(contenders.items()):
            progress(f"{what}: {name}", turn * len(contenders) + place, rounds * len(contenders))
            trials[name].append(contender())
    return trials


def median(trials: Iterable[Trial], name: str = "seconds") -> float:
    """The median of one figure of `trials`."""
    return statistics.median(getattr(trial, name) for trial in trials)


def ratio(ours: Sequence[Trial], theirs: Sequence[Trial], name: str = "seconds") -> float:
    """Median over rounds of ours / theirs: both of a pair ran one right after the other."""
    return statistics.median(getattr(a, name) / getattr(b, name) for a, b in zip(ours, theirs, strict=True))


class Scales:
    """The memory of a process tree while it works: proportional set size, so that shared pages count once.

    Args:
        root: id of the tree's first process.
        postgres: data folder of a server that belongs to it but is nobody's child.
    """

    def __init__(self, root: int, postgres: Path | None = None) -> None:
        self.peak_bytes = 0
        self._root, self._postgres = root, postgres
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Scales":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        most_private, next_weighing = 0, 0.0
        while not self._done.wait(GLANCE_SECONDS):
            processes = self._processes()
            private = sum(map(_private_bytes, processes))
            if private > most_private * RISE or time.monotonic() >= next_weighing:
                self.peak_bytes = max(self.peak_bytes, sum(map(_pss_bytes, processes)))
                most_private, next_weighing = max(private, most_private), time.monotonic() + SAMPLE_SECONDS

    def _processes(self) -> set[int]:
        found = set()
        for first in filter(None, (self._root, _postmaster(self._postgres))):
            try:
                found |= {first, *(child.pid for child in psutil.Process(first).children(recursive=True))}
            except psutil.NoSuchProcess:
                continue
        return found


def _postmaster(folder: Path | None) -> int | None:
    try:
        process = int((folder / "postmaster.pid").read_text().split()[0]) if folder else 0
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return process if process > 0 else None  # negative while the folder is being made, before there is a server


def _private_bytes(process: int) -> int:
    """Resident and not shared, as the kernel keeps count of it."""
    try:
        resident, shared = Path(f"/proc/{process}/statm").read_text().split()[1:3]
    except (OSError, ProcessLookupError):
        return 0
    return (int(resident) - int(shared)) * resource.getpagesize()


def _pss_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Stopwatch:
    """Seconds by stage, added up over calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str):
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


class Timed:
    """`inner` with the calls of some of its methods timed; everything else passes through.

    Args:
        methods: method -> name of the stage its calls are added to.
    """

    def __init__(self, inner: Any, watch: Stopwatch, methods: Mapping[str, str]) -> None:
        self._inner, self._watch, self._methods = inner, watch, methods

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._watch.stage(self._methods[name]):
                return found(*args, **kwargs)

        return timed


def table(part: Part) -> str:
    """`part` for people: the table, its goals, its notes."""
    lines = ["", part.title, "-" * len(part.title)]
    if part.rows:
        cells = [list(part.rows[0])] + [[_cell(value) for value in row.values()] for row in part.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            head, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  ".join([row[0].ljust(widths[0]), *rest]) if head else "")
    lines += [f"  {'met   ' if goal['met'] else 'MISSED'}  {goal['goal']}: {goal['figure']:g}" for goal in part.goals]
    lines += [f"  {note}" for note in part.notes]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
