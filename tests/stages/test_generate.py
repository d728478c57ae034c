"""Generated charge files: the layout, exact arithmetic, and customers who behave as they were told to."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.tax import tax_minor
from pipeline.errors import FatalError, UsageError
from pipeline.generate import Behaviour, bills, generate, with_earlier_amounts
from pipeline.schema import CHARGE_SCHEMA

JUNE, JULY, AUGUST, SEPTEMBER = (BillingPeriod(2023, month) for month in range(6, 10))
CUSTOMERS = 5_840  # forty times the incident's 131 credit and 15 check cards: the share comes out exactly


def charges(source: Path) -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect()
    files = f"{source}/billing_period=*/*.parquet"
    engine.execute(
        f"CREATE TABLE charge AS SELECT * FROM read_parquet('{files}', hive_partitioning = false, filename = true)"
    )
    return engine


def digests(source: Path) -> dict[str, str]:
    files = (path for path in source.rglob("*") if path.is_file())
    return {str(path.relative_to(source)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def repeat_share(source: Path, period: BillingPeriod, earlier: BillingPeriod) -> float:
    """Share of the customers billed in both months whose amount is the same."""
    query = f"""SELECT avg(CAST(this.amount_minor = that.amount_minor AS INT))
                FROM charge AS this JOIN charge AS that USING (customer_id)
                WHERE this.billing_period = '{period}' AND that.billing_period = '{earlier}'"""
    return charges(source).sql(query).fetchone()[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("generated") / "source"
    generate(out, customers=CUSTOMERS, first_period=JUNE, months=4, contacts=True)
    return out


def test_every_month_has_the_bills_that_were_asked_for_in_files_the_manifest_describes(source):
    for period in (JUNE, JULY, AUGUST, SEPTEMBER):
        folder = source / f"billing_period={period}"
        listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        assert {file["name"] for file in listed} | {"manifest.json"} == {path.name for path in folder.iterdir()}
        assert len(listed) == len(bills.ISSUERS)
        assert sum(file["row_count"] for file in listed) == CUSTOMERS
        for file in listed:
            table = pq.ParquetFile(folder / file["name"]).read()
            assert table.schema == CHARGE_SCHEMA
            assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == file["sha256"]
            assert sum(table["amount_minor"].to_pylist()) == file["control_total_minor"]
            assert len(set(table["issuer"].to_pylist())) == 1


def test_components_add_up_to_the_won_and_the_tax_follows_the_rule(source):
    rows = charges(source).sql(
        "SELECT base_fee_minor, usage_fee_minor, discount_minor, tax_minor, amount_minor FROM charge"
    ).fetchall()  # fmt: skip
    assert len(rows) == 4 * CUSTOMERS
    for base, usage, discount, tax, amount in rows:
        assert tax == tax_minor(base + usage - discount)
        assert amount == base + usage - discount + tax


def test_the_tax_rule_as_documented_in_sql_agrees_with_every_bill(source):
    net = "(base_fee_minor + usage_fee_minor - discount_minor)"
    wrong = charges(source).sql(f"SELECT 1 FROM charge WHERE tax_minor <> sign({net}) * ((abs({net}) + 5) // 10)")
    assert wrong.fetchall() == []


def test_labels_ids_and_dates_are_those_of_the_month(source):
    engine = charges(source)
    wrong = engine.sql(
        """SELECT charge_id FROM charge
           WHERE NOT contains(filename, 'billing_period=' || billing_period || '/charges-' || lower(issuer) || '.')
              OR charge_id <> billing_period || '-' || customer_id OR NOT regexp_full_match(customer_id, 'C[0-9]{8}')
              OR service_start <> CAST(billing_period || '-01' AS DATE) OR service_end <> last_day(service_start)
              OR NOT regexp_full_match(instrument_token, 'tok_[a-p]{16}') OR currency <> 'KRW' OR bill_cycle <> 1"""
    ).fetchall()
    assert wrong == []
    assert engine.sql("SELECT count(DISTINCT charge_id) FROM charge").fetchone() == (4 * CUSTOMERS,)


def test_a_customer_keeps_card_issuer_and_token_and_nobody_shares_a_token(source):
    engine = charges(source)
    changed = engine.sql(
        """SELECT customer_id FROM charge GROUP BY 1
           HAVING count(DISTINCT (issuer, payment_method, instrument_token)) > 1"""
    ).fetchall()
    assert changed == []
    customers, tokens = engine.sql(
        "SELECT count(DISTINCT customer_id), count(DISTINCT instrument_token) FROM charge"
    ).fetchone()
    assert customers == tokens


def test_check_cards_have_the_incidents_share_exactly_in_the_first_month(source):
    query = f"SELECT count(*) FROM charge WHERE payment_method = 'check_card' AND billing_period = '{JUNE}'"
    assert charges(source).sql(query).fetchone() == (CUSTOMERS * 15 // 146,)


def test_there_are_zero_and_negative_bills_in_every_month(source):
    counted = charges(source).sql(
        """SELECT count(*) FILTER (amount_minor = 0), count(*) FILTER (amount_minor < 0)
           FROM charge GROUP BY billing_period"""
    ).fetchall()  # fmt: skip
    assert len(counted) == 4
    assert all(20 <= zero <= 120 and 10 <= negative <= 70 for zero, negative in counted)


def test_each_month_as_many_customers_join_as_leave_and_nobody_comes_back(source):
    months = (
        charges(source).sql("SELECT billing_period, list(customer_id) FROM charge GROUP BY 1 ORDER BY 1").fetchall()
    )
    billed = [set(customers) for _, customers in months]
    moving = round(CUSTOMERS * Behaviour().monthly_churn)
    assert moving > 0
    for before, after in pairwise(billed):
        assert len(after - before) == len(before - after) == moving
    assert not (billed[0] - billed[1]) & billed[3]


def test_contacts_cover_every_customer_and_cannot_be_anybodys(source):
    contacts = pq.read_table(source / "contacts.parquet")
    assert contacts.column_names == ["customer_id", "phone", "email", "language"]
    billed = charges(source).sql("SELECT DISTINCT customer_id FROM charge").fetchall()
    assert {(customer,) for customer in contacts["customer_id"].to_pylist()} == set(billed)
    assert all(phone.startswith("010-0") for phone in contacts["phone"].to_pylist())
    assert all(email.endswith("@example.com") for email in contacts["email"].to_pylist())
    assert set(contacts["language"].to_pylist()) == {"ko", "en"}


@pytest.mark.parametrize("flat_share", [0.0, 0.4, 0.8])
def test_the_share_of_bills_that_repeat_is_the_one_asked_for(tmp_path, flat_share):
    generate(tmp_path / "s", customers=8_000, first_period=JUNE, months=2, behaviour=Behaviour(flat_share=flat_share))
    assert repeat_share(tmp_path / "s", JULY, JUNE) == pytest.approx(flat_share, abs=0.025)


def test_a_price_change_makes_flat_bills_dearer_from_that_month_on(tmp_path):
    behaviour = Behaviour(flat_share=0.8, price_change_period=AUGUST, price_change_percent=5)
    generate(tmp_path / "s", customers=2_000, first_period=JUNE, months=4, behaviour=behaviour)
    assert repeat_share(tmp_path / "s", JULY, JUNE) > 0.75
    assert repeat_share(tmp_path / "s", AUGUST, JULY) < 0.05
    assert repeat_share(tmp_path / "s", SEPTEMBER, AUGUST) > 0.75


def test_a_price_change_may_be_of_some_plans_alone(tmp_path):
    behaviour = Behaviour(
        flat_share=0.8,
        plan_change_share=0,
        price_change_period=JULY,
        price_change_percent=5,
        price_change_plans=("TEEN",),
    )
    generate(tmp_path / "s", customers=2_000, first_period=JUNE, months=2, behaviour=behaviour)
    dearer = """SELECT plan_code FROM charge AS july JOIN charge AS june USING (customer_id, plan_code)
                WHERE july.billing_period = '2023-07' AND june.billing_period = '2023-06'
                GROUP BY plan_code HAVING bool_and(july.base_fee_minor > june.base_fee_minor)"""
    assert charges(tmp_path / "s").sql(dearer).fetchall() == [("TEEN",)]
    with pytest.raises(UsageError, match="no plan is called 'GOLD'"):
        Behaviour(price_change_plans=("GOLD",))


def test_usage_follows_the_season(tmp_path):
    season = (100,) * 5 + (100, 200) + (100,) * 5  # July doubles
    generate(
        tmp_path / "s",
        customers=4_000,
        first_period=JUNE,
        months=2,
        behaviour=Behaviour(flat_share=0.0, usage_percent_by_month=season),
    )
    june, july = charges(tmp_path / "s").sql(
        "SELECT CAST(sum(usage_fee_minor) AS BIGINT) FROM charge GROUP BY billing_period ORDER BY billing_period"
    ).fetchall()  # fmt: skip
    assert july[0] / june[0] == pytest.approx(2, abs=0.1)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_bills(tmp_path):
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        generate(tmp_path / name, customers=300, first_period=JUNE, months=2, seed=seed, contacts=True)
    assert digests(tmp_path / "one") == digests(tmp_path / "again")
    assert not set(digests(tmp_path / "one").values()) & set(digests(tmp_path / "other").values())


def test_customers_on_both_sides_of_a_block_are_all_billed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(bills, "BLOCK", 64)
    behaviour = Behaviour(monthly_churn=0.3)
    generate(tmp_path / "s", customers=200, first_period=JUNE, months=3, behaviour=behaviour)
    counted = charges(tmp_path / "s").sql(
        """SELECT count(*), count(DISTINCT customer_id), count(DISTINCT instrument_token)
           FROM charge GROUP BY billing_period"""
    ).fetchall()  # fmt: skip
    assert counted == [(200, 200, 200)] * 3
    assert charges(tmp_path / "s").sql("SELECT count(DISTINCT customer_id) FROM charge").fetchone() == (320,)


def test_an_existing_folder_is_not_overwritten_unless_told_to(tmp_path):
    generate(tmp_path / "s", customers=50, first_period=JUNE, months=1)
    before = digests(tmp_path / "s")
    with pytest.raises(UsageError, match="overwritten"):
        generate(tmp_path / "s", customers=60, first_period=JULY, months=1)
    assert digests(tmp_path / "s") == before
    generate(tmp_path / "s", customers=60, first_period=JULY, months=1, overwrite=True)
    assert [entry.name for entry in (tmp_path / "s").iterdir()] == [f"billing_period={JULY}"]


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("irreplaceable", encoding="utf-8")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        generate(tmp_path, customers=50, first_period=JUNE, months=1, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "irreplaceable"


def test_a_generation_that_fails_halfway_leaves_nothing_behind(tmp_path):
    def fail_in_july(what: str, done: int, total: int | None) -> None:
        if str(JULY) in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "s", customers=50, first_period=JUNE, months=2, progress=fail_in_july)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"customers": 0}, {"months": 0}, {"currency": "WON"}, {"seed": -1}, {"customers": 10**9}],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, wrong):
    arguments = {"customers": 10, "first_period": JUNE, "months": 1} | wrong
    with pytest.raises(UsageError):
        generate(tmp_path / "s", **arguments)
    assert not (tmp_path / "s").exists()


def test_more_than_four_in_five_flat_bills_are_refused():
    with pytest.raises(UsageError, match="flat_share"):
        Behaviour(flat_share=0.9)


def test_september_with_julys_amounts_differs_from_september_in_amounts_alone(source, tmp_path):
    written = with_earlier_amounts(source, tmp_path, period=SEPTEMBER, amounts_of=JULY)
    right, wrong, engine = source / f"billing_period={SEPTEMBER}", written.path, duckdb.connect()
    assert {path.name for path in right.iterdir()} == {path.name for path in wrong.iterdir()}
    amounts = ["amount_minor", "base_fee_minor", "usage_fee_minor", "discount_minor", "tax_minor"]
    for path in right.glob("*.parquet"):
        before, after = pq.ParquetFile(path).read(), pq.ParquetFile(wrong / path.name).read()
        assert after.schema == before.schema
        assert after.drop_columns(amounts) == before.drop_columns(amounts)
    for name, folder in (("wrong", wrong), ("september", right), ("july", source / f"billing_period={JULY}")):
        engine.execute(
            f"CREATE TABLE {name} AS SELECT customer_id, [{', '.join(amounts)}] AS minor "
            f"FROM read_parquet('{folder}/*.parquet', hive_partitioning = false)"
        )
    mistaken = engine.sql(
        """SELECT count(*) FROM wrong JOIN september USING (customer_id) LEFT JOIN july USING (customer_id)
           WHERE wrong.minor <> coalesce(july.minor, september.minor)"""
    ).fetchone()
    newcomers = engine.sql("SELECT count(*) FROM wrong ANTI JOIN july USING (customer_id)").fetchone()
    changed = engine.sql(
        "SELECT count(*) FROM wrong JOIN september USING (customer_id) WHERE wrong.minor <> september.minor"
    ).fetchone()
    assert mistaken == (0,)
    assert newcomers == (2 * round(CUSTOMERS * Behaviour().monthly_churn),)
    assert changed[0] > CUSTOMERS // 2


def test_the_manifest_of_wrong_files_describes_the_wrong_files(source, tmp_path):
    written = with_earlier_amounts(source, tmp_path, period=SEPTEMBER, amounts_of=JULY)
    listed = json.loads((written.path / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {file["name"]: file["sha256"] for file in listed} == {
        name: sha256 for name, sha256 in digests(written.path).items() if name != "manifest.json"
    }
    assert sum(file["control_total_minor"] for file in listed) == written.control_total_minor
    assert sum(file["row_count"] for file in listed) == written.row_count == CUSTOMERS


def test_the_right_files_cannot_be_replaced_by_wrong_ones_in_place(source, tmp_path):
    before = digests(source)
    with pytest.raises(UsageError, match="source itself"):
        with_earlier_amounts(source, source, period=SEPTEMBER, amounts_of=JULY, overwrite=True)
    with_earlier_amounts(source, tmp_path, period=SEPTEMBER, amounts_of=JULY)
    with pytest.raises(UsageError, match="overwritten"):
        with_earlier_amounts(source, tmp_path, period=SEPTEMBER, amounts_of=AUGUST)
    assert digests(source) == before


def test_a_month_the_source_does_not_have_cannot_lend_its_amounts(source, tmp_path):
    with pytest.raises(UsageError, match="2023-05"):
        with_earlier_amounts(source, tmp_path, period=SEPTEMBER, amounts_of=BillingPeriod(2023, 5))
    assert list(tmp_path.iterdir()) == []


def test_amounts_are_not_taken_from_a_month_that_bills_a_customer_twice(tmp_path):
    generate(tmp_path / "s", customers=20, first_period=JUNE, months=2)
    june = tmp_path / "s" / f"billing_period={JUNE}"
    path = next(june.glob("*.parquet"))
    pq.write_table(pq.ParquetFile(path).read(), june / "again.parquet")
    with pytest.raises(FatalError, match="two bills"):
        with_earlier_amounts(tmp_path / "s", tmp_path / "out", period=JULY, amounts_of=JUNE)
