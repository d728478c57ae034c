"""The name of content: a SHA-256 over the typed values of a run's charges.

Two sources with the same charges in the same order have the same hash, whatever the file format, the
compression, the order of columns or the size of batches. Belongs here: what is hashed and in which
form. Does not: the SHA-256 of a file's bytes, which is the readers' work.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import CHARGE_COLUMNS

HASHED_ROWS = 8_192
"""Rows hashed at a time. Part of the definition: another number gives every run another name."""

_NO_NULLS, _SOME_NULLS = b"\x00", b"\x01"


class ContentHash:
    """Takes charges in any portions and hashes them in portions of `HASHED_ROWS`."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(b"makegood charges, form 1")
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the `CHARGE_SCHEMA` columns of `batch`, which may have others besides."""
        self._waiting.append(batch.select([column.name for column in CHARGE_COLUMNS]))
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= HASHED_ROWS:
            self._hash_waiting(self._waiting_rows - self._waiting_rows % HASHED_ROWS)

    def hexdigest(self) -> str:
        """The hash of everything added; nothing may be added afterwards."""
        self._hash_waiting(self._waiting_rows)
        return self._digest.hexdigest()

    def _hash_waiting(self, rows: int) -> None:
        if rows == 0:
            return
        whole = pa.concat_batches(self._waiting)
        for start in range(0, rows, HASHED_ROWS):
            self._hash_portion(whole.slice(start, min(HASHED_ROWS, rows - start)))
        rest = whole.slice(rows)
        self._waiting = [rest] if rest.num_rows else []
        self._waiting_rows = rest.num_rows

    def _hash_portion(self, portion: pa.RecordBatch) -> None:
        self._digest.update(portion.num_rows.to_bytes(8, "little"))
        for column, values in zip(CHARGE_COLUMNS, portion.columns, strict=True):
            if values.null_count:
                self._digest.update(_SOME_NULLS)
                self._digest.update(values.is_valid().to_numpy(zero_copy_only=False))
                values = values.fill_null(pa.scalar(0, pa.int32()).cast(values.type) if column.kind != "text" else "")
            else:
                self._digest.update(_NO_NULLS)
            if column.kind == "text":
                self._digest.update(pc.binary_length(values).to_numpy().astype("<i4", copy=False))
                self._digest.update(text_bytes(values))
            else:
                width = "<i8" if column.kind == "integer" else "<i4"
                self._digest.update(values.view(pa.int64() if width == "<i8" else pa.int32()).to_numpy().astype(width))


def text_bytes(values: pa.StringArray) -> memoryview:
    """The UTF-8 bytes of all values, end to end, without copying them."""
    _, offsets, data = values.buffers()
    if len(values) == 0 or data is None:
        return memoryview(b"")
    bounds = np.frombuffer(offsets, dtype=np.int32, count=values.offset + len(values) + 1)
    return memoryview(data)[bounds[values.offset] : bounds[-1]]
