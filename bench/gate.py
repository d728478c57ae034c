"""The gate - landed partition to verdict, quarantine and report - beside hand-written SQL of the same checks, which is
the least it can cost, and beside a Great Expectations suite over the rows, which is what people write.
"""

import json
import math
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import MIB, Part, Unequal, in_child, median, ratio, take_turns
from bench.months import Case, make_case
from pipeline.core.billing_period import BillingPeriod
from pipeline.ports import Progress

AS_OF = datetime(2023, 9, 11, 2, tzinfo=UTC)
MONTHS = 4

OURS_IMPORTS = (
    "expectations.cohort_metric",
    "pipeline.adapters.engine",
    "pipeline.verify",
    "pipeline.report",
    "pandas",
)
FLOOR_IMPORTS = ("duckdb", "bench.months")
PLAIN_IMPORTS = ("great_expectations", "pandas", "pyarrow.parquet", "bench.plain_suite")

FLOOR_SQL = Path(__file__).with_name("floor_gate.sql")

TOLERANCE = 1e-9
"""Shares are quotients of the same whole numbers, taken in another order here and there."""


def ours(source: str, lake: str, run: str, history: list[str], out: str) -> dict[str, Any]:
    """The gate as `Makegood.verify` takes it, without the register: verdict, quarantine, Data Docs and report in `out`."""
    from pipeline import report, verify
    from pipeline.adapters.engine import DuckDBEngine
    from pipeline.judge import load_suites
    from pipeline.settings import PROJECT_ROOT

    landed, months = Case(Path(source), Path(lake), run, tuple(history)).landed()
    verification = verify.verify(
        landed, months, engine=DuckDBEngine(), suites=load_suites(PROJECT_ROOT / "expectations" / "suites"),
        report_dir=Path(out), as_of=AS_OF,
    )  # fmt: skip
    report.write(verification, Path(out) / report.FILE_NAME)
    return {
        "decision": verification.decision,
        "profile": verification.profile,
        "lags": verification.lags,
        "quarantine": _offences(Path(out) / verification.quarantine.file),
        "seconds": verification.seconds,
    }


def floor(source: str, lake: str, run: str, history: list[str], out: str) -> dict[str, Any]:
    """The same checks as one SQL script, and its quarantine list as Parquet; no verdict explained, no report."""
    import duckdb

    from pipeline.adapters.lake import ParquetLake

    Path(out).mkdir(parents=True)
    stored = ParquetLake(Path(lake))
    landed, *earlier = (stored.find(run_id) for run_id in (run, *history))
    with duckdb.connect(
        config={"threads": 2, "memory_limit": "1500MB", "preserve_insertion_order": False}
    ) as connection:
        for view, month in zip(("now", "last", "before", "oldest"), (landed, *earlier), strict=True):
            # A folder's name must not become a column in place of the one in the file.
            rows = f"read_parquet('{month.path}', hive_partitioning = FALSE)"
            connection.execute(f"CREATE TEMP VIEW {view} AS SELECT * FROM {rows}")
        connection.execute(
            "CREATE TEMP TABLE files (name VARCHAR, row_count BIGINT, control_total_minor BIGINT, manifest_row_count BIGINT,"
            " manifest_control_total_minor BIGINT)"
        )
        for f in landed.files:
            row = [f.name, f.row_count, f.control_total_minor, f.manifest_row_count, f.manifest_control_total_minor]
            connection.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?)", row)
        for name, value in _floor_variables(landed.billing_period).items():
            connection.execute(f"SET VARIABLE {name} = ?", [value])
        connection.execute(FLOOR_SQL.read_text(encoding="utf-8"))
        columns = "reason, source_file, source_row, charge_id, customer_id"
        connection.execute(f"COPY (SELECT {columns} FROM quarantine) TO '{out}/quarantine.parquet' (FORMAT parquet)")
        (failed,) = connection.execute("SELECT count(*) FROM failed").fetchone()
        tables = {name: connection.table(name).to_arrow_table().to_pylist() for name in ("profile", "lags")}
    return {
        "decision": "hold" if failed else "release",
        "quarantine": _offences(Path(out) / "quarantine.parquet"),
    } | tables


def plain(source: str, lake: str, run: str, history: list[str], out: str) -> dict[str, Any]:
    """What a good user of Great Expectations writes: a suite over the rows, last month joined on."""
    from bench.plain_suite import validate
    from pipeline.adapters.lake import ParquetLake

    stored = ParquetLake(Path(lake))
    landed, last = stored.find(run), stored.find(history[0])
    return validate(landed, last)


def run(home: Path, customers: int, rounds: int, progress: Progress) -> Part:
    """Time all three on a right month, taking turns, and check that ours and the floor agree - on a wrong month too.

    Raises:
        Unequal: ours and the floor computed different things.
    """
    part = Part("gate", f"Gate: {customers:,} charges against three earlier months")
    case = make_case(home, customers, MONTHS, progress)
    contenders = {
        "ours": lambda: _trial("ours", case, home, OURS_IMPORTS),
        "floor": lambda: _trial("floor", case, home, FLOOR_IMPORTS),
        "plain": lambda: _trial("plain", case, home, PLAIN_IMPORTS),
    }
    trials = take_turns(contenders, rounds, progress, "gate")
    require_equal(trials["ours"][0].answer, trials["floor"][0].answer)
    wrong = make_case(home, customers, MONTHS, progress, wrong_month=True)
    held = [_trial(name, wrong, home, ()).answer for name in ("ours", "floor")]
    require_equal(*held)
    shutil.rmtree(home / "gate-out", ignore_errors=True)
    names = {"ours": "our gate", "floor": "hand-written DuckDB SQL", "plain": "plain Great Expectations on pandas"}
    for key, done in trials.items():
        part.rows.append({
            "": names[key], "seconds": median(done), "processor s": median(done, "cpu_seconds"),
            "imports s": median(done, "import_seconds"), "peak MB": round(median(done, "peak_bytes") / MIB),
            "ours / it": ratio(trials["ours"], done), "by processor": ratio(trials["ours"], done, "cpu_seconds"),
        })  # fmt: skip
    part.goal("times the floor, at most 2", ratio(trials["ours"], trials["floor"]), most=2)
    part.goal("faster than the plain suite, at least 2 times", ratio(trials["plain"], trials["ours"]), least=2)
    part.goal("peak memory in GB, under 2", max(t.peak_bytes for t in trials["ours"]) / 1e9, most=2)
    stages = trials["ours"][0].answer["seconds"]
    part.notes = [
        "our stages, first round: "
        + ", ".join(f"{name} {spent:.2f}" for name, spent in stages.items() if name != "imports"),
        f"right month: {trials['ours'][0].answer['decision']}; July's amounts: ours {held[0]['decision']}, floor {held[1]['decision']}; "
        f"{len(held[0]['profile'])} cohorts, {len(held[0]['lags'])} repeat shares and the quarantine lists are equal",
        f"plain suite: {trials['plain'][0].answer['expectations']} expectations, success {trials['plain'][0].answer['success']}",
    ]
    return part


def require_equal(mine: dict[str, Any], other: dict[str, Any]) -> None:
    """Every count, total and share of the floor's tables is ours, cohort by cohort; so are decision and quarantine.

    Raises:
        Unequal: naming the first differences.
    """
    differences = []
    if mine["decision"] != other["decision"]:
        differences.append(f"decision: {mine['decision']} and {other['decision']}")
    if mine["quarantine"] != other["quarantine"]:
        differences.append(f"quarantine: {mine['quarantine'][:3]} and {other['quarantine'][:3]}")
    for name, keys in (("profile", ("cohort_kind", "cohort")), ("lags", ("cohort_kind", "cohort", "lag"))):
        left, right = (_by_key(answer[name], keys) for answer in (mine, other))
        if set(left) != set(right):
            differences.append(f"{name}: cohorts {sorted(set(left) ^ set(right))}")
        differences += [
            f"{name} {key} {column}: {left[key].get(column)} and {value}"
            for key, row in right.items() if key in left
            for column, value in _unfolded(row).items() if not _same(left[key].get(column), value)
        ]  # fmt: skip
    if differences:
        raise Unequal("our gate and the floor differ: " + "; ".join(differences[:10]))


def _trial(name: str, case: Case, home: Path, imports: Iterable[str]):
    out = home / "gate-out" / name
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    return in_child(
        f"bench.gate:{name}", imports=imports, source=case.source, lake=case.lake, run=case.run, history=list(case.history), out=out
    )  # fmt: skip


def _floor_variables(billing_period: str) -> dict[str, Any]:
    """What the suites fix for measuring, read from them, so that a changed suite does not make two different gates."""
    from pipeline.settings import PROJECT_ROOT

    measuring: dict[str, Any] = {}
    for path in sorted((PROJECT_ROOT / "expectations" / "suites").glob("*.json")):
        measuring |= json.loads(path.read_text(encoding="utf-8")).get("measuring", {})
    period = BillingPeriod.parse(billing_period)
    names = ("tax_basis_points", "moved_percent", "comparable_minimum", "normal_share_ceiling")
    return {name: measuring[name] for name in names} | {
        "period": billing_period,
        "first_day": period.first_day,
        "last_day": period.last_day,
        "currency": "KRW",
        "amount_limit_minor": measuring["amount_limit_minor"]["KRW"],
    }


def _offences(path: Path) -> list[list[Any]]:
    import pyarrow.parquet as pq

    listed = pq.read_table(path, columns=["reason", "source_file", "source_row"])
    return sorted(map(list, zip(*(column.to_pylist() for column in listed.columns), strict=True)))


def _by_key(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[tuple, dict[str, Any]]:
    return {tuple(row[key] for key in keys): row for row in rows}


def _unfolded(row: dict[str, Any]) -> dict[str, Any]:
    """The floor keeps the counts of broken rows as reason -> rows; ours has a column per reason."""
    broken = row.get("broken") or []
    return {name: value for name, value in row.items() if name != "broken"} | dict(broken)


def _same(mine: Any, other: Any) -> bool:
    if isinstance(mine, float) and isinstance(other, float):
        return math.isclose(mine, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return mine == other
