"""Refund: give back what the acquirer has acquired - planned refunds, and voids that came too late.

Belongs here: the step's window and what it needs. What support has given back meanwhile makes ours smaller; what is
disputed waits; a refund that the acquirer refuses stays open by name and keeps that customer from being charged again.
Does not: choosing who is refunded - the approved plan did.
"""

from typing import Any

from pipeline.execution import Sender
from pipeline.ports import LiveStates
from pipeline.remedy import Books, Guard, carry_out


def refund(books: Books, *, sender: Sender, guard: Guard, live: LiveStates) -> dict[str, Any]:
    """Send the refunds of an approved plan that are still due; see `remedy.carry_out`."""
    assert books.step == "refund"
    return carry_out(books, sender, guard, live)
