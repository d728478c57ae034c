"""The gate on real and planted months: what it holds, what it lets go, and what it says it cannot judge."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline.core.verdict import Verification
from pipeline.errors import FatalError, UsageError
from pipeline.ports import HistoryPeriod, LandedRun
from pipeline.verify import verify
from tests.landed_runs import AS_OF, Rows, as_history, land, month, verified

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
EARLIER = ("2023-06", "2023-07", "2023-08")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> list[HistoryPeriod]:
    folder = tmp_path_factory.mktemp("history")
    return as_history([land(folder, period, month(period)) for period in EARLIER])


def rules(verification: Verification, severity: str = "critical") -> set[str]:
    return {finding.rule for finding in verification.findings if finding.severity == severity}


# ---- the incident, on real bills


def sample_month(folder: Path, period: str, amounts_of: str | None = None, issuer: str | None = None) -> LandedRun:
    """A month of the sample as landed; with the amounts of another month, in one issuer's file or in all."""

    def files(month: str) -> str:
        folder = f"{SAMPLE}/billing_period={month}"
        return f"read_parquet('{folder}/*.parquet', hive_partitioning = false, filename = true, file_row_number = true)"

    rows = duckdb.execute(
        "SELECT this.* EXCLUDE (filename, file_row_number), other.amount_minor AS other_minor, "
        "parse_filename(this.filename) AS source_file, this.file_row_number + 1 AS source_row "
        f"FROM {files(period)} AS this LEFT JOIN {files(amounts_of or period)} AS other USING (customer_id, bill_cycle)"
    ).to_arrow_table()
    charges = []
    for row in rows.to_pylist():
        other = row.pop("other_minor")
        if issuer in (None, row["issuer"]) and other is not None:
            row["amount_minor"] = other
        charges.append(row)
    return land(folder, period, charges)


@pytest.fixture(scope="module")
def sample_history(tmp_path_factory: pytest.TempPathFactory) -> list[HistoryPeriod]:
    folder = tmp_path_factory.mktemp("sample")
    return as_history([sample_month(folder, f"2005-{number:02d}") for number in range(4, 9)])


def test_the_right_september_is_released(sample_history, tmp_path):
    verification = verified(sample_month(tmp_path, "2005-09"), sample_history, tmp_path / "report")
    assert verification.decision == "release"
    assert verification.releasable == ["run"]
    assert verification.findings == []
    assert sum(rule["judged"] for rule in verification.rules) > 300


def test_september_with_julys_amounts_is_held_and_says_so_first(sample_history, tmp_path):
    verification = verified(sample_month(tmp_path, "2005-09", "2005-07"), sample_history, tmp_path / "report")
    assert verification.decision == "hold"
    assert verification.releasable == []
    first = verification.findings[0]
    assert first.explanation == (
        "whole run: 100.0 % of 24,907 comparable amounts are those of 2005-07 (normally 0.3 %): "
        "July's charges in September's run"
    )
    assert (first.rule, first.severity, first.cohort, first.observed) == ("repeat_share", "critical", "run", "100.0 %")
    assert len(verification.findings) == 1, "one cause is told once"


@pytest.mark.parametrize("issuer", ["Alder", "Rowan"])
def test_an_issuer_with_julys_amounts_is_named_and_the_others_may_go(sample_history, tmp_path, issuer):
    run = sample_month(tmp_path, "2005-09", "2005-07", issuer)
    verification = verified(run, sample_history, tmp_path / "report")
    assert verification.decision == "hold"
    assert verification.findings[0].cohort == f"issuer:{issuer}"
    assert verification.findings[0].explanation.endswith("July's charges in September's run")
    others = {"Alder", "Birch", "Cedar", "Elm", "Juniper", "Linden", "Rowan"} - {issuer}
    assert verification.releasable == [f"issuer:{other}" for other in sorted(others)]


# ---- planted defects


def change(column: str, value: Any, rows: int = 1) -> Callable[[Rows], None]:
    def plant(charges: Rows) -> None:
        for row in charges[:rows]:
            row[column] = value(row) if callable(value) else value

    return plant


def overcharge(row: dict) -> int:
    return row["amount_minor"] + 1


DEFECTS = {
    "missing_charge_id": change("charge_id", None),
    "missing_customer_id": change("customer_id", "  "),
    "missing_billing_period": change("billing_period", None),
    "missing_amount": change("amount_minor", None),
    "missing_currency": change("currency", ""),
    "missing_payment_method": change("payment_method", None),
    "missing_issuer": change("issuer", None),
    "missing_instrument_token": change("instrument_token", ""),
    "wrong_period": change("billing_period", "2023-07"),
    "duplicate_charge_id": change("charge_id", "2023-09-C000900"),
    "duplicate_account": change("customer_id", "C000900"),
    "wrong_currency": change("currency", "USD"),
    "unknown_payment_method": change("payment_method", "carrier_pigeon"),
    "service_outside_period": change("service_end", dt.date(2023, 10, 1)),
    "components_disagree": change("amount_minor", overcharge),
    "wrong_tax": lambda charges: [change(name, lambda row, n=name: row[n] + 1)(charges) for name in ("tax_minor", "amount_minor")],
    "over_limit": lambda charges: [
        change(name, lambda row, n=name, more=extra: row[n] + more)(charges)
        for name, extra in (("base_fee_minor", 10**7), ("tax_minor", 10**6), ("amount_minor", 11 * 10**6))
    ],
    "card_number": change("instrument_token", "tok_4111-1111-1111-1111"),
}  # fmt: skip


def test_a_clean_month_is_released_without_a_word(history, tmp_path):
    verification = verified(land(tmp_path, "2023-09", month("2023-09")), history, tmp_path / "report")
    assert (verification.decision, verification.findings) == ("release", [])
    assert (verification.quarantine.rows, verification.quarantine.counts) == (0, [])


@pytest.mark.parametrize("rule", DEFECTS)
def test_one_broken_charge_holds_the_run_and_is_quarantined(rule, history, tmp_path):
    charges = month("2023-09")
    DEFECTS[rule](charges)
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    assert verification.decision == "hold"
    assert rules(verification) == {rule}
    counts = {entry["reason"]: entry["rows"] for entry in verification.quarantine.counts}
    assert counts == {rule: 2 if rule.startswith("duplicate") else 1}
    assert verification.quarantine.sample[0]["source_row"] == 1
    issuer = charges[0]["issuer"]
    if issuer and not rule.startswith("duplicate"):
        assert verification.findings[0].cohort == f"issuer:{issuer}"
        assert f"issuer:{issuer}" not in verification.releasable
        assert len(verification.releasable) == 2


def test_a_huge_component_is_a_finding_and_no_crash(history, tmp_path):
    charges = month("2023-09")
    charges[0] |= {
        "base_fee_minor": 2**63 - 1,
        "usage_fee_minor": 2**63 - 1,
        "tax_minor": -(2**63),
        "amount_minor": 2**63 - 1,
    }
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    assert {"components_disagree", "over_limit"} <= rules(verification)


def test_a_plan_that_history_does_not_know_is_a_warning(history, tmp_path):
    charges = month("2023-09")
    charges[0]["plan_code"] = "PLAN-NEW"
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    assert verification.decision == "release"
    assert rules(verification, "warning") == {"unknown_plan"}
    assert verification.quarantine.counts == [{"reason": "unknown_plan", "rows": 1}]


def test_what_the_manifest_promised_concerns_the_whole_run(history, tmp_path):
    run = land(tmp_path, "2023-09", month("2023-09"), row_count=1501, control_total_minor=1)
    verification = verified(run, history, tmp_path / "report")
    assert rules(verification) == {"files_unlike_manifest_rows", "files_unlike_manifest_total"}
    assert verification.releasable == []


def test_a_partition_that_is_not_what_was_landed_is_held(history, tmp_path):
    run = land(tmp_path, "2023-09", month("2023-09"))
    land(tmp_path, "2023-09", month("2023-09", customers=1499))
    verification = verified(run, history, tmp_path / "report")
    assert "files_unlike_landed" in rules(verification)


def test_an_absent_issuer_is_held_and_the_others_may_go(history, tmp_path):
    charges = [row for row in month("2023-09") if row["issuer"] != "SORA"]
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    assert "cohort_present" in rules(verification)
    absent = next(finding for finding in verification.findings if finding.rule == "cohort_present")
    assert absent.cohort == "issuer:SORA"
    assert verification.releasable == ["issuer:HANBIT", "issuer:MIREU"]
    sora = next(row for row in verification.profile if row["cohort"] == "SORA")
    assert (sora["row_count"], sora["previous_row_count"]) == (0, 500)


def test_a_run_without_a_charge_is_held(history, tmp_path):
    verification = verified(land(tmp_path, "2023-09", []), history, tmp_path / "report")
    assert verification.decision == "hold"
    assert verification.findings[0].explanation == "whole run: there is no charge at all"


def test_customers_that_vanished_are_held(history, tmp_path):
    charges = [row for row in month("2023-09") if int(row["customer_id"][1:]) % 5]
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    finding = next(finding for finding in verification.findings if finding.rule == "customers_missing")
    assert finding.explanation == "whole run: 300 customers of last month, 20.0 % of them, have no charge"


@pytest.mark.parametrize(
    ("factor", "rule"), [(10, "mean_drift"), (0.1, "total_drift"), (0, "zero_bills"), (-1, "negative_bills")]
)
def test_amounts_that_left_last_months_level_are_held(factor, rule, history, tmp_path):
    charges = month("2023-09")
    for row in charges:
        for name in ("amount_minor", "base_fee_minor", "usage_fee_minor", "discount_minor", "tax_minor"):
            row[name] = None if name != "amount_minor" else round(row[name] * factor)
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    assert rule in rules(verification)


# ---- history: short, flat, doubled, long


def test_the_first_run_ever_says_what_could_not_be_judged(tmp_path):
    verification = verified(land(tmp_path, "2023-09", month("2023-09")), [], tmp_path / "report")
    assert verification.decision == "release"
    unjudged = {item.rule: item.reason for item in verification.not_judged}
    assert {"repeat_share", "total_drift", "customers_missing", "cohort_present", "unknown_plan"} <= set(unjudged)
    assert unjudged["repeat_share"] == "no earlier month to compare with"


def test_one_earlier_month_cannot_tell_a_repeat_from_a_flat_tariff(history, tmp_path):
    verification = verified(land(tmp_path, "2023-09", month("2023-09")), history[-1:], tmp_path / "report")
    reason = next(item.reason for item in verification.not_judged if item.rule == "repeat_share")
    assert "one earlier month cannot tell a repeat from a flat tariff" in reason


def test_a_cohort_too_small_to_judge_is_named_as_such(tmp_path):
    def with_a_small_issuer(period: str) -> Rows:
        rows = month(period)
        for row in rows[:150]:
            row["issuer"] = "TINY"
        return rows

    earlier = as_history([land(tmp_path, period, with_a_small_issuer(period)) for period in EARLIER])
    verification = verified(land(tmp_path, "2023-09", with_a_small_issuer("2023-09")), earlier, tmp_path / "report")
    reasons = {
        item.reason
        for item in verification.not_judged
        if (item.rule, item.cohort) == ("customers_missing", "issuer:TINY")
    }
    assert reasons == {"150 charges last month, of at least 200 needed"}


def test_flat_bills_after_a_price_rise_are_no_repeat(tmp_path):
    """80 % of customers pay a flat fee that rose last month: this month repeats it, as it must."""

    def flat(period: str) -> Rows:
        rows = month(period)
        for row in rows:
            if int(row["customer_id"][1:]) % 5:
                net = row["base_fee_minor"] - row["discount_minor"]
                net = net * 107 // 100 if period >= "2023-08" else net
                row |= {"base_fee_minor": net, "usage_fee_minor": 0, "discount_minor": 0, "tax_minor": (net + 5) // 10}
                row["amount_minor"] = net + row["tax_minor"]
        return rows

    earlier = as_history([land(tmp_path, period, flat(period)) for period in EARLIER])
    verification = verified(land(tmp_path, "2023-09", flat("2023-09")), earlier, tmp_path / "report")
    assert verification.decision == "release", verification.findings
    against_august = next(row for row in verification.lags if row["cohort_kind"] == "run" and row["lag"] == 1)
    assert against_august["comparable"] == 300


def test_a_month_doubled_in_unverified_history_counts_each_account_once(history, tmp_path):
    rows = month("2023-08")
    doubled = land(tmp_path, "2023-08", rows + [row | {"source_row": row["source_row"] + 1500} for row in rows])
    run = land(tmp_path, "2023-09", month("2023-09"))
    verification = verified(run, [*history[:2], *as_history([doubled], "unverified")], tmp_path / "report")
    whole = verification.profile[0]
    assert (whole["account_count"], whole["compared_count"], whole["missing_count"], whole["new_count"]) == (
        1500,
        1500,
        0,
        0,
    )
    assert whole["previous_row_count"] == 3000


def test_unverified_history_is_said_to_be_so(history, tmp_path):
    unverified = [HistoryPeriod(m.billing_period, m.run_id, m.path, "unverified") for m in history]
    verification = verified(land(tmp_path, "2023-09", month("2023-09")), unverified, tmp_path / "report")
    assert verification.decision == "release"
    assert [(f.rule, f.severity) for f in verification.findings] == [("history_unverified", "info")]


def test_amounts_of_a_year_ago_are_found(tmp_path):
    periods = [f"2022-{n:02d}" for n in range(8, 13)] + [f"2023-{n:02d}" for n in range(1, 9)]
    earlier = as_history([land(tmp_path, period, month(period, 400)) for period in periods])
    charges = month("2023-09", 400)
    for row, old in zip(charges, month("2022-09", 400), strict=True):
        row |= {name: old[name] for name in old if name.endswith("_minor")}
    verification = verified(land(tmp_path, "2023-09", charges), earlier, tmp_path / "report")
    assert len(verification.history) == 12, "thirteen months are given, a year is used"
    assert verification.findings[0].explanation == (
        "whole run: 100.0 % of 400 comparable amounts are those of 2022-09 (normally 0.0 %): "
        "September 2022's charges in September's run"
    )


def test_history_must_be_earlier(history, tmp_path):
    run = land(tmp_path, "2023-09", month("2023-09", 10))
    with pytest.raises(FatalError, match="earlier months"):
        verified(run, as_history([run]), tmp_path / "report")


def test_a_partition_that_is_no_parquet_is_refused_by_name(tmp_path):
    run = land(tmp_path, "2023-09", month("2023-09", 10))
    run.path.write_text("not Parquet")
    with pytest.raises(FatalError, match=r"2023-09\.parquet"):
        verified(run, [], tmp_path / "report")


def test_a_naive_instant_is_refused(tmp_path):
    run = land(tmp_path, "2023-09", month("2023-09", 10))
    with pytest.raises(UsageError, match="time zone"):
        verify(run, [], engine=None, suites=None, report_dir=tmp_path, as_of=AS_OF.replace(tzinfo=None))


# ---- what leaves the gate


def test_the_verdict_can_be_read_back(history, tmp_path):
    charges = month("2023-09")
    charges[0]["currency"] = "USD"
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    assert Verification.load(tmp_path / "report") == verification
    public = verification.to_json(report="report.html")
    assert set(public) == {
        "run_id",
        "decision",
        "releasable",
        "causes",
        "findings",
        "not_judged",
        "declared",
        "report",
        "seconds",
    }
    assert set(public["findings"][0]) == {"rule", "severity", "cohort", "observed", "expected", "explanation"}
    json.dumps(public, allow_nan=False)
    assert (tmp_path / "report" / verification.data_docs).is_file()


def test_no_token_and_no_card_number_leaves_the_gate(history, tmp_path):
    charges = month("2023-09")
    charges[0] |= {"charge_id": "4111 1111 1111 1111", "customer_id": "5500-0000-0000-0004"}
    charges[1]["issuer"] = "340000000000009"
    charges[2]["plan_code"] = "6011000000000004"
    charges[3]["currency"] = "4222222222222"
    charges[4]["billing_period"] = "30000000000004"
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    assert next(e["rows"] for e in verification.quarantine.counts if e["reason"] == "card_number") == 5
    quarantine = duckdb.read_parquet(str(tmp_path / "report" / "quarantine.parquet")).fetchall()
    shown = str(quarantine) + "".join(
        path.read_text(encoding="utf-8")
        for path in (tmp_path / "report").rglob("*")
        if path.suffix in (".json", ".html")
    )
    assert "411111******1111" in shown
    for secret in (
        "tok_secret",
        "4111 1111",
        "5500-0000",
        "340000000000009",
        "6011000000000004",
        "4222222222222",
        "30000000000004",
    ):
        assert secret not in shown


def test_markup_in_a_name_stays_text_in_data_docs(history, tmp_path):
    charges = month("2023-09")
    for row in charges[:600]:
        row |= {"issuer": "<script>alert(1)</script>", "currency": "USD"}
    verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "report").rglob("*.html")]
    assert any("&lt;script&gt;alert(1)" in page for page in pages)
    assert not any("<script>alert(1)" in page for page in pages)


def test_a_column_of_garbage_makes_no_endless_cohorts(history, tmp_path):
    charges = month("2023-09")
    for row in charges:
        row["plan_code"] = f"P{row['customer_id']}"
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    plans = [row for row in verification.profile if row["cohort_kind"] == "plan"]
    assert len(plans) <= 51
    assert sum(row["row_count"] for row in plans) == 1500


def test_the_histogram_counts_every_bill_once_in_its_bin(history, tmp_path):
    charges = month("2023-09", 12)
    amounts = [0, 1, 2, 4, 5, 9, 10, 19, 20, -1, -5, 10**12]
    for row, amount in zip(charges, amounts, strict=True):
        row["amount_minor"] = amount
    verification = verified(land(tmp_path, "2023-09", charges), history, tmp_path / "report")
    bins = [entry for entry in verification.charts.amounts if entry["billing_period"] == "2023-09"]
    expected = [(-9, -4), (-1, 0), (0, 1), (1, 2), (2, 5), (5, 10), (10, 20), (20, 50), (10**12, 2 * 10**12)]
    assert [(entry["low_minor"], entry["high_minor"]) for entry in bins] == expected
    assert [entry["count"] for entry in bins] == [1, 1, 1, 1, 2, 2, 2, 1, 1]
    august = sum(entry["count"] for entry in verification.charts.amounts if entry["billing_period"] == "2023-08")
    assert august == 1500
