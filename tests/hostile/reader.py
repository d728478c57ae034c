"""A process that reads what it is told to, and says how long it took and how much memory.

Belongs here: the readers of foreign bytes by name, and measuring. Does not: any file. One process serves many files, so that each costs
milliseconds; it is started anew when a file has brought it down.

    python -m tests.hostile.reader     # a line of JSON in, a line of JSON out
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.adapters.charge_import import read_import
from pipeline.adapters.holiday_calendar import holidays_around
from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.lead_times import LeadTimes
from pipeline.adapters.messages import read_contacts
from pipeline.adapters.plan_file import read_plan
from pipeline.adapters.settlement_files import digests, read_settlement_files
from pipeline.adapters.sources import open_source
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import MakegoodError
from pipeline.extract import extract
from pipeline.judge import read_learned
from pipeline.ports import no_progress

ADDRESS_SPACE_BYTES = 12 * 1024**3
"""The machine is not brought down by a file that is not refused."""

SEOUL = ZoneInfo("Asia/Seoul")


def land(source: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        landed = extract(
            open_source(source), BillingPeriod(2023, 9), lake=ParquetLake(Path(folder)), progress=no_progress
        )
    run = landed.run
    return {"waiting": landed.waiting_for} if run is None else {
        "rows": run.row_count, "total": run.control_total_minor, "content": run.content_sha256}  # fmt: skip


def take_import(path: Path) -> dict[str, Any]:
    charges = read_import(path).charges
    return {"rows": charges.num_rows, "total": sum(charges["amount_minor"].to_pylist())}


def settle(folder: Path) -> dict[str, Any]:
    paths = list(folder.iterdir())
    digests(paths)
    read = read_settlement_files(paths, SEOUL)
    amounts = sum(row["amount_minor"] for row in read.lines.to_pylist())
    return {"lines": read.lines.num_rows, "refused": read.refused, "files": [file.name for file in read.files], "total": amounts,
            "promised": sum(file.debit_minor + file.credit_minor for file in read.files), "gaps": read.gaps}  # fmt: skip


def plan(path: Path) -> dict[str, Any]:
    return {"rows": read_plan(path, path.with_suffix(".digest").read_text()).lines.num_rows}


READERS: dict[str, Callable[[Path], Any]] = {
    "land": land,
    "import": take_import,
    "settlement": settle,
    "plan": plan,
    "proposal": lambda path: {"bounds": len(read_learned(path).bounds)},
    "lead_times": lambda home: str(LeadTimes(home).of("credit_card", "")),
    "holidays": lambda home: len(holidays_around(date(2023, 9, 1), timezone=SEOUL, home=home)),
    "contacts": lambda path: {"rows": read_contacts(path).num_rows},
}


def answer(reader: str, path: Path) -> dict[str, Any]:
    """What came of reading `path`: a result, a refusal, or a traceback."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = _peak_mib(), time.monotonic()
    try:
        found: dict[str, Any] = {"result": READERS[reader](path)}
    except MakegoodError as error:
        found = {"refused": str(error), "kind": type(error).__name__}
    except BaseException as error:
        found = {"traceback": f"{type(error).__name__}: {error}"[:500]}
    return found | {"seconds": time.monotonic() - start, "mib": _peak_mib() - before}


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(json.dumps(answer(asked["reader"], Path(asked["path"])), default=str) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
