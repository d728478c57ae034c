"""The batch rail: charges, voids and refunds as Adyen's advanced SFTP batch files.

Belongs here: everything this project knows of that public format - names, records, fields, answers. Does
not: when money may move, or what a plan says. The writer and `read_back` share no code, so that what goes
out is checked by somebody who did not write it; the practice acquirer implements the same pages a third
time, on its own, for the same reason. `docs/adyen_batch.md` lists the pages and where we deviate.

All work is on whole columns: a file of 50,000 operations is never 50,000 Python objects.
"""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.adapters.durable import sync, write_durably
from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.errors import DamagedAnswer, FatalError, FileRefused, OutcomeUnknown, SenderLost
from pipeline.ports import BatchFile, Noted, SentFile, Whereabouts
from pipeline.schema import OPERATION_SCHEMA, OUTCOME_SCHEMA

FIELD_CHARACTERS_MAX = 80
"""Longest merchant reference and echo data, in characters; the format sets it for echo data."""

AMOUNT_MINOR_MAX = 999_999_999_999
"""Twelve digits: what the card networks' amount field (ISO 8583, field 4) holds."""

POLL_SECONDS = 0.01
"""Pause between looks for an answer: the practice acquirer needs a fifth of a second for a large file."""

DAMAGE_SECONDS = 2.0
"""How long an answer that makes no sense is read again, as it may still be arriving, before it is called damaged."""

HEADER_FIELDS = (
    "FH", "version", "environment", "level", "company", "platform", "sequence", "api user", "file type", "echo data",
)  # fmt: skip
"""Of a file's first line."""

DIGEST_DIGITS = 16
"""Of a digest of the operations, in the echo data: every answer then names the very file it is about."""

REFUSED_UNBOOKED = (
    "leaves a gap", "is not [platform]", "not UTF-8", "quoted fields", "too few records", "no file header", "no block header",
    "in the header is not that of the file name", "trailer [", "does not begin with a line", "company account",
)  # fmt: skip
"""Parts of the reasons for which a file is refused before anything of it is booked. Any other reason - that its number was used before,
that it is a duplicate, or one that nobody here has met - may mean that it was booked: then it is unknown, and asked about."""

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

    @property
    def identity(self) -> str:
        """See `PaymentRail.identity`: numbers count per platform."""
        return f"{self.account.company}/{self.account.platform}"

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
        body = render(operations, self.account.merchant)
        echo = f"{echo} {hashlib.sha256(body).hexdigest()[:DIGEST_DIGITS]}"
        header = ",".join(["FH", "1.0", self.account.environment, "Company", self.account.company, self.account.platform, str(sequence),
                           self.account.api_user, file_type, echo])  # fmt: skip
        content = b"".join((f"{header}\nBH,1,\n".encode(), body, f"BT,{operations.num_rows}\nFT,1\n".encode()))
        path = self.outbox / f"{self.account.platform}_{sequence}_{file_type}.csv"
        staged = self._place("staged") / f"{secrets.token_hex(8)}-{path.name}"
        self.outbox.mkdir(parents=True, exist_ok=True)
        for copy in (path, staged):
            write_durably(copy, content)
        total = pc.sum(operations["amount_minor"]).as_py()
        return BatchFile(
            path, staged, sequence, header, hashlib.sha256(content).hexdigest(), operations.num_rows, total
        )

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
        return operations

    def require_as_written(self, file: BatchFile) -> None:
        """See `PaymentRail.require_as_written`."""
        _read_unchanged(file)

    # -- handing over -------------------------------------------------------------------------------------------

    def note(self, noted: Noted) -> None:
        """See `PaymentRail.note`."""
        self.outbox.mkdir(parents=True, exist_ok=True)
        write_durably(self._note_file, json.dumps({"epoch": noted.epoch, "sequence": noted.sequence}).encode())

    def noted(self) -> Noted:
        """See `PaymentRail.noted`.

        Raises:
            FatalError: the note is there and makes no sense.
        """
        accepted = self.next_sequence() - 1
        try:
            said = json.loads(self._note_file.read_text())
            return Noted(int(said["epoch"]), max(accepted, int(said["sequence"])), accepted)
        except FileNotFoundError:
            return Noted(0, accepted, accepted)
        except (ValueError, KeyError, TypeError):
            raise FatalError(
                f"{self._note_file} does not say what was handed over last; `makegood sending status` shows what the acquirer has:"
                " put a copy of the file from a backup in its place, or remove it once nothing is missing"
            ) from None

    def deliver(self, file: BatchFile) -> None:
        """See `PaymentRail.deliver`; the other copy stays in the outbox as evidence of what went out.

        Raises:
            FatalError: another file of the same name waits for the acquirer.
        """
        arrival = self._place("in") / file.path.name
        if arrival.exists() and file.staged.exists():
            raise FatalError(f"{arrival.name} lies before the acquirer already, and is not ours: nothing was sent")
        try:
            file.staged.rename(arrival)
        except FileNotFoundError:
            raise SenderLost(f"{file.path.name} was taken back by another sender; it was not sent from here") from None
        sync(arrival.parent)

    def recall(self, file: BatchFile) -> Whereabouts:
        """See `PaymentRail.recall`."""
        kept = self._place("withdrawn")
        if file.staged is not None:
            try:
                file.staged.rename(kept / file.staged.name)
                sync(kept)
                return "withdrawn"
            except FileNotFoundError:
                if (kept / file.staged.name).exists():
                    return "withdrawn"
        if self._has_arrived(file):
            return "delivered"
        return "missing" if file.staged is not None else "withdrawn"  # of before there was a staged copy: it never went

    def whereabouts(self, file: BatchFile) -> str:
        """Where a file is: `staged`, or as `recall` says; moves nothing."""
        if file.staged is not None and file.staged.exists():
            return "staged"
        if file.staged is not None and (self.folder / "withdrawn" / file.staged.name).exists():
            return "withdrawn"
        if self._has_arrived(file):
            return "delivered"
        return "missing" if file.staged is not None else "withdrawn"

    def sent_files(self) -> list[SentFile]:
        """The files that the acquirer has accepted, or that lie before it, in the order of their numbers."""
        found: dict[str, SentFile] = {}
        for place, ending in (("in", ""), ("ack", "_ack"), ("result", "_result")):  # one of them may be damaged or gone
            for path in (self.folder / place).glob(f"{self.account.platform}_*.csv{ending}"):
                sent = _sent_file(path, ending) if place != "ack" or _accepts(path) else None
                if sent is not None:
                    found.setdefault(sent.header, sent)
        # it takes every number once: of one below its next that no answer names any more, the evidence says what it was
        answered, taken = {sent.sequence for sent in found.values()}, range(1, self.next_sequence())
        for path in self.outbox.glob(f"{self.account.platform}_*.csv"):
            sent = _sent_file(path, "")
            if sent is not None and sent.sequence in taken and sent.sequence not in answered:
                found.setdefault(sent.header, sent)
        return sorted(found.values(), key=lambda sent: sent.sequence)

    def read_sent(self, sent: SentFile) -> tuple[BatchFile, pa.Table]:
        """A file that went out, from the evidence that was kept of it, and its operations.

        Raises:
            FatalError: the evidence is gone, or of another file.
        """
        path = self.outbox / sent.name
        if _header_of(path) != sent.header:
            raise FatalError(
                f"{path} is not the file that the acquirer has under number {sent.sequence}: put it back from a backup, then repair again"
            )
        content = path.read_bytes()
        _, operations = read_request(content, name=path.name)
        total = pc.sum(operations["amount_minor"]).as_py() or 0
        digest = hashlib.sha256(content).hexdigest()
        return BatchFile(path, None, sent.sequence, sent.header, digest, operations.num_rows, total), operations

    def _has_arrived(self, file: BatchFile) -> bool:
        """Whether the file lies before the acquirer, or an answer names it."""
        name, header = file.path.name, file.header or _header_of(file.path)
        answers = (("in", name), ("ack", f"{name}_ack"), ("result", f"{name}_result"))
        return bool(header) and any(_header_of(self.folder / place / found) == header for place, found in answers)

    def _place(self, name: str) -> Path:
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def _note_file(self) -> Path:
        return self.outbox / "handed_over.json"

    # -- answers ------------------------------------------------------------------------------------------------

    def poll(self, file: BatchFile, operations: pa.Table, *, timeout_seconds: float) -> pa.Table:
        """See `PaymentRail.poll`; `payment_id` of a void or refund is the acquirer's id of that modification."""
        deadline, damaged_since = time.monotonic() + timeout_seconds, None
        header = file.header or _header_of(file.path)
        while True:
            try:
                if (outcomes := self._answer(file, header, operations)) is not None:
                    return outcomes
                damaged_since = None
            except DamagedAnswer as damage:
                damaged_since = damaged_since or time.monotonic()
                if time.monotonic() - damaged_since >= DAMAGE_SECONDS:
                    raise DamagedAnswer(f"{damage}; {self._keep_damaged(file)}") from None
            if time.monotonic() >= deadline:
                raise OutcomeUnknown(
                    f"{file.path.name}: no answer in {timeout_seconds:g} s; inquire by merchant reference before anything else"
                )
            self._keep_waiting()
            time.sleep(POLL_SECONDS)

    def _answer(self, file: BatchFile, header: str, operations: pa.Table) -> pa.Table | None:
        """The outcomes of the file's `operations`; None while there is no answer. Answers to another file of its name are not looked at.

        Raises:
            FileRefused, DamagedAnswer: see `poll`.
        """
        acknowledgement = self._acknowledgement(file, header)
        try:
            content = (self.folder / "result" / f"{file.path.name}_result").read_bytes()
        except FileNotFoundError:
            if isinstance(acknowledgement, DamagedAnswer):
                raise acknowledgement from None
            return None
        if _first_line(content) != header:
            return None
        try:
            outcomes = parse_result(content, name=f"{file.path.name}_result")
        except FatalError as error:
            raise DamagedAnswer(str(error)) from None
        position = pc.index_in(outcomes["merchant_reference"], operations["merchant_reference"].combine_chunks())
        if position.null_count:
            raise DamagedAnswer(
                f"{file.path.name}_result answers for {position.null_count} operations that were not sent"
            )
        if outcomes.num_rows != pc.count_distinct(outcomes["merchant_reference"]).as_py():
            raise DamagedAnswer(f"{file.path.name}_result answers for an operation twice")
        return outcomes.set_column(4, OUTCOME_SCHEMA.field("amount_minor"), operations["amount_minor"].take(position))

    def _acknowledgement(self, file: BatchFile, header: str) -> DamagedAnswer | None:
        """Pass while the file is not refused; what is wrong with its acknowledgement, where one is there and makes no sense.

        Raises:
            FileRefused: it names this file, and refuses it for a reason that excludes that it was booked.
            DamagedAnswer: it refuses the file for a reason that does not.
        """
        name = f"{file.path.name}_ack"
        try:
            acknowledged = parse_acknowledgement((self.folder / "ack" / name).read_bytes())
        except FileNotFoundError:
            return None
        except FatalError as error:
            return DamagedAnswer(f"{name}: {error}")
        if acknowledged.header != header or acknowledged.accepted:
            return None
        said = "; ".join(acknowledged.problems)
        is_listed = all(any(part in why for part in REFUSED_UNBOOKED) for why in acknowledged.problems)
        if acknowledged.problems and is_listed and acknowledged.next_sequence <= file.sequence:
            raise FileRefused(
                f"{file.path.name} was rejected whole, nothing was booked: {said}. Where that repeats itself, a file before it was lost:"
                " `makegood sending repair`"
            )
        raise DamagedAnswer(
            f"{name} refuses the file, and does not exclude that it was booked before ({said or 'no reason'})"
        )

    def _keep_damaged(self, file: BatchFile) -> str:
        """Keep copies of the answers to `file` as they are; says where."""
        kept = self.outbox / "damaged"
        kept.mkdir(parents=True, exist_ok=True)
        for place in ("ack", "result"):
            found = self.folder / place / f"{file.path.name}_{place}"
            if found.exists():
                content = found.read_bytes()
                write_durably(kept / f"{found.name}.{hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]}", content)
        return f"copies are kept in {kept}"

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
            try:
                acknowledged = parse_acknowledgement(path.read_bytes())
            except FatalError:
                continue  # damaged: what went out in it is known to whoever handed it over
            if acknowledged.accepted:
                return max([acknowledged.next_sequence, *on_their_way])
        return max([1, *on_their_way])

    def set_clock(self, as_of: datetime | None) -> None:
        """See `PaymentRail.set_clock`: always refused here."""
        raise FatalError("a real acquirer knows its own time; a simulated clock goes with the practice acquirer only")

    def _keep_waiting(self) -> None:
        """Called between looks; may notice that nobody will ever answer."""


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
    try:
        records = [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise FatalError(f"an acknowledgement is UTF-8; this one is not at byte {error.start}") from None
    numbers = [record.split(",") for record in records if record.startswith("N,NextFileSubmissionNumber,")]
    if not records or not records[0].startswith("FH,") or len(numbers) != 1 or not _is_number(numbers[0][2:]):
        raise FatalError(
            "an acknowledgement has one file header [FH] and one NextFileSubmissionNumber; this file does not"
        )
    accepted = any(record.startswith("R,") for record in records)
    problems = tuple(record.split(",", 3)[-1] for record in records if record.startswith("E,"))
    return Acknowledgement(records[0], accepted, int(numbers[0][2]), problems)


def _sent_file(path: Path, ending: str) -> SentFile | None:
    """What the header of a file, or of an answer to one, says of it; None where it is no such header."""
    header = _header_of(path)
    fields = header.split(",")
    if len(fields) != len(HEADER_FIELDS) or not fields[6].isdecimal():
        return None
    scope, _, wave = fields[9].rpartition(" ")[0].rpartition(" wave ")
    return SentFile(path.name.removesuffix(ending), int(fields[6]), header, scope, int(wave) if wave.isdecimal() else 0)


def _accepts(path: Path) -> bool:
    """Whether an acknowledgement is legible and takes its file."""
    try:
        return parse_acknowledgement(path.read_bytes()).accepted
    except FatalError:
        return False


def _is_number(fields: list[str]) -> bool:
    return (
        len(fields) == 1 and fields[0].isascii() and fields[0].isdigit() and len(fields[0]) < len("1000000000000000000")
    )


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
    if len(echo) >= FIELD_CHARACTERS_MAX - DIGEST_DIGITS or re.search(r'[,"\r\n]', echo):
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
    return content[: end if end >= 0 else None].decode("utf-8", "replace").strip()


def _header_of(path: Path) -> str:
    """The first line of a file; nothing where there is no file."""
    try:
        with path.open("rb") as content:
            return _first_line(content.readline())
    except FileNotFoundError:
        return ""


def _read_unchanged(file: BatchFile) -> bytes:
    """The staged bytes, as they were written.

    Raises:
        FatalError: they are gone, or others.
    """
    try:
        content = file.staged.read_bytes()
    except FileNotFoundError:
        raise FatalError(
            f"{file.path.name} is not where it was staged: it was not sent. Calling again writes it anew"
        ) from None
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise FatalError(
            f"{file.path.name} is not as it was written (its SHA-256 differs): somebody changed it, it was not sent."
            " Calling again writes it anew"
        )
    return content
