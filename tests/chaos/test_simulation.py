"""The simulation tries many seeds and finds nothing; and finds something in every build that is broken on purpose.

More of it: ``python -m pipeline.chaos.simulation --seeds 1..10000``.
"""

from collections.abc import Iterator

import pytest

from pipeline.chaos.simulated_seed import BRINGS_BACK, FAULTS, Fault, Ground, Simulation
from pipeline.chaos.simulation import simulate
from tests.chaos.broken_builds import BUILDS

SEEDS, MORE_SEEDS = range(1, 51), range(1_001, 1_251)
"""What every commit is tried with, and what takes minutes."""

SEEDS_TO_CATCH = range(1, 61)
"""Within these a broken build is caught; in most of them within ten."""

SECOND_LINES = ("no fencing in the database",)
"""What another rule makes up for: a file is taken back before its successor is written, whatever the database lets pass."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    ground = Ground(tmp_path_factory.mktemp("simulation"))
    try:
        ground.charge()
        yield ground
    finally:
        ground.close()


def told(ground: Ground, *faults: Fault, seeds: range = range(1, 5)) -> dict[int, list[str]]:
    """What is violated when just these faults befall a release; by seed."""
    violated = {}
    for seed in seeds:
        simulation = Simulation(seed, ground, story="release", faults=0, fates={"ok": 1})
        simulation.pending = [Fault(fault.kind, fault.point, fault.left) for fault in faults]
        ended = simulation.run()
        assert len(ended.injected) == len(faults), ended.told
        if ended.violations:
            violated[seed] = ended.told
    return violated


def test_whatever_fails_nobody_is_charged_twice_or_forgotten_and_there_is_a_way_out(ground):
    report = simulate(ground, SEEDS)
    assert report["violations"] == {}, "replay one with `python -m pipeline.chaos.simulation --seed N`"
    assert report["pairs"] > 50


@pytest.mark.world
@pytest.mark.timeout(1_200)
def test_whatever_fails_in_many_seeds_nobody_is_charged_twice_or_forgotten(ground):
    report = simulate(ground, MORE_SEEDS)
    assert report["violations"] == {}, "replay one with `python -m pipeline.chaos.simulation --seed N`"
    assert report["pairs"] > 200
    assert set(BRINGS_BACK) < set(report["faults"])


def test_every_fault_happens_in_some_seeds(ground):
    reached = {kind for seed in range(1, 400) for kind in {fault.kind for fault in Simulation(seed, ground).pending}}
    assert reached == set(FAULTS)


def test_a_seed_ends_the_same_every_time(ground):
    def run(seed: int) -> list[str]:
        return [line for line in Simulation(seed, ground).run().told if " UTC" not in line]

    assert [run(seed) for seed in range(20, 23)] == [run(seed) for seed in range(20, 23)]


@pytest.mark.parametrize("name", [name for name in BUILDS if name not in SECOND_LINES])
def test_a_build_that_lacks_one_rule_is_caught_and_the_whole_one_is_not(ground, name):
    build, chosen = BUILDS[name]
    with build(ground):
        caught = next(
            (seed for seed in SEEDS_TO_CATCH if Simulation(seed, ground, **chosen).run().violations), None
        )  # fmt: skip
    assert caught is not None
    assert Simulation(caught, ground, **chosen).run().violations == []


# -- what it has found --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["hand_over.recorded", "hand_over.noted"])
def test_a_repair_takes_back_a_file_that_a_paused_sender_may_still_deliver(ground, point):
    assert told(ground, Fault("repair", point, 2)) == {}


def test_a_file_that_went_out_is_entered_beside_one_of_its_wave_that_was_taken_back(ground):
    killed = Fault("kill", "hand_over.begin", 1)
    assert told(ground, killed, Fault("standby", "hand_over.delivered", 1), seeds=range(1, 13)) == {}


def test_a_file_that_the_books_have_up_to_the_moment_before_it_went_is_entered_once(ground):
    assert told(ground, Fault("standby", "hand_over.delivered", 2), seeds=range(1, 10)) == {}


def test_a_note_of_a_file_that_never_went_does_not_keep_a_restored_database_behind_for_ever(ground):
    killed = Fault("kill", "hand_over.noted", 1)
    assert told(ground, killed, Fault("restore", "lock.taken", 2), seeds=range(1, 9)) == {}


def test_a_standby_that_knows_a_file_as_taken_back_and_not_the_one_that_went_out_in_its_place_is_found_out(ground):
    killed = Fault("kill", "hand_over.noted", 1)
    assert told(ground, killed, Fault("standby", "hand_over.delivered", 1), seeds=range(1, 13)) == {}


def test_a_file_whose_result_is_gone_is_entered_by_its_acknowledgement(ground):
    stale, restored = Fault("stale", "hand_over.begin", 2), Fault("restore", "answers.record", 2)
    assert told(ground, stale, restored, seeds=range(1, 9)) == {}
