"""What came back without us - before the plan, or around our refund - is kept by name and entered once, to the won."""

import pytest

from pipeline.adapters.deviations import CameBack
from pipeline.reconcile import keep_what_came_back
from tests.remediation_world import ELEVENTH, TWELFTH, World, charged_and_approved, people


def standing(world: World, *accounts: str) -> int:
    """What stands on `accounts` for this world's charges and all that undoes them."""
    rows = world.rows(
        "SELECT coalesce(sum(CASE WHEN account = debit THEN e.amount_minor ELSE -e.amount_minor END), 0)::bigint"
        " FROM entry e JOIN operation o USING (operation_id), unnest(%s::account[]) account"
        " WHERE account IN (e.debit, e.credit) AND (o.scope = %s OR o.incident_id = %s)", list(accounts), world.run_id, world.incident,
    )  # fmt: skip
    return rows[0][0]


def deviations(world: World) -> list[tuple[str, int]]:
    return world.rows("SELECT kind, amount_minor FROM deviation WHERE incident_id = %s ORDER BY kind", world.incident)


def look(world: World) -> int:
    """What a reconciliation does about wrong charges that by the books still stand."""
    return keep_what_came_back(
        CameBack(world.server), world.incidents.find(world.incident), today=world.now.date(),
        ask=lambda payments: world.rail.states(payment_ids=payments),
    )  # fmt: skip


@pytest.mark.parametrize(("reason", "kind"), [
    ("approval_expired", "expired"), ("already_voided", "already_returned"), ("already_returned", "already_returned"),
])  # fmt: skip
@pytest.mark.parametrize("step", ["cancel", "refund", "rebill"])
def test_a_charge_that_was_gone_when_the_plan_was_made_is_entered_by_whatever_step_comes_first(
    world, reason, kind, step
):
    gone = {"reversal": "none", "reversal_reason": reason, "reversal_minor": None}
    charged_and_approved(world, people(world, 1, plan=gone))
    for _ in range(2):
        world.step(step, TWELFTH)
        assert deviations(world) == [(kind, 52_300)]
        kept = 41_000 if step == "rebill" else 0
        assert standing(world, "acquirer_clearing", "bank") == kept


def test_what_we_undid_ourselves_was_not_gone_before(world):
    customers = people(world, 1)
    charged_and_approved(world, customers)
    world.step("cancel", ELEVENTH)
    customers[0].plan.update({"reversal": "none", "reversal_reason": "already_voided", "reversal_minor": None})
    world.approve(customers, number=2)
    world.step("rebill", TWELFTH)
    assert deviations(world) == []
    assert standing(world, "acquirer_clearing", "bank") == 41_000


def test_a_partial_refund_of_before_the_plan_is_entered_beside_ours(world):
    (customer,) = people(
        world, 1, method="check_card", plan={"reversal_minor": 52_000, "reversal_reason": "rest_of_support_refund"}
    )
    world.charge([customer])
    world.happens("support_refund", customer, amount_minor=300)
    world.turn(ELEVENTH)
    world.approve([customer])
    assert world.step("refund")["done"] == {"count": 1, "amount_minor": 52_000}
    assert deviations(world) == [("shrunk", 300)]
    assert standing(world, "acquirer_clearing", "bank") == 0


def test_support_may_give_back_twice_around_our_refund_and_every_won_is_entered(world):
    (customer,) = people(world, 1, method="check_card", right=None)
    charged_and_approved(world, [customer])
    world.happens("support_refund", customer, amount_minor=300)
    world.rule = type(world.rule)(1.0, 1.0)
    world.rail.adjust(late_success=1, late_inquiries=1)
    world.step("refund")  # 52,000 are set aside at the acquirer ...
    world.happens("support_refund", customer, amount_minor=200)  # ... and are too much by now
    world.rail.adjust(late_success=0)
    world.step("refund")
    world.step("refund")
    assert world.kept() == {customer.token: 0}
    assert deviations(world) == [("shrunk", 500)]
    assert standing(world, "acquirer_clearing", "bank") == 0
    assert standing(world, "refund_payable") == standing(world, "suspense") == standing(world, "billed_revenue") == 0


def test_what_support_gave_back_while_no_step_was_due_is_kept_by_the_reconciliation_once(world):
    whole, part, _ = customers = people(world, 3, method="check_card", right=None)
    charged_and_approved(world, customers)
    world.happens("support_refund", whole)
    world.happens("support_refund", part, amount_minor=300)
    assert [look(world), look(world)] == [2, 0]
    assert deviations(world) == [("already_returned", 52_300), ("shrunk", 300)]
    assert standing(world, "acquirer_clearing", "bank") == 52_000 + 52_300
    assert sum(world.kept().values()) == 52_000 + 52_300


def test_support_may_give_back_again_and_again_and_each_part_is_entered_once(world):
    (customer,) = people(world, 1, method="check_card", right=None)
    charged_and_approved(world, [customer])
    for part in (300, 200, 100):
        world.happens("support_refund", customer, amount_minor=part)
        assert [look(world), look(world)] == [1, 0]
    assert world.step("refund")["done"] == {"count": 1, "amount_minor": 51_700}
    assert look(world) == 0
    assert sorted(amount for _, amount in deviations(world)) == [100, 200, 300]
    assert world.kept() == {customer.token: 0}
    assert standing(world, "acquirer_clearing", "bank") == standing(world, "billed_revenue") == 0


def test_what_a_refused_refund_left_owing_is_settled_once_whoever_notices_first(world):
    (customer,) = people(world, 1, method="check_card", right=None)
    charged_and_approved(world, [customer])
    world.happens("support_refund", customer, amount_minor=300)
    world.rule = type(world.rule)(1.0, 1.0)
    world.rail.adjust(late_success=1, late_inquiries=1)
    world.step("refund")  # 52,000, which is too much by the time it is booked
    world.happens("support_refund", customer, amount_minor=200)
    world.rail.adjust(late_success=0)
    assert look(world) == 0, "while ours is unknown, nobody can say whose money came back"
    (scope,) = world.rows("SELECT scope FROM operation WHERE kind = 'refund' AND incident_id = %s", world.incident)[0]
    for _ in range(2):  # pending, then refused
        world.sender().look_up_unknown(scope)
    assert (look(world), deviations(world)) == (1, [("shrunk", 500)])
    assert standing(world, "refund_payable") == -51_800
    world.step("refund")
    assert standing(world, "acquirer_clearing", "bank") == 0
    assert standing(world, "refund_payable") == standing(world, "suspense") == standing(world, "billed_revenue") == 0


def test_a_refund_of_ours_is_never_taken_for_somebody_elses(world):
    customers = people(world, 3, method="check_card", right=None)
    charged_and_approved(world, customers)
    books, incident = CameBack(world.server), world.incidents.find(world.incident)
    asked_about = books.standing(incident)
    world.step("refund")
    said = world.rail.states(payment_ids=asked_about["payment_id"].combine_chunks()).select(["state", "refunded_minor"])
    assert (
        books.keep(world.incident, said.append_column("original_id", asked_about["original_id"]), day=ELEVENTH.date())
        == 0
    )
    assert books.standing(incident).num_rows == 0
