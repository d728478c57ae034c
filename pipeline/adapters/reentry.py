"""What a file that went out was about, worked out again from the run or plan it was made from - for books that know nothing of it.

Belongs here: turning the operations in such a file into the rows that `ledger.intend` once had. Does not: finding such files, or deciding
what becomes of them (`repair`). Keys are business facts, so the same fact has the same key again.
"""

import pyarrow as pa

from pipeline.adapters import duck
from pipeline.adapters.ledger import OPERATION_COLUMNS
from pipeline.errors import FatalError

ATTEMPTS_MAX = 20
"""Attempts that are looked for: many times what the retry schedule makes of one fact."""

FACT_COLUMNS = ("customer_id", "billing_period", "bill_cycle", "occurrence", "charge_id", "payment_method", "issuer",
                "instrument_token", "original_id")  # fmt: skip
"""What a run's charges or a plan's lines say of an operation, and its file does not."""

OF_A_RUN = {"occurrence": "1", "original_id": "NULL::VARCHAR"}
OF_A_REBILL = {"occurrence": "1", "original_id": "NULL::VARCHAR", "charge_id": "rebill_charge_id", "payment_method": "rebill_method",
               "issuer": "rebill_issuer", "instrument_token": "rebill_token"}  # fmt: skip
OF_A_REVERSAL: dict[str, str] = {}
"""Where the columns of `FACT_COLUMNS` come from, as far as they are named otherwise."""

_QUERY = """
SELECT f.merchant_reference AS operation_id, f.kind, $scope AS scope, $incident AS incident_id, c.customer_id, c.billing_period,
    c.bill_cycle, c.occurrence, a.attempt, c.charge_id, f.amount_minor, f.currency, c.payment_method, c.issuer, c.instrument_token,
    CAST($wave AS INTEGER) AS wave, c.original_id
FROM sent f JOIN candidate c USING (customer_id) CROSS JOIN (SELECT CAST(range AS INTEGER) AS attempt FROM range(1, $attempts)) a
WHERE f.merchant_reference = md5(concat(
    f.kind, '|', $incident, '|', c.billing_period, '|', c.bill_cycle, '|', c.occurrence, '|', a.attempt, '|', c.customer_id))"""


def operations_of(
    sent: pa.Table, facts: pa.Table, columns: dict[str, str], *, scope: str, wave: int, incident_id: str | None
) -> pa.Table:
    """The operations (`OPERATION_COLUMNS`) that `sent` (`OPERATION_SCHEMA`, read from a file) is of.

    Args:
        facts: the run's charges or the plan's lines.
        columns: `OF_A_RUN`, `OF_A_REBILL` or `OF_A_REVERSAL`.

    Raises:
        FatalError: an operation of the file is of no such fact.
    """
    names = ", ".join(f"{columns.get(name, name)} AS {name}" for name in FACT_COLUMNS)
    given = {"scope": scope, "incident": incident_id, "wave": wave, "attempts": ATTEMPTS_MAX + 1}
    with duck.connect() as connection:
        connection.register("sent", sent)
        connection.register("facts", facts)
        connection.execute(
            f"CREATE TEMP TABLE candidate AS SELECT {names} FROM facts SEMI JOIN sent USING (customer_id)"
        )
        found = connection.execute(_QUERY, given).to_arrow_table()
    if found.num_rows != sent.num_rows:
        raise FatalError(
            f"{scope} wave {wave}: {sent.num_rows - found.num_rows} of {sent.num_rows} operations in its file are of no charge in the run"
            " or plan that it names; nothing was entered"
        )
    return found.select(OPERATION_COLUMNS)
