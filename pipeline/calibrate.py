"""Calibrate: months that were right become a proposal of bounds, and a proposal that a person took becomes the gate's.

Belongs here: measuring past months as the gate would have, each against its own earlier ones, and installing what came of it. Does not:
which months were right (`bootstrap`), or how bounds follow from figures (`core.calibration`). Nothing changes until `install`.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.calibration import FLOORS, METHOD, Default, Learned, learn
from pipeline.core.rule import Rule, cohort_name
from pipeline.core.verdict import Table
from pipeline.errors import UsageError
from pipeline.judge import Suites, read_learned
from pipeline.ports import Engine, HistoryPeriod, LandedRun, Progress, no_progress

__all__ = ["AcceptedMonth", "digest_in", "install", "propose", "require_fitting"]

HISTORY_MONTHS = 12
"""Earlier months each is measured against, as when it was judged."""

SIGNAL_HISTORY = 3
"""Earlier months that signals look at; with fewer, a count is another one than the gate's."""


@dataclass(frozen=True, slots=True)
class AcceptedMonth:
    """A month that was right as far as anybody knows; `standing` as in `ports.HistoryPeriod`."""

    run: LandedRun
    standing: str


def propose(
    months: Sequence[AcceptedMonth],
    *,
    engine: Engine,
    suites: Suites,
    made_at: datetime,
    left_out: Collection[str] = (),
    progress: Progress = no_progress,
) -> Learned:
    """What `months` teach: bounds for the rules and signals of `suites`; installs nothing.

    Args:
        months: at most one of each period.
        left_out: billing periods whose critical findings people called real faults; neither measured nor compared with.

    Raises:
        UsageError: there are not two months, of which one could be measured against the other.
        FatalError: a partition cannot be read.
    """
    months = sorted((m for m in months if m.run.billing_period not in left_out), key=lambda m: m.run.billing_period)
    if len(months) < 2:
        raise UsageError(
            f"{len(months)} accepted months are here and at least two are needed to compare: verify and release some first, "
            "or pass --source with earlier months"
        )
    rules = [rule for rule in suites.rules if _is_learnable(rule)]
    defaults = {rule.name: Default(*_bounds(rule), rule.unit) for rule in rules}
    observations: Table = []
    for place, month in enumerate(months[1:], start=1):
        progress("calibrating", place - 1, len(months) - 1)
        observations += _measured(month, months[:place], engine, suites, rules)
    progress("calibrating", len(months) - 1, len(months) - 1)
    bounds, not_learned = learn(observations, defaults, _in_force(suites, rules, observations))
    provenance = {
        "method": METHOD,
        "made_at": made_at.isoformat(),
        "suites": suites.digest,
        "months": [
            {"billing_period": m.run.billing_period, "run_id": m.run.run_id, "standing": m.standing} for m in months
        ],
        "left_out": sorted(left_out),
    }
    shipped = {name: (default.low, default.high) for name, default in defaults.items()}
    return Learned(provenance, shipped, tuple(bounds), not_learned)


def require_fitting(proposal: Path, suites: Suites, *, known: Collection[str | None] = ()) -> Learned:
    """The proposal in a file, if it was made for `suites` as they are now.

    Args:
        suites: with the learned bounds that are in force.
        known: digests of bounds that were in force before; a person may put them back.

    Raises:
        UsageError: it was not, it is installed already, or it cannot be read.
    """
    found = read_learned(proposal)
    if suites.learned is not None and suites.learned.digest == found.digest:
        applied = suites.learned.applied or {}
        raise UsageError(f"{proposal} is in force already, applied by {applied.get('by')} at {applied.get('at')}")
    if found.digest not in known and found.provenance["suites"] != suites.digest:
        raise UsageError(
            f"{proposal} was made for other suites than those in force: make it anew with `makegood calibrate --out`"
        )
    return found


def digest_in(file: Path) -> str | None:
    """Digest of the bounds in a file; None if it holds none that can be read."""
    try:
        return read_learned(file).digest
    except UsageError:
        return None


def install(proposal: Learned, target: Path, *, by: str, at: datetime) -> Path:
    """Put a proposal in force as `target`, whole or not at all; returns it."""
    applied = replace(proposal, applied={"by": by, "at": at.isoformat()})
    return write(applied, target)


def write(learned: Learned, target: Path) -> Path:
    """Write a proposal, or bounds in force, as JSON with a bound on each line."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = learned.to_json()
    tables = {name: _lines(content.pop(name)) for name in ("bounds", "not_learned")}
    head = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    body = "".join(f',\n "{name}": {lines}' for name, lines in tables.items())
    partial = target.with_suffix(".partial")
    partial.write_text(f"{head}{body}\n}}\n", encoding="utf-8")
    return partial.replace(target)


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    return f"[\n{lines}\n ]" if rows else "[]"


def _is_learnable(rule: Rule) -> bool:
    """Whether months teach something about it: a critical bound of a drift or a share. A broken row is never normal."""
    return rule.table == "profile" and rule.severity == "critical" and rule.unit in FLOORS and "cohorts" in rule.kwargs


def _bounds(rule: Rule) -> tuple[float | None, float | None]:
    return rule.kwargs.get("min_value"), rule.kwargs.get("max_value")


def _measured(
    month: AcceptedMonth, before: Sequence[AcceptedMonth], engine: Engine, suites: Suites, rules: Sequence[Rule]
) -> Table:
    """Observations of one month, by the gate's own measurement."""
    period = BillingPeriod.parse(month.run.billing_period)
    history = [
        HistoryPeriod(m.run.billing_period, m.run.run_id, m.run.path, m.standing)
        for m in before
        if period.months_since(BillingPeriod.parse(m.run.billing_period)) <= HISTORY_MONTHS
    ]
    if not history:
        return []
    with engine.measure(month.run, history, suites.measuring, no_progress) as measured:
        profile = measured.profile()
        signals = measured.signals() if len(history) >= SIGNAL_HISTORY else []
    found = [*_of_rules(profile, rules), *_of_signals(signals)]
    return [{**row, "billing_period": month.run.billing_period} for row in found]


def _of_rules(profile: Table, rules: Sequence[Rule]) -> Iterator[dict[str, Any]]:
    for rule in rules:
        needed = rule.kwargs.get("judged_where", {})
        for row in profile:
            asked = row["cohort_kind"] in rule.kwargs["cohorts"]
            value = row[rule.kwargs["column"]]
            if asked and value is not None and all((row[name] or 0) >= least for name, least in needed.items()):
                # What says how many bills a metric rests on is what the rule asks for most of.
                base = min((row[name] for name, least in needed.items() if least > 1), default=row["row_count"])
                yield {"subject": "rule", "name": rule.name, "cohort": cohort_name(row), "value": value, "base": base}


def _of_signals(signals: Table) -> Iterator[dict[str, Any]]:
    for row in signals:
        if row["base"]:
            value = row["hits"] / row["base"]
            yield {
                "subject": "signal", "name": row["signal"], "cohort": cohort_name(row), "value": value, "base": row["base"],
            }  # fmt: skip


def _in_force(suites: Suites, rules: Sequence[Rule], observations: Table) -> dict:
    """What bounds are now: those learned before, else a rule's own; a signal's are the two latest months'."""
    own = {rule.name: _bounds(rule) for rule in rules}
    found = {("rule", row["name"], row["cohort"]): own[row["name"]] for row in observations if row["subject"] == "rule"}
    learned = suites.learned.bounds if suites.learned else ()
    return found | {(bound.subject, bound.name, bound.cohort): (bound.low, bound.high) for bound in learned}
