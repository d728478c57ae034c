"""Adyen advanced SFTP batch files, as the acquirer reads and answers them.

Belongs here: records and fields of the public format, and which line breaks it how. Does not: what an
operation does to the book. Whole columns at a time: no Python object per operation. The rail has its
own, independent implementation of the same pages; see the package's docstring for why.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sandbox.book import OPERATION_KEYS

NAME = re.compile(r"(?P<platform>[A-Za-z0-9]+)_(?P<sequence>[0-9]{1,15})_(?P<file_type>[A-Za-z]+)\.csv")
FILE_TYPES = ("Authorisation", "Modification")

ECHO_CHARACTERS = 80
"""Longest echo data and merchant reference, as the format's pages set it for echo data."""

EXPONENTS = {"JPY": 0, "KRW": 0, "VND": 0, "KWD": 3}
"""Currency exponents that are not 2, of the currencies this acquirer takes."""

_NEWLINES_AT_MOST = 8_000_000
"""Lines of one file; a bound on memory, far above a file of 50,000 operations (200,000 lines)."""


class RejectedError(Exception):
    """The whole file is refused: nothing of it is booked and its sequence number is not used up."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself before its lines."""

    fields: tuple[str, ...]
    platform: str
    sequence: int
    file_type: str
    block_header: str

    @property
    def company_account(self) -> str:
        return self.fields[4]

    @property
    def line(self) -> str:
        return ",".join(self.fields)


def read(connection: duckdb.DuckDBPyConnection, name: str, content: bytes) -> Header:
    """Parse a request file into the temporary views `operation` (good lines) and `bad_line`.

    `operation`: line, merchant_account, merchant_reference, echo, kind (authorise, void, refund),
    shopper_reference, instrument_token, original, amount_minor, currency, and the keys the book goes by
    (`book.OPERATION_KEYS`). `bad_line`: line, merchant_account, merchant_reference, echo, reason.

    Raises:
        RejectedError: the file as a whole breaks the format.
    """
    header, body, line_count = _frame(name, content)
    lines = pc.split_pattern(_text(body), "\n").values
    if b" \n" in body or b"\r" in body:
        lines = pc.utf8_rtrim_whitespace(lines)
    groups = _group(lines, line_count)
    connection.register("groups", groups)
    try:
        parse = _PARSE_AUTHORISATION if header.file_type == "Authorisation" else _PARSE_MODIFICATION
        connection.execute(parse.format(exponents=exponents_sql()))
    finally:
        connection.unregister("groups")
    connection.execute(_SPLIT)
    return header


def acknowledgement(connection: duckdb.DuckDBPyConnection, header: Header, next_sequence: int) -> bytes:
    """The answer to an accepted file: its lines counted, and the malformed ones listed."""
    bad = connection.execute(
        "SELECT string_agg('E,' || line || ',' || merchant_reference || ',' || reason || chr(10), '' ORDER BY line) FROM bad_line"
    ).fetchone()[0]
    count = connection.execute("SELECT (SELECT count(*) FROM operation) + (SELECT count(*) FROM bad_line)").fetchone()[
        0
    ]
    return f"{header.line}\nR,1,{count}\n{bad or ''}N,NextFileSubmissionNumber,{next_sequence}\n".encode()


def rejection(content: bytes, reason: str, next_sequence: int) -> bytes:
    """The answer to a rejected file: its header if it has one, no `R` record, the reason."""
    first = content.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    header = first if first.startswith("FH,") else "FH,1.0,TEST,Company,,,,,,"
    return f"{header}\nE,0,,{reason.replace(',', ';')}\nN,NextFileSubmissionNumber,{next_sequence}\n".encode()


def result(connection: duckdb.DuckDBPyConnection, header: Header) -> bytes:
    """The result file: from `operation`, `bad_line` and `outcome` (by line); silent outcomes are left out."""
    lines = connection.execute(_RENDER_AUTHORISATION if header.file_type == "Authorisation" else _RENDER_MODIFICATION)
    column = lines.to_arrow_table().column("text").combine_chunks()
    body = pc.binary_join(pa.ListArray.from_arrays([0, len(column)], column.cast(pa.string())), "")[0].as_buffer()
    return b"".join((f"{header.line}\n{header.block_header}\n".encode(), body, f"BT,{len(column)}\nFT,1\n".encode()))


def _frame(name: str, content: bytes) -> tuple[Header, bytes, int]:
    """Header, body and the number of lines its block trailer promises."""
    match = NAME.fullmatch(name)
    if not match or match["file_type"] not in FILE_TYPES:
        raise RejectedError(f"file name {name!r} is not [platform]_[sequence]_[{'|'.join(FILE_TYPES)}].csv")
    try:
        if not content.isascii():
            content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedError(f"not UTF-8 at byte {error.start}") from None
    if b'"' in content:
        raise RejectedError("quoted fields are not taken by this acquirer")
    records = content.rstrip()
    body_start = records.find(b"\n", records.find(b"\n") + 1) + 1
    body_end = records.rfind(b"\n", body_start, records.rfind(b"\n"))
    if records.count(b"\n") > _NEWLINES_AT_MOST or not body_start:
        raise RejectedError("too few records, or too many")
    head = records[:body_start].decode().split("\n")
    tail = records[max(body_end + 1, body_start) :].decode().split("\n")
    fields = tuple(field.strip() for field in head[0].split(","))
    if len(fields) != 10 or fields[:2] != ("FH", "1.0") or fields[3] != "Company":
        raise RejectedError("no file header [FH] of ten fields")
    if (fields[5], fields[6], fields[8]) != (match["platform"], match["sequence"], match["file_type"]):
        raise RejectedError("platform, sequence or type in the header is not that of the file name")
    if not head[1].startswith("BH,1"):
        raise RejectedError("no block header [BH] numbered 1")
    if len(tail) != 2:
        raise RejectedError("the block trailer [BT] or the file trailer [FT] is missing")
    block_trailer, file_trailer = (record.strip().split(",") for record in tail)
    if file_trailer != ["FT", "1"]:
        raise RejectedError("the file trailer [FT] must close the file and name one block")
    if len(block_trailer) != 2 or block_trailer[0] != "BT" or not block_trailer[1].isdigit():
        raise RejectedError("no block trailer [BT]")
    header = Header(fields, fields[5], int(fields[6]), fields[8], head[1].strip())
    return header, records[body_start : max(body_end, body_start)], int(block_trailer[1])


def _text(content: bytes) -> pa.Array:
    """`content` as the one value of a text column; nothing is copied."""
    offsets = pa.py_buffer(np.array([0, len(content)], dtype=np.int32))
    return pa.StringArray.from_buffers(1, offsets, pa.py_buffer(content))


def _group(lines: pa.Array, line_count: int) -> pa.Table:
    """One row per line record [L]: its text and that of up to three sub-lines after it."""
    starts = np.flatnonzero(pc.starts_with(lines, "L,").to_numpy(zero_copy_only=False))
    if len(starts) != line_count:
        raise RejectedError(f"block trailer [BT] promises {line_count} lines, the block has {len(starts)}")
    if line_count == 0 or starts[0] != 0:
        raise RejectedError("the block does not begin with a line [L]")
    following = np.append(starts[1:], len(lines))
    columns = {
        "line": np.arange(1, line_count + 1),
        "sub_lines": following - starts - 1,
        "l": lines.take(pa.array(starts)),
    }
    for k in (1, 2, 3):
        index = starts + k
        columns[f"s{k}"] = lines.take(pa.array(np.where(index < following, index, 0), mask=index >= following))
    return pa.table(columns)


def exponents_sql() -> str:
    """SQL of a currency's exponent, from the column `currency`."""
    cases = " ".join(f"WHEN '{currency}' THEN {exponent}" for currency, exponent in EXPONENTS.items())
    return f"CASE currency {cases} ELSE 2 END"


_LINE_PROBLEM = f"""
    WHEN len(lf) <> 7 OR lf[3] <> 'MerchantAccount' THEN 'a line [L] has seven fields for a MerchantAccount'
    WHEN lf[2] <> CAST(line AS VARCHAR) THEN 'line numbers rise by one from 1'
    WHEN lf[6] = '' OR length(lf[6]) > {ECHO_CHARACTERS} THEN 'merchant reference empty or longer than {ECHO_CHARACTERS} characters'
    WHEN length(lf[7]) > {ECHO_CHARACTERS} THEN 'echo data longer than {ECHO_CHARACTERS} characters'"""

_MONEY_PROBLEM = """
    WHEN amount_minor IS NULL OR amount_minor <= 0 THEN 'amount is not a positive whole number'
    WHEN length(currency) <> 3 THEN 'currency is not a three-letter code'
    WHEN exponent IS DISTINCT FROM CAST({exponents} AS VARCHAR) THEN 'currency exponent is not that of the currency'"""

_STORED_DETAIL = "SL,2,Recurring,RECURRING,"

_PARSE_AUTHORISATION = f"""
CREATE OR REPLACE TEMP TABLE parsed AS
WITH split AS (
    SELECT line, sub_lines, string_split(l, ',') AS lf, s1, string_split(s1, ',') AS pd, s2, s3 FROM groups
), field AS (
    SELECT *, 'authorise' AS kind, try_number(pd[4]) AS amount_minor, pd[5] AS exponent, coalesce(pd[6], '') AS currency,
           pd[7] AS shopper_reference, substr(s2, length('{_STORED_DETAIL}') + 1) AS instrument_token, CAST(NULL AS VARCHAR) AS original,
           coalesce(lf[6], '') AS merchant_reference
    FROM split
)
SELECT line, lf[4] AS merchant_account, merchant_reference, coalesce(lf[7], '') AS echo, kind,
       shopper_reference, instrument_token, original, amount_minor, currency, {OPERATION_KEYS},
       CASE {_LINE_PROBLEM}
            WHEN lf[5] <> 'Authorisation' THEN 'processing type is not Authorisation'
            WHEN sub_lines <> 3 OR len(pd) <> 11 OR NOT starts_with(s1, 'SL,1,PaymentDetails,') THEN 'sub-line 1 is not PaymentDetails'
            WHEN NOT starts_with(s2, '{_STORED_DETAIL}') OR contains(instrument_token, ',') THEN 'sub-line 2 is not Recurring'
            WHEN s3 <> 'SL,3,ShopperInteraction,ContAuth' THEN 'sub-line 3 is not ShopperInteraction ContAuth'
            WHEN shopper_reference = '' OR instrument_token = '' THEN 'shopper reference or stored detail is missing'
            {_MONEY_PROBLEM} END AS problem
FROM field"""

_PARSE_MODIFICATION = f"""
CREATE OR REPLACE TEMP TABLE parsed AS
WITH split AS (
    SELECT line, sub_lines, string_split(l, ',') AS lf, s1, string_split(s1, ',') AS sl FROM groups
), field AS (
    SELECT *, CASE lf[5] WHEN 'Cancel' THEN 'void' WHEN 'Refund' THEN 'refund' END AS kind, try_number(sl[5]) AS amount_minor,
           sl[6] AS exponent, sl[7] AS currency, sl[4] AS original, CAST(NULL AS VARCHAR) AS shopper_reference,
           CAST(NULL AS VARCHAR) AS instrument_token, coalesce(lf[6], '') AS merchant_reference
    FROM split
)
SELECT line, lf[4] AS merchant_account, merchant_reference, coalesce(lf[7], '') AS echo, kind,
       shopper_reference, instrument_token, original, amount_minor, currency, {OPERATION_KEYS},
       CASE {_LINE_PROBLEM}
            WHEN kind IS NULL THEN 'processing type is neither Cancel nor Refund'
            WHEN sub_lines <> 1 OR NOT starts_with(s1, concat('SL,1,', lf[5], ',')) THEN 'sub-line 1 is not of the processing type'
            WHEN len(sl) <> CASE kind WHEN 'void' THEN 4 ELSE 7 END THEN 'wrong number of fields in sub-line 1'
            WHEN original = '' THEN 'original reference is missing'
            WHEN kind = 'void' THEN NULL {_MONEY_PROBLEM} END AS problem
FROM field"""

_SPLIT = """
CREATE OR REPLACE TEMP VIEW operation AS SELECT * EXCLUDE (problem) FROM parsed WHERE problem IS NULL;
CREATE OR REPLACE TEMP VIEW bad_line AS
SELECT line, merchant_account, merchant_reference, echo, problem AS reason FROM parsed WHERE problem IS NOT NULL"""

_RENDER_BAD = """
    SELECT line, 'L,' || line || ',MerchantAccount,' || coalesce(merchant_account, '') || ',ParseOrValidationError,' || merchant_reference
        || ',ValidationError,' || echo || chr(10) || 'SL,1,ValidationError,' || reason || chr(10) AS text
    FROM bad_line"""

_RENDER_AUTHORISATION = f"""
SELECT text FROM (
    SELECT o.line, concat('L,', o.line, ',MerchantAccount,', o.merchant_account, ',Authorisation,', o.merchant_reference,
        if(r.status = 'succeeded', ',Authorised,', ',Refused,'), o.echo, chr(10), 'SL,1,PaymentResult,', r.reference, ',',
        if(r.status = 'succeeded', concat(lpad(CAST(r.reference % 1000000 AS VARCHAR), 6, '0'), ',100,Approved'),
           concat(',', r.code, ',', r.reason)), chr(10)) AS text
    FROM operation o JOIN outcome r USING (line) WHERE NOT r.silent
    UNION ALL {_RENDER_BAD}
) ORDER BY line"""

_RENDER_MODIFICATION = f"""
SELECT text FROM (
    SELECT o.line, concat('L,', o.line, ',MerchantAccount,', o.merchant_account, if(o.kind = 'void', ',Cancel,', ',Refund,'),
        o.merchant_reference, if(r.status = 'succeeded', ',Success,', ',Error,'), o.echo, chr(10), 'SL,1,ModificationResult,',
        r.reference, ',', o.original, ',', r.reason, chr(10)) AS text
    FROM operation o JOIN outcome r USING (line) WHERE NOT r.silent
    UNION ALL {_RENDER_BAD}
) ORDER BY line"""


def write_whole(path: Path, content: bytes) -> None:
    """Put a file where others look for it: never half of it, whatever happens."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
