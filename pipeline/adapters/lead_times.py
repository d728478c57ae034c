"""Issuer cut-offs and lead times: one data file, and the operator's own entries over it.

Belongs here: reading and checking `policies/lead_times.json` and `<home>/lead_times.json`, and asking them. Does not:
holidays (`holiday_calendar`), or what a plan does with a date (`plan`).
"""

import json
from collections.abc import Set
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline import limits
from pipeline.adapters.strict_columns import shown
from pipeline.bounded_file import read_json
from pipeline.core.window import ONE_DAY, add_business_days
from pipeline.errors import UnreadableInput, UsageError
from pipeline.schema import PAYMENT_METHODS

FILE_NAME = "lead_times.json"

WHOLE_DAY = 24
"""The `cutoff_hour` of an issuer that takes what arrives on a day as of that day."""

LONGEST_DAYS = 366
"""Nothing here takes a year; more is a slip of the keyboard."""

_DEPTHS = {"payment_methods": 2, "issuers": 3, "rails": 2}
"""Sections, and how many names it takes to reach a value."""

_FIELDS = {"withdrawn_at": str, "void_days": int, "refund_days": int, "business_days": bool, "cutoff_hour": int}


@dataclass(frozen=True, slots=True)
class LeadTime:
    """What one issuer needs for one payment method.

    Attributes:
        withdrawn_at: `approval` when the money leaves the account at once, `statement` when it only would later.
        void_days, refund_days: until an undone customer has the money; business days where `business_days`.
        cutoff_hour: hour of the day from which a reversal counts for the next one.
    """

    withdrawn_at: str
    void_days: int
    refund_days: int
    business_days: bool
    cutoff_hour: int

    def money_back_by(self, kind: str, sent_by: date, holidays: Set[date]) -> date | None:
        """When a customer has the money of a void or refund that goes out on `sent_by` at the latest; None if none had left."""
        if kind == "void" and self.withdrawn_at == "statement":
            return None
        days = self.void_days if kind == "void" else self.refund_days
        start = sent_by if self.cutoff_hour >= WHOLE_DAY else sent_by + ONE_DAY
        return add_business_days(start, days, holidays) if self.business_days else start + timedelta(days=days)


class LeadTimes:
    """The entries in force.

    Args:
        home: where the operator's own file may lie.

    Raises:
        UsageError: a file is no such table; names file, entry and field.
    """

    def __init__(self, home: Path) -> None:
        shipped = json.loads((resources.files("pipeline") / "policies" / FILE_NAME).read_text(encoding="utf-8"))
        own = _read(home / FILE_NAME)
        self._methods = {name: {**entry, **own.get("payment_methods", {}).get(name, {})}
                         for name, entry in shipped["payment_methods"].items()}  # fmt: skip
        self._issuers = {**shipped["issuers"], **own.get("issuers", {})}
        self._rails = {**shipped["rails"], **own.get("rails", {})}
        for method in PAYMENT_METHODS:
            for issuer in ("", *self._issuers):
                self.of(method, issuer)

    def of(self, payment_method: str, issuer: str) -> LeadTime:
        """The entry for an issuer's payment method; one that is not listed is like the slowest method."""
        entry = self._methods.get(payment_method) or max(self._methods.values(), key=lambda e: e["refund_days"])
        entry = {**entry, **self._issuers.get(issuer, {}).get(payment_method, {})}
        for field, kind in _FIELDS.items():
            value = entry.get(field)
            in_range = (
                value in ("approval", "statement")
                if kind is str
                else type(value) is kind and 0 <= value <= LONGEST_DAYS
            )
            if not in_range:
                where = f"{shown(issuer) if issuer else 'payment_methods'}, {payment_method}"
                raise UsageError(f"{FILE_NAME}: {where}: {field} is {shown(str(value))}")
        return LeadTime(**{field: entry[field] for field in _FIELDS})

    def answer_days(self, rail: str) -> int:
        """Days after which a rail says what became of an operation; 0 when it answers at once."""
        days = self._rails.get(rail, {}).get("answer_days")
        if type(days) is not int or not 0 <= days <= LONGEST_DAYS:
            raise UsageError(f"{FILE_NAME}: rails has no answer_days for {rail!r}; add it in the home directory")
        return days


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, at_most=limits.JSON_BYTES)
    except FileNotFoundError:
        return {}
    except UnreadableInput as error:
        raise UsageError(f"{path.parent}: {error}") from None
    if not isinstance(content, dict) or unknown_sections(content):
        raise UsageError(
            f"{path}: has sections payment_methods, issuers and rails; not {', '.join(unknown_sections(content))}"
        )
    for name, depth in _DEPTHS.items():
        if not _is_table(content.get(name, {}), depth):
            raise UsageError(f"{path}: {name} must be an object of objects, as in the file that comes with Makegood")
    return content


def _is_table(content: Any, depth: int) -> bool:
    """Whether `content` is objects within objects, `depth` of them."""
    return isinstance(content, dict) and (depth == 1 or all(_is_table(inner, depth - 1) for inner in content.values()))


def unknown_sections(content: Any) -> list[str]:
    """Names that such a file does not have."""
    known = ("about", "payment_methods", "issuers", "rails")
    return sorted(map(shown, set(content) - set(known))) if isinstance(content, dict) else [type(content).__name__]
