"""The harness itself: its judge sees what is wrong, its matrix is whole, its worlds are its own."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.chaos import judge
from pipeline.chaos.campaign import MARKER, Asked, Record, worlds
from pipeline.chaos.faults import FAULTS, POINTS, Cell, all_cells
from pipeline.chaos.story import STEPS
from pipeline.chaos.trial import Known, Outcome
from pipeline.errors import FatalError
from pipeline.failpoints import FAILPOINTS
from pipeline.ports import no_progress

TRUTH = judge.Truth(right={"a": 100, "b": 50}, wrong={"a": 70, "b": 50})

EVERYWHERE = {step: dict.fromkeys(POINTS, 2) for step in STEPS}


def book(*rows: tuple[str, str, str, int, str]) -> judge.Book:
    """Rows are payment, reference, kind, amount, status; the payment's first letter is the card."""
    names = ["payment_id", "merchant_reference", "kind", "amount_minor", "status"]
    table = [dict(zip(names, row, strict=True)) | {"instrument_token": row[0][0]} for row in rows]
    return judge.Book(pa.Table.from_pylist(table))


RIGHT = [("a1", "x", "authorise", 100, "succeeded"), ("b1", "y", "authorise", 50, "succeeded")]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([("a2", "z", "authorise", 100, "succeeded")], "charged twice net"),
        ([("a1", "z", "refund", 60, "succeeded"), ("a1", "w", "refund", 60, "succeeded")], "undone twice"),
        ([("a1", "z", "void", 100, "succeeded"), ("a1", "w", "refund", 100, "succeeded")], "undone twice"),
        ([("a2", "x", "authorise", 1, "succeeded")], "stands in the book twice"),
    ],
)
def test_the_judge_sees_what_must_never_be(more, says):
    assert judge.always(book(*RIGHT), TRUTH) == []
    assert any(says in what for what in judge.always(book(*RIGHT, *more), TRUTH))


def test_the_judge_sees_who_is_not_right_in_the_end():
    assert judge.right_in_the_end(book(*RIGHT), TRUTH, of="right") == []
    assert judge.right_in_the_end(book(RIGHT[0]), TRUTH, of="right")
    assert judge.right_in_the_end(book(*RIGHT, ("c1", "z", "authorise", 1, "succeeded")), TRUTH, of="right")
    declined = ("b1", "y", "authorise", 50, "declined")
    assert judge.right_in_the_end(book(RIGHT[0], declined), TRUTH, of="right") == []


def test_the_judge_sees_a_ledger_that_differs():
    assert judge.ledger_agrees(book(*RIGHT), {"authorise": (2, 150)}) == []
    assert judge.ledger_agrees(book(*RIGHT), {"authorise": (1, 100)})


def test_the_judge_sees_who_was_told_twice(tmp_path):
    line = json.dumps({"customer_id": "c", "operation_id": "o"}) + "\n"
    (tmp_path / "one.jsonl").write_text(line)
    assert judge.told_once(tmp_path) == []
    (tmp_path / "two.jsonl").write_text(line)
    assert judge.told_once(tmp_path)


def test_every_cell_applies_or_says_why_not():
    cells = all_cells()
    assert len(cells) == len(STEPS) * (len(FAILPOINTS) + 1) * len(FAULTS)
    reasons = {cell: cell.why_not(EVERYWHERE) for cell in cells}
    assert all(reason is None or reason for reason in reasons.values())
    assert {cell.fault for cell, reason in reasons.items() if reason is None} == set(FAULTS)
    nowhere = {step: {} for step in STEPS}
    assert all(cell.why_not(nowhere) for cell in cells if cell.point in FAILPOINTS)


def test_a_seed_is_always_the_same_trial():
    known = Known(EVERYWHERE, {})
    first, again = (list(Asked(seeds=30, seed=7).trials(known)) for _ in range(2))
    assert first == again
    assert list(Asked(seeds=1, seed=9).trials(known)) == first[2:3]


def test_a_record_is_gone_on_with(tmp_path):
    cell = Cell("release", "answers.wait", "kill")
    Record.open(tmp_path / "r.jsonl").add(Outcome(cell, seed=3, nth=1))
    assert Record.open(tmp_path / "r.jsonl").has(cell, 3)
    assert not Record.open(tmp_path / "r.jsonl").has(cell, 4)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FatalError, match="not a harness's folder"), worlds(tmp_path / "mine", no_progress):
        pass
    assert [path.name for path in Path(tmp_path / "mine").iterdir()] == ["letter.txt"]
    assert not (tmp_path / "mine" / MARKER).exists()
