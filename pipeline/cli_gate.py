"""`makegood change ...` and `makegood finding ...`: what people tell the gate.

Belongs here: arguments of these commands and what they print. Does not: any work - that is `bootstrap.Makegood`.
"""

import argparse
from typing import Any

from pipeline.cli import command, open_app, period_of, with_login
from pipeline.core.declared import KINDS
from pipeline.progress import StageProgress

RUN = "2023-09-1a2b3c4d5e6f"


def add_commands(commands: Any) -> None:
    """Add `change` and `finding`."""
    changes = commands.add_parser(
        "change",
        help="declare ahead what will be different, so that the gate expects it: declare, approve, withdraw, list",
    ).add_subparsers(required=True, metavar="ACTION")
    _add_declare(changes)
    approve = command(
        changes, "approve", _approve, _show_change, about="agree to a change that somebody else declared",
        examples="  MAKEGOOD_LOGIN=approver makegood change approve 7",
    )  # fmt: skip
    withdraw = command(
        changes, "withdraw", _withdraw, _show_change, about="take a change back: from then on it excuses nothing",
        examples='  MAKEGOOD_LOGIN=operator makegood change withdraw 7 --reason "put off to November"',
    )  # fmt: skip
    withdraw.add_argument("--reason", default="", metavar="TEXT", help="why; kept for ever")
    for parser in (approve, withdraw):
        parser.add_argument("change", metavar="ID", help="the number that `change declare` printed")
        with_login(parser)
    command(
        changes, "list", _list, _show_changes, about="every change ever declared, newest first",
        examples="  makegood change list --json",
    )  # fmt: skip
    _add_finding(commands)


def _add_declare(changes: Any) -> None:
    kinds = "\n".join(f"  {kind:16} {about}" for kind, about in KINDS.items())
    declare = command(
        changes, "declare", _declare, _show_change,
        about="say what will be different; it counts once another person has approved it, and expires by itself",
        examples="  MAKEGOOD_LOGIN=operator makegood change declare --kind price_change --cohort plan:LTE-49 --percent 5 \\\n"
        '    --from 2023-09 --until 2023-09 --reason "price list of September"\n'
        "  MAKEGOOD_LOGIN=operator makegood change declare --kind rule --rule joined --cohort issuer:SORA \\\n"
        f'    --from 2023-09 --until 2023-10 --reason "customers taken over from another company"\n\nkinds:\n{kinds}',
    )  # fmt: skip
    declare.add_argument("--kind", required=True, choices=list(KINDS), help="what changes; see below")
    declare.add_argument(
        "--cohort", required=True, metavar="COHORT", help="run, issuer:NAME, payment_method:NAME or plan:NAME"
    )
    declare.add_argument("--from", required=True, dest="first", metavar="YYYY-MM", help="first billing period")
    declare.add_argument(
        "--until", required=True, dest="last", metavar="YYYY-MM", help="last billing period; at most 12 months"
    )
    declare.add_argument(
        "--percent",
        type=float,
        metavar="P",
        help="by how much amounts change at most; without it drifts are not excused",
    )
    declare.add_argument("--rule", metavar="NAME", help="for --kind rule: the rule that is waived")
    declare.add_argument("--reason", required=True, metavar="TEXT", help="why; kept for ever")
    with_login(declare)


def _add_finding(commands: Any) -> None:
    findings = commands.add_parser(
        "finding", help="say whether a finding was a real fault or a false alarm: accept, reject"
    ).add_subparsers(required=True, metavar="ACTION")
    for kind, about, reason in (
        ("accept", "a finding was a real fault: its month will not count as normal", "July's file was sent"),
        ("reject", "a finding was a false alarm: its month counts as normal", "a campaign nobody told us of"),
    ):
        parser = command(
            findings, kind, _decide, _show_finding, about=about,
            examples=f'  MAKEGOOD_LOGIN=operator makegood finding {kind} {RUN} --rule joined --cohort issuer:SORA --reason "{reason}"',
        )  # fmt: skip
        parser.add_argument("run", metavar="RUN")
        parser.add_argument("--rule", required=True, metavar="NAME", help="the finding's rule, as the report names it")
        parser.add_argument("--cohort", metavar="COHORT", help="one of the finding's cohorts; all of them without")
        parser.add_argument("--reason", required=True, metavar="TEXT", help="why; kept for ever")
        parser.set_defaults(kind=kind)
        with_login(parser)


def _declare(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    first, last = str(period_of(arguments.first)), str(period_of(arguments.last))
    declared = open_app(arguments, progress).declare_change(
        arguments.kind, arguments.cohort, first, last,
        percent=arguments.percent, rule=arguments.rule, reason=arguments.reason,
    )  # fmt: skip
    return declared, 0


def _approve(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).approve_change(arguments.change), 0


def _withdraw(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).withdraw_change(arguments.change, reason=arguments.reason), 0


def _show_change(result: dict) -> str:
    ask = f"\nanother person: makegood change approve {result['change_id']}" if result["state"] == "requested" else ""
    return _change_line(result) + ask


def _change_line(change: dict) -> str:
    what = f"{change['kind']} {change['rule']}" if change["rule"] else change["kind"]
    percent = f" {change['percent']:+g} %" if change["percent"] is not None else ""
    people = f"declared by {change['declared_by']}" + (
        f", approved by {change['approved_by']}" if change["approved_by"] else ""
    )
    return (
        f"change {change['change_id']}: {change['state']}, {what}{percent} for {change['cohort']},"
        f" {change['first_period']} to {change['last_period']}, {people}: {change['reason']}"
    )


def _list(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return {"changes": open_app(arguments, progress).list_changes()}, 0


def _show_changes(result: dict) -> str:
    return "\n".join(map(_change_line, result["changes"])) or "no change was ever declared here"


def _decide(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    said = open_app(arguments, progress).decide_finding(
        arguments.run, kind=arguments.kind, rule=arguments.rule, cohort=arguments.cohort, reason=arguments.reason
    )
    return said, 0


def _show_finding(result: dict) -> str:
    where = f" of {result['cohort']}" if result["cohort"] else ""
    what = "accepted as a real fault" if result["kind"] == "accept" else "rejected as a false alarm"
    return f"{result['run_id']}: {result['rule']}{where} {what} by {result['person']}; report: {result['report']}"
