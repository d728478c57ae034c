"""`makegood settle`, `lookup`, `regression`, and `incident reconcile|prove|close`: control and proof on the command line.

Belongs here: arguments of these commands and what they print. Does not: any work - that is `bootstrap.Makegood`.
"""

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli import command, open_app, with_clock, with_login
from pipeline.core.money import format_minor
from pipeline.lookup import to_text as timeline_text
from pipeline.progress import StageProgress
from pipeline.settings import Settings

ID = "inc-2005-09-1a2b3c4d"

BROKEN = 1
"""Exit code of a reconciliation that leaves breaks or files it could not read, and of a regression case that the gate would release."""


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


def add_replay(commands: Any) -> None:
    """Add `replay`."""
    parser = command(
        commands, "replay", _replay, _show_replay,
        about="the whole story on the practice acquirer with a simulated clock: a wrong month escapes and is put right, to the won",
        examples="  makegood replay --source data/sample --period 2005-09 --charged-with 2005-07\n"
        "  makegood replay --customers 1460000",
    )  # fmt: skip
    parser.add_argument("--source", metavar="DIR", help="real charge files; with --period and --charged-with")
    parser.add_argument("--period", metavar="YYYY-MM", help="the month that is charged wrongly")
    parser.add_argument("--charged-with", metavar="YYYY-MM", help="the earlier month whose amounts it is charged with")
    parser.add_argument(
        "--customers", type=int, help="make up this many instead: September 2023 charged with July's amounts"
    )


def _replay(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    from pipeline.replay import replay

    result = replay(
        Settings.from_environment(),
        source=Path(arguments.source).expanduser().resolve() if arguments.source else None,
        period=arguments.period,
        charged_with=arguments.charged_with,
        customers=arguments.customers,
        progress=progress,
    )
    unproven = result["residual_minor"] or result["breaks"]
    return result, BROKEN if unproven else 0


def _show_replay(result: dict) -> str:
    currency, amounts = result["currency"], result["amounts_minor"]
    lines = [f"{result['incident_id']}: the wrong month was charged to {result['charged']:,} customers,"
             f" {format_minor(amounts['charged'], currency)}", "", "who was hurt"]  # fmt: skip
    lines += [f"  {name:8} {figures['lines']:>10,}  charged {format_minor(figures['charged_minor'], currency):>22}"
              f"  due {format_minor(figures['due_minor'], currency):>22}" for name, figures in result["classes"].items()]  # fmt: skip
    lines += ["", f"the approved plan: {result['impact']}", "", "what was done"]
    lines += [
        f"  {step:9}{result[step]:>11,}  {format_minor(amounts[step], currency):>22}"
        for step in ("voided", "refunded", "rebilled")
    ]
    lines += [
        "",
        "the proof, from the source and the acquirer's own book",
        *_indented(Path(result["proof"]).read_text(encoding="utf-8")),
    ]
    lines += ["", "seconds", *(f"  {stage:24}{seconds:>9.1f}" for stage, seconds in result["seconds"].items())]
    lines += [
        "",
        f"breaks {result['breaks']}, residual {format_minor(result['residual_minor'], currency)}",
        f"book: {result['book']}",
    ]
    return "\n".join([*lines, f"report: {result['report']}"])


def _indented(text: str) -> list[str]:
    return [f"  {line}" if line else "" for line in text.rstrip().splitlines()]


def add_incident_commands(actions: Any) -> None:
    """Add what comes after the money has moved to `incident`."""
    for name, run, show, about in (
        (
            "reconcile",
            _reconcile,
            _show_reconciled,
            "lay plan, ledger and the acquirer's settlement files side by side; name every break",
        ),
        (
            "prove",
            _prove,
            _show_proof,
            "prove from source and the acquirer's own book that money out equals money back",
        ),
        (
            "close",
            _close,
            _show_close,
            "close with proof; refused while anything is unknown, unsettled, broken or unexplained",
        ),
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
    is_done = _is_matched(result) and not result["unknown"] and not result["anchor"]["problem"]
    return result, 0 if is_done else BROKEN


def _is_matched(result: dict) -> bool:
    """Whether nothing differs, and every file could be read: what a refused file says is not known."""
    return not result["break_count"] and not result["exceptions"]["refused"]


def _reconcile(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).reconcile(arguments.incident)
    return result, 0 if _is_matched(result) else BROKEN


def _show_reconciled(result: dict) -> str:
    from pipeline.reconcile import to_text  # needs Arrow, which takes a while to load

    unknown = [f"unknown: {item['scope']}: {item['operations']:,}" for item in result.get("unknown", [])]
    problem = result.get("anchor", {}).get("problem")
    return "\n".join([to_text(result), *unknown, *([problem] if problem else [])])


def _prove(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    proof = open_app(arguments, progress).prove(arguments.incident)
    return proof.to_json() | {"text": proof.to_text()}, BROKEN if proof.residual_minor else 0


def _show_proof(result: dict) -> str:
    return result["text"].rstrip()


def _close(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).close(arguments.incident, accept_open=arguments.accept_open), 0


def _show_close(result: dict) -> str:
    case = (
        "kept as a case that the gate must hold"
        if result["regression_case"]
        else "no run of ours, so no regression case"
    )
    told = f"{result['untold']:,} messages are still due" if result["untold"] else "everybody was told"
    proof = Path(result["proof_text"]).read_text(encoding="utf-8").rstrip()
    problem = f"\n{result['anchor']['problem']}" if result["anchor"]["problem"] else ""
    return f"{result['incident_id']}: closed; {told}; {case}{problem}\n{proof}"


def _lookup(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    return open_app(arguments, progress).lookup(arguments.customer), 0


def _regression(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    result = open_app(arguments, progress).regression()
    return result, BROKEN if result["released"] else 0


def _show_regression(result: dict) -> str:
    lines = [f"{case['incident_id']}: {case['run_id']} {'RELEASED' if case['decision'] == 'release' else 'held'}"
             + (f" ({case['because']})" if case["because"] else "") for case in result["cases"]]  # fmt: skip
    return "\n".join(lines) or "no incident was ever closed here"
