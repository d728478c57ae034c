"""What was meant, what was done and what was settled agree, or what does not has a name - and is entered once."""

from datetime import date
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.engine import make_url

from pipeline.adapters import postgres
from pipeline.adapters.closings import Closings
from pipeline.adapters.deviations import CameBack
from pipeline.adapters.postgres import conninfo
from pipeline.adapters.reconciliation import Reconciliation
from pipeline.errors import FatalError
from pipeline.reconcile import keep_what_came_back, to_text
from pipeline.settings import Settings
from tests.remediation_world import ELEVENTH, TWELFTH, Customer, World, people
from tests.settlement_case import EVERYTHING_SETTLED, TODAY, Settlement, incident_is_over


@pytest.fixture(autouse=True)
def _nothing_but_this_test(settings: Settings) -> None:
    """Every world's acquirer counts its payments from one: two of them cannot share a ledger."""
    postgres.open_server(settings)
    url = make_url(postgres.superuser_url(settings)).set(database=postgres.DATABASE)
    with psycopg.connect(conninfo(url.render_as_string(hide_password=False))) as connection:
        connection.execute(
            "TRUNCATE makegood.operation, makegood.outcome, makegood.further_entry, makegood.settlement_break CASCADE"
        )


@pytest.fixture
def settlement(world: World, tmp_path: Path) -> Settlement:
    incident_is_over(world)
    return Settlement(world, tmp_path / "settlement")


def test_what_was_meant_done_and_settled_agrees_and_is_entered_once(settlement):
    result = settlement.reconcile()
    assert settlement.breaks(result) == {}
    settled = [
        (
            "charge",
            "bank",
            "acquirer_clearing",
            2,
            104_600,
        ),  # check cards alone: a voided approval is not in settlement
        ("rebill", "bank", "acquirer_clearing", 4, 164_000),
        ("refund", "acquirer_clearing", "bank", 2, 104_600),
    ]
    assert settlement.settled() == settled
    assert settlement.reconcile().entered == 0
    assert settlement.settled() == settled
    assert "breaks: " in to_text(result.to_json())


@pytest.mark.parametrize("stage", ["_against_plan", "_keep_breaks"])
def test_a_reconciliation_that_fails_enters_nothing_and_the_next_one_everything(settlement, monkeypatch, stage):
    def fail(*_: object) -> None:
        raise FatalError("the plan cannot be read")

    with monkeypatch.context() as failing:
        failing.setattr(Reconciliation, stage, fail)
        with pytest.raises(FatalError, match="cannot be read"):
            settlement.reconcile()
    assert settlement.settled() == []
    assert settlement.reconcile().entered == 8


def test_a_claim_without_a_line_is_missing_only_once_it_is_late(settlement):
    dropped = settlement.files()[-1]
    dropped.unlink()
    early, late = settlement.reconcile(today=date(2023, 9, 14)), settlement.reconcile()
    assert settlement.breaks(early) == {} and early.not_due["count"] >= 2
    assert len(settlement.breaks(late)["missing"]) >= 2
    assert sum(late.breaks["missing"]["ages"].values()) == late.breaks["missing"]["count"]


def test_a_file_that_comes_late_resolves_what_was_missing(settlement):
    dropped = settlement.files()[-1]
    content = dropped.read_bytes()
    dropped.unlink()
    missing = settlement.breaks(settlement.reconcile())["missing"]
    dropped.write_bytes(content)
    after = settlement.reconcile()
    assert settlement.breaks(after) == {} and after.resolved >= len(missing)
    dropped.unlink()
    assert settlement.breaks(settlement.reconcile()) == {}  # what was settled stays settled


def test_another_amount_is_a_break_and_is_not_entered(settlement):
    line = settlement.edit(lambda line: line.update({"Gross Debit (GC)": "1"}), of="Refunded")
    result = settlement.reconcile()
    assert list(settlement.breaks(result)) == ["amount"]
    assert line["Modification Reference"] not in str(settlement.settled())
    assert [row[3] for row in settlement.settled() if row[0] == "refund"] == [1]


def test_a_reference_nobody_knows_is_extra(settlement):
    nobody = {"Psp Reference": "7700", "Merchant Reference": "who"}
    settlement.edit(lambda line: line.update(nobody), of="Settled", charge=settlement.check[0])
    found = settlement.breaks(settlement.reconcile())
    assert set(found) == {"extra", "missing"}
    assert found["missing"] == [settlement.check[0]]


def test_a_line_that_names_a_charge_of_the_incident_keeps_it_open_and_a_strangers_line_does_not(settlement):
    world = settlement.world
    closings, incident = Closings(world.server), world.incidents.find(world.incident)
    settlement.edit(lambda line: line.update({"Psp Reference": "7700"}), of="Settled", charge=settlement.check[0])
    settlement.reconcile()
    assert closings.open_breaks(incident) == {"extra": 1, "missing": 1}
    settlement.edit(lambda line: line.update({"Merchant Reference": "who"}), of="Settled", charge=settlement.check[0])
    assert settlement.breaks(settlement.reconcile()).keys() == {"extra", "missing"}
    assert closings.open_breaks(incident) == {"missing": 1}


def plant(world: World, customer: Customer, kind: str, *, payment_id: str) -> None:
    """An operation that succeeded and that nothing here sent."""
    incident = world.incident if kind == "rebill" else None
    world.plant_hand_over(world.run_id if kind == "charge" else f"{incident}/0/rebill", 9)
    with world.server.connect() as connection:
        connection.execute(
            "INSERT INTO operation (operation_id, kind, scope, incident_id, customer_id, billing_period, bill_cycle, charge_id,"
            " amount_minor, currency, payment_method, issuer, instrument_token, wave)"
            " VALUES (%s::uuid, %s, %s, %s, %s, '2023-09', 1, 'c', 5, 'KRW',"
            " 'check_card', %s, 'none', 9)",
            (customer.original if kind == "charge" else str(uuid4()), kind, world.run_id if kind == "charge" else f"{incident}/0/rebill",
             incident, customer.customer_id, customer.issuer),
        )  # fmt: skip
        connection.execute(
            "INSERT INTO outcome (operation_id, status, payment_id) SELECT operation_id, 'succeeded', %s FROM operation"
            " WHERE customer_id = %s AND kind = %s", (payment_id, customer.customer_id, kind),
        )  # fmt: skip


def test_a_rebill_over_a_standing_wrong_charge_is_named(settlement):
    stranded = people(settlement.world, 1, method="check_card")[0]
    plant(settlement.world, stranded, "charge", payment_id="1")
    assert "recharged_without_undo" not in settlement.breaks(settlement.reconcile())
    plant(settlement.world, stranded, "rebill", payment_id="2")
    found = settlement.breaks(settlement.reconcile())
    assert len(found["recharged_without_undo"]) == 1


def test_what_the_acquirer_contradicts_is_a_state_break_and_no_mere_delay(settlement):
    voided = settlement.world.payments()[settlement.card[0]]
    customer = people(settlement.world, 1)[0]
    plant(settlement.world, customer, "charge", payment_id=voided)
    assert settlement.breaks(settlement.reconcile(today=date(2099, 1, 1))) == {"state": [customer.original]}


def test_an_approval_that_somebody_else_voided_is_no_break_once_that_is_kept(settlement):
    world = settlement.world
    customer = people(world, 1)[0]
    plant(world, customer, "charge", payment_id=world.payments()[settlement.card[0]])
    kept = keep_what_came_back(
        CameBack(world.server), world.incidents.find(world.incident), today=TODAY,
        ask=lambda payments: world.rail.states(payment_ids=payments),
    )  # fmt: skip
    assert kept == 1
    assert settlement.breaks(settlement.reconcile(today=date(2099, 1, 1))) == {}
    assert world.rows("SELECT kind, amount_minor FROM deviation WHERE original_id = %s::uuid", customer.original) == [
        ("already_returned", 5)
    ]


def test_a_refund_by_support_that_was_noticed_is_explained_and_entered(world, tmp_path):
    customer = people(world, 1, method="check_card")[0]
    world.charge([customer])
    world.turn(ELEVENTH)
    world.happens("support_refund", customer, amount_minor=300)
    world.approve([customer])
    world.step("refund", ELEVENTH)
    world.step("rebill", TWELFTH)
    world.turn(EVERYTHING_SETTLED)
    settlement = Settlement(world, tmp_path / "settlement")
    for _ in range(2):
        result = settlement.reconcile()
        assert settlement.breaks(result) == {}
        assert result.returned_elsewhere == {"count": 1, "amount_minor": 300}
    clearing = world.rows(
        "SELECT sum(CASE WHEN e.debit = 'acquirer_clearing' THEN e.amount_minor ELSE -e.amount_minor END)::bigint FROM entry e"
        " JOIN operation o USING (operation_id) WHERE 'acquirer_clearing' IN (e.debit, e.credit) AND (o.scope = %s OR o.incident_id = %s)",
        world.run_id, world.incident,
    )  # fmt: skip
    assert clearing == [(0,)]
