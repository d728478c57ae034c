"""The practice rail with a real acquirer process behind a real folder: what money code may rely on."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.rails.adyen_batch import AdyenBatchRail
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.errors import DamagedAnswer, FileRefused, OutcomeUnknown
from pipeline.schema import OPERATION_SCHEMA, OUTCOME_SCHEMA, PAYMENT_STATE_SCHEMA

SEOUL_MORNING = datetime(2023, 9, 11, 1, tzinfo=UTC)  # 10:00 on 11 September in Seoul
DAY_AFTER_TOMORROW = datetime(2023, 9, 12, 15, tzinfo=UTC)  # midnight that ends 12 September in Seoul

CARDS = pa.table({
    "instrument_token": ["credit", "check", "debit", "closed", "limited", "poor"],
    "payment_method": ["credit_card", "check_card", "bank_debit", "credit_card", "credit_card", "check_card"],
    "issuer": ["BC"] * 6,
    "status": ["open", "open", "open", "closed", "open", "open"],
    "limit_minor": pa.array([None, None, None, None, 1000, None], pa.int64()),
    "balance_minor": pa.array([None, None, None, None, None, 1000], pa.int64()),
})  # fmt: skip


def operations(kind: str, *rows: tuple) -> pa.Table:
    """Rows of `(merchant_reference, instrument_token, amount_minor)`, or `(..., original_payment_id, ...)` for an undo."""
    undo = kind in ("void", "refund")
    return pa.Table.from_pylist(
        [{"merchant_reference": reference, "kind": kind, "customer_id": f"C-{reference}", "instrument_token": None if undo else what,
          "amount_minor": amount, "currency": "KRW", "original_payment_id": what if undo else None} for reference, what, amount in rows],
        schema=OPERATION_SCHEMA,
    )  # fmt: skip


def send(rail, kind: str, *rows: tuple, timeout_seconds: float = 30) -> dict[str, tuple]:
    """Send one file the way execution does; `{merchant_reference: (status, reason, payment_id)}`."""
    table = operations(kind, *rows)
    file = rail.write(table, sequence=rail.next_sequence(), echo=f"{kind}-{time.monotonic_ns()}")
    assert rail.read_back(file).num_rows == len(rows)
    rail.deliver(file)
    answers = rail.poll(file, table, timeout_seconds=timeout_seconds)
    assert answers.schema == OUTCOME_SCHEMA
    return {row["merchant_reference"]: (row["status"], row["reason"], row["payment_id"]) for row in answers.to_pylist()}


def state(rail, payment_id: str) -> dict:
    return rail.states(payment_ids=pa.array([payment_id])).to_pylist()[0]


@pytest.fixture
def rail(tmp_path):
    with PracticeRail(tmp_path / "acquirer", outbox=tmp_path / "outbox") as rail:
        rail.set_clock(SEOUL_MORNING)
        rail.introduce(CARDS)
        yield rail


def test_the_life_of_payments_from_approval_to_settlement(rail, tmp_path):
    answers = send(rail, "charge", ("a", "credit", 52300), ("b", "check", 700), ("c", "debit", 900), ("d", "nobody", 5))
    assert [answer[:2] for answer in answers.values()] == [("succeeded", None)] * 3 + [("declined", "unknown_card")]
    credit, check = answers["a"][2], answers["b"][2]
    assert (state(rail, credit)["state"], state(rail, check)["state"]) == ("authorised", "acquired")
    assert state(rail, check)["acquired_at"] == SEOUL_MORNING

    voids = send(rail, "void", ("v-a", credit, 52300), ("v-b", check, 700), ("v-?", "8899999999999999", 1))
    assert [answer[:2] for answer in voids.values()] == [
        ("succeeded", None), ("declined", "already_acquired"), ("declined", "payment_not_found")]  # fmt: skip
    assert rail.inquire(pa.array(["v-a"]))["payment_id"].to_pylist() == [voids["v-a"][2]]
    assert state(rail, credit)["state"] == "voided"
    assert send(rail, "void", ("v-a2", credit, 52300))["v-a2"][:2] == ("declined", "already_voided")
    assert send(rail, "refund", ("f-a", credit, 1))["f-a"][:2] == ("declined", "already_voided")

    second = send(rail, "charge", ("a2", "credit", 100))["a2"][2]
    assert send(rail, "refund", ("f-early", second, 100))["f-early"][:2] == ("declined", "not_acquired")
    rail.set_clock(DAY_AFTER_TOMORROW)
    assert (state(rail, second)["state"], state(rail, credit)["state"]) == ("acquired", "voided")
    assert send(rail, "void", ("v-late", second, 100))["v-late"][:2] == ("declined", "already_acquired")
    assert send(rail, "refund", ("f-1", second, 60), ("f-2", second, 41))["f-2"][:2] == ("declined", "over_refund")
    assert send(rail, "refund", ("f-3", second, 40))["f-3"][0] == "succeeded"
    assert {k: state(rail, second)[k] for k in ("state", "refunded_minor", "refundable_minor", "charged_minor")} == {
        "state": "refunded", "refunded_minor": 100, "refundable_minor": 0, "charged_minor": 100}  # fmt: skip

    rail.set_clock(datetime(2023, 9, 14, 15, tzinfo=UTC))
    settled = [line.split(",") for path in rail.settle() for line in path.read_text().splitlines()[1:]]
    references = [(row[3], row[7], row[10], row[11]) for row in settled]
    assert sorted(references) == [
        ("a2", "Refunded", "40", ""), ("a2", "Refunded", "60", ""), ("a2", "Settled", "", "100"),
        ("b", "Settled", "", "700"), ("c", "Settled", "", "900"),
    ]  # fmt: skip

    rows = rail.export_book(tmp_path / "book.parquet")
    book = pq.read_table(tmp_path / "book.parquet")
    assert book.schema.equals(pa.schema([
        ("payment_id", pa.string()), ("merchant_reference", pa.string()), ("instrument_token", pa.string()), ("kind", pa.string()),
        ("amount_minor", pa.int64()), ("currency", pa.string()), ("status", pa.string()), ("at", pa.timestamp("us", "UTC"))]))  # fmt: skip
    assert rows == book.num_rows
    history = [
        (row["kind"], row["amount_minor"], row["status"]) for row in book.to_pylist() if row["payment_id"] == second
    ]
    assert sorted(history) == [
        ("acquire", 100, "succeeded"), ("authorise", 100, "succeeded"), ("refund", 40, "succeeded"), ("refund", 41, "declined"),
        ("refund", 60, "succeeded"), ("refund", 100, "declined"), ("void", 100, "declined"),
    ]  # fmt: skip


def test_issuers_decline_as_planted_and_closed_cards_stay_closed_when_introduced_again(rail):
    rail.introduce(CARDS.select(["instrument_token", "payment_method", "issuer"]))
    answers = send(
        rail,
        "charge",
        ("1", "closed", 1),
        ("2", "limited", 900),
        ("3", "limited", 101),
        ("4", "poor", 1001),
        ("5", "poor", 1000),
    )
    assert {reference: answer[1] for reference, answer in answers.items()} == {
        "1": "closed_card", "2": None, "3": "over_limit", "4": "insufficient_funds", "5": "insufficient_funds"}  # fmt: skip
    assert send(rail, "charge", ("6", "poor", 1000))["6"][0] == "succeeded"
    assert send(rail, "charge", ("7", "poor", 1))["7"][1] == "insufficient_funds"


def test_a_known_reference_is_never_booked_again_and_answers_as_the_first_time(rail, tmp_path):
    first = send(rail, "charge", ("same", "check", 100), ("other", "nobody", 1))
    again = send(rail, "charge", ("same", "check", 100), ("other", "check", 1), ("new", "check", 1))
    assert {key: again[key] for key in first} == first
    refund = send(rail, "refund", ("back", first["same"][2], 100))
    assert send(rail, "refund", ("back", first["same"][2], 100)) == refund
    rail.export_book(tmp_path / "book.parquet")
    book = pq.read_table(tmp_path / "book.parquet")
    assert book.filter(pc.equal(book["merchant_reference"], "same"))["kind"].to_pylist() == ["authorise", "acquire"]
    assert book.filter(pc.equal(book["merchant_reference"], "back")).num_rows == 1


def test_a_gap_or_a_reused_number_rejects_the_whole_file_and_books_nothing(rail):
    charges = operations("charge", ("g", "check", 1))
    gap = rail.write(charges, sequence=2, echo="gap")
    rail.deliver(gap)
    with pytest.raises(
        FileRefused, match="rejected whole, nothing was booked: file sequence number 2 leaves a gap: the next is 1"
    ):
        rail.poll(gap, charges, timeout_seconds=10)
    assert rail.next_sequence() == 1
    send(rail, "charge", ("one", "check", 1))
    assert rail.next_sequence() == 2
    again = rail.write(charges, sequence=2, echo="now it fits")
    rail.deliver(again)
    assert rail.poll(again, charges, timeout_seconds=10)["status"].to_pylist() == ["succeeded"]

    refunds = operations("refund", ("r", "8800000000000001", 1))
    reused = rail.write(refunds, sequence=2, echo="reused")
    rail.deliver(reused)
    with pytest.raises(DamagedAnswer, match="was used before"):
        rail.poll(reused, refunds, timeout_seconds=10)
    assert rail.inquire(pa.array(["g", "r", "one"]))["status"].to_pylist() == ["succeeded", "not_found", "succeeded"]


def test_a_malformed_line_is_listed_and_the_others_are_booked(rail):
    file = rail.write(operations("charge", ("good", "check", 1), ("bad", "check", 2)), sequence=1, echo="e")
    text = file.path.read_text().replace("PaymentDetails,2,0", "PaymentDetails,2,2")
    file.staged.write_text(text)
    rail.deliver(file)
    deadline = time.monotonic() + 10
    while not list((rail.folder / "result").glob("*_result")) and time.monotonic() < deadline:
        time.sleep(0.02)
    ack = (rail.folder / "ack" / f"{file.path.name}_ack").read_text().splitlines()
    assert ack[1:] == ["R,1,2", "E,2,bad,currency exponent is not that of the currency", "N,NextFileSubmissionNumber,2"]
    assert rail.inquire(pa.array(["good", "bad"]))["status"].to_pylist() == ["succeeded", "not_found"]
    assert (
        ",ParseOrValidationError,bad,ValidationError,"
        in (rail.folder / "result" / f"{file.path.name}_result").read_text()
    )


def test_a_timeout_after_accept_is_found_by_inquiry_and_by_nothing_else(rail):
    rail.adjust(timeout_after_accept=1)
    assert send(rail, "charge", ("t", "check", 77)) == {}
    found = rail.inquire(pa.array(["never", "t"])).to_pylist()
    assert [row["status"] for row in found] == ["not_found", "succeeded"]
    assert (found[1]["merchant_reference"], found[1]["amount_minor"]) == ("t", 77)
    rail.adjust(timeout_after_accept=0)
    assert send(rail, "charge", ("t", "check", 77)) == {}


def test_faults_hit_the_same_share_of_references_every_time(rail):
    rail.adjust(timeout_after_accept=0.3)
    rows = [(f"ref-{n}", "check", 1) for n in range(400)]
    answered = set(send(rail, "charge", *rows))
    assert 0.6 < len(answered) / 400 < 0.8
    assert set(send(rail, "charge", *rows)) == answered


@pytest.mark.parametrize("by", ["inquiry", "clock"])
def test_a_late_success_is_unknown_first_and_booked_once_later(rail, tmp_path, by):
    rail.adjust(late_success=1, late_seconds=60, late_inquiries=1 if by == "inquiry" else 1000)
    assert send(rail, "charge", ("late", "check", 5)) == {}
    rail.export_book(tmp_path / "before.parquet")
    assert pq.read_table(tmp_path / "before.parquet").num_rows == 0
    assert rail.inquire(pa.array(["late"]))["status"].to_pylist() == ["not_found"]
    if by == "clock":
        assert rail.inquire(pa.array(["late"]))["status"].to_pylist() == ["not_found"]
        rail.set_clock(SEOUL_MORNING.replace(minute=2))
    assert rail.inquire(pa.array(["late"]))["status"].to_pylist() == ["succeeded"]
    rail.adjust(late_success=0)
    assert send(rail, "charge", ("late", "check", 5)) == {}
    rail.export_book(tmp_path / "after.parquet")
    assert pq.read_table(tmp_path / "after.parquet")["kind"].to_pylist() == ["authorise", "acquire"]


def test_a_late_refund_cannot_give_back_what_support_gave_back_meanwhile(rail):
    payment = send(rail, "charge", ("p", "check", 100))["p"][2]
    rail.adjust(late_success=1)
    assert send(rail, "refund", ("f", payment, 100)) == {}
    assert rail.happen("support_refund", pa.table({"payment_id": [payment], "amount_minor": [30]})) == 1
    assert state(rail, payment)["refundable_minor"] == 70
    rail.inquire(pa.array(["f"]))
    assert rail.inquire(pa.array(["f"])).to_pylist()[0]["reason"] == "over_refund"
    assert state(rail, payment)["refunded_minor"] == 30


def test_what_others_do_at_the_acquirer_shows_in_the_live_state(rail):
    answers = send(rail, "charge", ("x", "check", 100), ("y", "check", 100), ("z", "credit", 100))
    assert rail.happen("dispute", pa.table({"payment_id": [answers["x"][2]]})) == 1
    assert rail.happen("support_refund", pa.table({"payment_id": [answers["y"][2]]})) == 1
    assert rail.happen("close_card", pa.table({"instrument_token": ["credit"]})) == 1
    states = rail.states(merchant_references=pa.array(["z", "y", "nobody", "x"]))
    assert states.schema == PAYMENT_STATE_SCHEMA
    assert states["state"].to_pylist() == ["authorised", "refunded", None, "disputed"]
    assert states["status"].to_pylist() == ["succeeded", "succeeded", "not_found", "succeeded"]
    assert send(rail, "refund", ("fx", answers["x"][2], 1))["fx"][1] == "disputed"
    assert send(rail, "charge", ("z2", "credit", 1))["z2"][1] == "closed_card"
    assert send(rail, "void", ("vz", answers["z"][2], 100))["vz"][0] == "succeeded"


def test_an_approval_nobody_acquires_expires(rail):
    rail.adjust(cutoff_days=30, expire_days=7)
    payment = send(rail, "charge", ("e", "credit", 100))["e"][2]
    rail.set_clock(datetime(2023, 10, 30, tzinfo=UTC))
    assert state(rail, payment)["state"] == "expired"
    assert send(rail, "void", ("ve", payment, 100))["ve"][1] == "payment_expired"


def test_a_kill_between_booking_and_answering_loses_nothing_and_books_nothing_twice(rail, tmp_path):
    rail.adjust(crash_after_booking=1)
    killed = rail._process
    table = operations("charge", *[(f"k-{n}", "check", n) for n in range(1, 501)])
    file = rail.write(table, sequence=1, echo="e")
    rail.deliver(file)
    answers = rail.poll(file, table, timeout_seconds=30)
    assert killed.wait(timeout=1) == -signal.SIGKILL
    assert answers.num_rows == 500
    assert pc.all(pc.equal(answers["status"], "succeeded")).as_py()
    rail.export_book(tmp_path / "book.parquet")
    authorised = pq.read_table(tmp_path / "book.parquet", filters=[("kind", "=", "authorise")])
    assert authorised.num_rows == 500
    assert pc.sum(authorised["amount_minor"]).as_py() == 500 * 501 // 2
    assert rail.next_sequence() == 2


def test_a_killed_acquirer_is_started_again_and_remembers_clock_and_faults(rail):
    rail.adjust(timeout_after_accept=1)
    os.kill(rail._process.pid, signal.SIGKILL)
    rail._process.wait()
    assert send(rail, "charge", ("k", "credit", 5)) == {}
    assert rail.states(merchant_references=pa.array(["k"]))["expires_at"].to_pylist() == [
        datetime(2023, 9, 18, 1, tzinfo=UTC)
    ]


def test_one_process_serves_a_folder_and_whoever_did_not_start_it_does_not_stop_it(rail):
    with PracticeRail(rail.folder, outbox=rail.outbox) as second:
        assert second._process is None
        assert second.inquire(pa.array(["x"]))["status"].to_pylist() == ["not_found"]
    third = subprocess.run(
        [sys.executable, "-m", "pipeline.sandbox", "serve", "--folder", rail.folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (third.returncode, "served by another process" in third.stderr) == (1, True)
    assert rail.inquire(pa.array(["x"]))["status"].to_pylist() == ["not_found"]


def test_a_plain_rail_talks_to_the_same_folder_as_it_would_to_the_real_one(rail, tmp_path):
    plain = AdyenBatchRail(rail.folder, outbox=tmp_path / "plain")
    assert set(send(plain, "charge", ("plain", "check", 1))) == {"plain"}


def test_an_acquirer_that_is_away_leaves_the_outcome_unknown(tmp_path):
    plain = AdyenBatchRail(tmp_path / "nobody-there", outbox=tmp_path / "outbox")
    with pytest.raises(OutcomeUnknown):
        send(plain, "charge", ("x", "check", 1), timeout_seconds=0.05)
