"""A plan decides every wrong charge once, for a reason, the same way whenever it is asked."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from incident_case import DAY, INCIDENT, Case

from pipeline import plan as plan_stage
from pipeline.adapters.incident_lines import waves_of
from pipeline.adapters.lead_times import LeadTimes
from pipeline.adapters.plan_file import LINE_KEY, plan_digest, read_plan, write_plan
from pipeline.core.incident_words import CLASSES, REBILL_REASONS, REVERSAL_REASONS
from pipeline.core.window import Window, Windows, default_windows
from pipeline.errors import FatalError, GateClosed, UsageError
from pipeline.schema import PLAN_SCHEMA


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def stored(draft: plan_stage.Draft, *, approver: str | None = None, rejected_by: str | None = None) -> SimpleNamespace:
    """A plan as the register would give it back."""
    return SimpleNamespace(
        plan_digest=draft.plan_digest, approver=approver, rejected_by=rejected_by, summary=draft.summary,
        successor_of=draft.header["successor_of"],
    )  # fmt: skip


def action(row: dict) -> tuple:
    return row["reversal"], row["reversal_reason"], row["rebill"], row["rebill_reason"]


# -- what becomes of a charge -----------------------------------------------------------------------------------------


def test_an_approval_that_is_not_acquired_is_voided_whole_and_the_right_amount_charged(case):
    row = case.charged("c", 100).bill("c", 70).line()
    assert action(row) == ("void", "not_acquired", "rebill", "right_amount")
    assert (row["reversal_minor"], row["correct_minor"], row["money_back_by"]) == (100, 70, None)


@pytest.mark.parametrize("right", [70, 100, 130])
def test_the_full_original_is_undone_and_the_right_amount_charged_never_the_difference(case, right):
    row = case.charged("c", 100, live="acquired").bill("c", right).line()
    assert (row["reversal"], row["reversal_minor"], row["rebill"], row["correct_minor"]) == (
        "refund",
        100,
        "rebill",
        right,
    )


def test_a_check_card_refund_names_the_day_the_money_is_back_counted_over_chuseok(case):
    row = case.charged("c", 100, live="acquired", payment_method="check_card").bill("c", 70).line()
    assert row["money_back_by"] == date(2023, 9, 13)
    late = Windows(Window(date(2023, 9, 26), date(2023, 9, 27)), Window(date(2023, 9, 27), date(2023, 9, 30)))
    assert case.draft(windows=late).lines["money_back_by"][0].as_py() == date(2023, 10, 4)


def test_after_a_support_refund_only_the_rest_is_refunded(case):
    row = case.charged("c", 100, live="acquired", refunded=40).bill("c", 70).line()
    assert (row["reversal"], row["reversal_reason"], row["reversal_minor"]) == ("refund", "rest_of_support_refund", 60)


@pytest.mark.parametrize(
    ("live", "refunded", "reason"),
    [
        ("voided", 0, "already_voided"),
        ("expired", 0, "approval_expired"),
        ("refunded", 100, "already_returned"),
        ("acquired", 100, "already_returned"),
    ],
)
def test_what_is_undone_already_is_not_undone_again_and_may_be_rebilled(case, live, refunded, reason):
    row = case.charged("c", 100, live=live, refunded=refunded).bill("c", 70).line()
    assert action(row) == ("none", reason, "rebill", "right_amount")
    assert row["reversal_minor"] is None


def test_a_dispute_waits_and_nobody_is_rebilled_meanwhile(case):
    row = case.charged("c", 100, live="disputed").bill("c", 70).line()
    assert action(row) == ("wait", "dispute_open", "hold", "reversal_open")


@pytest.mark.parametrize("state", ["unknown", "sent"])
def test_a_charge_nobody_knows_the_outcome_of_waits(case, state):
    row = case.charged("c", 100, state=state).bill("c", 70).line()
    assert action(row) == ("wait", "outcome_unknown", "hold", "reversal_open")
    assert row["class"] == "unknown"


def test_a_charge_that_was_never_made_is_not_undone_and_the_bill_is_charged(case):
    row = case.charged("c", 100, state="declined").bill("c", 70).line()
    assert action(row) == ("none", "charge_declined", "rebill", "right_amount")


def test_a_charge_that_may_still_go_out_is_waited_for(case):
    row = case.charged("c", 100, state="not_sent").bill("c", 70).line()
    assert action(row) == ("wait", "never_sent", "hold", "reversal_open")


def test_a_payment_the_acquirer_does_not_know_waits(case):
    assert action(case.charged("c", 100, live=None).bill("c", 70).line()) == (
        "wait", "unknown_to_acquirer", "hold", "reversal_open",
    )  # fmt: skip


def test_a_payment_of_another_amount_at_the_acquirer_is_for_a_person(case):
    case.charged("c", 100).bill("c", 70)
    case.live[0]["charged_minor"] = 90
    assert action(case.line())[:2] == ("manual", "amount_differs_at_acquirer")


@pytest.mark.parametrize("reason", ["closed_card", "expired_card", "unknown_card"])
def test_a_refund_that_a_dead_card_refused_goes_to_a_person_and_is_not_tried_again(case, reason):
    case.charged("c", 100, live="acquired").bill("c", 70)
    case.undone.append({"original_id": "op-c-1", "state": "declined", "reason": reason, "amount_minor": 100})
    assert action(case.line()) == ("manual", f"refund_refused_{reason}", "hold", "reversal_open")


def test_a_void_that_came_too_late_is_planned_as_a_refund(case):
    case.charged("c", 100, live="acquired").bill("c", 70)
    case.undone.append(
        {"original_id": "op-c-1", "state": "declined", "reason": "already_acquired", "amount_minor": 100}
    )
    assert action(case.line())[:2] == ("refund", "acquired")


def test_a_reversal_without_an_answer_waits_whatever_the_acquirer_says_of_the_payment(case):
    case.charged("c", 100, live="authorised").bill("c", 70)
    case.undone.append({"original_id": "op-c-1", "state": "unknown", "reason": None, "amount_minor": 100})
    assert action(case.line()) == ("wait", "reversal_unknown", "hold", "reversal_open")


# -- what becomes of a bill -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "klass", "reason"), [(0, "zero", "zero_bill"), (-30, "credit", "credit_carried")])
def test_a_zero_or_credit_bill_is_undone_and_never_charged(case, right, klass, reason):
    row = case.charged("c", 100).bill("c", right).line()
    assert action(row) == ("void", "not_acquired", "no_rebill", reason)
    assert row["class"] == klass and row["rebill_token"] is None


def test_who_should_not_have_been_billed_is_undone_and_not_charged(case):
    row = case.charged("c", 100).bill("other", 5).line()
    assert action(row) == ("void", "not_acquired", "no_rebill", "no_right_bill")
    assert (row["class"], row["correct_minor"]) == ("not_billed", None)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"currency": "USD"}, "right_bill_currency"),
        ({"instrument_token": "4111-1111-1111-1111"}, "right_bill_card_number"),
        ({"issuer": None}, "right_bill_incomplete"),
    ],
)
def test_a_right_bill_that_cannot_be_used_holds_the_rebill_and_not_the_reversal(case, columns, reason):
    row = case.charged("c", 100).bill("c", 70, **columns).line()
    assert action(row) == ("void", "not_acquired", "hold", reason)
    assert row["rebill_token"] is None


def test_two_right_bills_for_one_are_nobodys_to_choose(case):
    case.charged("c", 100).bill("c", 70).bill("c", 80, charge_id="R-2")
    assert action(case.line()) == ("void", "not_acquired", "hold", "right_bill_ambiguous")


def test_two_wrong_charges_of_one_bill_are_two_reversals_and_one_rebill(case):
    case.charged("c", 100).charged("c", 100, occurrence=2, live="acquired").bill("c", 70)
    assert action(case.line(occurrence=1)) == ("void", "not_acquired", "rebill", "right_amount")
    assert action(case.line(occurrence=2)) == ("refund", "acquired", "no_rebill", "with_first_charge")
    assert case.line(occurrence=2)["class"] == "twice"


def test_one_open_charge_of_two_holds_the_bill(case):
    case.charged("c", 100).charged("c", 100, occurrence=2, live="disputed").bill("c", 70)
    assert action(case.line(occurrence=1)) == ("void", "not_acquired", "hold", "reversal_open")


def test_a_declined_charge_beside_an_approved_one_is_no_double_charge(case):
    case.charged("c", 100, state="declined").charged("c", 100, occurrence=2).bill("c", 70)
    assert case.line(occurrence=1)["rebill_reason"] == "with_first_charge"
    assert action(case.line(occurrence=2)) == ("void", "not_acquired", "rebill", "right_amount")


def test_a_card_that_changed_is_undone_on_the_old_one_and_charged_on_the_new_one(case):
    case.charged("c", 100).bill("c", 70, instrument_token="tok-new", issuer="GARAM", payment_method="check_card")
    row = case.line()
    assert (row["instrument_token"], row["issuer"], row["payment_method"]) == ("tok-c", "HANBIT", "credit_card")
    assert (row["rebill_token"], row["rebill_issuer"], row["rebill_method"]) == ("tok-new", "GARAM", "check_card")


def test_a_bill_that_was_never_charged_is_charged_once(case):
    case.charged("a", 1).bill("a", 1).bill("c", 70)
    assert action(case.line()) == ("none", "never_charged", "rebill", "was_never_charged")
    assert case.line()["occurrence"] == 0


def test_a_bill_that_another_run_charged_is_not_missing(case):
    case.charged("a", 1).bill("a", 1).bill("c", 70)
    case.elsewhere.append({"customer_id": "c", "bill_cycle": 1, "first": 1})
    assert case.draft().lines["customer_id"].to_pylist() == ["a"]


@pytest.mark.parametrize("first", [0, 1])  # rebilled by another incident, or its first charge is somebody else's
def test_a_bill_that_is_charged_outside_the_incident_as_well_is_undone_here_and_not_charged_a_second_time(case, first):
    case.charged("c", 70, occurrence=2).bill("c", 70)
    assert action(case.line()) == ("void", "not_acquired", "rebill", "right_amount")
    case.elsewhere.append({"customer_id": "c", "bill_cycle": 1, "first": first})
    for leave_equal in (False, True):
        assert action(case.line(leave_equal=leave_equal)) == ("void", "not_acquired", "hold", "charged_elsewhere")


def test_of_two_incidents_over_one_bill_that_with_its_first_charge_rebills(case):
    case.charged("c", 100).charged("c", 100, occurrence=3).bill("c", 70)
    case.elsewhere.append({"customer_id": "c", "bill_cycle": 1, "first": 2})
    assert [row["rebill"] for row in case.draft().lines.to_pylist()] == ["rebill", "no_rebill"]


def test_bills_of_issuers_outside_the_incident_are_none_of_its_business(case):
    case.charged("a", 1).bill("a", 1).bill("c", 70, issuer="GARAM").bill("d", 70)
    case.issuers = ("HANBIT",)
    assert case.draft().lines["customer_id"].to_pylist() == ["a", "d"]


def test_bills_missing_from_an_import_are_held_for_a_person(case):
    case.charged("a", 1).bill("a", 1).bill("c", 70)
    assert action(case.line(charge_missing=False)) == ("none", "never_charged", "hold", "not_in_import")


# -- policy -----------------------------------------------------------------------------------------------------------


def test_equal_amounts_are_undone_and_charged_again_unless_policy_leaves_them_alone(case):
    case.charged("c", 100).bill("c", 100)
    assert action(case.line()) == ("void", "not_acquired", "rebill", "right_amount")
    assert action(case.line(leave_equal=True)) == ("none", "equal_left_alone", "no_rebill", "equal_left_alone")


def test_of_two_equal_charges_one_is_left_alone_and_the_other_undone(case):
    case.charged("c", 100).charged("c", 100, occurrence=2).bill("c", 100)
    assert action(case.line(occurrence=1, leave_equal=True))[0] == "none"
    assert action(case.line(occurrence=2, leave_equal=True)) == (
        "void",
        "not_acquired",
        "no_rebill",
        "with_first_charge",
    )


def test_an_equal_charge_that_support_refunded_in_part_is_not_left_alone(case):
    row = case.charged("c", 100, live="acquired", refunded=10).bill("c", 100).line(leave_equal=True)
    assert action(row) == ("refund", "rest_of_support_refund", "rebill", "right_amount")


# -- the plan as a whole ----------------------------------------------------------------------------------------------


def several(case: Case) -> Case:
    for n in range(30):
        live = "acquired" if n % 3 == 0 else "authorised"
        case.charged(f"c{n:02}", 100 + n, live=live).bill(f"c{n:02}", 90 + 2 * n)
    return case.charged("z", 5, live="disputed").bill("z", 6).bill("y", 40)


def test_planning_twice_gives_the_same_plan_whatever_the_order_of_what_it_reads(case, tmp_path):
    first = several(case).draft()
    shuffled = several(Case(tmp_path))
    for rows in (shuffled.wrong, shuffled.right, shuffled.live):
        rows.reverse()
    assert shuffled.draft().plan_digest == first.plan_digest


@pytest.mark.parametrize("change", ["amount", "window", "policy", "corrected"])
def test_a_change_of_anything_agreed_to_is_another_plan(case, change, monkeypatch):
    before = several(case).draft().plan_digest
    later = Windows(Window(date(2023, 9, 14), date(2023, 9, 14)), Window(date(2023, 9, 14), date(2023, 9, 15)))
    if change == "amount":
        case.right[0]["amount_minor"] += 1
    if change == "corrected":
        monkeypatch.setattr(INCIDENT, "corrected_run", "2023-09-000000000003")
    after = case.draft(windows=later if change == "window" else None, leave_equal=change == "policy")
    assert after.plan_digest != before


def test_the_totals_are_those_of_the_lines(case):
    draft = several(case).draft()
    rows = draft.lines.to_pylist()
    undone = [row for row in rows if row["reversal"] in ("void", "refund")]
    charged = [row for row in rows if row["rebill"] == "rebill"]
    assert draft.operation_count == len(undone) + len(charged)
    assert draft.total_minor == sum(r["reversal_minor"] for r in undone) + sum(r["correct_minor"] for r in charged)
    assert sum(cell["operations"] for cell in draft.summary["cells"]) == draft.operation_count
    assert sum(row["lines"] for row in draft.summary["reasons"]) == 2 * len(rows)


def test_the_impact_is_stated_in_counts_and_amounts(case):
    case.charged("a", 1_000).bill("a", 900).charged("b", 2_000, live="acquired").bill("b", 0)
    assert case.draft().impact == "voids 1 approval of ₩1,000, refunds 1 withdrawal of ₩2,000, rebills 1 bill for ₩900"
    case.charged("c", 5, live="disputed").bill("c", 4)
    assert case.draft().impact.endswith("; 1 line stays open by name")


def test_lines_that_are_not_plainly_undone_and_charged_are_named_with_the_reason(case):
    named = {row["customer_id"]: row["reason"] for row in several(case).draft().exceptions().to_pylist()}
    assert named == {"z": "dispute_open", "y": "never_charged"}


def test_amounts_in_two_currencies_are_never_added_up(case):
    case.charged("a", 100).bill("a", 90).charged("b", 100, currency="USD").bill("b", 90, currency="USD")
    with pytest.raises(UsageError, match="KRW and USD"):
        case.draft()
    with pytest.raises(UsageError, match="KRW and USD"):
        case.assess()


def test_asked_again_a_plan_that_was_stored_or_approved_is_itself(case):
    first = several(case).draft()
    assert case.draft(plans=[stored(first)]).plan_digest == first.plan_digest
    assert case.draft(plans=[stored(first, approver="approver")]).plan_digest == first.plan_digest


def test_a_rejected_plan_can_be_asked_for_anew_under_another_digest(case):
    first = several(case).draft()
    assert case.draft(plans=[stored(first, rejected_by="approver")]).plan_digest != first.plan_digest


def test_what_an_approved_plan_left_is_a_successor_with_windows_of_its_own(case):
    first = case.charged("a", 100).bill("a", 90).charged("b", 100).bill("b", 90).charged("c", 1).bill("c", 0).draft()
    case.live[0]["state"] = case.live[2]["state"] = "voided"
    case.undone += [
        {"original_id": f"op-{name}-1", "state": "succeeded", "reason": None, "amount_minor": 1} for name in "ac"
    ]
    case.rebilled.append({"customer_id": "a", "bill_cycle": 1, "state": "succeeded", "amount_minor": 90})
    later = Windows(Window(date(2023, 9, 14), date(2023, 9, 14)), Window(date(2023, 9, 14), date(2023, 9, 15)))
    left = case.draft(windows=later, plans=[stored(first, approver="approver")])
    assert left.header["successor_of"] == first.plan_digest != left.plan_digest
    assert [(row["customer_id"], row["reversal"], row["rebill"]) for row in left.lines.to_pylist()] == [
        ("b", "void", "rebill")
    ]


def test_a_rebill_whose_answer_is_missing_is_not_planned_again(case):
    case.charged("c", 100, live="voided").bill("c", 70)
    case.rebilled.append({"customer_id": "c", "bill_cycle": 1, "state": "unknown", "amount_minor": 70})
    assert action(case.line())[2:] == ("hold", "rebill_unknown")


def test_a_second_correction_never_charges_a_rebilled_bill_again(case):
    case.charged("c", 100, live="voided").bill("c", 75)
    case.rebilled.append({"customer_id": "c", "bill_cycle": 1, "state": "succeeded", "amount_minor": 70})
    assert action(case.line())[2:] == ("hold", "rebilled_another_amount")


def test_every_class_and_reason_has_words_for_people():
    sql = "".join((Path(plan_stage.__file__).parent / "sql" / name).read_text() for name in ("assess.sql", "plan.sql"))
    for word in (*CLASSES, *REVERSAL_REASONS, *REBILL_REASONS):
        stem = word.removeprefix("refund_refused_").removeprefix("right_bill_")
        assert f"'{stem}'" in sql


# -- waves ------------------------------------------------------------------------------------------------------------


def moving(customers: list[str], moves: list[bool]) -> pa.Table:
    return pa.table(
        {
            "customer_id": customers,
            "reversal": ["void" if m else "none" for m in moves],
            "rebill": ["no_rebill"] * len(moves),
        }
    )


def test_ten_lines_go_first_then_a_thousand_then_waves_of_fifty_thousand():
    waves = waves_of(moving([f"{n:07}" for n in range(60_000)], [True] * 60_000)).to_pylist()
    assert [waves.count(number) for number in range(4)] == [10, 1_000, 50_000, 8_990]
    assert waves == sorted(waves)


def test_lines_that_move_no_money_do_not_use_up_the_canary():
    waves = waves_of(moving([f"{n:03}" for n in range(200)], [n >= 100 for n in range(200)])).to_pylist()
    assert waves[100:110] == [0] * 10 and waves[110] == 1


def test_lines_of_one_customer_go_in_the_same_wave():
    customers = sorted(f"{n // 2:03}" for n in range(39))
    waves = waves_of(moving(customers, [True] * 39)).to_pylist()
    assert all(len({w for c, w in zip(customers, waves, strict=True) if c == customer}) == 1 for customer in customers)


# -- windows and lead times -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("day", [date(2023, 9, 13), date(2023, 9, 30), date(2023, 9, 1)])
def test_default_dates_that_are_past_or_far_off_are_asked_for(day):
    with pytest.raises(UsageError, match="--reversal-days YYYY-MM-DD"):
        plan_stage.choose_windows(day, reversal=None, rebill=None)


def test_dates_given_are_taken_and_past_ones_refused():
    reversal, rebill = Window.parse("2023-10-04..2023-10-05"), Window.parse("2023-10-05..2023-10-06")
    assert plan_stage.choose_windows(date(2023, 9, 13), reversal=reversal, rebill=rebill) == Windows(reversal, rebill)
    with pytest.raises(UsageError, match="past"):
        plan_stage.choose_windows(date(2023, 10, 7), reversal=reversal, rebill=rebill)
    with pytest.raises(UsageError, match="both windows"):
        plan_stage.choose_windows(date(2023, 9, 13), reversal=reversal, rebill=None)


def test_a_rail_that_answers_after_the_rebill_window_is_refused_with_the_day():
    with pytest.raises(GateClosed, match="2023-09-14, after the rebill window"):
        plan_stage.require_timely(default_windows(DAY), rail="adyen_batch", answer_days=2)
    plan_stage.require_timely(default_windows(DAY), rail="adyen_batch", answer_days=1)


def test_the_operators_lead_times_win_and_wrong_ones_are_refused(tmp_path):
    assert LeadTimes(tmp_path).of("check_card", "HANBIT").refund_days == 1
    (tmp_path / "lead_times.json").write_text(
        '{"issuers": {"HANBIT": {"check_card": {"refund_days": 2, "cutoff_hour": 18}}}}'
    )
    times = LeadTimes(tmp_path)
    assert times.of("check_card", "GARAM").refund_days == 1
    assert times.of("check_card", "HANBIT").money_back_by("refund", date(2023, 9, 12), frozenset()) == date(2023, 9, 15)
    (tmp_path / "lead_times.json").write_text('{"issuers": {"HANBIT": {"check_card": {"refund_days": "2"}}}}')
    with pytest.raises(UsageError, match="'HANBIT', check_card: refund_days"):
        LeadTimes(tmp_path)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_plan_read_back_is_what_was_written_and_a_changed_one_is_refused(case, tmp_path):
    draft = several(case).draft()
    path = write_plan(tmp_path, draft.header, draft.lines, draft.plan_digest)
    assert read_plan(path, draft.plan_digest).lines.equals(draft.lines)
    rows = draft.lines.to_pylist()
    rows[0]["correct_minor"] += 1
    write_plan_anyway(path, pa.Table.from_pylist(rows, PLAN_SCHEMA))
    with pytest.raises(GateClosed, match="changed after it was stored"):
        read_plan(path, draft.plan_digest)
    path.write_bytes(b"")
    with pytest.raises(FatalError, match="cannot be read"):
        read_plan(path, draft.plan_digest)


def test_of_a_plan_only_what_is_needed_is_read_and_all_that_is_read_is_proven(case, tmp_path):
    draft = several(case).draft()
    path = write_plan(tmp_path, draft.header, draft.lines, draft.plan_digest)
    needed = ["rebill", "customer_id"]
    assert read_plan(path, draft.plan_digest, needed).lines.equals(draft.lines.select(needed))
    rows = draft.lines.to_pylist()
    rows[0]["correct_minor"] += 1
    write_plan_anyway(path, pa.Table.from_pylist(rows, PLAN_SCHEMA))
    assert read_plan(path, draft.plan_digest, needed).lines.equals(draft.lines.select(needed))
    with pytest.raises(GateClosed, match="changed after it was stored"):
        read_plan(path, draft.plan_digest, [*needed, "correct_minor"])
    with pq.ParquetFile(path) as file:
        said = file.schema_arrow.metadata
    for replaced in (b"{}", said[b"makegood.plan.columns"].replace(b'"currency"', b'"Currency"')):
        pq.write_table(draft.lines.replace_schema_metadata(said | {b"makegood.plan.columns": replaced}), path)
        with pytest.raises(GateClosed, match="changed after it was stored"):
            read_plan(path, draft.plan_digest, needed)


def test_a_plan_stored_before_columns_had_digests_of_their_own_is_still_read_and_proven(tmp_path):
    digest = "81b899e0eacbe4262adc35e2152c56f28961fa38240ed4314ad43a487b6080f5"
    rows = [
        dict.fromkeys(PLAN_SCHEMA.names) | {"customer_id": name, "billing_period": "2023-09", "bill_cycle": 1, "occurrence": 1}
        for name in ("a", "b")
    ]  # fmt: skip
    lines = pa.Table.from_pylist(rows, PLAN_SCHEMA)
    path, header = tmp_path / "plan.parquet", {b"makegood.plan": b'{"incident_id": "inc-2023-09-00000000"}'}
    pq.write_table(lines.replace_schema_metadata(header), path)
    assert read_plan(path, digest, ["customer_id"]).lines.equals(lines.select(["customer_id"]))
    rows[1]["reversal_minor"] = 1  # not asked for: but nothing of this form can be proven without all of it
    pq.write_table(pa.Table.from_pylist(rows, PLAN_SCHEMA).replace_schema_metadata(header), path)
    with pytest.raises(GateClosed, match="changed after it was stored"):
        read_plan(path, digest, ["customer_id"])


def write_plan_anyway(path: Path, lines: pa.Table) -> None:
    with pq.ParquetFile(path) as file:
        metadata = file.schema_arrow.metadata
    pq.write_table(lines.replace_schema_metadata(metadata), path)


def test_the_digest_tells_apart_null_and_empty_and_where_one_text_ends(case):
    line = dict.fromkeys(PLAN_SCHEMA.names) | {
        "customer_id": "a",
        "billing_period": "2023-09",
        "bill_cycle": 1,
        "occurrence": 1,
    }
    variants = [
        line,
        line | {"charge_id": ""},
        line | {"charge_id": "xy", "original_id": ""},
        line | {"charge_id": "x", "original_id": "y"},
    ]
    digests = {plan_digest({}, pa.Table.from_pylist([row], PLAN_SCHEMA)) for row in variants}
    assert len(digests) == 4


def test_the_digest_does_not_depend_on_the_order_of_lines(case):
    lines = several(case).draft().lines
    assert plan_digest({}, lines.take(list(reversed(range(lines.num_rows))))) == plan_digest(
        {}, lines.sort_by(LINE_KEY)
    )
