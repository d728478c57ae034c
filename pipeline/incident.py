"""Open an incident: which charges were wrong, which run corrects them, and whether that run may.

Belongs here: the conditions under which an incident exists. Does not: finding out who was hurt (`assess`), or anything that
moves money. While an incident is open, its cohort is on hold: `release` charges nobody in it.
"""

from typing import Any

from pipeline.core.verdict import PEOPLE_NEEDED
from pipeline.errors import GateClosed, UsageError


def require_correct(corrected: Any, *, billing_period: str, wrong_run: str | None) -> str:
    """Why the corrected run may be billed: "the gate" or the names of the people who decided.

    Args:
        corrected: its standing, as the register of runs has it.
        wrong_run: the run it corrects; None when the wrong charges were made elsewhere.

    Raises:
        UsageError: it is the wrong run itself, or of another period.
        GateClosed: it has not passed the gate. A second wrong month is not rebilled.
    """
    run_id = corrected.run_id
    if run_id == wrong_run:
        raise UsageError(f"{run_id} cannot correct itself; --corrected names the run with the right amounts")
    if corrected.billing_period != billing_period:
        raise UsageError(f"{run_id} is for {corrected.billing_period}, the wrong charges are for {billing_period}")
    if corrected.rejecters:
        raise GateClosed(f"{run_id} was rejected by {' and '.join(corrected.rejecters)}; nobody is billed from it")
    if len(corrected.releasers) >= PEOPLE_NEEDED:
        return " and ".join(corrected.releasers)
    if not corrected.verdicts:
        raise GateClosed(f"{run_id} has not been verified; run `makegood verify` on the corrected charges first")
    if "hold" in corrected.verdicts:
        raise GateClosed(
            f"{run_id} is held by the same gate as any run: correct it again, or two people release it:"
            f" `makegood run decide {run_id} --release --reason TEXT`"
        )
    return "the gate"


def require_charged(wrong_run: str, charged: bool) -> None:
    """Refuse an incident about a run of which nothing was ever meant to be charged.

    Raises:
        UsageError: there is nothing to put right.
    """
    if not charged:
        raise UsageError(f"{wrong_run} has charged nobody; there is nothing to put right")
