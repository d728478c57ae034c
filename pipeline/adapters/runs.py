"""The register of runs in PostgreSQL: what landed, what the gate said, what people decided, who did what.

Belongs here: runs, verifications, decisions, reviews, the kill switch. Does not: operations and entries (`ledger`), the audit
log (`audit`).
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from pipeline.adapters.audit import append_audit
from pipeline.adapters.postgres import Server, insert_row
from pipeline.errors import GateClosed, MakegoodError, UsageError
from pipeline.ports import LandedRun

AUDIT_WAIT = "2s"
"""How long the audit row of a stop waits: the stop stands already, and whoever stopped wants an answer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One person's word on a run."""

    kind: str
    person: str
    channel: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that bears on whether a run may be charged.

    Attributes:
        verdicts: `release` or `hold`, one per verification, oldest first.
        decisions: what people said, oldest first.
        superseded_by: a later landed run of the same period that passed the gate or was released; or None.
        charged_by_other: whether that later run has already been released.
        report: path of the newest report, relative to the home directory; None before any verification.
    """

    run_id: str
    billing_period: str
    verdicts: tuple[str, ...]
    decisions: tuple[Decision, ...]
    superseded_by: str | None
    charged_by_other: bool
    report: str | None

    @property
    def releasers(self) -> tuple[str, ...]:
        return tuple(d.person for d in self.decisions if d.kind == "release")

    @property
    def rejecters(self) -> tuple[str, ...]:
        return tuple(d.person for d in self.decisions if d.kind == "reject")


@dataclass(frozen=True, slots=True)
class OpenStop:
    """An order to stop sending that stands.

    Attributes:
        needs_people: how many different people have to lift it: two where the pipeline found the database to be behind.
        lifted_by: those who have.
    """

    order_id: int
    person: str
    reason: str
    at: datetime
    needs_people: int
    lifted_by: list[str]


class Register:
    """Reads and appends; nothing here updates a row."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def record_run(self, run: LandedRun) -> None:
        """Make a landed run known; repeating it changes nothing."""
        with self._server.connect() as connection:
            connection.execute(
                "INSERT INTO run (run_id, billing_period, source, content_sha256, row_count, control_total_minor, files, landed_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (run.run_id, run.billing_period, run.source, run.content_sha256, run.row_count, run.control_total_minor,
                 json.dumps([asdict(f) for f in run.files]), run.landed_at),
            )  # fmt: skip

    def record_verification(
        self, run_id: str, *, suite_digest: str, history_digest: str, decision: str, findings: list[dict], not_judged: list[dict],
        report: str, declared_digest: str = "none",
    ) -> None:  # fmt: skip
        """Keep a verdict; the same run, suites, history and declared changes are one verification, whatever the number of calls."""
        with self._server.connect() as connection:
            connection.execute(
                "INSERT INTO verification (run_id, suite_digest, history_digest, declared_digest, decision, findings, not_judged, report)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (
                    run_id,
                    suite_digest,
                    history_digest,
                    declared_digest,
                    decision,
                    json.dumps(findings),
                    json.dumps(not_judged),
                    report,
                ),
            )
            append_audit(
                connection,
                "verify",
                run_id,
                {
                    "decision": decision,
                    "suites": suite_digest[:12],
                    "declared": declared_digest,
                    "findings": len(findings),
                },
            )

    def standing(self, run_id: str) -> Standing:
        """Where a run stands.

        Raises:
            UsageError: no such run was landed here.
        """
        with self._server.connect() as connection:
            run = connection.execute(
                "SELECT billing_period, landed_at FROM run WHERE run_id = %s", (run_id,)
            ).fetchone()
            if run is None:
                raise UsageError(f"no run {run_id!r} is known here; `makegood verify` prints the run_id")
            verdicts = connection.execute(
                "SELECT decision, report FROM verification WHERE run_id = %s ORDER BY verification_id", (run_id,)
            ).fetchall()
            newer = connection.execute(
                "SELECT r.run_id, EXISTS (SELECT FROM operation o WHERE o.scope = r.run_id) AS charged FROM run r"
                " WHERE r.billing_period = %(period)s AND r.landed_at > %(landed)s"
                " AND (EXISTS (SELECT FROM operation o WHERE o.scope = r.run_id)"
                "      OR (EXISTS (SELECT FROM verification v WHERE v.run_id = r.run_id AND v.decision = 'release')"
                "          AND NOT EXISTS (SELECT FROM verification v WHERE v.run_id = r.run_id AND v.decision = 'hold')))"
                " ORDER BY charged DESC, r.landed_at DESC LIMIT 1",
                {"period": run[0], "landed": run[1]},
            ).fetchone()
            return Standing(
                run_id=run_id,
                billing_period=run[0],
                verdicts=tuple(v[0] for v in verdicts),
                decisions=_decisions(connection, run_id),
                superseded_by=newer[0] if newer else None,
                charged_by_other=bool(newer and newer[1]),
                report=verdicts[-1][1] if verdicts else None,
            )

    def decide(
        self, run_id: str, *, kind: str, reason: str, login: str | None, password: str | None
    ) -> tuple[Decision, ...]:
        """Record one person's decision, the person being whoever `login` authenticates; returns all decisions on the run.

        Raises:
            UsageError: no login, a wrong password, no reason, or a login that may not decide.
            GateClosed: the same person has decided this already; another one is needed.
        """
        if login is None:
            raise UsageError(
                "who decides? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        if not reason.strip():
            raise UsageError("a decision needs its reason: --reason TEXT")
        with self._server.connect(login, password) as connection:
            try:
                connection.execute(
                    "INSERT INTO decision (run_id, kind, reason) VALUES (%s, %s, %s)", (run_id, kind, reason)
                )
            except psycopg.errors.UniqueViolation:
                raise GateClosed(f"{login} has decided this already; a different person must agree") from None
            except psycopg.errors.ForeignKeyViolation:
                raise UsageError(f"no run {run_id!r} is known here") from None
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation) as error:
                raise UsageError(f"{login} may not decide on a run: {error.diag.message_primary}") from None
            append_audit(connection, kind, run_id, {"reason": reason})
            return _decisions(connection, run_id)

    def decide_for_airflow_user(self, run_id: str, *, kind: str, reason: str, user: str) -> tuple[Decision, ...]:
        """Record what a user decided whom Airflow authenticated; the same person counts once, here and there.

        Raises:
            GateClosed: that person has decided this already.
        """
        with self._server.connect("makegood_airflow") as connection:
            try:
                connection.execute(
                    "INSERT INTO decision (run_id, kind, reason, person) VALUES (%s, %s, %s, %s)",
                    (run_id, kind, reason, user),
                )
            except psycopg.errors.UniqueViolation:
                raise GateClosed(f"{user} has decided this already; a different person must agree") from None
            append_audit(connection, kind, run_id, {"reason": reason, "user": user})
            return _decisions(connection, run_id)

    def review(self, run_id: str, *, comment: str, login: str | None, password: str | None) -> None:
        """Mark a run's report as read by the person `login` authenticates.

        Raises:
            UsageError: no login, or no such run.
        """
        if login is None:
            raise UsageError("who has reviewed it? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login")
        with self._server.connect(login, password) as connection:
            try:
                connection.execute("INSERT INTO review (run_id, comment) VALUES (%s, %s)", (run_id, comment))
            except psycopg.errors.ForeignKeyViolation:
                raise UsageError(f"no run {run_id!r} is known here") from None
            append_audit(connection, "review", run_id, {"comment": comment})

    def review_for_airflow_user(self, run_id: str, *, comment: str, user: str) -> None:
        """Mark a run's report as read by a user whom Airflow authenticated.

        Raises:
            UsageError: no comment, or no such run.
        """
        with self._server.connect("makegood_airflow") as connection:
            try:
                connection.execute(
                    "INSERT INTO review (run_id, comment, person) VALUES (%s, %s, %s)", (run_id, comment, user)
                )
            except psycopg.errors.ForeignKeyViolation:
                raise UsageError(f"no run {run_id!r} is known here") from None
            except psycopg.errors.CheckViolation:
                raise UsageError("a review needs its comment") from None
            append_audit(connection, "review", run_id, {"comment": comment, "user": user})

    def reviews(self, run_id: str) -> list[dict[str, Any]]:
        """Who has read the run's reports: person, comment, at; oldest first."""
        with self._server.connect() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(
                "SELECT person, comment, recorded_at AS at FROM review WHERE run_id = %s ORDER BY review_id", (run_id,)
            ).fetchall()

    def stop(self, reason: str, *, login: str | None, password: str | None) -> str:
        """Stop all sending, as whoever `login` authenticates, or as the service; returns who is recorded.

        The order is committed first and waits for nobody; the audit log has its row after it, in a transaction of its own. Where
        the login is refused, has too many connections or may not stop, the service gives the order: stopping is never refused.

        Raises:
            RetriableError: the database is away.
        """
        try:
            person = self._order_stop(reason, login, password)
        except (MakegoodError, psycopg.Error):
            login = password = None
            person = self._order_stop(reason, None, None)
        with contextlib.suppress(MakegoodError, psycopg.Error), self._server.connect(login, password) as connection:
            connection.execute(f"SET LOCAL lock_timeout = '{AUDIT_WAIT}'")
            append_audit(connection, "stop", "sending", {"reason": reason})
        return person

    def _order_stop(self, reason: str, login: str | None, password: str | None) -> str:
        with self._server.connect(login, password) as connection:
            return connection.execute(
                "INSERT INTO sending_order (reason) VALUES (%s) RETURNING person", (reason,)
            ).fetchone()[0]

    def resume(self, reason: str, *, stops: Sequence[int], login: str | None, password: str | None) -> list[OpenStop]:
        """Lift stops in the name of whoever `login` authenticates; returns those that still stand.

        Args:
            stops: their numbers; none means every one that stands now.

        Raises:
            UsageError: no login, one that may not resume, or a number that is no open stop's.
        """
        if login is None:
            raise UsageError(
                "who resumes? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        standing = [stop.order_id for stop in self.open_stops()]
        if unknown := sorted(set(stops) - set(standing)):
            raise UsageError(f"no stop {unknown[0]} stands; open are: {', '.join(map(str, standing)) or 'none'}")
        with self._server.connect(login, password) as connection:
            try:
                for order_id in stops or standing:
                    if insert_row(connection, "sending_lift", {"order_id": order_id, "reason": reason}):
                        append_audit(connection, "resume", f"stop {order_id}", {"reason": reason})
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation) as error:
                raise UsageError(f"{login} may not resume sending: {error.diag.message_primary}") from None
        return self.open_stops()

    def open_stops(self) -> list[OpenStop]:
        """Stops that not enough people have lifted, oldest first."""
        with self._server.connect() as connection:
            return (
                connection.cursor(row_factory=class_row(OpenStop))
                .execute(
                    "SELECT order_id, person, reason, recorded_at AS at, needs_people, lifted_by FROM open_stop ORDER BY order_id"
                )
                .fetchall()
            )

    def stopped_by(self) -> tuple[str, datetime, str] | None:
        """Who stopped sending, when and why, by the newest stop that stands; None while sending is allowed."""
        stops = self.open_stops()
        return (stops[-1].person, stops[-1].at, stops[-1].reason) if stops else None

    def released_run(self, billing_period: str) -> str | None:
        """The newest run of a period whose charges were sent and that no incident is about; None if there is none."""
        with self._server.connect() as connection:
            row = connection.execute(
                "SELECT r.run_id FROM run r WHERE r.billing_period = %s"
                " AND EXISTS (SELECT FROM operation o WHERE o.scope = r.run_id)"
                " AND NOT EXISTS (SELECT FROM incident i WHERE i.charge_scope = r.run_id)"
                " ORDER BY r.landed_at DESC LIMIT 1",
                (billing_period,),
            ).fetchone()
        return row[0] if row else None

    def corrected_run(self, billing_period: str) -> str | None:
        """The run that corrects a period's wrong charges, as named last; None where nothing was wrong."""
        with self._server.connect() as connection:
            row = connection.execute(
                "SELECT c.corrected_run FROM incident i JOIN incident_correction c USING (incident_id)"
                " WHERE i.billing_period = %s ORDER BY c.correction_id DESC LIMIT 1",
                (billing_period,),
            ).fetchone()
        return row[0] if row else None

    def held_runs(self, billing_period: str) -> set[str]:
        """Runs of a period that some verification held and that nobody released, or that were wrong; never history."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT DISTINCT v.run_id FROM verification v JOIN run r USING (run_id) WHERE r.billing_period = %s"
                " AND v.decision = 'hold' AND NOT EXISTS (SELECT FROM operation o WHERE o.scope = v.run_id)"
                " UNION SELECT charge_scope FROM incident WHERE billing_period = %s",
                (billing_period, billing_period),
            ).fetchall()
        return {row[0] for row in rows}

    def recent(self, limit: int = 200) -> list[dict[str, Any]]:
        """The newest runs with their verdict, for the index of reports."""
        with self._server.connect() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(
                "SELECT run_id, r.billing_period, r.row_count, v.decision, v.report, v.verified_at,"
                " v.findings -> 0 ->> 'explanation' AS headline,"
                " coalesce((SELECT d.releasers FROM decided_run d WHERE d.run_id = r.run_id), 0) AS releasers,"
                " coalesce((SELECT d.rejecters FROM decided_run d WHERE d.run_id = r.run_id), 0) AS rejecters,"
                " EXISTS (SELECT FROM operation o WHERE o.scope = r.run_id) AS charged,"
                " EXISTS (SELECT FROM review w WHERE w.run_id = r.run_id) AS reviewed,"
                " (SELECT count(*) FROM finding_decision f WHERE f.run_id = r.run_id AND f.kind = 'accept') AS findings_accepted,"
                " (SELECT count(*) FROM finding_decision f WHERE f.run_id = r.run_id AND f.kind = 'reject') AS findings_rejected"
                " FROM run r JOIN LATERAL (SELECT * FROM verification v WHERE v.run_id = r.run_id"
                "   ORDER BY verification_id DESC LIMIT 1) v USING (run_id)"
                " ORDER BY v.verified_at DESC LIMIT %s",
                (limit,),
            ).fetchall()

    def periods(self) -> list[str]:
        """Billing periods of which a run has landed, earliest first."""
        with self._server.connect() as connection:
            return [
                row[0] for row in connection.execute("SELECT DISTINCT billing_period FROM run ORDER BY billing_period")
            ]

    def runs(self, billing_period: str) -> list[str]:
        """All runs of a period, in the order in which they landed."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT run_id FROM run WHERE billing_period = %s ORDER BY landed_at", (billing_period,)
            ).fetchall()
        return [row[0] for row in rows]

    @contextlib.contextmanager
    def acting(self, action: str, subject: str, login: str | None, password: str | None) -> Iterator[str]:
        """Do something in the name of whoever `login` authenticates; the audit log has it if the block goes through.

        Raises:
            UsageError: no login, or a wrong password.
        """
        if login is None:
            raise UsageError(
                "who does it? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        with self._server.connect(login, password) as connection:
            append_audit(connection, action, subject, {})
            yield login


def history_digest(runs: Sequence[str]) -> str:
    """One name for the history a run was judged against."""
    return ",".join(runs) if runs else "none"


def _decisions(connection: psycopg.Connection, run_id: str) -> tuple[Decision, ...]:
    rows = connection.execute(
        "SELECT kind, person, channel, reason, recorded_at FROM decision WHERE run_id = %s ORDER BY recorded_at",
        (run_id,),
    )
    return tuple(Decision(*row) for row in rows)
