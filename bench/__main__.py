"""`python -m bench`: run the parts, print their tables, or one JSON object.

Exit codes: 0 all parts ran (a missed goal is a result, not a failure); 1 a contender failed or contenders disagreed;
2 bad usage.
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from types import ModuleType

from bench import charging, gate, judging, landing, replay, scorecard, year
from bench.measure import Part, Unequal, table
from pipeline.progress import StageProgress
from pipeline.settings import Settings

PARTS: dict[str, ModuleType] = {
    "landing": landing, "gate": gate, "year": year, "judging": judging, "charging": charging, "replay": replay,
    "scorecard": scorecard,
}  # fmt: skip

INCIDENT_CUSTOMERS = 1_460_000

ROUNDS = 3


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; returns the exit code."""
    asked = _parser().parse_args(arguments)
    home = Settings.from_environment().home / "bench"
    home.mkdir(parents=True, exist_ok=True)
    found: list[Part] = []
    if not asked.json:
        print(conditions())
    for name in asked.only or PARTS:
        try:
            with StageProgress() as progress:
                found.append(PARTS[name].run(home, asked.customers, asked.rounds, progress))
        except (Unequal, RuntimeError) as failure:
            print(f"{name}: {failure}", file=sys.stderr)
            return 1
        if not asked.json:
            print(table(found[-1]), flush=True)
    if asked.json:
        print(
            json.dumps(
                {"conditions": conditions(), "customers": asked.customers, "parts": [asdict(part) for part in found]}
            )
        )
    return 0


def conditions() -> str:
    """The machine, and how busy it was with something else when this began."""
    return (
        f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[0]:.1f} at the beginning"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measured comparisons, as ratios within one run."
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; may be given again")
    parser.add_argument(
        "--customers", type=_count, default=INCIDENT_CUSTOMERS, help="bills in a month (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=_count, default=ROUNDS, help="turns that every contender takes; medians are shown"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of tables")
    return parser


def _count(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise ValueError(f"{text} is not at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
