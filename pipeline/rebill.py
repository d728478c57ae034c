"""Rebill: charge the right amount, customer by customer, once every wrong charge of that bill is certainly undone.

Belongs here: the step's window and what it needs. It may run while others are still being refunded: who is eligible is
decided anew for each wave. A decline is retried by the no-fault schedule (`core.retry`). Does not: amounts or
instruments - the approved plan holds them, from the corrected run.
"""

from typing import Any

from pipeline.execution import Sender
from pipeline.remedy import Books, Guard, carry_out


def rebill(books: Books, *, sender: Sender, guard: Guard) -> dict[str, Any]:
    """Send the rebills of an approved plan whose customers are eligible now; see `remedy.carry_out`."""
    assert books.step == "rebill"
    return carry_out(books, sender, guard, None)
