"""What a remediation's codes mean, in a few words each: classes of wrong charges, reasons for every action.

Belongs here: the vocabulary that `sql/assess.sql` and `sql/plan.sql` write and that people read. Does not: the rules.
"""

CLASSES = {
    "over": "charged more than is due",
    "under": "charged less than is due",
    "equal": "charged what is due, by luck",
    "zero": "charged, though the bill is zero",
    "credit": "charged, though the bill is a credit",
    "not_billed": "charged, though there is no bill",
    "unusable": "charged, and the right bill cannot be used as it stands",
    "twice": "charged again for a bill charged already",
    "missing": "not charged, though a bill is due",
    "declined": "the wrong charge was declined",
    "not_sent": "the wrong charge was never sent",
    "unknown": "nobody knows yet whether the wrong charge was made",
}
"""What can be the matter with a line, in the order people read it."""

REVERSAL_REASONS = {
    "not_acquired": "approved and not yet acquired: the approval is voided, nothing leaves the account",
    "acquired": "acquired: the whole charge is refunded",
    "rest_of_support_refund": "support has returned a part already: the rest is refunded",
    "never_charged": "nobody was charged",
    "never_sent": "the charge was never sent",
    "charge_declined": "the charge was declined",
    "already_voided": "voided already",
    "approval_expired": "the approval expired by itself",
    "already_returned": "returned already",
    "equal_left_alone": "right by luck, and left alone by policy",
    "outcome_unknown": "nobody knows yet whether the charge was made",
    "reversal_unknown": "nobody knows yet whether the reversal was made",
    "unknown_to_acquirer": "the acquirer does not know the payment",
    "dispute_open": "the customer disputes it at the card company: nothing is refunded while that stands",
    "amount_differs_at_acquirer": "the acquirer has another amount",
    "declined_at_acquirer": "we have it as charged, the acquirer as declined",
    "refund_refused_closed_card": "the card is closed: to be returned by bank transfer",
    "refund_refused_expired_card": "the card has expired: to be returned by bank transfer",
    "refund_refused_unknown_card": "the acquirer no longer knows the card: to be returned by bank transfer",
    "refund_refused_payment_not_found": "the acquirer no longer knows the payment",
}
"""Why a charge is undone the way it is, or is not."""

REBILL_REASONS = {
    "right_amount": "the right amount is charged",
    "was_never_charged": "nobody was charged for this bill: it is charged now",
    "declined_before": "a rebill was declined: it is tried again",
    "with_first_charge": "the bill is rebilled once, with its first charge",
    "no_right_bill": "there is no bill: nothing is charged",
    "credit_carried": "the bill is a credit: it is carried forward, never charged",
    "zero_bill": "the bill is zero",
    "equal_left_alone": "right by luck, and left alone by policy",
    "already_rebilled": "rebilled already",
    "reversal_open": "waits until the wrong charge is certainly undone",
    "rebill_unknown": "nobody knows yet whether the rebill was made",
    "rebilled_another_amount": "another amount was rebilled: a person decides",
    "charged_elsewhere": "charged outside this incident as well: whoever looks after that charge bills it, or a person decides",
    "not_in_import": "due, but not among the imported charges: a person decides",
    "right_bill_incomplete": "the right bill lacks a value",
    "right_bill_ambiguous": "there are several right bills",
    "right_bill_card_number": "the right bill has a card number for a token",
    "right_bill_currency": "the right bill is in another currency",
}
"""Why a bill is charged, held or not charged."""
