"""The acquirer's settlement files: Adyen's Settlement details columns, read strictly.

Belongs here: telling one file from another, refusing one that cannot be read faithfully, exact amounts, business days.
Does not: what a line is matched to (`reconciliation`). A file is its content: the same bytes under another name are the
same file. What a file does not say is never guessed; a file that is refused is an exception by name, and the others go on.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.adapters import duck
from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.core.settlement import NOT_CUSTOMERS, TIME_ZONE_ABBREVIATIONS
from pipeline.ports import Progress, no_progress

NEEDED_COLUMNS = (
    "Merchant Account", "Psp Reference", "Merchant Reference", "Creation Date", "TimeZone", "Type", "Modification Reference",
    "Gross Currency", "Gross Debit (GC)", "Gross Credit (GC)", "Batch Number",
)  # fmt: skip
"""A file may have more columns, in any order; without one of these it is refused."""

LINE_SCHEMA = pa.schema(
    [
        ("file_number", pa.int32()),  # place of the file among those read
        ("account", pa.string()),
        ("batch_number", pa.int64()),
        ("psp_reference", pa.string()),  # of the payment
        ("merchant_reference", pa.string()),
        ("type", pa.string()),
        ("modification_reference", pa.string()),  # of the refund; of a settled line, the acquirer's own business
        ("currency", pa.string()),
        ("amount_minor", pa.int64()),  # never negative
        ("is_credit", pa.bool_()),  # to us
        ("settled_on", pa.date32()),  # in the business time zone
    ]
)
"""A line of a settlement file that moves a customer's money."""


@dataclass(frozen=True, slots=True)
class SettlementFile:
    """One file that was read.

    Attributes:
        sha256: of its bytes, and so its name for ever.
        account: the merchant account, whose batches are numbered without gaps.
        row_count: all of its lines; debit and credit are of those that move a customer's money.
        set_aside: lines between the acquirer and us (fees, payouts), not matched.
    """

    sha256: str
    name: str
    account: str
    batch_number: int
    row_count: int
    debit_minor: int
    credit_minor: int
    set_aside: int


@dataclass(frozen=True, slots=True)
class SettlementFiles:
    """Everything the files say, and every exception by name.

    Attributes:
        lines: `LINE_SCHEMA`, of the files that could be read.
        refused: name of a file, and why it was not read.
        duplicates: name of a file, and of the one with the same content.
        gaps: `account: batch n` that has not arrived while a later one has.
    """

    lines: pa.Table
    files: tuple[SettlementFile, ...]
    refused: dict[str, str]
    duplicates: dict[str, str]
    gaps: tuple[str, ...]


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """Name and SHA-256 of files."""
    return {path.name: _sha256(path) for path in sorted(paths)}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_settlement_files(
    paths: Iterable[Path], timezone: ZoneInfo, progress: Progress = no_progress
) -> SettlementFiles:
    """Read all of `paths`, in any order of arrival; days are those of `timezone`."""
    contents: dict[str, str] = {}
    files, tables, refused, duplicates = [], [], {}, {}
    paths = sorted(paths)
    with duck.connect() as connection:
        _prepare(connection)
        for done, path in enumerate(paths):
            progress("settlement files read", done, len(paths))
            sha256 = _sha256(path)
            if sha256 in contents:
                duplicates[path.name] = contents[sha256]
                continue
            contents[sha256] = path.name
            try:
                file, lines = _read(connection, path, sha256, timezone, len(files))
            except _RefusedError as error:
                refused[path.name] = str(error)
                continue
            files.append(file)
            tables.append(lines)
    lines = pa.concat_tables([LINE_SCHEMA.empty_table(), *tables])
    return SettlementFiles(lines, tuple(files), refused, duplicates, _gaps(files))


class _RefusedError(Exception):
    """Why a file is not read."""


def _prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """The small tables that `settlement_lines.sql` joins."""
    zones = {name: name for name in available_timezones()} | TIME_ZONE_ABBREVIATIONS
    _table(connection, "currency_exponent", ("currency", "exponent"), list(MINOR_UNIT_EXPONENT.items()))
    _table(connection, "time_zone", ("name", "zone"), list(zones.items()))
    _table(connection, "not_customers", ("type",), [(name,) for name in NOT_CUSTOMERS])


def _table(connection: duckdb.DuckDBPyConnection, name: str, columns: Sequence[str], rows: list[tuple]) -> None:
    table = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
    connection.register("small", table)
    connection.execute(f"CREATE TEMP TABLE {name} AS FROM small")
    connection.unregister("small")


def _read(
    connection: duckdb.DuckDBPyConnection, path: Path, sha256: str, timezone: ZoneInfo, number: int
) -> tuple[SettlementFile, pa.Table]:
    """The file's facts and lines.

    Raises:
        _RefusedError: it cannot be read faithfully.
    """
    columns = _header(path)
    try:
        connection.execute("CREATE OR REPLACE TEMP VIEW raw AS FROM " + _csv(path, columns))
        for statement in duckdb.extract_statements(_SQL):
            zone = {"business_zone": timezone.key} if "$business_zone" in statement.query else None
            connection.execute(statement, zone)
    except duckdb.InvalidInputException as error:
        raise _RefusedError(f"a line does not have the header's {len(columns)} fields: {_first_line(error)}") from None
    row_count, problems, set_aside, batches, batch, accounts, account, debit, credit = connection.execute(
        _FACTS
    ).fetchone()
    if problems:
        line, problem = connection.execute(_FIRST_PROBLEM).fetchone()
        raise _RefusedError(f"line {line} after the header: {problem}")
    if row_count == 0:
        raise _RefusedError("it has a header and no lines: cut off, or not finished")
    if batches != 1 or accounts != 1:
        raise _RefusedError(
            f"it speaks of {batches} batches and {accounts} merchant accounts; one file is one batch of one account"
        )
    names = [name for name in LINE_SCHEMA.names if name != "file_number"]
    lines = connection.execute(f"SELECT {', '.join(names)} FROM parsed WHERE NOT is_set_aside").to_arrow_table()
    lines = lines.add_column(0, "file_number", pa.repeat(pa.scalar(number, pa.int32()), lines.num_rows)).cast(
        LINE_SCHEMA
    )
    return SettlementFile(sha256, path.name, account, batch, row_count, debit, credit, set_aside), lines


def _csv(path: Path, columns: list[str]) -> str:
    """SQL that reads the file as text under its own header, nothing detected and nothing forgiven."""
    typed = ", ".join(f"{_quoted(name)}: 'VARCHAR'" for name in columns)
    return (
        f"read_csv({_quoted(str(path))}, header = true, columns = {{{typed}}}, auto_detect = false, delim = ',', quote = '\"',"
        " escape = '\"', strict_mode = true)"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_SQL = (resources.files("pipeline") / "sql" / "settlement_lines.sql").read_text(encoding="utf-8")

_FIRST_PROBLEM = """
SELECT line, problem FROM (SELECT row_number() OVER () AS line, problem FROM parsed) WHERE problem IS NOT NULL ORDER BY line LIMIT 1"""

_FACTS = """
SELECT count(*), count(problem), count(*) FILTER (is_set_aside),
    count(DISTINCT batch_number), min(batch_number), count(DISTINCT account), min(account),
    coalesce(sum(amount_minor) FILTER (NOT is_credit AND NOT is_set_aside), 0)::BIGINT,
    coalesce(sum(amount_minor) FILTER (is_credit AND NOT is_set_aside), 0)::BIGINT
FROM parsed"""


def _header(path: Path) -> list[str]:
    """The file's columns.

    Raises:
        _RefusedError: it is no settlement file, or does not end where a line ends.
    """
    with path.open("rb") as stream:
        first = stream.readline()
        stream.seek(0, 2)
        if stream.tell() == 0:
            raise _RefusedError("it is empty")
        stream.seek(-1, 2)
        if stream.read(1) != b"\n":
            raise _RefusedError("it ends in the middle of a line: cut off on its way; ask for it again")
    try:
        columns = next(csv.reader([first.decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error):
        raise _RefusedError("its header is no UTF-8 text") from None
    missing = [name for name in NEEDED_COLUMNS if name not in columns]
    if missing:
        raise _RefusedError(f"its header lacks {', '.join(missing)}")
    if len(set(columns)) < len(columns):
        raise _RefusedError("its header has a column twice")
    return columns


def _gaps(files: list[SettlementFile]) -> tuple[str, ...]:
    """Batches that are not here while a later one of the same account is."""
    gaps = []
    for account in sorted({file.account for file in files}):
        numbers = {file.batch_number for file in files if file.account == account}
        gaps += [f"{account}: batch {n}" for n in range(min(numbers), max(numbers)) if n not in numbers]
    return tuple(gaps)


def unknown_types(lines: pa.Table, known: Sequence[str]) -> dict[str, int]:
    """Journal types among `lines` that are in no list, with their number of lines."""
    odd = lines.filter(pc.invert(pc.is_in(lines["type"], pa.array(list(known)))))
    return {row["values"]: row["counts"] for row in pc.value_counts(odd["type"]).to_pylist()}


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
