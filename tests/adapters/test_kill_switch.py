"""A stop is given by anybody, delayed by nobody, and stands until enough different people have lifted it by name."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pipeline.adapters import postgres
from pipeline.adapters.audit import AuditLog
from pipeline.adapters.postgres import PERSON_CONNECTIONS_MAX, Server, conninfo
from pipeline.adapters.runs import Register
from pipeline.bootstrap import Makegood, open_makegood
from pipeline.cli import main
from pipeline.errors import RetriableError, UsageError
from pipeline.settings import Settings

AT_ONCE_SECONDS = 3.0
"""Longest a stop may take here: it waits for nobody, and a slow machine connects in less."""


@pytest.fixture(scope="module")
def server(settings: Settings) -> Server:
    server = postgres.open_server(settings)
    for name, role in (
        ("an_analyst", "makegood_analyst"),
        ("crowd", "makegood_analyst"),
        ("colleague", "makegood_operator"),
    ):
        postgres.add_person(postgres.superuser_url(settings), server.passwords, name, role)
    return server


@pytest.fixture
def register(server: Server) -> Iterator[Register]:
    """A register in which sending is allowed, before and after."""
    register = Register(server)
    yield register
    for login in ("operator", "approver"):
        register.resume("the test is over", stops=(), login=login, password=None)
    assert register.stopped_by() is None


def open_as(server: Server, login: str, **options: bool) -> psycopg.Connection:
    return psycopg.connect(conninfo(server.url(login)), options="-c search_path=makegood", **options)


def superuser(settings: Settings) -> psycopg.Connection:
    url = conninfo(postgres.superuser_url(settings)).replace("/postgres?", f"/{postgres.DATABASE}?")
    return psycopg.connect(url, options="-c search_path=makegood", autocommit=True)


def stop(register: Register, reason: str = "look first", login: str | None = None) -> str:
    return register.stop(reason, login=login, password=None)


def resume(register: Register, login: str, stops: tuple[int, ...] = ()) -> list:
    return register.resume("looked", stops=stops, login=login, password=None)


# -- a stop stands ------------------------------------------------------------------------------------------------------


def test_a_stop_cannot_be_outnumbered(server, register):
    with open_as(server, "operator", autocommit=True) as insider:
        for columns, values in (
            ("order_id, action", "1000000000, 'resume'"),
            ("order_id", "1000000000"),
            ("action", "'resume'"),
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)):
                insider.execute(f"INSERT INTO sending_order ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values})")
    stop(register)
    assert register.stopped_by()[2] == "look first"


def test_every_stop_has_to_be_lifted_by_its_number(register):
    stop(register, "the acquirer is away")
    stop(register, "the amounts look wrong", login="approver")
    first, second = register.open_stops()
    assert [left.order_id for left in resume(register, "operator", (first.order_id,))] == [second.order_id]
    assert register.stopped_by()[0] == "approver"
    with pytest.raises(UsageError, match=f"no stop {first.order_id} stands"):
        resume(register, "operator", (first.order_id,))
    assert resume(register, "operator") == []


def test_resuming_is_a_persons_act(server, register):
    stop(register)
    with pytest.raises(UsageError, match="who resumes"):
        register.resume("", stops=(), login=None, password=None)
    for login in ("makegood_pipeline", "makegood_airflow", "an_analyst"):
        with pytest.raises(UsageError, match="may not resume"):
            resume(register, login)
    with open_as(server, "makegood_airflow", autocommit=True) as airflow:  # it passes on the word of a user
        order_id = register.open_stops()[0].order_id
        airflow.execute("INSERT INTO sending_lift (order_id, person) VALUES (%s, 'kim')", (order_id,))
    assert register.stopped_by() is None


def test_what_the_pipeline_finds_wrong_takes_two_different_people(server, register):
    with server.connect() as pipeline:
        numbers = {pipeline.execute("SELECT order_stop('the database is behind', 2)").fetchone()[0] for _ in range(3)}
    assert len(numbers) == 1, "found again, it is the same stop"
    for _ in range(2):
        assert [left.lifted_by for left in resume(register, "operator")] == [["operator"]]
    assert register.stopped_by()[2] == "the database is behind"
    assert resume(register, "approver") == []


def test_a_command_that_leaves_a_stop_standing_says_who_is_missing(settings, server, register, monkeypatch, capsys):
    monkeypatch.setenv("MAKEGOOD_HOME", str(settings.home))
    monkeypatch.setenv("MAKEGOOD_LOGIN", "operator")
    with server.connect() as pipeline:
        pipeline.execute("SELECT order_stop('the database is behind', 2)")
    assert main(["resume", "--reason", "looked"]) == 3
    assert "lifted by operator; 1 person must resume" in capsys.readouterr().out
    assert main(["check"]) == 0 and "the database is behind" in capsys.readouterr().out


# -- nobody delays a stop -----------------------------------------------------------------------------------------------


def given_at_once(settings: Settings, login: str | None = None) -> Makegood:
    """A stop as the command gives it: everything is opened anew."""
    began = time.monotonic()
    app = open_makegood(settings=replace(settings, login=login))
    assert app.stop("look first")["sending"] == "stopped"
    assert time.monotonic() - began < AT_ONCE_SECONDS
    return app


@pytest.mark.parametrize("login", [None, "operator"])
def test_no_transaction_that_a_reader_leaves_open_delays_a_stop(settings, server, register, login):
    with open_as(server, "an_analyst") as reader, open_as(server, "colleague") as writer:
        for name in ("makegood.audit", "makegood.sending", "makegood.incident", "makegood.migrate"):
            reader.execute("SELECT pg_advisory_lock(hashtext(%s))", (name,))
        readable = reader.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'makegood'::regnamespace AND relkind = 'r'"
            " AND has_table_privilege(oid, 'SELECT')"
        ).fetchall()
        assert {("sending_order",), ("audit",), ("outcome",)} <= set(readable)
        for (table,) in readable:
            reader.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
        for connection in (reader, writer):
            connection.execute("SELECT record_act('test', 'never committed', '{}')")
        writer.execute("INSERT INTO sending_order (reason) VALUES ('never committed')")
        app = given_at_once(settings, login)
        assert app.register.stopped_by()[0] == (login or "makegood_pipeline")
        app.audit_log.require_whole()  # nor does anybody keep the log from being sealed
        resume(register, "approver")
        reader.rollback()
        writer.rollback()


def test_a_stop_stands_when_the_audit_log_cannot_be_written(settings, server, register):
    with superuser(settings) as admin, admin.transaction():
        admin.execute("LOCK TABLE audit IN ACCESS EXCLUSIVE MODE")
        stop(register)
        assert register.stopped_by() is not None


def test_a_login_that_is_refused_keeps_nobody_from_stopping(register):
    assert register.stop("look first", login="operator", password="wrong") == "makegood_pipeline"
    assert register.stop("look first", login="an_analyst", password=None) == "makegood_pipeline"


def test_a_reason_that_cannot_be_written_keeps_nobody_from_stopping(settings, register):
    assert open_makegood(settings=settings).stop("outage \udcff\x00")["sending"] == "stopped"
    assert register.stopped_by()[2] == "outage \\udcff\\x00"


@pytest.mark.parametrize("login", [None, "operator"])
def test_readers_who_open_all_the_connections_they_can_leave_one_to_stop_with(settings, server, register, login):
    with superuser(settings) as admin:
        admin.execute("ALTER ROLE crowd CONNECTION LIMIT -1")  # as many analysts as one likes
        with ExitStack() as held:
            assert _open_all(held, server, "an_analyst") == PERSON_CONNECTIONS_MAX
            assert _open_all(held, server, "crowd") > 50
            with pytest.raises(RetriableError):
                server.connect("crowd").__enter__()
            given_at_once(settings, login)
        admin.execute(f"ALTER ROLE crowd CONNECTION LIMIT {PERSON_CONNECTIONS_MAX}")


def _open_all(held: ExitStack, server: Server, login: str) -> int:
    for number in range(500):
        try:
            held.callback(open_as(server, login).close)
        except psycopg.OperationalError:
            return number
    raise AssertionError("the server has no end")


# -- from before --------------------------------------------------------------------------------------------------------


def test_orders_of_before_mean_what_they_meant(settings, server, monkeypatch, tmp_path):
    """Each stop that an order to resume had lifted is lifted, in that person's name; a number alone lifts nothing."""
    everything = postgres._migrations()
    with superuser(settings) as admin:
        admin.execute("CREATE DATABASE before OWNER makegood_owner")
    url = conninfo(postgres.superuser_url(settings)).replace("/postgres?", "/before?")
    with psycopg.connect(url) as old:
        old.execute("SET ROLE makegood_owner")
        monkeypatch.setattr(postgres, "_migrations", lambda: [each for each in everything if each[0] < "0010"])
        postgres.migrate(old)
        old.execute(
            "INSERT INTO sending_order (order_id, action, person, reason, recorded_at) OVERRIDING SYSTEM VALUE VALUES"
            " (1, 'stop', '', 'a', '2023-09-01'), (2, 'resume', '', 'a', '2023-09-02'), (3, 'stop', '', 'b', '2023-09-03'),"
            " (1000, 'resume', '', 'forged', '2023-09-02'), (4, 'stop', '', 'c', '2023-09-04')"
        )
        old.execute("INSERT INTO audit (action, subject) VALUES ('test', 'one'), ('test', 'two')")
        monkeypatch.setattr(postgres, "_migrations", lambda: everything)
        assert "0011_people" in postgres.migrate(old)
        assert old.execute("SELECT reason FROM open_stop ORDER BY order_id").fetchall() == [("b",), ("c",)]
        old.execute("SELECT record_act('test', 'three', '{}'), seal_acts()")
        assert old.execute("SELECT count(*) FROM audit_seal").fetchone() == (3,)
        assert old.execute("SELECT * FROM audit_break").fetchall() == [], "the chain goes on where the old one ended"


# -- people -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["postgres", "pg_monitor", "makegood_owner", "makegood_kim", "airflow", "nobody", "../../evil", "Kim", "kim lee", "9kim", "k" * 32, "",
     "kim\n", "public"],
)  # fmt: skip
def test_a_person_cannot_have_the_name_of_a_service_or_of_a_path(settings, server, name):
    before = sorted(settings.home.rglob("logins/*"))
    with pytest.raises(UsageError, match="cannot be a person's login"):
        Makegood(settings).add_person(name, "operator", admin_url=None)
    assert sorted(settings.home.rglob("logins/*")) == before


def test_a_login_that_is_nobodys_is_not_given_to_a_person(settings, server):
    with superuser(settings) as admin:
        admin.execute("CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'x'")
    with pytest.raises(UsageError, match="is no person's"):
        Makegood(settings).add_person("replicator", "operator", admin_url=None)


def test_who_added_whom_is_in_the_audit_log_and_the_password_is_its_owners_alone(settings, server):
    app = Makegood(replace(settings, login="approver"))
    app.add_person("jiwoo", "auditor", admin_url=None)
    with server.connect() as connection:
        row = connection.execute(
            "SELECT person, detail ->> 'role' FROM audit WHERE action = 'add_person' AND subject = 'jiwoo'"
        ).fetchall()
    assert row == [("approver", "auditor")]
    assert Path(server.passwords / "jiwoo").stat().st_mode & 0o777 == 0o600
    AuditLog(server).require_whole()
