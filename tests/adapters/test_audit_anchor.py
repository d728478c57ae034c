"""What is done to the audit log or to a row of money behind the pipeline's back is found, and where it was done."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pipeline.adapters import head_file, postgres
from pipeline.adapters.audit import append_audit
from pipeline.bootstrap import Makegood
from pipeline.cli import main
from pipeline.settings import Settings
from tests.remediation_world import World, people


@pytest.fixture(scope="module")
def anchored(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose log and money were anchored twice, in two places."""
    home = tmp_path_factory.mktemp("anchored")
    app = installation(settings, home)
    money = World(settings, home / "world", home.name)
    for _ in range(2):
        app.audit_log.append("test", "an act", {"n": 1})
        money.charge(people(money, 3))
        time.sleep(0.2)  # what a transaction of this very moment could still add is left for the next head
        app.anchor_audit(with_books=True)
    return home


@pytest.fixture
def superuser(settings: Settings, anchored: Path) -> Iterator[psycopg.Connection]:
    """Somebody who can do anything to the database, triggers and all; what was done is undone after the test."""
    with psycopg.connect(conninfo_of(settings), options="-c search_path=makegood", autocommit=True) as connection:
        tables = ("audit", "audit_seal", "operation", "outcome", "batch")
        for table in tables:
            connection.execute(f"CREATE TEMP TABLE kept_{table} AS TABLE {table}")
        connection.execute("SET session_replication_role = replica")
        yield connection
        for table in tables:
            connection.execute(f"DELETE FROM {table}")
            connection.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE kept_{table}")


@pytest.fixture
def app(settings: Settings, anchored: Path, superuser: psycopg.Connection, tmp_path: Path) -> Makegood:
    """The installation of that home, for one test alone."""
    shutil.copytree(anchored, tmp_path, dirs_exist_ok=True)
    app = installation(settings, tmp_path)
    assert app.verify_audit()["breaks"] == []
    return app


@pytest.fixture
def second(app: Makegood) -> Path:
    return app.settings.audit_anchor


def installation(settings: Settings, home: Path) -> Makegood:
    """An installation with heads of its own, on the module's database."""
    app = Makegood(replace(settings, home=home, audit_anchor=home / "second"))
    app.__dict__["server"] = postgres.open_server(settings)
    return app


def conninfo_of(settings: Settings) -> str:
    return postgres.conninfo(postgres.superuser_url(settings)).replace("/postgres?", f"/{postgres.DATABASE}?")


def reseal(connection: psycopg.Connection) -> None:
    """Make the chain whole again, as somebody would who knows how it is made."""
    connection.execute("DELETE FROM audit_seal")
    connection.execute("SELECT seal_acts()")


def nothing(connection: psycopg.Connection) -> None:
    """Leave the chain as it is."""


DEEDS: dict[str, tuple[str, Callable[[psycopg.Connection], None], str]] = {
    "an act altered": ("UPDATE audit SET person = 'somebody' WHERE audit_id = (SELECT min(audit_id) FROM audit)", nothing,
                       "does not follow"),
    "an act altered, and the log sealed anew": (
        "UPDATE audit SET person = 'somebody' WHERE audit_id = (SELECT min(audit_id) FROM audit)", reseal, "sealed anew"),
    "an act removed": ("DELETE FROM audit WHERE audit_id = (SELECT min(audit_id) FROM audit)", nothing, "does not follow"),
    "an act removed, and the log sealed anew": (
        "DELETE FROM audit WHERE audit_id = (SELECT min(audit_id) FROM audit)", reseal, "was cut|sealed anew|cut off"),
    "the log's end cut off": (
        "WITH cut AS (DELETE FROM audit_seal WHERE seal_number > (SELECT max(seal_number) - 2 FROM audit_seal) RETURNING audit_id)"
        " DELETE FROM audit WHERE audit_id IN (SELECT audit_id FROM cut)", nothing, "its end was cut off"),
    "the log emptied": ("WITH cut AS (DELETE FROM audit_seal) DELETE FROM audit", nothing, "it was emptied"),
    "an amount altered": ("UPDATE operation SET amount_minor = amount_minor + 1 WHERE amount_minor = 52300", nothing,
                          "rows of operation .* altered, their amounts came to"),
    "two amounts exchanged": (
        "UPDATE operation SET amount_minor = amount_minor + CASE operation_id WHEN (SELECT min(operation_id::text)::uuid FROM operation)"
        " THEN 1 ELSE -1 END WHERE operation_id IN ((SELECT min(operation_id::text)::uuid FROM operation),"
        " (SELECT max(operation_id::text)::uuid FROM operation))", nothing, "rows of operation .* altered"),
    "an outcome changed": ("UPDATE outcome SET payment_id = payment_id || 'x'", nothing, "altered, with the same number and amount"),
    "an outcome removed": ("DELETE FROM outcome WHERE operation_id = (SELECT operation_id FROM outcome LIMIT 1)", nothing,
                           "rows of outcome .* 1 removed"),
    "a file that never went made to have gone": (
        "INSERT INTO batch (scope, wave, file_sequence, file_path, sha256, operation_count, total_minor, recorded_at)"
        " SELECT scope, wave + 1, file_sequence + 1000, file_path, sha256, operation_count, total_minor, recorded_at FROM batch LIMIT 1",
        nothing, "rows of batch .* 1 added afterwards"),
}  # fmt: skip
"""What somebody with every right in the database may do, and what is said of it."""


@pytest.mark.parametrize("deed", DEEDS)
def test_a_deed_behind_the_pipelines_back_is_found(app, superuser, deed):
    statement, covering, said = DEEDS[deed]
    assert superuser.execute(statement).rowcount > 0
    covering(superuser)
    found = app.verify_audit()
    assert found["audit"] == "broken"
    assert any(re.search(said, broken) for broken in found["breaks"]), found["breaks"]


def test_no_act_of_a_person_breaks_the_log(app, settings):
    """Whatever a person can append, the log stays whole: it names them, and claims nothing for anybody else."""
    postgres.add_person(postgres.superuser_url(settings), app.server.passwords, "an_analyst", "makegood_analyst")
    with app.server.connect("an_analyst") as analyst:
        append_audit(analyst, "head", "head 1", {"head": 1, "sha256": "forged"})
        append_audit(analyst, "approve", "a plan", {})
        for columns, values in (
            ("audit_id", "-5"),
            ("recorded_at", "'2001-01-01'"),
            ("person", "'operator'"),
            ("seal", "'x'"),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), analyst.transaction():
                analyst.execute(
                    f"INSERT INTO audit (action, subject, {columns}) OVERRIDING SYSTEM VALUE VALUES ('a', 's', {values})"
                )
    app.audit_log.require_whole()
    assert app.verify_audit()["breaks"] == []


# -- the file of heads --------------------------------------------------------------------------------------------------


def lines(folder: Path) -> list[str]:
    return (folder / head_file.FILE_NAME).read_text(encoding="utf-8").splitlines(keepends=True)


def write(folder: Path, kept: list[str]) -> None:
    (folder / head_file.FILE_NAME).write_text("".join(kept), encoding="utf-8")


def test_a_head_file_that_was_changed_cut_or_removed_is_found(app, second):
    home = app.settings.home / "audit"
    whole = lines(home)
    assert whole == lines(second) and len(whole) == 2
    for kept, said in (
        ([whole[0].replace('acts\\":', 'acts\\":1'), whole[1]], "its signature is not ours"),
        ([whole[1]], "does not follow"),
        ([whole[0]], "its end was cut off"),
    ):
        write(home, kept)
        assert any(said in broken for broken in app.verify_audit()["breaks"])
        assert "No head is put on top of that" in app.anchor_audit(with_books=True)["problem"]
    (home / head_file.FILE_NAME).unlink()
    assert "none is left" in app.verify_audit()["breaks"][0]
    write(home, whole)
    write(second, [whole[0], whole[1].replace("1", "2")])
    assert "one of them was changed" in app.verify_audit()["breaks"][0]
    write(second, whole)
    assert app.verify_audit()["breaks"] == []


def test_cutting_the_file_in_both_places_is_found_from_the_log(app, second):
    for folder in (app.settings.home / "audit", second):
        write(folder, lines(folder)[:1])
    assert any("the file of heads was cut or made anew" in broken for broken in app.verify_audit()["breaks"])


def test_a_second_place_that_was_away_gets_what_it_missed(app, second):
    write(second, lines(second)[:1])
    assert "`makegood audit anchor` copies" in app.verify_audit()["breaks"][0]
    assert app.anchor_audit(with_books=True)["problem"] is None
    assert lines(second) == lines(app.settings.home / "audit") and app.verify_audit()["breaks"] == []


def test_a_head_that_a_crash_left_half_written_is_written_anew(app):
    file = app.settings.home / "audit" / head_file.FILE_NAME
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"head":"{')
    app.anchor_audit(with_books=True)
    assert app.verify_audit()["breaks"] == [] and len(lines(file.parent)) == 3


def test_a_head_costs_what_came_since_the_one_before(app):
    before = json.loads(json.loads(lines(app.settings.home / "audit")[-1])["head"])
    rows = {table["table"]: table["rows"] for table in before["tables"]}
    assert rows["operation"] == 3, "of the second day, not of all"
    later = app.anchor_audit(with_books=False)
    assert later["until"] == before["until"], "a close anchors the log alone"


def test_rows_of_a_transaction_that_is_still_open_are_left_for_the_next_head(app, settings):
    with app.server.connect() as late:
        late.execute("SELECT now()")
        time.sleep(0.2)
        app.anchor_audit(with_books=True)
        late.execute("INSERT INTO run VALUES ('2023-09-eeeeeeeeeeee', '2023-09', 's', 'x', 1, 1, '[]', now())")
    assert app.verify_audit()["breaks"] == []


def test_the_key_and_the_file_are_their_owners_alone(app):
    home = app.settings.home
    for path, mode in (
        (home / "keys" / "audit.pem", 0o600),
        (home / "audit" / head_file.FILE_NAME, 0o600),
        (home / "keys", 0o700),
    ):
        assert path.stat().st_mode & 0o777 == mode


def test_the_command_exits_with_1_and_says_where(app, settings, superuser, monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr("pipeline.cli_audit.open_app", lambda *_: app)
        code = main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, whole = run("audit", "verify")
    assert (code, whole["audit"], whole["heads"]) == (0, "whole", 2)
    superuser.execute("DELETE FROM outcome")
    code, broken = run("audit", "verify")
    assert code == 1 and broken["audit"] == "broken" and "outcome" in broken["breaks"][0]
