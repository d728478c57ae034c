"""The database closes no incident over what the proof or its own books do not allow, whoever asks and however."""

import json
from pathlib import Path

import pytest

from pipeline.errors import FatalError
from pipeline.settings import Settings
from tests.remediation_world import ELEVENTH, World, charged_and_approved, people
from tests.settlement_case import Settlement, incident_is_over

WHOLE = {"residual_minor": 0, "open": 0, "unexplained": 0}


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> World:
    return World(settings, tmp_path / "world", tmp_path.name)


def opened(world: World) -> World:
    """With an incident that has nothing in it."""
    world.incident = world.incidents.open_incident(
        billing_period="2023-09", charge_scope=world.run_id, issuers=[world.issuer], corrected_run=world.corrected
    ).incident_id
    return world


def prove(world: World, **said: object) -> int:
    """Have the pipeline record a proof; returns its number."""
    [(number,)] = world.rows(
        "INSERT INTO incident_proof (incident_id, proof) VALUES (%s, %s) RETURNING proof_id",
        world.incident, json.dumps(WHOLE | said),
    )  # fmt: skip
    return number


def close(world: World, proof_id: int | None) -> None:
    """Close by SQL, as an operator."""
    with world.server.connect("operator") as operator:
        operator.execute(
            "INSERT INTO incident_closing (incident_id, proof_id) VALUES (%s, %s)", (world.incident, proof_id)
        )


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        ({"residual_minor": 5}, "leaves a residual"),
        ({"unexplained": 1}, "leaves a residual"),
        ({"open": 1}, "open and nobody has accepted"),
        ({"open": 1, "accepted_open": " "}, "open and nobody has accepted"),
    ],
)
def test_a_proof_that_is_not_whole_closes_nothing(world, proof, why):
    with pytest.raises(FatalError, match=why):
        close(opened(world), prove(world, **proof))


def test_only_the_newest_proof_of_the_incident_itself_closes_it(world, settings, tmp_path):
    other = opened(World(settings, tmp_path / "other", f"{tmp_path.name} other"))
    older, newest = prove(opened(world)), prove(world, open=1, accepted_open="invoiced by post")
    of_other = prove(other)
    for proof_id in (None, older, of_other, newest + 1000):
        with pytest.raises(FatalError, match="the newest proof that the pipeline has made"):
            close(world, proof_id)
    close(world, newest)
    assert world.rows(
        "SELECT person, proof ->> 'accepted_open' FROM incident_closing WHERE incident_id = %s", world.incident
    ) == [("operator", "invoiced by post")]


def test_nothing_closes_over_an_operation_that_nobody_knows_the_outcome_of(world):
    charged_and_approved(world, people(world, 4))
    world.rail.adjust(timeout_after_accept=1.0, late_answer="pending")
    world.rule = type(world.rule)(1.0, 1.0)
    world.step("cancel", ELEVENTH)
    with pytest.raises(FatalError, match="4 operations without an outcome"):
        close(world, prove(world))


def test_nothing_closes_before_settlement_over_a_break_or_with_a_proof_from_before(world, tmp_path):
    incident_is_over(world)
    early = prove(world)
    with pytest.raises(FatalError, match="0 operations without an outcome, 6 without settlement, 0 later"):
        close(world, early)
    settlement = Settlement(world, tmp_path / "files")
    settlement.edit(lambda line: line.update({"Psp Reference": "7700"}), of="Settled", charge=settlement.check[0])
    settlement.reconcile()
    with pytest.raises(FatalError, match=r"breaks of .* are open"):
        close(world, prove(world))


def test_a_proof_from_before_the_last_operation_closes_nothing(world):
    charged_and_approved(world, people(world, 2))
    early = prove(world)
    world.step("cancel", ELEVENTH)
    with pytest.raises(
        FatalError, match="0 operations without an outcome, 0 without settlement, 2 later than the proof"
    ):
        close(world, early)
    close(world, prove(world))
