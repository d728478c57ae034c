"""A hostile file is refused within seconds and in bounded memory, by name, and never ends in a traceback; the other files go on.

Each is read by a process of its own (`reading`), on its way through the reader that a command would use.
"""

import gzip
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import parquet_by_hand as by_hand
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from charge_files import charges, csv_text

from pipeline.adapters.settlement_files import NEEDED_COLUMNS
from pipeline.schema import CHARGE_SCHEMA
from tests.hostile.reading import Reading

SECONDS, MIB = 20.0, 600.0
"""What reading a hostile file may take on a busy machine; what it stands for would take hours and terabytes."""

GIB = 1024**3
FOLDER = "billing_period=2023-09"
HEADER, ROW, *_ = csv_text(charges()).splitlines(keepends=True)
IMPORT_HEADER = ("payment_reference,status,approved_at,amount_minor,currency,instrument_token,customer_id,billing_period,charge_id,"
                 "payment_method,issuer\n")  # fmt: skip


@pytest.fixture(scope="module")
def reading() -> Iterator[Reading]:
    reading = Reading()
    yield reading
    reading.close()


@pytest.fixture
def period(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / FOLDER
    folder.mkdir(parents=True)
    return folder


def refused(found: dict, *words: str) -> str:
    """The message of a refusal that came in time and in bounds and says all of `words`."""
    assert "refused" in found, found
    assert found["seconds"] < SECONDS, found
    assert found["mib"] < MIB, found
    assert [word for word in words if word not in found["refused"]] == [], found["refused"]
    assert len(found["refused"]) < 2_000, "a message is for people"
    return found["refused"]


def pour(path: Path, *parts: bytes | tuple[bytes, int]) -> None:
    """Write `parts`; of a pair, the first repeated until there are so many bytes."""
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        for part in parts:
            if isinstance(part, bytes):
                file.write(part)
                continue
            block = part[0] * max(1, (1 << 20) // len(part[0]))
            for _ in range(part[1] // len(block)):
                file.write(block)


# -- text -----------------------------------------------------------------------------------------------------------

MANY = b",".join(b"c%d" % n for n in range(1_000_000))
FEW_ENOUGH_FOR_A_LINE = b",".join(b"%d" % n for n in range(250_000))

TEXTS: dict[str, tuple[list, str]] = {
    "a header of a million columns": ([MANY, b"\n", b"1,2\n"], "a.csv"),
    "a header of 250,000 columns in one short line": ([FEW_ENOUGH_FOR_A_LINE, b"\n", b"1,2\n"], "columns"),
    "a header of few and enormous names": ([(b"x" * 100_000 + b",", 2**20), b"\n1\n"], "a.csv"),
    "a header that does not end": ([(b"customer_id", GIB // 8)], "a.csv"),
    "a cell of 1 GiB": ([HEADER.encode(), b"C-1,", (b"x", GIB), b"\n"], "row 1"),
    "a quoted cell of 1 GiB with line ends": ([HEADER.encode(), b'C-1,"', (b"xxxxxxxxxxxxxxx\n", GIB), b'"\n'], "row 1"),
    "a row of 1 GiB that does not end": ([HEADER.encode(), ROW.encode(), (b"y", GIB)], "may be truncated"),
    "a row of 1 GiB that ends": ([HEADER.encode(), ROW.encode(), (b"1,", GIB), b"\n"], "row 2"),
    "a row of 1 GiB of Hangul": ([HEADER.encode(), ROW.encode(), ("한".encode(), GIB), b"\n"], "row 2"),
    "nothing but line ends": ([(b"\n", GIB // 8)], "no header"),
    "nothing but quotation marks": ([(b'"', GIB // 8), b"\n"], "a.csv"),
    "a NUL": ([HEADER.encode(), b"\0\n"], "NUL"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_hostile_text_is_refused(reading, period, kind, name):
    parts, word = TEXTS[kind]
    pour(period / name, *parts)
    found = reading.read("land", period.parent)
    if name.endswith(".gz"):
        refused(found, "a.csv.gz")
    else:
        refused(found, word, "a.csv")


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if "GiB" not in kind])
def test_a_hostile_import_is_refused(reading, tmp_path, kind):
    pour(tmp_path / "a.csv", *TEXTS[kind][0])
    refused(reading.read("import", tmp_path / "a.csv"), "a.csv")


def test_an_import_whose_line_does_not_end_is_refused(reading, tmp_path):
    pour(tmp_path / "a.csv", IMPORT_HEADER.encode(), (b"y", GIB // 4), b"\n")
    refused(reading.read("import", tmp_path / "a.csv"), "a.csv", "row 1")


def test_a_gzip_bomb_is_refused_by_how_much_it_grows(reading, period):
    part = gzip.compress(b"1" * 2**26)
    (period / "a.csv.gz").write_bytes(gzip.compress(HEADER.encode()) + part * 32)  # 2 GiB
    refused(reading.read("land", period.parent), "expands to more than")
    shutil.copy(period / "a.csv.gz", period / "import.csv.gz")
    refused(reading.read("import", period / "import.csv.gz"), "expands to more than")


# -- Parquet --------------------------------------------------------------------------------------------------------


def coded(rows: int, value: str) -> Callable[[Path], None]:
    """One value, said once in a dictionary and meant `rows` times."""

    def write(path: Path) -> None:
        names = CHARGE_SCHEMA.names
        one = {name: charges(1)[name].combine_chunks() for name in names}
        first = pa.repeat(pa.scalar(0, pa.int32()), rows)
        columns = {
            name: pa.DictionaryArray.from_arrays(first, one[name])
            if pa.types.is_string(one[name].type)
            else pa.repeat(one[name][0], rows)
            for name in names
        }
        columns["plan_code"] = pa.DictionaryArray.from_arrays(first, pa.array([value]))
        pq.write_table(pa.table(columns), path, dictionary_pagesize_limit=GIB, compression="zstd")

    return write


def plain(path: Path) -> None:
    """Few values, each enormous, in pages that compress to nothing."""
    table = charges(200).set_column(9, "plan_code", pa.array(["x" * 2**20] * 200))
    pq.write_table(table, path, use_dictionary=False, compression="zstd")


def prefixed(path: Path) -> None:
    """Values that are said to begin like the one before."""
    table = charges(50_000).set_column(9, "plan_code", pa.array(["x" * 4_000] * 50_000))
    pq.write_table(table, path, use_dictionary=False, column_encoding={"plan_code": "DELTA_BYTE_ARRAY"})


def wide(path: Path) -> None:
    pq.write_table(pa.table({f"c{n}": [1] for n in range(5_000)}), path)


def nested(path: Path) -> None:
    table = charges()
    pq.write_table(table.set_column(4, "amount_minor", pa.array([[[1]], [[2]], None])), path)


def claiming(rows: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pages = by_hand.page(values=rows, inflated=6, content=b"\x06\x14\x02\x00\x00\x00\xfe\xff")
        at = by_hand.chunk("charge_id", values=rows, at=4, size=len(pages), inflated=100)
        schema = [by_hand.root(1), by_hand.column("charge_id")]
        by_hand.write(path, schema=schema, rows=rows, groups=[by_hand.group([at], rows)], pages=pages)

    return write


def lying_page(path: Path) -> None:
    """The footer is modest, the page's own header says 2 GiB."""
    pages = by_hand.page(values=10, inflated=2**31 - 1, content=b"\xff\xff\xff\xff\x07" + bytes(50))
    at = by_hand.chunk("charge_id", values=10, at=4, size=len(pages), inflated=100)
    schema = [by_hand.root(1), by_hand.column("charge_id")]
    by_hand.write(path, schema=schema, rows=10, groups=[by_hand.group([at], 10)], pages=pages)


def deep(levels: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        inner = [[(3, by_hand.I32, 0), (4, by_hand.BINARY, b"a"), (5, by_hand.I32, 1)] for _ in range(levels)]
        by_hand.write(path, schema=[by_hand.root(1), *inner, by_hand.column("charge_id")], rows=0)

    return write


def many_groups(path: Path) -> None:
    by_hand.write(
        path, schema=[by_hand.root(1), by_hand.column("charge_id")], rows=0, groups=[by_hand.group([], 0)] * 300_000
    )


def large_footer(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(64 * 2**20) + (60 * 2**20).to_bytes(4, "little") + b"PAR1")


PARQUETS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a long value meant five million times": (coded(5_000_000, "x" * 2**20), "a.parquet"),
    "a value of 4,000 bytes meant five million times": (coded(5_000_000, "x" * 4_000), "inflate"),
    "a value of 64 MiB meant a hundred thousand times": (coded(100_000, "x" * 2**26), "plan_code"),
    "pages of values of 1 MiB": (plain, "plan_code"),
    "values by their prefixes": (prefixed, "DELTA_BYTE_ARRAY"),
    "5,000 columns": (wide, "columns"),
    "lists of lists": (nested, "amount_minor"),
    "2 to the 31 rows": (claiming(2**31 - 1), "rows"),
    "2 to the 62 rows": (claiming(2**62), "a.parquet"),
    "less than no rows": (claiming(-5), "a.parquet"),
    "a page that lies": (lying_page, "inflates"),
    "a hundred structures in each other": (deep(100), "a.parquet"),
    "10,000 structures in each other": (deep(10_000), "a.parquet"),
    "a million structures in each other": (deep(1_000_000), "a.parquet"),
    "300,000 row groups": (many_groups, "a.parquet"),
    "a footer of 60 MiB": (large_footer, "footer"),
    "no footer": (lambda path: path.write_bytes(b"PAR1" + bytes(100)), "a.parquet"),
    "four bytes": (lambda path: path.write_bytes(b"PAR1"), "a.parquet"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A Parquet file by its kind; each is made once."""

    @cache
    def make(kind: str) -> Path:
        path = tmp_path_factory.mktemp("made") / "a.parquet"
        PARQUETS[kind][0](path)
        return path

    return make


@pytest.mark.parametrize("kind", PARQUETS)
@pytest.mark.parametrize("reader", ["land", "import", "contacts", "plan"])
def test_a_hostile_parquet_file_is_refused(reading, period, made, reader, kind):
    word = PARQUETS[kind][1]
    path = period / "a.parquet"
    path.hardlink_to(made(kind))
    path.with_suffix(".digest").write_text("0" * 64) if reader == "plan" else None
    found = reading.read(reader, period.parent if reader == "land" else path)
    refused(found, word if reader == "land" else "a.parquet" if reader != "plan" else "plan")


# -- what is no file ------------------------------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


NO_FILES = [fifo, endless, loop, listening, Path.mkdir]


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet", "manifest.json"])
def test_what_is_no_file_is_refused_where_a_charge_file_should_be(reading, period, make, name):
    (period / "b.csv").write_text(HEADER + ROW)
    make(period / name)
    refused(reading.read("land", period.parent), name)


PLACES = {
    "import": "a.csv", "import ": "a.parquet", "plan": "plan.parquet", "proposal": "p.json", "contacts": "contacts.parquet",
    "lead_times": "lead_times.json", "holidays": "holidays.json",
}  # fmt: skip
"""Reader, and the name of what it reads; the last two are given the folder."""


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("reader", PLACES)
def test_what_is_no_file_is_refused_wherever_a_file_should_be(reading, tmp_path, make, reader):
    path = tmp_path / PLACES[reader]
    make(path)
    (tmp_path / "plan.digest").write_text("0" * 64)
    found = reading.read(reader.strip(), tmp_path if reader in ("lead_times", "holidays") else path)
    refused(found, path.name)


# -- JSON -----------------------------------------------------------------------------------------------------------

JSONS: dict[str, bytes] = {
    "a million brackets": b"[" * 1_000_000,
    "a million objects in each other": b'{"a":' * 1_000_000,
    "2,000 brackets that close": b"[" * 2_000 + b"]" * 2_000,
    "a number of 10 MB": b'{"files": [' + b"9" * 10_000_000 + b"]}",
    "a field twice": b'{"files": [], "files": []}',
    "NaN": b'{"files": [NaN]}',
    "infinity": b'{"country": -Infinity}',
    "20 MiB of blanks": b" " * 20 * 2**20,
    "no UTF-8": b'{"files": "\xff"}',
    "half a surrogate": b'{"files": "\\ud800"}',
    "nothing": b"",
    "a text": b'"files"',
    "another kind of everything": b'{"files": {"a": 1}, "country": {}, "add": 5, "payment_methods": [], "rails": 7}',
    "lists where objects should be": b'{"payment_methods": {"credit_card": [1]}, "issuers": {"a": 1}, "rails": {"practice": 4}}',
    "enormous days": b'{"payment_methods": {"credit_card": {"void_days": 99999999999}}}',
    "infinite days": b'{"payment_methods": {"credit_card": {"void_days": 1e999}}}',
    "a proposal of nothing": b'{"kind": "learned", "provenance": 1, "defaults": [], "bounds": [], "not_learned": [], "applied": 0}',
    "a proposal of odd things": b'{"kind": "learned", "provenance": 1, "defaults": {"a": 5}, "bounds": [1], "not_learned": 2}',
}  # fmt: skip


@pytest.mark.parametrize("kind", JSONS)
@pytest.mark.parametrize("reader", ["land", "proposal", "lead_times", "holidays"])
def test_hostile_json_is_refused(reading, period, reader, kind):
    names = {
        "land": "manifest.json",
        "proposal": "p.json",
        "lead_times": "lead_times.json",
        "holidays": "holidays.json",
    }
    (period / "a.csv").write_text(HEADER + ROW)
    path = period / names[reader]
    path.write_bytes(JSONS[kind])
    places = {"land": period.parent, "proposal": path}
    found = reading.read(reader, places.get(reader, period))
    refused(found, path.name)


@pytest.mark.parametrize("name", [
    "../../etc/passwd", "/etc/passwd", "..", "a/b.csv", "a\\b.csv", "a\x1b[31m.csv", "\u202ea.csv", "a\nb.csv", "x" * 300, "\ud800.csv",
])  # fmt: skip
def test_a_manifest_names_files_of_its_folder_alone(reading, period, name):
    (period / "a.csv").write_text(HEADER + ROW)
    entry = {"name": name, "sha256": "0" * 64, "row_count": 1, "control_total_minor": 1}
    (period / "manifest.json").write_text(json.dumps({"files": [entry]}))
    said = refused(reading.read("land", period.parent), "manifest.json")
    assert said.isprintable()


@pytest.mark.parametrize("name", [b"a\x1b[31m.csv", b"\xff.csv", "\u202ea.csv".encode(), b"a\nb.csv", b"a\r.csv.part"])
def test_a_file_name_that_a_terminal_would_obey_is_refused_and_said_harmlessly(reading, period, name):
    (Path(os.fsdecode(bytes(period) + b"/" + name))).write_text(HEADER + ROW)
    said = refused(reading.read("land", period.parent), "rename it")
    assert said.isprintable()


# -- settlement files -----------------------------------------------------------------------------------------------


def settlement_line(number: int, **changed: str) -> str:
    said = {
        "Merchant Account": "M", "Psp Reference": f"88{number:014d}", "Merchant Reference": f"{number:032x}",
        "Creation Date": "2023-09-12 10:00:00", "TimeZone": "KST", "Type": "Settled", "Modification Reference": "",
        "Gross Currency": "KRW", "Gross Debit (GC)": "", "Gross Credit (GC)": f"{number}00", "Batch Number": "7",
    } | changed  # fmt: skip
    return ",".join(said[name] for name in NEEDED_COLUMNS) + "\n"


SETTLED = ",".join(NEEDED_COLUMNS) + "\n" + "".join(settlement_line(n) for n in range(1, 20))


def text(content: str | bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


SETTLEMENTS: dict[str, Callable[[Path], object]] = {
    "a FIFO": fifo, "a device": endless, "a loop": loop, "a socket": listening, "a folder": Path.mkdir,
    "empty": text(""),
    "cut off": text(SETTLED[:-5]),
    "semicolons": text(SETTLED.replace(",", ";")),
    "no text": text(os.urandom(5_000) + b"\n"),
    "UTF-16": text(SETTLED.encode("utf-16")),
    "NUL in a line": text(SETTLED.replace("KST", "K\0T", 1)),
    "no UTF-8 in a line": text(SETTLED.encode().replace(b"KST", b"\xff\xfe", 1)),
    "a quote left open": text(SETTLED.replace("KST", '"KST', 1)),
    "a header whose quote is left open": text('"' + SETTLED),
    "a header twice, in other letters": text(SETTLED.replace("Merchant Account", "Merchant Account,merchant account", 1)),
    "a million columns": text(MANY + b"\n1\n"),
    "250,000 columns": text(SETTLED.splitlines()[0].encode() + b"," + FEW_ENOUGH_FOR_A_LINE + b"\n1\n"),
    "a sum beyond 64 bits": text(SETTLED + settlement_line(99, **{"Gross Credit (GC)": "9" * 15, "Gross Currency": "KWD"}) * 1000),
    "an amount of 5,000 digits": text(SETTLED + settlement_line(99, **{"Gross Credit (GC)": "9" * 5_000})),
    "an amount with a sign": text(SETTLED + settlement_line(99, **{"Gross Credit (GC)": "-5"})),
    "the 30th of February": text(SETTLED.replace("2023-09-12", "2023-02-30", 1)),
    "year 0": text(SETTLED.replace("2023-09-12", "0000-01-01", 1)),
    "two batches": text(SETTLED + settlement_line(99, **{"Batch Number": "8"})),
}  # fmt: skip


@pytest.mark.parametrize("kind", SETTLEMENTS)
def test_a_hostile_settlement_file_is_named_and_the_others_are_read(reading, tmp_path, kind):
    (tmp_path / "good_8.csv").write_text(SETTLED.replace(",7\n", ",8\n"))
    SETTLEMENTS[kind](tmp_path / "bad_7.csv")
    found = reading.read("settlement", tmp_path)
    assert found.get("result"), found
    assert (found["seconds"] < SECONDS, found["mib"] < MIB) == (True, True), found
    assert list(found["result"]["refused"]) == ["bad_7.csv"], found["result"]
    assert found["result"]["files"] == ["good_8.csv"]
    assert found["result"]["lines"] == 19


@pytest.mark.slow
@pytest.mark.parametrize("parts", [[(b"y", GIB)], [SETTLED.encode(), (b"y", GIB), b"\n"]])
def test_a_settlement_file_whose_line_does_not_end_is_named_and_the_others_are_read(reading, tmp_path, parts):
    (tmp_path / "good_8.csv").write_text(SETTLED.replace(",7\n", ",8\n"))
    pour(tmp_path / "bad_7.csv", *parts)
    found = reading.read("settlement", tmp_path)
    assert (list(found["result"]["refused"]), found["result"]["lines"]) == (["bad_7.csv"], 19), found
    assert (found["seconds"] < SECONDS, found["mib"] < MIB) == (True, True), found


def test_a_batch_number_far_away_names_its_gap_and_not_every_number_in_it(reading, tmp_path):
    for name, number in (("a_7.csv", "7"), ("b.csv", str(2**62))):
        (tmp_path / name).write_text(SETTLED.replace(",7\n", f",{number}\n"))
    found = reading.read("settlement", tmp_path)
    assert found["result"]["gaps"] == [f"M: batches 8 to {2**62 - 1}"], found
