"""When money that moved must show in the acquirer's settlement files, and what it is called when it does not.

Belongs here: the names of breaks, how long settlement may take, how a break ages. Does not: reading files
(`adapters.settlement_files`) or finding breaks (`adapters.reconciliation`).
"""

from pipeline.core.ledger import Posting

BREAK_KINDS = {
    "missing": "it should have been settled by now and was not, or was planned and never done",
    "extra": "settled, or moved, and nobody here meant it",
    "amount": "settled for another amount or in another currency",
    "sign": "paid out where it should have been taken back, or the other way round",
    "twice": "settled more than once",
    "undone_but_settled": "an approval that was voided is in settlement all the same",
    "recharged_without_undo": "the right amount was charged while the wrong one still stands",
    "state": "the acquirer says that something else became of it",
}
"""Every name a difference can have, with what it means; a line or an operation has at most one."""

SETTLED_TYPE = "Settled"
REFUNDED_TYPE = "Refunded"

MOVED_OTHERWISE = ("SettledReversed", "RefundedReversed", "Chargeback", "ChargebackReversed", "SecondChargeback")
"""Journal types that move a customer's money and that no operation here stands for."""

NOT_CUSTOMERS = (
    "Fee", "MiscCosts", "PaymentCost", "MerchantPayout", "InvoiceDeduction", "DepositCorrection", "Balancetransfer",
    "ReserveAdjustment",
)  # fmt: skip
"""Journal types between the acquirer and us: set aside and counted. A type in no list is an exception by name."""

SETTLES_WITHIN_DAYS = {"credit_card": 5, "check_card": 2, "bank_debit": 2}
"""Business days from an approval until its settlement file must be here. A credit card is claimed at the cut-off, the end
of the next day, settles the day after that, and acquirers take up to two business days more over holidays."""

REFUND_SETTLES_WITHIN_DAYS = 2
"""Business days from a refund until its settlement file must be here: refunds net off the next payout."""

AGE_BUCKETS = ((0, "today"), (2, "1-2 days"), (5, "3-5 days"))
"""Last business day of each bucket, and its name; anything older is `OLDEST`."""

OLDEST = "over 5 days"


def age_bucket(business_days: int) -> str:
    """The bucket of a break that is `business_days` old."""
    for last, name in AGE_BUCKETS:
        if business_days <= last:
            return name
    return OLDEST


TIME_ZONE_ABBREVIATIONS = {
    "KST": "Asia/Seoul", "JST": "Asia/Tokyo", "SGT": "Asia/Singapore", "BST": "Etc/GMT-1", "CEST": "Etc/GMT-2",
    "EDT": "Etc/GMT+4", "PST": "Etc/GMT+8", "PDT": "Etc/GMT+7",
}  # fmt: skip
"""Abbreviations that settlement reports use and time zone databases do not have (`Etc` counts westwards)."""


def settlement_posting(kind: str) -> Posting:
    """The entry of a settled operation of `kind` (charge, rebill, refund): what the acquirer had taken for us reaches the bank,
    what it had returned leaves it."""
    if kind == "refund":
        return Posting("settled", debit="acquirer_clearing", credit="bank")
    return Posting("settled", debit="bank", credit="acquirer_clearing")


def returned_elsewhere_posting(modification_reference: str) -> Posting:
    """The entry of a wrong charge for a refund that somebody else made and the acquirer has now taken from its payout; that
    we returned nothing ourselves was entered when it was noticed."""
    return Posting(f"settled {modification_reference}", debit="acquirer_clearing", credit="bank")


def settles_within_days(kind: str, payment_method: str) -> int:
    """Business days until an operation that succeeded must be in a settlement file; an unlisted method gets the longest."""
    if kind == "refund":
        return REFUND_SETTLES_WITHIN_DAYS
    return SETTLES_WITHIN_DAYS.get(payment_method, max(SETTLES_WITHIN_DAYS.values()))
