"""Cancel: void the wrong approvals that the acquirer has not acquired, so that nothing leaves the account.

Belongs here: the step's window and what it needs. An approval that was acquired meanwhile is recorded as a deviation and
becomes a refund, once. Does not: choosing who is voided - the approved plan did.
"""

from typing import Any

from pipeline.execution import Sender
from pipeline.ports import LiveStates
from pipeline.remedy import Books, Guard, carry_out


def cancel(books: Books, *, sender: Sender, guard: Guard, live: LiveStates) -> dict[str, Any]:
    """Send the voids of an approved plan that are still due; see `remedy.carry_out`."""
    assert books.step == "cancel"
    return carry_out(books, sender, guard, live)
