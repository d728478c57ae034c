"""Failures put into words: one finding per cause rather than per cohort, the most important first.

Belongs here: folding, ordering and wording. Does not: deciding what fails (the suites) or what a failure
means for the run (`judge`).
"""

import string
from collections import defaultdict
from typing import Any

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.declared import TWO_WAY, is_within
from pipeline.core.money import format_minor
from pipeline.core.rule import Failure, Rule
from pipeline.core.verdict import WHOLE_RUN, Finding

COHORT_KINDS = {
    WHOLE_RUN: "whole run", "issuer": "issuer", "payment_method": "payment method", "plan": "plan",
    "issuer_method": "issuer and payment method", "issuer_plan": "issuer and plan",
}  # fmt: skip
"""From the broadest to the narrowest, with what people call them."""

SEVERITIES = ("critical", "warning", "info")

CONFINED_FACTOR = 2
"""Cohorts whose level is at least this many times the whole run's hold the fault; less is the fault showing everywhere."""

ECHO_SHARE = 0.2
"""A month with less than this part of the loudest month's excess is its echo: neighbouring months share some amounts."""

OF_ALL_MONTHS = "repeated"
"""The signal that adds up what bills repeat of every earlier month."""

WHOLESALE_SHARE = 0.5
"""From this share on, amounts are called a month's; below, some of them."""


def findings(failures: list[Failure], *, billing_period: str, currency: str) -> list[Finding]:
    """One finding per cause, the most important first.

    A rule that fails for the whole run and for cohorts of it is told once: of the cohorts when they hold the
    fault, of the whole run when it is everywhere.
    """
    groups: dict[tuple, list[Failure]] = defaultdict(list)
    for failure in _without_echoes(_severest(failures)):
        groups[failure.rule.name, failure.kind, failure.row.get("lag"), failure.declared].append(failure)
    folded = [failure for group in groups.values() for failure in _folded(group)]
    return [_worded(failure, billing_period, currency) for failure in sorted(folded, key=_importance)]


def told(failure: Failure, *, billing_period: str, currency: str) -> str:
    """The sentence that one failure is told in."""
    return _worded(failure, billing_period, currency).explanation


def expected_text(rule: Rule) -> str:
    """The bounds of a rule as a person reads them, and whether they were learned."""
    text = _bounds_text(rule)
    learned = len(rule.kwargs.get("learned", {}))
    if rule.is_learned:
        return f"{text}, learned from past months"
    return f"{text}; for {learned} cohorts as learned from past months" if learned else text


def _bounds_text(rule: Rule) -> str:
    low, high = rule.kwargs.get("min_value"), rule.kwargs.get("max_value")
    if rule.unit == "nats":
        return "no more than is normal" if rule.kwargs.get("column") != "deficit" else "no fewer than is normal"
    if low is None and high is None:
        return rule.description
    if low is None:
        return "none" if high == 0 and rule.unit == "count" else f"at most {_quantity(high, rule.unit)}"
    if high is None:
        return f"at least {_quantity(low, rule.unit)}"
    return f"between {_quantity(low, rule.unit)} and {_quantity(high, rule.unit)}"


def _severest(failures: list[Failure]) -> list[Failure]:
    """Without the milder failures of a metric that a stricter rule has failed already, there or in a part of the whole."""

    def metric(failure: Failure) -> tuple:
        column = (
            None if failure.rule.table == "lags" else failure.rule.kwargs.get("column")
        )  # one share, read in two ways
        return failure.rule.table, failure.row.get("signal"), column, failure.row.get("lag")

    critical: dict[tuple, set[str]] = defaultdict(set)
    for failure in failures:
        if failure.rule.severity == "critical":
            critical[metric(failure)].add(failure.cohort)

    def told_already(failure: Failure) -> bool:
        cohorts = critical[metric(failure)]
        milder = failure.rule.severity != "critical" and not failure.declared
        return milder and bool(cohorts) and failure.cohort in cohorts | {WHOLE_RUN}

    return [failure for failure in failures if not told_already(failure)]


def _without_echoes(failures: list[Failure]) -> list[Failure]:
    """Without the months that repeat only because they resemble the month that does - theirs is a small part of its share - and
    without what all months have together where one has it by itself."""
    loudest = max((abs(failure.level) for failure in failures if failure.row.get("lag")), default=0)
    if loudest:
        failures = [failure for failure in failures if failure.row.get("signal") != OF_ALL_MONTHS]
    return [f for f in failures if not f.row.get("lag") or abs(f.level) >= ECHO_SHARE * loudest]


def _folded(group: list[Failure]) -> list[Failure]:
    run = next((failure for failure in group if failure.cohort_kind == WHOLE_RUN), None)
    if run is None and group[0].declared:  # of the declared cohort, without its parts
        broadest = min(map(_breadth, group))
        return [failure for failure in group if _breadth(failure) == broadest]
    if run is None:
        return _gathered(group, group)
    for kind in COHORT_KINDS:
        failing = [failure for failure in group if failure.cohort_kind == kind]
        if kind != WHOLE_RUN and failing and len(failing) < run.judged_by_kind.get(kind, 0) and _holds_it(failing, run):
            return _gathered(failing, group)
    return [run]


def _gathered(failing: list[Failure], group: list[Failure]) -> list[Failure]:
    """With the cohort in place of its parts - the plan for what its issuers' customers have - where it failed itself about as much."""
    wholes = [failure for failure in group if failure.cohort_kind not in (WHOLE_RUN, *TWO_WAY)]

    def told_as(failure: Failure) -> Failure:
        around = [whole for whole in wholes if is_within(whole.cohort, failure.cohort_kind, failure.row["cohort"])]
        loudest = max(around, key=lambda whole: abs(whole.level), default=failure)
        return loudest if CONFINED_FACTOR * abs(loudest.level) > abs(failure.level) else failure

    return list({failure.cohort: failure for failure in map(told_as, failing)}.values())


def _holds_it(failing: list[Failure], run: Failure) -> bool:
    if run.kind != "failed":
        return False
    if run.rule.unit == "count":
        return len(failing) == 1 and failing[0].value == run.value
    return min(abs(failure.level) for failure in failing) >= CONFINED_FACTOR * abs(run.level)


def _importance(failure: Failure) -> tuple:
    level = failure.level
    if failure.rule.unit == "count":
        level = level / max(failure.row.get("row_count") or 0, 1)
    return (
        SEVERITIES.index(failure.rule.severity),
        failure.rule.rank,
        -round(abs(level), 1),  # in steps, so that among equals the broadest cohort comes first
        _breadth(failure),
        failure.row.get("lag") or 0,
        failure.cohort,
    )


def _breadth(failure: Failure) -> int:
    """Where the cohort's kind stands among `COHORT_KINDS`; 0 is the broadest."""
    return list(COHORT_KINDS).index(failure.cohort_kind) if failure.cohort_kind in COHORT_KINDS else 0


def _worded(failure: Failure, billing_period: str, currency: str) -> Finding:
    rule = failure.rule
    if failure.kind != "failed":
        explanation = f"{_where(failure)}: {failure.problem}; held, because what was not measured cannot be released"
        return Finding(
            rule.name, rule.severity, failure.cohort, "not measured", expected_text(rule), explanation, "certain"
        )
    observed = _observed(failure)
    fields = dict(failure.row, where=_where(failure), observed=observed, expected=expected_text(rule))
    fields |= _months(failure.row, billing_period)
    try:
        explanation = _Wording(currency).vformat(rule.says, (), fields)
    except (KeyError, ValueError, TypeError, IndexError):
        # A slip in a template must not cost the verdict its finding.
        explanation = f"{_where(failure)}: {observed}, expected {expected_text(rule)}. {rule.description}"
    if failure.declared:
        explanation += f" - {failure.declared}"
    return Finding(
        rule.name, rule.severity, failure.cohort, observed, expected_text(rule), explanation, rule.confidence
    )


def _observed(failure: Failure) -> str:
    if failure.value is None:
        return failure.problem
    if failure.rule.shows:
        return _quantity(failure.row[failure.rule.shows], "share")
    return _quantity(failure.value, failure.rule.unit)


def _where(failure: Failure) -> str:
    kind = COHORT_KINDS.get(failure.cohort_kind, failure.cohort_kind)
    return kind if failure.cohort_kind == WHOLE_RUN else f"{kind} {failure.row['cohort']}"


def _months(row: dict[str, Any], billing_period: str) -> dict[str, str]:
    """`whose`: what a run that repeats an earlier month carries, such as "July's charges in September's run"."""
    if "compared_with" not in row:
        return {}
    this, other = BillingPeriod.parse(billing_period), BillingPeriod.parse(row["compared_with"])
    year = f" {other.year}" if this.months_since(other) >= 12 else ""
    charges = f"{other.month_name}{year}'s charges in {this.month_name}'s run"
    return {"whose": charges if (row["repeat_share"] or 0) >= WHOLESALE_SHARE else f"some of {charges}"}


class _Wording(string.Formatter):
    """Format fields as `{row_count:count}`, `{missing_share:share}`, `{total_drift:change}`, `{total_minor:money}`."""

    def __init__(self, currency: str) -> None:
        self._currency = currency

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "unknown"
        if format_spec == "money":
            return format_minor(value, self._currency)
        return _quantity(value, format_spec) if format_spec else str(value)


def _quantity(value: Any, unit: str) -> str:
    if unit == "share":
        text = f"{100 * value:.1f} %"
        return "over 99.9 %" if text == "100.0 %" and value < 1 else text
    if unit == "change":
        return f"{100 * value:+.1f} %"
    if unit == "excess":
        return f"{100 * value:.1f} percentage points above normal"
    if unit == "points":
        return f"{100 * value:+.1f} percentage points"
    if unit == "nats":
        return f"a surprise of {value:.0f}"
    return f"{int(value):,}"
