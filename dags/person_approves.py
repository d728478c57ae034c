"""Another person's word on a plan, asked for and recorded in one task.

Belongs here: showing what the plan does, and recording who answered. Does not: who may approve - requester and approver are
two people by the database's own rule (`pipeline.adapters.incidents`).

The answer names the plan: its digest is part of what is clicked. Airflow keeps the text of a question when a task is cleared;
an answer to an old text therefore approves the old plan, which is refused, and never a plan that nobody saw.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param

from dags.stages import open_installation
from pipeline.core.money import format_minor
from pipeline.errors import GateClosed

APPROVE, REJECT = "Approve", "Reject"

PATIENCE = timedelta(hours=24)
"""How long an answer is waited for: half a default reversal window; what is older is planned anew."""

NOBODY = "nobody"
"""Who is recorded as having rejected a plan that no one answered for."""

REASON = Param(
    "", type="string", maxLength=500, title="Why", description="Your reason; needed to reject, kept with your name."
)


class PersonApproves(HITLOperator):
    """Ask any authenticated user to approve or reject the plan that the task `plan` stored, and record it as theirs.

    Give it `params={"reason": REASON}`: Airflow takes a form's fields from the call alone.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            subject="{{ ti.xcom_pull('plan')['incident_id'] }}: approve plan {{ ti.xcom_pull('plan')['plan_digest'][:12] }}?",
            options=[APPROVE, REJECT],
            response_timeout=PATIENCE,
            **kwargs,
        )

    def execute(self, context: Any) -> Any:
        """Ask, unless the plan is approved already."""
        asked = context["ti"].xcom_pull("plan")
        makegood = open_installation(context["params"]["as_of"])
        plan = makegood.plan_to_show(asked["incident_id"], asked["plan_digest"])
        if plan.state == "approved":
            return {"approved_by": plan.approver}
        self.options = [f"{APPROVE} {plan.plan_digest[:12]}", f"{REJECT} {plan.plan_digest[:12]}"]
        self.body = in_words(plan.to_json() | {"impact": makegood.stated_impact(plan)})
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer, or that nobody gave one.

        Raises:
            GateClosed: rejected, unanswered, superseded meanwhile, or answered by the person who asked.
        """
        incident_id = context["ti"].xcom_pull("plan")["incident_id"]
        makegood = open_installation(context["params"]["as_of"])
        if event.get("error_type") == "timeout":
            plan = makegood.plan_to_decide(incident_id, context["ti"].xcom_pull("plan")["plan_digest"])
            makegood.reject(plan, reason=f"nobody answered within {PATIENCE // timedelta(hours=1)} hours", user=NOBODY)
            raise GateClosed(
                f"nobody answered, so plan {plan.plan_digest[:12]} is rejected; nothing was sent. Trigger this DAG again"
            )
        self.options = event["chosen_options"]  # the API took the answer from those that were offered
        answer = super().execute_complete(context, event)
        person, [choice] = answer["responded_by_user"]["name"], answer["chosen_options"]
        word, _, digest = choice.partition(" ")
        if word not in (APPROVE, REJECT) or not digest:
            raise GateClosed(
                f"{person} answered {choice!r}, which names no plan; nothing was recorded. Clear this task and answer again"
            )
        plan = makegood.plan_to_decide(incident_id, digest)
        if word == APPROVE:
            return {"approved_by": makegood.approve(plan, user=person).approver}
        reason = (answer["params_input"].get("reason") or "").strip() or "no reason given"
        makegood.reject(plan, reason=reason, user=person)
        raise GateClosed(f"plan {digest} was rejected by {person}: {reason}. Nothing was sent; plan anew")


def in_words(plan: dict[str, Any]) -> str:
    """What the person sees: the stated impact, windows and what stays open; no customer."""
    summary, currency = plan["summary"], plan["summary"]["currency"]
    reasons = "\n".join(
        f"| {row['side']} | {row['action']} | {row['reason']} | {row['lines']:,} | {format_minor(row['amount_minor'], currency)} |"
        for row in summary["reasons"]
    )
    return (
        f"**It {plan['impact']}.**\n\n"
        f"Reversals on {plan['windows']['reversal']}, rebills on {plan['windows']['rebill']}, days in the business time zone, first "
        f"and last included. {plan['operation_count']:,} operations of {format_minor(plan['total_minor'], currency)} in all.\n\n"
        f"Asked for by **{plan['requested_by']}**; a different person must approve. The approval is for plan "
        f"`{plan['plan_digest'][:12]}` alone and ends with its last window.\n\n"
        f"| side | action | why | lines | amount |\n|---|---|---|---:|---:|\n{reasons}\n\n"
        f"[Read the incident's page](/makegood/incidents/{plan['incident_id']}) before you answer."
    )
