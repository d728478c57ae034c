"""Real faults, in real processes: nobody is charged twice, everybody is right in the end, and every state has a way out."""

import pytest

from pipeline.chaos.campaign import Asked
from pipeline.chaos.faults import Cell
from pipeline.chaos.trial import attempt

SEED = 5

NAMED = [
    Cell("release", "hand_over.noted", "kill"),
    Cell("cancel", "answers.wait", "result_cut"),
    Cell("release", "answers.wait", "ack_says_used_before"),
    Cell("release", "answers.wait", "takeover"),
    Cell("escape", "file.recorded", "incident_opened"),
    Cell("release", "hand_over.recorded", "killed_and_stop_order"),
    Cell("release", "hand_over.recorded", "killed_and_file_lost"),
]
"""What once charged somebody twice, or had no way out: a fault each."""

LONG = [
    Cell("release", "hand_over.delivered", "database_restored_to_before"),
    Cell("rebill", "hand_over.delivered", "killed_and_database_restored_to_midway"),
    Cell("rebill", "answers.wait", "takeover_after_restart"),
    Cell("cancel", "hand_over.noted", "killed_and_plan_rejected"),
    Cell("refund", "answers.wait", "acquirer_away"),
]
"""Likewise, with servers that are restarted and databases that are restored."""

SAMPLE, SAMPLE_OF_WORLD = 5, 20


@pytest.mark.slow
@pytest.mark.parametrize("cell", NAMED, ids=str)
def test_what_once_went_wrong_goes_right(stage, cell):
    _require_held(stage, cell, SEED)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_seeded_fault_does_no_harm(stage, number):
    """A few of the matrix; `make chaos` tries hundreds."""
    _, known = stage
    (trial,) = Asked(seeds=1, seed=SEED + 13 * number, step="release", is_quick=True).trials(known)
    _require_held(stage, *trial)


@pytest.mark.world
@pytest.mark.parametrize("cell", LONG, ids=str)
def test_what_takes_long_goes_right(whole_stage, cell):
    _require_held(whole_stage, cell, SEED)


@pytest.mark.world
@pytest.mark.parametrize("number", range(SAMPLE_OF_WORLD))
def test_any_seeded_fault_does_no_harm(whole_stage, number):
    _, known = whole_stage
    (trial,) = Asked(seeds=1, seed=1000 + number).trials(known)
    _require_held(whole_stage, *trial)


def _require_held(stage, cell: Cell, seed: int) -> None:
    world, known = stage
    assert cell.why_not(known.visits) is None
    outcome = attempt(world, cell, seed, known)
    assert outcome.ended in ("held", "missed"), outcome.to_json()
