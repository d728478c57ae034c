"""Undoing and charging again, with a real database and a real acquirer process: nobody twice, nobody early, nobody forgotten."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import GateClosed, OutsideWindow, SendingStopped
from pipeline.execution import Sender
from tests.remediation_world import (
    CHARGED,
    ELEVENTH,
    FOURTEENTH,
    THIRTEENTH,
    TWELFTH,
    Customer,
    World,
    charged_and_approved,
    people,
)

ROOT = Path(__file__).resolve().parents[2]


def counts(result: dict) -> tuple[int, int, int]:
    return result["done"]["count"], result["declined"]["count"], result["unknown"]["count"]


def deviations(world: World) -> dict[str, int]:
    return dict(world.rows("SELECT kind, count(*) FROM deviation WHERE incident_id = %s GROUP BY kind", world.incident))


def test_everybody_ends_with_the_right_amount_by_the_acquirers_own_book(world):
    credit, check = people(world, 30), people(world, 10, method="check_card", wrong=9_900, right=11_000)
    charged_and_approved(world, credit + check)
    assert counts(world.step("cancel", ELEVENTH)) == (30, 0, 0)
    assert counts(world.step("refund", ELEVENTH)) == (10, 0, 0)
    rebilled = world.step("rebill", TWELFTH)
    assert counts(rebilled) == (40, 0, 0)
    assert rebilled["left"] == {}
    assert world.kept() == {c.token: c.right for c in credit + check}
    balances = {row["account"]: row["balance_minor"] for row in world.ledger.balances()}
    assert balances.get("suspense", 0) == 0


def test_running_a_step_twice_moves_no_money(world):
    charged_and_approved(world, people(world, 20) + people(world, 5, method="check_card"))
    for step, at in (("cancel", ELEVENTH), ("refund", ELEVENTH), ("rebill", TWELFTH)):
        first = world.step(step, at)
        moves = world.money_moves()
        assert world.step(step, at) == first
        assert world.money_moves() == moves


@pytest.mark.parametrize(("step", "at"), [
    ("cancel", CHARGED), ("refund", CHARGED), ("cancel", THIRTEENTH), ("refund", THIRTEENTH), ("rebill", ELEVENTH),
])  # fmt: skip
def test_nothing_is_sent_outside_the_window(world, step, at):
    charged_and_approved(world, people(world, 3) + people(world, 2, method="check_card"))
    world.step("cancel", ELEVENTH) if step == "rebill" else None
    moves = world.money_moves()
    with pytest.raises(OutsideWindow) as outside:
        world.step(step, at)
    assert outside.value.exit_code == 3
    assert "the window for" in str(outside.value)
    assert len([row for row in world.book() if row["kind"] in ("void", "refund")]) == (3 if step == "rebill" else 0)
    assert world.money_moves() - moves in (0, 3)  # at the cut-off three approvals were acquired: not by us


def test_a_window_that_closes_midway_stops_between_waves_and_a_successor_plan_takes_the_rest(world):
    customers = people(world, 30, method="check_card")
    charged_and_approved(world, customers)
    looks = iter([ELEVENTH] * 4 + [THIRTEENTH] * 100)
    stopped = world.step("refund", ELEVENTH, clock=lambda: next(looks))
    done = stopped["done"]["count"]
    assert done == 10, "the canary went out, the wave after it did not"
    assert "successor plan" in stopped["stopped"]
    assert stopped["left"] == {"not_sent": {"count": 20, "amount_minor": 20 * 52_300}}

    world.turn(TWELFTH)
    world.approve(customers, number=2)
    finished = world.step("refund")
    assert counts(finished) == (30, 0, 0)
    assert finished["left"] == {}
    assert [row["kind"] for row in world.book()].count("refund") == 30


def test_a_void_becomes_a_refund_once_when_the_cut_off_passes(world):
    customers = people(world, 12)
    charged_and_approved(world, customers)
    cancelled = world.step("cancel", TWELFTH)  # the 11th has ended: all are acquired
    assert counts(cancelled) == (0, 0, 0)
    assert cancelled["deviations"] == {"void_became_refund": {"count": 12, "amount_minor": 12 * 52_300}}
    assert world.step("cancel") == cancelled
    assert counts(world.step("refund")) == (12, 0, 0)
    assert counts(world.step("refund")) == (12, 0, 0)
    assert world.kept() == {c.token: 0 for c in customers}


def test_a_void_refused_because_it_was_acquired_between_reading_and_booking_becomes_a_refund_once(world):
    customers = people(world, 4)
    charged_and_approved(world, customers)
    ask = world.rail.ask_states

    def read_before_the_cut_off(**asked):
        answer = ask(**asked)()
        world.rail.set_clock(TWELFTH)
        return lambda: answer

    world.rail.ask_states = read_before_the_cut_off
    cancelled = world.step("cancel", ELEVENTH)
    world.rail.ask_states = ask
    assert counts(cancelled) == (0, 0, 0)
    assert deviations(world) == {"void_became_refund": 4}
    assert counts(world.step("refund", TWELFTH)) == (4, 0, 0)
    assert world.kept() == {c.token: 0 for c in customers}
    owed = world.rows(
        "SELECT coalesce(sum(CASE WHEN e.debit = 'refund_payable' THEN -e.amount_minor ELSE e.amount_minor END), 0)::bigint FROM entry e"
        " JOIN operation USING (operation_id) WHERE incident_id = %s AND 'refund_payable' IN (e.debit, e.credit)", world.incident,
    )  # fmt: skip
    assert owed == [(0,)], "what the refused voids left owing has been paid"


def test_a_support_refund_shrinks_ours(world):
    part, whole, _ = customers = people(world, 3, method="check_card")
    charged_and_approved(world, customers)
    world.happens("support_refund", part, amount_minor=50_000)
    world.happens("support_refund", whole)
    refunded = world.step("refund", ELEVENTH)
    assert refunded["done"] == {"count": 2, "amount_minor": 2_300 + 52_300}
    assert refunded["deviations"] == {
        "already_returned": {"count": 1, "amount_minor": 52_300},
        "shrunk": {"count": 1, "amount_minor": 50_000},
    }
    assert world.kept() == {c.token: 0 for c in customers}
    assert counts(world.step("rebill", TWELFTH)) == (3, 0, 0)


def test_an_expired_approval_needs_no_action_and_may_be_rebilled(world):
    customers = people(world, 2)
    world.rail.adjust(cutoff_days=30, expire_days=1)
    charged_and_approved(world, customers)
    cancelled = world.step("cancel", TWELFTH)
    assert (cancelled["left"], deviations(world)) == ({}, {"expired": 2})
    world.rail.adjust(expire_days=30)
    assert counts(world.step("rebill", TWELFTH)) == (2, 0, 0)


def test_a_disputed_charge_waits_and_is_not_rebilled(world):
    disputed, other = customers = people(world, 2, method="check_card")
    charged_and_approved(world, customers)
    world.happens("dispute", disputed)
    refunded = world.step("refund", ELEVENTH)
    assert counts(refunded) == (1, 0, 0)
    assert (refunded["left"].keys(), deviations(world)) == ({"not_sent"}, {"disputed": 1})
    rebilled = world.step("rebill", TWELFTH)
    assert counts(rebilled) == (1, 0, 0)
    assert rebilled["left"] == {"disputed": {"count": 1, "amount_minor": 41_000}}
    assert world.kept() == {disputed.token: 52_300, other.token: 41_000}


def test_nobody_is_rebilled_before_their_reversal_is_certain(world):
    certain, silent = people(world, 5), people(world, 5)
    charged_and_approved(world, certain + silent)
    world.rule = type(world.rule)(unknown_share_max=1.0)
    world.rail.adjust(timeout_after_accept=0.5, late_answer="pending")
    inquire = world.rail.inquire
    world.rail.inquire = lambda references: inquire(references).slice(0, 0)  # the acquirer says nothing yet
    cancelled = world.step("cancel", ELEVENTH)
    done, _, unknown = counts(cancelled)
    assert done + unknown == 10
    assert unknown > 0
    world.rail.adjust(timeout_after_accept=0)
    rebilled = world.step("rebill", TWELFTH)
    assert rebilled["done"]["count"] == done
    assert rebilled["left"]["reversal_unknown"]["count"] == unknown
    world.rail.inquire = inquire
    assert counts(world.step("rebill", TWELFTH)) == (10, 0, 0), "looked up on the next call, and rebilled"
    assert counts(world.step("cancel", TWELFTH)) == (10, 0, 0)


def test_a_void_that_succeeds_late_is_found_and_never_sent_again(world):
    customers = people(world, 8)
    charged_and_approved(world, customers)
    world.rule = type(world.rule)(unknown_share_max=1.0)
    world.rail.adjust(late_success=1, late_inquiries=2)
    assert counts(world.step("cancel", ELEVENTH)) == (0, 0, 8)
    world.step("cancel", ELEVENTH)
    assert counts(world.step("cancel", ELEVENTH)) == (8, 0, 0)
    assert [row["kind"] for row in world.book()].count("void") == 8


def test_a_bill_that_another_incident_has_rebilled_meanwhile_is_not_charged_again(world, settings, tmp_path):
    """Two systems charged the same bill; each charge has an incident of its own, and both plans were made before anything was done."""
    (first,) = people(world, 1, method="check_card")
    second = Customer(first.customer_id, method="check_card", occurrence=2)
    charged_and_approved(world, [first])
    other = World(settings, tmp_path / "other", f"{world.run_id} again")
    other.rail.close()
    other.rail = world.rail
    other.charge([second])
    other.turn(ELEVENTH)
    second.plan |= {"rebill": "rebill", "rebill_charge_id": "re-2", "rebill_method": second.method, "rebill_issuer": second.issuer,
                    "rebill_token": second.token}  # fmt: skip
    other.approve([second])
    for each in (world, other):
        each.step("refund", ELEVENTH)
    assert counts(world.step("rebill", TWELFTH)) == (1, 0, 0)
    held = other.step("rebill", TWELFTH)
    assert (counts(held), held["left"].keys()) == ((0, 0, 0), {"billed_elsewhere"})
    assert world.kept() == {first.token: 41_000}


def test_a_customer_charged_twice_is_undone_twice_and_rebilled_once(world):
    (first,) = people(world, 1)
    second = Customer(first.customer_id, occurrence=2)
    charged_and_approved(world, [first, second])
    looks = world.step("cancel", ELEVENTH)
    assert counts(looks) == (2, 0, 0)
    assert counts(world.step("rebill", TWELFTH)) == (1, 0, 0)
    assert world.kept() == {first.token: 41_000}


def test_one_open_reversal_of_two_blocks_the_rebill(world):
    (first,) = people(world, 1, method="check_card")
    second = Customer(first.customer_id, method="check_card", occurrence=2)
    charged_and_approved(world, [first, second])
    world.happens("dispute", second)
    assert counts(world.step("refund", ELEVENTH)) == (1, 0, 0)
    rebilled = world.step("rebill", TWELFTH)
    assert (counts(rebilled), rebilled["left"].keys()) == ((0, 0, 0), {"disputed"})


def test_a_check_card_is_rebilled_only_when_its_refund_is_credited(world):
    customers = people(world, 2, method="check_card", plan={"money_back_by": TWELFTH.date() + timedelta(days=1)})
    charged_and_approved(world, customers)
    world.step("refund", ELEVENTH)
    waiting = world.step("rebill", TWELFTH)
    assert (counts(waiting), waiting["left"].keys()) == ((0, 0, 0), {"refund_not_credited"})
    assert counts(world.step("rebill", THIRTEENTH)) == (2, 0, 0)


def test_the_acquirers_settlement_of_a_refund_counts_as_credited(world):
    customers = people(world, 2, method="check_card", plan={"money_back_by": FOURTEENTH.date()})
    charged_and_approved(world, customers)
    world.step("refund", ELEVENTH)
    with world.server.connect() as connection:
        connection.execute(
            "INSERT INTO further_entry SELECT operation_id, 'settled', 'acquirer_clearing', 'bank', amount_minor, currency, '2023-09-12'"
            " FROM operation WHERE incident_id = %s AND customer_id = %s", (world.incident, customers[0].customer_id),
        )  # fmt: skip
    rebilled = world.step("rebill", TWELFTH)
    assert counts(rebilled) == (1, 0, 0)
    assert rebilled["left"]["refund_not_credited"]["count"] == 1


def test_a_declined_rebill_follows_the_no_fault_schedule_inside_the_window_alone(world):
    poor, closed = customers = people(world, 2)
    charged_and_approved(world, customers)
    world.step("cancel", ELEVENTH)
    world.turn(TWELFTH)
    card = {"payment_method": ["credit_card"], "issuer": ["HANBIT"]}
    world.rail.introduce(
        pa.table({"instrument_token": [poor.token], "limit_minor": pa.array([100], pa.int64())} | card)
    )
    world.happens("close_card", closed)
    world.rule = type(world.rule)(declined_share_max=1.0)
    declined = world.step("rebill")
    assert counts(declined) == (0, 2, 0)
    assert {name: figures["count"] for name, figures in declined["declined_by"].items()} == {
        "declined_until_retry": 1, "declined_for_good": 1}  # fmt: skip
    assert declined["retry_on"] == "2023-09-15"
    assert counts(world.step("rebill")) == (0, 2, 0), "not again before its day"
    assert len(world.rows("SELECT FROM operation WHERE incident_id = %s AND kind = 'rebill'", world.incident)) == 2
    with pytest.raises(GateClosed):
        world.step("rebill", TWELFTH + timedelta(days=3))


def test_a_wave_that_fails_stops_the_line_and_a_stop_order_holds(world):
    customers = people(world, 40)
    charged_and_approved(world, customers)
    world.step("cancel", ELEVENTH)
    world.turn(TWELFTH)
    for customer in customers[:6]:
        world.happens("close_card", customer)
    with pytest.raises(SendingStopped, match="6 of 10 were declined"):
        world.step("rebill")
    assert len(world.rows("SELECT FROM outcome JOIN operation USING (operation_id) WHERE incident_id = %s AND kind = 'rebill'",
                          world.incident)) == 10  # fmt: skip
    world.register.stop("look first", login=None, password=None)
    with pytest.raises(SendingStopped, match="look first"):
        world.step("rebill")
    world.register.resume("looked", stops=(), login="operator", password=None)
    assert counts(world.step("rebill")) == (34, 6, 0)


def test_what_a_stop_left_unsent_is_decided_anew_by_what_is_true_then(world, monkeypatch):
    customers = people(world, 14, method="check_card")
    charged_and_approved(world, customers)
    hand_over = Sender._hand_over

    def stop_at_the_second_wave(sender, turn, ready):
        if ready.wave == 1:
            raise SendingStopped("enough")
        hand_over(sender, turn, ready)

    with monkeypatch.context() as stopping:
        stopping.setattr(Sender, "_hand_over", stop_at_the_second_wave)
        with pytest.raises(SendingStopped, match="enough"):
            world.step("refund", ELEVENTH)
    left = customers[10:]
    assert len(world.rows("SELECT FROM operation WHERE incident_id = %s AND kind = 'refund'", world.incident)) == 14
    world.happens("support_refund", left[0])
    report = world.step("refund")
    assert counts(report)[0] == 13 and report["deviations"]["already_returned"]["count"] == 1
    assert [row for row in world.book() if row["status"] == "declined"] == []  # nobody was asked for what is gone
    assert set(world.kept().values()) <= {0}


def test_a_stop_order_keeps_repeated_calls_from_writing_intents(world):
    charged_and_approved(world, people(world, 20))
    world.register.stop("look first", login=None, password=None)
    for _ in range(3):
        with pytest.raises(SendingStopped, match="look first"):
            world.step("cancel", ELEVENTH)
    assert world.rows("SELECT FROM operation WHERE incident_id = %s", world.incident) == []
    world.register.resume("looked", stops=(), login="operator", password=None)
    assert counts(world.step("cancel")) == (20, 0, 0)


def test_no_plan_moves_more_than_its_cap_or_writes_intents_above_it(world):
    charged_and_approved(world, people(world, 20))
    world.rule = type(world.rule)(amount_minor_max=12 * 52_300)
    for _ in range(3):  # what went out before counts as well
        with pytest.raises(SendingStopped, match="above the cap"):
            world.step("cancel", ELEVENTH)
        assert [row["kind"] for row in world.book()].count("void") == 10
        assert len(world.rows("SELECT FROM operation WHERE incident_id = %s", world.incident)) == 10


CRASH = """
import os, signal, sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from pipeline.adapters.ledger import PostgresLedger
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.adapters.remedies import PlanInProgress
from pipeline.settings import Settings
from tests.remediation_world import World

home, folder, name, incident, step, at, owner, method, when, nth = sys.argv[1:]
cls = {"ledger": PostgresLedger, "rail": PracticeRail, "plan": PlanInProgress}[owner]
original, calls = getattr(cls, method), []

def dying(*arguments, **options):
    calls.append(1)
    if when == "before" and len(calls) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if when == "after" and len(calls) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(cls, method, dying)
world = World(replace(Settings.from_environment(), home=Path(home)), Path(folder), name)
world.incident = incident
world.step(step, datetime.fromisoformat(at))
"""


@pytest.mark.parametrize("step", ["refund", "rebill"])
@pytest.mark.parametrize(("owner", "method", "when", "nth"), [
    ("plan", "commit", "after", 2),
    ("ledger", "record_batch", "after", 2),
    ("ledger", "hand_over", "after", 1),
    ("rail", "deliver", "after", 2),
    ("ledger", "record_answers", "before", 1),
    ("plan", "note_deviations", "before", 2),
])  # fmt: skip
def test_a_process_killed_in_the_middle_of_a_step_is_resumed_and_moves_no_money_twice(
    world, settings, tmp_path, request, step, owner, method, when, nth
):
    customers = people(world, 30, method="check_card")
    charged_and_approved(world, customers)
    if step == "rebill":
        world.step("refund", ELEVENTH)
    at = TWELFTH if step == "rebill" else ELEVENTH
    arguments = [
        str(settings.home),
        str(tmp_path),
        request.node.nodeid,
        world.incident,
        step,
        at.isoformat(),
        owner,
        method,
        when,
        str(nth),
    ]
    killed = subprocess.run([sys.executable, "-c", CRASH, *arguments], cwd=ROOT, capture_output=True, timeout=120)
    assert killed.returncode == -9, killed.stderr.decode()[-2000:]
    resumed = world.step(step, at)
    assert (counts(resumed), resumed["left"]) == ((30, 0, 0), {})
    assert world.kept() == {c.token: c.right if step == "rebill" else 0 for c in customers}
