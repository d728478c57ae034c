"""What the rows of a scorecard add up to.

Belongs here: recall by fault and size, false holds, diagnosis, what was missed - plain values, the same for `--json`, the terminal and the
page. Does not: how they are shown (`page`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pipeline.core.verdict import Table
from pipeline.generate import CATALOGUE
from pipeline.scorecard.cases import RARE_REPEATS, REPEATS, SIZES, SMALL_ISSUER
from pipeline.scorecard.trial import GATE, Row

NEARLY = 0.95
"""Of a promised size: a fault that adds rows is a smaller share of all, and shares of customers are rounded."""


def tally(rows: Sequence[Row]) -> dict[str, Any]:
    """The scorecard.

    Returns:
        `recall`: per fault, size and contender `tried, held`, and of those held `named` (the right cause first).
        `by_size`: per contender and size `tried, held`, of faults of which that share is promised.
        `faults`: per fault its `cause`, `promised` share, `caught_from` (the size from which on no case was missed) and `why` not less.
        `clean`: per group of right months and contender `months, held` and by which `rules`.
        `diagnosis`: `held, named` of all wrong months the gate held.
        `misses, wrong_causes, false_holds`: the gate's, case by case; a miss has whether it was `promised`.
        `held_anyway`: months whose right ones are held, so that holding the wrong ones proves nothing: they count as released
        in `recall` and `by_size`, and nowhere else.
        `left_out`: cases that their source cannot show; `cannot_show`: per source, faults that it never can, and why.
        `cost`: processor seconds per case and contender.
    """
    natural = {(r.source, r.period): r.natural_repeats for r in rows if r.natural_repeats is not None}
    judged = [row for row in rows if row.cannot is None]
    anyway = {_month(row) for row in judged if row.kind != "fault" and row.held}
    faulted = [row for row in judged if row.kind == "fault"]
    wrong = [replace(row, held=row.held and _month(row) not in anyway) for row in faulted]
    ours = [row for row in wrong if row.contender == GATE and _month(row) not in anyway]
    held = [row for row in ours if row.held]
    return {
        "cases": len({row.case for row in judged}),
        "held_anyway": sorted(
            {f"{row.source}/{row.period} by {row.contender}" for row in faulted if _month(row) in anyway}
        ),
        "left_out": len({row.case for row in rows if row.cannot is not None}),
        "cannot_show": _cannot_show(rows),
        "by_size": _by_size(wrong),
        "recall": _recall(wrong),
        "faults": [_fault(name, ours) for name in CATALOGUE if any(row.fault == name for row in ours)],
        "clean": _clean(judged),
        "diagnosis": {"held": len(held), "named": sum(row.cause_named for row in held)},
        "misses": [_case(row) | {"promised": is_promised(row, natural)} for row in ours if not row.held],
        "wrong_causes": [
            _case(row) | {"causes": row.causes, "rules": row.rules[:2]} for row in held if not row.cause_named
        ],
        "false_holds": [
            _case(row) | {"group": _group(row), "causes": row.causes, "rules": row.rules}
            for row in judged
            if row.kind != "fault" and row.contender == GATE and row.held
        ],
        "cost": _cost(judged),
    }


def is_promised(row: Row, natural: dict[tuple[str, str], float]) -> bool:
    """Whether the gate must hold a wrong month: as many are hit as the catalogue says, or so few repeat by themselves."""
    smallest = CATALOGUE[row.fault].smallest
    if row.fault in REPEATS and natural.get((row.source, row.period), 1.0) <= RARE_REPEATS:
        smallest = SIZES[0]
    return smallest is not None and row.affected >= NEARLY * smallest * row.charges


def _month(row: Row) -> tuple[str, str, str]:
    """What a contender says of a source's month, right or wrong."""
    return row.source, row.period, row.contender


def _cannot_show(rows: Sequence[Row]) -> Table:
    found = {(row.source, row.fault): row.cannot for row in rows if row.cannot is not None}
    shown = {(row.source, row.fault) for row in rows if row.cannot is None}
    return [
        {"source": source, "fault": fault, "why": why}
        for (source, fault), why in found.items()
        if (source, fault) not in shown
    ]


def _by_size(wrong: Sequence[Row]) -> Table:
    promised = [row for row in wrong if row.size in SIZES and (CATALOGUE[row.fault].smallest or 2) <= row.size]
    groups = _counted(promised, lambda row: (row.contender, row.size))
    return [{"contender": contender, "size": size} | figures for (contender, size), figures in groups.items()]


def _recall(wrong: Sequence[Row]) -> Table:
    groups = _counted(wrong, lambda row: (row.fault, row.size, row.contender))
    return [
        {"fault": fault, "size": size, "contender": contender} | figures
        for (fault, size, contender), figures in groups.items()
    ]


def _counted(rows: Iterable[Row], key: Any) -> dict[Any, dict[str, int]]:
    found: dict[Any, dict[str, int]] = {}
    for row in rows:
        figures = found.setdefault(key(row), {"tried": 0, "held": 0, "named": 0})
        figures["tried"] += 1
        figures["held"] += row.held
        figures["named"] += row.held and row.cause_named
    return found


def _fault(name: str, ours: Sequence[Row]) -> dict[str, Any]:
    fault = CATALOGUE[name]
    cases = [row for row in ours if row.fault == name and row.size != SMALL_ISSUER]
    missed = [row.size for row in cases if not row.held]
    caught = sorted({row.size for row in cases if not missed or row.size > max(missed)})
    return {
        "fault": name,
        "title": fault.title,
        "cause": fault.cause,
        "promised": fault.smallest,
        "caught_from": caught[0] if caught else None,
        "why": fault.why,
    }


def _clean(judged: Sequence[Row]) -> Table:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in (row for row in judged if row.kind != "fault"):
        figures = found.setdefault((_group(row), row.contender), {"months": 0, "held": 0, "rules": Counter()})
        figures["months"] += 1
        figures["held"] += row.held
        figures["rules"].update(rule.split(":")[0].split()[0] for rule in row.rules)
    return [
        {"group": group, "contender": contender} | figures | {"rules": dict(figures["rules"])}
        for (group, contender), figures in found.items()
    ]


def _group(row: Row) -> str:
    return row.kind if row.kind == "price change" else row.source_kind


def _case(row: Row) -> dict[str, Any]:
    return {"case": row.case, "history": row.history, "affected": row.affected, "cause": row.cause}


def _cost(judged: Sequence[Row]) -> dict[str, dict[str, float]]:
    found = {}
    for name in dict.fromkeys(row.contender for row in judged):
        spent = sorted(row.cpu_seconds for row in judged if row.contender == name)
        found[name] = {"mean": round(sum(spent) / len(spent), 3), "median": spent[len(spent) // 2]}
    return found
