"""The row count and control total of charges as they pass, exact whatever their size.

Belongs here: counting and adding amounts. Does not: comparing them with what was promised.
"""

import pyarrow as pa
import pyarrow.compute as pc

_WIDE = pa.decimal128(38, 0)


class ControlTotal:
    """Adds up batches of charges.

    Attributes:
        row_count: rows seen.
        amount_minor: sum of their amounts, NULL as nothing.
    """

    def __init__(self) -> None:
        self.row_count = 0
        self.amount_minor = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Count `batch`, which has a column `amount_minor`."""
        self.row_count += batch.num_rows
        # Sums of 64-bit integers wrap silently in Arrow; those of decimals do not.
        total = pc.sum(batch["amount_minor"].cast(_WIDE)).as_py()
        self.amount_minor += int(total or 0)
