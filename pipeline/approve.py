"""Approve a plan, or reject it: one other person's word on one digest, for as long as its windows last.

Belongs here: how long an approval holds. Does not: who may give one - the database decides that, by role and by name
(`adapters.incidents`, and the constraints in the migrations).
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.core.window import Windows
from pipeline.errors import GateClosed

APPROVAL_LASTS = timedelta(days=14)
"""Longest life of an approval. Default windows lie a week off at most; twice that leaves room for a postponed one, and after it
the world the approver saw is too old to act on."""


def expiry(windows: Windows, *, as_of: datetime, timezone: ZoneInfo) -> datetime:
    """When an approval given at `as_of` ends: with the plan's last window, and after `APPROVAL_LASTS` at the latest (UTC).

    Raises:
        GateClosed: it would end before the first window opens.
    """
    latest = as_of + APPROVAL_LASTS
    if latest <= windows.reversal.opens(timezone):
        raise GateClosed(
            f"the plan's first window opens on {windows.reversal.first}; approve it within {APPROVAL_LASTS.days} days of that"
        )
    return min(windows.rebill.closes(timezone).astimezone(UTC), latest.astimezone(UTC))


def approve(plan: Any, *, as_of: datetime, timezone: ZoneInfo, record: Callable[..., Any]) -> Any:
    """Have the approval recorded; returns the plan as it then stands.

    Args:
        plan: as the approver saw it: digest, count and total.
        record: stores it as the authenticated person.

    Raises:
        GateClosed, UsageError: see `adapters.incidents.IncidentRegister.approve`.
    """
    return record(plan, as_of=as_of, expires_at=expiry(plan.windows, as_of=as_of, timezone=timezone))
