"""A person's word on a held run, asked for and recorded in one task.

Belongs here: showing what is at stake, and recording who answered. Does not: how many people are needed (`release`).

The answer is recorded by the task that asked, from what the server hands it when it wakes: neither the figures shown
nor the name of the person who answered passes through XCom or a Param, which any operator may write.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param

from dags.stages import open_installation
from pipeline.errors import GateClosed

RELEASE, REJECT = "Release", "Reject"

PATIENCE = timedelta(hours=48)
"""How long an answer is waited for: a weekend night's hold is seen on Monday, and the window for charging is days, not weeks."""

REASON = Param("", type="string", maxLength=500, title="Why", description="Your reason; it is kept with your name.")

RECORDED_AS = {RELEASE: "release", REJECT: "reject"}


class PersonDecides(HITLOperator):
    """Ask any authenticated user to release or reject the run named by the Param `run_id`, and record it as theirs.

    Give it `params={"reason": REASON}`: Airflow takes a form's fields from the call alone.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            subject="Release held run {{ params.run_id }}?",
            options=[RELEASE, REJECT],
            response_timeout=PATIENCE,
            **kwargs,
        )

    def execute(self, context: Any) -> Any:
        """Ask, unless enough people have decided already."""
        makegood = open_installation()
        stake = makegood.at_stake(context["params"]["run_id"])
        if stake["people_missing"] == 0:
            return {"released_by": stake["released_by"]}
        self.body = _in_words(stake, context["params"]["why"])
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Record the answer, or that nobody gave one.

        Raises:
            GateClosed: rejected, unanswered in time, answered without a reason, or by a person who has answered before.
        """
        makegood, run_id = open_installation(), context["params"]["run_id"]
        if event.get("error_type") == "timeout":
            makegood.audit_log.append(
                "unanswered", run_id, {"task": self.task_id, "waited_hours": PATIENCE.total_seconds() / 3600}
            )
            raise GateClosed(f"nobody answered, so {run_id} stays held; nothing was sent. Trigger this DAG again")
        answer = super().execute_complete(context, event)
        person, [choice] = answer["responded_by_user"]["name"], answer["chosen_options"]
        reason = (answer["params_input"].get("reason") or "").strip()
        if not reason:
            raise GateClosed(
                f"{person} answered {choice} without a reason; nothing was recorded. Trigger this DAG again"
            )
        state = makegood.decide_for_airflow_user(run_id, kind=RECORDED_AS[choice], reason=reason, user=person)
        if choice == REJECT:
            raise GateClosed(
                f"{run_id} was rejected by {person}: {reason}. Nothing was sent; have a corrected file sent"
            )
        return state


def _in_words(stake: dict[str, Any], why: str) -> str:
    """What the person sees: counts, amounts and findings; no customer."""
    findings = (
        "\n".join(f"* {text}" for text in stake["findings"])
        or "* no finding: the billing calendar expects another period"
    )
    return (
        f"**{stake['customers']:,} charges, {stake['amount']}** of {stake['billing_period']} would be sent to the acquirer.\n\n"
        f"Asked because: {why}\n\n"
        f"What the gate found ({stake['findings_count']}):\n\n{findings}\n\n"
        f"Released so far by: {', '.join(stake['released_by']) or 'nobody'}; "
        f"{stake['people_missing']} more needed, each a different person.\n\n"
        f"[Read the report](/makegood/reports/{stake['run_id']}/report.html) before you answer."
    )
