"""The stages of an incident, from opening to proof, on one installation.

Belongs here: handing one stage's result to the next. Does not: any rule of a stage (`incident`, `assess`, `plan`, `approve`, `cancel`,
`refund`, `rebill`, `reconcile`, `notify`, `proof`, `close`).
"""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date, datetime
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
from pipeline import incident as incident_stage
from pipeline import lookup as lookup_stage
from pipeline import notify as notify_stage
from pipeline import plan as plan_stage
from pipeline import proof as proof_stage
from pipeline import rebill as rebill_stage
from pipeline import reconcile as reconcile_stage
from pipeline import refund as refund_stage
from pipeline import report as report_stage
from pipeline import verify as verify_stage
from pipeline.adapters.charge_import import ChargeImport, Imported, read_import
from pipeline.adapters.closings import NAMED_SCHEMA, Closings
from pipeline.adapters.deviations import CameBack
from pipeline.adapters.engine import DuckDBEngine
from pipeline.adapters.holiday_calendar import holidays_around
from pipeline.adapters.incident_books import IncidentBooks, approved_payments
from pipeline.adapters.incident_lines import LIVE_SCHEMA, IncidentLines, lay_out
from pipeline.adapters.incidents import Incident, IncidentRegister, PlanRecord
from pipeline.adapters.lead_times import LeadTimes
from pipeline.adapters.messages import CONTACTS, PROMISED_COLUMNS, LocalSink, Outbox
from pipeline.adapters.plan_file import digest_of, lines_digest, read_plan, write_plan
from pipeline.adapters.reconciliation import PLANNED_COLUMNS, PlannedLines, Reconciliation
from pipeline.adapters.remedies import STEP_COLUMNS, PlanInProgress
from pipeline.adapters.settlement_files import digests, read_settlement_files
from pipeline.adapters.timeline import facts_about
from pipeline.core.verdict import Verification
from pipeline.core.wave import StopRule
from pipeline.core.window import Window, Windows
from pipeline.errors import GateClosed, UsageError
from pipeline.judge import load_suites
from pipeline.oversight import Oversight
from pipeline.ports import HistoryPeriod
from pipeline.remedy import Guard, preview, require_live_states

PROOF_TEXT = "proof.txt"
INCIDENT_PAGE = "incident.html"
KEPT_FOR_PAGE = {"reconciliation": "reconciliation.json", "proof": "proof.json"}
"""What the newest reconciliation and proof have found, beside the incident's page that shows it."""


class Remediation(Oversight):
    """Putting wrong charges right; the people are whoever the settings or Airflow authenticated."""

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
        self._end_unsent(incident.billing_period)
        assessment = self.assess(incident.incident_id).to_json()
        taken = {"imported": {name: getattr(imported, name) for name in imported.__slots__}} if imported else {}
        return incident.to_json() | assessment | taken

    def _end_unsent(self, billing_period: str) -> None:
        """End what runs of the period meant to charge and have not sent, once what is in flight has come to its end. The hold stands
        since the incident was opened, so a release that is at work stops before its next file.

        Raises:
            RetriableError: what is in flight did not come to its end in time; opening the incident again waits on.
        """
        with self.rail() as rail, self._sender(rail).turn() as turn:
            runs = self.register.runs(billing_period)
            self.ledger.end_unsent(turn, runs, "an incident holds its bills")

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
        plan = self.incidents.require_approved(incident_id, self._as_of, STEP_COLUMNS[step])
        names = {"incident_id": incident_id, "plan_digest": plan.plan_digest, "step": step}
        window = plan.windows.rebill if step == "rebill" else plan.windows.reversal
        guard = Guard(window, self._money_clock, self.settings.timezone, "rebills" if step == "rebill" else "reversals")
        with contextlib.closing(PlanInProgress(self.server, plan, step, self.business_day)) as books:
            if dry_run:
                return names | {"dry_run": True} | preview(books)
            self.audit_log.append(step, incident_id, {"plan": plan.plan_digest})
            with self.rail() as rail:
                sender = self._sender_with(rail, StopRule(amount_minor_max=plan.total_minor))
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
        plans = [
            read_plan(self.settings.home / plan.file, plan.plan_digest, PROMISED_COLUMNS).lines for plan in approved
        ]
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
        """Lay the incident's plans, the ledger and all settlement files side by side; see `reconcile.reconcile`.

        What is unknown is looked up first: that moves no money. Keeps what it found for the incident's page.
        """
        return self._reconcile(self.incidents.find(incident_id)).to_json()

    def settle_day(self) -> dict[str, Any]:
        """The daily settlement: look up what is unknown in any scope, match all files with all operations, and anchor log and books."""
        unknown = sorted({item["scope"] for item in self.ledger.unfinished() if item["state"] == "unknown"})
        self._look_up(unknown)
        left = [item for item in self.ledger.unfinished() if item["state"] == "unknown"]
        found = self._reconcile(None).to_json()
        return found | {"looked_up": len(unknown), "unknown": left, "anchor": self.anchor_audit(with_books=True)}

    def _look_up(self, scopes: list[str]) -> None:
        """Ask what became of operations that were sent and never answered; that moves no money."""
        if scopes:
            with self.rail() as rail:
                for scope in scopes:
                    self._sender(rail).look_up_unknown(scope)

    def _reconcile(self, incident: Incident | None) -> reconcile_stage.Reconciled:
        """Match; and where something differs, or a wrong charge is not settled, look for what came back without us, and match again."""
        if incident:
            self._look_up(self.closings.unknown_scopes(incident))
        result = self._match(incident)
        about = [incident] if incident else self.incidents.incidents()
        is_told = result.break_count or (incident and incident.charge_scope in result.waiting)
        kept = [self._keep_what_came_back(each) for each in about if is_told and each.closed_at is None]
        if any(kept):
            result = self._match(incident)
        if incident:
            self._keep_for_page(incident.incident_id, "reconciliation", result.to_json())
        return result

    def _keep_for_page(self, incident_id: str, name: str, found: dict[str, Any]) -> None:
        file = self.settings.home / "incidents" / incident_id / KEPT_FOR_PAGE[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, ensure_ascii=False, default=str), encoding="utf-8")

    def _keep_what_came_back(self, incident: Incident) -> int:
        with self.rail() as rail:
            return reconcile_stage.keep_what_came_back(
                CameBack(self.server),
                incident,
                ask=lambda payments: rail.states(payment_ids=payments),
                today=self.business_day,
            )

    def _match(self, incident: Incident | None) -> reconcile_stage.Reconciled:
        incident_id = incident.incident_id if incident else None
        plans = [p for p in self.incidents.plans(incident_id) if p.approver] if incident_id else []
        holidays = holidays_around(self.business_day, timezone=self.settings.timezone, home=self.settings.home)
        with self.rail() as rail:
            paths = rail.settle()

            def ask(payment_ids: Any, references: Any) -> tuple[Any, Any]:
                return rail.states(payment_ids=payment_ids), rail.states(merchant_references=references)

            with Reconciliation(self.server, incident_id=incident_id, today=self.business_day) as work:
                looked_at = work.looking_at(digests(paths), [p.plan_digest for p in plans], sorted(map(str, holidays)))
                if found := work.found_before(looked_at):
                    return reconcile_stage.Reconciled.again(found)
                files = read_settlement_files(paths, self.settings.timezone, self.progress)
                result = reconcile_stage.reconcile(
                    work, files=files, plans=map(self._planned, plans), ask=ask, today=self.business_day,
                    holidays=holidays, currency=files.lines["currency"][0].as_py() if files.lines.num_rows else "XXX",
                )  # fmt: skip
                if not result.break_count:
                    work.keep_found(looked_at, result.to_json())
                return result

    def _planned(self, plan: PlanRecord) -> PlannedLines:
        lines = read_plan(self.settings.home / plan.file, plan.plan_digest, PLANNED_COLUMNS).lines
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
        self._keep_for_page(incident.incident_id, "proof", proof.to_json())
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

    def close(self, incident_id: str, *, accept_open: str | None = None, user: str | None = None) -> dict[str, Any]:
        """Close an incident with its proof, and keep it as a case that the gate must hold from now on. Its page then shows the proof.

        Args:
            accept_open: why what is open by name is accepted and written off; takes a person's login.
            user: whom Airflow authenticated; else it is closed by whoever the settings' login is.

        Raises:
            GateClosed: something is unknown, unsettled, broken, unexplained, or open and not accepted.
            UsageError: a person must accept, and nobody is logged in.
        """
        incident = self.incidents.find(incident_id)
        if incident.closed_at:
            raise GateClosed(f"{incident_id} is closed already; its proof stands")
        if accept_open and self.settings.login is None and user is None:
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
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="counting") as thread:
            counted = thread.submit(self._counted, incident)  # the proof leaves the database nothing to do
            proof = self._prove(incident, named)
        untold, balances = counted.result()
        close_stage.require_proven(incident_id, proof, accepted=accept_open)
        if accept_open and proof.count("open"):
            self.closings.write_off(incident, effective_on=self.business_day)
            proof = self._prove(incident, _written_off(proof.items, accept_open))
            balances = self.closings.balances(incident)
        kept = self._keep_case(incident)
        record = proof.to_json() | {"accepted_open": accept_open, "untold": untold}
        self.closings.close(incident, record, login=self.settings.login, password=self.settings.password, user=user)
        anchor = self.anchor_audit(with_books=False)
        page = self.render_incident(incident_id)
        folder = self.settings.home / "incidents" / incident_id
        return {
            "incident_id": incident_id, "state": "closed", "residual_minor": proof.residual_minor, "breaks": reconciled.break_count,
            "bills": proof.bills, "right": proof.right, "open": proof.count("open"), "untold": untold,
            "regression_case": kept, "balances": balances, "book": str(folder / "book.parquet"),
            "proof_text": str(folder / PROOF_TEXT), "proof": proof.to_json(), "report": str(page),
            "anchor": anchor,
        }  # fmt: skip

    def _counted(self, incident: Incident) -> tuple[int, dict[str, int]]:
        """Messages that are due and not sent, and what the incident left on every account."""
        return self.closings.untold(incident), self.closings.balances(incident)

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
                self._landed(case["wrong_run"]), history, engine=DuckDBEngine(),
                suites=load_suites(self.settings.suites, self.settings.learned),
                report_dir=self.settings.home / "regression" / case["incident_id"], as_of=self.as_of,
                declared=self.changes.in_force(case["wrong_run"][: len("YYYY-MM")]), progress=self.progress,
            )  # fmt: skip
            cases.append({"incident_id": case["incident_id"], "run_id": case["wrong_run"], "decision": verification.decision,
                          "because": verification.findings[0].explanation if verification.findings else None})  # fmt: skip
        return {"cases": cases, "released": [case["incident_id"] for case in cases if case["decision"] == "release"]}

    def lookup(self, customer_id: str) -> dict[str, Any]:
        """One customer's story in plain words, and what comes next; see `lookup.timeline`."""
        return lookup_stage.timeline(customer_id, facts_about(self.server, customer_id))

    # -- pages, imports and lines -------------------------------------------------------------------------------

    def render_incident(self, incident_id: str) -> Path:
        """Write the incident's page anew, with the newest reconciliation and proof there are; returns its path."""
        incident = self.incidents.find(incident_id)
        file = self._assessment_file(incident)
        assessment = assess_stage.Assessment.load(file) if file.exists() else self.assess(incident_id)
        plans = self.incidents.plans(incident_id)
        kept = {name: file.with_name(found) for name, found in KEPT_FOR_PAGE.items()}
        return report_stage.write_incident(
            file.with_name(INCIDENT_PAGE),
            incident=incident.to_json(),
            assessment=asdict(assessment),
            plans=[plan.to_json() | {"impact": self.stated_impact(plan)} for plan in plans],
            **{name: json.loads(found.read_text(encoding="utf-8")) for name, found in kept.items() if found.exists()},
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
