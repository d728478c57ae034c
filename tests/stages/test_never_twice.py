"""Nobody is charged twice, whatever fails: each of these once was a way in which customers were, by the acquirer's own book.

Real processes, a real database, a real acquirer; the fault happens at a named point of the money path (`pipeline.failpoints`).
"""

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pipeline.adapters import postgres
from pipeline.adapters.postgres import conninfo
from pipeline.errors import FatalError, GateClosed, SendingStopped
from tests.charged_month import Month, bills, expected

PATIENCE_SECONDS = 120


@pytest.fixture
def month(settings, tmp_path) -> Month:
    month = Month(settings, tmp_path / "source")
    with month.app().rail():  # one acquirer for every process
        yield month


def reached(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (folder / "reached").exists():
        assert time.monotonic() < deadline, "the process never came to its failpoint"
        time.sleep(0.02)


def let_go(process: subprocess.Popen, folder: Path) -> str:
    """Let a process that waits go on to its end; returns what it said."""
    (folder / "go").touch()
    return process.communicate(timeout=PATIENCE_SECONDS)[1].decode()


def superuser(settings) -> psycopg.Connection:
    url = conninfo(postgres.superuser_url(settings)).replace("/postgres?", f"/{postgres.DATABASE}?")
    return psycopg.connect(url, options="-c search_path=makegood", autocommit=True)


def lose_every_connection(settings) -> None:
    """What a failover does to whoever is connected."""
    with superuser(settings) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'makegood_pipeline'")


# -- damaged answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut off", "unknown status", "bad bytes", "empty", "line lost"])
def test_a_damaged_answer_file_makes_nobody_be_charged_twice_and_what_it_was_about_is_asked(month, tmp_path, damage):
    table = bills(1_100)
    run = month.land(table)
    process = month.call(run, f"answers.wait:2:wait:{tmp_path}")  # the second wave of a thousand
    reached(tmp_path)
    results = month.settings.home / "acquirer" / "result"
    newest = latest(results)
    content = newest.read_bytes()
    lines = content.split(b"\n")
    newest.write_bytes({
        "cut off": content[: len(content) // 2],
        "unknown status": content.replace(b",Authorised,", b",Approved?,", 1),
        "bad bytes": content.replace(b"Authorised", b"\xff\xfe", 1),
        "empty": b"",
        "line lost": b"\n".join([*lines[:10], *lines[12:]]),
    }[damage])  # fmt: skip
    said = let_go(process, tmp_path)
    assert month.approvals() == expected(table), said
    again = month.app().release(run)
    assert (again.charged, again.unknown, again.not_sent) == (1_100, 0, 0)
    assert month.approvals() == expected(table)
    damaged = [item for item in month.app().sending_status()["damaged"] if item["scope"] == run]
    assert len(damaged) == (damage != "empty")  # an empty file does not even say what it is about: no answer
    if damaged:
        assert list((month.settings.home / "outgoing" / "damaged").glob(f"{newest.name}.*"))


def latest(folder: Path) -> Path:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        files = sorted(folder.glob("*_result"), key=lambda path: int(path.name.split("_")[1]))
        if files and files[-1].stat().st_size > 10_000:
            return files[-1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- two senders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [
    "hand_over.begin:1", "hand_over.recorded:1", "hand_over.noted:1", "hand_over.delivered:1", "answers.record:1", "file.recorded:2",
    "hand_over.noted:2",
])  # fmt: skip
def test_a_sender_that_is_paused_and_has_lost_its_lock_sends_nothing_that_its_successor_sends_as_well(
    month, settings, tmp_path, point
):
    table = bills(1_100)
    run = month.land(table)
    paused = month.call(run, f"{point}:wait:{tmp_path}")
    reached(tmp_path)
    lose_every_connection(settings)
    released = month.app().release(run)
    assert (released.charged, released.unknown, released.not_sent) == (1_100, 0, 0)
    said = let_go(paused, tmp_path)
    assert paused.returncode == 1 and ("SenderLost" in said or "RetriableError" in said), said
    assert month.approvals() == expected(table)
    again = month.app().release(run)
    assert (again.charged, again.unknown, again.not_sent) == (1_100, 0, 0)
    assert month.approvals() == expected(table)
    later = month.land(bills(1_101))  # another file of the month goes out under the next number
    for person in ("operator", "approver"):
        month.app(login=person).decide(later, kind="release", reason="one more customer")
    assert month.app().release(later).charged == 1


def test_a_stopped_process_that_wakes_up_after_its_successor_has_finished_charges_nobody(month, settings, tmp_path):
    table = bills(1_100)
    run = month.land(table)
    paused = month.call(run, "hand_over.noted:2:stop")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while Path(f"/proc/{paused.pid}/stat").read_text().split()[2] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lose_every_connection(settings)
    assert month.app().release(run).charged == 1_100
    paused.send_signal(signal.SIGCONT)
    _, said = paused.communicate(timeout=PATIENCE_SECONDS)
    assert paused.returncode == 1, said
    assert month.approvals() == expected(table)


# -- holds and stops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["lock.taken:1", "intents.committed:1", "file.recorded:2", "hand_over.begin:2", "answers.wait:1"]
)
def test_an_incident_opened_while_the_wrong_release_is_in_flight_ends_what_is_unsent(month, tmp_path, point):
    wrong, right = bills(1_100, amount_minor=900), bills(1_100, amount_minor=700)
    corrected = month.land(right)
    run = month.land(wrong)
    before = point.startswith(("lock.taken", "intents"))
    if before:  # an incident is about charges that were meant: these are, by an earlier call
        month.app().prepare_release(run)
    releasing = month.call(run, f"{point.replace('intents.committed', 'hand_over.begin')}:wait:{tmp_path}")
    reached(tmp_path)
    opening = month.app()
    opened = opening.incidents.open_incident(
        billing_period=str(month.period), charge_scope=run, issuers=None, corrected_run=corrected
    )  # the hold stands from here; the command below also ends what is unsent
    said = let_go(releasing, tmp_path)
    assert releasing.returncode == 1 and "GateClosed" in said, said
    result = month.app().open_incident(wrong=run, corrected=corrected)
    assert result["incident_id"] == opened.incident_id
    charged = len(month.approvals())
    assert charged in (0, 10, 1_010)
    assert month.rows(
        "SELECT count(*) FROM operation_state WHERE scope = %s AND state IN ('not_sent', 'sent', 'unknown')", run
    ) == [(0,)]
    with pytest.raises(GateClosed):
        month.app().release(run)
    assert len(month.approvals()) == charged


@pytest.mark.parametrize("given", ["stop", "rejection", "incident"])
def test_a_process_killed_between_recording_a_hand_over_and_the_rename_leaves_nothing_that_a_later_call_delivers(
    month, given
):
    table = bills(1_100)
    run = month.land(table)
    killed = month.call(run, "hand_over.noted:2:kill")
    killed.communicate(timeout=PATIENCE_SECONDS)
    assert killed.returncode == -signal.SIGKILL
    app = month.app(login="operator")
    if given == "stop":
        app.stop("look first")
    elif given == "rejection":
        app.decide(run, kind="reject", reason="wrong month")
    else:
        corrected = month.land(bills(1_100, amount_minor=700))
        app.incidents.open_incident(
            billing_period=str(month.period), charge_scope=run, issuers=None, corrected_run=corrected
        )
    with pytest.raises((SendingStopped, GateClosed)):
        month.app().release(run)
    other = Month(month.settings, month.source)
    elsewhere = other.land(bills(3))
    if given != "stop":  # another month's call finds the file, too
        assert other.app().release(elsewhere).charged == 3
    assert len(month.approvals()) == 10
    if given == "stop":
        month.app(login="operator").resume("fine")
        assert month.app().release(run).charged == 1_100
        assert month.approvals() == expected(table)


# -- files that are lost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["gone", "empty", "foreign"])
def test_an_outgoing_file_lost_before_it_went_is_written_anew(month, tmp_path, loss):
    table = bills(1_100)
    run = month.land(table)
    process = month.call(run, f"hand_over.begin:2:wait:{tmp_path}")
    reached(tmp_path)
    process.kill()
    process.communicate()
    for folder in (month.settings.home / "outgoing", month.settings.home / "acquirer" / "staged"):
        for file in (path for path in folder.iterdir() if path.is_file()):
            if loss == "gone":
                file.unlink()
            else:
                file.write_bytes(b"" if loss == "empty" else b"FH,1.0,TEST\nsomething else\n")
    if loss != "gone":  # the note of what went out is one of them: it leads out by name
        with pytest.raises(FatalError, match=r"handed_over\.json"):
            month.app().release(run)
        (month.settings.home / "outgoing" / "handed_over.json").unlink()
    assert month.app().release(run).charged == 1_100
    assert month.approvals() == expected(table)


def test_a_file_lost_after_its_hand_over_was_recorded_stops_sending_until_two_people_look(month, tmp_path):
    table = bills(1_100)
    run = month.land(table)
    process = month.call(run, f"hand_over.noted:2:wait:{tmp_path}")
    reached(tmp_path)
    process.kill()
    process.communicate()
    for file in (month.settings.home / "acquirer" / "staged").iterdir():
        file.unlink()
    quick = Month(replace(month.settings, answer_seconds=1.0), month.source)
    quick.period, quick.as_of = month.period, month.as_of
    with pytest.raises(FatalError, match="makegood sending repair"):
        quick.app().release(run)
    (found,) = quick.app().sending_repair()["findings"]
    assert (found["kind"], found["scope"], found["wave"]) == ("lost", run, 1)
    assert quick.app(login="operator").sending_repair(apply=True)["people_needed"] == 2
    with pytest.raises(SendingStopped):
        quick.app().release(run)
    assert len(month.approvals()) == 10
    for person in ("operator", "approver"):
        quick.app(login=person).resume("the file was lost, the acquirer says so too")
    assert quick.app().release(run).charged == 1_100
    assert month.approvals() == expected(table)


def test_a_file_that_the_acquirer_lost_after_it_was_delivered_leads_out_as_well(month, tmp_path):
    """Delivered, then gone from before the acquirer without an answer: unknown, and its number blocks the next file."""
    table = bills(1_100)
    run = month.land(table)
    quick = Month(replace(month.settings, answer_seconds=1.0), month.source)
    quick.period, quick.as_of = month.period, month.as_of
    acquirer = month.settings.home / "acquirer"
    process = month.call(run, f"hand_over.noted:2:wait:{tmp_path}")
    reached(tmp_path)
    (staged,) = (acquirer / "staged").iterdir()
    aside = tmp_path / "taken-by-nobody"
    staged.rename(aside)
    process.kill()
    process.communicate()
    with pytest.raises(FatalError, match="lies in no known place"):
        quick.app().release(run)
    aside.rename(
        acquirer / "in" / staged.name.partition("-")[2]
    )  # it was only late: then it is with the acquirer, and answered
    assert quick.app().release(run).charged == 1_100
    assert month.approvals() == expected(table)
