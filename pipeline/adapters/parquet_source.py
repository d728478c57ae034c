"""Charge files as Parquet, read batch by batch with the types that the schema demands.

A column is taken as it is or widened without loss; nothing is rounded, parsed or guessed. Belongs here:
Parquet's types. Does not: bytes (`byte_check`), values (`strict_columns`).
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as types

from pipeline.adapters.strict_columns import Place, charges, check_names
from pipeline.errors import UnreadableInput
from pipeline.ports import Progress
from pipeline.schema import CHARGE_COLUMNS, Column

BATCH_ROWS = 65_536
"""Rows decoded at a time: some 15 MB."""

READ_BYTES = 1024 * 1024
"""Read at a time from each column, so that a file of one huge row group streams too."""


def read_parquet(path: Path, progress: Progress) -> Iterator[pa.RecordBatch]:
    """The rows of a checked Parquet file, as `CHARGE_SCHEMA`.

    Raises:
        UnreadableInput: names file, column and, where there is one, row; and the reason.
    """
    rows = 0
    try:
        with pq.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False, page_checksum_verification=True) as file:
            check_names(path.name, file.schema_arrow.names)
            for column in CHARGE_COLUMNS:
                _check_type(path.name, column, file.schema_arrow)
            for batch in file.iter_batches(BATCH_ROWS):
                place = Place(path.name, rows)
                columns = {name: _faithful(batch[name], name, place) for name in batch.schema.names}
                yield charges(columns, batch.num_rows, place)
                rows += batch.num_rows
                progress(f"landing {path.name}", rows, file.metadata.num_rows)
            promised_rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UnreadableInput(f"{path.name}: is no Parquet file, or a truncated or damaged one ({reason})") from None
    if rows != promised_rows:
        raise UnreadableInput(f"{path.name}: its footer promises {promised_rows:,} rows, it holds {rows:,}")


def _check_type(file: str, column: Column, schema: pa.Schema) -> None:
    if column.name not in schema.names:
        return
    found = schema.field(column.name).type
    value = found.value_type if types.is_dictionary(found) else found
    faithful = {
        "text": types.is_string(value) or types.is_large_string(value) or types.is_string_view(value),
        "integer": types.is_integer(found) and found != pa.uint64(),
        "date": types.is_date32(found),
    }[column.kind]
    # A column of nothing but NULL has no type to be wrong.
    if not faithful and not types.is_null(found):
        raise UnreadableInput(f"{file}: column {column.name} has type {found} and must be {_WANTED[column.kind]}")


_WANTED = {"text": "text (string)", "integer": "an integer of up to 64 bits, signed", "date": "a date (date32)"}


def _faithful(values: pa.Array, name: str, place: Place) -> pa.Array:
    wanted = next(column.arrow_type for column in CHARGE_COLUMNS if column.name == name)
    values = values.cast(wanted)
    if wanted == pa.string():
        _check_utf8(values, name, place)
    return values


def _check_utf8(values: pa.Array, name: str, place: Place) -> None:
    try:
        values.validate(full=True)  # Parquet readers take the writer's word for UTF-8
    except pa.ArrowInvalid:
        for index, content in enumerate(values.cast(pa.binary()).to_pylist()):
            try:
                (content or b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise place.error(index, name, f"is not UTF-8 (byte {error.start} of the value)") from None
        raise
