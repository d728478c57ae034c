"""An installation, opened: what the settings name, as the adapters behind the ports.

Belongs here: the database, the lake, the rail to the acquirer, what time it is. Does not: any stage - the nightly ones are in
`bootstrap`, those of an incident in `remediation`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from getpass import getuser

from pipeline.adapters import postgres
from pipeline.adapters.audit import AuditLog, append_audit
from pipeline.adapters.declared_changes import DeclaredChanges
from pipeline.adapters.home import keep_private
from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.ledger import PostgresLedger
from pipeline.adapters.rails.adyen_batch import MerchantAccount
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.adapters.runs import Register
from pipeline.core.wave import StopRule
from pipeline.errors import FatalError, UsageError
from pipeline.execution import Sender
from pipeline.judge import Suites, load_suites
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
        keep_private(self.settings.home)
        server = postgres.open_server(self.settings)
        keep_private(self.settings.home)  # an embedded server that root starts opens it on its way in
        return server

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
    def rail(self, *, tell_time: bool = True) -> Iterator[PaymentRail]:
        """The rail to the acquirer, told what time it is - unless somebody only looks."""
        account = MerchantAccount(platform=self.settings.platform)
        with PracticeRail(self.settings.acquirer, outbox=self.settings.home / "outgoing", account=account) as rail:
            if self._as_of is not None and not rail.simulated:
                raise FatalError("a real acquirer knows its own time: --as-of works with the practice acquirer alone")
            if tell_time:
                rail.set_clock(self._as_of)
            yield rail

    def _sender(self, rail: PaymentRail) -> Sender:
        return self._sender_with(rail, StopRule())

    def _sender_with(self, rail: PaymentRail, rule: StopRule) -> Sender:
        seconds = self.settings.answer_seconds
        return Sender(self.ledger, rail, self.register, self.business_day, rule, self.progress, answer_seconds=seconds)

    def proven(self, run_id: str) -> LandedRun:
        """The run as the database recorded it when it landed, its partition's rows just read back and found to be these.

        Whatever charges, reverses or proves by a run's charges takes them from here: the lake's files can be edited together.

        Raises:
            UsageError: no such run was landed here.
            FatalError: the partition is gone, damaged or another than what landed; names what differs and what to do.
        """
        run = self.register.run(run_id, self.lake.path_of(run_id))
        self.lake.prove([run])
        return run

    def all_proven(self, run_ids: Sequence[str]) -> list[LandedRun]:
        """As `proven`, of runs that are only compared with: bytes whose rows were found to be the run's are not read as rows again."""
        runs = [self.register.run(run_id, self.lake.path_of(run_id)) for run_id in run_ids]
        before = self.register.proven_bytes(run_ids)
        self.register.keep_proven_bytes(self.lake.prove(runs, proven_before=before) - before)
        return runs

    def suites(self) -> Suites:
        """The suites with the learned bounds that a person put in force.

        Raises:
            UsageError: the file of learned bounds is not the one put in force; the message says how to get on.
        """
        suites = load_suites(self.settings.suites, self.settings.learned)
        found, in_force = suites.learned and suites.learned.digest, self.register.bounds_in_force()
        if found != in_force:
            what = (
                f"{self.settings.learned} holds bounds ({found[:12]}) that nobody put in force"
                if found
                else f"{self.settings.learned} is gone, and the bounds {in_force[:12]} in it were in force"
            )
            raise UsageError(
                f"{what}: nothing is judged by them. `makegood calibrate --apply FILE` puts a proposal in force in your name - the"
                " file itself, where its bounds are right - and `makegood calibrate --remove` goes on without learned bounds"
            )
        return suites
