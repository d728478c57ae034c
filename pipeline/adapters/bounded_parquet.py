"""Parquet files of others, opened only once it is known how much memory reading them can take.

Belongs here: what a file's footer and page headers say, held against `limits` before anything is inflated; decoding text in portions of
known size. Does not: which columns a file must have, or what values mean. A few bytes of Parquet can stand for any amount of data: run
lengths, dictionaries, compressed pages, prefixes of earlier values. So the header of every page that would be read is read first.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as types

from pipeline import limits
from pipeline.bounded_file import open_regular
from pipeline.errors import UnreadableInput

BATCH_ROWS = 65_536
"""Rows decoded at a time: some 15 MB."""

PORTION_BYTES = 64 * 1024 * 1024
"""Of text taken out of dictionaries at a time: as much as five ordinary portions have in all."""

READ_BYTES = 1024 * 1024
"""Read at a time from each column, so that a file of one huge row group streams too."""

PAGE_SPARE_BYTES = 4_096
"""What a page may hold besides its values: levels, and the padding of encodings that work in blocks."""

_HEADER_BYTES = 64 * 1024
"""Longest page header: it may quote a smallest and a largest value."""

_PAGES = 500_000
"""Headers looked at before a file is refused: some ten seconds of work, 10,000 million values in pages of the usual size."""

_NESTING = 16
"""Structures within structures in a page header; the format has three."""

_PREFIXES = "DELTA_BYTE_ARRAY"
"""An encoding in which a value says how much of the one before it repeats: nothing but decoding tells how long the values get."""


class BoundedParquet:
    """A Parquet file whose pages have been looked at. Use it as a context manager.

    Attributes:
        schema: of its columns, text as text.
        num_rows: as its footer promises.

    Raises:
        UnreadableInput: it is none, is damaged, or would inflate beyond `limits`.
    """

    def __init__(self, path: Path) -> None:
        self._name, self._file = path.name, None
        try:
            self._size = _require_small_footer(path)
            given = {
                "buffer_size": READ_BYTES, "pre_buffer": False, "page_checksum_verification": True,
                "thrift_container_size_limit": limits.PARQUET_ELEMENTS, "thrift_string_size_limit": limits.PARQUET_FOOTER_BYTES,
            }  # fmt: skip
            with pq.ParquetFile(path, **given) as file:
                metadata, self.schema = file.metadata, file.schema_arrow
            coded = self._require_bounded(path, metadata)
            self.num_rows = metadata.num_rows
            self._text = {field.name for field in self.schema if _is_text(field.type)}
            self._file = pq.ParquetFile(path, read_dictionary=sorted(coded & self._text), **given)
        except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise damaged(path.name, error) from None

    def __enter__(self) -> "BoundedParquet":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def batches(
        self, columns: list[str] | None = None, *, at_most: int = limits.CONTENT_BYTES
    ) -> Iterator[pa.RecordBatch]:
        """The rows in portions; all top-level columns where none are named.

        Args:
            at_most: bytes of decoded values in all.

        Raises:
            UnreadableInput: it is damaged, a text is longer than `limits.VALUE_BYTES`, or there is more than `at_most`.
        """
        at_most = min(at_most, max(limits.FREE_EXPANSION_BYTES, self._size * limits.TEXT_EXPANSION))
        done = rows = 0
        try:
            for batch in self._portions(columns):
                decoded = [
                    self._decoded(values, field, rows)
                    for values, field in zip(batch.columns, batch.schema, strict=True)
                ]
                rows += batch.num_rows
                done += sum(values.nbytes for values in decoded)
                if done > at_most:
                    raise _too_large(self._name, "its values", at_most)
                yield pa.RecordBatch.from_arrays(decoded, names=batch.schema.names)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise damaged(self._name, error) from None
        if rows != self.num_rows:
            raise UnreadableInput(f"{self._name}: its footer promises {self.num_rows:,} rows, it holds {rows:,}")

    def _portions(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        """The rows as they are stored, in portions whose text, taken out of its dictionaries, stays below `PORTION_BYTES`."""
        for batch in self._file.iter_batches(BATCH_ROWS, columns=columns):
            coded = [
                values.dictionary
                for values in batch.columns
                if types.is_dictionary(values.type) and len(values.dictionary)
            ]
            widest = sum(pc.max(pc.binary_length(texts)).as_py() or 0 for texts in coded if _is_text(texts.type))
            rows = max(1, PORTION_BYTES // max(1, widest))
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)

    def _decoded(self, values: pa.Array, field: pa.Field, rows_before: int) -> pa.Array:
        """A column of a batch; text is taken out of its dictionary once its values are known to be short."""
        if field.name not in self._text:
            return values
        coded = types.is_dictionary(values.type)
        if not coded and types.is_string_view(values.type):
            values = values.cast(pa.string())
        lengths = pc.binary_length(values.dictionary if coded else values)
        if (pc.max(lengths).as_py() or 0) > limits.VALUE_BYTES:
            too_long = pc.greater(lengths.take(values.indices) if coded else lengths, limits.VALUE_BYTES)
            if (index := pc.index(too_long, True).as_py()) >= 0:
                raise UnreadableInput(
                    f"{self._name}, row {rows_before + index + 1}, column {field.name}:"
                    f" is longer than {limits.VALUE_BYTES:,} bytes, which no such value is"
                )
        return values.cast(values.type.value_type) if coded else values

    def _require_bounded(self, path: Path, metadata: pq.FileMetaData) -> set[str]:
        """Hold footer and page headers against `limits`; the columns of which some part is coded by a dictionary."""
        if metadata.num_columns > limits.COLUMNS:
            raise UnreadableInput(f"{self._name}: has {metadata.num_columns:,} columns, which no such file has")
        most_rows = max(limits.FREE_ROWS, self._size * limits.PARQUET_ROWS_PER_BYTE)
        if metadata.num_rows > most_rows:
            raise UnreadableInput(
                f"{self._name}: claims {metadata.num_rows:,} rows in {self._size:,} bytes, which no charges do"
            )
        most_bytes = min(limits.CONTENT_BYTES, max(limits.FREE_EXPANSION_BYTES, self._size * limits.TEXT_EXPANSION))
        coded: set[str] = set()
        inflated = pages = 0
        with open_regular(path) as file:
            for group in range(metadata.num_row_groups):
                for index in range(metadata.num_columns):
                    chunk = metadata.row_group(group).column(index)
                    if _PREFIXES in chunk.encodings and chunk.physical_type == "BYTE_ARRAY":
                        raise UnreadableInput(
                            f"{self._name}, column {chunk.path_in_schema}: is encoded as {_PREFIXES}, which a few bytes can make"
                            " gigabytes of; write it with the writer's default encodings"
                        )
                    coded |= {chunk.path_in_schema} if "DICTIONARY" in "".join(chunk.encodings) else set()
                    for size in _page_sizes(file, chunk, self._name, self._size):
                        inflated, pages = inflated + size, pages + 1
                        if inflated > most_bytes or pages > _PAGES:
                            raise _too_large(self._name, "its pages", most_bytes)
        return coded


def require_bounded(path: Path) -> None:
    """Refuse a Parquet file that would inflate beyond `limits`, for a reader of its own.

    Raises:
        UnreadableInput: as `BoundedParquet`.
    """
    BoundedParquet(path).close()


def damaged(name: str, error: Exception) -> UnreadableInput:
    """A file that a Parquet reader gave up on."""
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    reason = reason if reason.isprintable() else type(error).__name__
    return UnreadableInput(f"{name}: is no Parquet file, or a truncated or damaged one ({reason})")


def _too_large(name: str, what: str, most: int) -> UnreadableInput:
    return UnreadableInput(
        f"{name}: {what} inflate to more than {most:,} bytes, which charges of that size on disk do not"
    )


def _require_small_footer(path: Path) -> int:
    """Look at the end of the file before the footer is read; returns the file's size."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 8))
        length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if size < 12 or magic != b"PAR1" or length > size - 12:
        raise ValueError("it has no Parquet footer")
    if length > limits.PARQUET_FOOTER_BYTES:
        raise UnreadableInput(
            f"{path.name}: its footer has {length:,} bytes, more than {limits.PARQUET_FOOTER_BYTES:,}: it is split into too many"
            " columns or row groups"
        )
    return size


def _is_text(found: pa.DataType) -> bool:
    value = found.value_type if types.is_dictionary(found) else found
    kinds = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(is_kind(value) for is_kind in kinds)


def _page_sizes(file: BinaryIO, chunk: pq.ColumnChunkMetaData, name: str, file_size: int) -> Iterator[int]:
    """The size, decompressed, of each page of a column chunk, by the pages' own headers.

    Raises:
        ValueError: there is no page where one must be.
        UnreadableInput: a page says that it holds more than its values can.
    """
    if chunk.num_values <= 0:  # then no reader looks for pages
        return
    starts = [chunk.data_page_offset, *([chunk.dictionary_page_offset] if chunk.dictionary_page_offset else [])]
    place, end = min(starts), min(starts) + chunk.total_compressed_size
    if place < 0 or end > file_size:
        raise ValueError("a column lies outside the file")
    while place < end:
        file.seek(place)
        header = _Compact(file.read(min(_HEADER_BYTES, file_size - place)))
        said = header.structure()
        inflated, stored = said.get(2, 0), said.get(3, 0)
        if not (isinstance(inflated, int) and isinstance(stored, int) and inflated >= 0 and stored >= 0):
            raise ValueError("a page header makes no sense")
        about = next((said[field] for field in (5, 7, 8) if isinstance(said.get(field), dict)), {})
        values = about.get(1, 0) if isinstance(about.get(1, 0), int) else 0
        if inflated > min(limits.PARQUET_PAGE_BYTES, PAGE_SPARE_BYTES + max(values, 0) * (limits.VALUE_BYTES + 8)):
            raise UnreadableInput(
                f"{name}, column {chunk.path_in_schema}: a page of {values:,} values inflates to {inflated:,} bytes, which no such"
                " values need"
            )
        yield inflated
        place += header.place + stored


class _Compact:
    """Thrift's compact protocol, as far as a page header needs it: numbers are read, everything else is passed over."""

    def __init__(self, content: bytes) -> None:
        self._content, self.place = content, 0

    def structure(self, depth: int = 0) -> dict[int, int | dict]:
        """The whole numbers and structures of a structure, by field."""
        found: dict[int, int | dict] = {}
        field = 0
        while kind := self._byte():
            step = kind >> 4
            field = field + step if step else self._number()
            found[field] = self._value(kind & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> int | dict:
        if depth > _NESTING:
            raise ValueError("a page header is nested too deeply")
        if kind in (1, 2):  # true and false are in the kind
            return 2 - kind
        if kind in (4, 5, 6):
            return self._number()
        if kind == 12:
            return self.structure(depth + 1)
        if kind in (3, 7):
            self._skip(1 if kind == 3 else 8)
        elif kind == 8:
            self._skip(self._unsigned())
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._unsigned()):
                self._byte() if head & 15 in (1, 2) else self._value(head & 15, depth + 1)
        else:
            raise ValueError("a page header has a field of no known kind")
        return 0

    def _byte(self) -> int:
        self._skip(1)
        return self._content[self.place - 1]

    def _unsigned(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
            if shift > 63:
                raise ValueError("a page header has a number that is too long")

    def _number(self) -> int:
        zigzag = self._unsigned()
        return (zigzag >> 1) ^ -(zigzag & 1)

    def _skip(self, count: int) -> None:
        self.place += count
        if self.place > len(self._content):
            raise ValueError("a page header does not end")
