"""What lies in a home directory is for its owner alone, from the first command on, and in a home of before from the next one on."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.adapters import home as home_module
from pipeline.adapters.home import OTHERS, keep_private
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import FatalError
from pipeline.generate import generate

READ_OR_WRITE = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH
"""Root's embedded PostgreSQL passes through the home directory, and may do no more."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(home: Path) -> list[str]:
    below = [path for path in home.rglob("*") if path.lstat().st_mode & OTHERS and not path.is_symlink()]
    kept_by_the_database = [
        path for path in below if path.is_relative_to(home / "postgres") and path != home / "postgres"
    ]
    found = [path for path in below if path not in kept_by_the_database]
    return [str(path) for path in (*found, *([home] if mode(home) & READ_OR_WRITE else []))]


@pytest.fixture(autouse=True)
def _usual_umask():
    """As a shell has it, whatever a command that ran in this process has set."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.slow
def test_nothing_that_a_month_leaves_behind_is_open_to_others(tmp_path):
    source, home = tmp_path / "source", tmp_path / "home"
    generate(source, customers=50, first_period=BillingPeriod(2023, 9), months=1, contacts=True)
    environment = os.environ | {"MAKEGOOD_HOME": str(home), "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}

    def makegood(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pipeline", *arguments, "--quiet"]
        return subprocess.run(command, env=environment, umask=0o022, capture_output=True, text=True)

    makegood("verify", "--source", str(source), "--period", "2023-09")
    [run] = home.glob("reports/2023-09-*")
    released = makegood("release", "--run", run.name, "--as-of", "2023-09-11")
    assert " charged " in released.stdout, released
    assert {"lake", "reports", "acquirer", "outgoing"} <= {path.name for path in home.iterdir()}
    assert open_to_others(home) == []

    (home / "lake").chmod(0o755)
    (run / "report.html").chmod(0o644)
    again = makegood("run", "list")
    assert f"{home / 'lake'} was open to other users of this machine; it is yours alone now" in again.stderr
    assert mode(home / "lake") == 0o700


def test_a_home_of_before_is_closed_with_all_that_is_ours_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(home_module.os, "geteuid", lambda: tmp_path.stat().st_uid)
    home = tmp_path / "home"
    for name in ("lake/billing_period=2023-09/charges.parquet", "reports/index.html", "sample/README.md"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text("x")
    (home / "lake" / "elsewhere").symlink_to(tmp_path)
    before = mode(home / "sample"), mode(tmp_path)
    assert set(keep_private(home)) >= {home / "lake", home / "reports"}
    assert open_to_others(home / "lake") == open_to_others(home / "reports") == []
    assert mode(home) & READ_OR_WRITE == 0
    assert (mode(home / "sample"), mode(tmp_path)) == before
    assert keep_private(home) == []


def test_a_new_home_is_its_owners(tmp_path):
    keep_private(tmp_path / "new" / "home")
    assert mode(tmp_path / "new" / "home") & READ_OR_WRITE == 0


def test_a_home_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(home_module.os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(FatalError, match="belongs to another user of this machine"):
        keep_private(tmp_path)
