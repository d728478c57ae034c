"""Parquet files that no writer would write: a footer that says whatever is wanted, over pages that say whatever is wanted.

Belongs here: Thrift's compact protocol, written, and the few structures of the format that a reader looks at first. Does not: valid
files, which `pyarrow` writes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

I32, I64, BINARY, LIST, STRUCT = 5, 6, 8, 9, 12
Field = tuple[int, int, Any]
"""Field number, kind, value; a list's value is its kind and its elements, a structure's its fields."""

INT64, BYTE_ARRAY = 2, 6
REQUIRED, OPTIONAL = 0, 1
PLAIN, RLE = 0, 3
SNAPPY, UNCOMPRESSED = 1, 0


def unsigned(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def encoded(kind: int, value: Any) -> bytes:
    if kind in (I32, I64):
        return unsigned((value << 1) ^ (value >> 63))
    if kind == BINARY:
        return unsigned(len(value)) + value
    if kind == STRUCT:
        return structure(value)
    element, values = value
    head = bytes([len(values) << 4 | element]) if len(values) < 15 else bytes([0xF0 | element]) + unsigned(len(values))
    return head + b"".join(encoded(element, each) for each in values)


def structure(fields: Sequence[Field]) -> bytes:
    out, last = bytearray(), 0
    for number, kind, value in fields:
        out += bytes([(number - last) << 4 | kind]) + encoded(kind, value)
        last = number
    return bytes(out + b"\0")


def root(children: int) -> list[Field]:
    return [(4, BINARY, b"schema"), (5, I32, children)]


def column(name: str, physical: int = BYTE_ARRAY) -> list[Field]:
    return [(1, I32, physical), (3, I32, OPTIONAL), (4, BINARY, name.encode())]


def chunk(name: str, *, values: int, at: int, size: int, inflated: int, physical: int = BYTE_ARRAY) -> list[Field]:
    described = [
        (1, I32, physical), (2, LIST, (I32, [PLAIN, RLE])), (3, LIST, (BINARY, [name.encode()])), (4, I32, SNAPPY), (5, I64, values),
        (6, I64, inflated), (7, I64, size), (9, I64, at),
    ]  # fmt: skip
    return [(2, I64, at), (3, STRUCT, described)]


def page(*, values: int, inflated: int, content: bytes) -> bytes:
    """A data page, its header first."""
    about = [(1, I32, values), (2, I32, PLAIN), (3, I32, RLE), (4, I32, RLE)]
    return structure([(1, I32, 0), (2, I32, inflated), (3, I32, len(content)), (5, STRUCT, about)]) + content


def write(
    path: Path, *, schema: list[list[Field]], rows: int, groups: Sequence[list[Field]] = (), pages: bytes = b""
) -> None:
    footer = structure([(1, I32, 1), (2, LIST, (STRUCT, schema)), (3, I64, rows), (4, LIST, (STRUCT, list(groups)))])
    path.write_bytes(b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def group(chunks: list[list[Field]], rows: int) -> list[Field]:
    return [(1, LIST, (STRUCT, chunks)), (2, I64, 1), (3, I64, rows)]
