"""What is executed is what another person agreed to: this digest, this count, this total, until then, and nothing else."""

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from pipeline import approve as approve_stage
from pipeline.adapters import postgres
from pipeline.adapters.audit import AuditLog
from pipeline.adapters.closings import Closings
from pipeline.adapters.incidents import EXCEPTION_COLUMNS, Incident, IncidentRegister, PlanRecord, incident_id_of
from pipeline.adapters.plan_file import lines_digest, plan_digest, write_plan
from pipeline.adapters.postgres import Server
from pipeline.adapters.runs import Register
from pipeline.core.window import Windows, default_windows
from pipeline.errors import FatalError, GateClosed, UsageError
from pipeline.plan_figures import exceptions_in, summary_of
from pipeline.ports import LandedRun
from pipeline.schema import PLAN_SCHEMA
from pipeline.settings import Settings

NOW = datetime(2023, 9, 10, 3, tzinfo=UTC)
WINDOWS = default_windows(date(2023, 9, 10))
LATER = NOW + timedelta(days=3)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(settings: Settings) -> Server:
    server = postgres.open_server(settings)
    postgres.add_person(postgres.superuser_url(settings), server.passwords, "second_approver", "makegood_approver")
    return server


@pytest.fixture(scope="module")
def register(server: Server, home: Path) -> IncidentRegister:
    return IncidentRegister(server, home)


def landed_run(server: Server) -> str:
    """A run the database knows, of a name of its own."""
    run_id = f"2023-09-{next(_numbers):012x}"
    Register(server).record_run(LandedRun(run_id, "2023-09", "source", Path("x"), run_id, 1, 1, (), NOW))
    return run_id


@pytest.fixture
def incident(server: Server, register: IncidentRegister) -> Incident:
    return register.open_incident(
        billing_period="2023-09",
        charge_scope=landed_run(server),
        issuers=None,
        corrected_run=landed_run(server),
        login="operator",
    )


def store(
    register: IncidentRegister, home: Path, incident: Incident, *, amount: int = 100, windows: Windows = WINDOWS,
    login: str = "operator", line: dict | None = None, **said: Any,
) -> PlanRecord:  # fmt: skip
    """Store a plan of one line, with what its lines come to; `said` is what its row says otherwise."""
    plain = dict.fromkeys(PLAN_SCHEMA.names) | {
        "customer_id": "c", "billing_period": "2023-09", "bill_cycle": 1, "occurrence": 1, "reversal": "void",
        "reversal_minor": amount, "wrong_minor": amount, "rebill": "hold", "rebill_reason": "reversal_open", "currency": "KRW",
        "issuer": "HANBIT", "payment_method": "credit_card", "reversal_reason": "wrong_amount",
    }  # fmt: skip
    sound, lines = (pa.Table.from_pylist([each], PLAN_SCHEMA) for each in (plain, plain | (line or {})))
    header = {"incident_id": incident.incident_id, "corrected_run": incident.corrected_run, "reversal": str(windows.reversal),
              "rebill": str(windows.rebill)}  # fmt: skip
    digest = plan_digest(header, lines)
    file = write_plan(home / "incidents" / incident.incident_id, header, lines, digest)
    given = {"incident": incident, "plan_digest": digest, "file": file, "windows": windows, "operation_count": 1,
             "total_minor": amount, "summary": summary_of(header, sound, lines_digest(lines)), "exceptions": exceptions_in(lines),
             "successor_of": None, "login": login, "password": None}  # fmt: skip
    return register.store_plan(**given | {"windows": said.pop("row_windows", windows)} | said)


def approve(
    register: IncidentRegister, plan: PlanRecord, login: str = "approver", expires_at: datetime = LATER
) -> PlanRecord:
    return register.approve(plan, as_of=NOW, expires_at=expires_at, login=login, password=None)


# -- incidents --------------------------------------------------------------------------------------------------------


def test_an_incident_is_named_by_what_it_is_about_in_whatever_order_the_issuers_come():
    assert incident_id_of("2023-09", "run", ["B", "A"]) == incident_id_of("2023-09", "run", ["A", "B"])
    names = {incident_id_of("2023-09", scope, issuers) for scope, issuers in (("r", None), ("r", ["A"]), ("s", None))}
    assert len(names) == 3


def test_a_newer_corrected_run_is_appended_and_rules(server, register, incident):
    newer = landed_run(server)
    again = register.open_incident(
        billing_period="2023-09",
        charge_scope=incident.charge_scope,
        issuers=None,
        corrected_run=newer,
        login="operator",
    )
    assert (again.incident_id, again.corrected_run) == (incident.incident_id, newer)
    with server.connect() as connection:
        count = connection.execute(
            "SELECT count(*) FROM incident_correction WHERE incident_id = %s", (incident.incident_id,)
        ).fetchone()[0]
    assert count == 2


def test_one_charge_is_in_one_open_incident(server, register, incident):
    with pytest.raises(GateClosed, match="covers some of the same charges"):
        register.open_incident(
            billing_period="2023-09", charge_scope=incident.charge_scope, issuers=["HANBIT"],
            corrected_run=incident.corrected_run, login="operator",
        )  # fmt: skip


def test_incidents_of_different_issuers_of_a_run_stand_side_by_side(server, register):
    scope, right = landed_run(server), landed_run(server)
    opened = [
        register.open_incident(
            billing_period="2023-09", charge_scope=scope, issuers=[issuer], corrected_run=right, login="operator"
        )
        for issuer in ("HANBIT", "GARAM")
    ]
    assert {i.issuers for i in opened} == {("HANBIT",), ("GARAM",)}


def test_who_opened_an_incident_is_who_logged_in(incident):
    assert incident.opened_by == "operator"


def test_nothing_about_an_incident_can_be_changed_or_removed_by_any_login_of_the_pipeline(
    server, register, home, incident
):
    approve(register, store(register, home, incident))
    columns = {"incident": "reason", "incident_correction": "person", "plan": "file", "plan_exception": "reason",
               "approval": "approver", "plan_rejection": "reason"}  # fmt: skip
    for login, (table, column) in itertools.product(
        ("makegood_pipeline", "makegood_airflow", "operator", "approver"), columns.items()
    ):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = 'x'", f"TRUNCATE {table} CASCADE"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), server.connect(login) as connection:
                connection.execute(statement)


# -- plans and their approval -----------------------------------------------------------------------------------------


def test_without_a_plan_or_an_approval_nothing_may_be_executed(register, home, incident):
    with pytest.raises(GateClosed, match="has no plan"):
        register.require_approved(incident.incident_id, NOW)
    store(register, home, incident)
    with pytest.raises(GateClosed, match="awaits approval: another person than operator"):
        register.require_approved(incident.incident_id, NOW)


def test_an_approved_plan_may_be_executed_and_is_what_was_stored(register, home, incident):
    plan = approve(register, store(register, home, incident))
    approved = register.require_approved(incident.incident_id, NOW)
    assert (plan.state, approved.plan_digest, approved.approver) == ("approved", plan.plan_digest, "approver")
    assert (approved.windows, approved.lines["customer_id"].to_pylist()) == (WINDOWS, ["c"])
    assert approved.scope("cancel") == f"{incident.incident_id}/{plan.plan_digest[:12]}/cancel"


def test_storing_the_same_plan_twice_is_one_plan(register, home, incident):
    assert store(register, home, incident) == store(register, home, incident)
    assert len(register.plans(incident.incident_id)) == 1


def test_an_operator_cannot_approve(register, home, incident):
    with pytest.raises(UsageError, match="permission denied"):
        approve(register, store(register, home, incident), login="operator")


def test_nobody_approves_their_own_plan_whatever_their_role_or_way_in(register, home, incident):
    plan = store(register, home, incident, login="approver")
    with pytest.raises(GateClosed, match=r"approver asked for plan .* a different person"):
        approve(register, plan)
    with pytest.raises(GateClosed, match="a different person"):
        register.approve_for_airflow_user(plan, as_of=NOW, expires_at=LATER, user="approver")
    assert approve(register, plan, login="second_approver").approver == "second_approver"


def test_the_service_asks_for_nothing_and_approves_nothing(server, register, home, incident):
    with pytest.raises(UsageError, match="who plans"):
        store(register, home, incident, login=None)
    with pytest.raises(UsageError, match="permission denied"):
        store(register, home, incident, login="makegood_pipeline")
    plan = store(register, home, incident)
    with pytest.raises(UsageError, match="permission denied"):
        approve(register, plan, login="makegood_pipeline")


def test_a_plan_asked_for_in_airflow_names_the_user(register, home, incident):
    plan = store(register, home, incident)
    approved = register.approve_for_airflow_user(plan, as_of=NOW, expires_at=LATER, user="kim")
    assert (approved.approver, approved.approval_channel) == ("kim", "airflow")
    assert register.require_approved(incident.incident_id, NOW).approver == "kim"


@pytest.mark.parametrize("seen", [{"total_minor": 99}, {"operation_count": 2}, {"requested_by": "somebody"}])
def test_an_approval_is_for_the_count_and_total_that_were_shown(register, home, incident, seen):
    with pytest.raises(GateClosed, match="not what was shown"):
        approve(register, replace(store(register, home, incident), **seen))


FALSE = {
    "count": ({"operation_count": 3}, "operation_count: 3 stored, 1 in its lines"),
    "total": ({"total_minor": 9_000}, "total_minor: 9000 stored, 100 in its lines"),
    "summary": ({"summary": {"currency": "KRW", "actions": {}}}, "summary actions differs"),
    "no summary": ({"summary": None}, "summary currency: None stored, KRW in its lines"),
    "exceptions": (
        {"exceptions": pa.table({name: [] for name in EXCEPTION_COLUMNS[1:]})},
        "exceptions: 0 stored, 1 in its lines",
    ),
    "windows": ({"row_windows": default_windows(date(2023, 10, 10))}, "reversal: 2023-10-11..2023-10-12 stored"),
}


@pytest.mark.parametrize("what", FALSE)
def test_a_plan_whose_row_says_something_else_than_its_lines_is_not_approved(register, home, incident, what):
    said, named = dict(FALSE[what][0]), FALSE[what][1]
    plan = store(register, home, incident, **said)
    with pytest.raises(
        GateClosed, match=f"is not what its lines come to .*{named}.*incident plan {incident.incident_id} --store"
    ):
        approve(register, plan)
    assert named in register.why_false(plan)
    assert register.plan(plan.plan_digest).state == "requested"


@pytest.mark.parametrize("what", ["count", "total", "summary"])
def test_a_false_plan_that_an_approver_let_pass_by_sql_is_not_executed(server, register, home, incident, what):
    said, named = dict(FALSE[what][0]), FALSE[what][1]
    plan = store(register, home, incident, **said)
    with server.connect("approver") as connection:
        connection.execute(
            "INSERT INTO approval (plan_digest, operation_count, total_minor, requested_by, expires_at) VALUES (%s, %s, %s, %s, %s)",
            (plan.plan_digest, plan.operation_count, plan.total_minor, plan.requested_by, LATER),
        )
    for columns in (None, ["customer_id"]):
        with pytest.raises(GateClosed, match=named):
            register.require_approved(incident.incident_id, NOW, columns)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"reversal_minor": None}, "no positive amount"),
        ({"rebill": "rebill", "correct_minor": -5}, "no positive amount"),
    ],
)
def test_a_file_whose_lines_move_what_no_sum_shows_is_not_approved(register, home, incident, line, named):
    with pytest.raises(GateClosed, match=named):
        approve(register, store(register, home, incident, line=line))


def test_a_false_plan_can_be_rejected(register, home, incident):
    plan = store(register, home, incident, total_minor=9_000)
    rejected = register.reject(plan.plan_digest, reason="it is false", login="approver", password=None)
    assert rejected.state == "rejected"


def test_an_approval_is_used_once(register, home, incident):
    plan = approve(register, store(register, home, incident))
    with pytest.raises(GateClosed, match="already"):
        approve(register, plan, login="second_approver")


def test_an_approval_expires(register, home, incident):
    approve(register, store(register, home, incident), expires_at=LATER)
    register.require_approved(incident.incident_id, LATER - timedelta(seconds=1))
    with pytest.raises(GateClosed, match="expired at 2023-09-13"):
        register.require_approved(incident.incident_id, LATER)


def test_without_a_simulated_clock_the_databases_clock_decides_about_expiry(register, home, incident):
    approve(register, store(register, home, incident), expires_at=LATER)
    with pytest.raises(GateClosed, match="expired"):
        register.require_approved(incident.incident_id, None)


def test_a_newer_plan_ends_the_approval_of_the_one_before(register, home, incident):
    first = approve(register, store(register, home, incident))
    store(register, home, incident, amount=101)
    with pytest.raises(GateClosed, match="awaits approval"):
        register.require_approved(incident.incident_id, NOW)
    with pytest.raises(GateClosed, match="superseded"):
        approve(register, first, login="second_approver")


def test_a_newer_corrected_run_ends_the_plan_and_its_approval(server, register, home, incident):
    approve(register, store(register, home, incident))
    register.open_incident(
        billing_period="2023-09",
        charge_scope=incident.charge_scope,
        issuers=None,
        corrected_run=landed_run(server),
        login="operator",
    )
    with pytest.raises(GateClosed, match="has replaced"):
        register.require_approved(incident.incident_id, NOW)
    assert register.newest_plan(incident.incident_id) is None


def test_a_rejection_ends_an_approval_and_names_its_reason(register, home, incident):
    plan = approve(register, store(register, home, incident))
    rejected = register.reject(plan.plan_digest[:12], reason="windows too tight", login="operator", password=None)
    assert (rejected.state, rejected.rejected_by) == ("rejected", "operator")
    with pytest.raises(GateClosed, match=r"rejected by operator \(windows too tight\)"):
        register.require_approved(incident.incident_id, NOW)


def test_an_approver_who_lost_the_right_takes_the_approval_along(settings, server, register, home, incident):
    superuser = postgres.superuser_url(settings)
    postgres.add_person(superuser, server.passwords, "leaver", "makegood_approver")
    approve(register, store(register, home, incident), login="leaver")
    register.require_approved(incident.incident_id, NOW)
    with psycopg.connect(postgres.conninfo(superuser), autocommit=True) as connection:
        connection.execute("REVOKE makegood_approver FROM leaver")
    with pytest.raises(GateClosed, match="may no longer approve"):
        register.require_approved(incident.incident_id, NOW)


def test_a_plan_changed_on_disk_after_approval_is_not_executed(register, home, incident):
    approve(register, store(register, home, incident))
    path = home / register.newest_plan(incident.incident_id).file
    other = store(register, home, incident, amount=999)  # another plan's file in its place
    path.write_bytes((home / other.file).read_bytes())
    approve(register, other)
    register.require_approved(incident.incident_id, NOW)
    (home / other.file).write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FatalError, match="cannot be read"):
        register.require_approved(incident.incident_id, NOW)
    rewritten = store_lines_anyway(home / other.file, amount=1_000_000)
    assert rewritten.exists()
    with pytest.raises(GateClosed, match="changed after it was stored"):
        register.require_approved(incident.incident_id, NOW)


def store_lines_anyway(path: Path, *, amount: int) -> Path:
    import pyarrow.parquet as pq

    line = dict.fromkeys(PLAN_SCHEMA.names) | {"customer_id": "c", "reversal_minor": amount}
    lines = pa.Table.from_pylist([line], PLAN_SCHEMA)
    pq.write_table(lines.replace_schema_metadata({b"makegood.plan": b"{}"}), path)
    return path


def test_an_exception_of_a_plan_is_kept_by_name(server, register, home, incident):
    plan = store(register, home, incident)
    with server.connect() as connection:
        rows = connection.execute(
            "SELECT customer_id, reason FROM plan_exception WHERE plan_digest = %s", (plan.plan_digest,)
        ).fetchall()
    assert rows == [("c", "reversal_open")]


def test_who_did_what_to_an_incident_is_in_the_audit_log(server, register, home, incident):
    plan = approve(register, store(register, home, incident))
    register.reject(plan.plan_digest, reason="no", login="operator", password=None)
    with server.connect() as connection:
        rows = connection.execute(
            "SELECT person, action FROM audit WHERE subject = %s ORDER BY audit_id", (incident.incident_id,)
        ).fetchall()
    assert rows == [
        ("operator", "open_incident"),
        ("operator", "plan"),
        ("approver", "approve"),
        ("operator", "reject_plan"),
    ]
    AuditLog(server).require_whole()


# -- how long an approval lasts ---------------------------------------------------------------------------------------


def test_an_approval_lasts_as_long_as_the_windows_and_two_weeks_at_most(settings):
    zone = settings.timezone
    assert approve_stage.expiry(WINDOWS, as_of=NOW, timezone=zone) == datetime(2023, 9, 13, 15, tzinfo=UTC)
    early = datetime(2023, 8, 29, tzinfo=UTC)
    assert approve_stage.expiry(WINDOWS, as_of=early, timezone=zone) == early + approve_stage.APPROVAL_LASTS
    with pytest.raises(GateClosed, match="within 14 days"):
        approve_stage.expiry(WINDOWS, as_of=datetime(2023, 8, 20, tzinfo=UTC), timezone=zone)


def test_a_plan_whose_windows_are_over_cannot_be_approved(register, home, incident):
    plan = store(register, home, incident)
    late = datetime(2023, 9, 14, tzinfo=UTC)
    with pytest.raises(GateClosed, match="are over"):
        register.approve(plan, as_of=late, expires_at=LATER, login="approver", password=None)


def test_a_closing_names_whoever_it_was_passed_on_for(server, incident):
    Closings(server).close(
        incident, {"residual_minor": 0, "open": 0, "unexplained": 0}, login=None, password=None, user="kim"
    )
    with server.connect() as connection:
        closed = connection.execute(
            "SELECT person FROM incident_closing WHERE incident_id = %s", (incident.incident_id,)
        )
        assert closed.fetchall() == [("kim",)]
        heard = connection.execute(
            "SELECT person, detail ->> 'user' FROM audit WHERE subject = %s AND action = 'close_incident'",
            (incident.incident_id,),
        )
        assert heard.fetchall() == [("makegood_airflow", "kim")]
