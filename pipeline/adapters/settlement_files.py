"""The acquirer's settlement files: Adyen's Settlement details columns, read strictly.

Belongs here: telling one file from another, refusing one that cannot be read faithfully, exact amounts, business days.
Does not: what a line is matched to (`reconciliation`). A file is its content: the same bytes under another name are the
same file. What a file does not say is never guessed; a file that is refused is an exception by name, and the others go on.
"""

import codecs
import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import limits
from pipeline.adapters import duck
from pipeline.bounded_file import named, open_regular
from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.core.settlement import NOT_CUSTOMERS, TIME_ZONE_ABBREVIATIONS
from pipeline.errors import UnreadableInput
from pipeline.ports import Progress, no_progress

NEEDED_COLUMNS = (
    "Merchant Account", "Psp Reference", "Merchant Reference", "Creation Date", "TimeZone", "Type", "Modification Reference",
    "Gross Currency", "Gross Debit (GC)", "Gross Credit (GC)", "Batch Number",
)  # fmt: skip
"""A file may have more columns, in any order; without one of these it is refused."""

BLOCK_BYTES = 1024 * 1024
"""Read at a time; shorter than the longest line."""

GAPS_NAMED = 100
"""Missing batches in a row that are named one by one; more of them are a wrong number, not files that are late."""

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
    """Name and SHA-256 of files; of one that cannot be read, why."""
    found = {}
    for path in sorted(paths):
        try:
            found[named(path)], _ = _sha256_and_lines(path)
        except _RefusedError as error:
            found[named(path)] = str(error)
    return found


def _sha256_and_lines(path: Path) -> tuple[str, int]:
    """Digest of a file's bytes, and how many line ends are among them.

    Raises:
        _RefusedError: it is no file, cannot be read, or it or one of its lines is longer than in any settlement file.
    """
    digest, size, lines, unended = hashlib.sha256(), 0, 0, 0
    decoder = codecs.getincrementaldecoder("utf-8")()  # DuckDB looks at no column that is not needed
    try:
        with open_regular(path) as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
                if not (block.isascii() and decoder.getstate()[0] == b""):
                    decoder.decode(block)
                size, lines = size + len(block), lines + block.count(b"\n")
                first, last = block.find(b"\n"), block.rfind(b"\n")
                if unended + (first if first >= 0 else len(block)) >= limits.LINE_BYTES:
                    raise _RefusedError(f"a line is longer than {limits.LINE_BYTES:,} bytes")
                unended = len(block) - last - 1 if last >= 0 else unended + len(block)
                if size > limits.SETTLEMENT_BYTES:
                    raise _RefusedError(f"it is longer than {limits.SETTLEMENT_BYTES:,} bytes")
    except UnicodeDecodeError:
        raise _RefusedError("it is no text in UTF-8") from None
    except FileNotFoundError:
        raise _RefusedError("it was there and is gone") from None
    except UnreadableInput as error:
        raise _RefusedError(str(error).removeprefix(f"{named(path)}: ")) from None
    except OSError as error:
        raise _RefusedError(f"it cannot be read ({error.strerror or type(error).__name__})") from None
    return digest.hexdigest(), lines


def _written_lines(path: Path) -> int:
    """How many lines of a file are not empty."""
    with open_regular(path) as raw, io.BufferedReader(raw) as stream:
        return sum(bool(line.strip(b"\r\n")) for line in stream)


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
            try:
                sha256, ends = _sha256_and_lines(path)
                if sha256 in contents:
                    duplicates[named(path)] = contents[sha256]
                    continue
                contents[sha256] = named(path)
                file, lines = _read(connection, path, sha256, ends, timezone, len(files))
            except _RefusedError as error:
                refused[named(path)] = str(error)
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
    connection: duckdb.DuckDBPyConnection, path: Path, sha256: str, ends: int, timezone: ZoneInfo, number: int
) -> tuple[SettlementFile, pa.Table]:
    """The file's facts and lines.

    Args:
        ends: how many line ends it has: DuckDB leaves out, without a word, a last line that is longer than its buffer.

    Raises:
        _RefusedError: it cannot be read faithfully.
    """
    columns = _header(path)
    try:
        connection.execute("CREATE OR REPLACE TEMP VIEW raw AS FROM " + _csv(path, columns))
        for statement in duckdb.extract_statements(_SQL):
            zone = {"business_zone": timezone.key} if "$business_zone" in statement.query else None
            connection.execute(statement, zone)
        row_count, problems, set_aside, batches, batch, accounts, account, debit, credit = connection.execute(
            _FACTS
        ).fetchone()
    except duckdb.InvalidInputException as error:
        raise _RefusedError(f"a line does not have the header's {len(columns)} fields: {_first_line(error)}") from None
    except duckdb.Error as error:  # its text could quote a value
        raise _RefusedError(f"its lines cannot be read ({type(error).__name__}): an amount beyond 64 bits?") from None
    if row_count + 1 != ends and row_count + 1 != _written_lines(path):
        raise _RefusedError("it has more lines than can be read; is there a line break in a value?")
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
    return SettlementFile(sha256, named(path), account, batch, row_count, debit, credit, set_aside), lines


def _csv(path: Path, columns: list[str]) -> str:
    """SQL that reads the needed columns of the file as text, nothing detected and nothing forgiven. The file's own names stay outside:
    they may be anything."""
    typed = ", ".join(f"c{place}: 'VARCHAR'" for place in range(len(columns)))
    needed = ", ".join(f'c{columns.index(name)} AS "{name}"' for name in NEEDED_COLUMNS)
    return (
        f"(SELECT {needed} FROM read_csv({_quoted(str(path))}, header = true, columns = {{{typed}}}, auto_detect = false, delim = ',',"
        f" quote = '\"', escape = '\"', strict_mode = true, max_line_size = {limits.LINE_BYTES}))"
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
    with open_regular(path) as raw, io.BufferedReader(raw) as stream:
        first = stream.readline(limits.LINE_BYTES)
        size = stream.seek(0, 2)
        if not size:
            raise _RefusedError("it is empty")
        stream.seek(-1, 2)
        if stream.read(1) != b"\n":
            raise _RefusedError("it ends in the middle of a line: cut off on its way; ask for it again")
    try:
        columns = next(csv.reader([first.decode("utf-8-sig")], strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        raise _RefusedError("its first line is no header in UTF-8") from None
    if len(columns) > limits.COLUMNS or not first.endswith(b"\n"):
        raise _RefusedError(f"its header has more than {limits.COLUMNS:,} columns, or does not end")
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
        numbers = sorted({file.batch_number for file in files if file.account == account})
        for before, after in pairwise(numbers):
            if after - before - 1 > GAPS_NAMED:
                gaps.append(f"{account}: batches {before + 1} to {after - 1}")
            else:
                gaps += [f"{account}: batch {n}" for n in range(before + 1, after)]
    return tuple(gaps)


def unknown_types(lines: pa.Table, known: Sequence[str]) -> dict[str, int]:
    """Journal types among `lines` that are in no list, with their number of lines."""
    odd = lines.filter(pc.invert(pc.is_in(lines["type"], pa.array(list(known)))))
    return {row["values"]: row["counts"] for row in pc.value_counts(odd["type"]).to_pylist()}


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
