"""`makegood scorecard`: what the gate catches and what it holds for nothing, on the command line.

Belongs here: arguments of this command. Does not: any work, or how it is shown - that is `pipeline.scorecard`.
"""

import argparse
from pathlib import Path
from typing import Any

from pipeline.cli import command
from pipeline.errors import UsageError
from pipeline.progress import StageProgress
from pipeline.settings import PROJECT_ROOT, Settings

PROCESSES = 2

SAMPLE = PROJECT_ROOT / "data" / "sample"

MISSED = 1
"""Exit code where a promised fault was missed or a right month held."""


def add_commands(commands: Any) -> None:
    """Add `scorecard`."""
    parser = command(
        commands, "scorecard", _scorecard, _show,
        about="inject every fault of the catalogue, at several sizes, and judge right months too: recall, false holds, diagnosis, cost",
        examples="  makegood scorecard --quick\n"
        "  makegood scorecard --only earlier_month --only usage_twice --sizes 0.01,0.1\n"
        "  makegood scorecard --source data/mine --no-baselines\n"
        "  makegood scorecard --half reporting --write-docs docs/scorecard.md",
    )  # fmt: skip
    parser.add_argument("--half", choices=["tuning", "reporting"], default="tuning", help="whose seeds and settings")
    parser.add_argument(
        "--source",
        metavar="DIR",
        help="your charge files instead of the sample and made-up months; the last is made wrong",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="FAULT", help="this fault alone; may be given again"
    )
    parser.add_argument("--sizes", metavar="SHARES", help="shares of customers hit, such as 0.01,0.1")
    parser.add_argument("--right-months", action="store_true", help="right months alone: is one of them held?")
    parser.add_argument("--quick", action="store_true", help="a dozen faults on the sample and few right months")
    parser.add_argument("--bases", type=int, metavar="N", help="made-up sources (default: the half's, all of them)")
    parser.add_argument("--no-baselines", action="store_true", help="our gate alone")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="cases tried at once (default: %(default)s)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--fresh", action="store_true", help="forget what was found before by the same code")
    again.add_argument(
        "--so-far", action="store_true", help="try nothing: what a stopped scorecard found, by the same code"
    )
    parser.add_argument("--write-docs", metavar="FILE", help="write the page, and its picture in images/ beside it")


def _scorecard(arguments: argparse.Namespace, progress: StageProgress) -> tuple[dict, int]:
    from pipeline.scorecard.page import write_page
    from pipeline.scorecard.run import Asked, cases, run_scorecard
    from pipeline.scorecard.tally import tally

    if arguments.processes < 1 or (arguments.bases is not None and arguments.bases < 1):
        raise UsageError("--processes and --bases are whole numbers from 1")
    settings = Settings.from_environment()
    given = {} if arguments.bases is None else {"base_count": arguments.bases}
    asked = Asked(
        half=arguments.half,
        source=Path(arguments.source).expanduser().resolve() if arguments.source else None,
        only=tuple(arguments.only),
        sizes=_sizes(arguments.sizes),
        quick=arguments.quick,
        right_months=arguments.right_months,
        baselines=not arguments.no_baselines,
        **given,
    )
    rows = run_scorecard(
        asked, home=settings.home / "scorecard", sample=SAMPLE, suites=settings.suites,
        processes=arguments.processes, fresh=arguments.fresh, so_far=arguments.so_far, progress=progress,
    )  # fmt: skip
    about = {"half": asked.half, "base_count": asked.base_count, "asked": len(cases(asked, SAMPLE))}
    result = about | tally(rows)
    if arguments.write_docs:
        result["picture"] = str(write_page(result, Path(arguments.write_docs)))
    failed = any(miss["promised"] for miss in result["misses"])
    return result, MISSED if failed or result["false_holds"] else 0


def _sizes(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--sizes is one or more shares such as 0.01,0.1; not {text!r}") from None


def _show(result: dict) -> str:
    from pipeline.scorecard.page import to_text

    return to_text(result)
