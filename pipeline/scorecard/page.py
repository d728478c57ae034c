"""A scorecard for people: on a terminal, and as the page and picture in `docs/`.

Belongs here: wording and layout. Does not: any figure that `tally` has not added up. The page is only ever written by the command, so that
it cannot drift from what was measured.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import charts
from pipeline.core.verdict import Table
from pipeline.scorecard.baselines import SIGMAS
from pipeline.scorecard.bases import CUSTOMERS, FLAT_SHARES, MONTHS, bases
from pipeline.scorecard.cases import RARE_REPEATS, SIZES, SMALL_ISSUER, UNPROMISED_SIZES
from pipeline.scorecard.trial import GATE

PICTURE_NAME = "scorecard.svg"
PICTURE_FOLDER = "images"

_STYLE = """<style>
svg { background: #fff; font-family: -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
text { font-size: 12px; fill: #18202b; } .heading { fill: #566070; font-weight: 600; } .value.this { fill: #1f4fbf; font-weight: 650; }
.bar.this { fill: #1f4fbf; } .bar.plain { fill: #8fa3bf; } .grid { stroke: #dfe3e8; }
</style>"""
"""Of the picture that stands by itself; light, because a page cannot tell it otherwise."""

TERMINAL_MISSES = 40


def to_text(result: Mapping[str, Any]) -> str:
    """What the command prints."""
    tried = result["cases"] + result["left_out"]
    lines = [
        f"{tried:,} of {result['asked']:,} cases, {result['half']} half; {result['left_out']:,} cannot be shown by their source",
        "",
        "wrong months held, by share of customers hit",
    ]
    lines += _aligned(_size_table(result["by_size"]))
    lines += [
        "",
        "right months held",
        *_aligned(_clean_table(result["clean"])),
        *_blamed(result["clean"]),
        "",
        _diagnosis(result),
    ]
    spent = ", ".join(f"{name} {seconds['median']:.2f}" for name, seconds in result["cost"].items())
    lines += [f"processor seconds a case, median: {spent}"]
    lines += _anyway(result["held_anyway"])
    for name, title in (
        ("misses", "missed"), ("wrong_causes", "held, another cause named first"), ("false_holds", "right months that were held"),
    ):  # fmt: skip
        lines += _listed(title, result[name])
    return "\n".join(lines)


def write_page(result: Mapping[str, Any], path: Path) -> Path:
    """Write the page at `path` and its picture beside it in `images/`; returns the picture's path."""
    picture = path.parent / PICTURE_FOLDER / PICTURE_NAME
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(_picture(result["by_size"]), encoding="utf-8")
    path.write_text(to_markdown(result), encoding="utf-8")
    return picture


def to_markdown(result: Mapping[str, Any]) -> str:
    """The page."""
    parts = [
        _beginning(result), _how_measured(result), _by_fault(result), _exceptions(result), _cannot_show(result), _right_months(result),
        _open_points(result),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _picture(by_size: Table) -> str:
    svg = str(charts.recall(_ordered(by_size), first=GATE))
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace("</desc>", f"</desc>{_STYLE}", 1)


def _ordered(by_size: Table) -> Table:
    contenders = list(dict.fromkeys([GATE, *(row["contender"] for row in by_size)]))
    return sorted(by_size, key=lambda row: (row["size"], contenders.index(row["contender"])))


def _beginning(result: Mapping[str, Any]) -> str:
    found, months = _of_ours(result["clean"])
    tried = result["cases"] + result["left_out"]
    unfinished = ["", f"**Unfinished**: {tried:,} of {result['asked']:,} cases."] if tried < result["asked"] else []
    promised = [miss for miss in result["misses"] if miss["promised"]]
    return "\n".join(
        [
            "# Scorecard",
            "",
            f"What the gate catches, what it holds for nothing, and whether it says why, measured on {result['cases']:,} cases of",
            "the " + result["half"] + " half. `makegood scorecard --write-docs` writes this page; edit nothing here.",
            *unfinished,
            "",
            f"- Wrong months that must be held and were not: **{len(promised)}**.",
            f"- Right months held: **{found} of {months:,}**.",
            f"- {_diagnosis(result)}",
            "",
            *(f"- {line}" for line in _anyway(result["held_anyway"])),
            "",
            f"![Wrong months held, by the share of customers hit]({PICTURE_FOLDER}/{PICTURE_NAME})",
        ]
    )


def _how_measured(result: Mapping[str, Any]) -> str:
    command = f"makegood scorecard --half {result['half']}"
    cost = ", ".join(f"{name} {seconds['median']:.2f}" for name, seconds in result["cost"].items())
    flat = ", ".join(f"{share:.0%}" for share in FLAT_SHARES)
    return f"""## How it is measured

    {command} --write-docs docs/scorecard.md

- **Wrong months**: every fault of the [catalogue](catalogue.md) is injected into the last month of the sample (30,000
  real statements, five months before it) and of three made-up bases ({flat} of the bills the same every month;
  {CUSTOMERS:,} customers, {MONTHS - 1} months before it), at each of its sizes, and once into everybody of the smallest
  issuer alone. Each is landed, measured and judged as a nightly run is.
- **Right months**: the sample's, and every month but the first of {result["base_count"]} made-up bases: with 1 to
  {MONTHS - 1} months before it, 0.2 to 5 % joiners and leavers, 0.1 to 2 % changes of plan, four kinds of season with
  strong holidays among them, waived and credited bills, fees that rose as was declared ahead, bills to the won and to
  the cent, files in another order each month, and files that came on two nights - the month was waited for.
- **Two halves**: even seeds, and the settings drawn by them, are for tuning; odd ones for reporting. This is the
  {result["half"]} half.
- **Beside it**: a plain Great Expectations suite over the rows (`expectations/plain_suite.py`: columns, keys, sets,
  dates, and total, mean, median and number within 10 to 20 % of last month's), and a rule that holds where total,
  number or mean of the charges lies more than {SIGMAS} standard deviations from the earlier months'. The number of
  bills never differs in these months; where a figure never differed, that rule takes any difference for too much,
  which is more than it could do with a company's months.
- Processor seconds a case, median, from landed month to verdict: {cost}.

The bases of this half:

{_markdown(("base", "settings"), [(base.name, base.settings) for base in bases(result["half"], result["base_count"])])}"""


def _by_fault(result: Mapping[str, Any]) -> str:
    sizes = [*SIZES, SMALL_ISSUER]
    found = {(row["fault"], row["size"], row["contender"]): row for row in result["recall"]}
    others = [name for name in result["cost"] if name != GATE]
    rows = []
    for fault in (each for each in result["faults"] if each["promised"] is not None):
        cells = [_cell(found.get((fault["fault"], size, GATE))) for size in sizes]
        ours = [row for key, row in found.items() if key[0] == fault["fault"] and key[2] == GATE]
        named, held = sum(row["named"] for row in ours), sum(row["held"] for row in ours)
        beside = [_over(found, fault["fault"], name) for name in others]
        rows.append((f"`{fault['fault']}`", *cells, f"{named}/{held}", *beside))
    head = ("fault", *(_size_name(size) for size in sizes), "cause first", *others)
    return f"""## By fault

Held of tried, over all sources that can show the fault, by the share of customers hit. Sizes from the one in the catalogue up are
promised; a smaller one is shown for what it is - but 0.1 % of an earlier month's amounts is promised where hardly a bill
repeats by itself (at most {RARE_REPEATS:.2%} of the comparable ones), as where bills are to the cent. The last columns
are over the same cases.

{_markdown(head, rows)}"""


def _exceptions(result: Mapping[str, Any]) -> str:
    found = {(row["fault"], row["size"]): row for row in result["recall"] if row["contender"] == GATE}
    unpromised = [fault for fault in result["faults"] if fault["promised"] is None]
    if not unpromised:
        return ""
    rows = [
        (f"`{fault['fault']}`", *(_cell(found.get((fault["fault"], size))) for size in UNPROMISED_SIZES), fault["why"])
        for fault in unpromised
    ]
    return f"""## Of which no share is promised

{_markdown(("fault", *(_size_name(size) for size in UNPROMISED_SIZES), "why the data cannot show less"), rows)}"""


def _cannot_show(result: Mapping[str, Any]) -> str:
    if not result["cannot_show"]:
        return ""
    faults: dict[tuple[str, str], list[str]] = {}
    for entry in result["cannot_show"]:
        why = entry["why"].rpartition(": ")[2]
        faults.setdefault((entry["source"], why), []).append(f"`{entry['fault']}`")
    rows = [(source, ", ".join(names), why) for (source, why), names in faults.items()]
    return f"""## What a source cannot show

These were not tried there, and count nowhere.

{_markdown(("source", "faults", "why"), rows)}"""


def _right_months(result: Mapping[str, Any]) -> str:
    head, *rows = _clean_table(result["clean"])
    held = [
        f"- `{each['case']}` ({each['history']} months before it): {'; '.join(each['rules'])}"
        for each in result["false_holds"]
    ]
    return "\n".join(["## Right months", "", _markdown(head, rows), *(["", "Held:", "", *held] if held else [])])


def _open_points(result: Mapping[str, Any]) -> str:
    missed = [f"- `{each['case']}`: {each['affected']:,} bills" for each in result["misses"] if each["promised"]]
    wrong = [
        f"- `{each['case']}`: named {', '.join(each['causes'][:2]) or 'nothing'}; it is {each['cause']}"
        for each in result["wrong_causes"]
    ]
    parts = []
    if missed:
        parts += ["## Missed, though promised", "", *missed, ""]
    if wrong:
        parts += ["## Held, with another cause named first", "", *wrong]
    return "\n".join(parts).rstrip()


# -- tables -------------------------------------------------------------------------------------------------------------


def _size_table(by_size: Table) -> list[tuple[str, ...]]:
    sizes = sorted({row["size"] for row in by_size})
    found = {(row["contender"], row["size"]): row for row in by_size}
    contenders = dict.fromkeys(row["contender"] for row in by_size)
    head = ("", *(_size_name(size) for size in sizes))
    return [head, *((name, *(_cell(found.get((name, size))) for size in sizes)) for name in contenders)]


def _clean_table(clean: Table) -> list[tuple[str, ...]]:
    groups = dict.fromkeys(row["group"] for row in clean)
    found = {(row["group"], row["contender"]): row for row in clean}
    contenders = dict.fromkeys(row["contender"] for row in clean)
    rows = [
        (group, f"{max(row['months'] for row in clean if row['group'] == group):,}",
         *(f"{found[group, name]['held']:,}" if (group, name) in found else "" for name in contenders))
        for group in groups
    ]  # fmt: skip
    return [("right months", "judged", *(f"held: {name}" for name in contenders)), *rows]


def _blamed(clean: Table) -> list[str]:
    """Which rules held right months, and how often they failed in them."""
    counts: Counter[str] = Counter()
    for row in clean:
        counts.update(row["rules"])
    return (
        ["  failed in them: " + ", ".join(f"{rule} {count}" for rule, count in counts.most_common())] if counts else []
    )


def _cell(row: Mapping[str, Any] | None) -> str:
    return f"{row['held']}/{row['tried']}" if row else ""


def _over(found: Mapping[tuple, Mapping[str, Any]], fault: str, contender: str) -> str:
    rows = [row for key, row in found.items() if key[0] == fault and key[2] == contender]
    return f"{sum(row['held'] for row in rows)}/{sum(row['tried'] for row in rows)}"


def _size_name(size: float | str) -> str:
    return size if isinstance(size, str) else f"{size * 100:g} %"


def _of_ours(clean: Table) -> tuple[int, int]:
    """Months held and judged by the gate."""
    rows = [row for row in clean if row["contender"] == GATE]
    return sum(row["held"] for row in rows), sum(row["months"] for row in rows)


def _diagnosis(result: Mapping[str, Any]) -> str:
    held, named = result["diagnosis"]["held"], result["diagnosis"]["named"]
    share = f"{named / held:.1%}" if held else "none"
    return f"Right cause named first: {named:,} of {held:,} held wrong months ({share})."


def _anyway(months: Sequence[str]) -> list[str]:
    said = "Right months that are held, so that holding the wrong ones proves nothing and counts as no hold"
    return [f"{said}: {', '.join(months)}."] if months else []


def _listed(title: str, entries: Table) -> list[str]:
    if not entries:
        return []
    lines = ["", f"{title}: {len(entries)}"]
    for entry in entries[:TERMINAL_MISSES]:
        said = "; ".join(entry.get("rules", [])[:2])
        named = (
            f" named {', '.join(entry['causes'][:2]) or 'nothing'}, is {entry['cause']};" if "causes" in entry else ""
        )
        unpromised = " (not promised)" if entry.get("promised") is False else ""
        lines.append(f"  {entry['case']}{unpromised}: {entry['affected']:,} bills;{named} {said}".rstrip("; "))
    if len(entries) > TERMINAL_MISSES:
        lines.append(f"  and {len(entries) - TERMINAL_MISSES} more; --json has all")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]  # fmt: skip


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)
