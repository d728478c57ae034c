"""Whatever valid charges are written as CSV or Parquet land unchanged, as one and the same content."""

import datetime as dt
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from charge_files import land, landed, write
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.adapters.strict_columns import why_no_whole_number
from pipeline.schema import CHARGE_COLUMNS, CHARGE_SCHEMA

# A line break ends a row and an empty field is NULL: all other text must survive, quotes, commas and all.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=12)
VALUES = {
    "text": TEXT | st.none(),
    "integer": st.integers(-(2**63), 2**63 - 1) | st.none(),
    "date": st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31)) | st.none(),
}
ROWS = st.lists(st.fixed_dictionaries({c.name: VALUES[c.kind] for c in CHARGE_COLUMNS}), min_size=1, max_size=8)


@hypothesis_settings(max_examples=60)
@given(rows=ROWS, columns=st.permutations([c.name for c in CHARGE_COLUMNS]))
def test_any_valid_charges_survive_unchanged_in_every_format(rows: list[dict], columns: list[str]) -> None:
    table = pa.Table.from_pylist(rows, schema=CHARGE_SCHEMA)
    with TemporaryDirectory() as folder:
        content = set()
        for name in ("a.csv", "a.csv.gz", "a.parquet"):
            source = Path(folder) / name
            write(source, name, table.select(columns))
            outcome = land(source, Path(folder) / "lake")
            assert landed(outcome).select(table.schema.names).equals(table)
            content.add(outcome.run.content_sha256)
        assert len(content) == 1


@given(st.text("0123456789-+., eE_xXnaif()１", max_size=24) | st.integers().map(str))
def test_a_whole_number_is_exactly_minus_and_ascii_digits_within_64_bits(text: str) -> None:
    digits = text.removeprefix("-")
    is_one = digits != "" and set(digits) <= set("0123456789") and -(2**63) <= int(text) < 2**63
    assert (why_no_whole_number(text) is None) == is_one
