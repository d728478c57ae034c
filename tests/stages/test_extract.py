"""What extract promises: whole or not at all, once per content, and an error that says where and why."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from charge_files import PERIOD, charges, csv_text, land, landed, left_in, period_folder, promise, write, write_manifest

from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.sources import FolderSource
from pipeline.errors import UnreadableInput, UsageError
from pipeline.extract import extract, periods_available
from pipeline.schema import LANDED_SCHEMA

HEADER, FIRST, SECOND, THIRD = csv_text(charges()).splitlines(keepends=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


def refused(source: Path, lake: Path, *said: str) -> str:
    """The message of a refusal that landed nothing, left nothing and says all of `said`."""
    with pytest.raises(UnreadableInput) as refusal:
        land(source, lake)
    message = str(refusal.value)
    assert [part for part in said if part not in message] == [], message
    assert left_in(lake) == []
    return message


# -- what lands ---------------------------------------------------------------------------------------------------


def test_a_landed_run_keeps_every_value_and_where_it_came_from(source: Path, lake: Path) -> None:
    table = charges(3)
    write(source, "b.csv", table.slice(1))
    write(source, "a.parquet", table.slice(0, 1))
    outcome = land(source, lake)
    rows = landed(outcome)
    assert rows.schema.equals(LANDED_SCHEMA)
    assert rows.select(table.schema.names).equals(table)
    assert rows["source_file"].to_pylist() == ["a.parquet", "b.csv", "b.csv"]
    assert rows["source_row"].to_pylist() == [1, 1, 2]
    assert rows["customer_id"].to_pylist()[0] == "0000001"
    run = outcome.run
    assert (run.row_count, run.control_total_minor, run.billing_period) == (3, 600, "2023-09")
    assert [(file.name, file.row_count, file.control_total_minor) for file in run.files] == [
        ("a.parquet", 1, 100),
        ("b.csv", 2, 500),
    ]
    assert run.run_id == f"2023-09-{run.content_sha256[:12]}"


def test_a_run_is_found_again_as_it_was_landed(source: Path, lake: Path) -> None:
    path = write(source, "a.csv", charges())
    write_manifest(source, promise(path, 3, 600))
    run = land(source, lake).run
    assert ParquetLake(lake).find(run.run_id) == run
    assert ParquetLake(lake).find(run.run_id) == run
    ParquetLake(lake).prove([run])
    assert run.files[0].manifest_row_count == 3
    assert ParquetLake(lake).find("2023-09-000000000000") is None
    assert ParquetLake(lake).find("../../etc") is None


def test_landing_the_same_content_twice_changes_nothing(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges())
    first = land(source, lake)
    before = {path: path.stat().st_mtime_ns for path in lake.rglob("*.*") if "_seen" not in path.parts}
    again = land(source, lake)
    assert (first.already_landed, again.already_landed) == (False, True)
    assert again.run == first.run
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(lake.glob("billing_period=*/run_id=*"))) == 1


def test_new_content_for_a_period_is_a_new_run_beside_the_old(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges(3))
    old = land(source, lake).run
    write(source, "a.csv", charges(4))
    new = land(source, lake)
    assert not new.already_landed
    assert new.run.run_id != old.run_id
    ParquetLake(lake).prove([old, new.run])


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("a.csv", "utf-8"), ("a.csv", "utf-8-sig"), ("a.csv", "cp949"), ("a.csv.gz", "utf-8"), ("a.csv.gz", "cp949"),
     ("A.CSV", "utf-8"), ("a.parquet", "")],
)  # fmt: skip
def test_the_same_charges_are_the_same_run_in_every_format(source: Path, lake: Path, name: str, encoding: str) -> None:
    table = charges(50)
    write(source, name, table, encoding)
    outcome = land(source, lake)
    assert landed(outcome).select(table.schema.names).equals(table)
    assert outcome.run.run_id == "2023-09-" + CONTENT_OF_FIFTY[:12]
    assert outcome.run.content_sha256 == CONTENT_OF_FIFTY


CONTENT_OF_FIFTY = "c8cf1c36d0549bf5dee4849e74b385eda711e59f4f937f9a5af3ef4953ff0789"
"""What `charges(50)` has been called since the first version; a change would give every landed run another name."""


def test_the_order_of_columns_is_free_and_optional_ones_may_be_absent(source: Path, lake: Path) -> None:
    table = charges().drop_columns(["bill_cycle", "plan_code", "service_start", "tax_minor"])
    write(source, "a.csv", table.select(table.schema.names[::-1]))
    rows = landed(land(source, lake))
    assert rows["bill_cycle"].to_pylist() == [1, 1, 1]
    for absent in ("plan_code", "service_start", "tax_minor"):
        assert rows[absent].null_count == 3


def test_an_empty_field_lands_as_null_even_where_a_value_is_required(source: Path, lake: Path) -> None:
    write(source, "a.csv", HEADER + FIRST.replace("C-1", "").replace("tok_secret_1", '""') + SECOND)
    rows = landed(land(source, lake))
    assert rows["charge_id"].to_pylist() == [None, "C-2"]
    assert rows["instrument_token"].null_count == 1


@pytest.mark.parametrize(
    "changed",
    [{"billing_period": "2023-07"}, {"currency": "won"}, {"amount_minor": -(2**63)}, {"charge_id": "same"},
     {"payment_method": "barter"}, {"plan_code": 'a "quoted", one'}, {"customer_id": " 00 12 "}],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_what_is_readable_but_wrong_lands_as_it_is(source: Path, lake: Path, name: str, changed: dict) -> None:
    table = charges(2, **changed)
    write(source, name, table)
    assert landed(land(source, lake)).select(table.schema.names).equals(table)


def test_a_control_total_beyond_64_bits_is_exact(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges(4, amount_minor=2**63 - 1))
    assert land(source, lake).run.control_total_minor == 4 * (2**63 - 1)


def test_windows_line_ends_and_empty_lines_change_nothing(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges())
    plain = land(source, lake).run
    write(source, "a.csv", csv_text(charges()).replace("\n", "\r\n") + "\r\n")
    assert land(source, lake).run == plain


def test_progress_is_told_to_the_end(source: Path, lake: Path) -> None:
    path = write(source, "a.csv", charges())
    told: list[tuple[str, int, int | None]] = []
    extract(FolderSource(source), PERIOD, lake=ParquetLake(lake), progress=lambda *step: told.append(step))
    size = path.stat().st_size
    assert ("checking a.csv", size, size) in told
    assert told[-1] == ("landing a.csv", size, size)


# -- waiting ------------------------------------------------------------------------------------------------------


def test_files_that_the_manifest_names_are_waited_for(source: Path, lake: Path) -> None:
    here = write(source, "kb.csv", charges())
    write_manifest(source, promise(here, 3, 600), promise(here, 3, 600, name="shinhan.csv"))
    outcome = land(source, lake)
    assert (outcome.run, outcome.waiting_for) == (None, ("shinhan.csv",))
    assert left_in(lake) == []
    write(source, "shinhan.csv", charges())
    assert land(source, lake).run.row_count == 6


@pytest.mark.parametrize("partial", ["a.csv.part", "a.parquet.tmp", "manifest.json.filepart"])
def test_a_transfer_that_has_begun_is_waited_for(source: Path, lake: Path, partial: str) -> None:
    write(source, "b.csv", charges())
    write(source, partial, b"half of")
    assert land(source, lake).waiting_for == (partial,)
    assert left_in(lake) == []


@pytest.mark.parametrize("addition", ["", "C-4"])
def test_a_file_that_grows_while_it_is_read_is_waited_for(source: Path, lake: Path, addition: str) -> None:
    path = write(source, "a.csv", charges())
    size = path.stat().st_size

    def more_arrives(what: str, done: int, total: int | None) -> None:
        if what.startswith("checking") and path.stat().st_size == size:
            with path.open("a") as file:
                file.write(addition or THIRD)

    outcome = extract(FolderSource(source), PERIOD, lake=ParquetLake(lake), progress=more_arrives)
    assert (outcome.run, outcome.waiting_for) == (None, ("a.csv",))
    assert left_in(lake) == []


# -- history ------------------------------------------------------------------------------------------------------


def test_unchanged_files_of_history_are_not_read_again(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges())
    first = land(source, lake)
    read: list[str] = []
    again = extract(
        FolderSource(source), PERIOD, lake=ParquetLake(lake), trust_unchanged_files=True,
        progress=lambda what, done, total: read.append(what),
    )  # fmt: skip
    assert (again.run, again.already_landed, read) == (first.run, True, [])


def test_changed_files_of_history_are_read_again(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges(3))
    first = land(source, lake)
    write(source, "a.csv", charges(4))
    assert land(source, lake, trust_unchanged_files=True).run.run_id != first.run.run_id
    write_manifest(source, promise(period_folder(source) / "a.csv", 5, 1500))
    with pytest.raises(UnreadableInput, match="row_count"):
        land(source, lake, trust_unchanged_files=True)


def test_a_judged_period_is_read_even_if_its_files_look_unchanged(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges())
    land(source, lake)
    note = next(lake.glob("_seen/*.json"))
    note.write_text(json.dumps(json.loads(note.read_text()) | {"run_id": "2023-09-000000000000"}))
    read: list[str] = []
    extract(FolderSource(source), PERIOD, lake=ParquetLake(lake), progress=lambda what, *_: read.append(what))
    assert "checking a.csv" in read


def test_periods_are_listed_in_order(source: Path) -> None:
    for name in ("billing_period=2023-10", "billing_period=2023-07", "billing_period=2023-13", "other"):
        (source / name).mkdir(parents=True)
    assert [str(period) for period in periods_available(FolderSource(source))] == ["2023-07", "2023-10"]


# -- bad input ----------------------------------------------------------------------------------------------------


def test_a_missing_period_names_those_that_are_there(source: Path, lake: Path) -> None:
    (source / "billing_period=2023-07").mkdir(parents=True)
    refused(source, lake, "billing_period=2023-09", "2023-07")
    with pytest.raises(UsageError, match="does not exist"):
        land(source / "elsewhere", lake)


def test_a_folder_without_charge_files_is_refused(source: Path, lake: Path) -> None:
    write(source, "_SUCCESS", "")
    write(source, ".a.csv.swp", "")
    refused(source, lake, "holds no charge file")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["amount_minor"]), ["column amount_minor is missing"]),
        (lambda t: t.append_column("comment", t["issuer"]), ["column comment", "not part of a charge file"]),
        (lambda t: t.rename_columns({"amount_minor": "amount_minors"}), ["amount_minors", "is it amount_minor?"]),
        (lambda t: t.rename_columns({"customer_id": " Customer_ID"}), ["Customer_ID", "is it customer_id?"]),
        (lambda t: t.append_column("issuer", t["issuer"]), ["column issuer", "more than once"]),
        (lambda t: t.select(["issuer"]).rename_columns(["x"]), ["none of its 1 columns"]),
        (lambda t: t.slice(0, 0), ["has no rows"]),
    ],
    ids=["missing", "extra", "renamed", "recased", "duplicate", "foreign", "no-rows"],
)
def test_columns_are_those_of_the_schema(
    source: Path, lake: Path, name: str, change: Callable[[pa.Table], pa.Table], said: list[str]
) -> None:
    write(source, name, change(charges()))
    refused(source, lake, name, *said)


def test_a_missing_header_shows_nobodys_data(source: Path, lake: Path) -> None:
    write(source, "a.csv", FIRST + SECOND)
    assert "tok_" not in refused(source, lake, "a.csv", "is the header line missing?")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_named(source: Path, lake: Path, separator: str) -> None:
    write(source, "a.csv", csv_text(charges()).replace(",", separator))
    refused(source, lake, "a.csv", "separated by", repr(separator))


@pytest.mark.parametrize(
    ("column", "retyped"),
    [
        ("amount_minor", pa.array([100.0, float("nan"), 300.0])),
        ("amount_minor", pa.array(["100", "200", "300"])),
        ("amount_minor", pa.array([1, 2, 3], pa.uint64())),
        ("amount_minor", pa.array([True, False, True])),
        ("tax_minor", pa.array([1, 2, 3]).cast(pa.decimal128(22, 2))),
        ("customer_id", pa.array([1, 2, 3])),
        ("customer_id", pa.array([b"1", b"2", b"3"])),
        ("service_start", pa.array(["2023-09-01"] * 3)),
        ("service_start", pa.array([0, 1, 2], pa.timestamp("ms"))),
        ("plan_code", pa.array([["a"], ["b"], ["c"]])),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_a_retyped_parquet_column_is_refused(source: Path, lake: Path, column: str, retyped: pa.Array) -> None:
    table = charges()
    write(source, "a.parquet", table.set_column(table.schema.get_field_index(column), column, retyped))
    refused(source, lake, "a.parquet", f"column {column} has type {str(retyped.type)[:4]}")


@pytest.mark.parametrize(
    ("column", "type_"),
    [("bill_cycle", pa.int8()), ("bill_cycle", pa.uint32()), ("amount_minor", pa.int32()), ("issuer", pa.large_string()),
     ("issuer", pa.dictionary(pa.int32(), pa.string()))],
    ids=str,
)  # fmt: skip
def test_a_type_that_widens_without_loss_is_the_same_content(
    source: Path, lake: Path, column: str, type_: pa.DataType
) -> None:
    table = charges(50)
    place = table.schema.get_field_index(column)
    write(source, "a.parquet", table.set_column(place, column, table[column].cast(type_)))
    assert land(source, lake).run.content_sha256 == CONTENT_OF_FIFTY


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("NaN", "not a finite number"),
        ("inf", "not a finite number"),
        ("-Infinity", "not a finite number"),
        ("100.0", "fraction"),
        ("100.", "fraction"),
        ('"1,000"', "thousands separator"),
        ('"1,000.00"', "thousands separator"),
        ("１００", "digits other than the ASCII ones"),
        ("१००", "digits other than the ASCII ones"),
        ("1e3", "scientific notation"),
        ("+100", "leading plus"),
        (" 100", "spaces around"),
        ("100\u3000", "spaces around"),
        ("0x1F", "hexadecimal"),
        ("(100)", "brackets"),
        ("−100", "not a whole number"),
        ("-", "not a whole number"),
        ("NULL", "not a whole number"),
        ("9223372036854775808", "64 bits"),
        ("-9223372036854775809", "64 bits"),
        ("1" * 4000, "64 bits"),
    ],
    ids=lambda text: text[:12],
)
def test_an_amount_is_whole_and_in_ascii_digits(source: Path, lake: Path, value: str, reason: str) -> None:
    write(source, "a.csv", HEADER + FIRST + SECOND.replace(",200,", f",{value},") + THIRD)
    refused(source, lake, "a.csv", "row 2", "column amount_minor", reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [("2023-9-01", "YYYY-MM-DD"), ("20230901", "YYYY-MM-DD"), ("2023/09/01", "YYYY-MM-DD"), ("2023-02-29", "calendar"),
     ("2023-09-01T00:00:00", "YYYY-MM-DD"), ("0000-01-01", "years 1 to 9999"), ("２０２３-09-01", "YYYY-MM-DD")],
)  # fmt: skip
def test_a_date_is_a_day_of_the_calendar(source: Path, lake: Path, value: str, reason: str) -> None:
    write(source, "a.csv", HEADER + FIRST + SECOND.replace("2023-09-01", value) + THIRD)
    refused(source, lake, "a.csv", "row 2", "column service_start", reason)


def test_an_error_far_into_a_file_names_the_right_row(source: Path, lake: Path) -> None:
    lines = [HEADER, *([FIRST] * 40_000)]
    wrong = FIRST.replace(",100,", ",1OO,")
    write(source, "a.csv", "".join([*lines, wrong, *lines[1:]]))
    refused(source, lake, "a.csv", "row 40001", "'1OO'")
    write(source, "a.csv", "".join([*lines, "\n", FIRST.replace("KRW,", ""), *lines[1:]]))
    refused(source, lake, "a.csv", "row 40,001 (line 40,003)", "too short")


def test_a_card_number_is_never_shown(source: Path, lake: Path) -> None:
    for number in ("4111111111111111x", "4111 1111 1111 1111", "４１１１１１１１１１１１１１１１"):
        write(source, "a.csv", HEADER + FIRST.replace(",100,", f",{number},"))
        message = refused(source, lake, "row 1", "not shown")
        assert number not in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (FIRST + SECOND[:-4], ["may be truncated"]),
        (FIRST + "C-2,0000002\n", ["row 2 (line 3)", "too short", "2 fields", "16"]),
        (FIRST + SECOND.replace("\n", ",x\n"), ["row 2 (line 3)", "too long"]),
        (FIRST + SECOND.replace("5G-뷁", '"5G') + THIRD, ["row 2 (line 3)", "quotation mark"]),
        (FIRST.replace("2023-09-30", '"2023-09-30') + SECOND, ["row 1", "YYYY-MM-DD"]),
        (FIRST + SECOND.replace("tok_secret_1", '"tok_\nsecret"'), ["row 2", "instrument_token", "line break"]),
        (FIRST + SECOND.replace("5G-뷁", "x" * 5000), ["row 2", "plan_code", "longer than"]),
        (FIRST + SECOND.replace("5G-뷁", '"' + "x" * 3_000_000), ["row 2", "quotation mark"]),
        (FIRST + SECOND.replace("5G", "\0"), ["NUL byte"]),
        ("", ["has no rows"]),
    ],
    ids=[
        "cut",
        "short",
        "long",
        "open-quote",
        "open-quote-at-end",
        "line-break",
        "long-value",
        "endless",
        "nul",
        "empty",
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_rows_are_complete(source: Path, lake: Path, name: str, rows: str, said: list[str]) -> None:
    write(source, name, HEADER + rows)
    assert "tok_" not in refused(source, lake, name, *said)


def test_a_manifest_vouches_for_a_last_row_without_a_line_end(source: Path, lake: Path) -> None:
    path = write(source, "a.csv", csv_text(charges()).rstrip("\n"))
    refused(source, lake, "a.csv", "may be truncated")
    write_manifest(source, promise(path, 3, 600))
    assert land(source, lake).run.row_count == 3


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_an_empty_file_is_refused(source: Path, lake: Path, name: str) -> None:
    write(source, name, b"")
    refused(source, lake, name, "empty")


def test_a_truncated_gzip_file_is_refused(source: Path, lake: Path) -> None:
    path = write(source, "a.csv.gz", charges(1000))
    path.write_bytes(path.read_bytes()[:-20])
    refused(source, lake, "a.csv.gz", "truncated gzip")
    path.write_bytes(gzip.compress(b"x")[:-8] + b"12345678")
    refused(source, lake, "a.csv.gz", "damaged gzip")


def test_a_decompression_bomb_is_refused(source: Path, lake: Path) -> None:
    write(source, "a.csv.gz", gzip.compress(HEADER.encode() + b" " * (70 * 1024 * 1024)))
    refused(source, lake, "a.csv.gz", "expands")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-7], lambda raw: raw[:500], lambda raw: b"PAR1" + raw[9:]])
def test_a_parquet_file_that_cannot_be_read_is_refused(
    source: Path, lake: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = write(source, "a.parquet", charges(1000))
    path.write_bytes(damage(path.read_bytes()))
    refused(source, lake, "a.parquet", "truncated or damaged")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_with_a_manifest_one_flipped_bit_anywhere_is_noticed(source: Path, lake: Path, name: str) -> None:
    path = write(source, name, charges(200))
    raw = path.read_bytes()
    write_manifest(source, promise(path, 200, 100 * 200 * 201 // 2))
    for position in range(0, len(raw), len(raw) // 15):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        refused(source, lake, name, "SHA-256", "changed on the way")
    path.write_bytes(raw[:-1])
    refused(source, lake, name, "SHA-256", "truncated")
    path.write_bytes(raw)
    assert land(source, lake).run.row_count == 200


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ((HEADER + FIRST).encode("utf-16"), ["NUL byte", "UTF-16"]),
        (HEADER.encode() + FIRST.encode().replace("뷁".encode(), b"\xff\xff"), ["neither UTF-8 (byte", "line 2", "CP949 (byte"]),
        (HEADER.encode() + FIRST.encode()[:-1] + "뷁".encode("cp949") + "뷁".encode() + b"\n", ["neither UTF-8"]),
    ],
    ids=["utf-16", "neither", "mixed"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_text_is_decoded_strictly(source: Path, lake: Path, name: str, raw: bytes, said: list[str]) -> None:
    write(source, name, gzip.compress(raw) if name.endswith("gz") else raw)
    refused(source, lake, name, *said)


def test_the_offset_of_a_wrong_byte_is_exact_across_blocks(source: Path, lake: Path) -> None:
    good = (HEADER + FIRST * 20_000).encode()
    assert len(good) > 2 * 1024 * 1024
    write(source, "a.csv", good + b"C-\xff\xff" + SECOND.encode())
    refused(source, lake, f"UTF-8 (byte {len(good) + 2:,}, line 20,002)", "CP949 (byte")


def test_a_parquet_text_that_is_not_utf8_is_refused(source: Path, lake: Path) -> None:
    table = charges()
    wrong = pa.array([b"5G", "뷁".encode("cp949"), b"5G"]).view(pa.string())
    write(source, "a.parquet", table.set_column(table.schema.get_field_index("plan_code"), "plan_code", wrong))
    refused(source, lake, "a.parquet", "row 2", "column plan_code", "not UTF-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"row_count": 4}, ["a.csv", "row_count is 3", "says 4"]),
        ({"control_total_minor": 599}, ["a.csv", "control_total_minor is 600", "says 599"]),
        ({"sha256": "0" * 64}, ["a.csv", "SHA-256"]),
        ({"sha256": "abc"}, ["manifest.json", "files entry 1", "64 hexadecimal"]),
        ({"row_count": 3.0}, ["manifest.json", "files entry 1", "row_count", "float"]),
        ({"row_count": True}, ["manifest.json", "row_count", "bool"]),
        ({"row_count": -3}, ["manifest.json", "row_count", "negative"]),
        ({"control_total_minor": "600"}, ["manifest.json", "control_total_minor", "str"]),
        ({"name": None}, ["manifest.json", "name", "NoneType"]),
        ({"name": "../a.csv"}, ["manifest.json", "'../a.csv'", "out of the period's folder"]),
        ({"name": "/etc/passwd"}, ["manifest.json", "out of the period's folder"]),
        ({"name": "..\\a.csv"}, ["manifest.json", "out of the period's folder"]),
        ({"name": "sub/a.csv"}, ["manifest.json", "plain file name"]),
        ({"name": ".."}, ["manifest.json", "no name"]),
        ({"name": "a\n.csv"}, ["manifest.json", "no name"]),
        ({"name": "b.csv"}, ["a.csv", "does not name it"]),
    ],
    ids=lambda value: "-".join(map(str, value.items() if isinstance(value, dict) else value[:1]))[:40],
)
def test_a_manifest_that_is_wrong_is_refused(source: Path, lake: Path, change: dict, said: list[str]) -> None:
    path = write(source, "a.csv", charges())
    write_manifest(source, promise(path, 3, 600) | change)
    refused(source, lake, *said)


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "line 1"), ("[]", '"files"'), ('{"files": []}', '"files"'), ('{"files": {}}', '"files"'), ("[" * 100_000, "deep"),
     ('{"files": ["a.csv"]}', "entry 1"), ('{"files": [{"name": "a.csv"}]}', "lacks sha256"),
     ('{"files": [], "files": [1]}', "twice"), (b"\xff\xfe", "UTF-8")],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(source: Path, lake: Path, content: str | bytes, said: str) -> None:
    write(source, "a.csv", charges())
    write(source, "manifest.json", content)
    refused(source, lake, "manifest.json", said)


def test_a_manifest_names_each_file_once(source: Path, lake: Path) -> None:
    entry = promise(write(source, "a.csv", charges()), 3, 600)
    write_manifest(source, entry, entry)
    refused(source, lake, "manifest.json", "'a.csv' twice")


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv.zip", "README.txt"])
def test_a_file_of_another_kind_is_refused_by_name(source: Path, lake: Path, name: str) -> None:
    write(source, "a.csv", charges())
    write(source, name, "x")
    refused(source, lake, name, ".csv.gz")


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_link_out_of_the_folder_is_refused(source: Path, lake: Path, with_manifest: bool) -> None:
    outside = write(source, "a.csv", charges()).rename(source / "outside.csv")
    link = period_folder(source) / "a.csv"
    link.symlink_to(outside)
    if with_manifest:
        write_manifest(source, promise(link, 3, 600))
    refused(source, lake, "a.csv", "outside its period's folder")


def test_one_bad_file_of_two_lands_neither(source: Path, lake: Path) -> None:
    write(source, "a.parquet", charges(5000))
    write(source, "b.csv", HEADER)
    refused(source, lake, "b.csv", "has no rows")


def test_a_wrong_source_leaves_earlier_runs_alone(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges())
    run = land(source, lake).run
    before = left_in(lake)
    write(source, "a.csv", HEADER + FIRST + "C-2\n")
    with pytest.raises(UnreadableInput):
        land(source, lake)
    assert left_in(lake) == before
    assert pq.read_metadata(run.path).num_rows == 3
