"""The conservation proof: every wrong charge came back or is open by name, and every customer pays exactly what is due.

Belongs here: the proof from the source and the acquirer's own book. Does not, and must not: anything that planned or carried out
the repair - this module reads no ledger and imports neither planner nor execution; a test says so. It computes by itself, in
`sql/proof.sql`, because a proof that shares its arithmetic with what it proves proves nothing.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from pipeline.core.money import format_minor

ATTEMPTS_LOOKED_FOR = 20
"""Attempts of one rebill or refund that are recognised; far more than any schedule makes."""

MONTHS_LOOKED_FOR = 24
"""Months around the incident whose ordinary charges are recognised as such."""

ITEMS_NAMED = 100
"""Open items that the proof's JSON lists; `Proof.items` has them all."""

BILL = [("customer_id", pa.string()), ("billing_period", pa.string()), ("bill_cycle", pa.int64())]
_CHARGED = [*BILL, ("amount_minor", pa.int64()), ("currency", pa.string()), ("payment_method", pa.string()), ("issuer", pa.string()),
            ("instrument_token", pa.string())]  # fmt: skip

WRONG_SCHEMA = pa.schema([*_CHARGED, ("occurrence", pa.int64()), ("payment_id", pa.string())])
"""A wrong charge as its source has it; `payment_id` only where another system made the charge and said so."""

NAMED_SCHEMA = pa.schema([*BILL, ("reason", pa.string()), ("is_written_off", pa.bool_())])
"""A bill that people have left open, and why; or written off."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the source and the book show.

    Attributes:
        residual_minor: what nobody can explain; a closed incident has 0.
        bills, right: bills concerned, and those for which the acquirer holds exactly what is due.
        charged: per payment method, issuer and day of the wrong charge: `wrong_charged = voided + expired + refunded +
            returned_by_others + kept + open + written_off + residual`.
        rebilled: per payment method and issuer: `correct - credit = rebilled + kept + open + written_off + residual`.
        by_day: what moved on which business day, per payment method, issuer and kind.
        not_in_book: wrong charges of the source that the acquirer never heard of.
        items: everything that is not right, by name: `verdict` (open, unexplained), customer, bill, `payment_id` where it is a
            payment without a bill, `wrong_held_minor`, `unbilled_minor`, `why`.
    """

    incident_id: str
    currency: str
    residual_minor: int
    bills: int
    right: int
    charged: list[dict[str, Any]]
    rebilled: list[dict[str, Any]]
    by_day: list[dict[str, Any]]
    not_in_book: int
    items: pa.Table

    def total(self, table: str, column: str) -> int:
        """The sum of a column of `charged` or `rebilled`."""
        return sum(row[column] for row in getattr(self, table))

    def count(self, verdict: str) -> int:
        """Items that are `open` or `unexplained`."""
        return self.items["verdict"].to_pylist().count(verdict)

    def to_json(self) -> dict[str, Any]:
        plain = (
            "incident_id",
            "currency",
            "residual_minor",
            "bills",
            "right",
            "charged",
            "rebilled",
            "by_day",
            "not_in_book",
        )
        items = self.items.slice(0, ITEMS_NAMED).to_pylist()
        counts = {"open": self.count("open"), "unexplained": self.count("unexplained")}
        return {name: getattr(self, name) for name in plain} | counts | {"items": items}

    def to_text(self) -> str:
        """As an auditor reads it."""
        money = lambda amount: format_minor(amount, self.currency)  # noqa: E731
        lines = [f"{self.incident_id}: residual {money(self.residual_minor)}", "", "wrong charged"]
        parts = ("voided", "expired", "refunded", "returned_by_others", "kept", "open", "written_off", "residual")
        lines += _equation(self.charged, "wrong_charged", parts, money)
        lines += ["", "correct bills"]
        lines += _equation(
            self.rebilled, "correct", ("credit", "rebilled", "kept", "open", "written_off", "residual"), money
        )
        zero = self.total("rebilled", "zero_bills")
        lines += ["", f"{self.right:,} of {self.bills:,} bills are exactly right; zero bills, not charged: {zero:,}",
                  f"{self.count('open'):,} open by name, {self.count('unexplained'):,} unexplained"]  # fmt: skip
        for item in self.items.slice(0, ITEMS_NAMED).to_pylist():
            who = (
                f"{item['customer_id']} {item['billing_period']}"
                if item["customer_id"]
                else f"payment {item['payment_id']}"
            )
            held, unbilled = money(item["wrong_held_minor"]), money(item["unbilled_minor"])
            lines.append(f"  {item['verdict']:12} {who}: {held} held wrongly, {unbilled} not billed: {item['why']}")
        return "\n".join(lines) + "\n"


def prove(
    *,
    incident_id: str,
    book: Path,
    wrong: pa.Table,
    correct: Path | pa.Table,
    named: pa.Table | None = None,
    other_incidents: Iterable[str] = (),
    issuers: Iterable[str] | None = None,
    currency: str,
    timezone: ZoneInfo,
) -> Proof:
    """Prove an incident from what was charged wrongly, what should have been, and what the acquirer has booked.

    Args:
        book: the acquirer's export, a Parquet file.
        wrong: `WRONG_SCHEMA`; positive amounts alone.
        correct: the corrected run, with the columns of a charge.
        named: `NAMED_SCHEMA`.
        other_incidents: ids of other repairs that may have charged the same customers.
        issuers: only bills sent to these were wrong; of the others, the corrected run is not looked at.
    """
    with (
        tempfile.TemporaryDirectory(
            prefix="makegood-spill-"
        ) as spill,  # its own: another process may be proving as well
        duckdb.connect(config={"threads": 2, "memory_limit": "1500MB", "temp_directory": spill}) as connection,
    ):
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("wrong", wrong.select(WRONG_SCHEMA.names).cast(WRONG_SCHEMA))
        connection.register("named_given", (named or NAMED_SCHEMA.empty_table()).cast(NAMED_SCHEMA))
        connection.execute(
            "CREATE TEMP TABLE named AS FROM named_given"
            " QUALIFY row_number() OVER (PARTITION BY customer_id, billing_period, bill_cycle ORDER BY reason) = 1"
        )
        others = pa.table({"incident_id": pa.array(sorted(set(other_incidents) - {incident_id}), pa.string())})
        connection.register("other_incidents", others)
        connection.read_parquet(str(book), hive_partitioning=False).create_view("book")
        _lay_out_correct(connection, correct, issuers)
        values = {"incident_id": incident_id, "attempts": ATTEMPTS_LOOKED_FOR, "months": MONTHS_LOOKED_FOR, "currency": currency,
                  "zone": timezone.key}  # fmt: skip
        for statement in duckdb.extract_statements(_SQL):
            asked = {name: value for name, value in values.items() if f"${name}" in statement.query}
            connection.execute(statement, asked)
        return _read(connection, incident_id, currency)


_SQL = (resources.files("pipeline") / "sql" / "proof.sql").read_text(encoding="utf-8")


def _lay_out_correct(
    connection: duckdb.DuckDBPyConnection, correct: Path | pa.Table, issuers: Iterable[str] | None
) -> None:
    """The view `correct`: the right bills of everybody the incident is about."""
    if isinstance(correct, pa.Table):
        connection.register("corrected_run", correct)
    else:
        connection.read_parquet(str(correct), hive_partitioning=False).create_view("corrected_run")
    names = ", ".join(name for name, _ in _CHARGED)
    condition = "true"
    if issuers is not None:
        connection.register("chosen", pa.table({"issuer": pa.array(list(issuers), pa.string())}))
        condition = (
            "issuer IN (FROM chosen) OR (customer_id, billing_period, bill_cycle) IN"
            " (SELECT (customer_id, billing_period, bill_cycle) FROM wrong)"
        )
    connection.execute(f"CREATE TEMP TABLE correct AS SELECT {names} FROM corrected_run WHERE {condition}")


def _read(connection: duckdb.DuckDBPyConnection, incident_id: str, currency: str) -> Proof:
    items = connection.execute(
        "SELECT * FROM open_item ORDER BY verdict DESC, customer_id, billing_period, bill_cycle, payment_id"
    ).to_arrow_table()
    charged = _rows(connection, "SELECT * FROM charged")
    for row in charged:
        parts = ("voided", "expired", "refunded", "returned_by_others", "kept", "open", "written_off")
        row["residual_minor"] = row["wrong_charged_minor"] - sum(row[f"{part}_minor"] for part in parts)
    rebilled = _rows(connection, "SELECT * FROM rebilled")
    for row in rebilled:
        parts = ("credit", "rebilled", "kept", "open", "written_off")
        row["residual_minor"] = row["correct_minor"] - sum(row[f"{part}_minor"] for part in parts)
    bills, right = connection.execute("SELECT count(*), count(*) FILTER (verdict = 'right') FROM verdict").fetchone()
    unheard = connection.execute(
        "SELECT count(*) FROM numbered_wrong ANTI JOIN wrong_payment USING (bill_no, occurrence)"
    ).fetchone()[0]
    residual = connection.execute("SELECT coalesce(sum(residual_minor), 0)::BIGINT FROM open_item").fetchone()[0]
    # An equation that does not balance is a residual too, whatever the single bills say.
    unbalanced = sum(abs(row["residual_minor"]) for row in (*charged, *rebilled))
    return Proof(
        incident_id=incident_id,
        currency=currency,
        residual_minor=max(residual, unbalanced),
        bills=bills,
        right=right,
        charged=charged,
        rebilled=rebilled,
        by_day=_rows(connection, "SELECT * FROM by_day"),
        not_in_book=unheard,
        items=items,
    )


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    return [
        {name: str(value) if name == "day" else value for name, value in zip(names, row, strict=True)}
        for row in cursor.fetchall()
    ]


def _equation(rows: list[dict[str, Any]], whole: str, parts: tuple[str, ...], money: Any) -> list[str]:
    """Each row of an equation, and their sum, with the parts that are not zero."""
    lines = []
    total = {name: sum(row[f"{name}_minor"] for row in rows) for name in (whole, *parts)}
    for row in rows:
        where = " ".join(str(row[name]) for name in ("payment_method", "issuer", "day") if name in row)
        amounts = {name: row[f"{name}_minor"] for name in (whole, *parts)}
        lines.append(f"  {where}: {_sum(amounts, whole, parts, money)}")
    return [*lines, f"  all: {_sum(total, whole, parts, money)}"]


def _sum(amounts: dict[str, int], whole: str, parts: tuple[str, ...], money: Any) -> str:
    said = [f"{money(amounts[name])} {name.replace('_', ' ')}" for name in parts if amounts[name]]
    return f"{money(amounts[whole])} = {' + '.join(said) or money(0)}"
