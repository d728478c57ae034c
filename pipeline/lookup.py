"""One customer's story in plain words: what a support agent reads out.

Belongs here: ordering and wording, and what comes next. Does not: finding the rows (`adapters.timeline`). Nothing here shows a
token; what is not certain is said to be not certain.
"""

from typing import Any

from pipeline.core.money import format_minor

_DONE = {
    "charge": "charged {amount} to the {method} ({issuer})",
    "void": "the approval of {amount} was cancelled: nothing leaves the account",
    "refund": "{amount} was refunded to the {method} ({issuer})",
    "rebill": "the right amount, {amount}, was charged to the {method} ({issuer})",
}
_DECLINED = {
    "charge": "the charge of {amount} was declined ({reason}): nothing was taken",
    "void": "the acquirer did not cancel the approval of {amount} ({reason})",
    "refund": "the refund of {amount} was declined ({reason})",
    "rebill": "the right amount, {amount}, was declined ({reason}): no late fee, no suspension",
}
_PENDING = {
    "charge": "the charge of {amount} was sent; what became of it is not known yet",
    "void": "the cancellation of {amount} was sent; what became of it is not known yet",
    "refund": "the refund of {amount} was sent; what became of it is not known yet",
    "rebill": "the right amount, {amount}, was sent; what became of it is not known yet",
}
_DEVIATIONS = {
    "void_became_refund": "the approval could not be cancelled any more, so it is refunded",
    "shrunk": "{amount} had been given back before, so that much less is refunded",
    "already_returned": "{amount} had been given back before; nothing more is owed",
    "expired": "the approval had expired by itself: nothing was taken",
    "disputed": "the cardholder contests the charge; nothing is refunded until that is decided",
    "charge_was_declined": "the acquirer says that the charge was never approved",
    "still_unknown": "the acquirer does not know the charge yet; it is looked into",
    "refund_returned": "the bank sent the refund back; another way is needed",
}
_UNDOES = ("void", "refund")
_COVERS = ("expired", "already_returned", "charge_was_declined")


def timeline(customer_id: str, facts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What happened to one customer, in order, and what happens next.

    Args:
        facts: see `adapters.timeline.facts_about`.

    Returns:
        `customer_id`, `events` (`day`, `what`, `billing_period`, `amount_minor`, `currency`), `next`.
    """
    operations = facts["operations"]
    amounts = {operation["operation_id"]: operation for operation in operations}
    periods = {incident["incident_id"]: incident["billing_period"] for incident in facts["incidents"]}
    events = []
    for operation in operations:
        events += _operation_events(operation)
    for deviation in facts["deviations"]:
        charge = amounts[deviation["original_id"]]
        what = _DEVIATIONS[deviation["kind"]].format(amount=format_minor(deviation["amount_minor"], charge["currency"]))
        events.append(_event(charge, _after(charge, operations), what, deviation["amount_minor"]))
    for notice in facts["notices"]:
        about = next(o for o in reversed(operations) if o["billing_period"] == periods[notice["incident_id"]])
        day = _day_of_step(operations, notice["step"]) or str(notice["recorded_at"].date())
        events.append(
            _event(about, day, f"told the customer by {notice['channel']} ({notice['step'].replace('_', ' ')})", None)
        )
    for exception in facts["exceptions"]:
        about = next((o for o in operations if o["billing_period"] == exception["billing_period"]), None)
        what = (
            f"the plan: {exception['reversal']} / {exception['rebill']}".replace("_", " ")
            + f", because {_words(exception['reason'])}"
        )
        events.append({"day": None, "what": what, "billing_period": exception["billing_period"], "amount_minor": None,
                       "currency": about["currency"] if about else None})  # fmt: skip
    events.sort(key=lambda event: (event["billing_period"], event["day"] or ""))
    return {"customer_id": customer_id, "events": events, "next": next_step(facts)}


def to_text(result: dict[str, Any]) -> str:
    """The timeline as an agent reads it out."""
    if not result["events"]:
        return f"{result['customer_id']}: nothing was ever charged to this account here"
    lines = [f"{event['billing_period']}  {event['day'] or ' ' * 10}  {event['what']}" for event in result["events"]]
    return "\n".join([f"customer {result['customer_id']}", *lines, f"next: {result['next']}"])


def next_step(facts: dict[str, list[dict[str, Any]]]) -> str:
    """What happens next to this customer, or "none"."""
    if any(o["status"] is None and o["was_unknown"] for o in facts["operations"]):
        return "we are finding out at the acquirer what became of it; nothing is sent twice"
    for incident in facts["incidents"]:
        if incident["closed_at"] is None and (step := _next_in(incident, facts)):
            return step
    return "none"


def _next_in(incident: dict[str, Any], facts: dict[str, list[dict[str, Any]]]) -> str | None:
    mine = [o for o in facts["operations"] if o["billing_period"] == incident["billing_period"]]
    wrong = [
        o
        for o in mine
        if o["kind"] == "charge" and o["scope"] == incident["charge_scope"] and o["status"] == "succeeded"
    ]
    covered = {d["original_id"] for d in facts["deviations"] if d["kind"] in _COVERS}
    undone = {o["original_id"] for o in mine if o["kind"] in _UNDOES and o["status"] == "succeeded"} | covered
    exception = next((x for x in facts["exceptions"] if x["plan_digest"] == incident["plan_digest"]), None)
    standing = [o for o in wrong if o["operation_id"] not in undone]
    if standing and exception and exception["reversal"] in ("wait", "manual", "none"):
        return None if exception["reversal"] == "none" else f"a person looks after it: {_words(exception['reason'])}"
    if standing:
        if not incident["approved"]:
            return "the repair is being planned and approved"
        return (
            f"cancellation or refund by {incident['reversal_last']}, then the right amount by {incident['rebill_last']}"
        )
    if any(o["kind"] == "rebill" and o["status"] == "succeeded" for o in mine):
        return None
    if exception and exception["rebill"] != "rebill":
        return (
            None if exception["rebill"] == "no_rebill" else f"the right amount is held: {_words(exception['reason'])}"
        )
    if any(o["kind"] == "rebill" and o["status"] == "declined" for o in mine):
        return "the right amount is tried again; no late fee, no suspension"
    if not incident["approved"]:
        return "the repair is being planned and approved"
    return f"rebill between {incident['rebill_first']} and {incident['rebill_last']}"


def _operation_events(operation: dict[str, Any]) -> list[dict[str, Any]]:
    kind, status = operation["kind"], operation["status"]
    words = {"succeeded": _DONE, "declined": _DECLINED}.get(status, _PENDING)
    what = words[kind].format(
        amount=format_minor(operation["amount_minor"], operation["currency"]), issuer=operation["issuer"],
        method=_words(operation["payment_method"]), reason=_words(operation["reason"] or ""),
    )  # fmt: skip
    day = str(operation["day"] or operation["recorded_at"].date())
    events = [_event(operation, day, what, operation["amount_minor"])]
    if operation["settled_on"]:
        settled = (
            "the acquirer took the refund from its payout" if kind == "refund" else "the acquirer paid it out to us"
        )
        events.append(_event(operation, str(operation["settled_on"]), settled, operation["amount_minor"]))
    if operation["is_written_off"]:
        events.append(_event(operation, day, "it was written off when the incident closed", operation["amount_minor"]))
    return events


def _event(operation: dict[str, Any], day: str, what: str, amount_minor: int | None) -> dict[str, Any]:
    return {
        "day": day,
        "what": what,
        "billing_period": operation["billing_period"],
        "amount_minor": amount_minor,
        "currency": operation["currency"],
    }


def _after(charge: dict[str, Any], operations: list[dict[str, Any]]) -> str:
    """The day on which a charge was found to be otherwise: that of its undoing, if there was one."""
    undone = [o["day"] for o in operations if o["original_id"] == charge["operation_id"] and o["day"]]
    return str(max([*undone, charge["day"] or charge["recorded_at"].date()]))


def _day_of_step(operations: list[dict[str, Any]], step: str) -> str | None:
    days = [o["day"] for o in operations if step.startswith(o["kind"]) and o["incident_id"] and o["day"]]
    return str(max(days)) if days else None


def _words(name: str) -> str:
    return name.replace("_", " ")
