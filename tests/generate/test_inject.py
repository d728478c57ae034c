"""Injected faults: exactly what the truth says is wrong, nothing else, at the size and in the cohort that were asked for."""

import hashlib
import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.adapters.sources import open_source
from pipeline.cli import main
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import UsageError
from pipeline.generate import CATALOGUE, Behaviour, Injected, PeriodWriter, generate, inject, with_earlier_amounts
from pipeline.generate.month import with_column
from pipeline.ports import no_progress

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
SAMPLED = BillingPeriod(2005, 9)
SEPTEMBER = BillingPeriod(2023, 9)
CUSTOMERS, HIT = 2_000, 23

NOT_IN_SAMPLE = {"joiners_missing", "leavers_billed"} | {
    name for name, fault in CATALOGUE.items() if "base_fee_minor" in fault.needs
}
"""The sample has the same customers every month, and no parts of amounts."""

ABOUT_THE_TAX = {"tax_missing", "tax_doubled", "tax_rounded"}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Five months with joiners, leavers, and dearer plans in the last."""
    out = tmp_path_factory.mktemp("generated") / "source"
    behaviour = Behaviour(monthly_churn=0.1, price_change_period=SEPTEMBER, price_change_percent=5)
    generate(out, customers=CUSTOMERS, first_period=SEPTEMBER.plus(-4), months=5, behaviour=behaviour)
    return out


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """The sample's two smallest issuers: real bills, few enough to compare every row again and again."""
    out = tmp_path_factory.mktemp("real") / "source"
    for folder in SAMPLE.glob("billing_period=*"):
        with PeriodWriter(out, BillingPeriod.parse(folder.name[-7:])) as writer:
            for path in sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_size)[:2]:
                writer.append(path.name, pq.ParquetFile(path).read())
    return out


class Compared:
    """A right month and a wrong one as tables `r` and `w`, the truth as `t`; rows of both tables have their file's name."""

    def __init__(self, source: Path, injected: Injected) -> None:
        self._duck = duckdb.connect()
        for name, folder in (("r", source / injected.written.path.name), ("w", injected.written.path)):
            self._duck.execute(
                f"CREATE TABLE {name} AS SELECT * REPLACE (parse_filename(filename) AS filename) FROM"
                f" read_parquet('{folder}/*.parquet', hive_partitioning = false, filename = true)"
            )
        self._duck.execute(f"CREATE TABLE t AS FROM '{injected.truth}'")

    def rows(self, query: str) -> list[tuple]:
        return self._duck.sql(query).fetchall()

    def one(self, query: str) -> object:
        return self.rows(query)[0][0]


def require_exact_truth(source: Path, injected: Injected, period: BillingPeriod) -> Compared:
    """Whoever is not in the truth has the same rows, bytes and file; whoever is has exactly the amounts it says."""
    compared = Compared(source, injected)
    untouched = "SELECT * FROM {0} ANTI JOIN t USING (customer_id, bill_cycle)"
    for one, other in (("r", "w"), ("w", "r")):
        assert not compared.rows(f"{untouched.format(one)} EXCEPT ALL {untouched.format(other)}")
    bills = "SELECT customer_id, bill_cycle, amount_minor FROM"
    was, came = (
        f"SELECT customer_id, bill_cycle, {side} FROM t WHERE {side} IS NOT NULL"
        for side in ("right_minor", "wrong_minor")
    )
    assert not compared.rows(f"({was}) EXCEPT ALL ({bills} r)")
    assert not compared.rows(f"(({bills} r EXCEPT ALL {was}) UNION ALL {came}) EXCEPT ALL ({bills} w)")
    assert compared.one("SELECT (SELECT count(*) FROM r) - count(right_minor) + count(wrong_minor) FROM t") == (
        injected.written.row_count
    )
    changed = "SELECT * FROM {0} SEMI JOIN (FROM t WHERE what IN ('amount', 'details')) USING (customer_id, bill_cycle)"
    assert not compared.rows(f"{changed.format('r')} INTERSECT {changed.format('w')}")
    assert compared.rows("SELECT count(*), sum(coalesce(wrong_minor, 0)) - sum(coalesce(right_minor, 0)) FROM t") == [
        (injected.affected, injected.difference_minor)
    ]
    assert {(what, r, w) for what, r, w in compared.rows(
        "SELECT DISTINCT what, sign(right_minor - wrong_minor) <> 0, right_minor IS NULL FROM t"
    )} <= {("amount", True, False), ("details", False, False), ("missing", None, False), ("extra", None, True)}  # fmt: skip
    arrived = open_source(injected.written.path.parent)
    assert arrived.periods() == open_source(source).periods()
    for file in arrived.arrived(period).files:  # refuses a file that is not what the manifest says
        assert sum(batch.num_rows for batch in file.read(no_progress))
    return compared


@pytest.mark.parametrize("fault", CATALOGUE)
def test_in_a_cohort_the_truth_is_exact_and_as_many_are_hit_as_asked_for(source, tmp_path, fault):
    injected = inject(source, tmp_path / "wrong", fault=fault, period=SEPTEMBER, size=0.05, cohort={"issuer": "Hanbit"})
    compared = require_exact_truth(source, injected, SEPTEMBER)
    cohort = compared.one("SELECT count(DISTINCT customer_id) FROM r WHERE issuer = 'Hanbit'")
    assert round(0.05 * cohort) == HIT, "the test's own figure"
    if CATALOGUE[fault].scope == "customers":
        assert abs(compared.one("SELECT count(DISTINCT customer_id) FROM t") - HIT) <= 1
    if fault not in ("file_instead", "new_customer_ids"):  # these bring customers of other issuers, or of nobody
        assert compared.rows(
            "SELECT DISTINCT issuer FROM (FROM r UNION ALL FROM w) SEMI JOIN t USING (customer_id, bill_cycle)"
        ) == [("Hanbit",)]
    adds_up = "base_fee_minor + usage_fee_minor - discount_minor + tax_minor = amount_minor"
    net = "base_fee_minor + usage_fee_minor - discount_minor"
    taxed = f"tax_minor = sign({net}) * ((abs({net}) + 5) // 10)"
    assert compared.one(f"SELECT count(*) FROM w WHERE NOT ({adds_up})") == 0
    assert (compared.one(f"SELECT count(*) FROM w WHERE NOT ({taxed})") == 0) == (fault not in ABOUT_THE_TAX)


@pytest.mark.parametrize("fault", [name for name in CATALOGUE if name not in NOT_IN_SAMPLE])
def test_on_real_bills_the_truth_is_exact_and_one_percent_is_hit(real, tmp_path, fault):
    injected = inject(real, tmp_path / "wrong", fault=fault, period=SAMPLED, size=0.01)
    compared = require_exact_truth(real, injected, SAMPLED)
    if CATALOGUE[fault].scope == "customers":
        customers = compared.one("SELECT count(DISTINCT customer_id) FROM r")
        assert abs(compared.one("SELECT count(DISTINCT customer_id) FROM t") - round(0.01 * customers)) <= 1


@pytest.fixture(scope="module")
def uneven(source, tmp_path_factory) -> Path:
    """Two cycles for some customers, and bills that lack a part of their amount, or their plan."""
    out = tmp_path_factory.mktemp("uneven") / "source"
    for folder in source.glob("billing_period=*"):
        with PeriodWriter(out, BillingPeriod.parse(folder.name[-7:])) as writer:
            for path in sorted(folder.glob("charges-[hb]*.parquet")):
                charges = pq.ParquetFile(path).read()
                again = with_column(charges, "charge_id", pc.binary_join_element_wise(charges["charge_id"], "B", "-"))
                again = with_column(again, "bill_cycle", pc.add(charges["bill_cycle"], 1)).slice(
                    0, charges.num_rows // 3
                )
                for every, name in enumerate(("tax_minor", "usage_fee_minor", "plan_code"), start=5):
                    lacks = pa.array(np.arange(charges.num_rows) % every == 0)
                    nothing = pa.scalar(None, charges[name].type)
                    charges = with_column(charges, name, pc.if_else(lacks, nothing, charges[name]))
                writer.append(path.name, pa.concat_tables([charges, again]))
    return out


@pytest.mark.parametrize("fault", [
    "earlier_month", "two_months", "file_cut", "leavers_billed", "times_10", "id_as_amount", "shuffled", "wrong_plan",
    "stale_tariff", "tax_doubled", "zeroed", "slow_creep",
])  # fmt: skip
def test_second_cycles_and_bills_without_all_parts_are_hit_as_exactly(uneven, tmp_path, fault):
    injected = inject(uneven, tmp_path / "wrong", fault=fault, period=SEPTEMBER, size=0.1)
    compared = require_exact_truth(uneven, injected, SEPTEMBER)
    parts = "base_fee_minor + usage_fee_minor - discount_minor + tax_minor"
    assert compared.one(f"SELECT count(*) FROM w WHERE {parts} <> amount_minor") == 0


@pytest.mark.parametrize("fault", sorted(NOT_IN_SAMPLE))
def test_what_a_source_cannot_show_is_said_and_nothing_is_written(tmp_path, fault):
    with pytest.raises(UsageError, match=rf"cannot show {fault}: no column|{fault} would change nothing"):
        inject(SAMPLE, tmp_path / "wrong", fault=fault, period=SAMPLED)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("fault", ["times_10", "rows_shifted", "shuffled", "new_customer_ids", "leavers_billed"])
def test_the_same_seed_hits_the_same_customers_and_another_seed_others(source, tmp_path, fault):
    def files(name: str, seed: int) -> dict[str, str]:
        inject(source, tmp_path / name, fault=fault, period=SEPTEMBER, size=0.02, seed=seed)
        paths = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}

    first = files("first", 1)
    assert files("again", 1) == first
    assert files("other", 2)["truth.parquet"] != first["truth.parquet"]


def test_the_source_stays_as_it_is_and_its_history_is_shared(source, tmp_path):
    def digests() -> dict[Path, str]:
        return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in source.rglob("*") if p.is_file()}

    before = digests()
    for fault in ("zeroed", "slow_creep"):
        inject(source, tmp_path / fault, fault=fault, period=SEPTEMBER)
    assert digests() == before
    august = Path(f"billing_period={SEPTEMBER.plus(-1)}") / "charges-hanbit.parquet"
    assert (tmp_path / "zeroed" / august).samefile(source / august)
    assert not (tmp_path / "slow_creep" / august).samefile(source / august)


def test_an_earlier_months_amounts_for_everybody_are_those_of_the_incident(tmp_path):
    injected = inject(SAMPLE, tmp_path / "injected", fault="earlier_month", period=SAMPLED, lag=2, history=False)
    with_earlier_amounts(SAMPLE, tmp_path / "incident", period=SAMPLED, amounts_of=BillingPeriod(2005, 7))
    assert not (tmp_path / "injected" / "billing_period=2005-08").exists()
    for path in injected.written.path.glob("*.parquet"):
        assert (
            pq.ParquetFile(path)
            .read()
            .equals(pq.ParquetFile(tmp_path / "incident" / injected.written.path.name / path.name).read())
        )


def test_units_slip_by_exactly_their_factor(tmp_path):
    for fault, factor in (("times_10", 10), ("times_100", 100), ("times_1000", 1_000)):
        truth = pq.read_table(inject(SAMPLE, tmp_path / fault, fault=fault, period=SAMPLED, size=0.01).truth)
        assert pc.all(pc.equal(truth["wrong_minor"], pc.multiply(truth["right_minor"], factor))).as_py()


def test_in_a_stretch_each_customer_has_the_bill_of_the_row_above(source, tmp_path):
    compared = Compared(source, inject(source, tmp_path / "wrong", fault="rows_shifted", period=SEPTEMBER, size=0.02))
    hit = compared.rows("""
        WITH numbered AS (SELECT *, row_number() OVER () AS place FROM r)
        SELECT filename, place, wrong_minor, lag(amount_minor) OVER (PARTITION BY filename ORDER BY place) AS above,
               customer_id IN (SELECT customer_id FROM t) AS is_hit
        FROM numbered LEFT JOIN t USING (customer_id) QUALIFY is_hit ORDER BY place""")
    assert len(hit) == 40
    assert all(wrong == above for _, _, wrong, above, _ in hit if above is not None)
    assert hit[-1][1] - hit[0][1] < 60, "next to each other, but for neighbours with equal bills"


def test_new_customer_ids_are_nobodys_and_of_the_same_form(source, tmp_path):
    compared = Compared(
        source, inject(source, tmp_path / "wrong", fault="new_customer_ids", period=SEPTEMBER, size=0.02)
    )
    known = f"SELECT customer_id FROM read_parquet('{source}/*/*.parquet', hive_partitioning = false)"
    assert compared.one(f"SELECT count(*) FROM t WHERE customer_id IN ({known})") == 0
    assert compared.one("SELECT count(*) FROM t WHERE regexp_full_match(customer_id, 'C[0-9]{8}')") == 40
    assert compared.one("SELECT count(*) FROM w GROUP BY charge_id ORDER BY count(*) DESC LIMIT 1") == 1
    assert (
        compared.one("SELECT count(*) FROM (FROM w SEMI JOIN t USING (customer_id)) JOIN r USING (instrument_token)")
        == 40
    )


def test_who_left_was_billed_before_but_neither_last_month_nor_now(source, tmp_path):
    compared = Compared(source, inject(source, tmp_path / "wrong", fault="leavers_billed", period=SEPTEMBER))
    folders = f"read_parquet('{source}/billing_period={{}}/*.parquet', hive_partitioning = false)"
    for period, expected in ((SEPTEMBER, 0), (SEPTEMBER.plus(-1), 0), (SEPTEMBER.plus(-4), 600)):
        billed = folders.format(period)
        assert compared.one(f"SELECT count(*) FROM t SEMI JOIN {billed} USING (customer_id)") == expected
    assert compared.rows("SELECT DISTINCT billing_period, service_start FROM w") == compared.rows(
        "SELECT DISTINCT billing_period, service_start FROM r"
    )


def test_a_stale_tariff_is_last_months_base_fee_on_the_same_plan(source, tmp_path):
    compared = Compared(source, inject(source, tmp_path / "wrong", fault="stale_tariff", period=SEPTEMBER, size=0.1))
    august = f"read_parquet('{source}/billing_period={SEPTEMBER.plus(-1)}/*.parquet', hive_partitioning = false)"
    assert compared.rows(f"""
        SELECT count(*), bool_and(w.base_fee_minor = a.base_fee_minor), bool_and(w.plan_code = a.plan_code),
               bool_and(w.base_fee_minor < r.base_fee_minor)
        FROM t JOIN w USING (customer_id) JOIN r USING (customer_id) JOIN {august} AS a USING (customer_id)
    """) == [(200, True, True, True)]


def test_creep_grows_month_by_month_for_the_same_customers(source, tmp_path):
    injected = inject(source, tmp_path / "wrong", fault="slow_creep", period=SEPTEMBER, size=0.5)
    totals = "SELECT sum(amount_minor) FROM read_parquet('{0}/billing_period={1}/*.parquet', hive_partitioning = false)" \
        " SEMI JOIN t USING (customer_id)"  # fmt: skip
    compared = Compared(source, injected)
    for age in range(5):
        period = SEPTEMBER.plus(age - 4)
        right, wrong = (int(compared.one(totals.format(place, period))) for place in (source, tmp_path / "wrong"))
        assert wrong / right == pytest.approx(1.01**age, rel=1e-4)


def test_a_whole_file_is_the_one_nearest_in_size_or_the_cohorts(tmp_path):
    def lost(name: str, **how: object) -> set[str]:
        injected = inject(SAMPLE, tmp_path / name, fault="file_missing", period=SAMPLED, **how)
        there = {path.name for path in injected.written.path.glob("*.parquet")}
        return {path.name for path in (SAMPLE / injected.written.path.name).glob("*.parquet")} - there

    assert lost("small", size=0.01) == lost("cohort", cohort={"issuer": "Rowan"}) == {"charges-rowan.parquet"}
    assert lost("large", size=0.3) == {"charges-alder.parquet"}


@pytest.mark.parametrize(("how", "message"), [
    ({"fault": "gremlins"}, "no fault is called 'gremlins'; there are earlier_month, "),
    ({"fault": "zeroed", "size": 0.00001}, "is nobody"),
    ({"fault": "zeroed", "size": 1.5}, "a share of customers"),
    ({"fault": "zeroed", "cohort": {"issuer": "Nobody"}}, "no charge has issuer Nobody"),
    ({"fault": "zeroed", "cohort": {"colour": "red"}}, "no column colour"),
    ({"fault": "customers_dropped"}, "would leave no charge"),
    ({"fault": "earlier_month", "lag": 7}, "cannot show earlier_month: no month 2005-02"),
    ({"fault": "mixed_months", "lag": 5}, "cannot show mixed_months: no month 2005-03"),
])  # fmt: skip
def test_what_cannot_be_done_is_said(tmp_path, how, message):
    with pytest.raises(UsageError, match=message):
        inject(SAMPLE, tmp_path / "wrong", period=SAMPLED, **how)


def test_nothing_is_replaced_that_was_not_injected(source, tmp_path):
    with pytest.raises(UsageError, match="is the source itself"):
        inject(source, source, fault="zeroed", period=SEPTEMBER, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(UsageError, match="was not injected"):
        inject(source, tmp_path / "mine", fault="zeroed", period=SEPTEMBER, overwrite=True)
    inject(source, tmp_path / "wrong", fault="zeroed", period=SEPTEMBER)
    with pytest.raises(UsageError, match="exists"):
        inject(source, tmp_path / "wrong", fault="times_10", period=SEPTEMBER)
    inject(source, tmp_path / "wrong", fault="times_10", period=SEPTEMBER, overwrite=True)


def test_the_command_lists_the_faults_and_injects_one(tmp_path, capsys):
    assert main(["mischarge", "--list", "--json", "--quiet"]) == 0
    assert [fault["name"] for fault in json.loads(capsys.readouterr().out)["faults"]] == list(CATALOGUE)
    place = ["--source", str(SAMPLE), "--out", str(tmp_path / "wrong"), "--period", "2005-09", "--json", "--quiet"]
    cohort = ["--cohort", "issuer=Rowan", "--cohort", "plan_code=GOLD"]
    assert main(["mischarge", *place, "--amounts-of", "2005-07", "--size", "0.5", *cohort]) == 0
    result = json.loads(capsys.readouterr().out)
    truth = pq.read_table(result["truth"])
    assert (result["fault"], result["affected"]) == ("earlier_month", truth.num_rows)
    assert main(["mischarge", *place, "--fault", "times_10", "--seed", "3", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out)["cause"] == "unit_slip"


@pytest.mark.parametrize("arguments", [[], ["--fault", "times_10", "--cohort", "issuer"], ["--fault", "gremlins"]])
def test_the_command_refuses_what_it_cannot_mean(tmp_path, capsys, arguments):
    place = ["--source", str(SAMPLE), "--out", str(tmp_path / "wrong"), "--period", "2005-09", "--json", "--quiet"]
    assert main(["mischarge", *place, *arguments]) == 2
    assert "error" in json.loads(capsys.readouterr().out)
