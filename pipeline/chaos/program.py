"""The product's command line as a process of its own, forked from one that has imported everything: a trial is many commands.

Belongs here: starting a command, with an environment and waves small enough for a few hundred customers; seeing it reach a point, pause
and end. Does not: which command, or what is done to it (`people`, `faults`).
"""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.005
"""Pause between looks at a process."""

COMMAND_SECONDS = 120.0
"""Longest life of a command: many times what one needs here, even one that waits for an answer until it gives up."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pipeline.chaos.small"])


@dataclass(frozen=True, slots=True)
class Said:
    """What a command came to.

    Attributes:
        code: its exit code; negative when a signal ended it.
        result: the JSON object it printed; empty if none.
        noise: what it wrote to standard error.
        seconds: how long it lived.
    """

    argv: tuple[str, ...]
    code: int
    result: dict[str, Any]
    noise: str
    seconds: float = 0.0

    @property
    def error(self) -> str:
        """Why it failed, as it told people; empty if it did not."""
        return self.result.get("error", "")

    def to_json(self) -> dict[str, Any]:
        """For a trial's record: the command, its exit code and its error."""
        said = {"command": " ".join(self.argv), "code": self.code, "seconds": round(self.seconds, 1)}
        noise = self.noise.strip().splitlines()[-1:] if self.code not in (0, 3) and not self.error else []
        return said | ({"error": self.error} if self.error else {}) | ({"noise": noise[0]} if noise else {})


@dataclass(slots=True)
class Command:
    """One command under way."""

    argv: tuple[str, ...]
    folder: Path
    process: ForkServerProcess
    started: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_over(self) -> bool:
        return not self.process.is_alive()

    @property
    def has_reached(self) -> bool:
        """Whether it waits at its armed point."""
        return (self.folder / "reached").exists()

    @property
    def is_paused(self) -> bool:
        """Whether SIGSTOP has stopped it."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except (FileNotFoundError, ProcessLookupError):
            return False

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def signal(self, number: int) -> None:
        if not self.is_over:
            os.kill(self.pid, number)

    def limit_files(self, size: int) -> None:
        """From now on it can write no file beyond `size` bytes, as on a full disk."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def wait_for_point(self, seconds: float = COMMAND_SECONDS) -> bool:
        """Return once it waits or is paused at its point; False if it ended without."""
        deadline = time.monotonic() + seconds
        while not (self.has_reached or self.is_paused):
            if self.is_over or time.monotonic() > deadline:
                return self.has_reached
            time.sleep(LOOK_SECONDS)
        return True

    def wait(self, seconds: float = COMMAND_SECONDS) -> Said:
        """What it came to; one that outlives its time is killed, and its code says so."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        output = (self.folder / "stdout").read_text(errors="replace")
        try:
            result = json.loads(output)
        except ValueError:
            result = {}
        return Said(
            self.argv,
            self.process.exitcode,
            result,
            (self.folder / "stderr").read_text(errors="replace"),
            time.monotonic() - self.started,
        )


def start(
    *argv: str, folder: Path, environment: dict[str, str], failpoint: str | None = None, trace: Path | None = None
) -> Command:
    """Start `makegood ARGV --json` in `environment`.

    Args:
        folder: for its output and the files of its point; made.
        failpoint: `POINT:NTH:ACTION`; where it waits is added.
        trace: where to append the name of every point it meets, instead of failing at one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if failpoint:
        environment = environment | {
            "MAKEGOOD_FAILPOINT": failpoint + (f":{folder}" if failpoint.endswith(":wait") else "")
        }
    process = _CONTEXT.Process(target=_run, args=(argv, str(folder), environment, str(trace) if trace else None))
    process.start()
    return Command(argv, folder, process)


def start_acquirer(folder: Path) -> ForkServerProcess:
    """The practice acquirer that serves `folder` until it is told to stop."""
    process = _CONTEXT.Process(target=_serve, args=(str(folder),))
    process.start()
    return process


def _run(argv: tuple[str, ...], folder: str, environment: dict[str, str], trace: str | None) -> None:
    """In the forked process: be the command."""
    from pipeline import cli
    from pipeline.chaos import small
    from pipeline.settings import adopt_environment

    _redirect(Path(folder))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full disk is an error of the call, not the end of the process
    adopt_environment(environment)
    if trace:
        small.trace_points(Path(trace))
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            code = cli.main([*argv, "--json", "--quiet"])
    finally:  # what it has to say needs no disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.write(1, output.getvalue().encode())
    sys.exit(code)


def _serve(folder: str) -> None:
    from pipeline.sandbox.__main__ import main

    Path(folder).mkdir(parents=True, exist_ok=True)
    _redirect(Path(folder), one="server.log")
    sys.exit(main(["serve", "--folder", folder]))


def _redirect(folder: Path, one: str | None = None) -> None:
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    for number, name in ((1, one or "stdout"), (2, one or "stderr")):
        descriptor = os.open(folder / name, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
