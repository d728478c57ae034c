"""`makegood settle`, `lookup`, `regression`, and `incident reconcile|prove|close`: control and proof on the command line.

Belongs here: arguments of these commands and what they print. Does not: any work - that is `bootstrap.Makegood`.
"""

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli import command, open_app, with_clock, with_login
from pipeline.lookup import to_text as timeline_text
from pipeline.progress import StageProgress

ID = "inc-2005-09-1a2b3c4d"

BROKEN = 1
"""Exit code of a reconciliation that leaves breaks, and of a regression case that the gate would release."""


def add_commands(commands: Any) -> None:
    """Add `settle`, `lookup` and `regression`."""
    settle = command(
        commands, "settle", _settle, _show_reconciled,
        about="the daily settlement: look up what is unknown, match all settlement files with all operations, name the breaks",
        examples="  makegood settle --json",
    )  # fmt: skip
    with_clock(settle)
    lookup = command(
        commands, "lookup", _lookup, timeline_text,
        about="one customer's story: charges, reversals, rebills, messages, and what comes next",
        examples="  makegood lookup 0012345",
    )  # fmt: skip
    lookup.add_argument("customer", metavar="CUSTOMER")
    command(
        commands, "regression", _regression, _show_regression,
        about="judge the wrong run of every closed incident again: the gate must hold each",
        examples="  makegood regression",
    )  # fmt: skip


def add_incident_commands(actions: Any) -> None:
    """Add what comes after the money has moved to `incident`."""
    for name, run, show, about in (
        ("reconcile", _reconcile, _show_reconciled, "lay plan, ledger and the acquirer's settlement files side by side; name every break"),
        ("prove", _prove, _show_proof, "prove from source and the acquirer's own book that money out equals money back"),
        ("close", _close, _show_close, "close with proof; refused while anything is unknown, unsettled, broken or unexplained"),
    ):
        parser = command(actions, name, run, show, about=about, examples=f"  makegood incident {name} {ID} --json")
        parser.add_argument("incident", metavar="ID")
        with_clock(parser)
        if name == "close":
            parser.add_argument(
                "--accept-open", metavar="REASON", help="accept and write off, as you, what the proof names as open"
            )
            with_login(parser)


def _settle(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).settle_day()
    return result, BROKEN if result["break_count"] or result["unknown"] else 0


def _reconcile(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).reconcile(arguments.incident)
    return result, BROKEN if result["break_count"] else 0


def _show_reconciled(result: dict) -> str:
    from pipeline.reconcile import to_text  # needs Arrow, which takes a while to load

    unknown = [f"unknown: {item['scope']}: {item['operations']:,}" for item in result.get("unknown", [])]
    return "\n".join([to_text(result), *unknown])


def _prove(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    proof = open_app(arguments, progress).prove(arguments.incident)
    return proof.to_json() | {"text": proof.to_text()}, BROKEN if proof.residual_minor else 0


def _show_proof(result: dict) -> str:
    return result["text"].rstrip()


def _close(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).close(arguments.incident, accept_open=arguments.accept_open), 0


def _show_close(result: dict) -> str:
    case = "kept as a case that the gate must hold" if result["regression_case"] else "no run of ours, so no regression case"
    told = f"{result['untold']:,} messages are still due" if result["untold"] else "everybody was told"
    proof = Path(result["proof_text"]).read_text(encoding="utf-8").rstrip()
    return f"{result['incident_id']}: closed; {told}; {case}\n{proof}"


def _lookup(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).lookup(arguments.customer), 0


def _regression(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).regression()
    return result, BROKEN if result["released"] else 0


def _show_regression(result: dict) -> str:
    lines = [f"{case['incident_id']}: {case['run_id']} {'RELEASED' if case['decision'] == 'release' else 'held'}"
             + (f" ({case['because']})" if case["because"] else "") for case in result["cases"]]  # fmt: skip
    return "\n".join(lines) or "no incident was ever closed here"
