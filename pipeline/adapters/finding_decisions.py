"""What people said of findings, in PostgreSQL: a real fault, or a false alarm.

Belongs here: appending a word and reading them. Does not: what follows for thresholds (calibration asks `in_force`).
"""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from pipeline.adapters.audit import append_audit
from pipeline.adapters.postgres import Server
from pipeline.errors import UsageError

KINDS = ("accept", "reject")


@dataclass(frozen=True, slots=True)
class FindingDecision:
    """One person's word on a finding.

    Attributes:
        billing_period: of the run.
        rule, cohort: which finding; without a cohort all cohorts that the rule failed for.
        severity: the most severe that it had when this was said.
        kind: `accept` - it was a real fault - or `reject` - a false alarm.
    """

    run_id: str
    billing_period: str
    rule: str
    cohort: str | None
    severity: str
    kind: str
    reason: str
    person: str
    at: datetime


class FindingDecisions:
    """Reads and appends; nothing here updates a row."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def decide(
        self,
        run_id: str,
        *,
        kind: str,
        rule: str,
        cohort: str | None,
        reason: str,
        login: str | None,
        password: str | None,
    ) -> FindingDecision:
        """Record what whoever `login` authenticates says of a finding; a later word replaces it, and both stay.

        Raises:
            UsageError: no login, no reason, a login that may not, or no such finding of the run.
        """
        if login is None:
            raise UsageError(
                "who decides? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        if not reason.strip():
            raise UsageError("a decision on a finding needs its reason: --reason TEXT")
        values = {"run_id": run_id, "kind": kind, "rule": rule, "cohort": cohort, "reason": reason}
        with self._server.connect(login, password) as connection:
            found = connection.execute(_FINDINGS, {"run_id": run_id}).fetchall()
            severities = [row[2] for row in found if row[0] == rule and cohort in (None, row[1])]
            if not severities:
                known = ", ".join(f"{row[0]} of {row[1]}" for row in found[:_NAMED]) or "none"
                raise UsageError(f"{run_id} has no such finding; it has: {known}")
            try:
                connection.execute(
                    "INSERT INTO finding_decision (run_id, rule, cohort, severity, kind, reason)"
                    " VALUES (%(run_id)s, %(rule)s, %(cohort)s, %(severity)s, %(kind)s, %(reason)s)",
                    values | {"severity": severities[0]},
                )
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation) as error:
                raise UsageError(f"{login} may not decide on a finding: {error.diag.message_primary}") from None
            append_audit(connection, f"{kind}_finding", run_id, {"rule": rule, "cohort": cohort, "reason": reason})
        return self.of_run(run_id)[-1]

    def of_run(self, run_id: str) -> list[FindingDecision]:
        """Everything said of a run's findings, oldest first."""
        return self._read(
            f"{_SAID} FROM finding_decision d JOIN run USING (run_id) WHERE run_id = %s ORDER BY decision_id", run_id
        )

    def in_force(self, first_period: str, last_period: str) -> list[FindingDecision]:
        """The newest word on each finding of the runs of these billing periods, both included, oldest period first."""
        newest = "SELECT DISTINCT ON (run_id, rule, cohort) * FROM finding_decision ORDER BY run_id, rule, cohort, decision_id DESC"
        return self._read(
            f"{_SAID} FROM ({newest}) d JOIN run USING (run_id) WHERE billing_period BETWEEN %s AND %s"
            " ORDER BY billing_period, decision_id",
            first_period,
            last_period,
        )

    def faulty_runs(self, first_period: str, last_period: str) -> frozenset[str]:
        """Runs of these billing periods with a critical finding that was accepted: what they show is not normal."""
        said = self.in_force(first_period, last_period)
        return frozenset(word.run_id for word in said if (word.kind, word.severity) == ("accept", "critical"))

    def _read(self, query: str, *values: str) -> list[FindingDecision]:
        with self._server.connect() as connection:
            return connection.cursor(row_factory=class_row(FindingDecision)).execute(query, values).fetchall()


_NAMED = 8
"""Findings that a refusal names."""

_FINDINGS = (
    "SELECT f ->> 'rule', f ->> 'cohort', f ->> 'severity' FROM verification v, jsonb_array_elements(v.findings) f"
    " WHERE v.run_id = %(run_id)s GROUP BY 1, 2, 3"
    " ORDER BY array_position(ARRAY['critical', 'warning', 'info'], f ->> 'severity'), 1, 2"
)

_SAID = "SELECT run_id, billing_period, rule, cohort, severity, kind, reason, person, d.recorded_at AS at"
