"""The register of incidents in PostgreSQL: what went wrong, what corrects it, the plans made, who agreed to which.

Belongs here: incidents, corrections, plans, approvals, rejections, and the proof that a plan may be executed now. Does not:
what a plan says (`plan`), what its lines come to (`plan_figures`), its file (`plan_file`), or the operations that carry it out
(`ledger`). Rows are inserted, never changed: the newest correction and the newest plan of an incident are the ones in force. A
plan's row is a person's word, and anybody who may plan can write one: what it says is held against the lines of the plan's file
before anybody is asked to approve it, and before anything is done by it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from hashlib import md5
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import dict_row

from pipeline.adapters.audit import append_audit
from pipeline.adapters.bulk import copy_in, fetch
from pipeline.adapters.plan_file import PlanFile, read_plan
from pipeline.adapters.postgres import Server, conninfo, insert_row, take_mutex
from pipeline.core.window import Window, Windows
from pipeline.errors import FatalError, GateClosed, UsageError
from pipeline.plan_figures import EXCEPTION_KEY, SUMMARY_COLUMNS, exceptions_in, summary_of, totals_of, unsound

APPROVER_ROLE = "makegood_approver"

LOCK_WAIT = "60s"
"""How long opening an incident waits for another being opened: both take a moment."""

EXCEPTION_COLUMNS = ["plan_digest", *EXCEPTION_KEY, "reversal", "rebill", "reason", "wrong_minor", "correct_minor"]

_EXCEPTION_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("customer_id", "billing_period")]
    + [(name, pa.int64()) for name in ("bill_cycle", "occurrence")]
    + [(name, pa.string()) for name in ("reversal", "rebill", "reason")]
    + [(name, pa.int64()) for name in ("wrong_minor", "correct_minor")]
)

DIFFERENCES_NAMED = 3
"""Of a plan's row and its lines, in one message."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Wrong charges, and what corrects them.

    Attributes:
        charge_scope: scope of the wrong charges' operations: the wrong run's id, or an import's.
        issuers: only charges sent to these belong to it, sorted; None means all of the scope.
        corrected_run: the newest one named.
        closed_at: None while it is open and its cohort on hold.
    """

    incident_id: str
    billing_period: str
    charge_scope: str
    issuers: tuple[str, ...] | None
    corrected_run: str
    reason: str
    opened_by: str
    opened_at: datetime
    closed_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A stored plan and what people said of it.

    Attributes:
        number: rises with every stored plan.
        file: its Parquet file, relative to the home directory.
        operation_count, total_minor: every reversal and every rebill planned; what an approver agrees to.
        summary: counts and amounts by action, reason, issuer and payment method; no customer.
        approver, expires_at: None before anybody approved.
        rejected_by, rejection: None unless somebody rejected it, also after an approval.
    """

    plan_digest: str
    number: int
    incident_id: str
    corrected_run: str
    successor_of: str | None
    file: str
    windows: Windows
    operation_count: int
    total_minor: int
    summary: dict[str, Any]
    requested_by: str
    channel: str
    recorded_at: datetime
    approver: str | None
    approval_channel: str | None
    expires_at: datetime | None
    rejected_by: str | None
    rejection: str | None

    @property
    def state(self) -> str:
        """`requested`, `approved` or `rejected`; whether an approval still holds is `require_approved`'s to say."""
        return "rejected" if self.rejected_by else "approved" if self.approver else "requested"

    def to_json(self) -> dict[str, Any]:
        windows = {"reversal": str(self.windows.reversal), "rebill": str(self.windows.rebill)}
        return {name: getattr(self, name) for name in self.__slots__} | {"windows": windows, "state": self.state}


@dataclass(frozen=True, slots=True)
class ApprovedPlan:
    """A plan that may be executed now, as far as people are concerned; its windows decide the rest.

    Attributes:
        file: absolute path of its Parquet file.
        lines: what it says, just proven to have the digest: the columns of `PLAN_SCHEMA` that were asked for.
        header: what the plan was made from.
    """

    incident: Incident
    plan_digest: str
    file: Path
    header: dict[str, Any]
    lines: pa.Table
    windows: Windows
    operation_count: int
    total_minor: int
    requested_by: str
    approver: str
    expires_at: datetime

    def scope(self, step: str) -> str:
        """Scope of the operations of one step: cancel, refund or rebill."""
        return plan_scope(self.incident.incident_id, self.plan_digest, step)


def plan_scope(incident_id: str, plan_digest: str, step: str) -> str:
    """Scope of the operations of one step of a plan."""
    assert step in ("cancel", "refund", "rebill")
    return f"{incident_id}/{plan_digest[:12]}/{step}"


def incident_id_of(billing_period: str, charge_scope: str, issuers: Sequence[str] | None) -> str:
    """The name of an incident, derived from what it is about: opening it twice is one incident."""
    subject = f"{charge_scope}|{','.join(sorted(issuers or ()))}"
    return f"inc-{billing_period}-{md5(subject.encode(), usedforsecurity=False).hexdigest()[:8]}"


class IncidentRegister:
    """Reads and appends; nothing here updates a row.

    Args:
        home: the folder that plan files are named relative to.
    """

    def __init__(self, server: Server, home: Path) -> None:
        self._server = server
        self._home = home

    # -- incidents ----------------------------------------------------------------------------------------------

    def open_incident(
        self,
        *,
        billing_period: str,
        charge_scope: str,
        issuers: Iterable[str] | None,
        corrected_run: str,
        reason: str = "",
        login: str | None = None,
        password: str | None = None,
    ) -> Incident:
        """Open an incident, or name a newer corrected run for one that is open; repeating it changes nothing.

        A newer corrected run ends every plan made before. Without a login the service opens it.

        Raises:
            UsageError: the runs are not known, or the login may not open incidents.
            GateClosed: it is closed, or another open incident covers some of the same charges.
        """
        chosen = sorted(set(issuers)) if issuers is not None else None
        incident_id = incident_id_of(billing_period, charge_scope, chosen)
        with self._as_person(login, password) as connection:
            take_mutex(
                connection, "incident", wait=LOCK_WAIT, busy="somebody is opening an incident just now; try again"
            )
            _require_free(connection, incident_id, charge_scope, chosen)
            try:
                opened = connection.execute(
                    "INSERT INTO incident (incident_id, billing_period, charge_scope, issuers, reason)"
                    " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (incident_id, billing_period, charge_scope, chosen, reason),
                ).rowcount
                newest = connection.execute(_NEWEST_CORRECTION, (incident_id,)).fetchone()
                if newest is None or newest[0] != corrected_run:
                    connection.execute(
                        "INSERT INTO incident_correction (incident_id, corrected_run) VALUES (%s, %s)",
                        (incident_id, corrected_run),
                    )
                    detail = {
                        "scope": charge_scope,
                        "issuers": chosen,
                        "corrected_run": corrected_run,
                        "reason": reason,
                    }
                    append_audit(connection, "open_incident" if opened else "correct_incident", incident_id, detail)
            except psycopg.errors.ForeignKeyViolation:
                raise UsageError(f"no run {corrected_run!r} is known here; `makegood verify` lands one") from None
        return self.find(incident_id)

    def find(self, incident_id: str) -> Incident:
        """The incident.

        Raises:
            UsageError: there is none of that name.
        """
        for incident in self._incidents("WHERE i.incident_id = %s", (incident_id,)):
            return incident
        raise UsageError(f"no incident {incident_id!r} is known here; `makegood incident list` names those there are")

    def incidents(self) -> list[Incident]:
        """All incidents, newest first."""
        return self._incidents("ORDER BY i.opened_at DESC, i.incident_id", ())

    def open_for_period(self, billing_period: str) -> list[Incident]:
        """Incidents of the period that are not closed: what they cover is on hold."""
        return [i for i in self._incidents("WHERE i.billing_period = %s", (billing_period,)) if i.closed_at is None]

    def _incidents(self, condition: str, values: tuple) -> list[Incident]:
        query = (
            "SELECT i.incident_id, i.billing_period, i.charge_scope, i.issuers, r.corrected_run, i.reason, i.opened_by, i.opened_at,"
            " c.recorded_at FROM incident i LEFT JOIN incident_closing c USING (incident_id)"
            " JOIN LATERAL (SELECT corrected_run FROM incident_correction n WHERE n.incident_id = i.incident_id"
            f"  ORDER BY correction_id DESC LIMIT 1) r ON true {condition}"
        )
        with self._server.connect() as connection:
            rows = connection.execute(query, values).fetchall()
        return [Incident(*row[:3], tuple(row[3]) if row[3] is not None else None, *row[4:]) for row in rows]

    # -- plans --------------------------------------------------------------------------------------------------

    def store_plan(
        self, *, incident: Incident, plan_digest: str, file: Path, windows: Windows, operation_count: int, total_minor: int,
        summary: dict[str, Any], exceptions: pa.Table, successor_of: str | None, login: str | None, password: str | None,
    ) -> PlanRecord:  # fmt: skip
        """Store a plan as requested by whoever `login` authenticates; storing the same plan again changes nothing.

        Args:
            exceptions: lines that are not plainly undone and rebilled, with the columns of `EXCEPTION_COLUMNS` but the digest.

        Raises:
            UsageError: no login, a wrong password, or a login that may not plan.
        """
        if login is None:
            raise UsageError(
                "who plans? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        with self._as_person(login, password) as connection:
            _insert_plan(
                connection, incident, plan_digest, self._relative(file), windows, operation_count, total_minor, summary,
                exceptions, successor_of, requested_by=None,
            )  # fmt: skip
        return self.plan(plan_digest)

    def store_plan_for_airflow_user(
        self, *, incident: Incident, plan_digest: str, file: Path, windows: Windows, operation_count: int, total_minor: int,
        summary: dict[str, Any], exceptions: pa.Table, successor_of: str | None, user: str,
    ) -> PlanRecord:  # fmt: skip
        """As `store_plan`, for a user whom Airflow authenticated."""
        with self._as_person("makegood_airflow", None) as connection:
            _insert_plan(
                connection, incident, plan_digest, self._relative(file), windows, operation_count, total_minor, summary,
                exceptions, successor_of, requested_by=user,
            )  # fmt: skip
        return self.plan(plan_digest)

    def plan(self, plan_digest: str) -> PlanRecord:
        """The plan with that digest, or whose digest begins so (at least 12 digits).

        Raises:
            UsageError: there is none.
        """
        if len(plan_digest) >= 12:
            for record in self._plans("WHERE p.plan_digest LIKE %s || '%%'", (plan_digest,)):
                return record
        raise UsageError(f"no plan {plan_digest!r} is known here; `makegood incident show` names an incident's newest")

    def plans(self, incident_id: str) -> list[PlanRecord]:
        """All plans of an incident, newest first."""
        return self._plans("WHERE p.incident_id = %s ORDER BY p.plan_number DESC", (incident_id,))

    def prove(self, record: PlanRecord, columns: Sequence[str] | None = None) -> PlanFile:
        """Hold what a plan's row says - what it is about, count, total, every figure - against the lines of its file; returns these.

        Args:
            columns: what is needed of its lines, proven; None for everything, and then the exceptions stored are looked at too.

        Raises:
            GateClosed: they differ, or the file does not have the digest; says in what, and that a plan has to be made anew.
            FatalError: the file is gone or unreadable.
        """
        needed = None if columns is None else sorted({*columns, *SUMMARY_COLUMNS})
        plan = read_plan(self._home / record.file, record.plan_digest, needed)
        if why := unsound(plan.lines):
            raise _false(record, [why])
        summary = json.loads(json.dumps(summary_of(plan.header, plan.lines, plan.lines_sha256)))
        count, total = totals_of(summary)
        about = ("incident_id", "corrected_run", "reversal", "rebill")
        said = {
            "incident_id": record.incident_id, "corrected_run": record.corrected_run, "reversal": str(record.windows.reversal),
            "rebill": str(record.windows.rebill), "operation_count": record.operation_count, "total_minor": record.total_minor,
        } | {f"summary {name}": _part(record.summary, name) for name in summary}  # fmt: skip
        found = {name: plan.header.get(name) for name in about} | {"operation_count": count, "total_minor": total}
        found |= {f"summary {name}": value for name, value in summary.items()}
        if columns is None:
            said["exceptions"], found["exceptions"] = self._exceptions(record), exceptions_in(plan.lines)
        if differences := _differences(said, found):
            raise _false(record, differences)
        return plan if columns is None else replace(plan, lines=plan.lines.select(columns))

    def why_false(self, record: PlanRecord) -> str | None:
        """What is wrong with a plan as it is stored, for a page that shows it; None if its row says what its lines come to."""
        try:
            self.prove(record)
        except (GateClosed, FatalError) as error:
            return str(error)
        return None

    def _exceptions(self, record: PlanRecord) -> pa.Table:
        query = sql.SQL("SELECT {} FROM plan_exception WHERE plan_digest = {}").format(
            sql.SQL(", ").join(map(sql.Identifier, EXCEPTION_COLUMNS[1:])), sql.Literal(record.plan_digest)
        )
        return fetch(conninfo(self._server.pipeline_url), query, _EXCEPTION_SCHEMA)

    def newest_plan(self, incident_id: str) -> PlanRecord | None:
        """The plan in force: the newest, unless the incident has been given another corrected run since."""
        plans = self.plans(incident_id)
        return plans[0] if plans and plans[0].corrected_run == self.find(incident_id).corrected_run else None

    def _plans(self, condition: str, values: tuple) -> list[PlanRecord]:
        with self._server.connect() as connection:
            rows = connection.cursor(row_factory=dict_row).execute(f"{_PLANS} {condition}", values).fetchall()
        return [_plan_record(row) for row in rows]

    # -- approval -----------------------------------------------------------------------------------------------

    def approve(
        self, plan: PlanRecord, *, as_of: datetime, expires_at: datetime, login: str | None, password: str | None
    ) -> PlanRecord:
        """Record that whoever `login` authenticates agrees to `plan`: its digest, count and total.

        Args:
            plan: as the approver saw it.

        Raises:
            UsageError: no login, a wrong password, or a login that may not approve.
            GateClosed: it is the requester's own plan, was approved, rejected or superseded, would expire at once, or says something
                else than its lines come to.
        """
        if login is None:
            raise UsageError(
                "who approves? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        self._require_approvable(plan, as_of, expires_at)
        with self._as_person(login, password) as connection:
            _insert_approval(connection, plan, expires_at, approver=None, shown=login)
        return self.plan(plan.plan_digest)

    def approve_for_airflow_user(
        self, plan: PlanRecord, *, as_of: datetime, expires_at: datetime, user: str
    ) -> PlanRecord:
        """As `approve`, for a user whom Airflow authenticated."""
        self._require_approvable(plan, as_of, expires_at)
        with self._as_person("makegood_airflow", None) as connection:
            _insert_approval(connection, plan, expires_at, approver=user, shown=user)
        return self.plan(plan.plan_digest)

    def reject(self, plan_digest: str, *, reason: str, login: str | None, password: str | None) -> PlanRecord:
        """Record that a person refuses a plan; it ends an approval given before. Repeating it changes nothing.

        Raises:
            UsageError: no login or no reason, or a login that may not.
        """
        if login is None:
            raise UsageError(
                "who rejects? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        return self._reject(plan_digest, reason, login, password, person=None)

    def reject_for_airflow_user(self, plan_digest: str, *, reason: str, user: str) -> PlanRecord:
        """As `reject`, for a user whom Airflow authenticated - or for nobody, when a request went unanswered."""
        return self._reject(plan_digest, reason, "makegood_airflow", None, person=user)

    def _reject(
        self, plan_digest: str, reason: str, login: str, password: str | None, *, person: str | None
    ) -> PlanRecord:
        if not reason.strip():
            raise UsageError("a rejection needs its reason: --reason TEXT")
        record = self.plan(plan_digest)
        with self._as_person(login, password) as connection:
            said = {"plan_digest": record.plan_digest, "reason": reason}
            if insert_row(connection, "plan_rejection", said, passed_on={"person": person}):
                detail = {"plan": record.plan_digest, "reason": reason} | ({"user": person} if person else {})
                append_audit(connection, "reject_plan", record.incident_id, detail)
        return self.plan(record.plan_digest)

    def _require_approvable(self, plan: PlanRecord, as_of: datetime, expires_at: datetime) -> None:
        record = self._require_in_force(plan.incident_id, plan.plan_digest)
        if record.approver:
            raise GateClosed(
                f"plan {plan.plan_digest[:12]} was approved by {record.approver} already; an approval is used once"
            )
        if expires_at <= as_of:
            raise GateClosed(
                f"the windows of plan {plan.plan_digest[:12]} are over; plan anew with dates that lie ahead"
            )
        self.prove(record)

    def _require_in_force(self, incident_id: str, plan_digest: str | None = None) -> PlanRecord:
        incident = self.find(incident_id)
        if incident.closed_at:
            raise GateClosed(f"{incident_id} is closed")
        plans = self.plans(incident_id)
        if not plans:
            raise GateClosed(f"{incident_id} has no plan; `makegood incident plan {incident_id} --store` makes one")
        newest = plans[0]
        if plan_digest not in (None, newest.plan_digest):
            raise GateClosed(
                f"plan {plan_digest[:12]} is superseded by {newest.plan_digest[:12]}; an approval is for one plan, look at the newest"
            )
        if newest.corrected_run != incident.corrected_run:
            raise GateClosed(
                f"plan {newest.plan_digest[:12]} was made for {newest.corrected_run}, which {incident.corrected_run} has replaced;"
                f" `makegood incident plan {incident_id} --store` makes a new one"
            )
        if newest.rejected_by:
            raise GateClosed(
                f"plan {newest.plan_digest[:12]} was rejected by {newest.rejected_by} ({newest.rejection}); plan anew"
            )
        return newest

    def require_approved(
        self, incident_id: str, as_of: datetime | None, columns: Sequence[str] | None = None
    ) -> ApprovedPlan:
        """The plan that may be executed, its file read and proven.

        Args:
            as_of: the instant to hold the approval's expiry against; None takes the database's clock.
            columns: what is needed of its lines; None for everything.

        Raises:
            UsageError: no such incident.
            GateClosed: no plan, no approval, an expired one, a plan superseded, rejected, changed on disk, that says something else
                than its lines come to, or whose approver has lost the right to approve; the message says what to do.
            FatalError: the file is gone or unreadable.
        """
        record = self._require_in_force(incident_id)
        short = record.plan_digest[:12]
        if record.approver is None:
            raise GateClosed(
                f"plan {short} awaits approval: another person than {record.requested_by} runs `makegood incident approve"
                f" {incident_id} --plan {short}`"
            )
        with self._server.connect() as connection:
            now, may_approve = connection.execute(
                "SELECT now(), EXISTS (SELECT FROM pg_roles r WHERE r.rolname = %s AND r.rolcanlogin"
                " AND pg_has_role(r.oid, %s, 'MEMBER'))",
                (record.approver, APPROVER_ROLE),
            ).fetchone()
        if record.approval_channel == "database" and not may_approve:
            raise GateClosed(f"{record.approver}, who approved plan {short}, may no longer approve; plan anew")
        if (as_of or now) >= record.expires_at:
            raise GateClosed(
                f"the approval of plan {short} expired at {record.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC; what is left needs a"
                f" successor plan: `makegood incident plan {incident_id} --store` with new windows"
            )
        return self._approved(record, columns)

    def _approved(self, record: PlanRecord, columns: Sequence[str] | None) -> ApprovedPlan:
        plan = self.prove(record, columns)
        return ApprovedPlan(
            incident=self.find(record.incident_id),
            plan_digest=record.plan_digest,
            file=self._home / record.file,
            header=plan.header,
            lines=plan.lines,
            windows=record.windows,
            operation_count=record.operation_count,
            total_minor=record.total_minor,
            requested_by=record.requested_by,
            approver=record.approver,
            expires_at=record.expires_at,
        )

    # -- whoever acts -------------------------------------------------------------------------------------------

    @contextmanager
    def _as_person(self, login: str | None, password: str | None) -> Iterator[psycopg.Connection]:
        """A connection of `login`; what its role or the database's rules refuse comes as advice."""
        with self._server.connect(login, password) as connection:
            try:
                yield connection
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation) as error:
                raise UsageError(
                    f"{login or 'the service login'} may not do this: {error.diag.message_primary}"
                ) from None

    def _relative(self, file: Path) -> str:
        try:
            return str(file.resolve().relative_to(self._home.resolve()))
        except ValueError:
            raise FatalError(
                f"{file.name} is not below the home directory; a plan stays with its installation"
            ) from None


_NEWEST_CORRECTION = (
    "SELECT corrected_run FROM incident_correction WHERE incident_id = %s ORDER BY correction_id DESC LIMIT 1"
)

_PLANS = (
    "SELECT p.plan_digest, p.plan_number AS number, p.incident_id, p.corrected_run, p.successor_of, p.file, p.reversal_first,"
    " p.reversal_last, p.rebill_first, p.rebill_last, p.operation_count, p.total_minor, p.summary, p.requested_by, p.channel,"
    " p.recorded_at, a.approver, a.channel AS approval_channel, a.expires_at, j.person AS rejected_by, j.reason AS rejection"
    " FROM plan p LEFT JOIN approval a USING (plan_digest) LEFT JOIN plan_rejection j USING (plan_digest)"
)


def _plan_record(row: dict[str, Any]) -> PlanRecord:
    days: list[date] = [row.pop(name) for name in ("reversal_first", "reversal_last", "rebill_first", "rebill_last")]
    return PlanRecord(**row, windows=Windows(Window(*days[:2]), Window(*days[2:])))


def _part(summary: Any, name: str) -> Any:
    """One part of a stored summary, which may hold anything."""
    return summary.get(name) if isinstance(summary, dict) else None


def _differences(said: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In what a plan's row and its lines differ, in words."""
    differences = []
    for name, value in found.items():
        if isinstance(value, pa.Table):
            stored, value = _in_order(said[name]), _in_order(value)
            if not stored.equals(value):
                differences.append(
                    f"{name}: {stored.num_rows:,} stored, {value.num_rows:,} in its lines, or other ones"
                )
        elif said[name] != value:
            figures = isinstance(value, dict | list)
            differences.append(f"{name} differs" if figures else f"{name}: {said[name]} stored, {value} in its lines")
    return differences


def _false(record: PlanRecord, differences: Sequence[str]) -> GateClosed:
    """What to do about a plan whose row does not say what its lines come to, with the first few differences."""
    named, more = "; ".join(differences[:DIFFERENCES_NAMED]), len(differences) - DIFFERENCES_NAMED
    return GateClosed(
        f"plan {record.plan_digest[:12]} of {record.requested_by} is not what its lines come to ({named}"
        f"{f' and {more} more' if more > 0 else ''}). Nothing is approved or executed;"
        f" `makegood incident plan {record.incident_id} --store` makes a new one"
    )


def _in_order(exceptions: pa.Table) -> pa.Table:
    key = [(name, "ascending") for name in EXCEPTION_KEY]
    return exceptions.select(_EXCEPTION_SCHEMA.names).cast(_EXCEPTION_SCHEMA).sort_by(key)


def _require_free(
    connection: psycopg.Connection, incident_id: str, charge_scope: str, issuers: list[str] | None
) -> None:
    """Refuse what is closed, and a second open incident over the same charges: a charge is undone by one plan."""
    if connection.execute("SELECT FROM incident_closing WHERE incident_id = %s", (incident_id,)).fetchone():
        raise GateClosed(f"{incident_id} is closed; its proof stands")
    other = connection.execute(
        "SELECT incident_id FROM incident_hold WHERE charge_scope = %(scope)s AND incident_id <> %(id)s"
        " AND (issuers IS NULL OR %(issuers)s::text[] IS NULL OR issuers && %(issuers)s::text[]) LIMIT 1",
        {"scope": charge_scope, "id": incident_id, "issuers": issuers},
    ).fetchone()
    if other:
        raise GateClosed(
            f"{other[0]} is open and covers some of the same charges; finish it first, or name other issuers"
        )


def _insert_plan(
    connection: psycopg.Connection, incident: Incident, plan_digest: str, file: str, windows: Windows, operation_count: int,
    total_minor: int, summary: dict[str, Any], exceptions: pa.Table, successor_of: str | None, *, requested_by: str | None,
) -> None:  # fmt: skip
    row = {
        "plan_digest": plan_digest, "incident_id": incident.incident_id, "corrected_run": incident.corrected_run,
        "successor_of": successor_of, "file": file, "reversal_first": windows.reversal.first, "reversal_last": windows.reversal.last,
        "rebill_first": windows.rebill.first, "rebill_last": windows.rebill.last, "operation_count": operation_count,
        "total_minor": total_minor, "summary": json.dumps(summary),
    }  # fmt: skip
    if not insert_row(connection, "plan", row, passed_on={"requested_by": requested_by}):
        return
    named = exceptions.append_column("plan_digest", pa.repeat(plan_digest, exceptions.num_rows))
    copy_in(connection, "plan_exception", named.to_batches(), EXCEPTION_COLUMNS)
    detail = {"plan": plan_digest, "operations": operation_count, "total_minor": total_minor}
    append_audit(connection, "plan", incident.incident_id, detail | ({"user": requested_by} if requested_by else {}))


def _insert_approval(
    connection: psycopg.Connection, plan: PlanRecord, expires_at: datetime, *, approver: str | None, shown: str
) -> None:
    short = plan.plan_digest[:12]
    try:
        agreed = {"plan_digest": plan.plan_digest, "operation_count": plan.operation_count, "total_minor": plan.total_minor,
                  "requested_by": plan.requested_by, "expires_at": expires_at}  # fmt: skip
        if not insert_row(connection, "approval", agreed, passed_on={"approver": approver}):
            raise GateClosed(f"plan {short} has been approved already; an approval is used once")
    except psycopg.errors.ForeignKeyViolation:
        raise GateClosed(
            f"plan {short} is not what was shown (count, total or requester differ); look at it again"
        ) from None
    except psycopg.errors.CheckViolation as error:
        if error.diag.constraint_name == "nobody_approves_their_own_plan":
            raise GateClosed(f"{shown} asked for plan {short}; a different person must approve it") from None
        raise
    detail = {"plan": plan.plan_digest, "operations": plan.operation_count, "total_minor": plan.total_minor}
    append_audit(connection, "approve", plan.incident_id, detail | ({"user": approver} if approver else {}))
