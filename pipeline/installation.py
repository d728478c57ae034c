"""An installation, opened: what the settings name, as the adapters behind the ports.

Belongs here: the database, the lake, the rail to the acquirer, what time it is. Does not: any stage - the nightly ones are in
`bootstrap`, those of an incident in `remediation`.
"""

import contextlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cached_property
from getpass import getuser

from pipeline.adapters import postgres
from pipeline.adapters.audit import AuditLog, append_audit
from pipeline.adapters.declared_changes import DeclaredChanges
from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.ledger import PostgresLedger
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.adapters.runs import Register
from pipeline.core.wave import StopRule
from pipeline.errors import FatalError, UsageError
from pipeline.execution import Sender
from pipeline.ports import LandedRun, PaymentRail, Progress, no_progress
from pipeline.settings import Settings


class Installation:
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
    def audit_log(self) -> AuditLog:
        return AuditLog(self.server)

    @cached_property
    def changes(self) -> DeclaredChanges:
        return DeclaredChanges(self.server)

    @cached_property
    def ledger(self) -> PostgresLedger:
        return PostgresLedger(self.server, as_of=self._as_of, timezone=self.settings.timezone)

    @property
    def as_of(self) -> datetime:
        """The instant stages work at."""
        return self._as_of or datetime.now(UTC)

    @property
    def business_day(self) -> date:
        """The day it is in the business time zone."""
        return self.as_of.astimezone(self.settings.timezone).date()

    def add_person(self, name: str, role: str, *, admin_url: str | None) -> dict[str, str]:
        """Give a person a login; with the embedded server its password is made and kept in a file.

        The audit log has who added whom: the person logged in, else the service, and the operating system's user.
        """
        if admin_url is None and self.settings.database_url:
            raise UsageError("on your own server pass --admin-url with a login that may create roles")
        postgres.require_person_name(name)
        passwords = None if admin_url else self.server.passwords
        with self.server.connect(
            self.settings.login, self.settings.password
        ) as connection:  # first: nobody is added unrecorded
            append_audit(connection, "add_person", name, {"role": role, "system_user": getuser()})
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
        return self._sender_with(rail, StopRule())

    def _sender_with(self, rail: PaymentRail, rule: StopRule) -> Sender:
        seconds = self.settings.answer_seconds
        return Sender(self.ledger, rail, self.register, self.business_day, rule, self.progress, answer_seconds=seconds)

    def _landed(self, run_id: str, *, thoroughly: bool = True) -> LandedRun:
        run = self.lake.find(run_id, thoroughly=thoroughly)
        if run is None:
            raise UsageError(f"no run {run_id!r} was landed here; `makegood verify` lands one and prints its run_id")
        return run
