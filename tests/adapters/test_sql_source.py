"""What a database as a source promises: the same run as the same charges in a file, and no secret anywhere."""

import sqlite3
from pathlib import Path

import pyarrow as pa
import pytest
from charge_files import PERIOD, charges, land, landed, left_in, write

from pipeline.adapters import sql_source
from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.sources import FolderSource, SqlSource, open_source
from pipeline.errors import RetriableError, UnreadableInput, UsageError
from pipeline.extract import Extracted, extract, periods_available
from pipeline.ports import no_progress

QUERY = "SELECT * FROM charges WHERE billing_period = :billing_period ORDER BY charge_id"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def database(tmp_path: Path, table: pa.Table) -> str:
    """The URL of an SQLite database whose table `charges` is `table`."""
    path = tmp_path / "charges.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE charges ({', '.join(table.schema.names)})")
        rows = [
            tuple(v.isoformat() if hasattr(v, "isoformat") else v for v in row.values()) for row in table.to_pylist()
        ]
        connection.executemany(f"INSERT INTO charges VALUES ({', '.join('?' * table.num_columns)})", rows)
    return f"sqlite:///{path}"


def land_query(url: str, lake: Path, query: str = QUERY) -> Extracted:
    return extract(SqlSource(url, query), PERIOD, lake=ParquetLake(lake))


def test_a_query_lands_the_same_run_as_a_file(tmp_path: Path, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_source, "FETCHED_ROWS", 4)  # several fetches
    table = charges(9).set_column(9, charges().schema.field(9), pa.array([None, *["5G-뷁"] * 8]))
    write(tmp_path / "source", "a.csv", table)
    from_file = land(tmp_path / "source", tmp_path / "other").run
    (query_result,) = SqlSource(database(tmp_path, table), QUERY).arrived(PERIOD).files
    assert [batch.num_rows for batch in query_result.read(no_progress)] == [4, 4, 1]
    outcome = land_query(database(tmp_path, table), lake)
    assert landed(outcome).select(table.schema.names).equals(table)
    assert (outcome.run.run_id, outcome.run.content_sha256) == (from_file.run_id, from_file.content_sha256)
    assert landed(outcome)["source_row"].to_pylist() == list(range(1, 10))
    (file,) = outcome.run.files
    assert (file.name, file.row_count, file.sha256) == ("query", 9, from_file.content_sha256)
    assert land_query(database(tmp_path, table), lake).already_landed


def test_only_the_period_asked_for_is_read(tmp_path: Path, lake: Path) -> None:
    table = pa.concat_tables([charges(2), charges(5, billing_period="2023-08")])
    assert land_query(database(tmp_path, table), lake).run.row_count == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"amount_minor": "100"}, ["row 1", "column amount_minor", "is str and must be integer"]),
        ({"amount_minor": 100.0}, ["row 1", "column amount_minor", "is float and must be integer"]),
        ({"customer_id": 12345}, ["row 1", "column customer_id", "is int and must be text"]),
        ({"service_start": "2023-9-1"}, ["row 1", "column service_start", "YYYY-MM-DD"]),
        ({"service_start": 20230901}, ["row 1", "column service_start", "is int and must be date"]),
        ({"plan_code": "x\0y"}, ["row 1", "column plan_code", "NUL"]),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, lake: Path, changed: dict, said: list[str]) -> None:
    (name, value), table = next(iter(changed.items())), charges(3)
    table = table.set_column(table.schema.get_field_index(name), name, pa.array([value] * 3))
    with pytest.raises(UnreadableInput) as refusal:
        land_query(database(tmp_path, table), lake)
    assert [part for part in said if part not in str(refusal.value)] == []
    assert left_in(lake) == []


def test_columns_of_a_query_are_those_of_the_schema(tmp_path: Path, lake: Path) -> None:
    url = database(tmp_path, charges().rename_columns({"issuer": "issuers"}))
    with pytest.raises(UnreadableInput, match=r"issuers.*is it issuer\?"):
        land_query(url, lake)


def test_a_query_without_rows_is_refused(tmp_path: Path, lake: Path) -> None:
    with pytest.raises(UnreadableInput, match="no rows for 2023-09"):
        land_query(database(tmp_path, charges(1, billing_period="2023-08")), lake)
    assert left_in(lake) == []


def test_a_query_chooses_a_period_and_an_order(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=":billing_period"):
        SqlSource("sqlite://", "SELECT * FROM charges ORDER BY charge_id")
    with pytest.raises(UsageError, match="ORDER BY"):
        SqlSource("sqlite://", "SELECT * FROM charges WHERE billing_period = :billing_period")


def test_a_password_is_in_no_label_and_no_message(lake: Path) -> None:
    source = SqlSource("postgresql+psycopg://biller:s3cret-w0rd@127.0.0.1:1/bills?password=s3cret-w0rd", QUERY)
    assert source.label == "postgresql+psycopg://biller@127.0.0.1:1/bills"
    with pytest.raises(RetriableError) as failure:
        extract(source, PERIOD, lake=ParquetLake(lake))
    assert "s3cret" not in str(failure.value)
    assert "s3cret" not in repr(vars(failure.value))
    assert failure.value.__cause__ is None
    assert left_in(lake) == []


def test_a_url_that_is_none_is_not_repeated() -> None:
    with pytest.raises(UsageError) as refusal:
        SqlSource("postgresql//user:s3cret", QUERY)
    assert "s3cret" not in str(refusal.value)


def test_a_missing_driver_is_named(lake: Path) -> None:
    with pytest.raises(UsageError, match="driver is not installed"):
        extract(SqlSource("nosuchdb://host/db", QUERY), PERIOD, lake=ParquetLake(lake))


def test_a_source_is_a_folder_or_a_database_with_a_query(tmp_path: Path) -> None:
    assert isinstance(open_source(tmp_path), FolderSource)
    assert isinstance(open_source("sqlite://", QUERY), SqlSource)
    assert periods_available(open_source("sqlite://", QUERY)) == []
    with pytest.raises(UsageError, match="needs a query"):
        open_source("sqlite://")
    with pytest.raises(UsageError, match="takes no query"):
        open_source(tmp_path, QUERY)
