"""DuckDB measures a run against its history: the SQL of `pipeline/sql`, run in order.

Belongs here: laying out the Parquet partitions as views, running the SQL files, and handing small tables
back as plain values. Does not: what is measured (`sql/`), what is too much (`expectations/suites`).
Landed partitions hold whole numbers, dates and text only, so reading Parquet directly is safe here: the
rows that pruned Parquet scans lose are those with a floating-point NaN.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from pipeline.adapters import duck
from pipeline.adapters.card_numbers import define_card_number
from pipeline.core.billing_period import BillingPeriod
from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.core.signals import OF_ATTRIBUTES, SIGNALS, TOLD_BY_MANY_MONTHS
from pipeline.core.verdict import Table
from pipeline.errors import FatalError, RetriableError
from pipeline.ports import HistoryPeriod, LandedRun, Progress, no_progress
from pipeline.schema import LANDED_SCHEMA, PAYMENT_METHODS

SQL = Path(__file__).resolve().parent.parent / "sql"

LAID_OUT_MONTHS = 5
"""Earlier months whose bills are laid side by side: what is normal for a signal takes two more than the three it looks at. Of older
months only repeats are counted."""

MONTH_COLUMNS = (
    ("cell", "amount", "card", "base", "discount", "usage"),
    ("cell", "amount", "card", "base", "discount", "usage"),
    ("amount", "usage"),
    ("amount",),
    ("amount",),
)
"""What is laid out of each earlier month, the latest first."""

ATTRIBUTES = ("card", "base", "discount", "usage")

SIGNAL_MONTHS = 3
"""Months that signals are counted for: this run, and the two before it for what is normal."""

MANY_MONTHS = 6
"""Earlier months, each with three before it, from which a signal's mean and spread can be told."""

DOUBTFUL_NATS = 6
"""A surprise, without slack, from which on a signal deserves a look at all months: once in e^6, some 400, months by chance. It takes
several times as long as everything else."""

COHORT_LIMIT = 50
"""Values of issuer, payment method and plan with a cohort of their own; the rest is counted together."""

NO_CURRENCY = "XXX"
"""ISO 4217 for "no currency", where neither the run nor its history has one."""


class DuckDBEngine:
    """Measures with DuckDB, in memory, spilling to disk beyond the limit.

    Args:
        memory_limit: as DuckDB writes it, such as `1500MB`.
        threads: worker threads.
    """

    def __init__(self, *, memory_limit: str = "1500MB", threads: int = 2) -> None:
        self._config = {"memory_limit": memory_limit, "threads": threads, "preserve_insertion_order": False}

    @contextmanager
    def measure(
        self,
        run: LandedRun,
        history: Sequence[HistoryPeriod],
        parameters: Mapping[str, Any],
        progress: Progress = no_progress,
    ) -> Iterator["Measurement"]:
        """Count every fact about `run` against `history` (any order), once; the tables live as long as the block.

        Args:
            parameters: what the suites fix for measuring: `tax_basis_points`, `moved_percent`,
                `comparable_minimum`, `normal_share_ceiling`, `amount_limit_minor` by currency; and `learned`, where signals' shares
                were: `cohort_kind, cohort, signal, lowest, highest`.

        Raises:
            FatalError: a partition is missing or is no landed run.
        """
        with duck.connect(**self._config) as connection:
            measurement = Measurement(connection, run, history)
            measurement._lay_out(parameters)
            measurement._count(progress)
            if measurement._is_doubtful():
                measurement._judge_by_many_months(self._earlier_counts(run, measurement._history, parameters, progress))
            yield measurement

    def _earlier_counts(
        self, run: LandedRun, history: Sequence[HistoryPeriod], parameters: Mapping[str, Any], progress: Progress
    ) -> list[tuple[str, int, int, int]]:
        """`signal, recency, base, hits` of every month that has three before it, each measured as `run` is, in a database of its own."""
        counts = []
        recencies = range(1, len(history) - SIGNAL_MONTHS + 1)
        for recency in recencies:
            progress("measuring earlier months", recency - 1, len(recencies))
            month, before = history[recency - 1], history[recency : recency + LAID_OUT_MONTHS]
            earlier = replace(run, run_id=month.run_id, billing_period=month.billing_period, path=month.path, files=())
            with duck.connect(**self._config) as connection:
                measurement = Measurement(connection, earlier, before)
                measurement._lay_out(parameters)
                counts += [(signal, recency, base, hits) for signal, base, hits in measurement._own_signals()]
        progress("measuring earlier months", len(recencies), len(recencies))
        return counts


class Measurement:
    """The facts of one run, ready to be added up; made by `DuckDBEngine.measure`.

    Attributes:
        currency: the run's currency: history's, or without history the run's most frequent.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, run: LandedRun, history: Sequence[HistoryPeriod]) -> None:
        self._connection = connection
        self._run = run
        self._history = sorted(history, key=lambda month: month.billing_period, reverse=True)
        self.currency = NO_CURRENCY
        self._heaped_without: list[tuple[str, str]] | None = None

    def profile(self) -> Table:
        """One row per cohort, the whole run first."""
        return self._query("profile")

    def lags(self) -> Table:
        """One row per cohort and earlier month, the whole run first."""
        return self._query("lags")

    def signals(self) -> Table:
        """One row per cohort, two-way cohorts included, and signal, the whole run first."""
        left_out = self._left_out()
        if self._history and left_out != self._heaped_without:
            self._run_file("heaps")
            self._heaped_without = left_out
        return self._query("signal_table")

    def factors(self) -> Table:
        """What odd bills are of the bills before them: `kind, bills, lower, middle, upper`."""
        return self._query("factors") if self._history else []

    @contextmanager
    def without(self, cohorts: Sequence[str]) -> Iterator[None]:
        """Within this block, profile, lags and signals are those of the run without these cohorts, `<kind>:<value>`; blocks nest."""
        outside = self._left_out()
        self._insert("left_out", [cohort.split(":", 1) for cohort in cohorts])
        try:
            yield
        finally:
            self._connection.execute("DELETE FROM left_out")
            self._insert("left_out", outside)

    def _left_out(self) -> list[tuple[str, str]]:
        return self._connection.execute("SELECT cohort_kind, cohort FROM left_out ORDER BY ALL").fetchall()

    def amounts(self) -> Table:
        """Bills by amount and month, as `core.verdict.Charts.amounts`."""
        return self._query("amounts")

    def totals(self) -> Table:
        """`billing_period, charges, total_minor` per month, this run last."""
        return self._query("totals")

    def quarantine(self, path: Path) -> Table:
        """Write the offending rows to `path` (Parquet); returns `reason, rows`, most frequent first."""
        self._connection.execute(f"COPY ({_sql('quarantine')}) TO '{_quoted(path)}' (FORMAT parquet, COMPRESSION zstd)")
        return self._rows(
            f"SELECT reason, count(*) AS rows FROM read_parquet('{_quoted(path)}', hive_partitioning = FALSE)"
            " GROUP BY reason ORDER BY rows DESC, reason"
        )

    def quarantine_sample(self, path: Path, per_reason: int) -> Table:
        """The first rows of each reason in a file that `quarantine` wrote."""
        return self._rows(
            f"SELECT * FROM read_parquet('{_quoted(path)}', hive_partitioning = FALSE) QUALIFY row_number() OVER "
            f"(PARTITION BY reason ORDER BY source_file, source_row) <= {int(per_reason)} ORDER BY reason, source_file, source_row"
        )

    def _lay_out(self, parameters: Mapping[str, Any]) -> None:
        self._connection.execute(_sql("macros"))
        define_card_number(self._connection)
        self._view("charges", self._run.path)
        period = BillingPeriod.parse(self._run.billing_period)
        months = [
            (recency, month.billing_period, period.months_since(BillingPeriod.parse(month.billing_period)))
            for recency, month in enumerate(self._history, start=1)
        ]
        if any(lag < 1 for _, _, lag in months) or len({lag for _, _, lag in months}) < len(months):
            raise FatalError(
                f"history of {period} must be different earlier months, not {[label for _, label, _ in months]}"
            )
        self._table("months", "recency INTEGER, billing_period VARCHAR, lag INTEGER", months)
        self._table("left_out", "cohort_kind VARCHAR, cohort VARCHAR", [])
        self._table("signal_counts", "cell UBIGINT, recency INTEGER, signal VARCHAR, base BIGINT, hits BIGINT", [])
        self._table(
            "signal_defaults",
            "signal VARCHAR, slack DOUBLE, normal_share DOUBLE",
            [(name, given["slack"], given.get("normal_share")) for name, given in parameters["signals"].items()],
        )
        self._table("many_months", "signal VARCHAR, share DOUBLE, month_count BIGINT, dispersion DOUBLE", [])
        self._table(
            "learned",
            "cohort_kind VARCHAR, cohort VARCHAR, signal VARCHAR, lowest DOUBLE, highest DOUBLE",
            parameters.get("learned", ()),
        )
        self._table("known_payment_methods", "payment_method VARCHAR", [[method] for method in PAYMENT_METHODS])
        self._table("known_currencies", "currency VARCHAR", [[currency] for currency in MINOR_UNIT_EXPONENT])
        self._lay_out_history()
        self._table(
            "files",
            "name VARCHAR, row_count BIGINT, control_total_minor DECIMAL(38, 0), "
            "manifest_row_count BIGINT, manifest_control_total_minor DECIMAL(38, 0)",
            [
                (f.name, f.row_count, f.control_total_minor, f.manifest_row_count, f.manifest_control_total_minor)
                for f in self._run.files
            ],
        )
        self.currency = self._find_currency()
        self._lay_out_parameters(period, parameters)

    def _lay_out_history(self) -> None:
        for recency, month in enumerate(self._history, start=1):
            self._view(f"month_{recency}", month.path)
        for recency in range(len(self._history) + 1, LAID_OUT_MONTHS + 1):
            self._connection.execute(f"CREATE TEMP VIEW month_{recency} AS SELECT * FROM charges WHERE FALSE")
        all_months = " UNION ALL ".join(
            f"SELECT CAST({recency} AS INTEGER) AS recency, * FROM month_{recency}"
            for recency in range(1, max(len(self._history), 1) + 1)
        )
        self._connection.execute(f"CREATE TEMP VIEW history AS {all_months}")

    def _lay_out_parameters(self, period: BillingPeriod, parameters: Mapping[str, Any]) -> None:
        limits = parameters["amount_limit_minor"]
        row = {
            "run_period": str(period),
            "run_currency": self.currency,
            "first_day": period.first_day,
            "last_day": period.last_day,
            "month_count": len(self._history),
            "cohort_limit": COHORT_LIMIT,
            "amount_limit_minor": limits.get(self.currency, limits["other"]),
            "tax_basis_points": parameters["tax_basis_points"],
            "moved_percent": parameters["moved_percent"],
            "comparable_minimum": parameters["comparable_minimum"],
            "normal_share_ceiling": parameters["normal_share_ceiling"],
            "prior_weight": parameters["prior_weight"],
            "repeat_slack": parameters["repeat_slack"],
            "normal_share_default": parameters["normal_share_default"],
            "normal_share_least": parameters["normal_share_least"],
            "repeat_prior_weight": parameters["repeat_prior_weight"],
            "event_share": parameters["event_share"],
        }
        self._table(
            "parameters",
            "run_period VARCHAR, run_currency VARCHAR, first_day DATE, last_day DATE, month_count INTEGER, "
            "cohort_limit INTEGER, amount_limit_minor BIGINT, tax_basis_points INTEGER, moved_percent INTEGER, "
            "comparable_minimum INTEGER, normal_share_ceiling DOUBLE, prior_weight INTEGER, repeat_slack DOUBLE, "
            "normal_share_default DOUBLE, normal_share_least DOUBLE, repeat_prior_weight INTEGER, event_share DOUBLE",
            [tuple(row.values())],
        )

    def _find_currency(self) -> str:
        for months in ("month_1", "charges"):
            found = self._connection.execute(
                f"SELECT currency FROM (SELECT currency, count(*) AS bills FROM {months} GROUP BY currency) "
                "WHERE regexp_matches(currency, '^[A-Z]{3}$') ORDER BY bills DESC, currency LIMIT 1"
            ).fetchone()
            if found:
                return found[0]
        return NO_CURRENCY

    def _count(self, progress: Progress) -> None:
        steps = {
            "grid": partial(self._run_file, "grid"),
            "cells": partial(self._run_file, "cells"),
            "accounts": partial(self._run_file, "accounts"),
            "side_by_side": self._lay_side_by_side,
            "broken": partial(self._run_file, "broken"),
            "facts": partial(self._run_file, "facts"),
            "older_months": self._count_older_months,
            "signals": self._count_signals,
        }
        for done, step in enumerate(steps.values()):
            progress("measuring", done, len(steps))
            step()
        progress("measuring", len(steps), len(steps))

    def _lay_side_by_side(self) -> None:
        """Join the months as they are; should one of the earlier ones bill an account twice, again with each account once.

        A month that this pipeline charged has no account twice, and reducing every month to be sure costs as much as
        the join. So the join comes first and is then looked at: an account of this run is there once if there are as many rows
        as accounts, and the few that are not in this run are counted.
        """
        # Of an account billed twice the larger of each figure stands for both; whatever else is asked, the duplicate holds the run.
        billed_twice = self._connection.execute("SELECT EXISTS (FROM duplicate_accounts)").fetchone()[0]
        once = "SELECT account, max(COLUMNS(* EXCLUDE account)) FROM {bills} GROUP BY account"
        each = "FROM {bills}"
        self._execute(
            "this_month",
            "CREATE TEMP VIEW this_month AS " + (once if billed_twice else each).format(bills="bills_of_this_month"),
        )
        self._view_earlier(each)
        self._run_file("side_by_side")
        (repeated,) = self._connection.execute(
            "SELECT (SELECT count(cell) FROM accounts) <> (SELECT count(*) FROM this_month) OR EXISTS ("
            "SELECT 1 FROM accounts WHERE cell IS NULL GROUP BY account HAVING count(*) > 1)"
        ).fetchone()
        if repeated:
            self._view_earlier(once)
            self._run_file("side_by_side")

    def _view_earlier(self, select: str) -> None:
        sources = {1: "last_month_in_cells", 2: "month_before_in_cells"}
        for recency, names in enumerate(MONTH_COLUMNS, start=1):
            bills = ", ".join(f"{_BILL_COLUMNS[name]} AS {name}" for name in names)
            source = sources.get(recency, f"month_{recency}")
            bills = f"(SELECT {_ACCOUNT} AS account, {bills} FROM {source} WHERE customer_id <> '') AS bills"
            self._connection.execute(f"CREATE OR REPLACE TEMP VIEW earlier_{recency} AS {select.format(bills=bills)}")

    def _count_older_months(self) -> None:
        older = range(LAID_OUT_MONTHS + 1, len(self._history) + 1)
        if older:
            bills = " UNION ALL ".join(
                f"SELECT CAST({recency} AS INTEGER) AS recency, {_ACCOUNT} AS account, amount_minor AS amount FROM month_{recency}"
                for recency in older
            )
            self._connection.execute(f"CREATE TEMP VIEW older_months AS {bills}")
            self._run_file("older_months")

    def _count_signals(self) -> None:
        """Count every signal for this run and, as what is normal, for the two months before it as far as history reaches; for more
        months where those cannot say."""
        self._run_file("moves")
        for now in range(min(len(self._history), SIGNAL_MONTHS)):
            known = [name for name, base in SIGNALS.items() if now + 1 < SIGNAL_MONTHS or base not in OF_ATTRIBUTES]
            self._count_flags(now, known)
        if not self._history:
            return
        self._run_file("missing")
        self._run_file("signals")
        of_attributes = [name for name, base in SIGNALS.items() if base in OF_ATTRIBUTES - {"metered"}]
        if len(self._history) >= SIGNAL_MONTHS and self._asks(
            "event_last_month", signals=", ".join(map(repr, of_attributes))
        ):
            self._run_file("month_beyond")
            self._count_flags(SIGNAL_MONTHS - 1, of_attributes, with_month_beyond=True)

    def _is_doubtful(self) -> bool:
        """Whether a signal is more frequent than in the months before, yet no more than slack allows - and more months could tell."""
        if len(self._history) < MANY_MONTHS + SIGNAL_MONTHS:
            return False
        return self._asks("doubtful", nats=DOUBTFUL_NATS, signals=", ".join(map(repr, sorted(TOLD_BY_MANY_MONTHS))))

    def _own_signals(self) -> list[tuple[str, int, int]]:
        """`signal, base, hits` of this month's bills alone."""
        for step in ("grid", "cells", "accounts"):
            self._run_file(step)
        self._lay_side_by_side()
        self._run_file("moves")
        self._count_flags(0, list(SIGNALS))
        self._run_file("missing")
        return self._connection.execute(
            "SELECT signal, CAST(sum(base) AS BIGINT), CAST(sum(hits) AS BIGINT) FROM signal_counts WHERE recency = 0 GROUP BY 1"
        ).fetchall()

    def _judge_by_many_months(self, counts: Sequence[tuple[str, int, int, int]]) -> None:
        wanted = [row for row in counts if row[0] in TOLD_BY_MANY_MONTHS]
        self._table("month_counts", "signal VARCHAR, recency INTEGER, base BIGINT, hits BIGINT", wanted)
        self._run_file("many_months")

    def _count_flags(self, now: int, signals: Sequence[str], *, with_month_beyond: bool = False) -> None:
        columns = _flag_columns(now, len(self._history), with_month_beyond=with_month_beyond)
        self._execute("flags", _sql("flags").format(**columns))
        self._execute("flags", _count_flags(now, signals))

    def _asks(self, question: str, **filled: Any) -> bool:
        """The answer of a file that selects one boolean."""
        return bool(self._connection.execute(_sql(question).format(**filled)).fetchone()[0])

    def _run_file(self, name: str) -> None:
        self._execute(name, _sql(name))

    def _execute(self, name: str, statements: str) -> None:
        try:
            self._connection.execute(statements)
        except duckdb.OutOfMemoryException as error:
            raise RetriableError(f"{self._run.run_id}: no memory or disk left while measuring ({name}.sql)") from error
        except duckdb.Error as error:
            # The engine's message may quote a value; the cause keeps it for whoever debugs.
            reason = type(error).__name__
            raise FatalError(f"{self._run.run_id} cannot be measured ({name}.sql: {reason}); land it again") from error

    def _view(self, name: str, path: Path) -> None:
        # The lake's folders look like Hive partitions; read as such, their labels would hide what the rows themselves say.
        parquet = f"read_parquet('{_quoted(path)}', hive_partitioning = FALSE)"
        try:
            self._connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM {parquet}")
            columns = {row[0] for row in self._connection.execute(f"DESCRIBE {name}").fetchall()}
        except duckdb.Error as error:
            raise FatalError(f"{path} cannot be read as a landed run: {error}; land it again") from error
        if missing := [column for column in LANDED_SCHEMA.names if column not in columns]:
            raise FatalError(f"{path} is no landed run: it has no column {', '.join(missing)}; land it again")

    def _table(self, name: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.execute(f"CREATE TEMP TABLE {name} ({columns})")
        self._insert(name, rows)

    def _insert(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            # One statement and a list per column: a statement per row, or a parameter per value, costs more than the rows.
            columns = ", ".join(["unnest(?)"] * len(rows[0]))
            self._connection.execute(f"INSERT INTO {name} SELECT {columns}", [list(c) for c in zip(*rows, strict=True)])

    def _query(self, name: str) -> Table:
        return self._rows(_sql(name))

    def _rows(self, sql: str) -> Table:
        cursor = self._connection.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, map(_plain, row), strict=True)) for row in cursor.fetchall()]


def _count_flags(now: int, signals: Sequence[str]) -> str:
    """Count `signals` in the month `now` back, cell by cell: in all bills those among which they are counted, in the remarkable
    ones alone the signals themselves."""
    counted = {name: SIGNALS[name] for name in signals}
    bases = ", ".join(f"count(*) FILTER (WHERE {base}) AS {base}" for base in sorted(set(counted.values())))
    hits = ", ".join(f"count(*) FILTER (WHERE {base} AND {name}) AS {name}" for name, base in counted.items())
    rows = ", ".join(f"('{name}', {base}, coalesce({name}, 0))" for name, base in counted.items())
    return (
        f"INSERT INTO signal_counts SELECT cell, {now}, signal, base, hits FROM"
        f" (SELECT cell, {bases} FROM flags_{now} GROUP BY cell)"
        f" LEFT JOIN (SELECT cell, {hits} FROM flags_{now} WHERE is_remarkable GROUP BY cell) USING (cell)"
        f" CROSS JOIN LATERAL (VALUES {rows}) AS signals(signal, base, hits)"
    )


def _flag_columns(now: int, months: int, *, with_month_beyond: bool) -> dict[str, str]:
    """What fills `sql/flags.sql` for the month `now` back, with so many earlier months in history; `with_month_beyond`: once
    `sql/month_beyond.sql` has run.

    Where history is too short for three bills before it, the earliest there is stands for those that are not."""
    last, before, prior = (min(now + step, months) for step in (1, 2, 3))
    cells = (
        "accounts.cell",
        "accounts.previous_cell",
        "accounts.cell_2",
        *(["accounts.cell_3"] if with_month_beyond else []),
    )
    earlier = [f"amount_{month}" for month in range(now + 2, LAID_OUT_MONTHS + 1)]
    month_columns = [*MONTH_COLUMNS[:2], ATTRIBUTES] if with_month_beyond else MONTH_COLUMNS
    known = {name: sum(name in columns for columns in month_columns) for name in ATTRIBUTES}

    def column(name: str, month: int) -> str:
        return f"{name}_{month}" if month <= known[name] else "NULL"

    attributes = [f"{column(name, now)} AS {name}, {column(name, last)} AS last_{name}" for name in ATTRIBUTES]
    return {
        "now": str(now), "last": str(last), "before": str(before), "prior": str(prior), "cell": cells[now],
        "cell_last": cells[now + 1] if now + 1 < len(cells) else "NULL", "earlier": ", ".join(earlier),
        "attributes": ", ".join([*attributes, f"{column('usage', before)} AS usage_before"]),
    }  # fmt: skip


_ACCOUNT = "account_of(customer_id, bill_cycle)"

_BILL_COLUMNS = {
    "cell": "cell", "amount": "amount_minor", "card": "hash(instrument_token)", "base": "base_fee_minor",
    "discount": "discount_minor", "usage": "usage_fee_minor",
}  # fmt: skip
"""Columns as they are laid side by side, and what each is of a landed charge; a card is compared, never shown, so its hash does."""


def _plain(value: Any) -> Any:
    """Sums leave SQL as decimals without a fraction: whole numbers in Python."""
    if isinstance(value, Decimal):
        if value != value.to_integral_value():
            raise AssertionError(f"a sum with a fraction left the engine: {value}")
        return int(value)
    return value


def _sql(name: str) -> str:
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
