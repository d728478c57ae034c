"""Charges that another system made, taken over so that they can be put right: read strictly, confirmed at the acquirer.

Belongs here: the columns of such a file, reading it, and turning its rows into operations with outcomes. Does not: deciding
what was wrong about them (`assess`). The file says who was charged; what became of each charge only the acquirer says. An
import is whole or not at all: a payment that the acquirer does not know refuses the file and is named by its row, because
nothing could ever undo it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from pipeline import limits
from pipeline.adapters import duck
from pipeline.adapters.audit import append_audit
from pipeline.adapters.bounded_parquet import BoundedParquet
from pipeline.adapters.bulk import copy_in, fetch
from pipeline.adapters.byte_check import ByteCheck, check_binary
from pipeline.adapters.byte_check import check_text as check_text_file
from pipeline.adapters.csv_source import text_columns
from pipeline.adapters.ledger import OPERATION_COLUMNS, OUTCOME_COLUMNS, with_entry
from pipeline.adapters.parquet_source import check_utf8
from pipeline.adapters.postgres import Server, conninfo
from pipeline.adapters.strict_columns import DEFAULT_BILL_CYCLE, Place, check_text, refuse_line_breaks, whole_numbers
from pipeline.bounded_file import require_regular
from pipeline.core.ledger import posting_for
from pipeline.errors import FatalError, GateClosed, UnreadableInput
from pipeline.ports import no_progress
from pipeline.schema import PAYMENT_METHODS, Column

IMPORT_COLUMNS = (
    Column("payment_reference", "text", True, "the acquirer's id of the payment"),
    Column("status", "text", True, "what became of it, as the other system has it; the acquirer's word counts"),
    Column("approved_at", "text", True, "instant with its offset, such as 2023-09-11T03:00:00+09:00"),
    Column("amount_minor", "integer", True, "what was charged, in minor units; positive"),
    Column("currency", "text", True, "ISO 4217"),
    Column("instrument_token", "text", True, "the acquirer's token for the card or account; never a card number"),
    Column("customer_id", "text", True, "the billing account"),
    Column("billing_period", "text", True, "the month billed, YYYY-MM; one per file"),
    Column("bill_cycle", "integer", False, "which cycle of the period; 1 where the file has no such column"),
    Column("charge_id", "text", True, "the charge, in the other system's words"),
    Column("payment_method", "text", True, "credit_card, check_card or bank_debit"),
    Column("issuer", "text", True, "the card company or bank it was sent to"),
)
"""What a file of charges made elsewhere must hold; other columns are refused, as in a charge file."""

ROWS_NAMED = 5
"""Rows a refusal names before it says how many more there are."""

APPROVED = ("approved", "succeeded", "authorised", "captured", "settled")
"""What other systems call a charge that went through; only to count where they and the acquirer disagree."""

_KINDS = {column.name: column.kind for column in IMPORT_COLUMNS}


@dataclass(frozen=True, slots=True)
class ImportFile:
    """A file of charges made elsewhere, read.

    Attributes:
        scope: scope of the operations it becomes: `import-<first 12 of its SHA-256>`; the same bytes are the same import.
        billing_period: of all its rows.
        charges: the columns of `IMPORT_COLUMNS`, `approved_at` as an instant, and `row` counted from 1.
    """

    name: str
    scope: str
    billing_period: str
    charges: pa.Table


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import took over.

    Attributes:
        disagreed: rows whose status the acquirer does not confirm; the acquirer's was taken.
    """

    scope: str
    billing_period: str
    rows: int
    approved: int
    declined: int
    disagreed: int


def read_import(path: Path) -> ImportFile:
    """Read a CSV (UTF-8 or CP949, plain or gzip) or Parquet file of charges made elsewhere.

    Raises:
        UnreadableInput: names file, row, column and reason; nothing was imported.
    """
    try:
        require_regular(path)
    except FileNotFoundError:
        raise UnreadableInput(f"{path.name}: there is no such file") from None
    check, table = (_parquet if path.suffix.lower() == ".parquet" else _csv)(path)
    if not table.num_rows:
        raise UnreadableInput(f"{path.name}: holds no charge")
    place = Place(path.name, 0)
    given = [name for name in _KINDS if name in table.column_names]
    try:
        columns = {name: _typed(table[name].combine_chunks(), name, place) for name in given}
    except pa.ArrowException as error:
        raise UnreadableInput(f"{path.name}: its columns cannot be read ({type(error).__name__})") from None
    columns.setdefault("bill_cycle", pa.repeat(pa.scalar(DEFAULT_BILL_CYCLE, pa.int64()), table.num_rows))
    for name, values in columns.items():
        _refuse(pc.is_null(values), name, "is empty", place)
    _check_values(columns, place)
    columns["row"] = pa.array(range(1, table.num_rows + 1), pa.int64())
    period = columns["billing_period"][0].as_py()
    return ImportFile(path.name, f"import-{check.sha256[:12]}", period, pa.table(columns))


class ChargeImport:
    """Takes charges made elsewhere into the books."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def known(self, scope: str) -> bool:
        """Whether this very file was imported before."""
        with self._server.connect() as connection:
            return connection.execute("SELECT EXISTS (SELECT FROM operation WHERE scope = %s)", (scope,)).fetchone()[0]

    def take_over(self, file: ImportFile, states: pa.Table, *, effective_on: date) -> Imported:
        """Book the charges of `file` as the acquirer confirms them; repeating it changes nothing.

        Args:
            states: the acquirer's word on each row's payment, in the order of rows (`PAYMENT_STATE_SCHEMA`).

        Raises:
            UnreadableInput: a payment is not known to the acquirer, or is of another amount or currency; names the rows.
            GateClosed: a payment is in the books already, from another import or from a run.
        """
        _confirm(file, states)
        declined = pc.equal(states["state"], "declined")
        claimed = pc.is_in(pc.utf8_lower(file.charges["status"]), pa.array(APPROVED))
        counted = pc.sum(declined).as_py() or 0
        if not self.known(file.scope):
            self._book(file, declined, effective_on)
        return Imported(
            scope=file.scope,
            billing_period=file.billing_period,
            rows=file.charges.num_rows,
            approved=file.charges.num_rows - counted,
            declined=counted,
            disagreed=pc.sum(pc.equal(claimed, declined)).as_py() or 0,
        )

    def _book(self, file: ImportFile, declined: pa.Array, effective_on: date) -> None:
        before = self._charged_before(file.billing_period)
        with duck.connect() as engine:
            engine.register("charge", file.charges.append_column("declined", declined))
            engine.register("before", before)
            twice = engine.execute(
                "SELECT row, scope FROM charge JOIN before ON payment_id = payment_reference ORDER BY row LIMIT 1"
            ).fetchone()
            if twice:
                raise GateClosed(
                    f"{file.name}, row {twice[0]}: this payment is in the books already, under {twice[1]}; leave it out"
                )
            rows = engine.execute(_OPERATIONS, {"period": file.billing_period, "scope": file.scope}).to_arrow_table()
        with self._server.connect() as connection:
            _write(connection, rows, effective_on)
            detail = {"file": file.name, "rows": rows.num_rows, "period": file.billing_period}
            append_audit(connection, "import_charges", file.scope, detail)

    def _charged_before(self, billing_period: str) -> pa.Table:
        query = sql.SQL(
            "SELECT o.customer_id, o.bill_cycle, o.occurrence, o.scope, c.payment_id"
            " FROM operation o LEFT JOIN outcome c USING (operation_id) WHERE o.kind = 'charge' AND o.billing_period = {}"
        ).format(sql.Literal(billing_period))
        return fetch(conninfo(self._server.pipeline_url), query, _BEFORE_SCHEMA)


_BEFORE_SCHEMA = pa.schema(
    [("customer_id", pa.string()), ("bill_cycle", pa.int64()), ("occurrence", pa.int64()), ("scope", pa.string()),
     ("payment_id", pa.string())]
)  # fmt: skip

_OPERATIONS = """
WITH taken AS (
    SELECT customer_id, bill_cycle, max(occurrence) AS occurrences FROM before GROUP BY customer_id, bill_cycle
), counted AS (
    SELECT c.*, coalesce(t.occurrences, 0) + row_number() OVER (
        PARTITION BY c.customer_id, c.bill_cycle ORDER BY c.approved_at, c.payment_reference
    ) AS occurrence
    FROM charge c LEFT JOIN taken t USING (customer_id, bill_cycle)
)
SELECT
    md5('charge||' || $period || '|' || bill_cycle || '|' || occurrence || '|1|' || customer_id) AS operation_id,
    'charge' AS kind, $scope AS scope, NULL::VARCHAR AS incident_id, customer_id, $period AS billing_period, bill_cycle,
    CAST(occurrence AS INTEGER) AS occurrence, 1 AS attempt, charge_id, amount_minor, currency, payment_method, issuer,
    instrument_token, 0 AS wave, NULL::VARCHAR AS original_id,
    CASE WHEN declined THEN 'declined' ELSE 'succeeded' END AS status,
    CASE WHEN declined THEN 'declined_at_acquirer' END AS reason, payment_reference AS payment_id
FROM counted ORDER BY customer_id, bill_cycle, occurrence"""


def _write(connection: psycopg.Connection, rows: pa.Table, effective_on: date) -> None:
    """Append operations, outcomes and the entries they make, whole or not at all."""
    copy_in(connection, "operation", rows.to_batches(), OPERATION_COLUMNS)
    outcomes = [
        batch
        for state in ("succeeded", "declined")
        for batch in with_entry(
            rows.filter(pc.equal(rows["status"], state)), posting_for("charge", state, was_unknown=False), effective_on
        ).to_batches()
    ]
    copy_in(connection, "outcome", outcomes, OUTCOME_COLUMNS)


def _confirm(file: ImportFile, states: pa.Table) -> None:
    """Every payment must be one the acquirer knows, with the amount and currency that the file says."""
    if states.num_rows != file.charges.num_rows:
        raise FatalError(f"the acquirer answered for {states.num_rows} of {file.charges.num_rows} payments; ask again")
    place = Place(file.name, 0)
    _refuse(pc.is_null(states["state"]), "payment_reference", "is no payment that the acquirer knows", place)
    differs = pc.not_equal(states["charged_minor"], file.charges["amount_minor"])
    _refuse(differs, "amount_minor", "is not what the acquirer charged", place)
    if "currency" in states.column_names:
        differs = pc.fill_null(pc.not_equal(states["currency"], file.charges["currency"]), False)
        _refuse(differs, "currency", "is not the one the acquirer charged in", place)


def _check_values(columns: dict[str, pa.Array], place: Place) -> None:
    _refuse(pc.less_equal(columns["amount_minor"], 0), "amount_minor", "is not positive", place)
    _refuse(pc.less(columns["bill_cycle"], 1), "bill_cycle", "is not positive", place)
    methods = pc.is_in(columns["payment_method"], pa.array(PAYMENT_METHODS))
    _refuse(pc.invert(methods), "payment_method", f"is none of {', '.join(PAYMENT_METHODS)}", place)
    period = columns["billing_period"]
    label = pc.match_substring_regex(period, r"^[0-9]{4}-(0[1-9]|1[0-2])$")
    _refuse(pc.invert(label), "billing_period", "is not written YYYY-MM", place)
    _refuse(
        pc.not_equal(period, period[0]), "billing_period", "differs from the first row's; one file, one period", place
    )
    reference = columns["payment_reference"]
    first = pc.index_in(reference, value_set=reference)  # the first row with the same reference
    is_repeat = pc.not_equal(first, pa.array(range(len(reference)), pa.int32()))
    _refuse(is_repeat, "payment_reference", "is in the file twice", place)


def _refuse(wrong: pa.Array | pa.ChunkedArray, column: str, reason: str, place: Place) -> None:
    """Refuse the file if a row is wrong, naming the first rows; values stay unsaid, they may be anything."""
    wrong = wrong.combine_chunks() if isinstance(wrong, pa.ChunkedArray) else wrong
    rows = pc.indices_nonzero(pc.fill_null(wrong, False))
    if len(rows):
        named = ", ".join(str(row + 1) for row in rows[:ROWS_NAMED].to_pylist())
        more = f" and {len(rows) - ROWS_NAMED:,} more" if len(rows) > ROWS_NAMED else ""
        raise UnreadableInput(
            f"{place.name}, row {named}{more}, column {column}: {reason}; nothing was imported, correct the file or leave them out"
        )


def _typed(values: pa.Array, name: str, place: Place) -> pa.Array:
    if name == "approved_at":
        return _instants(values, place)
    if _KINDS[name] == "integer":
        return whole_numbers(values, name, place) if pa.types.is_string(values.type) else values.cast(pa.int64())
    values = values.cast(pa.string())
    check_utf8(values, name, place)
    check_text(values, name, place)
    refuse_line_breaks(values, name, place)
    return values


def _instants(values: pa.Array, place: Place) -> pa.Array:
    wanted = pa.timestamp("us", "UTC")
    is_instant = pa.types.is_timestamp(values.type)
    try:
        return (values if is_instant else values.cast(pa.string())).cast(wanted)
    except pa.ArrowInvalid:
        pass
    for index, instant in enumerate(values if is_instant else values.cast(pa.string())):
        try:
            instant.cast(wanted)
        except pa.ArrowInvalid:
            reason = (
                "is no instant in microseconds"
                if is_instant
                else "is no instant with its offset, such as 2023-09-11T03:00:00+09:00"
            )
            raise place.error(index, "approved_at", reason) from None
    raise place.error(0, "approved_at", "cannot be read")


def _check_names(file: str, names: list[str]) -> None:
    if len(names) > limits.COLUMNS:
        raise UnreadableInput(f"{file}: has {len(names):,} columns, which no file of charges has")
    required = [column.name for column in IMPORT_COLUMNS if column.required and column.name not in names]
    if required:
        raise UnreadableInput(f"{file}: column {', '.join(required)} is missing")
    if unknown := [name for name in names if name not in _KINDS]:
        raise UnreadableInput(
            f"{file}: has {len(unknown)} columns that a file of charges made elsewhere does not have; leave them out"
        )
    if len(set(names)) < len(names):
        raise UnreadableInput(f"{file}: has a column twice")


def _csv(path: Path) -> tuple[ByteCheck, pa.Table]:
    compressed = path.suffix.lower() == ".gz"
    check = check_text_file(path, no_progress, compressed=compressed)
    if check.problem:
        raise UnreadableInput(f"{path.name} {check.problem}")
    if not check.ends_with_newline:
        raise UnreadableInput(
            f"{path.name}: the last row does not end in a line break, so it may be truncated; have the file sent again"
        )
    return check, _whole(path, text_columns(path, check, _check_names, no_progress, compressed=compressed))


def _parquet(path: Path) -> tuple[ByteCheck, pa.Table]:
    check = check_binary(path, no_progress)
    with BoundedParquet(path) as file:
        _check_names(path.name, file.schema.names)
        for name, kind in _KINDS.items():
            if name in file.schema.names and not _faithful(file.schema.field(name).type, name, kind):
                raise UnreadableInput(
                    f"{path.name}: column {name} has type {file.schema.field(name).type}; {kind} is wanted"
                )
        return check, _whole(path, file.batches())


def _whole(path: Path, batches: Iterator[pa.RecordBatch]) -> pa.Table:
    """All batches; they are held in memory, so there is a bound."""
    held, size = [], 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size > limits.IMPORT_BYTES:
            raise UnreadableInput(f"{path.name}: holds more than {limits.IMPORT_BYTES:,} bytes; split it by issuer")
    return pa.Table.from_batches(held) if held else pa.table({})


def _faithful(found: pa.DataType, name: str, kind: str) -> bool:
    if name == "approved_at" and pa.types.is_timestamp(found):
        return found.tz is not None
    if kind == "integer":
        return pa.types.is_integer(found) and found != pa.uint64()
    return pa.types.is_string(found) or pa.types.is_large_string(found)
