"""A plain suite over a month's rows, with the drift tolerances that people usually write: what the gate is measured against.

Belongs here: this one contender of the scorecard. Does not: anything the gate judges by. It sees this month's rows and last month's
figures, so an earlier month's amounts pass it. Imports Great Expectations: import it inside functions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd

from pipeline.core.billing_period import BillingPeriod

ROW_COUNT_TOLERANCE = 0.1
DRIFT_TOLERANCE = 0.2
"""Of last month's figure, up or down."""

SHARE_TOLERANCE = 0.1
"""By which the share of bills of nothing, or of credits, may differ."""

REQUIRED = (
    "charge_id", "customer_id", "billing_period", "amount_minor", "currency", "payment_method", "issuer", "instrument_token",
)  # fmt: skip
PARTS = ("base_fee_minor", "usage_fee_minor", "discount_minor", "tax_minor")


def plain_suite_holds(run: Path, last: Path, period: BillingPeriod) -> bool:
    """Whether any expectation fails for the landed month `run` beside the month before it."""
    frame, before = _rows(run), _rows(last)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = (
        context.data_sources.add_pandas("charges")
        .add_dataframe_asset("month")
        .add_batch_definition_whole_dataframe("month")
        .get_batch({"dataframe": frame})
    )
    asked = gx.ExpectationSuite("month", expectations=[*_of_rows(frame, before, period), *_of_drift(before)])
    return not batch.validate(asked, result_format="BOOLEAN_ONLY").success


def _rows(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    frame["component_gap"] = (
        frame["base_fee_minor"] + frame["usage_fee_minor"] - frame["discount_minor"] + frame["tax_minor"]
    ) - frame["amount_minor"]
    frame["is_zero"] = (frame["amount_minor"] == 0).astype("int64")
    frame["is_negative"] = (frame["amount_minor"] < 0).astype("int64")
    return frame


def _of_rows(frame: pd.DataFrame, before: pd.DataFrame, period: BillingPeriod) -> list[gxe.Expectation]:
    between, in_set = gxe.ExpectColumnValuesToBeBetween, gxe.ExpectColumnValuesToBeInSet
    known = {name: sorted(before[name].dropna().unique()) for name in ("currency", "plan_code", "issuer")}
    days = {"min_value": period.first_day, "max_value": period.last_day}
    asked: list[gxe.Expectation] = [
        *(gxe.ExpectColumnValuesToNotBeNull(column=name) for name in REQUIRED),
        gxe.ExpectColumnValuesToBeUnique(column="charge_id"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["customer_id", "bill_cycle"]),
        in_set(column="billing_period", value_set=[str(period)]),
        in_set(column="payment_method", value_set=["credit_card", "check_card", "bank_debit"]),
        *(in_set(column=name, value_set=values) for name, values in known.items() if values),
        # A limit as it is set once, with room above the largest bill there was.
        between(column="amount_minor", max_value=10 * int(before["amount_minor"].max())),
    ]
    if frame["component_gap"].notna().any():
        asked.append(between(column="component_gap", min_value=0, max_value=0))
    asked += [between(column=name, **days) for name in ("service_start", "service_end") if frame[name].notna().any()]
    return asked


def _of_drift(before: pd.DataFrame) -> list[gxe.Expectation]:
    amount = before["amount_minor"]
    rows, mean_of = len(before), gxe.ExpectColumnMeanToBeBetween
    tolerances: Mapping[str, Any] = {
        "mean": mean_of(column="amount_minor", **_around(amount.mean(), DRIFT_TOLERANCE)),
        "median": gxe.ExpectColumnMedianToBeBetween(column="amount_minor", **_around(amount.median(), DRIFT_TOLERANCE)),
        "total": gxe.ExpectColumnSumToBeBetween(column="amount_minor", **_around(int(amount.sum()), DRIFT_TOLERANCE)),
        "rows": gxe.ExpectTableRowCountToBeBetween(
            min_value=int(rows * (1 - ROW_COUNT_TOLERANCE)), max_value=int(rows * (1 + ROW_COUNT_TOLERANCE))
        ),
    }
    shares = [
        mean_of(column=name, max_value=float(before[name].mean()) + SHARE_TOLERANCE)
        for name in ("is_zero", "is_negative")
    ]
    return [*tolerances.values(), *shares]


def _around(figure: float, tolerance: float) -> dict[str, float]:
    low, high = sorted((figure * (1 - tolerance), figure * (1 + tolerance)))
    return {"min_value": low, "max_value": high}
