"""`makegood sending status|repair`: sending itself on the command line.

Belongs here: arguments of these commands and what they print. Does not: any work - that is `sending.Sending`.
"""

import argparse
from typing import Any

from pipeline.cli import command, open_app, with_clock, with_login
from pipeline.progress import StageProgress

OPEN = 1
"""Exit code of `status` and `repair` while something is to be put right."""


def add_commands(commands: Any) -> None:
    """Add `sending` with its actions."""
    parser = commands.add_parser("sending", help="where sending stands, and how it is led out of what went wrong")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = command(
        actions, "status", _status, _show_status,
        about="files whose fate is open, operations not sent or unknown, damaged answers, stop orders; changes nothing",
        examples="  makegood sending status --json",
    )  # fmt: skip
    with_clock(status)
    repair = command(
        actions, "repair", _repair, _show_repair,
        about="lay the books beside what the acquirer has, and enter what they lack; a dry run unless --apply. After an entry, or a file"
        " that was lost, two people `resume` before anything is sent",
        examples="  makegood sending repair\n  MAKEGOOD_LOGIN=operator makegood sending repair --apply",
    )  # fmt: skip
    repair.add_argument("--apply", action="store_true", help="put it right, as the person who is logged in")
    with_clock(repair)
    with_login(repair)


def _status(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).sending_status()
    return result, OPEN if result["findings"] else 0


def _show_status(result: dict) -> str:
    stop = result["stopped_by"]
    lines = [
        f"sending was stopped by {stop[0]} at {stop[1]:%Y-%m-%d %H:%M %Z} ({stop[2]})" if stop else "sending is allowed"
    ]
    lines.append(
        f"files handed over: up to number {result['last_sequence']}; the acquirer takes {result['next_sequence']} next"
    )
    lines += [
        f"  {item['scope']}: {item['operations']:,} {item['state'].replace('_', ' ')}" for item in result["unfinished"]
    ]
    lines += [f"  damaged answer: {item['scope']} wave {item['wave']}: {item['detail']}" for item in result["damaged"]]
    return "\n".join([*lines, *_findings(result)])


def _repair(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).sending_repair(apply=arguments.apply)
    return result, OPEN if result["findings"] and not arguments.apply else 0


def _show_repair(result: dict) -> str:
    if not result["findings"]:
        return "nothing is to be repaired"
    lines = ["repaired:" if result["applied"] else "to be repaired with --apply:", *_findings(result)]
    if result["people_needed"]:
        lines.append(f"sending stays stopped until {result['people_needed']} people `makegood resume`")
    return "\n".join(lines)


def _findings(result: dict) -> list[str]:
    return [
        f"  {found['file']} ({found['scope']} wave {found['wave']}): {found['what']}" for found in result["findings"]
    ]
