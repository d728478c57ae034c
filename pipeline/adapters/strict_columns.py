"""From columns as they were read to charges as the schema has them, or an error that says where and why.

Nothing is guessed: a column is known by its exact name, a whole number is ASCII digits, a date is
`YYYY-MM-DD`. Belongs here: names, types and values of columns. Does not: bytes, encodings and file
formats. No message ever shows the value of a text column, nor of any other if it may be a card number.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import limits
from pipeline.adapters.card_numbers import card_numbers
from pipeline.adapters.content_hash import text_bytes
from pipeline.errors import UnreadableInput
from pipeline.schema import CHARGE_COLUMNS, CHARGE_SCHEMA, Column

SHOWN_NAMES = 5
"""Column names listed in one message before it says how many more there are."""

SHOWN_CHARACTERS = 24
"""Of a wrong value; enough to recognise the mistake."""

CARD_NUMBER_DIGITS = 12
"""The shortest card numbers (ISO/IEC 7812 allows 8, issuers use 12-19); a value with that many digits is not shown."""

DEFAULT_BILL_CYCLE = 1

_CARD_NUMBER = "is a card number, which must not be stored; nothing was landed. Have the file sent again with the acquirer's tokens"

_COLUMN = {column.name: column for column in CHARGE_COLUMNS}
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")
_FIRST_DATE, _LAST_DATE = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31 in days since 1970: what a date can be


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch stands: `name` of its file, and how many data rows came before it."""

    name: str
    rows_before: int

    def error(self, index: int, column: str, reason: str) -> UnreadableInput:
        """An error about the batch's row `index` (from 0)."""
        return UnreadableInput(f"{self.name}, row {self.rows_before + index + 1}, column {column}: {reason}")


def check_names(file: str, names: Sequence[str]) -> None:
    """Require every required column, no unknown one, none twice.

    Raises:
        UnreadableInput: names file and column, and what an unknown name may have meant.
    """
    if len(names) > limits.COLUMNS:
        raise UnreadableInput(f"{file}: has {len(names):,} columns, which no charge file has")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UnreadableInput(f"{file}: column {_listed(twice)} is there more than once; which one is meant is unknown")
    missing = [c.name for c in CHARGE_COLUMNS if c.name not in names]
    required = [name for name in missing if _COLUMN[name].required]
    unknown = [name for name in names if name not in _COLUMN]
    if len(names) == 1 and (separator := re.search(r"[;\t|]", names[0])):
        raise UnreadableInput(f"{file}: columns are separated by {separator.group()!r}; write a comma")
    if not set(names) & _COLUMN.keys():
        # The names stay unsaid: without a header they are the first customer's data.
        raise UnreadableInput(
            f"{file}: none of its {len(names):,} columns is one of a charge file; is the header line missing?"
        )
    if unknown:
        near = difflib.get_close_matches(unknown[0].strip().lower(), missing, n=1)
        hint = f"is it {near[0]}? rename it" if near else "leave it out, or correct its name"
        also = f"; missing: {_listed(required)}" if required else ""
        raise UnreadableInput(f"{file}: column {_listed(unknown)} is not part of a charge file ({hint}){also}")
    if required:
        raise UnreadableInput(f"{file}: column {_listed(required)} is missing, and every charge file must have it")


def charges_from_text(columns: dict[str, pa.Array], rows: int, place: Place) -> pa.RecordBatch:
    """Charges from columns read as text, cast strictly; NULL stays NULL.

    Raises:
        UnreadableInput: names file, row, column and reason.
    """
    typed = {}
    for name, values in columns.items():
        column = _COLUMN[name]
        if column.kind == "integer":
            typed[name] = whole_numbers(values, name, place)
        elif column.kind == "date":
            typed[name] = dates(values, name, place)
        else:
            refuse_line_breaks(values, name, place)
            typed[name] = values
    return charges(typed, rows, place)


def charges(columns: dict[str, pa.Array], rows: int, place: Place) -> pa.RecordBatch:
    """Charges from columns that already have the schema's types; absent optional ones are filled in.

    Raises:
        UnreadableInput: a text is too long, holds a NUL character or is a card number; a date is outside the years 1 to 9999.
    """
    complete = []
    for column in CHARGE_COLUMNS:
        values = columns.get(column.name)
        if values is None:
            values = _absent(column, rows)
        elif column.kind == "text":
            check_text(values, column.name, place)
        elif column.kind == "date":
            _check_dates(values, column.name, place)
        complete.append(values)
    return pa.RecordBatch.from_arrays(complete, schema=CHARGE_SCHEMA)


def _absent(column: Column, rows: int) -> pa.Array:
    if column.name == "bill_cycle":
        return pa.repeat(pa.scalar(DEFAULT_BILL_CYCLE, pa.int64()), rows)
    return pa.nulls(rows, column.arrow_type)


def whole_numbers(values: pa.Array, name: str, place: Place) -> pa.Array:
    """A text column as int64; raises `UnreadableInput` at the first value that is no whole number."""
    # Arrow's cast is ten times faster than a regular expression and as strict, but for reading 0x1F as 31.
    try:
        if not any(letter in bytes(text_bytes(values)) for letter in (b"x", b"X")):
            return values.cast(pa.int64())
    except pa.ArrowInvalid:
        pass
    for index, text in enumerate(values.to_pylist()):
        if text is not None and (reason := why_no_whole_number(text)):
            raise place.error(index, name, f"{shown(text)} {reason}; an amount is whole minor units in digits 0-9")
    raise place.error(0, name, "cannot be read as whole numbers")


def why_no_whole_number(text: str) -> str | None:
    """Why `text` is no 64-bit whole number written in ASCII digits; None if it is one."""
    if _WHOLE_NUMBER.fullmatch(text):
        # The length comes first: Python refuses to convert thousands of digits.
        fits = len(text.lstrip("-").lstrip("0")) <= 19 and -(2**63) <= int(text) < 2**63
        return None if fits else "is outside the range of 64 bits"
    bare = text.strip()
    if bare != text:
        return "has spaces around it"
    if bare.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return "is not a finite number"
    if any(character.isdecimal() and not character.isascii() for character in text):
        return "has digits other than the ASCII ones (full-width?)"
    for pattern, reason in _MISTAKES:
        if re.fullmatch(pattern, text, re.IGNORECASE):
            return reason
    return "is not a whole number"


_MISTAKES = (
    (r"\+[0-9]+", "has a leading plus sign"),
    (r"-?0x[0-9a-f]+", "is hexadecimal"),
    (r"\([0-9.,]+\)", "is negative in accountants' brackets; write a minus sign"),
    (r"[+-]?[0-9.]+e[+-]?[0-9]+", "is in scientific notation"),
    (r"[+-]?[0-9]{1,3}([,' ][0-9]{3})+(\.[0-9]*)?", "has a thousands separator"),
    (r"[+-]?[0-9]*[.,][0-9]*", "has a fraction"),
)


def dates(values: pa.Array, name: str, place: Place) -> pa.Array:
    """A text column as date32; raises `UnreadableInput` at the first value that is no date `YYYY-MM-DD`."""
    try:
        return values.cast(pa.date32())
    except pa.ArrowInvalid:
        pass
    for index, text in enumerate(values.to_pylist()):
        if text is None:
            continue
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise place.error(index, name, f"{shown(text)} is not a date written YYYY-MM-DD")
        try:
            pa.array([text]).cast(pa.date32())
        except pa.ArrowInvalid:
            raise place.error(index, name, f"{shown(text)} is no day of the calendar") from None
    raise place.error(0, name, "cannot be read as dates")


def _check_dates(values: pa.Array, name: str, place: Place) -> None:
    days = values.view(pa.int32())
    bounds = pc.min_max(days).as_py()
    if bounds["min"] is not None and not (bounds["min"] >= _FIRST_DATE and bounds["max"] <= _LAST_DATE):
        outside = pc.or_kleene(pc.less(days, _FIRST_DATE), pc.greater(days, _LAST_DATE))
        _refuse_where(outside, place, name, "is a date outside the years 1 to 9999")


def check_text(values: pa.Array, name: str, place: Place) -> None:
    """Require that no text is longer than any may be, or holds a NUL character."""
    lengths = pc.binary_length(values)
    if (pc.max(lengths).as_py() or 0) > limits.VALUE_BYTES:
        too_long = pc.greater(lengths, limits.VALUE_BYTES)
        _refuse_where(too_long, place, name, f"is longer than {limits.VALUE_BYTES:,} bytes, which no such value is")
    if b"\0" in bytes(text_bytes(values)):
        _refuse_where(pc.match_substring(values, "\0"), place, name, "holds a NUL character")
    _refuse_where(card_numbers(values, as_printed=name != "instrument_token"), place, name, _CARD_NUMBER)


def refuse_line_breaks(values: pa.Array, name: str, place: Place) -> None:
    """Require that no text holds a line break."""
    # No identifier has one, and the parser takes the rest of a file for one value when a quote stays open.
    content = bytes(text_bytes(values))
    if b"\n" in content or b"\r" in content:
        broken = pc.match_substring_regex(values, r"[\r\n]")
        _refuse_where(broken, place, name, "has a line break in its value; is a quotation mark left open?")


def _refuse_where(wrong: pa.Array, place: Place, name: str, reason: str) -> None:
    index = pc.index(wrong, True).as_py()
    if index >= 0:  # bytes may also lie unseen below a NULL
        raise place.error(index, name, reason)


def shown(text: str) -> str:
    """`text` as a message may show it: escaped, shortened, and not at all if it may hold a card number."""
    if sum(character.isdecimal() for character in text) >= CARD_NUMBER_DIGITS:
        return "the value (not shown, it has too many digits)"
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")


def _listed(names: Iterable[str]) -> str:
    names = [shown(name) if not re.fullmatch(r"\w{1,64}", name) else name for name in names]
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more:,} more" if more > 0 else "")
