"""The database itself refuses what must never be, whoever asks and whatever the code above it does."""

from collections.abc import Iterator
from itertools import count
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from psycopg import sql

from pipeline.adapters import postgres
from pipeline.adapters.audit import append_audit
from pipeline.adapters.postgres import Server, conninfo, insert_row
from pipeline.settings import Settings

PERIOD = "2023-09"
OWNERS = ("makegood_owner", "postgres")
"""Who may change a row: the login that migrates, and the server's own superuser. Nobody works as either."""

CUSTOMERS = map("P{:06d}".format, count())
"""Every example has a customer of its own: nothing here can be taken back."""

EXAMPLES = examples(max_examples=60)


@pytest.fixture(scope="module")
def server(settings: Settings) -> Server:
    return postgres.open_server(settings)


@pytest.fixture(scope="module")
def admin(settings: Settings, server: Server) -> Iterator[psycopg.Connection]:
    """The server's superuser, on the books."""
    url = conninfo(postgres.superuser_url(settings)).replace("/postgres?", f"/{postgres.DATABASE}?")
    with psycopg.connect(url, options="-c search_path=makegood") as connection:
        yield connection
        connection.rollback()


@pytest.fixture(scope="module")
def pipeline(server: Server, admin: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """The login the pipeline works with; every statement is a transaction. Wave 0 of scope `s` has been handed over."""
    with admin.transaction():
        batch = admin.execute(
            "INSERT INTO batch (scope, wave, file_sequence, file_path, sha256, operation_count, total_minor)"
            " VALUES ('s', 0, 1, 'f', '0', 1, 1) RETURNING batch_id"
        ).fetchone()[0]
        admin.execute("INSERT INTO batch_event (batch_id, event) VALUES (%s, 'handed_over')", (batch,))
    admin.commit()
    with psycopg.connect(
        conninfo(server.pipeline_url), options="-c search_path=makegood", autocommit=True
    ) as connection:
        yield connection


def operation(connection: psycopg.Connection, customer: str, kind: str, amount: int, **columns) -> str:
    """Insert an operation; returns its id."""
    row = {
        "operation_id": str(uuid4()), "kind": kind, "scope": "s", "customer_id": customer, "billing_period": PERIOD, "bill_cycle": 1,
        "occurrence": 1, "attempt": 1, "charge_id": "c", "amount_minor": amount, "currency": "KRW", "payment_method": "credit_card",
        "issuer": "HANBIT", "instrument_token": "t", "wave": 0,
    } | columns  # fmt: skip
    names = sql.SQL(", ").join(map(sql.Identifier, row))
    connection.execute(
        sql.SQL("INSERT INTO operation ({}) VALUES ({})").format(
            names, sql.SQL(", ").join(sql.Placeholder() * len(row))
        ),
        list(row.values()),
    )
    return row["operation_id"]


def outcome(connection: psycopg.Connection, operation_id: str, status: str) -> None:
    connection.execute(
        "INSERT INTO outcome (operation_id, status, reason, payment_id) VALUES (%s, %s, %s, %s)",
        (
            operation_id,
            status,
            "closed_card" if status == "declined" else None,
            None if status == "declined" else "8800000000000001",
        ),
    )


# -- money ------------------------------------------------------------------------------------------------------


@EXAMPLES
@given(
    charged=st.integers(1, 10),
    reversals=st.lists(
        st.tuples(
            st.sampled_from(["void", "refund"]), st.integers(1, 10), st.sampled_from(["", "succeeded", "declined"])
        ),
        max_size=8,
    ),
)
def test_what_is_undone_done_or_under_way_never_exceeds_what_was_charged(pipeline, charged, reversals):
    customer, undone = next(CUSTOMERS), 0
    original = operation(pipeline, customer, "charge", charged)
    for attempt, (kind, amount, status) in enumerate(reversals, start=1):
        columns = {"incident_id": "inc", "original_id": original, "attempt": attempt}
        if undone + amount > charged:
            with pytest.raises(psycopg.errors.CheckViolation, match="more would be undone than was charged"):
                operation(pipeline, customer, kind, amount, **columns)
            continue
        reversal = operation(pipeline, customer, kind, amount, **columns)
        if status:
            outcome(pipeline, reversal, status)
        undone += amount if status != "declined" else 0


@EXAMPLES
@given(
    others=st.lists(
        st.fixed_dictionaries({
            "scope": st.sampled_from(["s", "another run"]), "charge_id": st.sampled_from(["c", "d"]), "amount": st.integers(1, 9),
            "wave": st.integers(0, 3), "instrument_token": st.sampled_from(["t", "u"]),
            "payment_method": st.sampled_from(["credit_card", "check_card"]),
        }), min_size=1, max_size=3,
    )
)  # fmt: skip
def test_a_bill_has_one_original_charge_whatever_run_file_or_key_it_comes_from(pipeline, others):
    customer = next(CUSTOMERS)
    operation(pipeline, customer, "charge", 5)
    for other in others:
        with pytest.raises(psycopg.errors.UniqueViolation, match="one_operation_per_fact"):
            operation(pipeline, customer, "charge", other.pop("amount"), **other)


@EXAMPLES
@given(kind=st.sampled_from(["charge", "void", "refund", "rebill"]), amount=st.integers(-5, 0))
def test_an_amount_is_positive(pipeline, kind, amount):
    customer = next(CUSTOMERS)
    original = operation(pipeline, customer, "charge", 5, occurrence=2) if kind in ("void", "refund") else None
    with pytest.raises(psycopg.errors.CheckViolation):
        operation(pipeline, customer, kind, amount, original_id=original)


@pytest.mark.parametrize("kind", ["void", "refund"])
def test_nothing_is_undone_that_was_not_charged(pipeline, kind):
    customer = next(CUSTOMERS)
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="must have been charged"):
        operation(pipeline, customer, kind, 1, original_id=str(uuid4()))
    charge = operation(pipeline, customer, "charge", 5)
    undone = operation(pipeline, customer, kind, 5, original_id=charge)
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="must have been charged"):
        operation(pipeline, customer, kind, 1, original_id=undone, attempt=2)


def test_an_operation_has_one_outcome_and_an_entry_two_accounts(pipeline):
    charge = operation(pipeline, next(CUSTOMERS), "charge", 5)
    outcome(pipeline, charge, "succeeded")
    with pytest.raises(psycopg.errors.UniqueViolation):
        outcome(pipeline, charge, "declined")
    with pytest.raises(psycopg.errors.CheckViolation):
        pipeline.execute(
            "INSERT INTO further_entry VALUES (%s, 'settled', 'bank', 'bank', 5, 'KRW', '2023-09-11')", (charge,)
        )
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        pipeline.execute(
            "INSERT INTO further_entry VALUES (%s, 'settled', 'bank', 'suspense', 5, 'KRW', '2023-09-11')",
            (str(uuid4()),),
        )


def test_an_outcomes_own_entry_is_whole_balanced_and_said_once(pipeline):
    charge = operation(pipeline, next(CUSTOMERS), "charge", 5)
    columns = "operation_id, status, payment_id, debit, credit, amount_minor, currency, effective_on"
    for values in (
        "'acquirer_clearing', NULL, 5, 'KRW', '2023-09-11'",
        "'acquirer_clearing', 'billed_revenue', 5, 'KRW', NULL",
        "'bank', 'bank', 5, 'KRW', '2023-09-11'",
        "'acquirer_clearing', 'billed_revenue', 0, 'KRW', '2023-09-11'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            pipeline.execute(f"INSERT INTO outcome ({columns}) VALUES (%s, 'succeeded', '88', {values})", (charge,))
    pipeline.execute(
        f"INSERT INTO outcome ({columns}) VALUES (%s, 'succeeded', '88', 'acquirer_clearing', 'billed_revenue', 5, 'KRW', '2023-09-11')",
        (charge,),
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        pipeline.execute(
            "INSERT INTO further_entry VALUES (%s, 'final', 'bank', 'suspense', 5, 'KRW', '2023-09-11')", (charge,)
        )
    said = pipeline.execute(
        "SELECT step, debit::text, amount_minor FROM entry WHERE operation_id = %s", (charge,)
    ).fetchall()
    assert said == [("final", "acquirer_clearing", 5)]


# -- people -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged_in(server: Server, admin: psycopg.Connection) -> Iterator[dict[str, psycopg.Connection]]:
    """People and services by login; `both` may plan and approve."""
    with admin.transaction():
        admin.execute("CREATE ROLE both_roles LOGIN PASSWORD 'x' IN ROLE makegood_operator, makegood_approver")
    admin.commit()
    people = {}
    for login in ("operator", "approver", "both_roles", "makegood_airflow", "makegood_pipeline"):
        url = server.url(login, "x" if login == "both_roles" else None)
        people[login] = psycopg.connect(conninfo(url), options="-c search_path=makegood", autocommit=True)
    yield people
    for connection in people.values():
        connection.close()


def stored_plan(logged_in: dict[str, psycopg.Connection], login: str, requested_by: str | None = None) -> str:
    """A plan of an incident of its own, asked for by whoever is logged in, or by the user Airflow passes on; returns its digest."""
    number = uuid4().hex
    run, incident, digest = f"{PERIOD}-{number[:12]}", f"inc-{PERIOD}-{number[:8]}", number * 2
    pipeline = logged_in["makegood_pipeline"]
    pipeline.execute("INSERT INTO run VALUES (%s, %s, 's', %s, 1, 1, '[]', now())", (run, PERIOD, digest))
    pipeline.execute(
        "INSERT INTO incident (incident_id, billing_period, charge_scope) VALUES (%s, %s, 's')", (incident, PERIOD)
    )
    days = {
        "reversal_first": "2023-09-11",
        "reversal_last": "2023-09-12",
        "rebill_first": "2023-09-12",
        "rebill_last": "2023-09-13",
    }
    plan = {"plan_digest": digest, "incident_id": incident, "corrected_run": run, "file": "f", **days, "operation_count": 7,
            "total_minor": 700, "summary": "{}"}  # fmt: skip
    assert insert_row(logged_in[login], "plan", plan, passed_on={"requested_by": requested_by})
    return digest


def approve(
    connection: psycopg.Connection,
    digest: str,
    requested_by: str,
    approver: str | None = None,
    *,
    operations: int = 7,
    total: int = 700,
) -> None:
    people = "requested_by, approver" if approver else "requested_by"
    connection.execute(
        f"INSERT INTO approval (plan_digest, operation_count, total_minor, expires_at, {people})"
        f" VALUES (%s, %s, %s, now() + interval '1 day', {', '.join(['%s'] * len(people.split(', ')))})",
        (digest, operations, total, requested_by, *([approver] if approver else [])),
    )


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12
)


@EXAMPLES
@given(requester=NAMES, approver=NAMES)
def test_nobody_whom_airflow_authenticated_approves_their_own_plan(logged_in, requester, approver):
    airflow = logged_in["makegood_airflow"]
    digest = stored_plan(logged_in, "makegood_airflow", requester)
    with pytest.raises(psycopg.errors.CheckViolation, match="nobody_approves_their_own_plan"):
        approve(airflow, digest, requester, requester)
    if approver != requester:
        approve(airflow, digest, requester, approver)
        with pytest.raises(psycopg.errors.UniqueViolation):
            approve(airflow, digest, requester, approver + "2")


def test_nobody_approves_their_own_plan_under_another_name_or_role(logged_in):
    both, airflow = logged_in["both_roles"], logged_in["makegood_airflow"]
    digest = stored_plan(logged_in, "both_roles")
    with pytest.raises(psycopg.errors.CheckViolation, match="nobody_approves_their_own_plan"):
        approve(both, digest, "both_roles")
    for claimed in ("approver", "both_roles"):  # a name is not for a person to give
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            approve(both, digest, "both_roles", claimed)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):  # nor by saying that somebody else had asked
        approve(both, digest, "operator")
    with pytest.raises(psycopg.errors.CheckViolation):  # a service is nobody
        approve(airflow, digest, "both_roles", "makegood_airflow")
    for login in ("operator", "makegood_pipeline"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            approve(logged_in[login], digest, "both_roles")
    approve(logged_in["approver"], digest, "both_roles")


@EXAMPLES
@given(operations=st.integers(6, 8), total=st.integers(699, 701))
def test_an_approval_is_for_one_count_and_one_total(logged_in, operations, total):
    digest = stored_plan(logged_in, "operator")
    if (operations, total) == (7, 700):
        approve(logged_in["approver"], digest, "operator")
    else:
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            approve(logged_in["approver"], digest, "operator", operations=operations, total=total)


# -- rows stay --------------------------------------------------------------------------------------------------


def tables(admin: psycopg.Connection) -> list[str]:
    return [row[0] for row in admin.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'makegood' ORDER BY 1")]


def test_no_role_but_the_owner_changes_or_removes_a_row_of_any_table(admin, logged_in):
    """Tables and roles come from the catalogue: one that is added tomorrow is tried tomorrow."""
    roles = [
        row[0]
        for row in admin.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND NOT rolsuper ORDER BY 1")
    ]
    roles = [role for role in roles if role not in OWNERS]
    assert {"makegood_pipeline", "makegood_airflow", "operator", "approver", "both_roles", "airflow"} <= set(roles)
    assert {
        "operation",
        "outcome",
        "further_entry",
        "approval",
        "audit",
        "deviation",
        "plan",
        "notice",
        "batch",
    } <= set(tables(admin))
    got_through = []
    for role in roles:
        for table in tables(admin):
            column = admin.execute(
                "SELECT attname FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND attidentity = '' AND NOT attisdropped LIMIT 1",
                (f"makegood.{table}",),
            ).fetchone()[0]
            name, first = sql.Identifier("makegood", table), sql.Identifier(column)
            for statement in (
                sql.SQL("UPDATE {} SET {} = {} WHERE false").format(name, first, first),
                sql.SQL("DELETE FROM {} WHERE false").format(name),
                sql.SQL("TRUNCATE {} CASCADE").format(name),
            ):
                if may(admin, role, statement):
                    got_through.append(f"{role}: {statement.as_string(admin)}")
    assert got_through == []
    assert may(admin, "makegood_owner", sql.SQL("DELETE FROM makegood.further_entry WHERE false")), (
        "the attempt itself is sound"
    )


def may(admin: psycopg.Connection, role: str, statement: sql.Composable) -> bool:
    with admin.transaction(force_rollback=True):
        admin.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        try:
            with admin.transaction():
                admin.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            return False
    return True


def test_no_role_but_the_owner_may_become_one_that_can(admin):
    able = admin.execute(
        "SELECT r.rolname, o.rolname FROM pg_roles r, pg_roles o WHERE o.rolname IN ('makegood_owner', 'pg_write_all_data', 'postgres')"
        " AND r.rolname !~ '^pg_' AND r.rolname <> o.rolname AND NOT r.rolsuper AND pg_has_role(r.oid, o.oid, 'MEMBER')"
    ).fetchall()
    assert able == []


# -- the audit log ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audit(admin: psycopg.Connection, pipeline: psycopg.Connection) -> list[int]:
    """A log of twelve rows; their ids."""
    for number in range(12):
        append_audit(pipeline, "test", f"subject {number}", {"n": number})
    pipeline.execute("SELECT seal_acts()")
    return [row[0] for row in admin.execute("SELECT audit_id FROM audit ORDER BY audit_id")]


CHANGES = {
    "person": "person || 'x'", "action": "action || 'x'", "subject": "subject || ' '", "detail": """detail || '{"more": 1}'""",
    "recorded_at": "recorded_at + interval '1 microsecond'", "seal": "seal || 'x'",
}  # fmt: skip


@EXAMPLES
@given(place=st.integers(0, 11), column=st.sampled_from(sorted(CHANGES)))
def test_an_altered_row_breaks_the_chain_there(admin, audit, place, column):
    assert admin.execute("SELECT * FROM audit_break").fetchall() == []
    with admin.transaction(force_rollback=True):
        admin.execute(f"UPDATE audit SET {column} = {CHANGES[column]} WHERE audit_id = %s", (audit[place],))
        assert admin.execute("SELECT audit_id FROM audit_break").fetchall() == [(audit[place],)]


@EXAMPLES
@given(first=st.integers(0, 10), length=st.integers(1, 4))
def test_a_removed_row_breaks_the_chain_behind_it(admin, audit, first, length):
    gone = audit[first : min(first + length, len(audit) - 1)]
    with admin.transaction(force_rollback=True):
        for table in ("audit_seal", "audit"):
            admin.execute(f"DELETE FROM {table} WHERE audit_id = ANY(%s)", (gone,))
        assert admin.execute("SELECT audit_id FROM audit_break").fetchall() == [(audit[first + len(gone)],)]
