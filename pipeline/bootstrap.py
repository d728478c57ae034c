"""The composition root: which adapter stands behind which port, and the stages in the order they happen.

Belongs here: opening what the settings name, and handing one stage's result to the next. Does not: any rule of
a stage. The command line and the DAGs both call `Makegood`; so a night in Airflow and a command typed by hand
take the same path.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import approve as approve_stage
from pipeline import assess as assess_stage
from pipeline import cancel as cancel_stage
from pipeline import close as close_stage
from pipeline import extract as extract_stage
from pipeline import incident as incident_stage
from pipeline import lookup as lookup_stage
from pipeline import notify as notify_stage
from pipeline import plan as plan_stage
from pipeline import proof as proof_stage
from pipeline import rebill as rebill_stage
from pipeline import reconcile as reconcile_stage
from pipeline import refund as refund_stage
from pipeline import release as release_stage
from pipeline import report as report_stage
from pipeline import verify as verify_stage
from pipeline.adapters import postgres
from pipeline.adapters.charge_import import ChargeImport, Imported, read_import
from pipeline.adapters.charges_due import find_due
from pipeline.adapters.closings import NAMED_SCHEMA, Closings
from pipeline.adapters.engine import DuckDBEngine
from pipeline.adapters.holiday_calendar import holidays_around
from pipeline.adapters.incident_books import IncidentBooks, approved_payments
from pipeline.adapters.incident_lines import LIVE_SCHEMA, IncidentLines, lay_out
from pipeline.adapters.incidents import Incident, IncidentRegister, PlanRecord
from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.lead_times import LeadTimes
from pipeline.adapters.ledger import PostgresLedger
from pipeline.adapters.messages import CONTACTS, LocalSink, Outbox
from pipeline.adapters.plan_file import digest_of, lines_digest, read_plan, write_plan
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.adapters.reconciliation import PlannedLines, Reconciliation
from pipeline.adapters.remedies import PlanInProgress
from pipeline.adapters.runs import Register, history_digest
from pipeline.adapters.settlement_files import read_settlement_files
from pipeline.adapters.sources import open_source
from pipeline.adapters.timeline import facts_about
from pipeline.core.billing_period import BillingPeriod
from pipeline.core.money import format_minor
from pipeline.core.verdict import PEOPLE_NEEDED, Verification
from pipeline.core.wave import StopRule
from pipeline.core.window import Window, Windows
from pipeline.errors import FatalError, GateClosed, OutsideWindow, UsageError
from pipeline.execution import Sender
from pipeline.judge import load_suites
from pipeline.ports import HistoryPeriod, LandedRun, PaymentRail, Progress, no_progress
from pipeline.remedy import Guard, preview, require_live_states
from pipeline.settings import Settings

HISTORY_MONTHS = 12
"""Earlier periods a run is compared with: a full year shows every yearly tariff once."""

FINDINGS_SHOWN = 5
"""Findings that a person who decides sees at once; the report has them all."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A run with its verdict and the page about it."""

    run: LandedRun
    verification: Verification
    report: Path


class Makegood:
    """One installation, opened.

    Args:
        settings: where things are.
        as_of: the simulated instant (time-zone aware); None means now. Only the practice acquirer accepts one.
        progress: told as long work goes on.
    """

    def __init__(self, settings: Settings, *, as_of: datetime | None = None, progress: Progress = no_progress) -> None:
        self.settings = settings
        self._as_of = as_of
        self.progress = progress
        self.lake = ParquetLake(settings.lake)

    @cached_property
    def server(self) -> postgres.Server:
        return postgres.open_server(self.settings)

    @cached_property
    def register(self) -> Register:
        return Register(self.server)

    @cached_property
    def ledger(self) -> PostgresLedger:
        return PostgresLedger(self.server)

    @property
    def as_of(self) -> datetime:
        """The instant stages work at."""
        return self._as_of or datetime.now(UTC)

    @property
    def business_day(self) -> date:
        """The day it is in the business time zone."""
        return self.as_of.astimezone(self.settings.timezone).date()

    # -- extract and verify -------------------------------------------------------------------------------------

    def periods(self, source: str) -> list[BillingPeriod]:
        """The periods that a folder of charge files holds."""
        return extract_stage.periods_available(open_source(source))

    def extract(
        self, source: str, period: BillingPeriod, *, query: str | None = None, for_history: bool = False
    ) -> extract_stage.Extracted:
        """Land a period and make it known; see `extract.extract`."""
        landed = extract_stage.extract(
            open_source(source, query=query),
            period,
            lake=self.lake,
            progress=self.progress,
            trust_unchanged_files=for_history,
        )
        if landed.run is not None:
            self.register.record_run(landed.run)
        return landed

    def history(self, run: LandedRun, source: str, *, query: str | None = None) -> list[HistoryPeriod]:
        """The earlier months a run is compared with, latest first.

        A month is what corrected it, else what was released of it; else what the source holds, else what last landed - both
        unverified. Held runs, and runs that an incident is about, are never history.
        """
        period = BillingPeriod.parse(run.billing_period)
        on_offer = set(self.periods(source)) if query is None else set()
        earlier = (period.plus(-months) for months in range(1, HISTORY_MONTHS + 1))
        found = (self._history_of(month, source, query, on_offer) for month in earlier)
        return [month for month in found if month is not None]

    def _history_of(
        self, month: BillingPeriod, source: str, query: str | None, on_offer: set[BillingPeriod]
    ) -> HistoryPeriod | None:
        for found, standing in (
            (self.register.corrected_run(str(month)), "corrected"),
            (self.register.released_run(str(month)), "released"),
        ):
            if found is not None:
                run = self._landed(found)
                return HistoryPeriod(str(month), run.run_id, run.path, standing)
        held = self.register.held_runs(str(month))
        candidates = self.lake.runs(str(month))
        if month in on_offer or query is not None:
            landed = self.extract(source, month, query=query, for_history=True).run
            candidates = [*candidates, *([landed] if landed else [])]
        usable = [run for run in candidates if run.run_id not in held and run.row_count]
        return HistoryPeriod(str(month), usable[-1].run_id, usable[-1].path, "unverified") if usable else None

    def verify(self, run_id: str, source: str, *, query: str | None = None) -> Judged:
        """Judge a landed run against its history and write its report."""
        run = self._landed(run_id)
        history = self.history(run, source, query=query)
        folder = self.settings.reports / run.run_id
        folder.mkdir(parents=True, exist_ok=True)
        verification = verify_stage.verify(
            run,
            history,
            engine=DuckDBEngine(),
            suites=load_suites(self.settings.suites),
            report_dir=folder,
            as_of=self.as_of,
            progress=self.progress,
        )
        self.register.record_verification(
            run.run_id,
            suite_digest=verification.suite_digest,
            history_digest=history_digest([month.run_id for month in history]),
            decision=verification.decision,
            findings=[asdict(finding) for finding in verification.findings],
            not_judged=[asdict(item) for item in verification.not_judged],
            report=str((folder / REPORT_NAME).relative_to(self.settings.home)),
        )
        return Judged(run, verification, self.render(run.run_id))

    # -- report and decide --------------------------------------------------------------------------------------

    def render(self, run_id: str) -> Path:
        """Write the run's report anew, with what people said and what was charged since; returns its path."""
        folder = self.settings.reports / run_id
        try:
            verification = Verification.load(folder)
        except FileNotFoundError:
            raise UsageError(f"{run_id} has not been verified here; run `makegood verify` first") from None
        standing = self.register.standing(run_id)
        tally = release_stage.outcome(run_id, ledger=self.ledger)
        sent = tally.charged + tally.declined + tally.unknown + tally.not_sent
        path = report_stage.write(
            verification,
            folder / REPORT_NAME,
            reviews=self.register.reviews(run_id),
            decisions=[asdict(decision) for decision in standing.decisions],
            outcome=tally.to_json() if sent else None,
        )
        report_stage.write_index(self.settings.reports, self.register.recent())
        return path

    def decide(self, run_id: str, *, kind: str, reason: str) -> dict[str, Any]:
        """Record the decision of the person whose login the settings carry; returns where the decision stands."""
        self.register.decide(
            run_id, kind=kind, reason=reason, login=self.settings.login, password=self.settings.password
        )
        return self._decided(run_id)

    def decide_for_airflow_user(self, run_id: str, *, kind: str, reason: str, user: str) -> dict[str, Any]:
        """Record the decision of a user whom Airflow authenticated."""
        self.register.decide_for_airflow_user(run_id, kind=kind, reason=reason, user=user)
        return self._decided(run_id)

    def _decided(self, run_id: str) -> dict[str, Any]:
        with contextlib.suppress(UsageError):
            self.render(run_id)
        standing = self.register.standing(run_id)
        agreed = len(standing.releasers) >= PEOPLE_NEEDED and not standing.rejecters
        return {
            "run_id": run_id,
            "state": "rejected" if standing.rejecters else "released" if agreed else "waiting for another person",
            "released_by": list(standing.releasers),
            "rejected_by": list(standing.rejecters),
            "people_needed": PEOPLE_NEEDED,
        }

    def review(self, run_id: str, comment: str) -> Path:
        """Mark the run's report as reviewed by the person whose login the settings carry; returns the report's path."""
        self.register.review(run_id, comment=comment, login=self.settings.login, password=self.settings.password)
        return self.render(run_id)

    def review_for_airflow_user(self, run_id: str, *, comment: str, user: str) -> Path:
        """Mark the run's report as reviewed by a user whom Airflow authenticated; returns the report's path."""
        self.register.review_for_airflow_user(run_id, comment=comment, user=user)
        return self.render(run_id)

    def at_stake(self, run_id: str) -> dict[str, Any]:
        """What a person who decides on a run has to see: counts, amounts and findings; no customer.

        Returns:
            `run_id, billing_period, customers, amount, findings_count, findings` (at most `FINDINGS_SHOWN`, the most
            important first), `released_by`, `people_missing`.

        Raises:
            GateClosed: it was rejected, or another run of its period has been charged.
        """
        standing = self.register.standing(run_id)
        if standing.rejecters or standing.charged_by_other:
            self.require_release_allowed(run_id)  # raises: nobody can decide on it any more
        verification = Verification.load(self.settings.reports / run_id)
        due = self.preview_release(run_id)["due"]
        return {
            "run_id": run_id,
            "billing_period": standing.billing_period,
            "customers": due["rows"],
            "amount": format_minor(due["amount_minor"], verification.currency),
            "findings_count": len(verification.findings),
            "findings": [finding.explanation for finding in verification.findings[:FINDINGS_SHOWN]],
            "released_by": list(standing.releasers),
            "people_missing": max(0, PEOPLE_NEEDED - len(standing.releasers)),
        }

    def settled(self, run_id: str) -> str | None:
        """Why nothing is left to do with a landed run until something new arrives; None while something is."""
        standing = self.register.standing(run_id)
        tally = release_stage.outcome(run_id, ledger=self.ledger)
        if tally.not_sent or tally.unknown or not standing.verdicts:
            return None
        if tally.charged or tally.declined:
            return "has been charged"
        try:
            self.require_release_allowed(run_id)
        except OutsideWindow:
            return "passed the gate and waits for the billing calendar"
        except GateClosed as closed:
            return f"was dealt with: {closed}"
        return None

    # -- release ------------------------------------------------------------------------------------------------

    def require_release_allowed(self, run_id: str) -> str:
        """Who or what allows the run to be charged now; raises as `release.require_allowed` and `require_not_held`."""
        release_stage.require_not_held(run_id, self._holds(run_id))
        return release_stage.require_allowed(self.register.standing(run_id), self.settings.calendar, self.business_day)

    def prepare_release(self, run_id: str) -> list[int]:
        """Commit the run's due charges as operations; returns the numbers of the waves still to be answered."""
        authority = self.require_release_allowed(run_id)
        release_stage.prepare(self._landed(run_id), ledger=self.ledger, find_due=self._find_due(run_id))
        self.register.audit("release", run_id, {"allowed_by": authority})
        return [wave.number for wave in self.ledger.waves(run_id) if not wave.answered]

    def send_wave(self, run_id: str, wave: int) -> release_stage.Released:
        """Send one prepared wave of a run, unless it has its answers already."""
        self.require_release_allowed(run_id)
        with self.rail() as rail:
            self._sender(rail).send(run_id, only_wave=wave)
        return release_stage.outcome(run_id, ledger=self.ledger)

    def release(self, run_id: str) -> release_stage.Released:
        """Charge what the run still owes the acquirer; calling it again charges nothing twice."""
        authority = self.require_release_allowed(run_id)
        self.register.audit("release", run_id, {"allowed_by": authority})
        try:
            with self.rail() as rail:
                return release_stage.release(
                    self._landed(run_id), ledger=self.ledger, find_due=self._find_due(run_id), sender=self._sender(rail)
                )
        finally:
            with contextlib.suppress(UsageError):
                self.render(run_id)

    def preview_release(self, run_id: str) -> dict[str, Any]:
        """What a release would charge, by class of row; writes and sends nothing."""
        run = self._landed(run_id)
        classes = self._find_due(run_id)(run, self.ledger.charged(run.billing_period)).classes
        return {"run_id": run_id, "due": {"rows": 0, "amount_minor": 0}} | classes

    def _holds(self, run_id: str) -> list[Incident]:
        """Incidents that bear on charging a run: open ones of its period, and any that is about the run itself."""
        period = run_id[: len("YYYY-MM")]
        return [
            i
            for i in self.incidents.incidents()
            if i.charge_scope == run_id or (i.billing_period == period and not i.closed_at)
        ]

    def _find_due(self, run_id: str) -> Any:
        """How the run's due charges are found, issuers on hold left out."""
        held = frozenset(issuer for incident in self._holds(run_id) for issuer in incident.issuers or ())
        return partial(find_due, held_issuers=held)

    def stop(self, reason: str) -> dict[str, Any]:
        """Halt all sending within one wave; returns what is left, by name."""
        self.register.order_sending("stop", reason=reason, login=self.settings.login, password=self.settings.password)
        return {"sending": "stopped", "left": self.ledger.unfinished()}

    def resume(self, reason: str) -> dict[str, Any]:
        """Allow sending again."""
        self.register.order_sending("resume", reason=reason, login=self.settings.login, password=self.settings.password)
        return {"sending": "allowed", "left": self.ledger.unfinished()}

    def add_person(self, name: str, role: str, *, admin_url: str | None) -> dict[str, str]:
        """Give a person a login; with the embedded server its password is made and kept in a file."""
        if admin_url is None and self.settings.database_url:
            raise UsageError("on your own server pass --admin-url with a login that may create roles")
        passwords = None if admin_url else self.server.passwords
        postgres.add_person(admin_url or postgres.superuser_url(self.settings), passwords, name, f"makegood_{role}")
        where = f"password in {passwords / name}" if passwords else "set a password on your server"
        return {"login": name, "role": role, "password": where}

    @contextlib.contextmanager
    def rail(self) -> Iterator[PaymentRail]:
        """The rail to the acquirer, told what time it is."""
        with PracticeRail(self.settings.acquirer, outbox=self.settings.home / "outgoing") as rail:
            if self._as_of is not None and not rail.simulated:
                raise FatalError("a real acquirer knows its own time: --as-of works with the practice acquirer alone")
            rail.set_clock(self._as_of)
            yield rail

    def _sender(self, rail: PaymentRail) -> Sender:
        return Sender(self.ledger, rail, self.register, self.business_day, StopRule(), self.progress)

    def _landed(self, run_id: str) -> LandedRun:
        run = self.lake.find(run_id, thoroughly=True)  # DuckDB reads over a flipped byte
        if run is None:
            raise UsageError(f"no run {run_id!r} was landed here; `makegood verify` lands one and prints its run_id")
        return run

    # -- incidents ----------------------------------------------------------------------------------------------

    @cached_property
    def incidents(self) -> IncidentRegister:
        return IncidentRegister(self.server, self.settings.home)

    @cached_property
    def incident_books(self) -> IncidentBooks:
        return IncidentBooks(self.server)

    def open_incident(
        self, *, corrected: str, wrong: str | None = None, charges: Path | None = None, issuers: list[str] | None = None,
        reason: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Open an incident over a run's charges, or over charges that another system made, and assess it.

        From then on its cohort is on hold. Repeating it is the same incident; another corrected run ends older plans.

        Args:
            corrected: the run with the right amounts; it must have passed the gate.
            wrong: the run that was charged.
            charges: a file of charges made elsewhere.
            issuers: only what was sent to these.
        """
        standing = self.register.standing(corrected)
        if charges is None and wrong is None:
            raise UsageError(
                "which charges were wrong? --run RUN, or --charges FILE for charges made by another system"
            )
        period = self.register.standing(wrong).billing_period if wrong else None
        imported = self._import_charges(charges, period) if charges else None
        incident_stage.require_correct(
            standing, billing_period=imported.billing_period if imported else period, wrong_run=wrong
        )
        if imported is None:
            incident_stage.require_charged(wrong, self.incident_books.has_charges(wrong))
        incident = self.incidents.open_incident(
            billing_period=standing.billing_period, charge_scope=imported.scope if imported else wrong, issuers=issuers,
            corrected_run=corrected, reason=reason, login=self.settings.login, password=self.settings.password,
        )  # fmt: skip
        assessment = self.assess(incident.incident_id).to_json()
        taken = {"imported": {name: getattr(imported, name) for name in imported.__slots__}} if imported else {}
        return incident.to_json() | assessment | taken

    def assess(self, incident_id: str) -> assess_stage.Assessment:
        """Who was hurt, and by how much; asks no acquirer. Keeps what it found for the incident's page."""
        incident = self.incidents.find(incident_id)
        with self._lines(incident, self.incident_books.wrong_charges(incident)) as lines:
            assessment = assess_stage.assess(incident_id, incident.billing_period, lines)
        assessment.save(self._assessment_file(incident))
        return assessment

    def _assessment_file(self, incident: Incident) -> Path:
        return self.settings.home / "incidents" / incident.incident_id / f"assessment-{incident.corrected_run}.json"

    def plan(
        self,
        incident_id: str,
        *,
        reversal: Window | None = None,
        rebill: Window | None = None,
        leave_equal: bool = False,
    ) -> plan_stage.Draft:
        """What putting it right would take, computed from what is true now; stores nothing.

        Args:
            reversal, rebill: the windows; None takes the month's default ones while they lie ahead.
        """
        incident = self.incidents.find(incident_id)
        if incident.closed_at:
            raise GateClosed(f"{incident_id} is closed; there is nothing left to plan")
        incident_stage.require_correct(
            self.register.standing(incident.corrected_run), billing_period=incident.billing_period, wrong_run=None
        )
        windows = plan_stage.choose_windows(self.business_day, reversal=reversal, rebill=rebill)
        is_import = incident.charge_scope.startswith("import-")
        policy = plan_stage.Policy(leave_equal=leave_equal, charge_missing=not is_import)
        times = LeadTimes(self.settings.home)
        plans = self.incidents.plans(incident_id)
        wrong = self.incident_books.wrong_charges(incident)
        with self.rail() as rail:
            name = "practice" if rail.simulated else "adyen_batch"
            plan_stage.require_timely(windows, rail=name, answer_days=times.answer_days(name))
            answer = rail.ask_states(
                payment_ids=approved_payments(wrong)
            )  # it looks them up while the lines are laid out
            with self._lines(incident, wrong) as lines:
                del wrong
                return plan_stage.plan(
                    incident,
                    lines,
                    facts=plan_stage.Facts(
                        live=answer().select(LIVE_SCHEMA.names),
                        undone=self.incident_books.undone(incident, nothing_yet=not plans),
                        rebilled=self.incident_books.rebilled(incident, nothing_yet=not plans),
                        clock=self._clock(times, windows),
                    ),
                    windows=windows,
                    policy=policy,
                    plans=plans,
                    lines_digest=lines_digest,
                    digest_of=digest_of,
                )

    def request_approval(self, draft: plan_stage.Draft, *, user: str | None = None) -> PlanRecord:
        """Store a plan, as asked for by the person whose login the settings carry, or by `user` whom Airflow authenticated."""
        incident = self.incidents.find(draft.header["incident_id"])
        if not draft.operation_count:
            raise UsageError(
                f"{incident.incident_id}: nothing is left to undo or charge; {draft.summary['open']} lines are open"
            )
        folder = self.settings.home / "incidents" / incident.incident_id
        given = {
            "incident": incident, "plan_digest": draft.plan_digest, "windows": draft.windows,
            "file": write_plan(folder, draft.header, draft.lines, draft.plan_digest),
            "operation_count": draft.operation_count, "total_minor": draft.total_minor, "summary": draft.summary,
            "exceptions": draft.exceptions(), "successor_of": draft.header["successor_of"],
        }  # fmt: skip
        if user is not None:
            return self.incidents.store_plan_for_airflow_user(**given, user=user)
        return self.incidents.store_plan(**given, login=self.settings.login, password=self.settings.password)

    def plan_to_decide(self, incident_id: str, plan_digest: str | None = None) -> PlanRecord:
        """The plan named by its digest (or the first 12 digits of it), else the incident's newest."""
        if plan_digest:
            record = self.incidents.plan(plan_digest)
            if record.incident_id != incident_id:
                raise UsageError(f"plan {plan_digest} belongs to {record.incident_id}, not {incident_id}")
            return record
        plans = self.incidents.plans(incident_id)
        if not plans:
            raise GateClosed(f"{incident_id} has no plan; `makegood incident plan {incident_id} --store` makes one")
        return plans[0]

    def approve(self, plan: PlanRecord, *, user: str | None = None) -> PlanRecord:
        """Approve `plan`, as it was shown, as the person whose login the settings carry, or as an Airflow user."""
        if user is not None:
            record = partial(self.incidents.approve_for_airflow_user, user=user)
        else:
            record = partial(self.incidents.approve, login=self.settings.login, password=self.settings.password)
        return approve_stage.approve(plan, as_of=self.as_of, timezone=self.settings.timezone, record=record)

    def reject(self, plan: PlanRecord, *, reason: str, user: str | None = None) -> PlanRecord:
        """Reject `plan`; nothing of it is executed from then on."""
        if user is not None:
            return self.incidents.reject_for_airflow_user(plan.plan_digest, reason=reason, user=user)
        return self.incidents.reject(
            plan.plan_digest, reason=reason, login=self.settings.login, password=self.settings.password
        )

    def stated_impact(self, plan: PlanRecord) -> str:
        """What `plan` does, in one sentence with counts and amounts: what an approver reads."""
        return plan_stage.stated_impact(plan.summary)

    # -- cancel, refund, rebill, notify -------------------------------------------------------------------------

    def cancel(self, incident_id: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Void what the approved plan says and is still due; see `remedy.carry_out` for what comes back and is raised."""
        return self._carry_out("cancel", incident_id, dry_run)

    def refund(self, incident_id: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Refund what the approved plan says and is still due, and voids that came too late."""
        return self._carry_out("refund", incident_id, dry_run)

    def rebill(self, incident_id: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Charge the right amounts of the approved plan, to customers whose wrong charges are certainly undone."""
        return self._carry_out("rebill", incident_id, dry_run)

    def _carry_out(self, step: str, incident_id: str, dry_run: bool) -> dict[str, Any]:
        plan = self.incidents.require_approved(incident_id, self._as_of)
        names = {"incident_id": incident_id, "plan_digest": plan.plan_digest, "step": step}
        window = plan.windows.rebill if step == "rebill" else plan.windows.reversal
        guard = Guard(window, self._money_clock, self.settings.timezone, "rebills" if step == "rebill" else "reversals")
        with contextlib.closing(PlanInProgress(self.server, plan, step, self.business_day)) as books:
            if dry_run:
                return names | {"dry_run": True} | preview(books)
            self.register.audit(step, incident_id, {"plan": plan.plan_digest})
            with self.rail() as rail:
                rule = StopRule(amount_minor_max=plan.total_minor)
                sender = Sender(self.ledger, rail, self.register, self.business_day, rule, self.progress)
                if step == "rebill":
                    return names | rebill_stage.rebill(books, sender=sender, guard=guard)
                carry_out = cancel_stage.cancel if step == "cancel" else refund_stage.refund
                return names | carry_out(books, sender=sender, guard=guard, live=require_live_states(rail))

    def _money_clock(self) -> datetime:
        """The instant windows are held against: the simulated one, else the database's."""
        if self._as_of is not None:
            return self._as_of
        with self.server.connect() as connection:
            return connection.execute("SELECT now()").fetchone()[0]

    def notify(self, incident_id: str, *, dry_run: bool = False, in_quiet_hours: bool = False) -> dict[str, Any]:
        """Tell the incident's customers what was done, once each; see `notify.notify`.

        Raises:
            OutsideWindow: these are quiet hours, and `in_quiet_hours` is not set.
        """
        incident = self.incidents.find(incident_id)
        if not (dry_run or in_quiet_hours):
            notify_stage.require_waking_hours(self.as_of, self.settings.timezone)
        approved = [plan for plan in self.incidents.plans(incident_id) if plan.approver]
        plans = [read_plan(self.settings.home / plan.file, plan.plan_digest).lines for plan in approved]
        corrected = self.lake.find(incident.corrected_run)
        contacts = Path(corrected.source) / CONTACTS if corrected and "://" not in corrected.source else None
        with contextlib.closing(Outbox(self.server, incident_id, plans=plans, contacts=contacts)) as outbox:
            sink = LocalSink(self.settings.home / "outbox")
            return notify_stage.notify(outbox, sink, progress=self.progress, dry_run=dry_run)

    # -- reconcile, prove, close ------------------------------------------------------------------------------------

    @cached_property
    def closings(self) -> Closings:
        return Closings(self.server)

    def reconcile(self, incident_id: str) -> dict[str, Any]:
        """Lay the incident's plans, the ledger and all settlement files side by side; see `reconcile.reconcile`."""
        return self._reconcile(self.incidents.find(incident_id)).to_json()

    def settle_day(self) -> dict[str, Any]:
        """The daily settlement: look up what is unknown in any scope, then match all files with all operations."""
        unknown = sorted({item["scope"] for item in self.ledger.unfinished() if item["state"] == "unknown"})
        if unknown:
            with self.rail() as rail, self.ledger.sending():
                for scope in unknown:
                    self._sender(rail).look_up_unknown(scope)
        left = [item for item in self.ledger.unfinished() if item["state"] == "unknown"]
        return self._reconcile(None).to_json() | {"looked_up": len(unknown), "unknown": left}

    def _reconcile(self, incident: Incident | None) -> reconcile_stage.Reconciled:
        incident_id = incident.incident_id if incident else None
        plans = [p for p in self.incidents.plans(incident_id) if p.approver] if incident_id else []
        holidays = holidays_around(self.business_day, timezone=self.settings.timezone, home=self.settings.home)
        with self.rail() as rail:
            files = read_settlement_files(rail.settle(), self.settings.timezone, self.progress)

            def ask(payment_ids: Any, references: Any) -> tuple[Any, Any]:
                return rail.states(payment_ids=payment_ids), rail.states(merchant_references=references)

            with Reconciliation(self.server, incident_id=incident_id, today=self.business_day) as work:
                return reconcile_stage.reconcile(
                    work, files=files, plans=[self._planned(plan) for plan in plans], ask=ask, today=self.business_day,
                    holidays=holidays, currency=files.lines["currency"][0].as_py() if files.lines.num_rows else "XXX",
                )  # fmt: skip

    def _planned(self, plan: PlanRecord) -> PlannedLines:
        lines = read_plan(self.settings.home / plan.file, plan.plan_digest).lines
        return PlannedLines(plan.number, lines, plan.windows.reversal.last, plan.windows.rebill.last)

    def prove(self, incident_id: str) -> proof_stage.Proof:
        """The conservation proof, from the source and the acquirer's own book as it is now."""
        incident = self.incidents.find(incident_id)
        return self._prove(incident, self.closings.named(incident))

    def _prove(self, incident: Incident, named: pa.Table) -> proof_stage.Proof:
        folder = self.settings.home / "incidents" / incident.incident_id
        folder.mkdir(parents=True, exist_ok=True)
        with self.rail() as rail:
            rail.export_book(folder / "book.parquet")
        wrong = self._wrong_charges(incident)
        proof = proof_stage.prove(
            incident_id=incident.incident_id, book=folder / "book.parquet", wrong=wrong,
            correct=self._landed(incident.corrected_run).path, named=named, issuers=incident.issuers,
            other_incidents=[other.incident_id for other in self.incidents.incidents()],
            currency=wrong["currency"][0].as_py() if wrong.num_rows else "XXX", timezone=self.settings.timezone,
        )  # fmt: skip
        (folder / PROOF_TEXT).write_text(proof.to_text(), encoding="utf-8")
        pq.write_table(proof.items, folder / "proof-items.parquet")
        return proof

    def _wrong_charges(self, incident: Incident) -> pa.Table:
        """What the source charged wrongly: the wrong run as it landed; of charges made elsewhere, what was imported."""
        if incident.charge_scope.startswith("import-"):
            charges = self.incident_books.wrong_charges(incident)
            charges = charges.filter(pc.equal(charges["state"], "succeeded"))
            period = pa.repeat(incident.billing_period, charges.num_rows)
            return charges.append_column("billing_period", period).select(proof_stage.WRONG_SCHEMA.names)
        with pq.ParquetFile(self._landed(incident.charge_scope).path) as file:
            columns = [name for name in proof_stage.WRONG_SCHEMA.names if name not in ("occurrence", "payment_id")]
            charges = file.read(columns=columns)
        charges = charges.filter(pc.greater(charges["amount_minor"], 0))
        if incident.issuers is not None:
            charges = charges.filter(pc.is_in(charges["issuer"], pa.array(incident.issuers)))
        charges = charges.append_column("occurrence", pa.repeat(pa.scalar(1, pa.int64()), charges.num_rows))
        return charges.append_column("payment_id", pa.nulls(charges.num_rows, pa.string()))

    def close(self, incident_id: str, *, accept_open: str | None = None) -> dict[str, Any]:
        """Close an incident with its proof, and keep it as a case that the gate must hold from now on.

        Args:
            accept_open: why what is open by name is accepted and written off; takes a person's login.

        Raises:
            GateClosed: something is unknown, unsettled, broken, unexplained, or open and not accepted.
            UsageError: a person must accept, and nobody is logged in.
        """
        incident = self.incidents.find(incident_id)
        if incident.closed_at:
            raise GateClosed(f"{incident_id} is closed already; its proof stands")
        if accept_open and self.settings.login is None:
            raise UsageError(
                "who accepts? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        reconciled = self._reconcile(incident)
        close_stage.require_settled(
            incident_id,
            unfinished=self.closings.unfinished(incident),
            waiting=sum(n for scope, n in reconciled.waiting.items()
                        if scope == incident.charge_scope or scope.startswith(f"{incident_id}/")),
            breaks=self.closings.open_breaks(incident),
        )  # fmt: skip
        named = self.closings.named(incident)
        proof = self._prove(incident, named)
        close_stage.require_proven(incident_id, proof, accepted=accept_open)
        if accept_open and proof.count("open"):
            self.closings.write_off(incident, effective_on=self.business_day)
            proof = self._prove(incident, _written_off(proof.items, accept_open))
        kept = self._keep_case(incident)
        record = proof.to_json() | {"accepted_open": accept_open, "untold": self.closings.untold(incident)}
        self.closings.close(incident, record, login=self.settings.login, password=self.settings.password)
        folder = self.settings.home / "incidents" / incident_id
        return {
            "incident_id": incident_id, "state": "closed", "residual_minor": proof.residual_minor, "breaks": reconciled.break_count,
            "bills": proof.bills, "right": proof.right, "open": proof.count("open"), "untold": record["untold"],
            "regression_case": kept, "balances": self.closings.balances(incident), "book": str(folder / "book.parquet"),
            "proof_text": str(folder / PROOF_TEXT), "proof": proof.to_json(),
        }  # fmt: skip

    def _keep_case(self, incident: Incident) -> bool:
        """Keep the wrong run with the history it was judged against; False for charges that no run of ours made."""
        try:
            judged = Verification.load(self.settings.reports / incident.charge_scope)
        except FileNotFoundError:
            return False
        self.closings.keep_case(incident.incident_id, judged.run_id, [asdict(month) for month in judged.history])
        return True

    def regression(self) -> dict[str, Any]:
        """Judge the wrong run of every closed incident by today's suites; returns the cases, and those the gate would let go."""
        cases = []
        for case in self.closings.cases():
            history = [HistoryPeriod(m["billing_period"], m["run_id"], self._landed(m["run_id"]).path, m["standing"])
                       for m in case["history"]]  # fmt: skip
            verification = verify_stage.verify(
                self._landed(case["wrong_run"]), history, engine=DuckDBEngine(), suites=load_suites(self.settings.suites),
                report_dir=self.settings.home / "regression" / case["incident_id"], as_of=self.as_of, progress=self.progress,
            )  # fmt: skip
            cases.append({"incident_id": case["incident_id"], "run_id": case["wrong_run"], "decision": verification.decision,
                          "because": verification.findings[0].explanation if verification.findings else None})  # fmt: skip
        return {"cases": cases, "released": [case["incident_id"] for case in cases if case["decision"] == "release"]}

    def lookup(self, customer_id: str) -> dict[str, Any]:
        """One customer's story in plain words, and what comes next; see `lookup.timeline`."""
        return lookup_stage.timeline(customer_id, facts_about(self.server, customer_id))

    # -- pages, imports and lines -------------------------------------------------------------------------------

    def render_incident(self, incident_id: str, **later: Any) -> Path:
        """Write the incident's page anew; returns its path.

        Args:
            later: what further steps have to say: `execution`, `reconciliation`, `proof`; see `report.write_incident`.
        """
        incident = self.incidents.find(incident_id)
        file = self._assessment_file(incident)
        assessment = assess_stage.Assessment.load(file) if file.exists() else self.assess(incident_id)
        plans = self.incidents.plans(incident_id)
        return report_stage.write_incident(
            file.with_name(INCIDENT_PAGE),
            incident=incident.to_json(),
            assessment=asdict(assessment),
            plans=[plan.to_json() | {"impact": self.stated_impact(plan)} for plan in plans],
            **later,
        )

    def _import_charges(self, path: Path, period: str | None) -> Imported:
        file = read_import(path)
        if period not in (None, file.billing_period):
            raise UsageError(f"{path.name} is for {file.billing_period}, the run named is for {period}")
        with self.rail() as rail:
            states = rail.states(payment_ids=file.charges["payment_reference"])
        return ChargeImport(self.server).take_over(file, states, effective_on=self.business_day)

    def _lines(self, incident: Incident, wrong: pa.Table) -> contextlib.AbstractContextManager[IncidentLines]:
        """The incident's charges beside the right bills."""
        return lay_out(
            billing_period=incident.billing_period, wrong=wrong, elsewhere=self.incident_books.charged_elsewhere(incident),
            corrected=self._landed(incident.corrected_run).path, issuers=incident.issuers,
        )  # fmt: skip

    def _clock(self, times: LeadTimes, windows: Windows) -> Any:
        """Payment method and issuer to the days by which money is back that goes out on the last reversal day."""
        sent_by = windows.reversal.last
        holidays = holidays_around(sent_by, timezone=self.settings.timezone, home=self.settings.home)

        def back_by(payment_method: str, issuer: str) -> tuple[date | None, date | None]:
            lead = times.of(payment_method, issuer)
            return tuple(lead.money_back_by(kind, sent_by, holidays) for kind in ("void", "refund"))

        return back_by


def _written_off(items: pa.Table, reason: str) -> pa.Table:
    """Every open bill of a proof, as written off for `reason`."""
    names = ["customer_id", "billing_period", "bill_cycle"]
    bills = items.filter(pc.equal(items["verdict"], "open")).select(names)
    bills = bills.append_column("reason", pa.repeat(reason, bills.num_rows))
    return bills.append_column("is_written_off", pa.repeat(True, bills.num_rows)).cast(NAMED_SCHEMA)


REPORT_NAME = "report.html"
PROOF_TEXT = "proof.txt"
INCIDENT_PAGE = "incident.html"


def open_makegood(
    *, as_of: datetime | None = None, progress: Progress = no_progress, settings: Settings | None = None
) -> Makegood:
    """The installation that the environment describes."""
    return Makegood(settings or Settings.from_environment(), as_of=as_of, progress=progress)
