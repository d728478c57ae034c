"""Progress of long work on standard error: a bar on a terminal, a line per stage elsewhere.

Standard output belongs to the result alone.
"""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LINE_SECONDS = 5.0
"""Off a terminal, how long work goes on before a line says so: short work stays silent, a log stays short."""


class StageProgress:
    """A `ports.Progress` that shows each kind of work as one bar."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._terminal = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=Console(stderr=True), transient=True, disable=not self._terminal,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "StageProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)
        now = time.monotonic()
        if not self._terminal and not self._quiet and now - self._last_line >= LINE_SECONDS:
            sys.stderr.write(f"{what}: {done:,}{f' of {total:,}' if total else ''}\n")
            self._last_line = now
