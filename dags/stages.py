"""The tasks of a charge run, thin: each opens the installation, calls one stage and passes ids on.

Belongs here: which period a run is for, what a task returns, which end an operator sees. Does not: schedules (the
DAG files) or rules (`pipeline`). What a task returns is small and names things; nothing about money is remembered
here. `pipeline.bootstrap` is imported inside the tasks: parsing a DAG file must not load what computing needs.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from inspect import getdoc
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import GateClosed, OutcomeUnknown, OutsideWindow, SendingStopped, UsageError
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.bootstrap import Makegood

log = logging.getLogger(__name__)

RUN_ID_PATTERN = "^[0-9]{4}-(0[1-9]|1[0-2])-[0-9a-f]{12}$"

SOURCE_PARAM = Param(
    None,
    type=["null", "string"],
    title="Source",
    description="Folder of charge files, or a database URL; empty: the installation's own (`MAKEGOOD_SOURCE`).",
)

Asked = dict[str, Any]
"""What a run is about: `billing_period`, `source`, `as_of` (ISO 8601 or None) and `by_hand` (a person named the period)."""


def stage(kind: Any = task, **options: Any) -> Callable[[Callable], Any]:
    """A task whose documentation is its function's, less the indentation that Markdown takes for code."""
    return lambda function: kind(doc_md=getdoc(function), **options)(function)


def open_installation(as_of: str | None = None) -> "Makegood":
    """The installation that the environment describes, telling its progress to the task's log."""
    from pipeline.bootstrap import open_makegood

    return open_makegood(as_of=datetime.fromisoformat(as_of) if as_of else None, progress=_log_progress)


def _log_progress(what: str, done: int, total: int | None) -> None:
    if done == 0 or done == total:
        log.info("%s: %s of %s", what, f"{done:,}", "?" if total is None else f"{total:,}")


# -- which period ---------------------------------------------------------------------------------------------------


@stage()
def choose_period() -> Asked:
    """### Which period this run is for
    The Param `billing_period` if one was given; else the period that the billing calendar expects at the run's own
    time - `as_of`, or its logical date, or, where a manual run has none, the moment it was due - in the business time zone.
    A cleared run therefore keeps its period for ever.

    **Red?** The installation's settings (`MAKEGOOD_...`) make no sense; the message says which.
    """
    context = get_current_context()
    settings, params, run = Settings.from_environment(), context["params"], context["dag_run"]
    at = datetime.fromisoformat(params["as_of"]) if params["as_of"] else run.logical_date or run.run_after
    if at.tzinfo is None:
        raise UsageError(f"as_of needs a time zone, such as 2023-09-11T02:00:00+09:00; not {params['as_of']!r}")
    expected = BillingPeriod.of(at.astimezone(settings.timezone)).plus(-settings.calendar.months_in_arrears)
    return {
        "billing_period": params["billing_period"] or str(expected),
        "source": params["source"] or str(settings.source),
        "as_of": params["as_of"],
        "by_hand": params["billing_period"] is not None,
    }


@stage()
def choose_month() -> Asked:
    """### Which month this run is for
    The month in which its data interval starts (in UTC, which the run's name shows): one rule, no Param.

    **Red?** It was triggered by hand without a logical date: trigger a *backfill* over the month instead.
    """
    context = get_current_context()
    start = context.get("data_interval_start")
    if start is None:
        raise UsageError(
            "this run has no data interval, so no month: trigger a backfill, or give a logical date in the month"
        )
    return {
        "billing_period": str(BillingPeriod.of(start.in_timezone("UTC"))),
        "source": context["params"]["source"] or str(Settings.from_environment().source),
        "as_of": None,
        "by_hand": True,
    }


# -- extract and verify ---------------------------------------------------------------------------------------------


@stage()
def extract(asked: Asked) -> dict[str, Any]:
    """### Land what has arrived
    The period's charge files become an immutable, hashed partition: a *run* of Makegood. The same content is landed once.

    **Red?** A file cannot be read faithfully - the message names file, row, column and reason. Nothing was landed.
    Have the file sent again, then clear this task. It is not retried by itself; a full disk or a database that is away is.
    """
    makegood = open_installation(asked["as_of"])
    period, source = BillingPeriod.parse(asked["billing_period"]), asked["source"]
    if "://" not in source and period not in makegood.periods(source):
        return _nothing(f"nothing has arrived for {period} in {source}")
    landed = makegood.extract(source, period)
    if landed.run is None:
        return _nothing(f"{period} is not complete: waiting for {', '.join(landed.waiting_for)}")
    if landed.set_aside is not None:
        log.warning("what the lake held of this run was damaged or edited; it is kept in %s", landed.set_aside)
    settled = makegood.settled(landed.run.run_id) if landed.already_landed and not asked["by_hand"] else None
    if settled:
        return _nothing(f"nothing new for {period}: {landed.run.run_id} {settled}")
    log.info("%s: %s rows from %s files", landed.run.run_id, f"{landed.run.row_count:,}", len(landed.run.files))
    return {"run_id": landed.run.run_id, "nothing_new": None}


def _nothing(reason: str) -> dict[str, Any]:
    log.info("%s", reason)
    return {"run_id": None, "nothing_new": reason}


@stage(task.branch)
def anything_new(extracted: dict[str, Any]) -> str:
    """### Is there anything to verify?
    Goes to `verify` when a run was landed or is unfinished, else to `nothing_new`.
    """
    return "verify" if extracted["run_id"] else "nothing_new"


@stage()
def nothing_new(extracted: dict[str, Any]) -> str:
    """### The end of a quiet night
    Nothing has arrived, files are still waited for, or everything that arrived is settled; the log says which. Nothing to do.
    """
    log.info("%s", extracted["nothing_new"])
    return extracted["nothing_new"]


@stage()
def verify(asked: Asked, extracted: dict[str, Any]) -> dict[str, Any]:
    """### Let the gate judge the run
    Measures the run against up to twelve earlier months, judges it, writes its report. A run that should be held is *not*
    red here but at `held`.

    **Red?** Something broke while judging (not: the data is wrong). Read the log; clearing the task repeats it harmlessly.
    """
    makegood = open_installation(asked["as_of"])
    judged = makegood.verify(extracted["run_id"], asked["source"])
    findings = judged.verification.findings
    for finding in findings:
        log.info("[%s] %s", finding.severity, finding.explanation)
    return {
        "run_id": extracted["run_id"],
        "decision": judged.verification.decision,
        "findings": len(findings),
        "headline": findings[0].explanation if findings else "every rule that could be judged holds",
    }


# -- the gate, and its three ends -----------------------------------------------------------------------------------


@stage(task.branch)
def gate(asked: Asked, judged: dict[str, Any]) -> str:
    """### Release or hold
    `prepare_waves` if the run passed and the billing calendar expects its period today (or two people have released it);
    `verified_not_charged` if it passed and the calendar expects another period; `held` otherwise.
    """
    try:
        allowed_by = open_installation(asked["as_of"]).require_release_allowed(judged["run_id"])
    except OutsideWindow as closed:
        log.info("%s", closed)
        return "verified_not_charged"
    except GateClosed as closed:
        log.warning("%s", closed)
        return "held"
    log.info("%s may be charged: %s", judged["run_id"], allowed_by)
    return "prepare_waves"


@stage(task.branch)
def passed_or_held(judged: dict[str, Any]) -> str:
    """### Passed or held
    What the gate says of a past month; whatever it says, nobody is charged by this DAG.
    """
    return "held" if judged["decision"] == "hold" else "verified_not_charged"


@stage()
def held(judged: dict[str, Any]) -> None:
    """### The run is held: nothing was sent to anybody
    Red on purpose, and never retried: the data has to change or two people have to decide.

    1. Open the **Report** tab of this run; its first finding says what is wrong and where.
    2. The data is wrong: have a corrected file sent. The next night takes it as a new run.
    3. The data is right all the same: trigger `decide_held_run` with the `run_id` from this task's log. Two different
       people must answer.
    """
    raise GateClosed(
        f"{judged['run_id']} is held, nothing was sent: {judged['headline']} ({judged['findings']} findings). Read its report, then"
        f" have a corrected file sent, or trigger decide_held_run with run_id {judged['run_id']}"
    )


@stage()
def verified_not_charged(judged: dict[str, Any]) -> str:
    """### Verified, not charged
    The run passed the gate and has its report, and nobody was charged: it is not the period that the billing calendar
    expects, or this was a backfill. To charge it all the same, trigger `decide_held_run`: two different people must answer.
    """
    message = f"{judged['run_id']} passed the gate and was not charged"
    log.info("%s", message)
    return message


# -- release --------------------------------------------------------------------------------------------------------


@stage()
def prepare_waves(landed_run: str, as_of: str) -> list[int]:
    """### Commit what will be charged
    Every positive charge that its customer has not been charged yet becomes an operation, in numbered waves. Nothing is sent.

    **Red?** The run may not be charged (any more); the message says why. Repeating this task adds nothing.
    """
    waves = open_installation(as_of).prepare_release(landed_run)
    log.info("%s waves to send", len(waves))
    return waves


@stage()
def canary(landed_run: str, as_of: str, waves: list[int]) -> list[int]:
    """### Send the first, small wave
    A mistake that every check missed is then a mistake for a handful of customers. Hands the other waves on.

    **Red?** See `send_wave`.
    """
    for wave in waves[:1]:
        _send(landed_run, as_of, wave)
    return waves[1:]


@stage(max_active_tis_per_dagrun=1, map_index_template="{{ wave_name }}")
def send_wave(landed_run: str, as_of: str, wave: int) -> None:
    """### Send one wave
    One at a time, in order; a wave whose turn came while an earlier one is retried sends the earlier one first. Each file is
    read back and matched to what was meant before it goes. A wave that was answered is never sent again, so clearing is safe.

    **Red?** Sending was stopped by a person or by a stop rule (too many declined or unanswered); the waves after it are
    skipped and *all* sending stays stopped. Look at the report, then `makegood resume --reason ...` and clear this task
    with its downstream tasks.
    """
    context = get_current_context()
    context["wave_name"] = f"wave {wave}"
    ti = context["ti"]
    if ti.get_ti_count(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=[ti.task_id], states=["failed"]):
        raise AirflowSkipException("an earlier wave ended the sending; this one stays unsent")
    _send(landed_run, as_of, wave)


def _send(landed_run: str, as_of: str, wave: int) -> None:
    makegood = open_installation(as_of)
    unanswered = [earlier.number for earlier in makegood.ledger.waves(landed_run) if not earlier.answered]
    try:
        for number in [earlier for earlier in unanswered if earlier <= wave]:
            makegood.send_wave(landed_run, number)
    except SendingStopped as stopped:
        if makegood.register.stopped_by() is None:
            makegood.stop(
                str(stopped)
            )  # a broken stop rule holds for other runs and coming nights, until a person resumes
        raise


@stage(trigger_rule="none_failed_min_one_success")
def charged(landed_run: str, as_of: str) -> dict[str, Any]:
    """### Sum up
    Looks up what got no answer, writes the report anew, and says what the run has come to.

    **Red?** Some operations are still unknown after several look-ups: ask the acquirer. They are never sent again blindly.
    """
    outcome = open_installation(as_of).release(landed_run)
    if outcome.unknown:
        raise OutcomeUnknown(f"{landed_run}: {outcome.unknown} operations have no answer yet; they are looked up again")
    log.info("%s charged, %s declined, %s minor units in all", outcome.charged, outcome.declined, outcome.amount_minor)
    return {name: getattr(outcome, name) for name in ("run_id", "charged", "declined", "unknown", "amount_minor")}


def release(landed_run: str, as_of: str) -> Any:
    """Wire the release of a run that may be charged; returns the first and the last task.

    The arguments are templates, so that the tasks depend on each other alone: `charged` has to tell "nothing was sent"
    from "nothing was left to send" by what became of the waves.
    """
    prepared = prepare_waves(landed_run, as_of)
    first = canary(landed_run, as_of, prepared)
    rest = send_wave.partial(landed_run=landed_run, as_of=as_of).expand(wave=first)
    last = charged(landed_run, as_of)
    [first, rest] >> last
    return prepared, last


@stage()
def report(landed_run: str) -> str:
    """### Write the report as things stand
    Runs at the end, whatever happened before. The **Report** tab of the run shows it.
    """
    if not landed_run:
        raise AirflowSkipException("no run was landed, so there is no report")
    return str(open_installation().render(landed_run))
