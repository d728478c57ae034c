"""A wrong month of its own for every test, in a database that a module shares."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.remediation_world import World


@pytest.fixture
def world(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(settings, tmp_path, request.node.nodeid)
    yield world
    world.rail.close()
