"""When a declined rebill is tried again: the no-fault schedule.

The customer's card was declined for a bill that we got wrong first; so nothing here ever leads to a late fee, a reminder
or a suspension. Belongs here: after which days, how often, and which refusals no repetition helps. Does not: whether a
window is open - a retry moves money like anything else, in its plan's window alone.
"""

from datetime import date, timedelta

RETRY_AFTER_DAYS = (3, 7, 14)
"""Days after the first decline on which it is tried again: a check card's refund has arrived by then, or another payday has
passed. After the last attempt the bill stays open by name."""

FINAL_REASONS = ("closed_card", "expired_card", "unknown_card")
"""Refusals of the instrument, not of the amount: repeating cannot help, the customer names another one."""


def next_attempt_on(first_declined_on: date, *, declines: int, reason: str) -> date | None:
    """First day on which a rebill declined `declines` times (at least once) may be tried again; None: never.

    Args:
        reason: the newest decline's reason code.
    """
    assert declines >= 1
    if reason in FINAL_REASONS or declines > len(RETRY_AFTER_DAYS):
        return None
    return first_declined_on + timedelta(days=RETRY_AFTER_DAYS[declines - 1])
