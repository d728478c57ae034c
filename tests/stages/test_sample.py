"""The committed sample is what its papers say: counted in the files themselves, with SQL."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.core.billing_period import BillingPeriod
from pipeline.schema import CHARGE_SCHEMA

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"
SOURCE_CSV = ROOT / "data" / "UCI_Credit_Card.csv"
MONTHS = [str(BillingPeriod(2005, month)) for month in range(4, 10)]
COMPONENTS = {"base_fee_minor", "usage_fee_minor", "discount_minor", "tax_minor"}


@pytest.fixture(scope="module")
def sample() -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect()
    files = f"{SAMPLE}/billing_period=*/*.parquet"
    engine.execute(
        f"CREATE TABLE charge AS SELECT * FROM read_parquet('{files}', hive_partitioning = false, filename = true)"
    )
    return engine


def test_the_sample_is_six_months_and_its_papers():
    assert sorted(entry.name for entry in SAMPLE.iterdir()) == [
        "README.md",
        *(f"billing_period={month}" for month in MONTHS),
    ]


@pytest.mark.parametrize("month", MONTHS)
def test_the_manifest_lists_every_file_with_its_hash_count_and_total(month):
    folder = SAMPLE / f"billing_period={month}"
    listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert len(listed) == 7
    assert {file["name"] for file in listed} == {path.name for path in folder.glob("*.parquet")}
    for file in listed:
        content = (folder / file["name"]).read_bytes()
        amounts = pq.ParquetFile(folder / file["name"]).read(["amount_minor"])["amount_minor"]
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(amounts) == file["row_count"]
        assert sum(amounts.to_pylist()) == file["control_total_minor"]


@pytest.mark.parametrize("month", MONTHS)
def test_every_file_has_the_columns_of_a_charge_but_the_components_the_source_does_not_know(month):
    expected = [field for field in CHARGE_SCHEMA if field.name not in COMPONENTS]
    for path in (SAMPLE / f"billing_period={month}").glob("*.parquet"):
        assert list(pq.ParquetFile(path).schema_arrow) == expected


def test_every_month_has_the_bills_of_all_30_000_customers(sample):
    counted = sample.sql(
        """SELECT billing_period, count(*), count(DISTINCT customer_id), count(DISTINCT charge_id),
                  count(*) FILTER (amount_minor = 0), count(*) FILTER (amount_minor < 0),
                  CAST(sum(amount_minor) AS BIGINT)
           FROM charge GROUP BY 1 ORDER BY 1"""
    ).fetchall()
    assert counted == [
        ("2005-04", 30_000, 30_000, 30_000, 4_020, 688, 116_615_281_200),
        ("2005-05", 30_000, 30_000, 30_000, 3_506, 655, 120_934_202_900),
        ("2005-06", 30_000, 30_000, 30_000, 3_195, 675, 129_788_846_900),
        ("2005-07", 30_000, 30_000, 30_000, 2_870, 655, 141_039_464_400),
        ("2005-08", 30_000, 30_000, 30_000, 2_506, 669, 147_537_225_500),
        ("2005-09", 30_000, 30_000, 30_000, 2_008, 590, 153_669_992_700),
    ]


def test_july_for_september_overcharges_undercharges_and_spares_as_many_as_the_papers_say(sample):
    hurt = sample.sql(
        """SELECT count(*) FILTER (july.amount_minor > september.amount_minor),
                  CAST(sum(greatest(july.amount_minor - september.amount_minor, 0)) AS BIGINT),
                  count(*) FILTER (july.amount_minor < september.amount_minor),
                  CAST(sum(greatest(september.amount_minor - july.amount_minor, 0)) AS BIGINT),
                  count(*) FILTER (july.amount_minor = september.amount_minor)
           FROM charge AS september JOIN charge AS july USING (customer_id)
           WHERE september.billing_period = '2005-09' AND july.billing_period = '2005-07'"""
    ).fetchone()
    assert hurt == (13_676, 12_520_116_900, 14_009, 25_150_645_200, 2_315)


def test_the_first_customer_of_the_data_set_is_found_with_every_bill(sample):
    bills = sample.sql(
        "SELECT amount_minor FROM charge WHERE customer_id = 'C0000001' ORDER BY billing_period"
    ).fetchall()
    assert bills == [(0,), (0,), (0,), (68_900,), (310_200,), (391_300,)]


def test_a_customer_keeps_card_issuer_and_plan_in_all_months(sample):
    changed = sample.sql(
        """SELECT customer_id FROM charge GROUP BY 1
           HAVING count(DISTINCT (payment_method, issuer, instrument_token, plan_code)) > 1"""
    ).fetchall()
    tokens = sample.sql("SELECT count(DISTINCT instrument_token) FROM charge").fetchone()
    assert changed == []
    assert tokens == (30_000,)


def test_about_one_customer_in_ten_pays_by_check_card_and_the_smallest_issuer_has_one_in_fifty(sample):
    month = "FROM charge WHERE billing_period = '2005-09'"
    methods = dict(sample.sql(f"SELECT payment_method, count(*) {month} GROUP BY 1").fetchall())
    issuers = dict(sample.sql(f"SELECT issuer, count(*) {month} GROUP BY 1").fetchall())
    assert methods == {"credit_card": 27_048, "check_card": 2_952}
    assert len(issuers) == 7
    assert min(issuers.items(), key=lambda issuer: issuer[1]) == ("Rowan", 587)


def test_a_file_holds_one_issuer_and_one_period_with_the_service_dates_of_that_month(sample):
    mixed = sample.sql(
        """SELECT filename FROM charge GROUP BY 1
           HAVING count(DISTINCT issuer) > 1 OR count(DISTINCT billing_period) > 1
               OR NOT contains(filename, 'billing_period=' || any_value(billing_period) || '/charges-')
               OR min(service_start) <> CAST(any_value(billing_period) || '-01' AS DATE)
               OR max(service_start) <> min(service_start)
               OR min(service_end) <> last_day(min(service_start)) OR max(service_end) <> min(service_end)"""
    ).fetchall()
    assert mixed == []


def test_nothing_in_it_looks_like_a_card_number_even_with_its_separators_removed(sample):
    text = "charge_id || ' ' || customer_id || ' ' || instrument_token"
    found = sample.sql(f"SELECT charge_id FROM charge WHERE regexp_matches(replace({text}, '-', ''), '[0-9]{{13}}')")
    assert found.fetchall() == []


def test_it_is_small_enough_to_be_committed():
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 8_000_000


def build_sample(csv: Path, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.build_sample", str(csv), "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not SOURCE_CSV.exists(), reason="the public data set is not in data/")
def test_building_it_again_gives_the_same_bytes(tmp_path):
    assert build_sample(SOURCE_CSV, tmp_path).returncode == 0
    for path in SAMPLE.glob("billing_period=*/*"):
        assert (tmp_path / path.relative_to(SAMPLE)).read_bytes() == path.read_bytes()


def test_another_file_than_the_data_set_is_refused_and_nothing_is_written(tmp_path):
    csv = tmp_path / "other.csv"
    csv.write_text("ID,LIMIT_BAL\n1,20000\n", encoding="utf-8")
    refused = build_sample(csv, tmp_path / "out")
    assert refused.returncode == 1
    assert "data/sample/README.md" in refused.stderr
    assert not (tmp_path / "out").exists()
