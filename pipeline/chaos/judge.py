"""The invariants, by the acquirer's exported book and by what each customer should have been charged.

Belongs here: what must hold whatever has happened. Does not, and must not: anything of the product - no module of it is imported here,
and a test says so. A customer is known by the card, and what is due is read from the charge files as they lie there.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

NAMED = 3
"""Cards that a violation names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What each card should be charged; a card that is not in it, nothing."""

    right: dict[str, int]
    wrong: dict[str, int]

    @classmethod
    def read(cls, right: Path, wrong: Path) -> "Truth":
        """From two folders of one period's charge files."""
        return cls(_positive(right), _positive(wrong))

    def most(self, card: str) -> int:
        return max(self.right.get(card, 0), self.wrong.get(card, 0))


def _positive(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    rows = pa.concat_tables(
        [
            pq.ParquetFile(path).read(columns=["instrument_token", "amount_minor"])
            for path in sorted(folder.glob("*.parquet"))
        ]
    )
    rows = rows.filter(pc.greater(rows["amount_minor"], 0))
    due = dict(zip(rows["instrument_token"].to_pylist(), rows["amount_minor"].to_pylist(), strict=True))
    assert len(due) == rows.num_rows, "two bills on one card: the judge could not tell them apart"
    return due


@dataclass(frozen=True, slots=True)
class Payment:
    """An approval in the book and what was undone of it."""

    card: str
    amount: int
    is_voided: bool
    refunded: int

    @property
    def held(self) -> int:
        return 0 if self.is_voided else self.amount - self.refunded


class Book:
    """The acquirer's book, read once."""

    def __init__(self, table: pa.Table) -> None:
        self.rows = table.select(
            ["payment_id", "merchant_reference", "instrument_token", "kind", "amount_minor", "status"]
        ).to_pylist()
        self.entries = Counter(tuple(row.values()) for row in self.rows if row["kind"] != "acquire")
        self.payments = self._payments()

    def _payments(self) -> list[Payment]:
        undone, refunded, approved = set(), Counter(), {}
        for row in self.rows:
            if row["status"] not in ("succeeded", "expired"):
                continue
            match row["kind"]:
                case "void":
                    undone.add(row["payment_id"])
                case "refund":
                    refunded[row["payment_id"]] += row["amount_minor"]
                case "authorise" if row["status"] == "succeeded":
                    approved[row["payment_id"]] = row
        return [
            Payment(row["instrument_token"], row["amount_minor"], payment_id in undone, refunded[payment_id])
            for payment_id, row in approved.items()
        ]

    def held(self) -> dict[str, int]:
        """By card, what the acquirer keeps or reserves of the customer's money."""
        held: dict[str, int] = defaultdict(int)
        for payment in self.payments:
            held[payment.card] += payment.held
        return held

    def sums(self) -> dict[str, tuple[int, int]]:
        """By kind, how many succeeded and of how much; what support gave back by itself is not ours."""
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            if row["status"] in ("succeeded", "expired") and row["kind"] != "acquire" and not _is_support(row):
                count, total = found.get(row["kind"], (0, 0))
                found[row["kind"]] = (count + 1, total + row["amount_minor"])
        return found

    def declined(self) -> dict[str, set[int]]:
        """By card, the amounts that were declined."""
        declined = defaultdict(set)
        for row in self.rows:
            if row["kind"] == "authorise" and row["status"] == "declined":
                declined[row["instrument_token"]].add(row["amount_minor"])
        return declined

    def since(self, earlier: "Book") -> int:
        """How many approvals, voids and refunds there are that were not there before."""
        return (self.entries - earlier.entries).total()


def _is_support(row: dict) -> bool:
    return row["merchant_reference"].startswith("support-")


def always(book: Book, truth: Truth) -> list[str]:
    """What must hold at every moment."""
    held = book.held()
    over = [card for card, amount in held.items() if amount > truth.most(card)]
    negative = [
        payment.card for payment in book.payments if payment.held < 0 or (payment.is_voided and payment.refunded)
    ]
    keys = Counter(
        (row["merchant_reference"], row["kind"])
        for row in book.rows
        if row["kind"] != "acquire" and row["status"] == "succeeded"
    )
    twice = [key for key, count in keys.items() if count > 1]
    said = [
        _say("charged twice net: more is held than was ever due", over),
        _say("undone twice: more went back than was charged", negative),
        _say("an operation key stands in the book twice", [reference for reference, _ in twice]),
    ]
    return [what for what in said if what]


def right_in_the_end(book: Book, truth: Truth, *, of: str, given_up: Iterable[str] = ()) -> list[str]:
    """Everybody holds exactly what is due - the amounts of `of`, right or wrong - or was declined exactly that.

    Args:
        given_up: cards whose money support gave back behind our back; they may be short, never over.
    """
    due, held, declined = getattr(truth, of), book.held(), book.declined()
    given_up = set(given_up)
    over, under = [], []
    for card in due.keys() | held.keys():
        is_due, is_held = due.get(card, 0), held.get(card, 0)
        if is_held > is_due:
            over.append(card)
        elif is_held < is_due and not (is_held == 0 and is_due in declined.get(card, set())) and card not in given_up:
            under.append(card)
    said = [
        _say(f"in the end more is held than the {of} amount", over),
        _say(f"in the end less is held than the {of} amount, and nothing was declined", under),
    ]
    return [what for what in said if what]


def ledger_agrees(book: Book, ledger: dict[str, tuple[int, int]]) -> list[str]:
    """What the product's ledger says has succeeded, by kind, is what the book says."""
    if book.sums() == ledger:
        return []
    return [f"the ledger says {ledger}, the book {book.sums()}"]


def told_once(outbox: Path) -> list[str]:
    """Nobody is told the same twice, by the files that went out."""
    told = Counter()
    for path in outbox.rglob("[!.]*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            message = json.loads(line)
            told[message["customer_id"], message["operation_id"]] += 1
    what = _say("told twice", [customer for (customer, _), count in told.items() if count > 1])
    return [what] if what else []


def _say(what: str, found: list[str]) -> str | None:
    if not found:
        return None
    return f"{what}: {len(found)} ({', '.join(sorted(found)[:NAMED])})"
