"""The gate's power beside a plain Great Expectations suite and a 3-sigma rule: the scorecard of the reporting half, with its goals."""

from pathlib import Path

from bench.measure import Part
from pipeline.ports import Progress
from pipeline.scorecard.bases import CUSTOMERS
from pipeline.scorecard.run import Asked, run_scorecard
from pipeline.scorecard.tally import tally
from pipeline.scorecard.trial import GATE
from pipeline.settings import PROJECT_ROOT

PROCESSES = 2


def run(home: Path, customers: int, rounds: int, progress: Progress) -> Part:
    """Recall by size, right months held, diagnosis and cost; made-up bases have 20,000 customers whatever is asked, and with fewer asked
    for only the quick scorecard runs."""
    quick = customers < CUSTOMERS
    part = Part(
        "scorecard", "Scorecard: the catalogue's faults, and right months" + (", the quick one" if quick else "")
    )
    rows = run_scorecard(
        Asked(half="reporting", quick=quick), home=home / "scorecard", sample=PROJECT_ROOT / "data" / "sample",
        suites=PROJECT_ROOT / "expectations" / "suites", processes=PROCESSES, progress=progress,
    )  # fmt: skip
    found = tally(rows)
    contenders = list(found["cost"])
    for size in sorted({row["size"] for row in found["by_size"]}):
        shares = {row["contender"]: row["held"] / row["tried"] for row in found["by_size"] if row["size"] == size}
        part.rows.append(
            {"wrong months held, customers hit": f"{size:.1%}"} | {name: shares[name] for name in contenders}
        )
    for group in dict.fromkeys(row["group"] for row in found["clean"]):
        held = {row["contender"]: row["held"] for row in found["clean"] if row["group"] == group}
        part.rows.append({"wrong months held, customers hit": f"right months held, {group}"} | held)
    seconds = {name: cost["median"] for name, cost in found["cost"].items()}
    part.rows.append({"wrong months held, customers hit": "processor seconds a case"} | seconds)
    held, named = found["diagnosis"]["held"], found["diagnosis"]["named"]
    part.goal("promised faults missed", sum(miss["promised"] for miss in found["misses"]), most=0)
    part.goal("right months held", len(found["false_holds"]), most=0)
    part.goal("right cause first, of those held", named / max(held, 1), least=0.95)
    part.goal("processor seconds a case", seconds[GATE], most=1.2)
    part.notes = [f"{found['cases']:,} cases; docs/scorecard.md has all of them"]
    return part
