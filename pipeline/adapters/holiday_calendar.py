"""Days on which banks do not work: a country's public holidays, and the operator's corrections.

Belongs here: where holidays come from. Does not: counting with them (`core.window`).
"""

from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

from pipeline import limits
from pipeline.adapters.strict_columns import shown
from pipeline.bounded_file import read_json
from pipeline.errors import UnreadableInput, UsageError

FILE_NAME = "holidays.json"
"""`{"country": "KR", "add": ["2023-10-02"], "remove": []}` in the home directory; every entry optional."""

COUNTRY_OF_ZONE = {
    "Asia/Seoul": "KR", "Asia/Taipei": "TW", "Asia/Tokyo": "JP", "Asia/Singapore": "SG", "Asia/Hong_Kong": "HK",
    "Asia/Bangkok": "TH", "Asia/Ho_Chi_Minh": "VN", "Europe/London": "GB", "Europe/Berlin": "DE", "Europe/Amsterdam": "NL",
    "America/New_York": "US",
}  # fmt: skip
"""Whose holidays a business time zone keeps, unless the operator's file names a country."""

DEFAULT_COUNTRY = "KR"


def holidays_around(day: date, *, timezone: ZoneInfo, home: Path) -> frozenset[date]:
    """Holidays of the year of `day` and its neighbours.

    Raises:
        UsageError: the operator's file is wrong, or names a country nobody knows.
    """
    import holidays  # a large package, needed by planning alone

    own = _own(home / FILE_NAME)
    country = own.get("country") or COUNTRY_OF_ZONE.get(timezone.key, DEFAULT_COUNTRY)
    try:
        public = holidays.country_holidays(country, years=range(day.year - 1, day.year + 2))
        added, removed = (frozenset(map(date.fromisoformat, own.get(name, ()))) for name in ("add", "remove"))
    except (NotImplementedError, ValueError, TypeError) as error:
        raise UsageError(f"{home / FILE_NAME}: {shown(str(error))}") from None
    return (frozenset(public) | added) - removed


def _own(path: Path) -> dict:
    try:
        own = read_json(path, at_most=limits.JSON_BYTES)
    except FileNotFoundError:
        return {}
    except UnreadableInput as error:
        raise UsageError(f"{path.parent}: {error}") from None
    if not isinstance(own, dict) or set(own) - {"country", "add", "remove"}:
        raise UsageError(f"{path}: may hold country, add and remove, nothing else")
    if not isinstance(own.get("country", ""), str) or not all(
        isinstance(own.get(name, []), list) for name in ("add", "remove")
    ):
        raise UsageError(f"{path}: country is a text, add and remove are lists of days")
    return own
