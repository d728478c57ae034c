"""Close an incident: only with proof, and never over anything unknown.

Belongs here: what must be true before an incident is over. Does not: the proof itself (`proof`), reconciling, or storing
(`adapters.closings`). What is left open by name needs a person who accepts it, with a reason: it is then written off here, and
what becomes of it is somebody's work outside. Messages still due do not keep an incident open - they wait for waking hours,
and say only what is true either way; the closing counts them.
"""

from typing import Any, Protocol

from pipeline.errors import GateClosed

NAMES_SHOWN = 5
"""Open items that a refusal names; the proof has the others."""


class Proof(Protocol):
    """See `pipeline.proof.Proof`."""

    residual_minor: int
    items: Any

    def count(self, verdict: str) -> int: ...


def require_settled(incident_id: str, *, unfinished: dict[str, int], waiting: int, breaks: dict[str, int]) -> None:
    """Refuse to close while anything is unknown, unsettled or broken.

    Args:
        unfinished: operations without an outcome, by state.
        waiting: operations that succeeded and stand in no settlement file yet.
        breaks: open breaks by kind.

    Raises:
        GateClosed: with what to do next.
    """
    if unfinished:
        what = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in unfinished.items())
        raise GateClosed(
            f"{incident_id} cannot close: {what}. Call the step again, it looks them up; `makegood settle` does as well"
        )
    if breaks:
        what = ", ".join(f"{count:,} {kind}" for kind, count in breaks.items())
        raise GateClosed(
            f"{incident_id} cannot close: breaks are open ({what}); `makegood incident reconcile {incident_id}` names them"
        )
    if waiting:
        raise GateClosed(
            f"{incident_id} cannot close: {waiting:,} operations are not in a settlement file yet; close it when their files have come"
        )


def require_proven(incident_id: str, proof: Proof, *, accepted: str | None) -> None:
    """Refuse to close with anything unexplained, or with anything open that no person has accepted.

    Args:
        accepted: the reason why what is open by name is accepted; None if nobody did.

    Raises:
        GateClosed: with the first of what is not right, by name.
    """
    if proof.residual_minor:
        raise GateClosed(
            f"{incident_id} cannot close: the proof leaves a residual of {proof.residual_minor} minor units"
            f" ({_names(proof, 'unexplained')}). Nobody can accept that; look into the acquirer's book"
        )
    if proof.count("open") and not accepted:
        raise GateClosed(
            f"{incident_id} cannot close: {proof.count('open'):,} bills are open ({_names(proof, 'open')}). Repair them with a successor"
            " plan, or accept them as a person: --accept-open REASON"
        )


def _names(proof: Proof, verdict: str) -> str:
    items = [item for item in proof.items.to_pylist() if item["verdict"] == verdict]
    named = [f"{item['customer_id'] or item['payment_id']}: {item['why']}" for item in items[:NAMES_SHOWN]]
    more = [f"{len(items) - NAMES_SHOWN:,} more"] if len(items) > NAMES_SHOWN else []
    return "; ".join([*named, *more]) or "the equations do not balance"
