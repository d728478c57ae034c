"""`makegood chaos`: let everything fail that can, in worlds made up for it, on the command line.

Belongs here: arguments of this command and what it prints. Does not: any work - that is `pipeline.chaos`.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.cli import command
from pipeline.errors import UsageError
from pipeline.progress import StageProgress
from pipeline.settings import Settings

VIOLATED = 1
"""Exit code where a promise was broken, or a state had no way out."""

SAID_CHARACTERS = 300
"""Of a violation, on a terminal; the record has all of it."""


def add_commands(commands: Any) -> None:
    """Add `chaos`."""
    parser = command(
        commands, "chaos", _chaos, _show,
        about="let a fault happen at a point of the money path, resume as a person would, hold the acquirer's book against what is due;"
        " again and again, in worlds of its own",
        examples="  makegood chaos --seeds 20\n"
        "  makegood chaos --seeds 1 --seed 17 --step release --point answers.wait --fault result_cut\n"
        "  makegood chaos --all --record chaos.jsonl\n  makegood chaos --matrix",
    )  # fmt: skip
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--seeds", type=int, default=20, metavar="N", help="trials of a seeded sample (default: %(default)s)"
    )
    amount.add_argument("--all", action="store_true", help="every cell that applies, once")
    amount.add_argument("--matrix", action="store_true", help="list all cells, and why one does not apply; try nothing")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default: %(default)s)")
    parser.add_argument("--step", help="this step alone")
    parser.add_argument("--point", help="this point alone")
    parser.add_argument("--fault", help="this fault alone")
    parser.add_argument("--quick", action="store_true", help="without faults that take long")
    parser.add_argument(
        "--record", "--resume", metavar="FILE", help="JSON lines of what was tried; a later call goes on with them"
    )
    parser.add_argument("--report", metavar="FILE", help="write the report as JSON as well")
    parser.add_argument("--folder", metavar="DIR", help="where the worlds lie (default: in memory where there is room)")


def _chaos(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    from pipeline.chaos.campaign import Asked, Record, default_folder, matrix, run
    from pipeline.chaos.faults import FAULTS, POINTS
    from pipeline.chaos.story import STEPS

    for name, known in (("step", STEPS), ("point", POINTS), ("fault", FAULTS)):
        if getattr(arguments, name) not in (None, *known):
            raise UsageError(f"there is no {name} {getattr(arguments, name)!r}; there are {', '.join(known)}")
    folder = Path(arguments.folder).resolve() if arguments.folder else default_folder(Settings.from_environment().home)
    if arguments.matrix:
        return {"cells": matrix(folder, progress)}, 0
    asked = Asked(
        seeds=None if arguments.all else arguments.seeds, seed=arguments.seed, step=arguments.step, point=arguments.point,
        fault=arguments.fault, is_quick=arguments.quick,
    )  # fmt: skip
    record = Record.open(Path(arguments.record) if arguments.record else None)
    result = run(asked, folder=folder, record=record, progress=progress)
    if arguments.report:
        Path(arguments.report).write_text(json.dumps(result, ensure_ascii=False, indent=1))
    return result, VIOLATED if result["failed"] else 0


def _show(result: dict) -> str:
    if "cells" in result and isinstance(result["cells"], list):
        return _show_matrix(result["cells"])
    ended, kinds = (", ".join(f"{count} {name}" for name, count in result[key].items()) for key in ("ended", "by_kind"))
    lines = [
        f"{result['trials']} trials, {result['faults_count']} faults happened ({kinds}) in {result['cells']} of"
        f" {result['cells_applicable']} cells; {result['seconds_median']} s each, {result['minutes']} minutes",
        f"ended: {ended}",
    ]
    for row in result["failed"]:
        lines += [f"{row['ended']}: {row['replay']}", *(f"    {said[:SAID_CHARACTERS]}" for said in row["said"])]
    return "\n".join([*lines, f"record: {result['record']}"])


def _show_matrix(cells: list[dict]) -> str:
    reasons = Counter(cell["why_not"] or "applies" for cell in cells)
    for cell in cells:
        sys.stdout.write(f"{cell['step']:10} {cell['point']:20} {cell['fault']:44} {cell['why_not'] or 'applies'}\n")
    return "\n".join(f"{count:>6} {reason}" for reason, count in reasons.most_common())
