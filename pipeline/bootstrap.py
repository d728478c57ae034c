"""The composition root: which adapter stands behind which port, and the stages in the order they happen.

Belongs here: opening what the settings name, and handing one stage's result to the next. Does not: any rule of
a stage. The command line and the DAGs both call `Makegood`; so a night in Airflow and a command typed by hand
take the same path.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from pipeline import calibrate as calibrate_stage
from pipeline import extract as extract_stage
from pipeline import failpoints
from pipeline import release as release_stage
from pipeline import report as report_stage
from pipeline import verify as verify_stage
from pipeline.adapters.charges_due import find_due
from pipeline.adapters.engine import DuckDBEngine
from pipeline.adapters.incidents import Incident
from pipeline.adapters.runs import history_digest
from pipeline.adapters.sources import open_source
from pipeline.core.billing_period import BillingPeriod
from pipeline.core.declared import declared_digest
from pipeline.core.money import format_minor
from pipeline.core.terminal import visible
from pipeline.core.verdict import PEOPLE_NEEDED, Verification
from pipeline.declarations import Declarations
from pipeline.errors import GateClosed, MakegoodError, OutsideWindow, UsageError
from pipeline.judge import load_suites
from pipeline.ports import Due, HistoryPeriod, LandedRun, Progress, no_progress
from pipeline.sending import Sending
from pipeline.settings import Settings, armed_failpoint

HISTORY_MONTHS = 12
"""Earlier periods a run is compared with: a full year shows every yearly tariff once."""

CALIBRATION_MONTHS = 36
"""Latest months that a calibration looks at: three of each calendar month; what was normal before is not any more."""

FINDINGS_SHOWN = 5
"""Findings that a person who decides sees at once; the report has them all."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A run with its verdict and the page about it."""

    run: LandedRun
    verification: Verification
    report: Path


class Makegood(Sending, Declarations):
    """One installation with every stage: extract to release here, an incident in `Remediation`."""

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
        accepted = self._accepted(month)
        if accepted is not None:
            return HistoryPeriod(str(month), accepted.run.run_id, accepted.run.path, accepted.standing)
        held = self.register.held_runs(str(month))
        candidates = self.lake.runs(str(month))
        if month in on_offer or query is not None:
            landed = self.extract(source, month, query=query, for_history=True).run
            candidates = [*candidates, *([landed] if landed else [])]
        usable = [run for run in candidates if run.run_id not in held and run.row_count]
        return HistoryPeriod(str(month), usable[-1].run_id, usable[-1].path, "unverified") if usable else None

    def _accepted(self, month: BillingPeriod) -> calibrate_stage.AcceptedMonth | None:
        """What corrected the month, else what was released of it."""
        for found, standing in (
            (self.register.corrected_run(str(month)), "corrected"),
            (self.register.released_run(str(month)), "released"),
        ):
            if found is not None:
                return calibrate_stage.AcceptedMonth(self._landed(found, thoroughly=False), standing)
        return None

    def verify(self, run_id: str, source: str, *, query: str | None = None) -> Judged:
        """Judge a landed run against its history, under the changes declared for its period, and write its report."""
        run = self._landed(run_id, thoroughly=False)
        history = self.history(run, source, query=query)
        self.lake.prove([run_id, *(month.run_id for month in history)])
        declared = self.changes.in_force(run.billing_period)
        folder = self.settings.reports / run.run_id
        folder.mkdir(parents=True, exist_ok=True)
        verification = verify_stage.verify(
            run,
            history,
            engine=DuckDBEngine(),
            suites=load_suites(self.settings.suites, self.settings.learned),
            report_dir=folder,
            as_of=self.as_of,
            declared=declared,
            progress=self.progress,
        )
        self.register.record_verification(
            run.run_id,
            suite_digest=verification.suite_digest,
            history_digest=history_digest([month.run_id for month in history]),
            declared_digest=declared_digest(declared),
            decision=verification.decision,
            findings=[asdict(finding) for finding in verification.findings],
            not_judged=[asdict(item) for item in verification.not_judged],
            report=str((folder / REPORT_NAME).relative_to(self.settings.home)),
        )
        return Judged(run, verification, self.render(run.run_id))

    # -- calibrate ----------------------------------------------------------------------------------------------

    def calibrate(
        self, source: str | None, *, out: Path | None = None, left_out: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """What the accepted months - and those of `source`, unverified - would teach the gate; changes nothing.

        Args:
            out: where to write the proposal.
            left_out: billing periods to leave out, besides those of runs with a critical finding that people accepted as a real fault.
        """
        on_offer = set(self.periods(source)) if source else set()
        known = on_offer | {BillingPeriod.parse(label) for label in self.register.periods()}
        months = []
        for period in sorted(known)[-CALIBRATION_MONTHS:]:
            month = self._accepted(period)
            if month is None and period in on_offer:
                found = self._history_of(period, source, None, on_offer)
                run = self._landed(found.run_id, thoroughly=False) if found else None
                month = calibrate_stage.AcceptedMonth(run, found.standing) if run else None
            months += [month] if month is not None else []
        self.lake.prove(month.run.run_id for month in months)
        periods = [month.run.billing_period for month in months]
        faulty = self.finding_decisions.faulty_runs(min(periods), max(periods)) if periods else frozenset()
        left_out |= {month.run.billing_period for month in months if month.run.run_id in faulty}
        proposal = calibrate_stage.propose(
            months,
            engine=DuckDBEngine(),
            suites=load_suites(self.settings.suites, self.settings.learned),
            made_at=self.as_of,
            left_out=left_out,
            progress=self.progress,
        )
        file = str(calibrate_stage.write(proposal, out)) if out else None
        return proposal.to_json() | {"file": file}

    def apply_calibration(self, proposal: Path) -> dict[str, Any]:
        """Put a proposal in force in the name of the person whose login the settings carry; returns what is in force."""
        suites = load_suites(self.settings.suites, self.settings.learned)
        found = calibrate_stage.require_fitting(proposal, suites)
        with self.register.acting(
            "calibrate", found.digest[:12], self.settings.login, self.settings.password
        ) as person:
            file = calibrate_stage.install(found, self.settings.learned, by=person, at=self.as_of)
        in_force = load_suites(self.settings.suites, self.settings.learned)
        return {
            "file": str(file),
            "applied": in_force.learned.applied,
            "bounds_count": len(in_force.learned.bounds),
            "suite_digest": in_force.digest,
        }

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
            finding_decisions=[asdict(decision) for decision in self.finding_decisions.of_run(run_id)],
            held_before="hold" in standing.verdicts,
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

    def decide_finding(self, run_id: str, *, kind: str, rule: str, cohort: str | None, reason: str) -> dict[str, Any]:
        """Say of a run's finding that it was a real fault (`accept`) or a false alarm (`reject`), as the person whose login the
        settings carry; returns what was recorded, with the report that now shows it."""
        said = self.finding_decisions.decide(
            run_id, kind=kind, rule=rule, cohort=cohort, reason=reason, login=self.settings.login, password=self.settings.password
        )  # fmt: skip
        return asdict(said) | {"report": str(self.render(run_id))}

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
        release_stage.prepare(self._landed(run_id), ledger=self.ledger, find_due=partial(self._due_of, run_id))
        self.audit_log.append("release", run_id, {"allowed_by": authority})
        return [wave.number for wave in self.ledger.waves(run_id) if not wave.answered]

    def send_wave(self, run_id: str, wave: int) -> release_stage.Released:
        """Send one prepared wave of a run, unless it has its answers already."""
        with self.rail() as rail:
            sender = self._sender(rail)
            with sender.turn() as turn:
                self.require_release_allowed(run_id)  # it may have waited for its turn
                sender.send(turn, run_id, only_wave=wave)
        return release_stage.outcome(run_id, ledger=self.ledger)

    def release(self, run_id: str) -> release_stage.Released:
        """Charge what the run still owes the acquirer; calling it again charges nothing twice."""
        authority = self.require_release_allowed(run_id)
        self.audit_log.append("release", run_id, {"allowed_by": authority})
        try:
            with self.rail() as rail:
                return release_stage.release(
                    self._landed(run_id),
                    ledger=self.ledger,
                    find_due=partial(self._due_of, run_id),
                    sender=self._sender(rail),
                    require_still_allowed=partial(self.require_release_allowed, run_id),
                )
        finally:
            with contextlib.suppress(UsageError):
                self.render(run_id)

    def preview_release(self, run_id: str) -> dict[str, Any]:
        """What a release would charge, by class of row; writes and sends nothing."""
        run = self._landed(run_id)
        classes = self._due_of(run_id, run, self.ledger.charged(run.billing_period)).classes
        return {"run_id": run_id, "due": {"rows": 0, "amount_minor": 0}} | classes

    def _holds(self, run_id: str) -> list[Incident]:
        """Incidents that bear on charging a run: open ones of its period, and any that is about the run itself."""
        period = run_id[: len("YYYY-MM")]
        return [
            i
            for i in self.incidents.incidents()
            if i.charge_scope == run_id or (i.billing_period == period and not i.closed_at)
        ]

    def _due_of(self, run_id: str, run: LandedRun, charged: pa.Table, *, first_wave: int = 0) -> Due:
        """The run's due charges, issuers left out that are on hold by now."""
        held = frozenset(issuer for incident in self._holds(run_id) for issuer in incident.issuers or ())
        return find_due(run, charged, first_wave=first_wave, held_issuers=held)

    def stop(self, reason: str) -> dict[str, Any]:
        """Halt all sending within one wave; returns what is left, by name, or None where that cannot be said just now."""
        said = visible(reason)  # no text is so broken that it keeps anybody from stopping
        by = self.register.stop(said, login=self.settings.login, password=self.settings.password)
        left = None
        with contextlib.suppress(MakegoodError, psycopg.Error):  # the stop stands, whatever becomes of this question
            left = self.ledger.unfinished()
        return {"sending": "stopped", "by": by, "left": left}

    def resume(self, reason: str, stops: Sequence[int] = ()) -> dict[str, Any]:
        """Lift stops as the person whose login the settings carry; says which still stand.

        Args:
            stops: their numbers; none means every one that stands now.
        """
        standing = self.register.resume(reason, stops=stops, login=self.settings.login, password=self.settings.password)
        return {
            "sending": "stopped" if standing else "allowed",
            "stops": [asdict(stop) for stop in standing],
            "left": self.ledger.unfinished(),
        }


REPORT_NAME = "report.html"


def open_makegood(
    *, as_of: datetime | None = None, progress: Progress = no_progress, settings: Settings | None = None
) -> Makegood:
    """The installation that the environment describes."""
    failpoints.arm(armed_failpoint())
    return Makegood(settings or Settings.from_environment(), as_of=as_of, progress=progress)
