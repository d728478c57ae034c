"""The page about edge cases has all of them, and every test it names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    line
    for line in (ROOT / "docs" / "edge_cases.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]


def test_every_edge_case_has_a_row_with_a_rule():
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in ROWS]
    assert [int(number) for number, *_ in cells] == list(range(1, 44))
    assert all(rule for _, _, rule, _ in cells)


def test_every_test_named_is_there():
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {name for row in ROWS for name in re.findall(r"`(test_\w+)`", row)}
    assert len(named) > 30 and named <= there, sorted(named - there)
