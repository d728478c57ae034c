"""The batch rail: charges, voids and refunds as Adyen's advanced SFTP batch files.

Belongs here: everything this project knows of that public format - names, records, fields, answers. Does
not: when money may move, or what a plan says. The writer and `read_back` share no code, so that what goes
out is checked by somebody who did not write it; the practice acquirer implements the same pages a third
time, on its own, for the same reason. `docs/adyen_batch.md` lists the pages and where we deviate.

All work is on whole columns: a file of 50,000 operations is never 50,000 Python objects.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.errors import FatalError, OutcomeUnknown
from pipeline.ports import BatchFile
from pipeline.schema import OPERATION_SCHEMA, OUTCOME_SCHEMA

FIELD_CHARACTERS_MAX = 80
"""Longest merchant reference and echo data, in characters; the format sets it for echo data."""

AMOUNT_MINOR_MAX = 999_999_999_999
"""Twelve digits: what the card networks' amount field (ISO 8583, field 4) holds."""

POLL_SECONDS = 0.01
"""Pause between looks for an answer: the practice acquirer needs a fifth of a second for a large file."""

FILES_UNDER_WAY = 2
"""Files that may wait for their answers, or to be sent, at a time."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "Not enough balance": "insufficient_funds",
        "Blocked Card": "closed_card",
        "Expired Card": "expired_card",
        "Withdrawal amount exceeded": "over_limit",
        "Recurring contract not found": "unknown_card",
        "Recurring contract is not active": "closed_card",
        "Transaction not found": "payment_not_found",
        "Transaction is expired": "payment_expired",
        "Payment already captured": "already_acquired",
        "Payment not captured": "not_acquired",
        "Payment already cancelled": "already_voided",
        "Payment was not authorised": "never_authorised",
        "Payment is disputed": "disputed",
        "Insufficient balance on payment": "over_refund",
        "Modification in different currency than authorisation": "currency_differs",
    }
)
"""Reason code by the acquirer's text; a text that is not here becomes `other: <text>`."""

_STATUSES = {"Success": "succeeded", "Authorised": "succeeded", "Refused": "declined", "Error": "declined", "Cancelled": "declined",
             "Received": "pending", "Pending": "pending", "ValidationError": "declined"}  # fmt: skip

_RESULTS = ["PaymentResult", "ModificationResult", "ValidationError"]
"""What a sub-line of a result file may be."""

_PLAIN_FIELD = r'^[^,"\s]([^,"\r\n]*[^,"\s])?$'
"""A field that means the same to every CSV reader, quoting or not."""

_EXPONENTS = {currency: str(exponent) for currency, exponent in MINOR_UNIT_EXPONENT.items()}

_FILE_TYPE = {"charge": "Authorisation", "rebill": "Authorisation", "void": "Modification", "refund": "Modification"}


@dataclass(frozen=True, slots=True)
class MerchantAccount:
    """Who sends, as every file header and line says it.

    Attributes:
        environment: `TEST` or `LIVE`.
        company, merchant: account names.
        platform: names this sender; file sequence numbers count per platform. Letters and digits only.
        api_user: the API credential's user name.
    """

    environment: str = "TEST"
    company: str = "Makegood"
    merchant: str = "MakegoodBilling"
    platform: str = "Makegood"
    api_user: str = "ws@Company.Makegood"


REHEARSAL = MerchantAccount()
"""The sender of rehearsals, which no acquirer but the practice acquirer knows."""


class AdyenBatchRail:
    """A `PaymentRail` over a folder that is Adyen's SFTP directory: `in/`, `ack/` and `result/`.

    Args:
        folder: the directory, mounted or synchronised; answers arrive there.
        outbox: where files wait and are kept once written, outside `folder`.
        account: who sends.
    """

    simulated = False

    def __init__(self, folder: Path, *, outbox: Path, account: MerchantAccount = REHEARSAL) -> None:
        self.folder, self.outbox, self.account = folder, outbox, account
        self._read: dict[str, pa.Table] = {}

    def introduce(self, cards: pa.Table) -> None:
        """Nothing to do: Adyen stored the instruments when their owners gave them."""

    def write(self, operations: pa.Table, *, sequence: int, echo: str) -> BatchFile:
        """See `PaymentRail.write`. A file holds charges and rebills, or voids, or refunds; an undo carries no token.

        Raises:
            FatalError: the operations cannot be said in one file; the message names the row and why.
        """
        operations = operations.select(OPERATION_SCHEMA.names).cast(OPERATION_SCHEMA).combine_chunks()
        file_type = _file_type(operations)
        _check_writable(operations, echo)
        render = _render_authorisations if file_type == "Authorisation" else _render_modifications
        head = ["FH", "1.0", self.account.environment, "Company", self.account.company, self.account.platform, str(sequence),
                self.account.api_user, file_type, echo]  # fmt: skip
        content = b"".join(
            (
                f"{','.join(head)}\nBH,1,\n".encode(),
                render(operations, self.account.merchant),
                f"BT,{operations.num_rows}\nFT,1\n".encode(),
            )
        )
        self.outbox.mkdir(parents=True, exist_ok=True)
        path = self.outbox / f"{self.account.platform}_{sequence}_{file_type}.csv"
        _write_whole(path, content)
        total = pc.sum(operations["amount_minor"]).as_py()
        return BatchFile(path, sequence, hashlib.sha256(content).hexdigest(), operations.num_rows, total)

    def read_back(self, file: BatchFile) -> pa.Table:
        """See `PaymentRail.read_back`; an undo's `instrument_token` is NULL, because the file does not carry it."""
        content = _read_unchanged(file)
        header, operations = read_request(content, name=file.path.name)
        expected = {
            2: self.account.environment,
            4: self.account.company,
            5: self.account.platform,
            6: str(file.sequence),
        }
        for index, value in expected.items():
            if header[index] != value:
                raise FatalError(
                    f"{file.path.name}: header field {index + 1} is {header[index]!r}, not {value!r}; write the file anew"
                )
        total = pc.sum(operations["amount_minor"]).as_py() or 0
        if (operations.num_rows, total) != (file.operation_count, file.total_minor):
            raise FatalError(
                f"{file.path.name} holds {operations.num_rows} operations of {total} in all, "
                f"but was written for {file.operation_count} of {file.total_minor}; write it anew"
            )
        self._keep(file, operations)
        return operations

    def submit(self, file: BatchFile) -> None:
        """See `PaymentRail.submit`; the written file stays in the outbox as evidence of what went out.

        Raises:
            FatalError: the file changed since it was written, or another file was accepted under its sequence number.
        """
        content, name = _read_unchanged(file), file.path.name
        acknowledged = self._acknowledgement(file)
        if acknowledged is not None and acknowledged.accepted:
            if acknowledged.header != _first_line(content):
                raise FatalError(
                    f"sequence {file.sequence} was used by another file ({acknowledged.header}); take the next number"
                )
            return
        if (self.folder / "in" / name).exists():
            return
        # An older refusal of this very name must not be taken for the answer to come.
        (self.folder / "ack" / f"{name}_ack").unlink(missing_ok=True)
        (self.folder / "in").mkdir(parents=True, exist_ok=True)
        _write_whole(self.folder / "in" / name, content)

    def poll(self, file: BatchFile, *, timeout_seconds: float) -> pa.Table:
        """See `PaymentRail.poll`; `payment_id` of a void or refund is the acquirer's id of that modification."""
        deadline = time.monotonic() + timeout_seconds
        with file.path.open("rb") as content:
            header = _first_line(content.readline())
        while (outcomes := self._answer(file, header)) is None:
            if time.monotonic() >= deadline:
                raise OutcomeUnknown(
                    f"{file.path.name}: no answer in {timeout_seconds:g} s; inquire by merchant reference before anything else"
                )
            self._keep_waiting()
            time.sleep(POLL_SECONDS)
        return outcomes

    def inquire(self, merchant_references: pa.Array) -> pa.Table:
        """Not to be had: the batch format has no question.

        Raises:
            FatalError: always; the message says where to look instead.
        """
        raise FatalError(
            f"{len(merchant_references)} operations without an answer: Adyen's batch files cannot ask. Look them up in its "
            "Received payments report, and record what became of each"
        )

    def next_sequence(self) -> int:
        """One above the highest number accepted or on its way, by the acknowledgements in the folder; 1 at first."""
        pattern = re.compile(rf"{re.escape(self.account.platform)}_([0-9]+)_[A-Za-z]+\.csv(_ack)?")
        found = {}
        for place in ("ack", "in"):
            directory = self.folder / place
            names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
            found[place] = [(int(match[1]), directory / match[0]) for match in map(pattern.fullmatch, names) if match]
        on_their_way = [sequence + 1 for sequence, _ in found["in"]]
        for _, path in sorted(found["ack"], reverse=True):
            acknowledged = parse_acknowledgement(path.read_bytes())
            if acknowledged.accepted:
                return max([acknowledged.next_sequence, *on_their_way])
        return max([1, *on_their_way])

    def set_clock(self, as_of: datetime | None) -> None:
        """See `PaymentRail.set_clock`: always refused here."""
        raise FatalError("a real acquirer knows its own time; a simulated clock goes with the practice acquirer only")

    def _keep_waiting(self) -> None:
        """Called between looks; may notice that nobody will ever answer."""

    def _sent(self, file: BatchFile) -> pa.Table:
        """The file's operations, as they were read back."""
        if file.sha256 not in self._read:
            self._keep(file, read_request(_read_unchanged(file), name=file.path.name)[1])
        return self._read[file.sha256]

    def _keep(self, file: BatchFile, operations: pa.Table) -> None:
        """Remember what a file says until its answers come: of two files, since one is written while the other is answered."""
        self._read = dict([*self._read.items(), (file.sha256, operations)][-FILES_UNDER_WAY:])

    def _acknowledgement(self, file: BatchFile) -> "Acknowledgement | None":
        try:
            return parse_acknowledgement((self.folder / "ack" / f"{file.path.name}_ack").read_bytes())
        except FileNotFoundError:
            return None

    def _answer(self, file: BatchFile, header: str) -> pa.Table | None:
        """The file's outcomes; None while there is no answer. Answers to another file of the same name are not looked at."""
        acknowledged = self._acknowledgement(file)
        if acknowledged is not None and acknowledged.header == header and not acknowledged.accepted:
            raise FatalError(
                f"{file.path.name} was rejected whole, nothing was booked: {'; '.join(acknowledged.problems)}"
            )
        try:
            content = (self.folder / "result" / f"{file.path.name}_result").read_bytes()
        except FileNotFoundError:
            return None
        if _first_line(content) != header:
            return None
        outcomes = parse_result(content, name=file.path.name)
        sent = self._sent(file)
        position = pc.index_in(outcomes["merchant_reference"], sent["merchant_reference"].combine_chunks())
        if position.null_count:
            raise FatalError(
                f"{file.path.name}: the result answers for {position.null_count} operations that were not sent; nothing is recorded"
            )
        return outcomes.set_column(4, OUTCOME_SCHEMA.field("amount_minor"), sent["amount_minor"].take(position))


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What an acknowledgement file says.

    Attributes:
        header: the request's file header, as it came back.
        accepted: whether the file was taken at all; a malformed line in it does not change that.
        next_sequence: the number the acquirer takes next.
        problems: what it lists as wrong.
    """

    header: str
    accepted: bool
    next_sequence: int
    problems: tuple[str, ...]


def parse_acknowledgement(content: bytes) -> Acknowledgement:
    """Read an acknowledgement file.

    Raises:
        FatalError: it is none.
    """
    records = [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]
    numbers = [record.split(",") for record in records if record.startswith("N,NextFileSubmissionNumber,")]
    if not records or not records[0].startswith("FH,") or len(numbers) != 1:
        raise FatalError(
            "an acknowledgement has one file header [FH] and one NextFileSubmissionNumber; this file does not"
        )
    accepted = any(record.startswith("R,") for record in records)
    problems = tuple(record.split(",", 3)[-1] for record in records if record.startswith("E,"))
    return Acknowledgement(records[0], accepted, int(numbers[0][2]), problems)


def parse_result(content: bytes, *, name: str) -> pa.Table:
    """Read a result file as `OUTCOME_SCHEMA`, without amounts, which it does not carry.

    Raises:
        FatalError: it cannot be parsed, or its trailers contradict its lines.
    """
    _, lines, first = _frame(content, name)
    if len(lines) % 2:
        raise FatalError(f"{name}: the result's lines and sub-lines do not pair up")
    if len(lines) == 0:
        return OUTCOME_SCHEMA.empty_table()
    head, sub = _columns(lines[0::2], 8, name, first, 2), lines[1::2]
    _require(pc.equal(head[0], "L"), name, first, 2, "not a line [L]")
    known = pc.is_in(head[6], pa.array(list(_STATUSES)))
    _require(known, name, first, 2, "unknown transaction status")
    found = pc.split_pattern(sub, ",", max_splits=4)  # SL, 1, what it is, reference, the rest
    is_whole = pc.and_(pc.starts_with(sub, "SL,1,"), pc.greater_equal(pc.list_value_length(found), 4))
    _require(is_whole, name, first + 1, 2, "unknown result sub-line")
    _require(pc.is_in(pc.list_element(found, 2), pa.array(_RESULTS)), name, first + 1, 2, "unknown result sub-line")
    is_malformed = pc.equal(head[6], "ValidationError")
    reference = pc.if_else(is_malformed, pa.scalar(None, pa.string()), pc.list_element(found, 3))
    reason = pc.list_element(pc.split_pattern(sub, ",", max_splits=1, reverse=True), 1)
    status = _translate(head[6], _STATUSES)
    code = pc.if_else(is_malformed, "malformed_line", _translate(reason, REASONS, otherwise="other: "))
    code = pc.if_else(pc.equal(status, "declined"), code, pa.scalar(None, pa.string()))
    return pa.table([head[5], status, code, reference, pa.nulls(len(status), pa.int64())], schema=OUTCOME_SCHEMA)


def read_request(content: bytes, *, name: str) -> tuple[list[str], pa.Table]:
    """Read a request file: its header fields, and its operations as `OPERATION_SCHEMA`.

    Raises:
        FatalError: it is not what this rail would send, or its trailers contradict its lines; the message names the record.
    """
    header, lines, first = _frame(content, name)
    if len(header) != 10 or header[:2] != ["FH", "1.0"] or header[3] != "Company":
        raise FatalError(f"{name}: record 1 is no file header [FH] of ten fields")
    match header[8]:
        case "Authorisation":
            return header, _read_authorisations(lines, name, first)
        case "Modification":
            return header, _read_modifications(lines, name, first)
        case file_type:
            raise FatalError(f"{name}: file type {file_type!r} is not one this rail sends")


def _frame(content: bytes, name: str) -> tuple[list[str], pa.Array, int]:
    """Header fields, body records, and the number of the first body record; checks both trailers."""
    try:
        if not content.isascii():
            content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FatalError(f"{name}: not UTF-8 at byte {error.start}") from None
    whole = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, len(content)], np.int32)), pa.py_buffer(content))
    lines = pc.split_pattern(
        whole, "\n"
    ).values  # of the bytes as they are: a copy takes longer than what is done with it
    if b" \n" in content or b"\r" in content:
        lines = pc.utf8_rtrim_whitespace(lines)
    if len(lines) and lines[-1].as_py() == "":
        lines = lines[:-1]
    if len(lines) < 4 or not lines[1].as_py().startswith("BH,1"):
        raise FatalError(f"{name}: cut off, or no file header [FH] and block header [BH]")
    if lines[-1].as_py() != "FT,1":
        raise FatalError(f"{name}: the last record is not the file trailer [FT] of one block; the file is cut off")
    body = lines[2:-2]
    count = pc.sum(pc.starts_with(body, "L,")).as_py() or 0
    if lines[-2].as_py() != f"BT,{count}":
        raise FatalError(f"{name}: the block trailer is {lines[-2].as_py()!r}, but the block has {count} lines [L]")
    return [field.strip() for field in lines[0].as_py().split(",")], body, 3


def _read_authorisations(lines: pa.Array, name: str, first: int) -> pa.Table:
    if len(lines) % 4:
        raise FatalError(
            f"{name}: a charge is one line and three sub-lines; {len(lines)} records are no multiple of four"
        )
    head = _columns(lines[0::4], 7, name, first, 4)
    details = _columns(lines[1::4], 11, name, first + 1, 4)
    stored = _columns(lines[2::4], 5, name, first + 2, 4)
    _require(
        pc.equal(lines[3::4], "SL,3,ShopperInteraction,ContAuth"), name, first + 3, 4, "not ShopperInteraction ContAuth"
    )
    _require_fixed(head, {0: "L", 2: "MerchantAccount", 4: "Authorisation"}, name, first, 4)
    _require_fixed(details, {0: "SL", 1: "1", 2: "PaymentDetails"}, name, first + 1, 4)
    _require_fixed(stored, {0: "SL", 1: "2", 2: "Recurring", 3: "RECURRING"}, name, first + 2, 4)
    _require_numbered(head[1], name, first, 4)
    _require(
        pc.is_in(head[6], pa.array(["charge", "rebill"])), name, first, 4, "echo data is neither charge nor rebill"
    )
    amount = _read_money(details[3], details[4], details[5], name, first + 1, 4)
    kind = head[6]
    nothing = pa.nulls(len(kind), pa.string())
    return pa.table([head[5], kind, details[6], stored[4], amount, details[5], nothing], schema=OPERATION_SCHEMA)


def _read_modifications(lines: pa.Array, name: str, first: int) -> pa.Table:
    if len(lines) % 2:
        raise FatalError(f"{name}: an undo is one line and one sub-line; {len(lines)} records are no multiple of two")
    head = _columns(lines[0::2], 7, name, first, 2)
    _require_fixed(head, {0: "L", 2: "MerchantAccount"}, name, first, 2)
    _require_numbered(head[1], name, first, 2)
    processing = pc.unique(head[4]).to_pylist()
    if processing not in (["Cancel"], ["Refund"]):
        raise FatalError(f"{name}: one file cancels or refunds; this one has the processing types {processing}")
    # A Cancel names no amount and neither names the shopper, so our echo data says all three: `<minor> <currency> <customer>`.
    echo = pc.split_pattern(head[6], " ", max_splits=2)
    _require(
        pc.equal(pc.list_value_length(echo), 3), name, first, 2, "echo data does not say amount, currency and customer"
    )
    said_minor, said_currency, customer = (pc.list_element(echo, index) for index in range(3))
    _require(pc.match_substring_regex(said_minor, r"^[1-9][0-9]{0,11}$"), name, first, 2, "echo data says no amount")
    said_minor = said_minor.cast(pa.int64())
    if processing == ["Cancel"]:
        sub = _columns(lines[1::2], 4, name, first + 1, 2)
        amount, currency, kind = said_minor, said_currency, "void"
    else:
        sub = _columns(lines[1::2], 7, name, first + 1, 2)
        amount, currency, kind = _read_money(sub[4], sub[5], sub[6], name, first + 1, 2), sub[6], "refund"
    _require_fixed(sub, {0: "SL", 1: "1", 2: processing[0]}, name, first + 1, 2)
    agrees = pc.and_(pc.equal(amount, said_minor), pc.equal(currency, said_currency))
    _require(agrees, name, first, 2, "echo data and sub-line name different money")
    kinds, nothing = pa.repeat(pa.scalar(kind, pa.string()), len(amount)), pa.nulls(len(amount), pa.string())
    return pa.table([head[5], kinds, customer, nothing, amount, currency, sub[3]], schema=OPERATION_SCHEMA)


def _read_money(amount: pa.Array, exponent: pa.Array, currency: pa.Array, name: str, first: int, step: int) -> pa.Array:
    _require(pc.match_substring_regex(amount, r"^[1-9][0-9]{0,11}$"), name, first, step, "amount is not 1 to 12 digits")
    expected = _translate(currency, _EXPONENTS)
    _require(
        pc.equal(exponent, expected),
        name,
        first,
        step,
        "the currency is unknown, or its exponent is not that of ISO 4217",
    )
    return amount.cast(pa.int64())


def _columns(lines: pa.Array, width: int, name: str, first: int, step: int) -> list[pa.Array]:
    """The fields of records that must all have `width` of them, by column."""
    fields = pc.split_pattern(lines, ",")
    _require(pc.equal(pc.list_value_length(fields), width), name, first, step, f"not {width} fields")
    flat = fields.flatten()
    return [flat.take(pa.array(np.arange(index, len(flat), width))) for index in range(width)]


def _require_fixed(columns: list[pa.Array], values: dict[int, str], name: str, first: int, step: int) -> None:
    for index, value in values.items():
        _require(pc.equal(columns[index], value), name, first, step, f"field {index + 1} is not {value}")


def _require_numbered(numbers: pa.Array, name: str, first: int, step: int) -> None:
    expected = pa.array(np.arange(1, len(numbers) + 1)).cast(pa.string())
    _require(pc.equal(numbers, expected), name, first, step, "line numbers do not rise by one from 1")


def _require(condition: pa.BooleanArray, name: str, first: int, step: int, what: str) -> None:
    """Every record must meet `condition`; the first that does not is named. Records are `first`, `first + step`, ..."""
    if not pc.all(pc.fill_null(condition, False), min_count=0).as_py():
        offender = pc.index(pc.fill_null(condition, False), False).as_py()
        raise FatalError(f"{name}, record {first + step * offender}: {what}")


def _translate(column: pa.Array, table: Mapping[str, str], *, otherwise: str | None = None) -> pa.Array:
    """`column` through `table`; what is not in it becomes NULL, or itself after the prefix `otherwise`."""
    position = pc.index_in(column, pa.array(list(table), column.type))
    translated = pa.array(list(table.values()), pa.string()).take(position)
    if otherwise is None or not translated.null_count:
        return translated
    return pc.coalesce(translated, pc.binary_join_element_wise(otherwise, column, ""))


def _file_type(operations: pa.Table) -> str:
    kinds = set(pc.unique(operations["kind"]).to_pylist())
    if not kinds:
        raise FatalError("no operations: an empty file is never sent")
    if not kinds <= set(_FILE_TYPE) or (len(kinds) > 1 and not kinds <= {"charge", "rebill"}):
        raise FatalError(
            f"one file holds charges and rebills, or voids, or refunds; not {sorted(map(str, kinds))} together"
        )
    return _FILE_TYPE[kinds.pop()]


def _check_writable(operations: pa.Table, echo: str) -> None:
    """Refuse what the format cannot say; it has no escape for a comma that this rail would use."""
    if len(echo) > FIELD_CHARACTERS_MAX or re.search(r'[,"\r\n]', echo):
        raise FatalError(f"echo data is at most {FIELD_CHARACTERS_MAX} characters without comma, quote or line break")
    is_undo = operations["kind"][0].as_py() in ("void", "refund")
    needed = ["merchant_reference", "customer_id", "currency", "original_payment_id" if is_undo else "instrument_token"]
    for column in needed:
        values = operations[column].combine_chunks()
        is_plain = pc.match_substring_regex(values, _PLAIN_FIELD)
        _require_row(is_plain, column, "empty, or has a comma, quote, line break or outer blank")
        _require_row(
            pc.less_equal(pc.utf8_length(values), FIELD_CHARACTERS_MAX),
            column,
            f"longer than {FIELD_CHARACTERS_MAX} characters",
        )
    amount = operations["amount_minor"].combine_chunks()
    in_range = pc.and_(pc.greater(amount, 0), pc.less_equal(amount, AMOUNT_MINOR_MAX))
    _require_row(in_range, "amount_minor", f"not between 1 and {AMOUNT_MINOR_MAX}")
    _require_row(
        pc.is_in(operations["currency"].combine_chunks(), pa.array(list(MINOR_UNIT_EXPONENT))), "currency", "unknown"
    )
    references = operations["merchant_reference"].combine_chunks()
    if pc.count_distinct(references).as_py() != len(references):
        raise FatalError("merchant_reference: the same one twice in a file")


def _require_row(condition: pa.BooleanArray, column: str, what: str) -> None:
    if not pc.all(pc.fill_null(condition, False)).as_py():
        row = pc.index(pc.fill_null(condition, False), False).as_py() + 1
        raise FatalError(f"operation {row}: {column} is {what}; it cannot be sent")


def _render_authorisations(operations: pa.Table, merchant: str) -> bytes:
    number = pa.array(np.arange(1, operations.num_rows + 1)).cast(pa.string())
    exponent = _translate(operations["currency"].combine_chunks(), _EXPONENTS)
    return _join(
        "L,", number, f",MerchantAccount,{merchant},Authorisation,", operations["merchant_reference"], ",", operations["kind"],
        "\nSL,1,PaymentDetails,", operations["amount_minor"].cast(pa.string()), ",", exponent, ",", operations["currency"], ",",
        operations["customer_id"], ",,,,\nSL,2,Recurring,RECURRING,", operations["instrument_token"],
        "\nSL,3,ShopperInteraction,ContAuth\n",
    )  # fmt: skip


def _render_modifications(operations: pa.Table, merchant: str) -> bytes:
    number = pa.array(np.arange(1, operations.num_rows + 1)).cast(pa.string())
    amount, currency = operations["amount_minor"].cast(pa.string()), operations["currency"]
    echo = pc.binary_join_element_wise(amount, currency, operations["customer_id"], " ")
    _require_row(
        pc.less_equal(pc.utf8_length(echo.combine_chunks()), FIELD_CHARACTERS_MAX),
        "customer_id",
        "too long for the echo data",
    )
    processing = "Cancel" if operations["kind"][0].as_py() == "void" else "Refund"
    head = ("L,", number, f",MerchantAccount,{merchant},{processing},", operations["merchant_reference"], ",", echo,
            f"\nSL,1,{processing},", operations["original_payment_id"])  # fmt: skip
    if processing == "Cancel":
        return _join(*head, "\n")
    exponent = _translate(currency.combine_chunks(), _EXPONENTS)
    return _join(*head, ",", amount, ",", exponent, ",", currency, "\n")


def _join(*parts: str | pa.Array | pa.ChunkedArray) -> bytes:
    """The parts side by side, row after row, as one piece of text."""
    flat = [part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part for part in parts]
    rows = pc.binary_join_element_wise(*flat, "")
    return pc.binary_join(pa.ListArray.from_arrays([0, len(rows)], rows), "")[0].as_buffer().to_pybytes()


def _first_line(content: bytes) -> str:
    end = content.find(b"\n")
    return content[: end if end >= 0 else None].decode("utf-8").strip()


def _read_unchanged(file: BatchFile) -> bytes:
    content = file.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise FatalError(
            f"{file.path.name} is not as it was written (its SHA-256 differs); write it anew, send nothing"
        )
    return content


def _write_whole(path: Path, content: bytes) -> None:
    """Write beside and rename: nobody ever sees half a file."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
