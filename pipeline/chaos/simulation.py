"""The simulation: thousands of seeds of the product's own sending on a simulated clock and acquirer.

One thread and one real PostgreSQL, so a seed always ends the same. Belongs here: trying many seeds, and reporting on them. Does not: what
happens in one (`simulated_seed`). ``python -m pipeline.chaos.simulation --seeds 1..1000``; or ``--seed N`` for one of them, told.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.chaos.simulated_seed import Ground, Simulation

SWEEP_SEEDS = 150
"""Seeds after which the rows are removed that they have left dead."""


def simulate(
    ground: Ground, seeds: range, *, tell: Callable[[str], None] = lambda _: None, **chosen: Any
) -> dict[str, Any]:
    """Run `seeds`, and report on them.

    Returns:
        `seeds`, `seconds`, `rate` (seeds a second), `faults` (by kind), `pairs` (distinct states with a fault in them), `violations`
        (by seed, with what was violated).
    """
    begun, faults, pairs = time.monotonic(), Counter(), set()
    violations: dict[int, list[str]] = {}
    for seed in seeds:
        ground.seeds += 1
        if ground.seeds % SWEEP_SEEDS == 0:
            ground.database.sweep()
        ended = Simulation(seed, ground, **chosen).run()
        faults.update(kind for _, kind in ended.injected)
        pairs.update(ended.injected)
        if ended.violations:
            violations[seed] = ended.violations
            tell(f"seed {seed}: {ended.violations[0]}")
    seconds = time.monotonic() - begun
    return {
        "seeds": len(seeds), "seconds": round(seconds, 1), "rate": round(len(seeds) / seconds, 1), "faults": dict(sorted(faults.items())),
        "pairs": len(pairs), "violations": violations,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.chaos.simulation")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="run one seed, and tell what happens in it")
    which.add_argument("--seeds", help="FIRST..LAST")
    asked = parser.parse_args(arguments)
    first, _, last = (asked.seeds or f"{asked.seed}..{asked.seed}").partition("..")
    with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
        ground = Ground(Path(folder))
        try:
            if asked.seed is not None:
                ended = Simulation(asked.seed, ground).run()
                sys.stdout.write("\n".join([f"story: {ended.story}", *ended.told, ""]))
                return bool(ended.violations)
            seeds = range(int(first), int(last or first) + 1)
            report = simulate(ground, seeds, tell=lambda line: sys.stderr.write(f"{line}\n"))
        finally:
            ground.close()
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return bool(report["violations"])


if __name__ == "__main__":
    sys.exit(main())
