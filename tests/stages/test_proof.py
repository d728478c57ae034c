"""The proof is an oracle: nothing but source and book, zero for every consistent book, and no single lie goes unnoticed."""

import random
from datetime import UTC, datetime, timedelta
from hashlib import md5
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.proof import NAMED_SCHEMA, WRONG_SCHEMA, Proof, prove

INCIDENT = "inc-2023-09-0000abcd"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "proof.txt"
CHARGED_AT = datetime(2023, 9, 11, 1, tzinfo=UTC)
UNDONE_AT = CHARGED_AT + timedelta(hours=3)
REBILLED_AT = CHARGED_AT + timedelta(days=1)

BOOK_SCHEMA = pa.schema(
    [("payment_id", pa.string()), ("merchant_reference", pa.string()), ("instrument_token", pa.string()), ("kind", pa.string()),
     ("amount_minor", pa.int64()), ("currency", pa.string()), ("status", pa.string()), ("at", pa.timestamp("us", "UTC"))]
)  # fmt: skip

FATES = (
    "void", "refund", "expired", "support_then_refund", "declined_wrong", "zero", "credit", "not_billed", "missing", "left_alone",
    "rebill_declined", "second_attempt", "refund_declined", "named_hold", "charged_twice",
)  # fmt: skip


def reference(kind: str, customer: str, *, occurrence: int = 1, attempt: int = 1) -> str:
    incident = "" if kind == "charge" else INCIDENT
    return md5(f"{kind}|{incident}|2023-09|1|{occurrence}|{attempt}|{customer}".encode()).hexdigest()


def bill(customer: str) -> dict:
    return {"customer_id": customer, "billing_period": "2023-09", "bill_cycle": 1}


BILL_FIELDS = [field for field in WRONG_SCHEMA if field.name not in ("occurrence", "payment_id")]


class World:
    """A source, a corrected run and a book, with one customer per fate given."""

    def __init__(self, fates: list[str], seed: int) -> None:
        self.random = random.Random(seed)
        self.book: list[dict] = []
        self.wrong: list[dict] = []
        self.correct: list[dict] = []
        self.named: list[dict] = []
        for number, fate in enumerate(fates):
            self._add(f"{number:04d}", fate)

    def _row(
        self, payment: str, ref: str, token: str, kind: str, amount: int, at: datetime, status: str = "succeeded"
    ) -> None:
        self.book.append({"payment_id": payment, "merchant_reference": ref, "instrument_token": token, "kind": kind,
                          "amount_minor": amount, "currency": "KRW", "status": status, "at": at})  # fmt: skip

    def _charge(
        self, customer: str, amount: int, method: str, *, occurrence: int = 1, status: str = "succeeded"
    ) -> str:
        token, payment = f"t-{customer}", f"w{occurrence}-{customer}"
        self.wrong.append({**bill(customer), "amount_minor": amount, "currency": "KRW",
                           "payment_method": method, "issuer": "HANBIT", "instrument_token": token, "occurrence": occurrence,
                           "payment_id": payment if occurrence > 1 else None})  # fmt: skip
        self._row(
            payment,
            reference("charge", customer, occurrence=occurrence),
            token,
            "authorise",
            amount,
            CHARGED_AT,
            status,
        )
        if method == "check_card" and status == "succeeded":
            self._row(
                payment, reference("charge", customer, occurrence=occurrence), token, "acquire", amount, CHARGED_AT
            )
        return payment

    def _undo(
        self, customer: str, payment: str, method: str, amount: int, *, occurrence: int = 1, status: str = "succeeded"
    ) -> None:
        kind = "refund" if method == "check_card" else "void"
        self._row(
            payment, reference(kind, customer, occurrence=occurrence), f"t-{customer}", kind, amount, UNDONE_AT, status
        )

    def _rebill(self, customer: str, amount: int, *, attempt: int = 1, status: str = "succeeded") -> None:
        payment, ref = f"r{attempt}-{customer}", reference("rebill", customer, attempt=attempt)
        self._row(payment, ref, f"t-{customer}", "authorise", amount, REBILLED_AT, status)
        if status == "succeeded":
            self._row(payment, ref, f"t-{customer}", "acquire", amount, REBILLED_AT + timedelta(days=1))

    def _add(self, customer: str, fate: str) -> None:
        wrong, due = self.random.randint(1000, 90_000), self.random.randint(1000, 90_000)
        method = "check_card" if fate in ("refund", "support_then_refund", "refund_declined") else "credit_card"
        due = {"zero": 0, "credit": -700, "left_alone": wrong, "not_billed": None}.get(fate, due)
        if due is not None:
            self.correct.append({**bill(customer), "amount_minor": due, "currency": "KRW",
                                 "payment_method": method, "issuer": "HANBIT", "instrument_token": f"t-{customer}"})  # fmt: skip
        if fate != "missing":
            status = {"declined_wrong": "declined", "expired": "expired"}.get(fate, "succeeded")
            payment = self._charge(customer, wrong, method, status=status)
            if fate == "support_then_refund":
                self._row(payment, "support-1", f"t-{customer}", "refund", 400, UNDONE_AT)
                self._undo(customer, payment, method, wrong - 400)
            elif fate == "refund_declined":
                self._undo(customer, payment, method, wrong, status="declined")
            elif fate not in ("declined_wrong", "expired", "left_alone"):
                self._undo(customer, payment, method, wrong)
            if fate == "charged_twice":
                again = self._charge(customer, wrong + 1, method, occurrence=2)
                self._undo(customer, again, method, wrong + 1, occurrence=2)
        if fate == "named_hold":
            self.named.append({**bill(customer), "reason": "card closed", "is_written_off": False})
        elif fate == "rebill_declined":
            self._rebill(customer, due, status="declined")
        elif fate == "second_attempt":
            self._rebill(customer, due, status="declined")
            self._rebill(customer, due, attempt=2)
        elif fate not in ("zero", "credit", "not_billed", "left_alone", "refund_declined"):
            self._rebill(customer, due)

    def prove(self, folder: Path) -> Proof:
        book = folder / "book.parquet"
        pq.write_table(pa.Table.from_pylist(self.book, schema=BOOK_SCHEMA), book)
        return prove(
            incident_id=INCIDENT,
            book=book,
            wrong=pa.Table.from_pylist(self.wrong, schema=WRONG_SCHEMA),
            correct=pa.Table.from_pylist(self.correct, schema=pa.schema(BILL_FIELDS)),
            named=pa.Table.from_pylist(self.named, schema=NAMED_SCHEMA),
            currency="KRW",
            timezone=ZoneInfo("Asia/Seoul"),
        )  # fmt: skip


OPEN_FATES = ("rebill_declined", "refund_declined", "named_hold")


def lie(world: World, kind: str, at: int) -> dict:
    """Falsify one row of the book; returns the row as it was."""
    row = world.book[at % len(world.book)]
    before = dict(row)
    if kind == "drop":
        world.book.remove(row)
    elif kind == "twice":
        world.book.append(dict(row))
    elif kind == "more":
        row["amount_minor"] += 1
    elif kind == "less":
        row["amount_minor"] -= 1
    elif kind == "another_payment":
        row["payment_id"] = "nobody's"
    elif kind == "status":
        row["status"] = "declined" if row["status"] == "succeeded" else "succeeded"
    elif kind == "currency":
        row["currency"] = "USD"
    elif kind == "stranger":
        by_hand = {"payment_id": "new", "merchant_reference": "by hand", "kind": "authorise"}
        world.book.append(row | by_hand | {"status": "succeeded", "at": REBILLED_AT})
    return before


def is_harmless(row: dict, kind: str) -> bool:
    """Nothing moves by a row that says no, nor by an approval that expired - unless it is told as having succeeded."""
    return row["status"] != "succeeded" and kind not in ("status", "stranger")


@settings(max_examples=20)
@given(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=25), seed=st.integers(0, 10**6))
def test_every_consistent_book_leaves_no_residual(fates, seed, tmp_path_factory):
    proof = World(fates, seed).prove(tmp_path_factory.mktemp("book"))
    assert proof.residual_minor == 0
    assert proof.count("unexplained") == 0
    assert proof.bills == len(fates)
    assert proof.count("open") == sum(fate in OPEN_FATES for fate in fates) == proof.bills - proof.right


@settings(max_examples=50)
@given(
    fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=12),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["drop", "twice", "more", "less", "another_payment", "status", "currency", "stranger"]),
    at=st.integers(0, 1000),
)
def test_no_single_lie_in_the_book_goes_unnoticed(fates, seed, kind, at, tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    world = World(fates, seed)
    row = lie(world, kind, at)
    proof = world.prove(folder)
    if proof.residual_minor:
        return
    # What is left are lies that make another consistent story: they must show in what is open or was never heard of.
    truth = World(fates, seed).prove(folder)
    told = [(p.not_in_book, p.count("open"), p.charged, p.rebilled) for p in (truth, proof)]
    assert told[0] != told[1] or is_harmless(row, kind) or (row["kind"] == "acquire" and kind == "drop"), (kind, row)


def test_a_rebill_of_somebody_whose_wrong_charge_stands_is_unexplained(tmp_path):
    world = World(["void"], 1)
    world.book = [row for row in world.book if row["kind"] != "void"]
    proof = world.prove(tmp_path)
    assert proof.residual_minor == world.wrong[0]["amount_minor"]
    assert proof.items["why"].to_pylist() == ["charged again while the wrong charge stands"]


def test_a_wrong_charge_whose_first_attempt_was_ended_is_known_by_a_later_one(tmp_path):
    world = World(["void"], 1)
    first, later = reference("charge", "0000"), reference("charge", "0000", attempt=2)
    moved = [row for row in world.book if row["merchant_reference"] == first]
    assert moved
    for row in moved:
        row["merchant_reference"] = later
    proof = world.prove(tmp_path)
    assert (proof.right, proof.residual_minor) == (1, 0)


def test_a_rebill_on_the_card_of_somebody_not_concerned_is_not_the_right_charge(tmp_path):
    world = World(["void"], 1)
    for row in world.book:
        if row["payment_id"].startswith("r"):
            row["instrument_token"] = "t-stranger"
    proof = world.prove(tmp_path)
    assert (proof.right, proof.residual_minor) == (0, world.correct[0]["amount_minor"])


def test_a_name_explains_a_bill_left_open_but_never_one_that_pays_twice(tmp_path):
    world = World(["void"], 1)
    world.named = [{**bill("0000"), "reason": "we know", "is_written_off": False}]
    world.book = [row for row in world.book if row["kind"] != "void"]
    assert world.prove(tmp_path).residual_minor > 0
    world.book = [row for row in world.book if not row["payment_id"].startswith("r")]
    proof = world.prove(tmp_path)
    assert (proof.residual_minor, proof.total("charged", "open_minor")) == (0, world.wrong[0]["amount_minor"])


def test_what_is_written_off_is_its_own_part_of_the_equation(tmp_path):
    world = World(["named_hold"], 1)
    world.named[0]["is_written_off"] = True
    proof = world.prove(tmp_path)
    due = world.correct[0]["amount_minor"]
    assert (
        proof.residual_minor,
        proof.total("rebilled", "written_off_minor"),
        proof.total("rebilled", "open_minor"),
    ) == (0, due, 0)


def test_another_months_charge_on_the_same_card_is_no_stranger(tmp_path):
    world = World(["void"], 1)
    october = md5(b"charge||2023-10|1|1|1|0000").hexdigest()
    world._row("oct", october, "t-0000", "authorise", 5, REBILLED_AT + timedelta(days=30))
    assert world.prove(tmp_path).residual_minor == 0
    world.book[-1]["merchant_reference"] = md5(b"charge||2023-10|1|1|1|0001").hexdigest()
    assert world.prove(tmp_path).residual_minor == 5


def test_the_proof_reads_the_same_for_the_same_case(tmp_path):
    text = World(list(FATES), 7).prove(tmp_path).to_text()
    if not GOLDEN.exists():
        GOLDEN.write_text(text, encoding="utf-8")
        pytest.fail("the golden file was missing and has been written; look at it")
    assert text == GOLDEN.read_text(encoding="utf-8")
