"""The incident replayed - assess, plan, approve, cancel, refund, rebill, reconcile, close - beside a COPY of exactly the rows
that the remediation leaves behind. Making the customers and charging them by mistake is not counted. The goals are about what
is planned, executed, entered, settled and reconciled; assessing an incident and proving that it is over leave hardly a row to
hold them against, and are shown beside.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.copy_floor import REMEDIATION
from bench.measure import MIB, Part, Scales, Unequal, in_child
from pipeline.ports import Progress
from pipeline.settings import PROJECT_ROOT, inherited_environment

FLOOR_IMPORTS = ("bench.copy_floor",)

COMMAND = (sys.executable, "-m", "pipeline", "replay")

OPENED = "SELECT min(opened_at) FROM incident"

BESIDE = ("open", "close")
"""Stages before the plan and after the reconciliation."""

SECONDS_MAX, MEMORY_GB_MAX = 120.0, 4.0


def is_there() -> bool:
    """Whether this checkout can replay an incident."""
    asked = subprocess.run([*COMMAND, "--help"], cwd=PROJECT_ROOT, capture_output=True, check=False)
    return asked.returncode == 0


def run(home: Path, customers: int, rounds: int, progress: Progress) -> Part:
    """Replay an incident of `customers` by the command, weigh its process tree, and copy its rows; once, whatever `rounds`.

    Raises:
        Unequal: the floor copied fewer operations than the remediation moved.
    """
    part = Part("replay", f"Replay: the wrong month of {customers:,} customers put right")
    if not is_there():
        part.notes = ["not there yet: this checkout has no replay"]
        return part
    fresh = home / "replay"
    shutil.rmtree(fresh, ignore_errors=True)
    progress("replay: ours", 0, 2)
    story, peak = _replay(fresh, customers)
    progress("replay: floor", 1, 2)
    floor = in_child(
        "bench.copy_floor:of_installation",
        imports=FLOOR_IMPORTS,
        home=story["home"],
        tables=list(REMEDIATION),
        since=OPENED,
    ).answer
    shutil.rmtree(fresh, ignore_errors=True)
    moved, copied = (
        sum(story[kind] for kind in ("voided", "refunded", "rebilled")),
        floor["tables"]["operation"]["rows"],
    )
    if copied < moved:
        raise Unequal(f"the remediation moved {moved} operations, but the floor copied {copied}")
    counted, left_out = _stages(story["seconds"])
    everything = sum(counted.values())
    reconciled = everything - sum(counted[name] for name in BESIDE)
    part.rows = [{"": name, "seconds": float(seconds), "rows": None} for name, seconds in counted.items()]
    part.rows += [{"": "planned to reconciled", "seconds": float(reconciled), "rows": None}]
    part.rows += [{"": "opened to closed", "seconds": float(everything), "rows": None}]
    part.rows += [{"": "floor: COPY of its rows", "seconds": floor["seconds"], "rows": None}]
    for name, table in floor["tables"].items():
        part.rows += [{"": f"  {name}", "seconds": table["seconds"], "rows": table["rows"]}]
    part.goal("times the floor, planned to reconciled, at most 2", reconciled / floor["seconds"], most=2)
    part.goal(
        f"seconds, planned to reconciled, at most {SECONDS_MAX:.0f} for 1,460,000 customers",
        reconciled,
        most=SECONDS_MAX,
    )
    part.goal("peak memory of the process tree in GB (PSS), at most 4", peak / 1e9, most=MEMORY_GB_MAX)
    told = ("charged", "voided", "refunded", "rebilled", "held", "residual_minor", "breaks")
    part.notes = [
        f"opened to closed: {everything / floor['seconds']:.2f} times the floor",
        ", ".join(f"{name} {_figure(story[name])}" for name in told if name in story),
        "not counted: "
        + ", ".join(f"{name} {seconds:.1f}" for name, seconds in left_out.items())
        + f"; peak {peak / MIB:,.0f} MB",
    ]
    return part


def _stages(seconds: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """The stages that put the wrong month right, and the others."""
    from pipeline.replay import REMEDIATION_STAGES

    counted = {name: seconds[name] for name in REMEDIATION_STAGES}
    return counted, {name: spent for name, spent in seconds.items() if name not in counted and name != "remediation"}


def _replay(home: Path, customers: int) -> tuple[dict[str, Any], int]:
    """What `makegood replay --json` says, and the most memory its process tree had."""
    command = [*COMMAND, "--customers", str(customers), "--json"]
    environment = inherited_environment() | {"MAKEGOOD_HOME": str(home)}
    environment.pop("MAKEGOOD_DATABASE_URL", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT, env=environment) as process:
        with Scales(process.pid, home / "replay" / str(customers) / "postgres") as scales:
            answer = process.stdout.read()
    if process.returncode:
        raise RuntimeError("the replay failed; what it said is above")
    return json.loads(answer), scales.peak_bytes


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
