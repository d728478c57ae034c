"""The original charging of a month - operations, files, answers, entries, through the practice acquirer - beside a COPY of
exactly the rows it leaves behind.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.copy_floor import MONEY, settings_in
from bench.gate import MONTHS
from bench.measure import MIB, Part, Stopwatch, Timed, Trial, Unequal, in_child, median, take_turns
from bench.months import PERIOD, make_case
from pipeline.ports import Progress

AS_OF = datetime(2023, 9, 11, 3, tzinfo=UTC)

IMPORTS = ("pipeline.bootstrap",)
FLOOR_IMPORTS = ("bench.copy_floor",)

LEDGER_STAGES = {
    "charged": "find due", "intend": "commit operations",
    "record_batch": "record a file", "hand_over": "record a file", "record_answers": "record answers", "unknown": "look up",
    "tally": "tally",
}  # fmt: skip
RAIL_STAGES = {
    "introduce": "introduce cards", "write": "write files", "read_back": "read files back", "deliver": "hand over",
    "poll": "wait for answers",
}  # fmt: skip


def charge(home: str, source: str) -> dict[str, Any]:
    """Charge the month in `source` on a fresh installation in `home`; seconds by stage, and what came of it."""
    from pipeline import release
    from pipeline.adapters.charges_due import find_due
    from pipeline.bootstrap import Makegood
    from pipeline.core.wave import StopRule
    from pipeline.execution import Sender
    from pipeline.ports import no_progress

    makegood = Makegood(settings_in(Path(home)), as_of=AS_OF)
    run = makegood.extract(source, PERIOD).run
    makegood.register.record_verification(
        run.run_id,
        suite_digest="bench",
        history_digest="none",
        decision="release",
        findings=[],
        not_judged=[],
        report="",
    )
    watch, work = Stopwatch(), Stopwatch()

    def find(*arguments: Any, **named: Any) -> Any:
        with watch.stage("find due"):
            return find_due(*arguments, **named)

    ledger = Timed(makegood.ledger, watch, LEDGER_STAGES)
    with makegood.rail() as real:
        rail = Timed(real, watch, RAIL_STAGES)
        sender = Sender(ledger, rail, makegood.register, makegood.business_day, StopRule(), no_progress)
        with work.stage("release"):
            outcome = release.release(
                run, ledger=ledger, find_due=find, sender=sender, require_still_allowed=lambda: None
            )
    return {
        "seconds": sum(work.seconds.values()),
        "stages": work.seconds,
        "inside": watch.seconds,
        "outcome": outcome.to_json(),
    }


def run(home: Path, customers: int, rounds: int, progress: Progress) -> Part:
    """Charge, copy, charge, copy, ...: each time a fresh installation, and its own rows copied.

    Raises:
        Unequal: the floor copied another number of operations or outcomes than came of the charging.
    """
    part = Part("charging", f"Charging: a month of {customers:,} bills through the practice acquirer")
    case = make_case(home, customers, MONTHS, progress)
    fresh = home / "charging"

    def ours() -> Trial:
        shutil.rmtree(fresh, ignore_errors=True)
        return in_child(
            "bench.charging:charge", imports=IMPORTS, postgres=fresh / "postgres", home=fresh, source=case.source
        )

    def floor() -> Trial:
        return in_child("bench.copy_floor:of_installation", imports=FLOOR_IMPORTS, home=fresh, tables=list(MONEY))

    trials = take_turns({"ours": ours, "floor": floor}, rounds, progress, "charging")
    for mine, copied in zip(trials["ours"], trials["floor"], strict=True):
        _require_equal(mine.answer["outcome"], copied.answer["tables"])
    shutil.rmtree(fresh, ignore_errors=True)
    ratios = sorted(
        m.answer["seconds"] / f.answer["seconds"] for m, f in zip(trials["ours"], trials["floor"], strict=True)
    )
    part.rows = _rows(trials["ours"], trials["floor"])
    part.goal("times the floor, at most 2", ratios[len(ratios) // 2], most=2)
    outcome = trials["ours"][0].answer["outcome"]
    part.notes = [
        f"charged {outcome['charged']:,}, declined {outcome['declined']:,}, unknown {outcome['unknown']:,}",
        f"peak memory of the process tree, PSS: {median(trials['ours'], 'peak_bytes') / MIB:,.0f} MB (pipeline, acquirer, PostgreSQL)",
        "stages inside overlap with the acquirer's work; not counted: starting PostgreSQL and the acquirer, landing the month",
    ]
    return part


def _rows(ours: list[Trial], floors: list[Trial]) -> list[dict[str, Any]]:
    """Medians: our stages, what is inside them, and the floor's tables."""

    def middle(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    first, floor = ours[0].answer, floors[0].answer
    rows = [("ours", middle([trial.answer["seconds"] for trial in ours]), None)]
    for kind, indent in (("stages", "  "), ("inside", "    ")):
        rows += [
            (indent + name, middle([trial.answer[kind].get(name, 0.0) for trial in ours]), None) for name in first[kind]
        ]
    rows += [("floor: COPY of the rows", middle([trial.answer["seconds"] for trial in floors]), None)]
    for name, table in floor["tables"].items():
        rows += [("  " + name, middle([trial.answer["tables"][name]["seconds"] for trial in floors]), table["rows"])]
    return [{"": name, "seconds": seconds, "rows": count} for name, seconds, count in rows]


def _require_equal(outcome: dict[str, Any], tables: dict[str, Any]) -> None:
    final = outcome["charged"] + outcome["declined"]
    meant = {"operation": final + outcome["unknown"] + outcome["not_sent"], "outcome": final}
    copied = {name: tables[name]["rows"] for name in meant}
    if meant != copied:
        raise Unequal(f"charged {meant}, but the floor copied {copied}")
