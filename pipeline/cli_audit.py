"""`makegood audit verify|anchor`: the audit log, held against what was anchored outside the database.

Belongs here: arguments of these commands and what they print. Does not: any work - that is `bootstrap.Makegood`.
"""

import argparse
from typing import Any

from pipeline.cli import command, open_app
from pipeline.progress import StageProgress

BROKEN = 1
"""Exit code where something is not what it was."""


def add_commands(commands: Any) -> None:
    """Add `audit`."""
    actions = commands.add_parser("audit", help="prove log and books unaltered, or anchor them now").add_subparsers(
        required=True, metavar="ACTION"
    )
    command(
        actions, "verify", _verify, _show_verify,
        about="hold the audit log and every row of the books against all heads that were anchored; says what was altered, and where",
        examples="  makegood audit verify\n  MAKEGOOD_AUDIT_ANCHOR=/mnt/worm makegood audit verify --json",
    )  # fmt: skip
    command(
        actions, "anchor", _anchor, _show_anchor,
        about="sign what log and books are now, outside the database; every daily settlement and every close does so by itself",
        examples="  makegood audit anchor",
    )  # fmt: skip


def _verify(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).verify_audit()
    return result, BROKEN if result["breaks"] else 0


def _show_verify(result: dict) -> str:
    until = f"; rows are vouched for until {result['anchored_until'][:19]} UTC" if result["anchored_until"] else ""
    lines = [f"the audit log is {result['audit']}: {result['acts']:,} acts, {result['heads']:,} heads{until}"]
    return "\n".join([*lines, *(f"  {broken}" for broken in result["breaks"])])


def _anchor(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).anchor_audit(with_books=True)
    return result, BROKEN if result["problem"] else 0


def _show_anchor(result: dict) -> str:
    if result["head"] is None:
        return result["problem"]
    left = f"\n  {result['problem']}" if result["problem"] else ""
    return f"head {result['head']}: {result['acts']:,} acts, rows until {result['until'][:19]} UTC{left}"
