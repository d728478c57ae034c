"""The worlds of the harness, made once for its tests."""

from collections.abc import Iterator

import pytest

from pipeline.chaos.campaign import worlds
from pipeline.chaos.trial import Known
from pipeline.chaos.world import World
from pipeline.ports import no_progress


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Known]]:
    """A world of a few hundred customers before each step of the story's first half, and what is known of its steps."""
    with worlds(tmp_path_factory.mktemp("chaos") / "worlds", no_progress, until="approved") as (world, known):
        yield world, known


@pytest.fixture(scope="package")
def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Known]]:
    """As `stage`, to the end of the story."""
    with worlds(tmp_path_factory.mktemp("chaos") / "worlds", no_progress) as (world, known):
        yield world, known
