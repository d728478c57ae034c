"""`makegood incident ...`: putting wrong charges right from the command line, step by step.

Belongs here: arguments of these commands and what they print. Does not: any work - that is `bootstrap.Makegood`.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import cli_control
from pipeline.cli import HELD, command, open_app, with_clock, with_login
from pipeline.core.money import format_minor
from pipeline.core.window import Window
from pipeline.errors import UsageError
from pipeline.progress import StageProgress

ID = "inc-2005-09-1a2b3c4d"


def add_commands(commands: Any) -> None:
    """Add `incident` and what can be done with one."""
    actions = commands.add_parser(
        "incident", help="put wrong charges right: open, plan, approve, cancel, refund, rebill, reconcile, close"
    ).add_subparsers(required=True, metavar="ACTION")
    _add_open(actions)
    _add_looking(actions)
    _add_plan(actions)
    _add_decisions(actions)
    _add_steps(actions)
    _add_notify(actions)
    cli_control.add_incident_commands(actions)


# -- open, show, list -----------------------------------------------------------------------------------------------


def _open(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    charges = Path(arguments.charges).expanduser() if arguments.charges else None
    opened = app.open_incident(
        corrected=arguments.corrected,
        wrong=arguments.run,
        charges=charges,
        issuers=arguments.issuer,
        reason=arguments.reason,
    )
    return opened | {"report": str(app.render_incident(opened["incident_id"]))}, 0


def _show_open(result: dict) -> str:
    return "\n".join(
        [f"{result['incident_id']}: open, its charges are on hold", *_assessed(result), f"report: {result['report']}"]
    )


def _assessed(result: dict) -> list[str]:
    currency, total = result["currency"], result["total"]
    lines = [
        f"  {name:11} {figures['lines']:>10,} lines, charged {format_minor(figures['charged_minor'], currency)},"
        f" due {format_minor(figures['due_minor'], currency)}"
        for name, figures in result["classes"].items()
    ]
    too = "too much" if total["net_minor"] >= 0 else "too little"
    return [*lines, f"  in all, customers paid {format_minor(abs(total['net_minor']), currency)} {too}"]


def _show_one(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    incident = app.incidents.find(arguments.incident).to_json()
    plans = app.plans_told(arguments.incident)
    report = {"report": str(app.render_incident(arguments.incident))}
    return incident | app.assess(arguments.incident).to_json() | {"plans": plans} | report, 0


def _show_show(result: dict) -> str:
    state = f"closed on {result['closed_at']:%Y-%m-%d}" if result["closed_at"] else "open"
    only = f", only {', '.join(result['issuers'])}" if result["issuers"] else ""
    lines = [
        f"{result['incident_id']}: {state}; {result['charge_scope']}{only}, corrected by {result['corrected_run']}",
        *_assessed(result),
    ]
    lines += [
        f"  {p['falsehood']}"
        if p["falsehood"]
        else f"  plan {p['plan_digest'][:12]}: {p['state']}, {p['operation_count']:,} operations, asked for by {p['requested_by']}"
        + (f", approved by {p['approver']} until {p['expires_at']:%Y-%m-%d %H:%M %Z}" if p["approver"] else "")
        for p in result["plans"]
    ]
    return "\n".join([*lines, f"report: {result['report']}"])


def _list(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return {"incidents": [i.to_json() for i in open_app(arguments, progress).incidents.incidents()]}, 0


def _show_list(result: dict) -> str:
    return (
        "\n".join(
            f"{i['incident_id']}  {'closed' if i['closed_at'] else 'open':7} {i['charge_scope']}  corrected by {i['corrected_run']}"
            for i in result["incidents"]
        )
        or "no incident was ever opened here"
    )


# -- plan, approve, reject ------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    draft = app.plan(
        arguments.incident,
        reversal=_window(arguments.reversal_days),
        rebill=_window(arguments.rebill_days),
        leave_equal=arguments.leave_equal,
    )
    stored = app.request_approval(draft) if arguments.store else None
    if stored:
        app.render_incident(arguments.incident)
    return draft.to_json() | {"stored": stored is not None, "state": stored.state if stored else "dry run"}, 0


def _show_plan(result: dict) -> str:
    lines = [
        f"plan {result['plan_digest'][:12]} {result['impact']}",
        f"  reversals {result['windows']['reversal']}, rebills {result['windows']['rebill']}",
    ]
    lines += [
        f"  {row['side']:8} {row['action']:9} {row['reason']:28} {row['lines']:>10,} lines" for row in result["reasons"]
    ]
    ask = f"another person: makegood incident approve {result['incident_id']} --plan {result['plan_digest'][:12]}"
    return "\n".join(
        [*lines, f"stored; {ask}" if result["stored"] else "dry run: nothing was stored; --store asks for approval"]
    )


def _approve(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    approved = app.approve(app.plan_to_decide(arguments.incident, arguments.plan))
    app.render_incident(arguments.incident)
    return _decided(app, approved), 0


def _reject(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    rejected = app.reject(app.plan_to_decide(arguments.incident, arguments.plan), reason=arguments.reason)
    app.render_incident(arguments.incident)
    return _decided(app, rejected), HELD


def _decided(app: Any, plan: Any) -> dict:
    told = app.told(plan)
    return told | {"actions": told["summary"] and told["summary"]["actions"]}


def _show_decided(result: dict) -> str:
    by = result["rejected_by"] or result["approver"]
    until = f" until {result['expires_at']:%Y-%m-%d %H:%M %Z}" if result["state"] == "approved" else ""
    return f"plan {result['plan_digest'][:12]} is {result['state']} by {by}{until}: it {result['impact']}"


# -- cancel, refund, rebill, notify ---------------------------------------------------------------------------------

STEPS = {
    "cancel": "void the wrong approvals that the acquirer has not acquired",
    "refund": "refund the wrong charges that were acquired, and voids that came too late",
    "rebill": "charge the right amounts, each customer after their wrong charges are certainly undone",
}


def _step(name: str, arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = getattr(open_app(arguments, progress), name)(arguments.incident, dry_run=arguments.dry_run)
    return result, HELD if result["stopped"] else 0


def _show_step(result: dict) -> str:
    done, declined, unknown = (result[name]["count"] for name in ("done", "declined", "unknown"))
    lines = [f"{result['incident_id']}: {result['step']}: {done:,} done, {declined:,} declined, {unknown:,} unknown"]
    lines += [f"  {'would be sent' if _is_due(result, reason) else f'left, {_words(reason)}'}: {figures['count']:,}"
              for reason, figures in result["left"].items()]  # fmt: skip
    lines += [
        f"  otherwise than planned, {_words(kind)}: {figures['count']:,}"
        for kind, figures in result["deviations"].items()
    ]
    if unknown:
        lines.append("  unknown ones are looked up when this command is called again; nothing is sent twice")
    return "\n".join([*lines, *([f"  stopped: {result['stopped']}"] if result["stopped"] else [])])


def _is_due(result: dict, reason: str) -> bool:
    return result.get("dry_run", False) and reason == "not_sent"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _notify(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    return app.notify(arguments.incident, dry_run=arguments.dry_run, in_quiet_hours=arguments.now), 0


def _show_notify(result: dict) -> str:
    lines = [
        f"{result['incident_id']}: told so far: "
        + (", ".join(f"{n:,} ({_words(s)})" for s, n in result["sent"].items()) or "nobody")
    ]
    lines += [f"  this time, {_words(step)}: " + ", ".join(f"{n:,} by {channel}" for channel, n in sorted(by.items()))
              for step, by in result["now"].items()]  # fmt: skip
    lines += [f"  not told, {_words(step)}: " + ", ".join(f"{n:,} {_words(why)}" for why, n in by.items())
              for step, by in result["left"].items()]  # fmt: skip
    return "\n".join(lines)


# -- arguments ------------------------------------------------------------------------------------------------------


def _add_open(actions: Any) -> None:
    parser = command(
        actions, "open", _open, _show_open,
        about="open an incident over wrong charges: assess them, and put their cohort on hold",
        examples="  makegood incident open --run 2005-09-1a2b3c4d5e6f --corrected 2005-09-6f5e4d3c2b1a\n"
        "  makegood incident open --run 2005-09-1a2b3c4d5e6f --corrected 2005-09-6f5e4d3c2b1a --issuer HANBIT --issuer GARAM\n"
        "  makegood incident open --charges approvals.csv --corrected 2005-09-6f5e4d3c2b1a",
    )  # fmt: skip
    parser.add_argument("--run", metavar="RUN", help="the run that was charged wrongly")
    parser.add_argument(
        "--corrected", required=True, metavar="RUN", help="the run with the right amounts; it passed the gate"
    )
    parser.add_argument(
        "--issuer", action="append", metavar="X", help="only what was sent to this issuer; may be repeated"
    )
    parser.add_argument("--charges", metavar="FILE", help="CSV or Parquet of charges that another system made")
    parser.add_argument("--reason", default="", metavar="TEXT", help="what went wrong; kept for ever")
    with_clock(parser)
    with_login(parser)


def _add_looking(actions: Any) -> None:
    show = command(
        actions, "show", _show_one, _show_show,
        about="an incident: who was hurt, its plans, where it stands", examples=f"  makegood incident show {ID}",
    )  # fmt: skip
    show.add_argument("incident", metavar="ID")
    command(
        actions,
        "list",
        _list,
        _show_list,
        about="all incidents, newest first",
        examples="  makegood incident list --json",
    )


def _add_plan(actions: Any) -> None:
    parser = command(
        actions, "plan", _plan, _show_plan,
        about="what putting it right takes: one reason-coded action per charge; a dry run unless --store asks for approval",
        examples=f"  makegood incident plan {ID} --as-of 2005-09-11\n"
        f"  MAKEGOOD_LOGIN=operator makegood incident plan {ID} --store\n"
        f"  makegood incident plan {ID} --reversal-days 2005-09-14..2005-09-15 --rebill-days 2005-09-15..2005-09-16",
    )  # fmt: skip
    parser.add_argument("incident", metavar="ID")
    parser.add_argument(
        "--reversal-days", metavar="FIRST..LAST", help="days on which to void and refund (default: 11th..12th)"
    )
    parser.add_argument(
        "--rebill-days", metavar="FIRST..LAST", help="days on which to charge what is right (default: 12th..13th)"
    )
    parser.add_argument("--leave-equal", action="store_true", help="leave charges alone that happen to be right")
    parser.add_argument("--store", action="store_true", help="store the plan and ask for approval, as you")
    with_clock(parser)
    with_login(parser)


def _add_decisions(actions: Any) -> None:
    for name, run, about in (
        ("approve", _approve, "agree to a plan that somebody else asked for: its digest, count and total"),
        ("reject", _reject, "refuse a plan; nothing of it is executed from then on"),
    ):
        reason = ' --reason "windows too tight"' if name == "reject" else ""
        parser = command(
            actions, name, run, _show_decided, about=about,
            examples=f"  MAKEGOOD_LOGIN=approver makegood incident {name} {ID} --plan 0f1e2d3c4b5a{reason}",
        )  # fmt: skip
        parser.add_argument("incident", metavar="ID")
        parser.add_argument(
            "--plan", metavar="DIGEST", help="the plan's digest, 12 digits or more (default: the newest)"
        )
        if reason:
            parser.add_argument("--reason", required=True, metavar="TEXT")
        with_clock(parser)
        with_login(parser)


def _add_steps(actions: Any) -> None:
    for name, about in STEPS.items():
        parser = command(
            actions, name, partial(_step, name), _show_step, about=f"{about}; by the approved plan, in its window alone",
            examples=f"  makegood incident {name} {ID} --dry-run\n  makegood incident {name} {ID} --json",
        )  # fmt: skip
        parser.add_argument("incident", metavar="ID")
        parser.add_argument("--dry-run", action="store_true", help="say where the step stands, send nothing")
        with_clock(parser)


def _add_notify(actions: Any) -> None:
    parser = command(
        actions, "notify", _notify, _show_notify,
        about="tell customers what was done, once each, by text message or mail into the outbox folder",
        examples=f"  makegood incident notify {ID} --dry-run\n  makegood incident notify {ID} --now",
    )  # fmt: skip
    parser.add_argument("incident", metavar="ID")
    parser.add_argument("--dry-run", action="store_true", help="count what would be sent, send nothing")
    parser.add_argument("--now", action="store_true", help="send in quiet hours (21:00 to 08:00) as well")
    with_clock(parser)


def _window(text: str | None) -> Window | None:
    try:
        return Window.parse(text) if text else None
    except ValueError as error:
        raise UsageError(str(error)) from None
