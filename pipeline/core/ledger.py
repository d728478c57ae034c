"""Which entries an operation makes: double entry, one row per entry, balanced by construction.

Belongs here: the accounts and the rule that turns an intent or an outcome into entries. Does not: storing
them. A correction is a new entry that undoes the old one, never a change.
"""

from dataclasses import dataclass

ACCOUNTS = {
    "accounts_receivable": "what customers owe for bills that were released",
    "billed_revenue": "what was billed",
    "acquirer_clearing": "what the acquirer has taken for us and not yet paid out",
    "bank": "what the acquirer has paid out",
    "refund_payable": "what we owe customers back and the acquirer has not yet confirmed",
    "write_off": "what nobody will collect or return",
    "suspense": "what is not understood yet",
}


@dataclass(frozen=True, slots=True)
class Posting:
    """One entry of an operation's amount.

    Attributes:
        step: names the entry; an operation has each step at most once.
        debit, credit: accounts; the amount leaves `credit` and reaches `debit`.
    """

    step: str
    debit: str
    credit: str

    def __post_init__(self) -> None:
        assert self.debit in ACCOUNTS
        assert self.credit in ACCOUNTS
        assert self.debit != self.credit


ON_INTENT: dict[str, tuple[Posting, ...]] = {
    "charge": (Posting("billed", debit="accounts_receivable", credit="billed_revenue"),),
}
"""Entries made when an operation of a kind is committed, before anything is sent."""

ON_SUCCESS: dict[str, tuple[Posting, ...]] = {
    "charge": (Posting("collected", debit="acquirer_clearing", credit="accounts_receivable"),),
}
"""Entries made when the acquirer confirms it."""
