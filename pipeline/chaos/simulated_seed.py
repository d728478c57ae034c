"""One seed: a story of the product's own sender, ledger, stages and repair, the faults that befall it, and what people do then.

Belongs here: stories, faults, resuming as people would, judging by the acquirer's book. Does not: trying many (`simulation`), or any
second implementation of what is tried - every statement that reaches the database is the product's.
"""

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pyarrow as pa

from pipeline import execution, failpoints, release, remedy
from pipeline.adapters import bulk
from pipeline.adapters import ledger as ledger_module
from pipeline.adapters.ledger import BUSINESS_TIMEZONE, OPERATION_COLUMNS, PostgresLedger
from pipeline.adapters.remedies import PlanInProgress
from pipeline.adapters.runs import Register
from pipeline.chaos import simulated_month as months
from pipeline.chaos.simulated_database import BLOCKED, Database, Lent
from pipeline.chaos.simulated_processes import EndlessError, KilledError, Machine, Process, Threads
from pipeline.chaos.simulated_rail import Acquirer, Content, SimulatedRail
from pipeline.core.wave import StopRule
from pipeline.errors import FatalError, MakegoodError, RetriableError, SendingStopped
from pipeline.failpoints import FAILPOINTS
from pipeline.ports import no_progress
from pipeline.rebill import rebill
from pipeline.refund import refund
from pipeline.repair import Repair
from pipeline.settings import Settings

POINTS = (*FAILPOINTS, "db.commit", "rail.poll", "due.found")
"""Where things go wrong: the product's own points; any moment before a commit; waiting for an answer; what is due is known."""

FAULTS = (
    "kill", "error", "pause", "takeover", "lose_lock", "lose_all", "second", "commit_lost", "damaged", "damaged_ack", "silent", "late",
    "stale", "taken_again", "lose_staged", "lose_arrived", "stop", "reject", "incident", "clock_back", "window_closes", "restore",
    "standby", "repair",
)  # fmt: skip

WITH_FILE = (
    "file.recorded",
    "hand_over.begin",
    "hand_over.recorded",
    "hand_over.noted",
    "hand_over.delivered",
    "answers.record",
)

MET_LATER = tuple(point for point in FAILPOINTS if point.startswith(("recall", "withdraw", "unknown")))
"""Points that a call comes past only after an earlier one has left something behind."""

BRINGS_BACK = ("restore", "standby")

SAVED_AT = ("intents.committed", "file.recorded", "hand_over.recorded", "answers.recorded", "recall.recorded")
"""Points at which a backup is taken, in a simulation in which one is restored."""

ROUNDS_MAX = 16
"""How often people call again before there is no way out."""

HELD_ROUNDS = 3
"""Calls after which the acquirer has booked what it was late with."""

SLEEPS = (5, 8, 11, 15, 20, 30, 60, 120, 400)
"""Turns of the others for which a process is paused: some wake up amid what whoever took over is doing, some long after."""

PATIENT_ROUNDS = 6
"""Calls after which people look into what stays unknown, whatever it says."""


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong, at the `left`-th visit of a point from now."""

    kind: str
    point: str
    left: int


@dataclass(slots=True)
class Ban:
    """Since when nothing of `scopes` may be sent (None: nothing at all), but for the files in `recorded`: handed over before."""

    kind: str
    scopes: tuple[str, ...] | None
    recorded: set[str]
    saves: int


@dataclass(slots=True)
class Ended:
    """What became of one seed."""

    seed: int
    story: str
    injected: list[tuple[str, str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


class Ground:
    """What seeds share: one PostgreSQL and the states that stories begin with."""

    def __init__(self, folder: Path) -> None:
        settings = replace(Settings.from_environment(), home=folder, database_url=None, login=None, password=None)
        self.database = Database(settings).open()
        self.folder = folder
        months.make_runs(self.database.server)
        self.released = self.database.save()
        self.is_charged = False
        self.seeds = 0

    def charge(self) -> None:
        """Have the wrong month charged and a plan approved: where undoing begins."""
        simulation = Simulation(0, self, story="release", faults=0, fates={"ok": 1})
        simulation.bills_other = True
        assert not simulation.run().violations, simulation.ended.violations
        server = self.database.server
        payments = {moved.reference: moved.payment_id for moved in simulation.bank.book}
        self.undoing = months.Undoing.make(server, self.folder, payments, "wrong")
        self.charged, self.bank = self.database.save(), deepcopy(simulation.bank)
        self.is_charged = True

    def close(self) -> None:
        self.database.close()


class Simulation:
    """One seed.

    Args:
        story: `release`, `undo` or `ceiling`; None draws it.
        faults: how many; None draws it.
        fates: weights of what becomes of charges at the acquirer; see `Acquirer.fates`.
        kinds, points: what may go wrong, and where.
    """

    def __init__(
        self, seed: int, ground: Ground, *, story: str | None = None, faults: int | None = None, fates: dict[str, int] | None = None,
        kinds: Sequence[str] = FAULTS, points: Sequence[str] = POINTS,
    ) -> None:  # fmt: skip
        self.draw = random.Random(seed)
        story = story or self.draw.choices(("release", "undo", "ceiling"), (88, 9, 3))[0]
        if story == "undo" and not ground.is_charged:
            ground.charge()
        self.ground, self.database, self.ended = ground, ground.database, Ended(seed, story)
        self.machine = Machine(self.draw, self._between)
        self.is_undo = story == "undo"
        self.bank = deepcopy(ground.bank) if self.is_undo else Acquirer()
        weights = fates or {"ok": 78, "declined": 8, "silent": 8, "held": 6}
        for customer in months.RELEASED.bills if self.is_undo else (*months.RELEASED.bills, *months.OTHER.bills):
            self.bank.fates[f"tok-{customer}"] = self.draw.choices(list(weights), list(weights.values()))[0]
        self.now = months.ELEVENTH if self.is_undo else months.CHARGED
        self.step, self.phase = "refund", "first"
        rule = StopRule() if self.draw.random() < 0.3 else StopRule(1.0, 1.0)
        self.rule = rule
        count = self.draw.choice((1, 1, 2, 2, 3)) if faults is None else faults
        self._kinds, self._points = kinds, points
        self.pending = [fault for _ in range(count) for fault in self._drawn()]
        self.bills_other = not self.is_undo and self.draw.random() < 0.25
        self.saves: list[str] = []
        self.bans: list[Ban] = []
        self.given_up: set[str] = set()
        self.is_back = False
        self.later: list[Callable[[], None]] = []
        self.ledgers: list[PostgresLedger] = []
        self.in_flight: set[str] = set()
        self.delivered: Counter[str] = Counter()

    def _drawn(self) -> Iterator[Fault]:
        """A fault; before it, where its point is one that only a later call comes past, the death of an earlier one."""
        kind, point = self.draw.choice(self._kinds), self.draw.choice(self._points)
        if kind == "commit_lost" or point == "db.commit":
            yield Fault(kind, "db.commit", self.draw.randint(1, 25))
            return
        if point in MET_LATER:
            yield Fault(self.draw.choice(("kill", "takeover")), self.draw.choice(WITH_FILE), self.draw.choice((1, 2)))
        if point.startswith("unknown"):
            yield Fault("silent", "file.recorded", 1)
        yield Fault(kind, point, self.draw.choice((1, 1, 2, 2, 3)))

    def tell(self, what: str) -> None:
        self.ended.told.append(what)

    def violated(self, what: str) -> None:
        if what not in self.ended.violations:
            self.tell(f"VIOLATED: {what}")
            self.ended.violations.append(what)

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> Ended:
        """The story, its faults, and its end; judged."""
        self.database.restore(self.ground.charged if self.is_undo else self.ground.released)
        self.database.machine, self.database.at_commit = self.machine, self._at_commit
        self.database.held.clear()
        failpoints.watch(self.visit)
        try:
            with self._machinery():
                self.save()
                if self.ended.story == "ceiling":
                    self._ceiling()
                else:
                    self._story()
        except EndlessError as error:
            self.violated(f"no way out: {error}")
        finally:
            failpoints.watch(None)
            self.machine.end()
        return self.ended

    @contextlib.contextmanager
    def _machinery(self) -> Iterator[None]:
        def threads(**_: Any) -> Threads:
            return Threads(
                self.machine, 1
            )  # two that commit at once would wait for each other in the database, not here

        with contextlib.ExitStack() as stack:
            for module in (execution, release, remedy):
                stack.enter_context(patch.object(module, "ThreadPoolExecutor", threads))
            for module, name, value in (
                (ledger_module, "LOCK_WAIT", "2s"), (ledger_module, "TURN_WAIT", BLOCKED), (bulk, "adbc", self.database.adbc),
                (remedy, "CANARY_SIZES", months.CANARY), (remedy, "WAVE_SIZE", months.WAVE),
            ):  # fmt: skip
                stack.enter_context(patch.object(module, name, value))
            yield

    def _story(self) -> None:
        self.start("first", self.call)
        self.machine.run()
        self.phase = "resumed"
        if self._resume():
            self._judge()

    def start(self, name: str, function: Callable[[Process], Any]) -> Process:
        process = Process(f"{name} {len(self.machine.processes) + 1}")

        def run() -> Any:
            ended = function(process)
            self.tell(f"{process.name}: {str(ended)[:160]}")
            return ended

        def told() -> Any:
            try:
                return run()
            except KilledError:
                self.tell(f"{process.name}: dead")
                raise
            except Exception as error:
                self.tell(f"{process.name}: {type(error).__name__}: {str(error)[:160]}")
                if not isinstance(error, MakegoodError) and not self.is_back:
                    self.violated(f"it fell over with {type(error).__name__}: {str(error)[:200]}")
                raise

        return self.machine.start(process, told)

    def _between(self) -> None:
        """What the world does between two turns."""
        if self.draw.random() < 0.2:
            self.bank.take()
        acts, self.later = self.later, []
        for act in acts:
            self._act(act)

    # -- what processes do --------------------------------------------------------------------------------------

    def rail_of(self, process: Process) -> SimulatedRail:
        return SimulatedRail(self.bank, self.machine, self.visit, self._on_deliver)

    def sender_of(self, process: Process) -> execution.Sender:
        server = self.database.server_of(process)
        ledger = PostgresLedger(server, as_of=self.now, timezone=BUSINESS_TIMEZONE)
        self.ledgers.append(ledger)
        day = self.now.astimezone(BUSINESS_TIMEZONE).date()
        return execution.Sender(ledger, self.rail_of(process), Register(server), day, self.rule, no_progress)

    def call(self, process: Process) -> Any:
        return self._undo(process) if self.is_undo else self._release(process, months.RELEASED)

    def call_other(self, process: Process) -> Any:
        return self._release(process, months.OTHER)

    def _release(self, process: Process, month: months.Month) -> Any:
        sender = self.sender_of(process)

        def due(*arguments: Any, **named: Any) -> Any:
            found = month.due(*arguments, **named)
            self.visit("due.found")
            return found

        return release.release(
            month.run, ledger=sender.ledger, find_due=due, sender=sender, require_still_allowed=lambda: None
        )

    def _undo(self, process: Process) -> Any:
        sender, step = self.sender_of(process), self.step
        windows = months.WINDOWS
        window = windows.rebill if step == "rebill" else windows.reversal
        guard = remedy.Guard(window, lambda: self.now, BUSINESS_TIMEZONE, step)
        books = PlanInProgress(
            self.database.server_of(process), self.ground.undoing.for_step(step), step, sender.effective_on
        )
        try:
            if step == "rebill":
                return rebill(books, sender=sender, guard=guard)
            return refund(books, sender=sender, guard=guard, live=sender.rail)
        finally:
            books.close()

    def wind_down(self, process: Process) -> Any:
        """What opening an incident does, and the days after: end what was not sent, and ask about what is unknown."""
        sender = self.sender_of(process)
        with sender.turn() as turn:
            sender.ledger.end_unsent(turn, self.scopes(), "nothing more of it is sent")
        for scope in self.scopes():
            sender.look_up_unknown(scope)
        return [left for left in sender.ledger.unfinished() if left["scope"] in self.scopes()]

    def look_up(self, process: Process) -> Any:
        sender = self.sender_of(process)
        for scope in (*self.scopes(), months.OTHER.run.run_id):
            sender.look_up_unknown(scope)
        return None

    def repair(self, process: Process) -> Any:
        sender = self.sender_of(process)
        return Repair(sender.ledger, sender.rail, sender, self._meant).apply()

    def _meant(self, scope: str, wave: int, operations: pa.Table) -> pa.Table:
        if scope in months.MONTHS:
            return months.MONTHS[scope].meant(wave, operations)
        return self.ground.undoing.meant(scope.rpartition("/")[2], wave, operations)

    def scopes(self) -> list[str]:
        if self.is_undo:
            return [self.ground.undoing.plan.scope(step) for step in ("refund", "rebill")]
        return [months.RELEASED.run.run_id]

    # -- faults -------------------------------------------------------------------------------------------------

    def visit(self, point: str) -> None:
        """A process comes past a point: something may go wrong with it there, and others may go on."""
        process = self.machine.running
        if process is None:
            return
        process.require_alive()
        process.where = point
        if point in SAVED_AT:
            self.save()
        for fault in list(self.pending):
            if fault.point == point:
                fault.left -= 1
                if fault.left == 0:
                    self.pending.remove(fault)
                    self._inject(fault.kind, process)
        self.machine.pass_turn()

    def _at_commit(self, lent: Lent) -> str | None:
        process = self.machine.running
        if process is None or process is not lent._process:
            return None
        staged = self._staged_of(lent) if lent.is_handing_over else None
        if staged:
            self.in_flight.add(staged)
        try:
            losses = [f for f in self.pending if f.point == "db.commit" and f.kind == "commit_lost" and f.left == 1]
            self.visit("db.commit")
            if lent.is_handing_over and process.asleep:
                lent.sever()  # the database ends what pauses amid a hand-over
        finally:
            self.in_flight.discard(staged)
        return "lost" if losses else None

    def _staged_of(self, lent: Lent) -> str | None:
        row = lent._raw.execute(
            "SELECT staged_path FROM live_batch WHERE handed_over ORDER BY batch_id DESC LIMIT 1"
        ).fetchone()
        return row and row[0] and Path(row[0]).name

    def _inject(self, kind: str, process: Process) -> None:
        others = [p.state for p in self.machine.processes if p is not process and not p.is_over]
        state = f"{self.ended.story}/{self.phase} {process.where} beside {others[-1] if others else 'nobody'}"
        self.ended.injected.append((state, kind))
        self.tell(f"{process.name}: {kind} at {process.where}")
        match kind:
            case "kill":
                self.machine.kill(process)
                raise KilledError
            case "error":
                raise RetriableError("a fault")
            case "pause":
                process.asleep = self.draw.choice(SLEEPS)
            case "takeover":
                self._lose_locks(process)
                process.asleep = self.draw.choice(SLEEPS)
                self._second()
            case "lose_lock":
                self._lose_locks(process)
            case "lose_all":
                self._lose_all()
            case "second":
                self._second()
            case "damaged" | "damaged_ack" | "silent" | "stale" | "taken_again":
                self.bank.faults.append(kind)
            case "late":
                self.bank.is_away = True
            case "lose_staged" | "lose_arrived":
                place = self.bank.staged if kind == "lose_staged" else self.bank.arrived
                if place:
                    place.popitem()
            case "clock_back":
                self._turn_clock(self.now - timedelta(days=5))
            case "window_closes" if self.is_undo:
                self._forbid("window_closes", tuple(self.scopes()), lambda: self._turn_clock(months.LATER))
            case "stop":
                self._act(lambda: self._forbid("stop", None, self._stop))
            case "reject" | "incident":
                self._act(lambda: self._forbid(kind, tuple(self.scopes()), lambda: self._reject(kind)))
            case "restore" | "standby":
                self._bring_back(kind)
            case "repair":
                self._lose_locks(process)
                process.asleep = self.draw.choice(SLEEPS)
                self.start("repair", self.repair)

    def _second(self) -> None:
        other = self.bills_other and self.draw.random() < 0.5
        self.start("second", self.call_other if other else self.call)

    def _lose_locks(self, process: Process) -> None:
        for lock in self.database.held.values():
            if lock._process is process:
                lock.sever()

    def _lose_all(self) -> None:
        for process in self.machine.processes:
            for connection in list(process.connections):
                connection.sever()

    def _turn_clock(self, to: Any) -> None:
        self.now = to
        for ledger in self.ledgers:
            ledger._as_of = to

    # -- what people do -----------------------------------------------------------------------------------------

    def _act(self, act: Callable[[], None]) -> None:
        """Have a person do something; where the database has them wait, they do it later."""
        try:
            act()
        except psycopg.errors.LockNotAvailable:
            self.later.append(act)
        except RetriableError:
            self.later.append(act)

    def _forbid(self, kind: str, scopes: tuple[str, ...] | None, act: Callable[[], None]) -> None:
        in_flight = set(self.in_flight)
        act()
        rows = self.database.rows("SELECT staged_path FROM live_batch WHERE handed_over AND staged_path IS NOT NULL")
        self.bans.append(Ban(kind, scopes, {Path(path).name for (path,) in rows} | in_flight, len(self.saves)))

    def _person(self, name: str) -> Process:
        return Process(name)

    def _stop(self) -> None:
        server = self.database.server_of(self._person("operator"))
        with server.connect("operator") as connection:
            connection.execute("INSERT INTO sending_order (reason) VALUES ('look first')")

    def _reject(self, kind: str) -> None:
        server = self.database.server_of(self._person("operator"))
        with server.connect("operator") as connection:
            if self.is_undo:
                connection.execute(
                    "INSERT INTO plan_rejection (plan_digest, reason) VALUES (%s, 'no') ON CONFLICT DO NOTHING",
                    (self.ground.undoing.plan.plan_digest,),
                )
            elif kind == "reject":
                connection.execute(
                    "INSERT INTO decision (run_id, kind, reason) VALUES (%s, 'reject', 'no') ON CONFLICT DO NOTHING",
                    (months.RELEASED.run.run_id,),
                )
            else:
                connection.execute(
                    "INSERT INTO incident (incident_id, billing_period, charge_scope) VALUES ('inc-2023-09-00000001', %s, %s)"
                    " ON CONFLICT DO NOTHING",
                    (months.RELEASED.run.billing_period, months.RELEASED.run.run_id),
                )

    def _lift(self) -> None:
        """Two people let sending go on."""
        self.bans = [ban for ban in self.bans if ban.kind != "stop"]
        for person in ("operator", "approver"):
            server = self.database.server_of(self._person(person))
            Register(server).resume("looked", stops=(), login=person, password=None)

    # -- backups ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        if any(fault.kind in BRINGS_BACK for fault in self.pending):
            self.saves.append(self.database.save())

    def _bring_back(self, kind: str) -> None:
        """The database is what it was; whoever was connected is not any more."""
        self._lose_all()
        self.is_back = True
        place = (
            self.draw.randrange(len(self.saves))
            if kind == "restore"
            else max(0, len(self.saves) - self.draw.randint(1, 3))
        )
        self.database.restore(self.saves[place])
        self.saves = self.saves[: place + 1]
        self.bans = [ban for ban in self.bans if ban.saves <= place or ban.kind == "window_closes"]
        self.tell(f"the database is back at save {place}")

    # -- coming to an end ---------------------------------------------------------------------------------------

    def _resume(self) -> bool:
        """Call again as people would until everything is said and done; False where that does not come."""
        said: Any = None
        for number in range(ROUNDS_MAX):
            self.bank.is_away = False
            if number:
                self.bank.take_all()
            if number >= HELD_ROUNDS:
                self.bank.book_held()
            self._set_clock_right()
            is_over = any(ban.scopes for ban in self.bans)
            process = self.start("again", self.wind_down if is_over else self.call)
            self.machine.run()
            if self.later or self.is_back:  # whoever brought the database back calls again, whatever was said before
                self.is_back = False
                continue
            said = process.ended
            if process.is_alive and not isinstance(said, Exception) and self._is_done(said, is_over):
                return self._finish()
            self._react(said)
            if number >= PATIENT_ROUNDS:
                self._repair_by_hand()  # still unknown: somebody looks
        self.violated(f"no way out: {type(said).__name__}: {str(said)[:300]}")
        return False

    def _set_clock_right(self) -> None:
        if not any(ban.kind == "window_closes" for ban in self.bans):
            at = (months.TWELFTH if self.step == "rebill" else months.ELEVENTH) if self.is_undo else months.CHARGED
            if self.now != at:
                self._turn_clock(at)

    def _is_done(self, said: Any, is_over: bool) -> bool:
        if is_over:
            return not said
        if not self.is_undo:
            return said.unknown == 0 and said.not_sent == 0
        if said["unknown"]["count"] or said["left"] or said["stopped"]:
            return False
        if self.step == "refund":
            self.step = "rebill"
            return False
        return True

    def _react(self, said: Any) -> None:
        text = str(said)
        if isinstance(said, FatalError | SendingStopped) and ("repair" in text or "leaves a gap" in text):
            self._repair_by_hand()
        if isinstance(said, SendingStopped) and "makegood resume" in text:
            self._lift()

    def _repair_by_hand(self) -> None:
        process = self.start("repair", self.repair)
        self.machine.run()
        found = process.ended
        if isinstance(found, list):
            self._lift()
        elif isinstance(found, FatalError) and not self.is_back:
            self.violated(f"a repair ended with {found}")

    def _finish(self) -> bool:
        """Whoever was paused has woken up by now; in some simulations the other month's bills are charged as well."""
        if not self.bills_other:
            return True
        other = None
        for _ in range(ROUNDS_MAX):
            self.pending = []
            process = self.start("other", self.call_other)
            self.machine.run()
            other = process.ended
            if not isinstance(other, Exception) and other.unknown == 0 and other.not_sent == 0:
                return True
            self.bank.take_all()
            self.bank.book_held()
            self._react(other)
        self.violated(f"no way out for another run: {type(other).__name__}: {str(other)[:300]}")
        return False

    # -- judging ------------------------------------------------------------------------------------------------

    def _on_deliver(self, staged: str, content: Content) -> None:
        self.tell(f"{self.machine.running and self.machine.running.name}: delivers {staged} ({content.header})")
        for ban in self.bans:
            if (ban.scopes is None or content.scope in ban.scopes) and staged not in ban.recorded:
                self.violated(f"{content.scope} wave {content.wave} was delivered after {ban.kind}")

    def _judge(self) -> None:
        self._judge_customers()
        self._judge_books()

    def _judge_customers(self) -> None:
        """Nobody twice, nobody forgotten; by the acquirer's book alone."""
        kept = self.bank.kept()
        is_over = any(ban.scopes for ban in self.bans)
        right = months.RIGHT.bills if self.is_undo else months.RELEASED.bills
        others = months.OTHER.bills if self.is_undo or self.bills_other else {}
        for customer, amount in (*right.items(), *others.items()):
            token = f"tok-{customer}"
            is_declined = self.bank.fates[token] == "declined"
            due = 0 if is_declined else amount
            allowed = {due}
            if is_over and customer in months.RELEASED.bills:
                allowed |= {0, months.RELEASED.bills[customer]} if self.is_undo else {0}
            if kept.get(token, 0) not in allowed:
                self.violated(f"{customer} is charged {kept.get(token, 0)}, not {due}")
        for moved in self.bank.book:
            if moved.original and sum(
                m.amount_minor for m in self.bank.book if m.original == moved.original
            ) > _charged(self.bank, moved.original):
                self.violated(f"more is given back than was charged of {moved.original}")

    def _judge_books(self) -> None:
        """What the ledger says is what the acquirer did."""
        said = {
            reference: (status, reason)
            for reference, status, reason in self.database.rows(
                "SELECT replace(operation_id::text, '-', ''), status, reason FROM outcome"
            )
        }
        booked = {moved.reference: moved for moved in self.bank.book}
        for reference, moved in booked.items():
            if said.get(reference, ("unknown",))[0] != moved.status:
                self.violated(
                    f"the book has {moved.kind} {moved.token} {moved.status}, the ledger {said.get(reference)}"
                )
        for reference, (status, reason) in said.items():
            if reference not in booked and reason not in ("withdrawn", "never_received"):
                self.violated(f"the ledger has {reference} {status} {reason}, the book has nothing")
        clearing = self.database.rows("SELECT sum(balance_minor) FROM balance WHERE account = 'acquirer_clearing'")[0][
            0
        ]
        if int(clearing or 0) != sum(self.bank.kept().values()):
            self.violated(f"the ledger has {clearing} at the acquirer, whose book has {sum(self.bank.kept().values())}")
        suspense = self.database.rows("SELECT sum(balance_minor) FROM balance WHERE account = 'suspense'")[0][0]
        if suspense:
            self.violated(f"{suspense} stays in suspense")

    # -- what is charged can be given back once -----------------------------------------------------------------

    def _ceiling(self) -> None:
        """Two clients mean to give the same charges back, each for a reason of its own: the database lets one of them."""
        first = self.start("charge", self.call)
        self.pending = []
        self.machine.run()
        assert not isinstance(first.ended, Exception) or isinstance(first.ended, MakegoodError)
        rows = self.database.rows(
            "SELECT replace(operation_id::text, '-', ''), customer_id, amount_minor FROM operation WHERE scope = %s",
            months.RELEASED.run.run_id,
        )

        def intend(name: str) -> Callable[[Process], Any]:
            table = months._table([
                months._operation("refund", f"{name}/x/refund", name, "2023-09", customer, 1, amount, 0, original)
                for original, customer, amount in sorted(rows)
            ])  # fmt: skip
            return lambda process: self.sender_of(process).ledger.intend(name, table.select(OPERATION_COLUMNS))

        self.ended.injected.append(("ceiling/first intents.commit beside intents.commit", "second"))
        for name in ("inc-a", "inc-b"):
            self.start(name, intend(name))
        self.machine.run()
        over = self.database.rows(
            "SELECT count(*) FROM operation c WHERE kind = 'charge' AND amount_minor <"
            " (SELECT sum(amount_minor) FROM operation r WHERE r.original_id = c.operation_id)"
        )[0][0]
        if over:
            self.violated(f"of {over} charges more is to be given back than was charged")


def _charged(bank: Acquirer, payment_id: str) -> int:
    return next((moved.amount_minor for moved in bank.book if moved.payment_id == payment_id), 0)
