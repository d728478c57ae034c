"""The one rule class: a metric of each cohort lies between two bounds, and nothing passes unmeasured.

Great Expectations' own range check, `ExpectColumnValuesToBeBetween`, passes where every value is NULL and
where there is no row; over a table of cohorts that would release what was never looked at.
"""

import html
from typing import Any, ClassVar

import pandas as pd
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider

from pipeline.core.rule import cohort_name

NAMED_COHORTS = 5
"""Failing cohorts that Data Docs names per rule; our own report names all."""


class CohortTable(TableMetricProvider):
    """The whole small table, read once for all rules."""

    metric_name = "table.cohorts"

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(cls, execution_engine: PandasExecutionEngine, metric_domain_kwargs: dict, **_: Any) -> pd.DataFrame:  # noqa: N805
        frame, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE)
        return frame


class ExpectCohortMetricToBeBetween(BatchExpectation):
    """In every cohort of the given kinds, the metric lies between the bounds, both included.

    A cohort is judged where each column of `judged_where` is at least the number given there; other cohorts are
    listed as too small. A judged cohort whose metric - or whose count in `judged_where` - is NULL fails as
    unmeasured; so does the rule as a whole where it finds no cohort of its kinds.

    Args:
        column: the metric.
        min_value, max_value: the bounds; at least one.
        cohorts: kinds of cohort, such as `["run", "issuer"]`.
        judged_where: column -> least count.
        signal: the signal whose rows are asked, where the table has rows of several.
        learned: cohort (`run` or `<kind>:<value>`) -> its own bounds instead, each a number or None.
    """

    column: str
    min_value: float | None = None
    max_value: float | None = None
    cohorts: list[str]
    judged_where: dict[str, int] = {}  # noqa: RUF012  pydantic copies it
    signal: str | None = None
    learned: dict[str, list[float | None]] = {}  # noqa: RUF012  pydantic copies it

    metric_dependencies: ClassVar[tuple[str, ...]] = ("table.cohorts",)
    success_keys: ClassVar[tuple[str, ...]] = (
        "column", "min_value", "max_value", "cohorts", "judged_where", "signal", "learned",
    )  # fmt: skip
    args_keys: ClassVar[tuple[str, ...]] = success_keys

    def _validate(self, metrics: dict, runtime_configuration: dict | None = None, execution_engine: Any = None) -> dict:
        table = metrics["table.cohorts"]
        if self.min_value is None and self.max_value is None:
            raise ValueError(f"{self.column}: a rule without a bound can never fail")
        wanted = table[table["cohort_kind"].isin(self.cohorts)]
        if self.signal is not None:
            wanted = wanted[wanted["signal"] == self.signal]
        judged, failed, unmeasured, too_small = [], [], [], []
        learned = self._learned_bounds(wanted)
        # Only the columns that count: a record of every column for every rule would cost half of judging.
        columns = {name: wanted[name].tolist() for name in (self.column, *self.judged_where)}
        for place, position in enumerate(wanted.index):
            row = {name: values[place] for name, values in columns.items()}
            short = self._short_of(row)
            if short is not None and row[short] is None:
                unmeasured.append([position, short])
            elif short is not None:
                too_small.append([position, short, row[short], self.judged_where[short]])
            elif row[self.column] is None:
                unmeasured.append([position, self.column])
            else:
                judged.append(position)
                if not _within(row[self.column], *learned.get(position, (self.min_value, self.max_value))):
                    failed.append(position)
        looked_at = len(judged) + len(unmeasured) + len(too_small)
        return {
            "success": bool(looked_at and not failed and not unmeasured),
            "result": {
                "observed_value": f"{len(failed)} of {len(judged)} judged cohorts fail{_named(wanted, failed)}",
                "details": {"judged": judged, "failed": failed, "unmeasured": unmeasured, "too_small": too_small},
            },
        }

    def _short_of(self, row: dict[str, Any]) -> str | None:
        """The first column of `judged_where` that `row` has too little of, or that is NULL."""
        for column, least in self.judged_where.items():
            if row[column] is None or row[column] < least:
                return column
        return None

    def _learned_bounds(self, table: pd.DataFrame) -> dict[int, list[float | None]]:
        """Position -> bounds, of the cohorts that have their own."""
        if not self.learned:
            return {}
        names = map(cohort_name, table[["cohort_kind", "cohort"]].to_dict("records"))
        return {
            position: self.learned[name]
            for position, name in zip(table.index, names, strict=True)
            if name in self.learned
        }


def _within(value: float, low: float | None, high: float | None) -> bool:
    # NaN compares false with every bound, so it is never within.
    return (low is None or value >= low) and (high is None or value <= high)


def _named(table: pd.DataFrame, positions: list[int]) -> str:
    """The first cohorts at `positions`, escaped: Great Expectations prints observed values into HTML as they are."""
    if not positions:
        return ""
    rows = table.loc[positions[:NAMED_COHORTS], ["cohort_kind", "cohort"]].to_dict("records")
    names = ", ".join(f"{row['cohort_kind']} {row['cohort']}".strip() for row in rows)
    return html.escape(f": {names}")
