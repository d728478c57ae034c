"""Damaged charge files, manifests and imports: refused with a message, or read exactly as another reader, slow and simple, reads them."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from random import Random

import pytest
from charge_files import charges, csv_text, promise, write, write_manifest

from pipeline.adapters.charge_import import IMPORT_COLUMNS, read_import
from pipeline.adapters.sources import FolderSource
from pipeline.core.billing_period import BillingPeriod
from pipeline.ports import no_progress
from pipeline.schema import CHARGE_COLUMNS
from tests.fuzz.campaign import campaign, refusal

SEPTEMBER = BillingPeriod(2023, 9)
TABLE = charges(12)
KINDS = {column.name: column.kind for column in (*CHARGE_COLUMNS, *IMPORT_COLUMNS)}


def slowly(content: bytes) -> tuple[list[str], list[list[str | None]]]:
    """Header and rows of a CSV file, by the standard library alone; an empty field is None."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp949")
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    return rows[0], [[value or None for value in row] for row in rows[1:]]


def typed(name: str, value: str | None) -> object:
    if value is None or KINDS[name] == "text":
        return value
    return int(value) if KINDS[name] == "integer" else date.fromisoformat(value)


def require_same(read: list[dict], content: bytes, *, without: tuple[str, ...] = ()) -> None:
    """What was read is what the slow reader reads, value by value."""
    header, rows = slowly(content)
    assert len(read) == len(rows), f"{len(read)} rows were read, there are {len(rows)}"
    for found, row in zip(read, rows, strict=True):
        for name, value in zip(header, row, strict=True):
            assert name in without or found[name] == typed(name, value), (
                f"{name}: read {found[name]!r}, written {value!r}"
            )


@pytest.fixture
def period(tmp_path: Path) -> Path:
    folder = tmp_path / f"billing_period={SEPTEMBER}"
    folder.mkdir()
    return folder


def read_period(folder: Path) -> list[dict]:
    rows = []
    for file in FolderSource(folder.parent).arrived(SEPTEMBER).files:
        for batch in file.read(no_progress):
            rows += batch.to_pylist()
    return rows


def file_parser(period: Path, name: str, unpack: Callable[[bytes], bytes]) -> Callable[[bytes, Random], str | None]:
    def parse(content: bytes, _: Random) -> str | None:
        (period / name).write_bytes(content)
        read: list[dict] = []
        message = refusal(lambda: read.extend(read_period(period)))
        if message is None:
            require_same(read, unpack(content))
        else:
            assert name in message, message
        return message

    return parse


@pytest.mark.parametrize(("name", "inputs"), [("a.csv", 2_000), ("a.csv.gz", 400)])
def test_damaged_charge_files_are_refused_or_read_to_the_letter(period, name, inputs):
    text = csv_text(TABLE)
    valid = [
        text.encode(),
        text.encode("cp949"),
        text.replace("\n", "\r\n").encode(),
        text.replace("C-3", '"C-3, ""x"""').encode(),
    ]
    if name.endswith(".gz"):
        valid = [gzip.compress(content, mtime=0) for content in valid]
    came_of = campaign(
        "charge_files", inputs, valid, file_parser(period, name, gzip.decompress if name.endswith(".gz") else bytes)
    )
    assert min(came_of["read"], came_of["refused"]) > 0, came_of


def test_damaged_lines_within_a_gzip_file_are_refused_or_read_to_the_letter(period):
    parse = file_parser(period, "a.csv.gz", gzip.decompress)
    text = csv_text(TABLE).encode()
    came_of = campaign(
        "charge_files_within", 300, [text], lambda content, draw: parse(gzip.compress(content, mtime=0), draw)
    )
    assert min(came_of["read"], came_of["refused"]) > 0, came_of


def test_damaged_manifests_are_refused_or_say_what_they_said(period):
    file = write(period.parent, "a.csv", TABLE)
    write_manifest(period.parent, promise(file, TABLE.num_rows, sum(TABLE["amount_minor"].to_pylist())))
    manifest = period / "manifest.json"
    valid = manifest.read_bytes()
    rows = read_period(period)

    def parse(content: bytes, _: Random) -> str | None:
        manifest.write_bytes(content)
        read: list[dict] = []
        message = refusal(lambda: read.extend(read_period(period)))
        if message is None and read:  # a manifest that names other files has us wait for them
            assert read == rows
            json.loads(content.decode("utf-8-sig"))
        return message

    came_of = campaign("manifests", 1_500, [valid], parse)
    assert min(came_of["read"], came_of["refused"]) > 0, came_of


def imports() -> str:
    names = [column.name for column in IMPORT_COLUMNS]
    values = {"status": "approved", "approved_at": "2023-09-11T03:00:00+09:00", "currency": "KRW", "billing_period": "2023-09",
              "bill_cycle": "1", "payment_method": "credit_card", "issuer": "신한카드"}  # fmt: skip
    rows = [
        values | {"payment_reference": f"88{n:014d}", "amount_minor": str(100 * n), "instrument_token": f"tok_secret_{n}",
                  "customer_id": f"{n:07d}", "charge_id": f"C-{n}"}
        for n in range(1, 12)
    ]  # fmt: skip
    return "\n".join([",".join(names), *(",".join(row[name] for name in names) for row in rows), ""])


def test_damaged_imports_are_refused_or_read_to_the_letter(tmp_path):
    path = tmp_path / "charges.csv"

    def parse(content: bytes, _: Random) -> str | None:
        path.write_bytes(content)
        read: list[dict] = []
        message = refusal(lambda: read.extend(read_import(path).charges.to_pylist()))
        if message is None:
            require_same(read, content, without=("approved_at",))
        else:
            assert path.name in message
        return message

    came_of = campaign("imports", 1_000, [imports().encode(), imports().encode("cp949")], parse)
    assert min(came_of["read"], came_of["refused"]) > 0, came_of
