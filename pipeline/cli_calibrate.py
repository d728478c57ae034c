"""`makegood calibrate`: what past months teach the gate, proposed and - by a person - put in force.

Belongs here: arguments of this command and the table it shows. Does not: any work - that is `bootstrap.Makegood`.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.cli import command, open_app, with_login
from pipeline.errors import UsageError
from pipeline.progress import StageProgress

TABLE_WIDTH = 140
"""Characters; a narrower terminal wraps, but a file or a pipe is not cut to its guess."""


def add_commands(commands: Any) -> None:
    """Add `calibrate`."""
    parser = command(
        commands, "calibrate", _calibrate, _show,
        about="learn thresholds from the months that were right; proposes, and changes nothing until a person applies the proposal",
        examples="  makegood calibrate\n"
        "  makegood calibrate --source data/charges --out proposal.json\n"
        "  MAKEGOOD_LOGIN=jiwoo makegood calibrate --apply proposal.json\n"
        "  MAKEGOOD_LOGIN=jiwoo makegood calibrate --remove",
    )  # fmt: skip
    parser.add_argument(
        "--source", metavar="DIR", help="learn also from months that nobody released, as they lie here: unverified"
    )
    parser.add_argument("--out", metavar="FILE", help="write the proposal, with every bound, as JSON")
    parser.add_argument("--apply", metavar="FILE", help="put a proposal in force, in your name")
    parser.add_argument("--remove", action="store_true", help="go on without learned bounds, in your name")
    with_login(parser)


def _calibrate(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    app = open_app(arguments, progress)
    if arguments.apply:
        if arguments.out or arguments.source:
            raise UsageError("--apply takes a proposal as it is: make one with --out first, and look at it")
        return app.apply_calibration(Path(arguments.apply)), 0
    if arguments.remove:
        if arguments.out or arguments.source:
            raise UsageError("--remove takes nothing else: learned bounds are gone, and the suites' own are in force")
        return app.remove_calibration(), 0
    source = str(Path(arguments.source).expanduser().resolve()) if arguments.source else None
    out = Path(arguments.out).expanduser() if arguments.out else None
    return app.calibrate(source, out=out), 0


def _show(result: dict) -> str:
    if "removed_by" in result:
        return f"no learned bounds are in force any more, by {result['removed_by']}: the suites' own are"
    if result.get("applied"):
        applied = result["applied"]
        return f"{result['bounds_count']:,} bounds are in force since {applied['at']}, applied by {applied['by']}: {result['file']}"
    rules = [bound for bound in result["bounds"] if bound["subject"] == "rule"]
    signals = [bound for bound in result["bounds"] if bound["subject"] == "signal"]
    parts = [_months(result["provenance"])]
    parts += [_table("rule", rules)] if rules else []
    of_run = [bound for bound in signals if bound["cohort"] == "run"]
    parts += [_table("signal", of_run)] if of_run else []
    if len(signals) > len(of_run):
        parts.append(
            f"and {len(signals) - len(of_run):,} more shares of parts of the run: --out or --json has them all"
        )
    parts += _not_learned(result["not_learned"])
    parts.append("nothing was changed" + (f"; the proposal is {result['file']}" if result.get("file") else ""))
    return "\n".join(parts)


def _months(provenance: dict) -> str:
    months = provenance["months"]
    by_standing = Counter(month["standing"] for month in months)
    counts = ", ".join(f"{count} {standing}" for standing, count in sorted(by_standing.items()))
    text = f"from {months[0]['billing_period']} to {months[-1]['billing_period']}: {counts}"
    if by_standing["unverified"]:
        text += "; nobody has verified the unverified, so what looks normal may not be"
    return text + (f"; left out: {', '.join(provenance['left_out'])}" if provenance["left_out"] else "")


def _table(what: str, bounds: list[dict]) -> str:
    table = Table(what, "cohort", "now", "would be", "in some months", "seen", "months")
    for bound in bounds:
        seasons = [f"{month}: {_range(pair)}" for month, pair in bound["in_month"].items()]
        table.add_row(
            bound["name"], bound["cohort"], _range(bound["was"]), _range((bound["low"], bound["high"])),
            _shortest(seasons), _range(bound["seen"]), str(bound["months"]),
        )  # fmt: skip
    console = Console(width=TABLE_WIDTH, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _shortest(seasons: list[str]) -> str:
    return "; ".join(seasons) if len(seasons) <= 1 else f"{seasons[0]}; and {len(seasons) - 1} more"


def _range(pair: Any) -> str:
    """Bounds in percent; what is not bounded is a blank."""
    if pair is None:
        return "two latest months"
    low, high = (None if bound is None else f"{100 * bound:.4g}" for bound in pair)
    if low is None:
        return f"up to {high} %"
    return f"from {low} %" if high is None else f"{low} ... {high} %"


def _not_learned(rows: list[dict]) -> list[str]:
    """The first cohorts of each metric that keep their default, and why."""
    by_reason: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        by_reason.setdefault((row["subject"], "months" if "months" in row["reason"] else "bills"), []).append(row)
    lines = []
    for (subject, lacking), group in sorted(by_reason.items()):
        names = sorted({row["name"] for row in group})
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        cohorts = len({row["cohort"] for row in group})
        lines.append(
            f"not learned, too few {lacking}: {len(group):,} bounds of {len(names)} {subject}s ({shown}) in {cohorts} cohorts; "
            "they stay as they are"
        )
    return lines
