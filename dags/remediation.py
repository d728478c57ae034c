"""# Put a wrong run right

Trigger it with the run that was charged wrongly (or a file of charges that another system made) and the run with the right
amounts, which must have passed the gate. It assesses the damage, plans the repair, asks **another person** for approval, and
then voids, refunds and charges anew inside dated windows, each customer's reversal before that customer's new charge. Whoever
triggered the run is the person who asked.

| it ends at | colour | meaning | what to do |
|---|---|---|---|
| `close` | green | every customer has the right amount, proven from the acquirer's book | nothing |
| `plan` | **red** | the default windows are past, or a week off | trigger again and name the days |
| `approve` | **red** | the requester answered, somebody rejected, or nobody answered in 24 hours | see the task |
| `cancel`, `refund`, `rebill` | **red** | stopped by a person or a stop rule, or the plan was changed | see the task |
| `anything_left` | **red** | a window closed before everything was done; a **successor plan** waits for approval | see the task |
| `reconcile`, `close` | **red** | something differs from the acquirer's files, or is unknown | read the incident's page |

Purple (deferred) is a task that waits for its window; nothing is held meanwhile. A skipped `cancel`, `refund` or `rebill` found
its window closed. Clearing, retrying or triggering again moves nothing twice; it cannot be backfilled.

**A rehearsal:** with the practice acquirer give `as_of`. The run's clock begins then and is put forward to each window; nobody waits.
"""

from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Context, Param, get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from dags.at_its_time import AtItsTime, as_of, is_rehearsal, time_before
from dags.person_approves import REASON, PersonApproves
from dags.policies import DEFAULT_ARGS
from dags.stages import RUN_ID_PATTERN, log, open_installation, stage
from pipeline.core.window import ONE_DAY, Window, Windows
from pipeline.errors import GateClosed, OutsideWindow, UsageError

if TYPE_CHECKING:
    from pipeline.bootstrap import Makegood

SETTLED_BY = time(10)
"""When the acquirer's files of the day before are here, with an hour to spare: what was waited for is looked at again then."""

ALL_SETTLED_AFTER = timedelta(days=3)
"""After the last rebill: a credit card is claimed by the end of the next day and settled the day after."""

ALL_SETTLED_WITHIN = timedelta(days=14)
"""After the last rebill everything has been in a settlement file by then, holidays included, or is a break with a name."""

TIME_CURES = {"refund_not_credited", "reversal_unknown", "reversal_under_way", "not_sent"}
"""Reasons not to charge a customer yet that another day may take away."""


# -- what went wrong, and who was hurt ------------------------------------------------------------------------------


@stage()
def open_incident() -> dict[str, Any]:
    """### Open the incident
    Ties the wrong charges to the corrected run. From now on nobody in the cohort is charged by an ordinary run. The same
    charges are the same incident, however often they are named.

    **Red?** The corrected run has not passed the gate, or the runs do not belong together; the message says which.
    """
    context = get_current_context()
    params = context["params"]
    if params["as_of"] and datetime.fromisoformat(params["as_of"]).tzinfo is None:
        raise UsageError(f"as_of needs a time zone, such as 2023-09-11T10:00:00+09:00; not {params['as_of']!r}")
    opened = open_installation(params["as_of"]).open_incident(
        wrong=params["wrong_run"],
        charges=Path(params["charges"]).expanduser() if params["charges"] else None,
        corrected=params["corrected_run"],
        issuers=params["issuers"] or None,
        reason=f"{params['reason']} (in Airflow, by {_requester(context)})",
    )
    log.info("%s: %s", opened["incident_id"], opened["classes"])
    return {"incident_id": opened["incident_id"]}


@stage()
def assess(opened: dict[str, Any]) -> dict[str, Any]:
    """### Who was hurt
    Counts and sums by class, issuer and payment method, on the incident's page. Moves nothing, asks no acquirer.
    """
    makegood = open_installation(get_current_context()["params"]["as_of"])
    assessment = makegood.assess(opened["incident_id"]).to_json()
    makegood.render_incident(opened["incident_id"])
    return {
        "classes": {name: figures["lines"] for name, figures in assessment["classes"].items()},
        "total": assessment["total"],
    }


@stage()
def plan(opened: dict[str, Any]) -> dict[str, Any]:
    """### What putting it right takes
    One action with a reason for every charge, from the acquirer's live state, in the windows of the Params - else the month's
    default ones. It is stored under the name of whoever triggered this run: the requester. The same state is the same plan.

    **Red?** Windows that are past or far off have to be named: trigger the DAG again with them.
    """
    context = get_current_context()
    params, incident_id = context["params"], opened["incident_id"]
    makegood = open_installation(params["as_of"])
    draft = makegood.plan(
        incident_id,
        reversal=_window(params, "reversal"),
        rebill=_window(params, "rebill"),
        leave_equal=params["leave_equal"],
    )
    if draft.operation_count:
        stored = makegood.request_approval(draft, user=_requester(context))
        log.info("plan %s %s", stored.plan_digest[:12], makegood.stated_impact(stored))
    else:
        stored = makegood.plan_to_decide(incident_id)
        log.info("nothing is left to undo or charge; plan %s stands", stored.plan_digest[:12])
    return {"incident_id": incident_id, "plan_digest": stored.plan_digest}


def _requester(context: Context) -> str:
    """The authenticated person who triggered the run."""
    name = context["dag_run"].triggering_user_name
    if not name:
        raise UsageError(
            "nobody is known to have triggered this run: trigger it in the pages or over the API, logged in"
        )
    return name


def _window(params: Any, name: str) -> Window | None:
    first, last = params[f"{name}_first"], params[f"{name}_last"]
    if first is None and last is None:
        return None
    try:
        return Window.parse(f"{first or last}..{last or first}")
    except ValueError as error:
        raise UsageError(str(error)) from None


APPROVE_DOC = """### Another person approves
Under *Required Actions*: what the plan does, in counts and amounts. Whoever is logged in is recorded; it must not be the person
who triggered the run - the database refuses it. A plan that was approved already is not asked about again.

**Red?** The log says which:

* **the requester answered** - nothing was recorded. Clear this task; another person answers.
* **the plan is superseded** - somebody stored a newer one meanwhile. Trigger the DAG again.
* **rejected**, or **nobody answered** in 24 hours (that is a no) - recorded; the plan is dead. Trigger the DAG again for a new one.
"""


# -- the steps that move money --------------------------------------------------------------------------------------


def opens(window: str, context: Context) -> datetime:
    """When a window of the run's plan opens: `reversal` or `rebill`."""
    makegood, record = _installation_and_plan(context, None)
    return getattr(record.windows, window).opens(makegood.settings.timezone)


def reverse(step: str, context: Context, moment: datetime) -> tuple[dict[str, Any], None]:
    """Send what a reversal step still asks for: `cancel` or `refund`."""
    makegood, record = _installation_and_plan(context, moment)
    _require_in_force(makegood, record)
    return _carry_out(makegood, step, record.incident_id, record.windows.reversal, moment), None


def charge_anew(context: Context, moment: datetime) -> tuple[dict[str, Any], datetime | None]:
    """Enter what has been settled, then charge whoever is eligible by now; again after the next settlement file."""
    makegood, record = _installation_and_plan(context, moment)
    _require_in_force(makegood, record)
    if not _is_closed(makegood, record.incident_id):
        makegood.reconcile(record.incident_id)
    window, zone = record.windows.rebill, makegood.settings.timezone
    said = _carry_out(makegood, "rebill", record.incident_id, window, moment)
    again = _next(SETTLED_BY, moment, zone)
    may_help = TIME_CURES & set(said["left"]) or said["unknown"] or (said.get("retry_on") or "9999") <= str(window.last)
    return said, again if may_help and window.contains(again, zone) else None


def _installation_and_plan(context: Context, moment: datetime | None) -> "tuple[Makegood, Any]":
    makegood = open_installation(as_of(context, moment) if moment else context["params"]["as_of"])
    asked = context["ti"].xcom_pull(task_ids="plan")
    return makegood, makegood.plan_to_decide(asked["incident_id"], asked["plan_digest"])


def _require_in_force(makegood: "Makegood", record: Any) -> None:
    """Refuse to execute another plan than the one this run asked about."""
    newest = makegood.plan_to_decide(record.incident_id)
    if newest.plan_digest != record.plan_digest:
        raise GateClosed(
            f"this run is about plan {record.plan_digest[:12]}, which {newest.plan_digest[:12]} of {newest.requested_by} has superseded;"
            " nothing was sent. Trigger this DAG again"
        )


def _is_closed(makegood: "Makegood", incident_id: str) -> bool:
    return makegood.incidents.find(incident_id).closed_at is not None


def _carry_out(makegood: "Makegood", step: str, incident_id: str, window: Window, moment: datetime) -> dict[str, Any]:
    """One call of a step, in words and numbers; skips the task when nothing could be sent because the window is not open."""
    if _is_closed(makegood, incident_id):
        raise AirflowSkipException(f"{incident_id} is closed: nothing is left to {step}")
    if moment >= window.closes(makegood.settings.timezone):
        raise AirflowSkipException(f"the window {window} has closed; what is left to {step} is named by anything_left")
    try:
        said = getattr(makegood, step)(incident_id)
    except OutsideWindow as closed:
        raise AirflowSkipException(f"{closed}; nothing was sent") from None
    if said["stopped"]:
        log.warning("%s", said["stopped"])
    told = {name: said[name]["count"] for name in ("done", "declined", "unknown")}
    told["left"] = {reason: figures["count"] for reason, figures in said["left"].items()}
    told["otherwise"] = {kind: figures["count"] for kind, figures in said["deviations"].items()}
    log.info("%s: %s", step, told)
    return told | {"retry_on": said.get("retry_on")}


def _next(hour: time, moment: datetime, zone: Any) -> datetime:
    """The first time after `moment` that a business clock shows `hour`."""
    local = moment.astimezone(zone)
    today = datetime.combine(local.date(), hour, zone)
    return today if today > local else today + ONE_DAY


STEP_DOC = """### {title}
Purple: it waits for its window, without a worker. Inside it, {what} in waves, a small one first; before each wave the
acquirer's live state is read again. What was answered is never sent again, so clearing is safe.

**Skipped?** The window is closed; nothing was sent, `anything_left` names what is left.

**Red?** Sending was stopped - by a person, or because too many were refused or unanswered. Look at the incident's page, then
`makegood resume --reason TEXT` and clear this task with its downstream tasks. Or the plan was superseded: trigger the DAG again.
"""

CANCEL_DOC = STEP_DOC.format(
    title="Void what was not acquired yet",
    what="wrong approvals are cancelled, so that no money leaves the account; one that was acquired meanwhile becomes a refund, once,",
)
REFUND_DOC = STEP_DOC.format(
    title="Refund what was acquired",
    what="wrong withdrawals are given back; what support has given back already makes ours smaller,",
)
REBILL_DOC = STEP_DOC.format(
    title="Charge the right amounts",
    what="each customer is charged once every wrong charge of that bill is certainly undone; who has to wait for a refund to be"
    " credited is looked at again after the next settlement files (10:00 every day of the window),",
)


# -- what customers are told ----------------------------------------------------------------------------------------


def waking_hour(context: Context) -> datetime:
    """The first moment from now - in a rehearsal from when the work ended - at which people may be written to."""
    from pipeline.notify import QUIET_FROM_HOUR, QUIET_UNTIL_HOUR

    zone = open_installation().settings.timezone
    ended = time_before(context, context["task"].upstream_task_ids)
    moment = ended if is_rehearsal(context) else datetime.now(UTC)
    if QUIET_UNTIL_HOUR <= moment.astimezone(zone).hour < QUIET_FROM_HOUR:
        return moment
    return _next(time(QUIET_UNTIL_HOUR), moment, zone)


def tell(context: Context, moment: datetime) -> tuple[dict[str, Any], None]:
    """Send the messages that are due."""
    told = open_installation(as_of(context, moment)).notify(context["ti"].xcom_pull(task_ids="plan")["incident_id"])
    log.info("told: %s; left: %s", told["sent"], told["left"])
    return {"told": told["sent"]}, None


NOTIFY_DOC = """### Tell the customers what was done
One message per customer and step, from outcomes that are certain. Between 21:00 and 08:00 it waits (purple). Sends nothing twice.

**Red?** Messages could not be delivered; money is not concerned. Clear the task when the channel is back.
"""


# -- what is left, and the proof ------------------------------------------------------------------------------------


@stage(trigger_rule="none_failed")
def anything_left() -> dict[str, Any]:
    """### Is anything left to be done?
    Plans again from what is true now. If nothing is left to move, it goes on to `reconcile`.

    **Red: held.** A window closed before everything was done, or declined charges are to be tried again later. What is left has
    become a **successor plan**, asked for by whoever triggered this run, in windows that begin tomorrow; the log shows it. Trigger
    this DAG again with those windows (or others): another person approves, and only what is left is done.
    """
    context = get_current_context()
    makegood, record = _installation_and_plan(context, time_before(context, {"cancel", "refund", "rebill"}))
    if _is_closed(makegood, record.incident_id):
        return {"left": 0, "at": makegood.as_of.isoformat()}
    retry_on = (context["ti"].xcom_pull(task_ids="rebill") or {}).get("retry_on")
    windows = _later(record.windows, makegood.business_day + ONE_DAY, retry_on)
    leave_equal = record.summary["header"]["policy"]["leave_equal"]
    draft = makegood.plan(record.incident_id, reversal=windows.reversal, rebill=windows.rebill, leave_equal=leave_equal)
    if not draft.operation_count:
        log.info("nothing is left to undo or charge; %s lines stay open by name", draft.summary["open"])
        return {"left": 0, "at": makegood.as_of.isoformat()}
    stored = makegood.request_approval(draft, user=_requester(context))
    raise GateClosed(
        f"{record.incident_id} is held: left is what successor plan {stored.plan_digest[:12]} says - it {makegood.stated_impact(stored)}."
        f" Trigger this DAG again with reversal {windows.reversal} and rebill {windows.rebill}, or days that suit better"
    )


def _later(windows: Windows, first: date, retry_on: str | None) -> Windows:
    """Windows as long and as far apart as these, from `first` on; charging goes on until a declined card's next try at least."""
    by = first - windows.reversal.first
    rebill_last = windows.rebill.last + by
    if retry_on:
        rebill_last = max(rebill_last, date.fromisoformat(retry_on))
    return Windows(Window(first, windows.reversal.last + by), Window(windows.rebill.first + by, rebill_last))


def settled(context: Context) -> datetime:
    """When the last rebills can be in the acquirer's files at the earliest; until then the daily settlement looks after them."""
    at = time_before(context, {"rebill"})
    return _next(SETTLED_BY, at + ALL_SETTLED_AFTER - ONE_DAY, open_installation().settings.timezone)


def match_files(context: Context, moment: datetime) -> tuple[dict[str, Any], datetime | None]:
    """Match plan, ledger and settlement files; again tomorrow while something is not settled yet and need not be."""
    makegood, record = _installation_and_plan(context, moment)
    if _is_closed(makegood, record.incident_id):
        raise AirflowSkipException(f"{record.incident_id} is closed")
    matched = makegood.reconcile(record.incident_id)
    scopes = (record.incident_id, makegood.incidents.find(record.incident_id).charge_scope)
    waiting = sum(count for scope, count in matched["waiting"].items() if scope.partition("/")[0] in scopes)
    said = {
        "lines": matched["lines"],
        "waiting": waiting,
        "breaks": {kind: f["count"] for kind, f in matched["breaks"].items()},
    }
    log.info("matched: %s", said)
    late = makegood.business_day > record.windows.rebill.last + ALL_SETTLED_WITHIN
    return said, None if late or not waiting else _next(SETTLED_BY, moment, makegood.settings.timezone)


RECONCILE_DOC = """### Plan, ledger and the acquirer's files
Every line matched, or a break with a name. Purple: not everything can have been settled yet - three days after the last
rebill it looks, then every day at 10:00, for two weeks at most. Breaks do not make it red: `close` decides.

**Red?** A file cannot be read, or the acquirer is away.
"""


@stage(trigger_rule="none_failed")
def close() -> dict[str, Any]:
    """### Close with proof
    Wrong charged = voided + refunded + open by name; rebilled = what is due; to the won, from the source and the acquirer's own
    book. The hold ends, and the gate has a new case that it must catch from now on.

    **Red?** Something is unknown, differs, or is open without a name; the incident's page says what. Nothing is lost: clear this
    task when it is settled.
    """
    context = get_current_context()
    makegood, record = _installation_and_plan(context, time_before(context, {"reconcile"}))
    if _is_closed(makegood, record.incident_id):
        return {"incident_id": record.incident_id}
    closed = makegood.close(record.incident_id, user=_requester(context))
    log.info("closed; %s of %s bills are exactly right", closed["right"], closed["bills"])
    return {name: closed[name] for name in ("incident_id", "residual_minor", "breaks", "bills", "right", "open")}


@stage()
def report() -> str:
    """### Write the incident's page as things stand
    Runs at the end, whatever happened before. The **Report** tab of the run shows it.
    """
    opened = get_current_context()["ti"].xcom_pull(task_ids="open_incident")
    if not opened:
        raise AirflowSkipException("no incident was opened, so there is no page")
    return str(open_installation().render_incident(opened["incident_id"]))


# -- what it is triggered with --------------------------------------------------------------------------------------

RUN = {"type": ["null", "string"], "pattern": RUN_ID_PATTERN}
DAY = {"type": ["null", "string"], "format": "date"}

PARAMS = {
    "wrong_run": Param(
        None, **RUN, title="Wrong run", description="run_id of what was charged; empty for charges of another system."
    ),
    "charges": Param(
        None,
        type=["null", "string"],
        title="Charges file",
        description="CSV or Parquet of charges that another system made, on the machine that runs this.",
    ),
    "corrected_run": Param(
        type="string", pattern=RUN_ID_PATTERN, title="Corrected run", description="It has passed the gate."
    ),
    "issuers": Param(
        None,
        type=["null", "array"],
        items={"type": "string"},
        title="Issuers",
        description="Only what was sent to these; empty: all.",
    ),
    "reason": Param(type="string", minLength=3, maxLength=500, title="What went wrong", description="Kept for ever."),
    "reversal_first": Param(
        None, **DAY, title="Void and refund from", description="Empty: the 11th of this month, to the 12th."
    ),
    "reversal_last": Param(None, **DAY, title="... to", description="This day included."),
    "rebill_first": Param(
        None, **DAY, title="Charge anew from", description="Empty: the 12th of this month, to the 13th."
    ),
    "rebill_last": Param(None, **DAY, title="... to", description="This day included."),
    "leave_equal": Param(
        False, type="boolean", title="Leave equal amounts", description="Leave charges alone that happen to be right."
    ),
    "as_of": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="As of",
        description="A rehearsal: the simulated instant, with time zone, at which it begins. Works with the practice acquirer alone.",
    ),
}

with DAG(
    dag_id="remediation",
    description="Assess, plan, approve, void, refund, rebill, reconcile, close",
    schedule=None,
    catchup=False,
    max_active_runs=4,  # one waits for people and windows; another incident must not wait for it
    allowed_run_types=["manual"],
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params=PARAMS,
    tags=["remediation"],
    doc_md=__doc__,
):
    opened = open_incident()
    planned = plan(opened)
    approved = PersonApproves(task_id="approve", params={"reason": REASON}, doc_md=APPROVE_DOC)
    reversal_opens, rebill_opens = partial(opens, "reversal"), partial(opens, "rebill")
    cancel = AtItsTime(task_id="cancel", due=reversal_opens, does=partial(reverse, "cancel"), doc_md=CANCEL_DOC)
    refund = AtItsTime(
        task_id="refund",
        due=reversal_opens,
        does=partial(reverse, "refund"),
        trigger_rule="none_failed",
        doc_md=REFUND_DOC,
    )
    rebill = AtItsTime(
        task_id="rebill", due=rebill_opens, does=charge_anew, trigger_rule="none_failed", doc_md=REBILL_DOC
    )
    left = anything_left()
    reconcile = AtItsTime(task_id="reconcile", due=settled, does=match_files, doc_md=RECONCILE_DOC)
    told_undone, told_rebilled = (
        AtItsTime(task_id=f"notify_{what}", due=waking_hour, does=tell, doc_md=NOTIFY_DOC)
        for what in ("undone", "rebilled")
    )
    closed = close()

    assess(opened) >> planned >> approved >> cancel >> refund >> rebill >> left >> reconcile >> closed
    refund >> told_undone
    rebill >> told_rebilled
    [closed, told_undone, told_rebilled] >> report().as_teardown()
