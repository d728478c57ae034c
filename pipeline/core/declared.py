"""Changes declared ahead: what two people say will be different, in which cohort, in which months, and what that excuses.

Belongs here: the kinds, and which failures of a rule a change accounts for. Does not: which rules a kind may lift (the suites, under
`lifted_by`), who may declare and approve (the database), or measuring without a cohort (`verify`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.rule import Failure, Rule
from pipeline.core.verdict import WHOLE_RUN

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "price_change": "prices change",
        "plan_closed": "a plan, or whatever the cohort is, is charged no more",
        "plan_launched": "a plan is charged for the first time",
        "promotion_ended": "discounts or free months end",
        "campaign": "many customers join",
        "migration": "customers come into the cohort from other issuers, payment methods or plans",
        "rule": "one rule, named, is waived",
    }
)
"""What can be declared, and what each means."""

PRICES = "price_change"
"""The kind whose percentage is compared with what base fees did."""

PERCENT_TOLERANCE = 0.01
"""Base fees may move by so much more than declared, as a share: new prices are rounded to what looks well on a price list."""

BY_NAME = "rule"
"""The kind that waives one rule by its name, where its suite allows it."""

LONGEST_MONTHS = 12
"""Billing periods that a declaration covers at most: what lasts longer is no change but how things are, and history knows it by then."""

COHORT = re.compile(r"run|(issuer|payment_method|plan):.+", re.DOTALL)

TWO_WAY = {"issuer_method": ("issuer", "payment_method"), "issuer_plan": ("issuer", "plan")}
"""Kinds of two-way cohorts, and what they are parts of; their names join the two with ` / `."""


@dataclass(frozen=True, slots=True)
class DeclaredChange:
    """A change that was declared and approved.

    Attributes:
        kind: one of `KINDS`.
        cohort: `run`, or `<kind>:<value>` of an issuer, payment method or plan.
        first_period, last_period: the billing periods it is for, both included, `YYYY-MM`.
        percent: by how much amounts change at most; negative where they fall. Drifts are excused up to it, and not at all without.
        rule: the rule that is waived, where the kind is `rule`.
        reason, declared_by, approved_by: for people.
        change_id: its number in the register; empty where there is none.

    Raises:
        ValueError: a part of it cannot be meant.
    """

    kind: str
    cohort: str
    first_period: str
    last_period: str
    percent: float | None = None
    rule: str | None = None
    reason: str = ""
    declared_by: str = ""
    approved_by: str = ""
    change_id: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a change is one of {', '.join(KINDS)}; not {self.kind!r}")
        if not COHORT.fullmatch(self.cohort):
            raise ValueError(f"a cohort is run, issuer:NAME, payment_method:NAME or plan:NAME; not {self.cohort!r}")
        months = BillingPeriod.parse(self.last_period).months_since(BillingPeriod.parse(self.first_period)) + 1
        if not 1 <= months <= LONGEST_MONTHS:
            raise ValueError(f"from {self.first_period} until {self.last_period} is not 1 to {LONGEST_MONTHS} months")
        if (self.rule is not None) != (self.kind == BY_NAME):
            raise ValueError(f"a rule is named where the kind is {BY_NAME!r}, and there alone")
        if self.percent is not None and not -100 <= self.percent <= 1000:
            raise ValueError(f"percent lies between -100 and 1000; not {self.percent}")

    @property
    def told(self) -> str:
        """The note beside a finding that it excuses."""
        what = f"waiver of {self.rule}" if self.rule else self.kind
        by = f" by {self.declared_by}, approved by {self.approved_by}" if self.declared_by else ""
        why = f": {self.reason}" if self.reason else ""
        percent = f" of {self.percent:+g} %" if self.percent is not None else ""
        return f"declared: {what}{percent} for {self.cohort}{by}, until {self.last_period}{why}"

    def covers(self, billing_period: str) -> bool:
        """Whether it is for this period; declarations expire by themselves."""
        return self.first_period <= billing_period <= self.last_period

    def contradicted_by(self, ratios: Mapping[str, Any] | None) -> str:
        """Why a price change is not the declared one; empty where it is, or nothing says otherwise.

        Args:
            ratios: quartiles of what the cohort's changed base fees are of the fees before: `lower, middle, upper`.
        """
        if self.kind != PRICES or self.percent is None or not ratios:
            return ""
        low, high = sorted((1, 1 + self.percent / 100))
        if low - PERCENT_TOLERANCE <= ratios["lower"] and ratios["upper"] <= high + PERCENT_TOLERANCE:
            return ""
        return f"base fees that changed did so by {100 * (ratios['middle'] - 1):+.1f} %, not {self.percent:+g} %"

    def lifts(self, rule: Rule) -> bool:
        """Whether this change accounts for failures of `rule`: its suite names the kind, and a drift has its percent."""
        if self.kind not in rule.lifted_by or self.rule not in (None, rule.name):
            return False
        return rule.unit != "change" or self.percent is not None or self.kind == BY_NAME

    def excuses(self, failure: Failure) -> bool:
        """Whether a failure is what was declared. What was not measured is never excused, nor a drift beyond the declared percent."""
        if failure.kind != "failed" or not self.lifts(failure.rule):
            return False
        if not is_within(self.cohort, failure.cohort_kind, failure.row.get("cohort", "")):
            return False
        if failure.rule.unit != "change" or self.percent is None:
            return True
        factor = 1 + self.percent / 100
        low, high = (failure.rule.kwargs.get(bound) for bound in ("min_value", "max_value"))
        above = low is None or failure.value >= min(low, (1 + low) * factor - 1)
        below = high is None or failure.value <= max(high, (1 + high) * factor - 1)
        return above and below


def is_within(declared: str, cohort_kind: str, cohort: str) -> bool:
    """Whether a cohort of the profile is the `declared` one, or part of it."""
    kind, _, name = declared.partition(":")
    if declared == WHOLE_RUN or (kind, name) == (cohort_kind, cohort):
        return True
    first, second = TWO_WAY.get(cohort_kind, ("", ""))
    return (kind == first and cohort.startswith(f"{name} / ")) or (kind == second and cohort.endswith(f" / {name}"))


def lifting(rule: Rule, changes: Iterable[DeclaredChange]) -> tuple[DeclaredChange, ...]:
    """Those of `changes` that account for failures of `rule`."""
    return tuple(change for change in changes if change.lifts(rule))


def left_out(changes: Iterable[DeclaredChange]) -> tuple[str, ...]:
    """The cohorts without which the others are judged, sorted; nothing for changes of the whole run."""
    return tuple(sorted({change.cohort for change in changes} - {WHOLE_RUN}))


def declared_digest(changes: Sequence[DeclaredChange]) -> str:
    """One name for what was declared when a run was judged; changes of the register are named by their numbers."""
    return ",".join(change.change_id or change.told for change in changes) if changes else "none"
