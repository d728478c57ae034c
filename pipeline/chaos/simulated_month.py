"""The months of a simulation: a handful of customers, a run to release, and a wrong one that two plans undo.

Belongs here: who owes what, the rows that runs and plans have of it, and making the database's rows of both. Does not: calling any step
(`simulation`).
"""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa

from pipeline.adapters.incidents import ApprovedPlan, IncidentRegister
from pipeline.adapters.ledger import BUSINESS_TIMEZONE, OPERATION_COLUMNS
from pipeline.adapters.plan_file import LINE_KEY, lines_digest, plan_digest, write_plan
from pipeline.adapters.postgres import Server
from pipeline.adapters.remedies import STEP_COLUMNS
from pipeline.adapters.runs import Register
from pipeline.core.idempotency import merchant_reference, operation_id
from pipeline.core.window import Window, Windows
from pipeline.errors import FatalError
from pipeline.plan_figures import exceptions_in, summary_of
from pipeline.ports import Due, LandedRun
from pipeline.schema import PLAN_SCHEMA

CANARY, WAVE = (2, 2), 3
"""Waves of the fewest operations: what happens between waves is where it gets interesting."""

CHARGED = datetime(2023, 9, 10, 3, tzinfo=UTC)
ELEVENTH = datetime(2023, 9, 11, 3, tzinfo=UTC)
TWELFTH = datetime(2023, 9, 12, 3, tzinfo=UTC)
LATER = datetime(2023, 9, 25, 3, tzinfo=UTC)
WINDOWS = Windows(Window(date(2023, 9, 11), date(2023, 9, 12)), Window(date(2023, 9, 12), date(2023, 9, 13)))

ATTEMPTS_MAX = 12


def key_of(**fact: Any) -> UUID:
    """The key of an operation's fact."""
    return operation_id(**fact)


@dataclass(frozen=True, slots=True)
class Month:
    """A run and what it bills.

    Attributes:
        bills: amount by customer.
    """

    run: LandedRun
    bills: dict[str, int]

    @classmethod
    def of(cls, period: str, digest: str, bills: dict[str, int]) -> "Month":
        run_id = f"{period}-{digest}"
        run = LandedRun(
            run_id, period, "simulated", Path("/nowhere"), run_id, len(bills), sum(bills.values()), (), CHARGED
        )
        return cls(run, bills)

    def due(self, _: LandedRun, charged: pa.Table, *, first_wave: int = 0) -> Due:
        """What is due of it, as `adapters.charges_due.find_due` says it."""
        before: dict[str, list[dict[str, Any]]] = {}
        for row in charged.to_pylist():
            before.setdefault(row["customer_id"], []).append(row)
        rows: list[dict[str, Any]] = []
        for customer in sorted(self.bills):
            attempts = before.get(customer, [])
            if all(row["is_ended"] for row in attempts):
                attempt = 1 + max((row["attempt"] for row in attempts), default=0)
                rows.append(self._operation(customer, attempt, first_wave + _wave(len(rows))))
        return Due(_table(rows), {})

    def meant(self, wave: int, operations: pa.Table) -> pa.Table:
        """The rows that the books once had of the operations in a file."""
        candidates = [
            self._operation(customer, attempt, wave) for customer in self.bills for attempt in range(1, ATTEMPTS_MAX)
        ]
        return _chosen(candidates, operations)

    def _operation(self, customer: str, attempt: int, wave: int) -> dict[str, Any]:
        return _operation(
            "charge",
            self.run.run_id,
            None,
            self.run.billing_period,
            customer,
            attempt,
            self.bills[customer],
            wave,
            None,
        )


def _wave(place: int) -> int:
    if place < CANARY[0]:
        return 0
    return 1 if place < sum(CANARY) else 2 + (place - sum(CANARY)) // WAVE


def _operation(
    kind: str, scope: str, incident: str | None, period: str, customer: str, attempt: int, amount: int, wave: int, original: str | None
) -> dict[str, Any]:  # fmt: skip
    key = key_of(
        kind=kind,
        incident_id=incident,
        billing_period=period,
        bill_cycle=1,
        occurrence=1,
        attempt=attempt,
        customer_id=customer,
    )
    return {
        "operation_id": merchant_reference(key), "kind": kind, "scope": scope, "incident_id": incident, "customer_id": customer,
        "billing_period": period, "bill_cycle": 1, "occurrence": 1, "attempt": attempt, "charge_id": f"{kind}-{customer}",
        "amount_minor": amount, "currency": "KRW", "payment_method": "check_card", "issuer": "HANBIT",
        "instrument_token": f"tok-{customer}", "wave": wave, "original_id": original, "original_payment_id": None,
    }  # fmt: skip


_SCHEMA = pa.schema([
    (name, {"bill_cycle": pa.int64(), "occurrence": pa.int32(), "attempt": pa.int32(), "amount_minor": pa.int64(),
            "wave": pa.int32()}.get(name, pa.string()))
    for name in (*OPERATION_COLUMNS, "original_payment_id")
])  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, _SCHEMA)


def _chosen(candidates: list[dict[str, Any]], operations: pa.Table) -> pa.Table:
    wanted = set(operations["merchant_reference"].to_pylist())
    found = [row for row in candidates if row["operation_id"] in wanted]
    if len(found) != len(wanted):
        raise FatalError("operations of a file are of no such fact; nothing was entered")
    return _table(found).select(OPERATION_COLUMNS)


RELEASED = Month.of("2023-09", "aaaaaaaaaaaa", {f"c{n}": 1_000 + n for n in range(7)})
OTHER = Month.of("2023-10", "bbbbbbbbbbbb", {f"c{n}": 5_000 + n for n in range(7, 9)})
RIGHT = Month.of("2023-09", "cccccccccccc", {f"c{n}": 700 + n for n in range(7)})
MONTHS = {month.run.run_id: month for month in (RELEASED, OTHER, RIGHT)}


def make_runs(server: Server) -> None:
    """The rows of the runs, each released by the gate."""
    register = Register(server)
    for run_id, month in MONTHS.items():
        register.record_run(month.run)
        register.record_verification(
            run_id, suite_digest="s", history_digest="none", decision="release", findings=[], not_judged=[], report="x"
        )


@dataclass(frozen=True, slots=True)
class Undoing:
    """An approved plan that undoes `RELEASED` and charges `RIGHT`."""

    plan: ApprovedPlan

    @classmethod
    def make(cls, server: Server, home: Path, payments: dict[str, str], reason: str) -> "Undoing":
        register = IncidentRegister(server, home)
        incident = register.open_incident(
            billing_period="2023-09", charge_scope=RELEASED.run.run_id, issuers=["HANBIT"], corrected_run=RIGHT.run.run_id, reason=reason
        )  # fmt: skip
        lines = pa.Table.from_pylist([_line(c, payments) for c in sorted(RELEASED.bills)], PLAN_SCHEMA).sort_by(
            LINE_KEY
        )
        header = {"incident_id": incident.incident_id, "corrected_run": RIGHT.run.run_id, "reversal": str(WINDOWS.reversal),
                  "rebill": str(WINDOWS.rebill), "number": 1}  # fmt: skip
        digest = plan_digest(header, lines)
        file = write_plan(home / "incidents" / incident.incident_id, header, lines, digest)
        record = register.store_plan(
            incident=incident, plan_digest=digest, file=file, windows=WINDOWS, operation_count=2 * lines.num_rows,
            total_minor=sum(RELEASED.bills.values()) + sum(RIGHT.bills.values()), summary=summary_of(header, lines, lines_digest(lines)),
            exceptions=exceptions_in(lines), successor_of=None, login="operator", password=None,
        )  # fmt: skip
        register.approve(
            record, as_of=ELEVENTH, expires_at=WINDOWS.rebill.closes(BUSINESS_TIMEZONE), login="approver", password=None
        )
        columns = sorted({name for names in STEP_COLUMNS.values() for name in names})
        return cls(register.require_approved(incident.incident_id, ELEVENTH, columns))

    def for_step(self, step: str) -> ApprovedPlan:
        return replace(self.plan, lines=self.plan.lines.select(STEP_COLUMNS[step]))

    def meant(self, step: str, wave: int, operations: pa.Table) -> pa.Table:
        """The rows that the books once had of the operations in a file."""
        incident, scope = self.plan.incident.incident_id, self.plan.scope(step)
        candidates = []
        for line in self.plan.lines.to_pylist():
            kind, amount = (
                ("rebill", RIGHT.bills[line["customer_id"]]) if step == "rebill" else ("refund", line["wrong_minor"])
            )
            original = None if step == "rebill" else line["original_id"]
            for attempt in range(1, ATTEMPTS_MAX):
                candidates.append(
                    _operation(kind, scope, incident, "2023-09", line["customer_id"], attempt, amount, wave, original)
                )
        return _chosen(candidates, operations)


def _line(customer: str, payments: dict[str, str]) -> dict[str, Any]:
    original = RELEASED._operation(customer, 1, 0)["operation_id"]
    own = {"method": "check_card", "issuer": "HANBIT", "token": f"tok-{customer}"}
    return {
        "customer_id": customer, "billing_period": "2023-09", "bill_cycle": 1, "occurrence": 1, "charge_id": f"charge-{customer}",
        "original_id": original, "payment_id": payments[original], "wrong_minor": RELEASED.bills[customer],
        "correct_minor": RIGHT.bills[customer], "currency": "KRW", "payment_method": own["method"], "issuer": own["issuer"],
        "instrument_token": own["token"], "class": "over", "reversal": "refund", "reversal_reason": "x",
        "reversal_minor": RELEASED.bills[customer], "rebill": "rebill", "rebill_reason": "right_amount",
        "rebill_charge_id": f"rebill-{customer}", "rebill_method": own["method"], "rebill_issuer": own["issuer"],
        "rebill_token": own["token"], "money_back_by": date(2023, 9, 12), "wave": 0,
    }  # fmt: skip
