"""The pages about edge cases and reliability name tests that are there; the one about edge cases has all of them."""

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
    for page in ("edge_cases.md", "reliability.md"):
        named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8")))
        assert len(named) > 20 and named <= there, (page, sorted(named - there))
