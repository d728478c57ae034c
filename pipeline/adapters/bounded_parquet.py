"""Parquet files of others, opened only once it is known how much memory reading them can take.

Belongs here: what a file's footer and page headers say, held against `limits` before anything is inflated; decoding text in portions of
known size. Does not: which columns a file must have, or what values mean. A few bytes of Parquet can stand for any amount of data: run
lengths, dictionaries, compressed pages, prefixes of earlier values. So the header of every page that would be read is read first.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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
"""Structures within structures; a footer has six."""

_SCHEMA, _NUM_ROWS, _ROW_GROUPS, _COLUMNS = 2, 3, 4, 1
"""Fields of a footer, and of a row group."""

_PAGE_KINDS = (5, 7, 8)
"""Fields of a page header: data, dictionary, data of the second form; field 1 of each is the number of values."""

_BYTE_ARRAY = 6
"""The physical type of text."""

_DICTIONARIES = {2, 8}
"""Encodings by a dictionary."""

_PREFIXES = 7
"""DELTA_BYTE_ARRAY, an encoding in which a value says how much of the one before it repeats: nothing but decoding tells how long the
values get."""


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
            footer, self._size = _read_footer(path)
            coded = self._require_bounded(path, footer)
            given = {
                "buffer_size": READ_BYTES, "pre_buffer": False, "page_checksum_verification": True,
                "thrift_container_size_limit": limits.PARQUET_ELEMENTS, "thrift_string_size_limit": limits.PARQUET_FOOTER_BYTES,
            }  # fmt: skip
            with pq.ParquetFile(path, **given) as file:
                self.num_rows, self.schema = file.metadata.num_rows, file.schema_arrow
            self._text = {field.name for field in self.schema if _is_text(field.type)}
            self._file = pq.ParquetFile(path, read_dictionary=sorted(coded & self._text), **given)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError) as error:
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

    def _require_bounded(self, path: Path, footer: dict[int, Any]) -> set[str]:
        """Hold footer and page headers against `limits`; the columns of which some part is coded by a dictionary."""
        rows, groups = footer.get(_NUM_ROWS, 0), footer.get(_ROW_GROUPS, [])
        if len(footer.get(_SCHEMA, [])) > limits.COLUMNS + 1:
            raise UnreadableInput(f"{self._name}: has {len(footer[_SCHEMA]):,} columns, which no such file has")
        if len(groups) > limits.PARQUET_ELEMENTS:
            raise UnreadableInput(f"{self._name}: has {len(groups):,} row groups; write larger ones")
        if rows > max(limits.FREE_ROWS, self._size * limits.PARQUET_ROWS_PER_BYTE):
            raise UnreadableInput(f"{self._name}: claims {rows:,} rows in {self._size:,} bytes, which no charges do")
        most_bytes = min(limits.CONTENT_BYTES, max(limits.FREE_EXPANSION_BYTES, self._size * limits.TEXT_EXPANSION))
        coded: set[str] = set()
        inflated = pages = 0
        with open_regular(path) as file:
            for chunk in (_Chunk.of(column) for group in groups for column in group.get(_COLUMNS, [])):
                if chunk.is_text and _PREFIXES in chunk.encodings:
                    raise UnreadableInput(
                        f"{self._name}, column {chunk.name}: is encoded as DELTA_BYTE_ARRAY, which a few bytes can make gigabytes of;"
                        " write it with the writer's default encodings"
                    )
                coded |= {chunk.name} if _DICTIONARIES & set(chunk.encodings) else set()
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


def _read_footer(path: Path) -> tuple[dict[int, Any], int]:
    """What the file says about itself, by field number, and the file's size in bytes.

    Read here, since the reader written in C++ ends the process over some footers that contradict themselves.
    """
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
        file.seek(size - 8 - length)
        return _Compact(file.read(length)).structure(), size


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A column of a row group, as the footer describes it."""

    name: str
    is_text: bool
    encodings: list[int]
    values: int
    start: int
    size: int

    @classmethod
    def of(cls, column: dict[int, Any]) -> "_Chunk":
        said = column[3]
        name = b".".join(said[3]).decode("utf-8", "replace")
        starts = [said[9], *([said[11]] if said.get(11) else [])]
        return cls(
            name if name.isprintable() else ascii(name), said[1] == _BYTE_ARRAY, said[2], said[5], min(starts), said[7]
        )


def _is_text(found: pa.DataType) -> bool:
    value = found.value_type if types.is_dictionary(found) else found
    kinds = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(is_kind(value) for is_kind in kinds)


def _page_sizes(file: BinaryIO, chunk: _Chunk, name: str, file_size: int) -> Iterator[int]:
    """The size, decompressed, of each page of a column chunk, by the pages' own headers.

    Raises:
        ValueError: there is no page where one must be.
        UnreadableInput: a page says that it holds more than its values can.
    """
    place, end = chunk.start, chunk.start + chunk.size
    if chunk.values <= 0:  # then no reader looks for pages
        return
    if place < 0 or end > file_size:
        raise ValueError("a column lies outside the file")
    while place < end:
        file.seek(place)
        header = _Compact(file.read(min(_HEADER_BYTES, file_size - place)))
        said = header.structure()
        inflated, stored = said[2], said[3]
        if inflated < 0 or stored < 0:
            raise ValueError("a page header makes no sense")
        values = max(0, next((said[field][1] for field in _PAGE_KINDS if field in said), 0))
        if inflated > min(limits.PARQUET_PAGE_BYTES, PAGE_SPARE_BYTES + values * (limits.VALUE_BYTES + 8)):
            raise UnreadableInput(
                f"{name}, column {chunk.name}: a page of {values:,} values inflates to {inflated:,} bytes, which no such values need"
            )
        yield inflated
        place += header.place + stored


class _Compact:
    """Thrift's compact protocol, read: a structure becomes what its fields say, by their numbers."""

    def __init__(self, content: bytes) -> None:
        self._content, self.place = content, 0

    def structure(self, depth: int = 0) -> dict[int, Any]:
        """The fields of the structure that begins here. One that is there twice is refused: readers differ on which counts."""
        found: dict[int, Any] = {}
        field = 0
        while kind := self._byte():
            step = kind >> 4
            field = field + step if step else self._number()
            if field in found:
                raise ValueError("a field is there twice")
            found[field] = kind & 15 == 1 if kind & 15 in (1, 2) else self._value(kind & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _NESTING:
            raise ValueError("structures are nested too deeply")
        if kind in (4, 5, 6):
            return self._number()
        if kind == 8:
            return self._taken(self._unsigned())
        if kind == 12:
            return self.structure(depth + 1)
        if kind in (9, 10):
            head = self._byte()
            count, kind = head >> 4 if head >> 4 < 15 else self._unsigned(), head & 15
            return [self._byte() if kind in (1, 2) else self._value(kind, depth + 1) for _ in range(count)]
        if kind in (3, 7):
            return self._taken(1 if kind == 3 else 8)
        raise ValueError("a field is of no known kind")

    def _byte(self) -> int:
        return self._taken(1)[0]

    def _unsigned(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")

    def _number(self) -> int:
        zigzag = self._unsigned()
        return (zigzag >> 1) ^ -(zigzag & 1)

    def _taken(self, count: int) -> bytes:
        taken = self._content[self.place : self.place + count]
        if len(taken) < count:
            raise ValueError("it does not end where it must")
        self.place += count
        return taken
