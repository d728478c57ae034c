"""A rule of a suite, and what it means for one to fail - before anybody words it.

Belongs here: the shapes between the judge, who fills them, and `findings`, which puts them into words.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.core.verdict import WHOLE_RUN, Severity

Unit = Literal["count", "share", "change", "points", "excess", "nats"]
"""How a metric is read: rows; a share of a whole; a relative change; a difference of two shares, from last month's
or above what is normal; how surprising a count is."""

FailureKind = Literal["failed", "unmeasured", "errored"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as its suite file states it.

    Attributes:
        name: unique over all suites.
        rank: what is told first: 1 is the most important.
        type, kwargs: the expectation.
        says: template of the finding's sentence; fields are the cohort's metrics and those of `findings`.
        confidence: how sure a failure is of being a real fault, in words.
        shows: the metric shown as observed, where it is not the one judged.
        is_learned: whether its bounds are those learned for one cohort (`asked_of`).
        blocks: what a critical failure keeps back: every charge, or only the cohort where it lies.
        lifted_by: kinds of declared changes (`core.declared`) that account for its failures.
    """

    name: str
    suite: str
    table: Literal["profile", "lags", "signals"]
    rank: int
    severity: Severity
    type: str
    kwargs: dict[str, Any]
    description: str
    says: str
    unit: Unit
    confidence: str
    shows: str | None = None
    is_learned: bool = False
    blocks: Literal["all", "cohort"] = "cohort"
    lifted_by: tuple[str, ...] = ()

    def asked_of(self, row: dict[str, Any]) -> "Rule":
        """The rule as a cohort is asked: within the bounds learned for that cohort, if there are any."""
        if "learned" not in self.kwargs:
            return self
        kwargs = {name: value for name, value in self.kwargs.items() if name != "learned"}
        learned = self.kwargs["learned"].get(cohort_name(row))
        if learned is not None:
            kwargs |= {"min_value": learned[0], "max_value": learned[1]}
        return replace(self, kwargs=kwargs, is_learned=learned is not None)


@dataclass(frozen=True, slots=True)
class Failure:
    """A rule that failed for one cohort.

    Attributes:
        row: the cohort's row of the judged table; empty where the table itself is at fault.
        judged_by_kind: how many cohorts of each kind the rule judged (against this earlier month, over lags).
        problem: what went wrong, where the kind is not `failed`.
        declared: the declared change that excuses it, as it is told; empty where none does.
    """

    rule: Rule
    kind: FailureKind
    row: dict[str, Any]
    judged_by_kind: dict[str, int]
    problem: str = ""
    declared: str = ""

    @property
    def cohort_kind(self) -> str:
        return self.row.get("cohort_kind", WHOLE_RUN)

    @property
    def cohort(self) -> str:
        return cohort_name(self.row)

    @property
    def level(self) -> float:
        """How far it goes, comparable between cohorts: of a surprise the share beyond what is normal, else the metric itself."""
        if self.rule.unit == "nats":
            return self.row.get("excess_share", self.row.get("repeat_excess")) or 0
        return self.value if isinstance(self.value, (int, float)) else 0

    @property
    def value(self) -> Any:
        return self.row.get(self.rule.kwargs.get("column", ""))


def cohort_name(row: dict[str, Any]) -> str:
    """`run`, or `<kind>:<value>`."""
    kind = row.get("cohort_kind", WHOLE_RUN)
    return WHOLE_RUN if kind == WHOLE_RUN else f"{kind}:{row['cohort']}"
