"""The gate as a good user of Great Expectations writes it: this month's rows with last month's joined on, derived columns by
vectorised pandas, and a suite of about thirty expectations over the frame, asked for yes or no alone.

It sees one earlier month, so July's amounts in September pass it.
"""

from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd

from pipeline.ports import LandedRun

REQUIRED = (
    "charge_id", "customer_id", "billing_period", "amount_minor", "currency", "payment_method", "issuer", "instrument_token",
)  # fmt: skip

COLUMNS = [
    *REQUIRED, "bill_cycle", "plan_code", "base_fee_minor", "usage_fee_minor", "discount_minor", "tax_minor",
    "service_start", "service_end",
]  # fmt: skip

CARD_NUMBER = r"\b[0-9]{4}[ -]?[0-9]{4,6}[ -]?[0-9]{4}[ -]?[0-9]{1,7}\b"


def validate(run: LandedRun, last: LandedRun) -> dict[str, Any]:
    """Read, join, derive, and ask; returns how many expectations were asked and whether all hold."""
    frame, before = joined(run, last)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = (
        context.data_sources.add_pandas("charges")
        .add_dataframe_asset("month")
        .add_batch_definition_whole_dataframe("month")
        .get_batch({"dataframe": frame})
    )
    suite = gx.ExpectationSuite("month", expectations=expectations(run, before))
    result = batch.validate(suite, result_format="BOOLEAN_ONLY")
    failed = [r.expectation_config.type for r in result.results if not r.success]
    return {"success": bool(result.success), "expectations": len(result.results), "failed": failed}


def joined(run: LandedRun, last: LandedRun) -> tuple[pd.DataFrame, pd.DataFrame]:
    """This month's rows with last month's amount of the same account, and what the expectations look at; and last month's."""
    frame = pd.read_parquet(run.path, columns=COLUMNS)
    before = pd.read_parquet(last.path, columns=["customer_id", "bill_cycle", "amount_minor", "plan_code", "issuer"])
    earlier = before[["customer_id", "bill_cycle", "amount_minor"]].rename(columns={"amount_minor": "last_amount"})
    frame = frame.merge(earlier, on=["customer_id", "bill_cycle"], how="left")
    net = frame["base_fee_minor"] + frame["usage_fee_minor"] - frame["discount_minor"]
    frame["component_gap"] = net + frame["tax_minor"] - frame["amount_minor"]
    frame["tax_gap"] = frame["tax_minor"] - net / 10
    frame["is_new"] = frame["last_amount"].isna().astype("int64")
    frame["has_moved"] = (
        (frame["amount_minor"] / frame["last_amount"].where(frame["last_amount"] > 0) - 1).abs() > 0.3
    ).astype("int64")
    frame["repeats"] = ((frame["amount_minor"] == frame["last_amount"]) & (frame["amount_minor"] > 0)).astype("int64")
    frame["is_zero"] = (frame["amount_minor"] == 0).astype("int64")
    frame["is_negative"] = (frame["amount_minor"] < 0).astype("int64")
    return frame, before


def expectations(run: LandedRun, before: pd.DataFrame) -> list[gxe.Expectation]:
    """The suite, its bounds relative to last month."""
    year, month = map(int, run.billing_period.split("-"))
    first_day = pd.Timestamp(year, month, 1)
    last_day = first_day + pd.offsets.MonthEnd()
    positive = before.loc[before["amount_minor"] > 0, "amount_minor"]
    mean, middle = float(before["amount_minor"].mean()), float(positive.median())
    zeros, negatives = float((before["amount_minor"] == 0).mean()), float((before["amount_minor"] < 0).mean())
    promised = sum(file.manifest_row_count for file in run.files)
    total = sum(file.manifest_control_total_minor for file in run.files)
    between, a_set = gxe.ExpectColumnValuesToBeBetween, gxe.ExpectColumnValuesToBeInSet
    mean_of = gxe.ExpectColumnMeanToBeBetween
    return [
        gxe.ExpectTableRowCountToEqual(value=promised),
        gxe.ExpectColumnSumToBeBetween(column="amount_minor", min_value=total, max_value=total),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in REQUIRED),
        gxe.ExpectColumnValuesToBeUnique(column="charge_id"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["customer_id", "bill_cycle"]),
        a_set(column="billing_period", value_set=[run.billing_period]),
        a_set(column="currency", value_set=["KRW"]),
        a_set(column="payment_method", value_set=["credit_card", "check_card", "bank_debit"]),
        a_set(column="plan_code", value_set=sorted(before["plan_code"].dropna().unique())),
        a_set(column="issuer", value_set=sorted(before["issuer"].dropna().unique())),
        between(column="service_start", min_value=first_day.date(), max_value=last_day.date()),
        between(column="service_end", min_value=first_day.date(), max_value=last_day.date()),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="service_end", column_B="service_start", or_equal=True),
        between(column="component_gap", min_value=0, max_value=0),
        between(column="tax_gap", min_value=-0.5, max_value=0.5),
        between(column="amount_minor", max_value=10_000_000),
        gxe.ExpectColumnValuesToNotMatchRegex(column="charge_id", regex=CARD_NUMBER),
        gxe.ExpectColumnValuesToNotMatchRegex(column="customer_id", regex=CARD_NUMBER),
        gxe.ExpectColumnValuesToNotMatchRegex(column="instrument_token", regex=CARD_NUMBER),
        mean_of(column="amount_minor", min_value=0.6 * mean, max_value=1.4 * mean),
        gxe.ExpectColumnMedianToBeBetween(column="amount_minor", min_value=0.6 * middle, max_value=1.4 * middle),
        mean_of(column="is_new", max_value=0.2),
        mean_of(column="has_moved", max_value=0.6),
        mean_of(column="repeats", max_value=0.5),
        mean_of(column="is_zero", min_value=zeros - 0.2, max_value=zeros + 0.2),
        mean_of(column="is_negative", min_value=negatives - 0.1, max_value=negatives + 0.1),
    ]
