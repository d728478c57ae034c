"""Which entry an operation's fate makes: double entry, one row per entry, balanced by construction.

Belongs here: the accounts and the rule that turns an outcome into an entry. Does not: storing it. A correction is a
new entry that undoes the old one, never a change. Each operation has at most one entry per step:

``suspended``  it was sent and nobody knows what became of it;
``final``      it succeeded or failed;
``settled``    the acquirer paid out, or took back, what it had taken or returned for us;
``expired``, ``already_returned``, ``shrunk``, ``charge_was_declined``
               a wrong charge's money, or part of it, was not the acquirer's to return any more; with ``_owed``
               after it, that part of it which refused attempts had left owing; a second part that came back is ``shrunk 2``.
"""

from dataclasses import dataclass

ACCOUNTS = {
    "accounts_receivable": "what customers owe for bills that could not be collected",
    "billed_revenue": "what was billed",
    "acquirer_clearing": "what the acquirer has taken for us and not yet paid out",
    "bank": "what the acquirer has paid out",
    "refund_payable": "what we owe customers back and could not yet return",
    "write_off": "what nobody will collect or return",
    "suspense": "what was sent and is not known yet",
}


@dataclass(frozen=True, slots=True)
class Posting:
    """One entry of an operation's amount: it leaves `credit` and reaches `debit`."""

    step: str
    debit: str
    credit: str

    def __post_init__(self) -> None:
        assert self.debit in ACCOUNTS
        assert self.credit in ACCOUNTS
        assert self.debit != self.credit

    def reversed(self) -> "Posting":
        """The entry that takes this one back."""
        return Posting(self.step, debit=self.credit, credit=self.debit)


_TAKING = {
    "succeeded": Posting("final", debit="acquirer_clearing", credit="billed_revenue"),
    "declined": Posting("final", debit="accounts_receivable", credit="billed_revenue"),
    "unknown": Posting("suspended", debit="suspense", credit="billed_revenue"),
}
_RETURNING = {
    "succeeded": Posting("final", debit="billed_revenue", credit="acquirer_clearing"),
    "declined": Posting("final", debit="billed_revenue", credit="refund_payable"),
    "unknown": Posting("suspended", debit="billed_revenue", credit="suspense"),
}
POSTINGS = {"charge": _TAKING, "rebill": _TAKING, "void": _RETURNING, "refund": _RETURNING}
"""Kind of operation, then what became of it, to its entry."""


def posting_for(kind: str, state: str, *, was_unknown: bool, after_decline: bool = False) -> Posting | None:
    """The entry of an operation of `kind` that came to `state` (succeeded, declined, unknown); None where nothing changes.

    It takes its amount from where the fact lies so far: in suspense if the operation was unknown before; where a failed
    attempt before it left the amount, so that a second attempt is not a second bill; else in revenue.
    """
    posting = POSTINGS[kind][state]
    is_taking = kind in ("charge", "rebill")
    source = "billed_revenue"
    if was_unknown and state != "unknown":
        source = "suspense"
    elif after_decline:
        source = "accounts_receivable" if is_taking else "refund_payable"
    target = posting.debit if is_taking else posting.credit
    if target == source:
        return None
    debit, credit = (target, source) if is_taking else (source, target)
    return Posting(posting.step, debit=debit, credit=credit)


def posting_without_operation(step: str, *, after_decline: bool) -> Posting:
    """The entry of a wrong charge whose money the acquirer has not kept although we moved nothing: it expired, somebody else
    returned it, or it was never taken. `step` says which, and the entry is the charge's own."""
    return Posting(step, debit="refund_payable" if after_decline else "billed_revenue", credit="acquirer_clearing")
