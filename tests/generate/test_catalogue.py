"""The catalogue is whole, and its page says the same.

`python -m tests.generate.test_catalogue` writes the page anew after a wanted change.
"""

from pathlib import Path

from pipeline.generate import CATALOGUE, Fault, faults
from pipeline.schema import CHARGE_COLUMNS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "catalogue.md"

INTRODUCTION = """# The catalogue of faults

What is known to go wrong with a month of charges, and what `makegood mischarge --fault NAME` does to a source on purpose, at any
size and for any cohort, so that the gate's power can be measured. This page is written from `pipeline/generate/catalogue.py`; a
test compares the two.

- **Cause** is what a diagnosis should name; faults that leave the same traces share one.
- **Needs** is what a source must have to show the fault; months are those before the wrong one.
- **Smallest** is the smallest share of customers at which the gate must catch it.

Where a source has base fee, usage, discount and tax, they go on adding up, with the tax that belongs to them, unless the fault is
about the tax: nothing here is caught by a contradiction that the real fault would not leave. (With tax rounded to the unit, one
amount in eleven is no net and its tax; customers for whom a fault would need such an amount are not hit.) Amounts that come in
whole units of their currency, as the sample's do, stay so where another field, a cap or a cut is the fault: the date
20050911 is charged as NT$20,050,911.

"""


def page() -> str:
    rows = ["| fault | cause | what | where it has happened | needs | smallest |", "|---|---|---|---|---|---:|"]
    rows += [
        f"| `{f.name}` | `{f.cause}` | {f.title} | {f.incident} | {_needs(f)} | {_smallest(f)} |"
        for f in CATALOGUE.values()
    ]
    reasons: dict[str, list[str]] = {}
    for fault in CATALOGUE.values():
        if fault.smallest is None:
            reasons.setdefault(fault.why, []).append(f"`{fault.name}`")
    notes = [f"- {', '.join(names)}: {why}." for why, names in reasons.items()]
    return INTRODUCTION + "\n".join([*rows, "", "No share is promised where the data cannot show it:", "", *notes, ""])


def _needs(fault: Fault) -> str:
    needs = [f"`{name}`" for name in fault.needs]
    months = {0: [], 1: ["1 earlier month"]}.get(fault.earlier_months, [f"{fault.earlier_months} earlier months"])
    return ", ".join(needs + months) or "-"


def _smallest(fault: Fault) -> str:
    return "-" if fault.smallest is None else f"{fault.smallest:.1%}"


def test_the_page_says_what_the_catalogue_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.generate.test_catalogue`"


def test_every_fault_has_one_way_of_being_made():
    makers = [name for kind in (faults.CHANGES, faults.EXTRAS, faults.ABSENT, faults.FILES) for name in kind]
    assert sorted(makers) == sorted(CATALOGUE)


def test_every_fault_says_what_it_is_and_what_it_needs():
    optional = {column.name for column in CHARGE_COLUMNS if not column.required}
    for name, fault in CATALOGUE.items():
        assert (fault.name, fault.scope) == (name, "files" if name in faults.FILES else "customers")
        assert set(fault.needs) <= optional
        assert all((fault.title, fault.cause, fault.incident)) and not fault.title.endswith(".")
        assert (fault.smallest is None) == bool(fault.why)


def test_few_kinds_promise_no_share():
    """Usage of one day is one kind; each has its argument."""
    assert len({fault.why for fault in CATALOGUE.values() if fault.smallest is None}) == 3


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
