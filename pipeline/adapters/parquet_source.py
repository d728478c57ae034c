"""Charge files as Parquet, read batch by batch with the types that the schema demands.

A column is taken as it is or widened without loss; nothing is rounded, parsed or guessed. Belongs here:
Parquet's types. Does not: bytes (`byte_check`), how much of them (`bounded_parquet`), values (`strict_columns`).
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.types as types

from pipeline.adapters.bounded_parquet import BoundedParquet, damaged
from pipeline.adapters.strict_columns import Place, charges, check_names
from pipeline.errors import UnreadableInput
from pipeline.ports import Progress
from pipeline.schema import CHARGE_COLUMNS, Column


def read_parquet(path: Path, progress: Progress) -> Iterator[pa.RecordBatch]:
    """The rows of a checked Parquet file, as `CHARGE_SCHEMA`.

    Raises:
        UnreadableInput: names file, column and, where there is one, row; and the reason.
    """
    rows = 0
    with BoundedParquet(path) as file:
        check_names(path.name, file.schema.names)
        for column in CHARGE_COLUMNS:
            _check_type(path.name, column, file.schema)
        for batch in file.batches():
            place = Place(path.name, rows)
            yield _charges(batch, place)
            rows += batch.num_rows
            progress(f"landing {path.name}", rows, file.num_rows)


def _charges(batch: pa.RecordBatch, place: Place) -> pa.RecordBatch:
    try:
        columns = {name: _faithful(batch[name], name, place) for name in batch.schema.names}
    except (pa.ArrowException, ValueError) as error:
        raise damaged(place.name, error) from None
    return charges(columns, batch.num_rows, place)


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
        check_utf8(values, name, place)
    return values


def check_utf8(values: pa.Array, name: str, place: Place) -> None:
    """Require that a text column is UTF-8: Parquet readers take the writer's word for it."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        for index, content in enumerate(values.cast(pa.binary()).to_pylist()):
            try:
                (content or b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise place.error(index, name, f"is not UTF-8 (byte {error.start} of the value)") from None
        raise
