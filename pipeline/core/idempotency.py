"""The key of a money operation, derived from the business fact and from nothing else.

Two attempts to do the same thing have the same key whatever DAG run, file or process they come from; the
database keeps the fact itself unique beside it (`one_operation_per_fact` in the migrations).
"""

from hashlib import md5
from uuid import UUID


def operation_id(
    *,
    kind: str,
    incident_id: str | None,
    billing_period: str,
    bill_cycle: int,
    occurrence: int,
    attempt: int,
    customer_id: str,
) -> UUID:
    """The key of one fact.

    The customer comes last because it alone may contain the separator; so two facts never share a text.
    MD5 is used as a fixed-length name that every engine computes alike, not as a protection.

    Args:
        occurrence: 1, or above for a bill that another system charged again: which of the charges is meant.
        attempt: 1, or above after a definite failure of the one before.
    """
    fact = f"{kind}|{incident_id or ''}|{billing_period}|{bill_cycle}|{occurrence}|{attempt}|{customer_id}"
    return UUID(md5(fact.encode(), usedforsecurity=False).hexdigest())


def merchant_reference(key: UUID) -> str:
    """The key as the acquirer sees it: 32 hexadecimal digits."""
    return key.hex
