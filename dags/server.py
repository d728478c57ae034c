"""Start the whole of Airflow on the pipeline's own PostgreSQL, and stop it cleanly: what `make airflow` runs.

Belongs here: processes, ports, secrets, Airflow's settings. Does not: DAGs. Everything listens on 127.0.0.1 alone.

    python -m dags.server [--port N]

Ctrl-C (or SIGTERM) stops every process, and the embedded PostgreSQL with the last of its users.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import psutil
import psycopg

from pipeline.bootstrap import open_makegood
from pipeline.errors import FatalError, MakegoodError
from pipeline.settings import PRIVATE_UMASK, PROJECT_ROOT, Settings, inherited_environment

USERS = {"operator": "user", "approver": "user", "analyst": "viewer"}
"""Airflow users and their roles: a `user` runs DAGs and answers, a `viewer` reads. Nobody is an administrator."""

DAGS = frozenset({"charge_run", "charge_history", "decide_held_run", "remediation", "settlement"})
"""What there must be before somebody is told that Airflow is ready."""

COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": [
        "scheduler",
        "--skip-serve-logs",
    ],  # logs are read as files: no log server, which would not stay on loopback
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}

PORT = 8080
"""Where the pages are if nothing else is there."""

WORKERS = 4
"""Task processes at once: a run's tasks follow one another, so this is about runs beside each other, within a small machine."""

START_SECONDS_MAX = 240
"""A slow machine needs about a minute for the first start; twice that twice over is a fault."""

PR_SET_PDEATHSIG = 1
"""Linux: `prctl` option for the signal a process gets when its parent dies."""

STOP_SECONDS_MAX = 20
"""For components to end their work in order; a task cut off goes on where it stopped when it is run again."""


@dataclass(frozen=True, slots=True)
class Airflow:
    """A running Airflow.

    Attributes:
        address: of its pages and API.
        home: its folder: logs and secrets.
        passwords: by user name.
        environment: what a process needs that uses the `airflow` command with it.
        processes: by component.
    """

    address: str
    home: Path
    passwords: dict[str, str]
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen]

    def fallen(self) -> str | None:
        """The name of a component that has ended by itself, or None."""
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)

    def log(self, component: str) -> Path:
        return self.home / "logs" / f"{component}.log"


@contextlib.contextmanager
def running_airflow(settings: Settings, *, port: int | None = None) -> Iterator[Airflow]:
    """Airflow on `settings`' installation, healthy and with its DAGs known; stopped on leaving.

    Args:
        port: where to listen; None takes `PORT`, or a free one if that is taken.

    Raises:
        FatalError: it runs already, a component ends or does not become healthy; the message names its log.
    """
    home = settings.home / "airflow"
    (home / "logs").mkdir(parents=True, exist_ok=True)
    lock = _lock(home / "lock")
    server = open_makegood(settings=settings).server
    passwords = {name: _kept_secret(settings.home / "logins" / f"airflow-{name}") for name in USERS}
    environment = _environment(
        settings, home, server.pipeline_url, server.url("airflow", database="airflow"), port or _free_port()
    )
    _write_secret(home / "passwords.json", json.dumps(passwords))
    _write_secret(home / "environment", _as_shell(environment))
    _migrate(home, environment)
    processes: dict[str, subprocess.Popen] = {}
    airflow = Airflow(environment["AIRFLOW__API__BASE_URL"], home, passwords, environment, processes)
    try:
        for name, arguments in COMPONENTS.items():
            processes[name] = _start(airflow.log(name), arguments, environment)
        _wait_until_ready(airflow)
        yield airflow
    finally:
        _stop(processes)
        lock.close()


def _lock(path: Path) -> IO:
    """Be the only Airflow of this installation for as long as the file is open."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise FatalError(
            f"Airflow is running here already ({path.parent}); stop it first, or choose another MAKEGOOD_HOME"
        ) from None
    return file


# -- settings and secrets -------------------------------------------------------------------------------------------


def _environment(settings: Settings, home: Path, pipeline_url: str, metadata_url: str, port: int) -> dict[str, str]:
    address = f"http://127.0.0.1:{port}"
    inherited = inherited_environment()
    return (
        inherited
        | {
            "PATH": f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}",
            "PYTHONPATH": str(PROJECT_ROOT),
            "NO_PROXY": ",".join(filter(None, [inherited.get("NO_PROXY"), "127.0.0.1", "localhost"])),
            "MAKEGOOD_HOME": str(settings.home),
            "MAKEGOOD_SOURCE": str(settings.source),
            "MAKEGOOD_SUITES": str(settings.suites),
            "MAKEGOOD_DATABASE_URL": pipeline_url,
            "MAKEGOOD_LOGIN": "",  # tasks are nobody: a person is whoever answers in the pages
            "MAKEGOOD_PASSWORD": "",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT_ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "dags" / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(WORKERS),
            "AIRFLOW__CORE__FERNET_KEY": _kept_secret(home / "fernet.key", _fernet_key),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata_url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": metadata_url,  # psycopg is both
            "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE": "5",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": address,
            "AIRFLOW__API__SECRET_KEY": _kept_secret(home / "api.key"),
            "AIRFLOW__API__INSTANCE_NAME": "Makegood",
            "AIRFLOW__API_AUTH__JWT_SECRET": _kept_secret(home / "jwt.key"),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
            "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
            "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",  # seconds; a run is a dozen short tasks, one after the other
            "AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL": "error",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        }
    )


def _as_shell(environment: dict[str, str]) -> str:
    """What a shell needs to use the `airflow` command with this installation."""
    ours = {
        name: value for name, value in environment.items() if name.startswith(("AIRFLOW", "MAKEGOOD_", "PYTHONPATH"))
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(ours.items()))


def _free_port() -> int:
    for wanted in (PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", wanted))
            return probe.getsockname()[1]
    raise FatalError("no port of 127.0.0.1 can be listened on")


def _kept_secret(path: Path, make: Any = lambda: secrets.token_urlsafe(32)) -> str:
    """The secret in `path`, made the first time."""
    if not path.exists():
        _write_secret(path, make())
    return path.read_text().strip()


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _fernet_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


# -- processes ------------------------------------------------------------------------------------------------------


def _migrate(home: Path, environment: dict[str, str]) -> None:
    """Bring Airflow's tables up to date, unless this Airflow did so before; asking Airflow takes ten seconds."""
    stamp = home / "migrated"
    release = f"{version('apache-airflow-core')} {_revision(environment['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN'])}"
    if stamp.exists() and stamp.read_text() == release:
        return
    log = home / "logs" / "migrate.log"
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"], env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        )  # fmt: skip
    if done.returncode:
        raise FatalError(f"Airflow's tables could not be made; {log} says why")
    stamp.write_text(
        f"{version('apache-airflow-core')} {_revision(environment['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN'])}"
    )


def _revision(metadata_url: str) -> str:
    with psycopg.connect(metadata_url.replace("+psycopg", "", 1)) as connection:
        if connection.execute("SELECT to_regclass('alembic_version')").fetchone()[0] is None:
            return "nothing"
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchall())


def _start(log: Path, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen:
    """Start a component in a session of its own, so that Ctrl-C reaches us alone and we stop it in order."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "airflow", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    """Ask Linux to end this process when the one that started it is killed outright and can stop nothing any more."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_ready(airflow: Airflow) -> None:
    """Wait for every component's heartbeat and for the DAGs."""
    deadline = time.monotonic() + START_SECONDS_MAX
    waiting_for = "the API"
    while time.monotonic() < deadline:
        if name := airflow.fallen():
            raise FatalError(f"Airflow's {name} has ended; {airflow.log(name)} says why")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            health = _get(f"{airflow.address}/api/v2/monitor/health")
            sick = [part for part in ("scheduler", "dag_processor", "triggerer") if health[part]["status"] != "healthy"]
            missing = sorted(DAGS - _known_dags(airflow)) if not sick else []
            if not sick and not missing:
                return
            waiting_for = ", ".join(sick or missing)
        time.sleep(0.5)
    logs = airflow.home / "logs"
    raise FatalError(f"Airflow is not ready after {START_SECONDS_MAX} seconds: waited for {waiting_for}; see {logs}")


def _known_dags(airflow: Airflow) -> set[str]:
    user = next(iter(USERS))
    token = _get(f"{airflow.address}/auth/token", body={"username": user, "password": airflow.passwords[user]})[
        "access_token"
    ]
    return {dag["dag_id"] for dag in _get(f"{airflow.address}/api/v2/dags", token=token)["dags"]}


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _get(url: str, *, body: dict[str, str] | None = None, token: str | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, data=json.dumps(body).encode() if body else None, headers=headers)  # noqa: S310
    with _direct.open(request, timeout=10) as answer:
        return json.load(answer)


def _stop(processes: dict[str, subprocess.Popen]) -> None:
    """End every component and all that it started; what has not ended in time is killed."""
    family: list[psutil.Process] = []
    for process in processes.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            component = psutil.Process(process.pid)
            family += [*component.children(recursive=True), component]
    for process in processes.values():
        process.terminate()
    _, left = psutil.wait_procs(family, timeout=STOP_SECONDS_MAX)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS_MAX)
    for process in processes.values():
        process.wait()


# -- make airflow ---------------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """Somebody asked us to stop."""


def main() -> int:
    """Run Airflow until somebody stops it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dags.server", description="Run Airflow here until Ctrl-C.")
    parser.add_argument("--port", type=int, help=f"where to listen on 127.0.0.1 (default {PORT}, or a free one)")
    arguments = parser.parse_args()
    os.umask(PRIVATE_UMASK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ask_to_stop)
    settings = replace(Settings.from_environment(), login=None, password=None)
    began = time.monotonic()
    _say("Starting Airflow ...")
    try:
        with running_airflow(settings, port=arguments.port) as airflow:
            _announce(airflow, settings, time.monotonic() - began)
            while (fallen := airflow.fallen()) is None:
                time.sleep(1)
            raise FatalError(f"Airflow's {fallen} has ended; {airflow.log(fallen)} says why")
    except _Stopped:
        _say("Airflow is stopped.")
        return 0
    except MakegoodError as error:
        _say(str(error))
        return error.exit_code


def _ask_to_stop(number: int, frame: Any) -> None:
    for again in (signal.SIGTERM, signal.SIGINT):
        signal.signal(again, signal.SIG_IGN)  # stopping is under way
    _say("Stopping ...")
    raise _Stopped


def _announce(airflow: Airflow, settings: Settings, seconds: float) -> None:
    people = "\n".join(f"    {name:9} {airflow.passwords[name]}" for name in USERS)
    shown = airflow.home / "passwords.shown"
    if shown.exists():
        people = f"    {', '.join(USERS)}; passwords in {settings.home / 'logins'}/airflow-<name>"
    _say(f"Airflow is at {airflow.address}  (ready after {seconds:.0f} s; Ctrl-C stops it)\n  log in as\n{people}")
    shown.touch()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
