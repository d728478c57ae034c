"""A partition of the lake changed as somebody would who knows it: its charges and its record together."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters.content_hash import ContentHash


def times_ten(table: pa.Table) -> pa.Array:
    return pa.array([10 * amount for amount in table["amount_minor"].to_pylist()], pa.int64())


def to_one_card(table: pa.Table) -> pa.Array:
    return pa.repeat("tok_mine", table.num_rows)


EDITS = {"amounts": ("amount_minor", times_ten), "tokens": ("instrument_token", to_one_card), "period": (None, None)}


def edit(charges: Path, what: str) -> None:
    """Make one of `EDITS` to the partition with the file `charges`, so that it fits its own record again."""
    column, values = EDITS[what]
    record_file = charges.with_name("run.json")
    record = json.loads(record_file.read_text())
    if column is None:
        year, month = map(int, record["billing_period"].split("-"))
        record["billing_period"] = f"{year + month // 12}-{month % 12 + 1:02}"
    else:
        table = pq.ParquetFile(charges).read()
        pq.write_table(table.set_column(table.column_names.index(column), column, values(table)), charges)
        edited, total = ContentHash(), 0
        for batch in pq.ParquetFile(charges).iter_batches():
            edited.update(batch)
            total += sum(batch["amount_minor"].to_pylist())
        record |= {"content_sha256": edited.hexdigest(), "control_total_minor": total}
    record["parquet_bytes"] = charges.stat().st_size
    record_file.write_text(json.dumps(record))
