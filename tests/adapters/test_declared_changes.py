"""Two people say what will be different; everybody says what was real; nothing said is ever changed."""

import json
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.adapters import postgres
from pipeline.adapters.declared_changes import DeclaredChanges
from pipeline.adapters.finding_decisions import FindingDecisions
from pipeline.adapters.postgres import Server
from pipeline.adapters.runs import Register
from pipeline.bootstrap import Makegood
from pipeline.cli import main
from pipeline.core.declared import DeclaredChange
from pipeline.core.verdict import Verification
from pipeline.errors import GateClosed, UsageError
from pipeline.schema import CHARGE_SCHEMA
from pipeline.settings import Settings
from tests.landed_runs import AS_OF, month
from tests.test_declared import dearer

OCTOBER = DeclaredChange("campaign", "issuer:SORA", "2023-10", "2023-11", reason="autumn campaign")


@pytest.fixture(scope="module")
def server(settings: Settings) -> Server:
    server = postgres.open_server(settings)
    for name, role in (("second_approver", "approver"), ("yuna", "analyst")):
        postgres.add_person(postgres.superuser_url(settings), server.passwords, name, f"makegood_{role}")
    return server


@pytest.fixture
def changes(server: Server) -> DeclaredChanges:
    return DeclaredChanges(server)


def number(record) -> str:
    return record.change.change_id


@pytest.fixture
def declared(changes: DeclaredChanges) -> str:
    return number(changes.declare(OCTOBER, login="operator", password=None))


# ---- two people, and the database sees to it


def test_a_change_counts_from_its_approval_for_its_periods_until_withdrawn(changes, declared):
    def in_force(period: str) -> set[str]:
        return {change.change_id for change in changes.in_force(period)}

    assert declared not in in_force("2023-10"), "one person is not enough"
    approved = changes.approve(declared, login="approver", password=None)
    assert (approved.state, approved.change.declared_by, approved.change.approved_by) == (
        "approved",
        "operator",
        "approver",
    )
    assert [declared in in_force(f"2023-{m}") for m in ("09", "10", "11", "12")] == [False, True, True, False]
    assert changes.withdraw(declared, reason="put off", login="yuna", password=None).state == "withdrawn"
    assert declared not in in_force("2023-10")
    with pytest.raises(GateClosed, match="withdrawn already"):
        changes.approve(declared, login="second_approver", password=None)


def test_nobody_approves_a_change_of_their_own(changes, server):
    own = number(changes.declare(OCTOBER, login="second_approver", password=None))
    with pytest.raises(UsageError, match="a different person approves it"):
        changes.approve(own, login="second_approver", password=None)
    with server.connect("second_approver") as connection, pytest.raises(psycopg.errors.ForeignKeyViolation):
        # nor under another's name
        connection.execute(
            "INSERT INTO declared_change_approval (change_id, requested_by) VALUES (%s, 'operator')", (int(own),)
        )
    assert changes.approve(own, login="approver", password=None).state == "approved"


def test_a_person_is_whoever_logged_in(changes, server, declared):
    with pytest.raises(psycopg.errors.InsufficientPrivilege), server.connect("operator") as connection:
        connection.execute(
            "INSERT INTO declared_change (kind, cohort, first_period, last_period, reason, person)"
            " VALUES ('campaign', 'run', '2024-01', '2024-01', 'mine', 'somebody_else')"
        )
    assert changes.declare(OCTOBER, login="operator", password=None).change.declared_by == "operator"
    with pytest.raises(UsageError, match="waits for an approver who is not operator"):
        changes.approve(declared, login="operator", password=None)
    with pytest.raises(UsageError, match="may not do this"):
        changes.declare(OCTOBER, login="makegood_pipeline", password=None)
    with pytest.raises(UsageError, match="who are you"):
        changes.declare(OCTOBER, login=None, password=None)
    with pytest.raises(UsageError, match="needs its reason"):
        changes.declare(replace(OCTOBER, reason=" "), login="operator", password=None)


@pytest.mark.parametrize(
    "values",
    [
        "('campaign', 'run', '2023-09', '2023-08', 'backwards')",
        "('campaign', 'run', '2023-09', '2024-09', 'thirteen months')",
        "('campaign', 'run', '2023-13', '2023-13', 'no month')",
        "('campaign', 'customer:1', '2023-09', '2023-09', 'no cohort')",
        "('campaign', 'run', '2023-09', '2023-09', ' ')",
        "('rule', 'run', '2023-09', '2023-09', 'no rule named')",
    ],
)
def test_the_database_itself_refuses_what_cannot_be_meant(server, values):
    with pytest.raises(psycopg.errors.CheckViolation), psycopg.connect(
        postgres.conninfo(server.url("operator")), options="-c search_path=makegood"
    ) as connection:  # fmt: skip
        connection.execute(
            f"INSERT INTO declared_change (kind, cohort, first_period, last_period, reason) VALUES {values}"
        )


@pytest.mark.parametrize(
    "table", ["declared_change", "declared_change_approval", "declared_change_withdrawal", "finding_decision"]
)
@pytest.mark.parametrize("login", ["operator", "approver", "yuna", None])
def test_nothing_said_is_changed_or_removed(server, table, login):
    for statement in (f"UPDATE {table} SET recorded_at = now()", f"DELETE FROM {table}"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), server.connect(login) as connection:
            connection.execute(statement)


def test_what_no_suite_allows_cannot_be_declared(settings, server):
    app = Makegood(replace(settings, login="operator"), as_of=AS_OF)
    for rule in ("repeat_share", "wrong_currency", "times_100", "no_such_rule"):
        with pytest.raises(UsageError, match="none that may be waived"):
            app.declare_change("rule", "run", "2023-09", "2023-09", percent=None, rule=rule, reason="quiet")


# ---- from the command line to the next verdict


@pytest.fixture
def cli(settings, server, monkeypatch, capsys):
    monkeypatch.setenv("MAKEGOOD_HOME", str(settings.home))

    def run(*arguments: str, login: str | None = None) -> tuple[int, dict]:
        code = main([*arguments, "--json", *(["--login", login] if login else [])])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Iterator[str]:
    """Four months in which one plan becomes dearer in the last."""
    folder = tmp_path_factory.mktemp("source")
    for period in ("2023-06", "2023-07", "2023-08", "2023-09"):
        rows = dearer(month(period), "PLAN-1") if period == "2023-09" else month(period)
        (folder / f"billing_period={period}").mkdir()
        charges = pa.Table.from_pylist(rows).select(CHARGE_SCHEMA.names).cast(CHARGE_SCHEMA)
        pq.write_table(charges, folder / f"billing_period={period}" / "charges.parquet")
    return str(folder)


def test_a_price_change_declared_by_two_is_seen_in_the_next_report(cli, settings, source):
    code, held = cli("verify", "--source", source, "--period", "2023-09")
    assert (code, held["decision"], held["declared"]) == (3, "hold", [])
    run_id = held["run_id"]

    declare = [
        "change",
        "declare",
        "--kind",
        "price_change",
        "--cohort",
        "plan:PLAN-1",
        "--percent",
        "5",
        "--from",
        "2023-09",
    ]
    code, change = cli(*declare, "--until", "2023-09", "--reason", "price list of September", login="operator")
    assert (code, change["state"]) == (0, "requested")
    assert cli("verify", "--source", source, "--period", "2023-09")[1]["decision"] == "hold"
    assert cli("change", "approve", change["change_id"], login="operator")[0] == 2
    assert cli("change", "approve", change["change_id"], login="approver")[1]["state"] == "approved"

    code, released = cli("verify", "--source", source, "--period", "2023-09")
    assert (code, released["decision"], released["run_id"]) == (0, "release", run_id)
    (applied,) = released["declared"]
    assert (applied["approved_by"], applied["lifted"]) == ("approver", ["base_changed"])
    page = (settings.reports / run_id / "report.html").read_text(encoding="utf-8")
    assert "Declared for this month" in page and "price list of September" in page
    assert "An earlier verification of this run held it" in page, "the page promises no more than the release keeps"

    register = Register(postgres.open_server(settings))
    assert register.standing(run_id).verdicts == ("hold", "release"), "another judgement, and the first stays"
    code, refused = cli("release", "--run", run_id, "--as-of", "2023-09-11")
    assert code == 3 and "is held" in refused["error"], "what was held before it was declared needs two people"
    assert cli("change", "list")[1]["changes"][0]["change_id"] == change["change_id"]


def test_a_word_on_a_finding_is_kept_shown_and_handed_to_calibration(cli, settings, server, source):
    run_id = cli("verify", "--source", source, "--period", "2023-09")[1]["run_id"]
    said = ["--rule", "base_changed", "--reason"]
    code, wrong = cli("finding", "accept", run_id, "--rule", "repeat_share", "--reason", "no", login="yuna")
    assert code == 2 and "base_changed of plan:PLAN-1" in wrong["error"]
    assert cli("finding", "accept", run_id, *said, "<b>the old list</b>", login="yuna")[0] == 0

    decisions = FindingDecisions(server)
    assert decisions.faulty_runs("2023-01", "2023-12") == {run_id}
    assert decisions.faulty_runs("2023-10", "2023-12") == frozenset()
    code, rejected = cli("finding", "reject", run_id, *said, "it was meant", login="operator")
    assert (code, rejected["kind"], rejected["severity"], rejected["person"]) == (0, "reject", "critical", "operator")
    assert decisions.faulty_runs("2023-01", "2023-12") == frozenset(), "the newest word counts"
    assert [(d.kind, d.person) for d in decisions.of_run(run_id)] == [("accept", "yuna"), ("reject", "operator")]

    page = (settings.reports / run_id / "report.html").read_text(encoding="utf-8")
    assert "Accepted as a real fault by yuna" in page and "Rejected as a false alarm by operator" in page
    assert "&lt;b&gt;the old list" in page and "<b>the old" not in page
    (listed,) = [run for run in cli("run", "list")[1]["runs"] if run["run_id"] == run_id]
    assert (listed["findings_accepted"], listed["findings_rejected"]) == (1, 1)
    with pytest.raises(UsageError, match="needs its reason"):
        decisions.decide(
            run_id, kind="accept", rule="base_changed", cohort=None, reason=" ", login="yuna", password=None
        )


def test_a_verification_of_before_there_were_declared_changes_is_still_read(settings, source, cli):
    run_id = cli("verify", "--source", source, "--period", "2023-09")[1]["run_id"]
    path = settings.reports / run_id / "verification.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    del stored["declared"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert Verification.load(path.parent).declared == []
