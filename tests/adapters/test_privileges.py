"""Every cell of docs/privileges.md, tried over real logins: who may do what, and nobody anything else."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pipeline.adapters import postgres
from pipeline.adapters.postgres import Server, conninfo, insert_row
from pipeline.settings import PROJECT_ROOT, Settings

PAGE = PROJECT_ROOT / "docs" / "privileges.md"

LOGINS = {
    "pipeline": "makegood_pipeline", "airflow's service": "makegood_airflow", "operator": "operator", "approver": "approver",
    "analyst": "an_analyst", "auditor": "an_auditor", "airflow": "airflow",
}  # fmt: skip
"""Columns of the page's table, and the login that each is tried with."""

REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)

SOMEBODY = "kim"

PLAN = {"file": "f", "reversal_first": "2023-09-11", "reversal_last": "2023-09-12", "rebill_first": "2023-09-12",
        "rebill_last": "2023-09-13", "operation_count": 7, "total_minor": 700, "summary": "{}"}  # fmt: skip


@pytest.fixture(scope="module")
def server(settings: Settings) -> Server:
    server = postgres.open_server(settings)
    for name, role in (("an_analyst", "makegood_analyst"), ("an_auditor", "makegood_auditor")):
        postgres.add_person(postgres.superuser_url(settings), server.passwords, name, role)
    return server


@pytest.fixture(scope="module")
def connections(server: Server) -> Iterator[dict[str, psycopg.Connection | None]]:
    """By column of the table; None where the login does not even reach the database."""
    opened = {column: _connect(server, login, postgres.DATABASE) for column, login in LOGINS.items()}
    yield opened
    for connection in filter(None, opened.values()):
        connection.close()


def _connect(server: Server, login: str, database: str) -> psycopg.Connection | None:
    try:
        return psycopg.connect(conninfo(server.url(login, database=database)), options="-c search_path=makegood")
    except psycopg.OperationalError:
        return None


@pytest.fixture(scope="module")
def there(server: Server) -> SimpleNamespace:
    """What acts are about: a run, an incident that could close, a plan and a change of somebody else's, a stop."""
    number = uuid4().hex
    there = SimpleNamespace(
        server=server, run=f"2023-09-{number[:12]}", incident=f"inc-2023-09-{number[:8]}", digest=number * 2
    )
    with server.connect() as pipeline:
        pipeline.execute("INSERT INTO run VALUES (%s, '2023-09', 's', %s, 1, 1, '[]', now())", (there.run, number))
        opened = {"incident_id": there.incident, "billing_period": "2023-09", "charge_scope": there.run}
        insert_row(pipeline, "incident", opened)
        there.proof = pipeline.execute(
            "INSERT INTO incident_proof (incident_id, proof) VALUES (%s, %s) RETURNING proof_id",
            (there.incident, '{"residual_minor": 0, "open": 0, "unexplained": 0}'),
        ).fetchone()[0]
        there.stop = pipeline.execute("INSERT INTO sending_order DEFAULT VALUES RETURNING order_id").fetchone()[0]
    with server.connect("operator") as operator:
        plan = {"plan_digest": there.digest, "incident_id": there.incident, "corrected_run": there.run} | PLAN
        insert_row(operator, "plan", plan)
        there.change = operator.execute(
            "INSERT INTO declared_change (kind, cohort, first_period, last_period, reason)"
            " VALUES ('amounts', 'run', '2023-09', '2023-09', 'r') RETURNING change_id"
        ).fetchone()[0]
    return there


Act = Callable[[psycopg.Connection, SimpleNamespace], Any]


def says(statement: str, **values: str) -> Act:
    """An act that is one statement; `values` name what it is about by attributes of `there`."""
    return lambda connection, there: connection.execute(
        statement, {key: getattr(there, name) for key, name in values.items()}
    )


def writes(table: str, passes_on: str | None = None, /, **columns: Any) -> Act:
    """An act that is one row; `$run` is that attribute of `there`. Airflow's service names whose word it passes on."""

    def act(connection: psycopg.Connection, there: SimpleNamespace) -> None:
        is_airflow = connection.info.user == "makegood_airflow"
        row = {
            name: getattr(there, value[1:]) if str(value).startswith("$") else value for name, value in columns.items()
        }
        assert insert_row(connection, table, row, passed_on={passes_on: SOMEBODY} if passes_on and is_airflow else None)

    return act


def reaches_airflow(connection: psycopg.Connection, there: SimpleNamespace) -> None:
    reached = _connect(there.server, connection.info.user, postgres.AIRFLOW_DATABASE)
    if reached is None:
        raise psycopg.errors.InsufficientPrivilege
    reached.close()


DECISION = {"run_id": "$run", "kind": "release", "reason": "r"}
INCIDENT = {"incident_id": "inc-2023-09-00000000", "billing_period": "2023-09", "charge_scope": "another"}
NEW_PLAN = {"plan_digest": "0" * 64, "incident_id": "$incident", "corrected_run": "$run"} | PLAN
APPROVAL = {"plan_digest": "$digest", "operation_count": 7, "total_minor": 700, "requested_by": "operator",
            "expires_at": "2023-09-14"}  # fmt: skip
CHANGE = {"kind": "amounts", "cohort": "run", "first_period": "2023-09", "last_period": "2023-09", "reason": "r"}

ACTS: dict[str, Act] = {
    "read runs, verdicts, plans, people's words, money": says("SELECT (SELECT count(*) FROM outcome), (SELECT count(*) FROM plan)"),
    "read a payment token": says("SELECT instrument_token FROM operation"),
    "record a run": writes("run", run_id="2023-09-ffffffffffff", billing_period="2023-09", source="s", content_sha256="x", row_count=1,
                           control_total_minor=1, files="[]", landed_at="2023-09-01"),
    "write operations and outcomes": says("INSERT INTO outcome SELECT * FROM outcome WHERE false"),
    "change or remove a row": says("DELETE FROM further_entry WHERE false"),
    "decide on a held run": writes("decision", "person", **DECISION),
    "decide in another's name": writes("decision", **DECISION, person=SOMEBODY),
    "decide at another time": writes("decision", "person", **DECISION, recorded_at="2023-01-01"),
    "review a report": writes("review", "person", run_id="$run", comment="c"),
    "open an incident": writes("incident", **INCIDENT),
    "open an incident in another's name": writes("incident", **INCIDENT, opened_by=SOMEBODY),
    "ask for a plan": writes("plan", "requested_by", **NEW_PLAN),
    "ask for a plan in another's name": writes("plan", **NEW_PLAN, requested_by=SOMEBODY),
    "give a plan a number": says(
        "INSERT INTO plan (plan_digest, plan_number) OVERRIDING SYSTEM VALUE VALUES (%(digest)s, 1000000)", digest="digest"),
    "approve another's plan": writes("approval", "approver", **APPROVAL),
    "approve in another's name": writes("approval", **APPROVAL, approver=SOMEBODY),
    "reject a plan": writes("plan_rejection", "person", plan_digest="$digest", reason="r"),
    "write a proof": writes("incident_proof", incident_id="$incident", proof='{"residual_minor": 0, "open": 0, "unexplained": 0}'),
    "close an incident with the pipeline's proof": writes("incident_closing", "person", incident_id="$incident", proof_id="$proof"),
    "close an incident without it": writes("incident_closing", "person", incident_id="$incident"),
    "close an incident with a proof of one's own": writes(
        "incident_closing", "person", incident_id="$incident", proof_id="$proof", proof='{"residual_minor": 0}'),
    "stop sending": writes("sending_order", "person", reason="r"),
    "stop under a number of one's own": says(
        "INSERT INTO sending_order (order_id, reason) OVERRIDING SYSTEM VALUE VALUES (1000000, 'r')"),
    "stop so that two people must resume": says("SELECT order_stop('behind', 2)"),
    "undo a stop by another order": writes("sending_order", "person", action="resume", reason="r"),
    "lift a stop": writes("sending_lift", "person", order_id="$stop", reason="r"),
    "lift a stop in another's name": writes("sending_lift", order_id="$stop", reason="r", person=SOMEBODY),
    "declare a change": writes("declared_change", **CHANGE),
    "declare a change in another's name": writes("declared_change", **CHANGE, person=SOMEBODY),
    "approve another's change": writes("declared_change_approval", change_id="$change", requested_by="operator"),
    "withdraw a change": writes("declared_change_withdrawal", change_id="$change", reason="r"),
    "call a finding a fault or a false alarm": writes(
        "finding_decision", run_id="$run", rule="x", severity="info", kind="accept", reason="r"),
    "append an act of one's own to the audit log": says("SELECT record_act('test', 'subject', '{}')"),
    "write the audit log otherwise": says("INSERT INTO audit (action, subject) VALUES ('test', 'subject')"),
    "seal the audit log": says("SELECT seal_acts()"),
    "hold a lock that the pipeline waits for": says("SELECT take_mutex('incident')"),
    "make a table": says("CREATE TABLE makegood.mine (x int)"),
    "make a temporary table": says("CREATE TEMP TABLE mine (x int)"),
    "reach Airflow's own database": reaches_airflow,
}  # fmt: skip
"""Rows of the page's table, and how each is tried."""


def page_says(page: Path) -> dict[str, dict[str, bool]]:
    """The page's first table: by act and column, whether it may."""
    paragraphs = page.read_text(encoding="utf-8").split("\n\n")
    table = next(paragraph for paragraph in paragraphs if paragraph.startswith("|"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    (_, *columns), _, *acts = rows
    return {act: {column: cell == "yes" for column, cell in zip(columns, cells, strict=True)} for act, *cells in acts}


def test_the_page_has_a_row_for_every_act_and_a_column_for_every_login():
    said = page_says(PAGE)
    assert list(said) == list(ACTS)
    assert all(list(cells) == list(LOGINS) for cells in said.values())


@pytest.mark.parametrize("act", ACTS)
def test_a_login_may_do_what_the_page_says_and_nothing_else(act, connections, there):
    may = {column: _may(ACTS[act], connection, there) for column, connection in connections.items()}
    if act == "reach Airflow's own database":
        may["airflow"] = _connect(there.server, "airflow", postgres.AIRFLOW_DATABASE) is not None
    assert may == page_says(PAGE)[act]


def _may(act: Act, connection: psycopg.Connection | None, there: SimpleNamespace) -> bool:
    if connection is None:
        return False
    with connection.transaction(force_rollback=True):
        try:
            with connection.transaction():
                act(connection, there)
        except REFUSED:
            return False
    return True
