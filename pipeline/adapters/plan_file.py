"""A remediation plan as a Parquet file, and the digest that is its name.

Belongs here: what is hashed and in which form, writing a plan whole or not at all, and proving that a file still says what
was signed. Does not: what a plan decides (`plan`), or who agreed to it (`incidents`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.adapters.bounded_parquet import require_bounded
from pipeline.adapters.content_hash import text_bytes
from pipeline.adapters.durable import sync
from pipeline.errors import FatalError, GateClosed, UnreadableInput
from pipeline.schema import PLAN_SCHEMA

HASHED_LINES = 65_536
"""Lines hashed at a time. Part of the definition: another number gives every plan another digest."""

HASHING_THREADS = 2
"""Columns hashed side by side."""

LINE_KEY = [(name, "ascending") for name in ("customer_id", "billing_period", "bill_cycle", "occurrence")]
"""The order of lines in a plan: unique, and so the same for the same lines."""

_HEADER_KEY, _COLUMNS_KEY = b"makegood.plan", b"makegood.plan.columns"
"""Where a file has its plan's header, and the digest of each column of its lines (not in files of form 1)."""

_REPEATING = [
    "billing_period", "currency", "payment_method", "issuer", "class", "reversal", "reversal_reason", "rebill", "rebill_reason",
    "rebill_method", "rebill_issuer",
]  # fmt: skip
"""Columns of few values; the others are not worth a dictionary, which is what writing a plan would otherwise spend its time on."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan read back and proven.

    Attributes:
        header: what it was made from: incident, corrected run, windows, policy.
        digest: SHA-256 over header and lines.
        lines_sha256: SHA-256 over the lines, part of the digest.
        lines: the columns of `PLAN_SCHEMA` that were asked for, in the order of `LINE_KEY`; each is proven by the bytes read.
    """

    header: dict[str, Any]
    digest: str
    lines_sha256: str
    lines: pa.Table


def plan_digest(header: dict[str, Any], lines: pa.Table) -> str:
    """The name of a plan: the same header and lines, the same digest, whatever order the lines come in."""
    return digest_of(header, lines_digest(lines.sort_by(LINE_KEY)))


def digest_of(header: dict[str, Any], lines_sha256: str) -> str:
    """As `plan_digest`, of lines hashed before."""
    return _digest(header, lines_sha256, form=2)


def lines_digest(lines: pa.Table) -> str:
    """SHA-256 over the typed values of lines that are in the order of `LINE_KEY`."""
    return _combined(_column_digests(lines.select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA)))


def write_plan(folder: Path, header: dict[str, Any], lines: pa.Table, digest: str) -> Path:
    """Write `<folder>/<first 12 of digest>/plan.parquet`, whole or not at all, and read it back; returns its path.

    Args:
        lines: in the order of `LINE_KEY`, of which `digest` was made.

    Raises:
        GateClosed: what was written does not have the digest.
    """
    path = folder / digest[:12] / "plan.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    metadata = {_HEADER_KEY: header, _COLUMNS_KEY: _column_digests(lines.select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA))}
    pq.write_table(
        lines.replace_schema_metadata({key: json.dumps(said, ensure_ascii=False) for key, said in metadata.items()}),
        partial,
        compression="lz4",
        use_dictionary=_REPEATING,
        row_group_size=HASHED_LINES,
    )
    read_plan(partial, digest)
    sync(partial)  # the plan's row promises it
    partial.replace(path)
    sync(path.parent)
    return path


def read_plan(path: Path, digest: str, columns: Sequence[str] | None = None) -> PlanFile:
    """The plan in a file.

    Args:
        columns: those of `PLAN_SCHEMA` that are needed; None for all. Only what is read is proven, and only what is proven is given.

    Raises:
        FatalError: it is gone or unreadable.
        GateClosed: its content does not have `digest`: nobody agreed to what it says.
    """
    try:
        require_bounded(path)
        with pq.ParquetFile(path) as file:
            said = file.schema_arrow.metadata or {}
            header, signed = json.loads(said[_HEADER_KEY]), json.loads(said.get(_COLUMNS_KEY, b"null"))
            if not isinstance(header, dict) or not isinstance(signed, dict | None):
                raise ValueError("no header")
            needed = [name for name in PLAN_SCHEMA.names if columns is None or signed is None or name in columns]
            lines = file.read(columns=needed).select(needed).replace_schema_metadata(None)
        lines = lines.cast(pa.schema([PLAN_SCHEMA.field(name) for name in needed]))
    except (OSError, KeyError, ValueError, RecursionError, MemoryError, pa.ArrowException, UnreadableInput) as error:
        raise FatalError(
            f"the plan {path.parent.name}/{path.name} cannot be read ({type(error).__name__}); plan anew"
        ) from None
    lines_sha256 = _lines_digest_found(signed, lines)
    found = _digest(header, lines_sha256, form=1 if signed is None else 2)
    if found != digest:
        raise GateClosed(
            f"the plan {path.parent.name}/{path.name} now has the digest {found[:12]}, agreed was {digest[:12]}: it was changed"
            " after it was stored. Nothing is executed; plan anew"
        )
    return PlanFile(header, found, lines_sha256, lines if columns is None else lines.select(columns))


def _lines_digest_found(signed: dict[str, str] | None, lines: pa.Table) -> str:
    """The digest by what was read: of the columns that were not read, the file's word is taken, which is part of the digest."""
    return _lines_digest_of_form_1(lines) if signed is None else _combined(signed | _column_digests(lines))


def _digest(header: dict[str, Any], lines_sha256: str, *, form: int) -> str:
    canonical = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"makegood plan, form {form}\n{canonical}\n{lines_sha256}".encode()).hexdigest()


def _combined(columns: Mapping[str, str]) -> str:
    """One digest of those of all columns."""
    return hashlib.sha256(json.dumps(dict(sorted(columns.items()))).encode()).hexdigest()


def _column_digests(lines: pa.Table) -> dict[str, str]:
    """SHA-256 of each column's number of values and values."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        return dict(zip(lines.column_names, threads.map(_column_digest, lines.columns), strict=True))


def _column_digest(column: pa.ChunkedArray) -> str:
    digest = hashlib.sha256(str(len(column)).encode())
    for start in range(0, len(column), HASHED_LINES):
        _hash_values(digest, pa.concat_arrays(column.slice(start, HASHED_LINES).chunks))
    return digest.hexdigest()


def _lines_digest_of_form_1(lines: pa.Table) -> str:
    """As plans had it first, portion by portion across all columns: none of them could be proven alone."""
    digest = hashlib.sha256(str(lines.num_rows).encode())
    for start in range(0, lines.num_rows, HASHED_LINES):
        portion = lines.slice(start, HASHED_LINES).combine_chunks()
        for column in portion.columns:
            _hash_values(digest, column.chunk(0))
    return digest.hexdigest()


def _hash_values(digest: Any, values: pa.Array) -> None:
    if values.null_count:
        digest.update(b"\x01" + np.packbits(values.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        values = values.fill_null("" if pa.types.is_string(values.type) else pa.scalar(0, pa.int32()).cast(values.type))
    else:
        digest.update(b"\x00")
    if pa.types.is_string(values.type):
        digest.update(pc.binary_length(values).to_numpy().astype("<i4", copy=False))
        digest.update(text_bytes(values))
    else:
        wide = pa.int32() if values.type in (pa.date32(), pa.int32()) else pa.int64()
        digest.update(values.view(wide).to_numpy().astype("<i4" if wide == pa.int32() else "<i8", copy=False))
