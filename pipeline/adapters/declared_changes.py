"""Declared changes in PostgreSQL: who declared, who approved, who withdrew.

Belongs here: appending each and reading what is in force; the database makes the rules (two people, at most twelve months). Does not:
what a change excuses (`core.declared`).
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pipeline.adapters.audit import append_audit
from pipeline.adapters.postgres import Server
from pipeline.core.declared import DeclaredChange
from pipeline.errors import GateClosed, UsageError


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """A declared change and where it stands.

    Attributes:
        change: what was declared; its `approved_by` is empty until somebody did.
        state: `requested`, `approved` or `withdrawn`.
        declared_at, approved_at: UTC.
    """

    change: DeclaredChange
    state: str
    declared_at: datetime
    approved_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self.change) | {
            "state": self.state,
            "declared_at": self.declared_at.isoformat(),
            "approved_at": self.approved_at and self.approved_at.isoformat(),
        }


class DeclaredChanges:
    """Reads and appends; nothing here updates a row."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def declare(self, change: DeclaredChange, *, login: str | None, password: str | None) -> ChangeRecord:
        """Record a change as declared by whoever `login` authenticates; it does nothing until another person approves it.

        Args:
            change: its people and number are not looked at.

        Raises:
            UsageError: no login, a wrong password, no reason, or a login that may not declare.
        """
        if not change.reason.strip():
            raise UsageError("a declared change needs its reason: --reason TEXT")
        with self._as_person(login, password) as connection:
            values = {name: getattr(change, name) for name in _DECLARED}
            (number,) = connection.execute(
                f"INSERT INTO declared_change ({', '.join(values)}) VALUES ({', '.join(f'%({name})s' for name in values)})"
                " RETURNING change_id",
                values,
            ).fetchone()
            append_audit(connection, "declare_change", f"change {number}", values)
        return self.find(str(number))

    def approve(self, change_id: str, *, login: str | None, password: str | None) -> ChangeRecord:
        """Record that whoever `login` authenticates agrees to a change that somebody else declared.

        Raises:
            UsageError: no such change, no login, or a login that may not approve or is who declared it.
            GateClosed: it was approved or withdrawn already.
        """
        record = self.find(change_id)
        if record.state != "requested":
            raise GateClosed(
                f"change {change_id} is {record.state} already; `makegood change list` shows where all stand"
            )
        with self._as_person(login, password) as connection:
            try:
                connection.execute(
                    "INSERT INTO declared_change_approval (change_id, requested_by) VALUES (%s, %s)",
                    (int(change_id), record.change.declared_by),
                )
            except psycopg.errors.UniqueViolation:
                raise GateClosed(f"change {change_id} is approved already") from None
            except psycopg.errors.CheckViolation as error:
                if error.diag.constraint_name != "nobody_approves_their_own_change":
                    raise
                raise UsageError(f"{login} declared change {change_id}; a different person approves it") from None
            except psycopg.errors.InsufficientPrivilege:
                raise UsageError(
                    f"{login} may not approve changes; change {change_id} waits for an approver who is not {record.change.declared_by}"
                ) from None
            append_audit(
                connection, "approve_change", f"change {change_id}", {"requested_by": record.change.declared_by}
            )
        return self.find(change_id)

    def withdraw(self, change_id: str, *, reason: str, login: str | None, password: str | None) -> ChangeRecord:
        """Record that a change is no longer to be expected; one person suffices, since this excuses less. Repeating it changes nothing.

        Raises:
            UsageError: no such change, no login, or a login that may not.
        """
        self.find(change_id)
        with self._as_person(login, password) as connection:
            done = connection.execute(
                "INSERT INTO declared_change_withdrawal (change_id, reason) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (int(change_id), reason),
            )
            if done.rowcount:
                append_audit(connection, "withdraw_change", f"change {change_id}", {"reason": reason})
        return self.find(change_id)

    def find(self, change_id: str) -> ChangeRecord:
        """The change of that number.

        Raises:
            UsageError: there is none.
        """
        if change_id.isascii() and change_id.isdigit():
            for record in self._records("WHERE c.change_id = %s", (int(change_id),)):
                return record
        raise UsageError(
            f"no declared change {change_id!r} is known here; `makegood change list` names those there are"
        )

    def all(self) -> list[ChangeRecord]:
        """Every change ever declared, newest first."""
        return self._records("ORDER BY c.change_id DESC", ())

    def in_force(self, billing_period: str) -> tuple[DeclaredChange, ...]:
        """The approved changes that cover a period and were not withdrawn, by number."""
        records = self._records(
            "WHERE a.change_id IS NOT NULL AND w.change_id IS NULL AND %s BETWEEN c.first_period AND c.last_period"
            " ORDER BY c.change_id",
            (billing_period,),
        )
        return tuple(record.change for record in records)

    def _records(self, condition: str, values: tuple) -> list[ChangeRecord]:
        with self._server.connect() as connection:
            rows = connection.cursor(row_factory=dict_row).execute(f"{_CHANGES} {condition}", values).fetchall()
        return [_record(row) for row in rows]

    @contextlib.contextmanager
    def _as_person(self, login: str | None, password: str | None) -> Iterator[psycopg.Connection]:
        """A connection of `login`; what its role or the database's rules refuse comes as advice."""
        if login is None:
            raise UsageError(
                "who are you? set MAKEGOOD_LOGIN (and MAKEGOOD_PASSWORD), or pass --login; a login is a person"
            )
        with self._server.connect(login, password) as connection:
            try:
                yield connection
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation) as error:
                raise UsageError(f"{login} may not do this: {error.diag.message_primary}") from None


_DECLARED = ("kind", "cohort", "rule", "first_period", "last_period", "percent", "reason")

_CHANGES = (
    "SELECT c.change_id::text, c.kind, c.cohort, c.rule, c.first_period, c.last_period, c.percent, c.reason, c.person AS declared_by,"
    " coalesce(a.approver, '') AS approved_by, c.recorded_at AS declared_at, a.recorded_at AS approved_at,"
    " CASE WHEN w.change_id IS NOT NULL THEN 'withdrawn' WHEN a.change_id IS NOT NULL THEN 'approved' ELSE 'requested' END AS state"
    " FROM declared_change c LEFT JOIN declared_change_approval a USING (change_id)"
    " LEFT JOIN declared_change_withdrawal w USING (change_id)"
)


def _record(row: dict[str, Any]) -> ChangeRecord:
    standing = {name: row.pop(name) for name in ("state", "declared_at", "approved_at")}
    return ChangeRecord(DeclaredChange(**row), **standing)
