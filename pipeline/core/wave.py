"""How many operations go out at a time, and what stops the line.

A canary goes first: a mistake that every check missed is then a mistake for ten customers.
"""

from dataclasses import dataclass

CANARY_SIZES = (10, 1_000)
"""Operations in the first waves: few enough to be put right by hand, then enough to show a decline rate."""

WAVE_SIZE = 50_000
"""Operations in every later wave: the acquirer answers one in about a second, so `stop` bites within seconds."""


NOT_A_FAILURE = ("already_acquired", "already_voided", "payment_expired", "over_refund")
"""Refusals that only say the payment has moved on since it was looked at: the next step takes it from there."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a wave's answers halt what would follow.

    Attributes:
        declined_share_max: of a wave's operations, those in `NOT_A_FAILURE` aside. Ordinary months decline 2-6 %;
            three in ten means that the file, not the customers, is wrong.
        unknown_share_max: of a wave's operations without an answer; more means the acquirer is in trouble.
        amount_minor_max: of all that one scope may move; None for no cap.
    """

    declined_share_max: float = 0.30
    unknown_share_max: float = 0.50
    amount_minor_max: int | None = None

    def broken_by(self, *, declined: int, unknown: int, total: int) -> str | None:
        """Why a wave of `total` operations must be the last one, or None."""
        assert total > 0
        if declined / total > self.declined_share_max:
            return f"{declined} of {total} were declined, more than {self.declined_share_max:.0%}"
        if unknown / total > self.unknown_share_max:
            return f"{unknown} of {total} got no answer, more than {self.unknown_share_max:.0%}"
        return None
