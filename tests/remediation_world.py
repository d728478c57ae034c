"""A wrong month on a small scale: customers charged at a real practice acquirer, an approved plan, and a clock to turn."""

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from hashlib import md5
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters import postgres
from pipeline.adapters.incidents import IncidentRegister
from pipeline.adapters.ledger import OPERATION_COLUMNS, PostgresLedger
from pipeline.adapters.plan_file import LINE_KEY, lines_digest, plan_digest, write_plan
from pipeline.adapters.rails.adyen_batch import MerchantAccount
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.adapters.remedies import STEP_COLUMNS, PlanInProgress
from pipeline.adapters.runs import Register
from pipeline.cancel import cancel
from pipeline.core.idempotency import merchant_reference, operation_id
from pipeline.core.ledger import posting_for
from pipeline.core.wave import StopRule
from pipeline.core.window import Window, Windows
from pipeline.execution import Sender
from pipeline.plan_figures import exceptions_in, summary_of
from pipeline.ports import LandedRun, no_progress
from pipeline.rebill import rebill
from pipeline.refund import refund
from pipeline.remedy import Guard
from pipeline.schema import CARD_SCHEMA, OPERATION_SCHEMA, PLAN_SCHEMA
from pipeline.settings import Settings

PERIOD = "2023-09"

CHARGED = datetime(2023, 9, 10, 3, tzinfo=UTC)  # noon on the 10th in Seoul: acquired when the 11th ends
ELEVENTH = datetime(2023, 9, 11, 3, tzinfo=UTC)
TWELFTH = datetime(2023, 9, 12, 3, tzinfo=UTC)
THIRTEENTH = datetime(2023, 9, 13, 3, tzinfo=UTC)
FOURTEENTH = datetime(2023, 9, 14, 3, tzinfo=UTC)

WINDOWS = Windows(Window(date(2023, 9, 11), date(2023, 9, 12)), Window(date(2023, 9, 12), date(2023, 9, 13)))


ELSEWHERE = MerchantAccount(platform="Elsewhere")
"""Another system that charges the same customers."""


@dataclass
class Customer:
    """One wrong charge and what would have been right; `plan` overrides columns of its line."""

    customer_id: str
    method: str = "credit_card"
    wrong: int = 52_300
    right: int | None = 41_000
    reversal: str = ""
    occurrence: int = 1
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def token(self) -> str:
        return f"tok-{self.customer_id}"

    @property
    def issuer(self) -> str:
        """Every world has an issuer of its own, for an incident holds what is its own alone."""
        return f"HANBIT {self.customer_id.partition('-')[0]}"

    @property
    def original(self) -> str:
        return merchant_reference(
            operation_id(kind="charge", incident_id=None, billing_period=PERIOD, bill_cycle=1, occurrence=self.occurrence, attempt=1,
                         customer_id=self.customer_id)
        )  # fmt: skip


class World:
    """One incident in an installation of its own folder; the database may be shared with other worlds of other names."""

    def __init__(self, settings: Settings, folder: Path, name: str) -> None:
        self.settings = replace(settings, home=folder)
        self.server, self._superuser = postgres.open_server(settings), postgres.superuser_url(settings)
        self.register = Register(self.server)
        self.incidents = IncidentRegister(self.server, folder)
        self.run_id = f"{PERIOD}-{md5(name.encode()).hexdigest()[:12]}"
        self.corrected = f"{PERIOD}-{md5(f'{name} right'.encode()).hexdigest()[:12]}"
        self.issuer = f"HANBIT {self.run_id[-6:]}"
        self.rail = PracticeRail(folder / "acquirer", outbox=folder / "outgoing")
        self.now = CHARGED
        self.rule = StopRule()
        self.incident = ""
        self.made = 0
        for run_id in (self.run_id, self.corrected):
            self.register.record_run(LandedRun(run_id, PERIOD, str(folder), folder / "x", run_id, 1, 1, (), CHARGED))
            self.register.record_verification(
                run_id,
                suite_digest="s",
                history_digest="none",
                decision="release",
                findings=[],
                not_judged=[],
                report="x",
            )

    @property
    def ledger(self) -> PostgresLedger:
        return PostgresLedger(self.server, as_of=self.now, timezone=self.settings.timezone)

    # -- the wrong month ----------------------------------------------------------------------------------------

    def turn(self, to: datetime) -> None:
        self.now = to
        self.rail.set_clock(to)

    def charge(self, customers: list[Customer]) -> None:
        """Charge them the wrong amounts; another system does where it is not their first charge."""
        self.turn(self.now)
        if all(c.occurrence > 1 for c in customers):
            self.run_id = f"import-{self.run_id}"
        rows = [
            {"operation_id": c.original, "kind": "charge", "scope": self.run_id, "incident_id": None, "customer_id": c.customer_id,
             "billing_period": PERIOD, "bill_cycle": 1, "occurrence": c.occurrence, "attempt": 1, "charge_id": f"ch-{c.customer_id}",
             "amount_minor": c.wrong, "currency": "KRW", "payment_method": c.method, "issuer": c.issuer, "instrument_token": c.token,
             "wave": 0, "original_id": None}
            for c in customers
        ]  # fmt: skip
        ours, elsewhere = (
            [row for row in rows if (row["occurrence"] > 1) == is_elsewhere] for is_elsewhere in (False, True)
        )
        if ours:
            self.ledger.intend(self.run_id, pa.Table.from_pylist(ours).select(OPERATION_COLUMNS))
            self.send(self.run_id)
        if elsewhere:
            self._charge_elsewhere(pa.Table.from_pylist(elsewhere).select(OPERATION_COLUMNS))

    def send(self, scope: str, **options: Any) -> None:
        """Send what a scope has to send."""
        sender = self.sender()
        with sender.turn() as turn:
            sender.send(turn, scope, **options)

    def plant_hand_over(self, scope: str, wave: int) -> None:
        """A file of a wave went out, whatever `hand_over` would say."""
        self.plant(
            "WITH file AS (INSERT INTO batch (scope, wave, file_sequence, file_path, sha256, operation_count, total_minor, rail)"
            " SELECT %(scope)s, %(wave)s, 99, 'p', '0', 1, 1, 'another' WHERE NOT EXISTS"
            "  (SELECT FROM batch WHERE scope = %(scope)s AND wave = %(wave)s) RETURNING batch_id)"
            " INSERT INTO batch_event (batch_id, event)"
            " SELECT batch_id, e FROM file, unnest('{handed_over,answered}'::text[]) e",
            {"scope": scope, "wave": wave},
        )

    def plant(self, statement: str, values: Any = None) -> None:
        """Write what only the server's superuser can, past every trigger."""
        url = postgres.conninfo(self._superuser).replace("/postgres?", f"/{postgres.DATABASE}?")
        options = "-c search_path=makegood -c session_replication_role=replica"
        with psycopg.connect(url, options=options) as connection:
            connection.execute(statement, values)

    def _charge_elsewhere(self, charges: pa.Table) -> None:
        """Charges that another system made, and that the books then have in the run's scope."""
        self.rail.introduce(charges.select(CARD_SCHEMA.names))
        operations = charges.rename_columns(
            ["merchant_reference" if n == "operation_id" else n for n in charges.column_names]
        )
        operations = operations.append_column("original_payment_id", pa.nulls(charges.num_rows, pa.string()))
        other = PracticeRail(
            self.settings.home / "acquirer", outbox=self.settings.home / "elsewhere", account=ELSEWHERE
        )
        file = other.write(operations.select(OPERATION_SCHEMA.names), sequence=other.next_sequence(), echo="elsewhere")
        other.deliver(file)
        answers = other.poll(file, operations, timeout_seconds=30)
        self.ledger.intend(self.run_id, charges)
        said = {row["merchant_reference"]: row for row in answers.to_pylist()}
        today = self.now.astimezone(self.settings.timezone).date()
        with self.server.connect() as connection:
            for charge in charges.to_pylist():
                answer = said.get(charge["operation_id"])
                posting = posting_for("charge", answer["status"] if answer else "unknown", was_unknown=False)
                entry = (
                    (posting.debit, posting.credit, charge["amount_minor"], charge["currency"], today)
                    if posting
                    else (None,) * 5
                )
                if answer is None:
                    connection.execute("INSERT INTO unanswered (operation_id) VALUES (%s)", (charge["operation_id"],))
                    connection.execute(
                        "INSERT INTO further_entry (operation_id, step, debit, credit, amount_minor, currency, effective_on)"
                        " VALUES (%s, 'suspended', %s, %s, %s, %s, %s)", (charge["operation_id"], *entry),
                    )  # fmt: skip
                else:
                    connection.execute(
                        "INSERT INTO outcome (operation_id, status, reason, payment_id, debit, credit, amount_minor, currency,"
                        " effective_on) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                        (charge["operation_id"], answer["status"], answer["reason"], answer["payment_id"], *entry),
                    )  # fmt: skip

    def payments(self) -> dict[str, str]:
        """Payment id by the reference of its charge."""
        rows = self.rows(
            "SELECT replace(operation_id::text, '-', ''), payment_id FROM operation JOIN outcome USING (operation_id)"
            " WHERE scope = %s", self.run_id,
        )  # fmt: skip
        return dict(rows)

    def approve(self, customers: list[Customer], windows: Windows = WINDOWS, number: int = 1) -> None:
        """Open the incident and have a plan about `customers` approved."""
        incident = self.incidents.open_incident(
            billing_period=PERIOD, charge_scope=self.run_id, issuers=[self.issuer], corrected_run=self.corrected
        )
        payments = self.payments()
        lines = pa.Table.from_pylist([_line(c, payments.get(c.original)) for c in customers], PLAN_SCHEMA).sort_by(
            LINE_KEY
        )
        header = {"incident_id": incident.incident_id, "corrected_run": self.corrected, "reversal": str(windows.reversal),
                  "rebill": str(windows.rebill), "number": number}  # fmt: skip
        digest = plan_digest(header, lines)
        file = write_plan(self.settings.home / "incidents" / incident.incident_id, header, lines, digest)
        moves = [row for row in lines.to_pylist() if row["reversal"] in ("void", "refund")]
        charges = [row for row in lines.to_pylist() if row["rebill"] == "rebill"]
        record = self.incidents.store_plan(
            incident=incident, plan_digest=digest, file=file, windows=windows, operation_count=len(moves) + len(charges),
            total_minor=sum(r["reversal_minor"] for r in moves) + sum(r["correct_minor"] for r in charges),
            summary=summary_of(header, lines, lines_digest(lines)), exceptions=exceptions_in(lines),
            successor_of=None, login="operator", password=None,
        )  # fmt: skip
        self.incidents.approve(
            record,
            as_of=self.now,
            expires_at=windows.rebill.closes(self.settings.timezone),
            login="approver",
            password=None,
        )
        self.incident = incident.incident_id

    # -- putting it right ---------------------------------------------------------------------------------------

    def sender(self) -> Sender:
        day = self.now.astimezone(self.settings.timezone).date()
        return Sender(self.ledger, self.rail, self.register, day, self.rule, no_progress)

    def step(self, step: str, at: datetime | None = None, clock: Any = None) -> dict[str, Any]:
        """Run one step of the incident's plan at an instant."""
        if at is not None:
            self.turn(at)
        approved = self.incidents.require_approved(self.incident, self.now, STEP_COLUMNS[step])
        window = approved.windows.rebill if step == "rebill" else approved.windows.reversal
        guard = Guard(window, clock or (lambda: self.now), self.settings.timezone, step)
        books = PlanInProgress(self.server, approved, step, self.now.astimezone(self.settings.timezone).date())
        try:
            if step == "rebill":
                return rebill(books, sender=self.sender(), guard=guard)
            verb = cancel if step == "cancel" else refund
            return verb(books, sender=self.sender(), guard=guard, live=self.rail)
        finally:
            books.close()

    # -- looking ------------------------------------------------------------------------------------------------

    def rows(self, query: str, *values: Any) -> list[tuple]:
        with self.server.connect() as connection:
            return connection.execute(query, values).fetchall()

    def book(self) -> list[dict[str, Any]]:
        """The acquirer's own book."""
        path = self.settings.home / "book.parquet"
        self.rail.export_book(path)
        return pq.read_table(path).to_pylist()

    def kept(self) -> dict[str, int]:
        """By instrument, what the acquirer keeps or holds of a customer's money, by its own book: approvals less what came back."""
        kept: dict[str, int] = {}
        undone = {row["payment_id"] for row in self.book() if row["kind"] == "void" and row["status"] == "succeeded"}
        for row in self.book():
            sign = {"authorise": 1, "refund": -1}.get(row["kind"], 0)
            if row["status"] == "succeeded" and row["payment_id"] not in undone:
                kept[row["instrument_token"]] = kept.get(row["instrument_token"], 0) + sign * row["amount_minor"]
        return kept

    def money_moves(self) -> int:
        """How many things the acquirer has booked that moved or promised money."""
        return sum(row["status"] == "succeeded" for row in self.book())

    def happens(self, kind: str, customer: Customer, **columns: Any) -> None:
        """Something at the acquirer behind our back."""
        if kind == "close_card":
            self.rail.happen(kind, pa.table({"instrument_token": [customer.token]}))
        else:
            payment = self.payments()[customer.original]
            self.rail.happen(
                kind, pa.table({"payment_id": [payment]} | {name: [value] for name, value in columns.items()})
            )


def people(world: World, count: int, **columns: Any) -> list[Customer]:
    """`count` more customers, of this world alone; `columns` as in `Customer`."""
    start, world.made = world.made, world.made + count
    return [Customer(f"{world.run_id[-6:]}-{n:04d}", **columns) for n in range(start, world.made)]


def charged_and_approved(world: World, customers: list[Customer]) -> None:
    """The wrong charges of the 10th, and on the 11th an approved plan about them."""
    world.charge(customers)
    world.turn(ELEVENTH)
    world.approve(customers)


def _line(customer: Customer, payment_id: str | None) -> dict[str, Any]:
    reversal = customer.reversal or ("void" if customer.method == "credit_card" else "refund")
    right = customer.right
    rebilled = right is not None and right > 0 and customer.occurrence == 1
    return {
        "customer_id": customer.customer_id, "billing_period": PERIOD, "bill_cycle": 1, "occurrence": customer.occurrence,
        "charge_id": f"ch-{customer.customer_id}", "original_id": customer.original, "payment_id": payment_id,
        "wrong_minor": customer.wrong, "correct_minor": right, "currency": "KRW", "payment_method": customer.method,
        "issuer": customer.issuer, "instrument_token": customer.token, "class": "over", "reversal": reversal, "reversal_reason": "x",
        "reversal_minor": customer.wrong if reversal in ("void", "refund") else None,
        "rebill": "rebill" if rebilled else "no_rebill", "rebill_reason": "right_amount" if rebilled else "zero_bill",
        "rebill_charge_id": f"re-{customer.customer_id}" if rebilled else None,
        "rebill_method": customer.method if rebilled else None, "rebill_issuer": customer.issuer if rebilled else None,
        "rebill_token": customer.token if rebilled else None,
        "money_back_by": None if reversal == "void" else date(2023, 9, 12), "wave": 0,
    } | customer.plan  # fmt: skip
