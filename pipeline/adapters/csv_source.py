"""Charge files as CSV: comma, double quotes, a header line; UTF-8 with or without BOM, CP949, gzip.

Every column is read as text and cast strictly afterwards, so that nothing is inferred and an error can
name row and column. Belongs here: lines and fields. Does not: bytes (`byte_check`), values (`strict_columns`).
"""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv

from pipeline import limits
from pipeline.adapters.byte_check import ByteCheck, open_text
from pipeline.adapters.strict_columns import Place, charges_from_text, check_names
from pipeline.errors import UnreadableInput
from pipeline.ports import Progress

PARSED_BYTES = max(2 * 1024 * 1024, limits.LINE_BYTES)
"""Parsed at a time, and so no less than the longest line: some 15,000 rows, little enough for the processor's cache."""


EXPLAINED_LINES = 10_000_000
"""Searched for the row that is wrong before the search is given up: some ten seconds."""


def read_csv(path: Path, check: ByteCheck, progress: Progress, *, compressed: bool) -> Iterator[pa.RecordBatch]:
    """The rows of a checked CSV file, as `CHARGE_SCHEMA`.

    An empty field is NULL, quoted or not, since CSV cannot tell; empty lines are skipped.

    Raises:
        UnreadableInput: names file, row, column and reason.
    """
    rows = 0
    for batch in text_columns(path, check, check_names, progress, compressed=compressed):
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        yield charges_from_text(columns, batch.num_rows, Place(path.name, rows))
        rows += batch.num_rows


def text_columns(
    path: Path,
    check: ByteCheck,
    check_header: Callable[[str, list[str]], None],
    progress: Progress,
    *,
    compressed: bool,
) -> Iterator[pa.RecordBatch]:
    """The rows of a checked CSV file with every value as text.

    Args:
        check_header: is given the file's name and the names in its header, and raises where they are not the right ones.

    Raises:
        UnreadableInput: names file, row and reason.
    """
    header = _header(path, check, compressed)
    check_header(path.name, header)
    total = path.stat().st_size
    try:
        with pa.OSFile(str(path)) as file:
            for batch in _parsed(pa.CompressedInputStream(file, "gzip") if compressed else file, check, header):
                yield batch
                progress(f"landing {path.name}", file.tell(), total)
    except pa.ArrowInvalid:
        raise _explained(path, check, compressed, len(header)) from None


def _parsed(stream: pa.NativeFile, check: ByteCheck, names: list[str]) -> Iterator[pa.RecordBatch]:
    return pa_csv.open_csv(
        stream,
        read_options=pa_csv.ReadOptions(block_size=PARSED_BYTES, encoding=check.encoding),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )


def _header(path: Path, check: ByteCheck, compressed: bool) -> list[str]:
    with open_text(path, compressed=compressed) as text:
        start = text.read(PARSED_BYTES)
    # The block may end within a character; the header line does not.
    lines = io.StringIO(start.decode(_without_bom(check), "ignore"), newline="")
    try:
        return next(row for row in csv.reader(lines) if row)
    except (StopIteration, csv.Error):
        raise UnreadableInput(f"{path.name}: the first line is no header of column names") from None


class _LongLineError(Exception):
    """A line is longer than `limits.LINE_BYTES`."""


def _lines(raw: BinaryIO, check: ByteCheck) -> Iterator[str]:
    """The first `EXPLAINED_LINES` of a text, none of them longer than a line may be."""
    text = io.TextIOWrapper(raw, encoding=_without_bom(check), newline="")
    for _ in range(EXPLAINED_LINES):
        line = text.readline(limits.LINE_BYTES)
        if len(line) == limits.LINE_BYTES:
            raise _LongLineError
        if not line:
            return
        yield line


def _explained(path: Path, check: ByteCheck, compressed: bool, width: int) -> UnreadableInput:
    """The row that the parser stumbled over: it does not say which, and its own message shows the row."""
    row, line = -1, 0  # the header becomes row 0
    with open_text(path, compressed=compressed) as raw:
        lines = csv.reader(_lines(raw, check))
        try:
            for fields in lines:
                row += bool(fields)
                if fields and len(fields) != width:
                    size = "short" if len(fields) < width else "long"
                    over_lines = lines.line_num > line + 1
                    return UnreadableInput(
                        f"{path.name}, row {row:,} (line {line + 1:,}): the row is too {size}, "
                        f"{len(fields)} fields where the header has {width}{_OPEN_QUOTE if over_lines else ''}"
                    )
                line = lines.line_num
        except (csv.Error, _LongLineError):  # a field of more than 128 KiB
            row += 1
            return UnreadableInput(f"{path.name}, row {row:,} (line {line + 1:,}): the row does not end{_OPEN_QUOTE}")
    return UnreadableInput(f"{path.name}: its rows cannot be told apart{_OPEN_QUOTE}")


_OPEN_QUOTE = "; is a quotation mark left open?"


def _without_bom(check: ByteCheck) -> str:
    return "utf-8-sig" if check.encoding == "utf-8" else str(check.encoding)
