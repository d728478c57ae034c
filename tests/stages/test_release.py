"""Charging a run, with a real database and a real acquirer process: once, whatever happens in between."""

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import release
from pipeline.adapters.charges_due import find_due
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.errors import FatalError, GateClosed, SendingStopped, UsageError
from tests.charged_month import Month, bills, expected

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def month(settings, tmp_path) -> Month:
    return Month(settings, tmp_path / "source")


def test_releasing_twice_charges_once(month):
    table = bills(30)
    run = month.land(table)
    first = month.app().release(run)
    assert (first.charged, first.declined, first.unknown, first.not_sent) == (30, 0, 0, 0)
    again = month.app().release(run)
    assert (again.charged, again.amount_minor) == (30, first.amount_minor)
    assert month.approvals() == expected(table)


def test_charges_that_were_on_hold_are_charged_once_the_hold_is_over(month):
    table = bills(30)
    issuers = pa.array(["held" if row < 12 else "other" for row in range(30)])
    table, held, on_hold = (
        table.set_column(table.column_names.index("issuer"), "issuer", issuers),
        frozenset({"held"}),
        12,
    )
    run, app = month.land(table), month.app()
    with app.rail() as rail:
        first = release.release(
            app.lake.find(run),
            ledger=app.ledger,
            find_due=partial(find_due, held_issuers=held),
            sender=app._sender(rail),
            require_still_allowed=lambda: None,
        )
    assert (first.charged, first.not_charged["on_hold"]["rows"]) == (30 - on_hold, on_hold)
    assert month.app().release(run).charged == 30
    assert month.approvals() == expected(table)


def test_two_releases_at_once_charge_once(month):
    table = bills(1_100)
    run = month.land(table)
    results, start = [], threading.Barrier(2)

    def release_it() -> None:
        start.wait()
        results.append(month.app().release(run))

    with month.app().rail():  # one acquirer for both
        threads = [threading.Thread(target=release_it) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [result.charged for result in results] == [1_100, 1_100]
    assert month.approvals() == expected(table)


def test_a_held_run_sends_nothing(month):
    run = month.land(bills(5), decision="hold")
    with pytest.raises(GateClosed, match="is held"):
        month.app().release(run)
    assert month.rows("SELECT FROM operation WHERE scope = %s", run) == []


def test_two_people_release_a_held_run_and_one_does_not(month):
    run = month.land(bills(5), decision="hold")
    month.app(login="operator").decide(run, kind="release", reason="price change")
    with pytest.raises(GateClosed, match="1 of 2"):
        month.app().release(run)
    month.app(login="approver").decide(run, kind="release", reason="seen")
    assert month.app().release(run).charged == 5


@pytest.mark.parametrize("field", ["amount_minor", "instrument_token", "customer_id"])
def test_a_file_that_does_not_say_what_was_meant_is_not_sent(month, monkeypatch, field):
    run = month.land(bills(5))
    write = PracticeRail.write

    def write_something_else(rail, operations, **options):
        place = operations.column_names.index(field)
        wrong = operations[field].take(pa.array([1, 0, 2, 3, 4]))  # the same values, two customers swapped
        return write(rail, operations.set_column(place, field, wrong), **options)

    monkeypatch.setattr(PracticeRail, "write", write_something_else)
    with pytest.raises(FatalError, match=f"differs from what was meant in {field}"):
        month.app().release(run)
    assert month.approvals() == {}
    monkeypatch.undo()
    assert month.app().release(run).charged == 5


def test_a_file_that_changes_on_disk_while_it_waits_is_not_sent_but_written_anew(month, monkeypatch):
    run = month.land(bills(5))
    read_back = PracticeRail.read_back

    def tamper_once_it_was_read(rail, file):
        operations = read_back(rail, file)
        file.staged.write_bytes(file.staged.read_bytes().replace(b",100,", b",900,"))
        return operations

    monkeypatch.setattr(PracticeRail, "read_back", tamper_once_it_was_read)
    with pytest.raises(FatalError, match="not as it was written"):
        month.app().release(run)
    assert month.approvals() == {}
    monkeypatch.undo()
    assert month.app().release(run).charged == 5
    assert month.approvals() == expected(bills(5))


def test_a_stop_halts_within_one_wave_and_names_what_is_left(month, monkeypatch):
    run = month.land(bills(1_100))
    poll = PracticeRail.poll
    app = month.app()

    def stop_while_the_canary_is_out(rail, file, operations, **options):
        app.stop("look at the canary")
        return poll(rail, file, operations, **options)

    monkeypatch.setattr(PracticeRail, "poll", stop_while_the_canary_is_out)
    with pytest.raises(SendingStopped, match="look at the canary"):
        app.release(run)
    left = [item for item in app.ledger.unfinished() if item["scope"] == run]
    assert left == [{"scope": run, "state": "not_sent", "operations": 1_090}]
    monkeypatch.undo()
    with pytest.raises(UsageError, match="who resumes"):
        app.resume("fine")
    month.app(login="operator").resume("fine")
    assert app.release(run).charged == 1_100


def test_a_corrected_file_charges_only_who_was_not_charged(month):
    first = bills(5)
    month.app().release(month.land(first))
    later = month.land(bills(8, amount_minor=777))
    month.app(login="operator").decide(later, kind="release", reason="late customers")
    month.app(login="approver").decide(later, kind="release", reason="late customers")
    released = month.app().release(later)
    assert released.charged == 3
    assert released.not_charged["correction"]["rows"] == 5
    assert month.approvals() == expected(first) | {f"tok-{n:07d}": [777] for n in (6, 7, 8)}


CRASH = """
import os, signal, sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from pipeline.adapters.ledger import PostgresLedger
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.bootstrap import Makegood
from pipeline.settings import Settings

home, at, run, owner, method, when, nth = sys.argv[1:]
cls = {"ledger": PostgresLedger, "rail": PracticeRail}[owner]
original, calls = getattr(cls, method), []

def dying(*arguments, **options):
    calls.append(1)
    if when == "before" and len(calls) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if when == "after" and len(calls) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(cls, method, dying)
settings = replace(Settings.from_environment(), home=Path(home))
Makegood(settings, as_of=datetime.fromisoformat(at)).release(run)
"""


@pytest.mark.parametrize(("owner", "method", "when", "nth"), [
    ("ledger", "intend", "after", 1),
    ("ledger", "record_batch", "after", 1),
    ("ledger", "hand_over", "after", 1),
    ("rail", "note", "after", 1),
    ("rail", "deliver", "after", 2),
    ("rail", "poll", "after", 2),
    ("ledger", "record_answers", "before", 2),
    ("ledger", "record_answers", "after", 1),
])  # fmt: skip
def test_a_process_killed_at_any_recovery_point_is_resumed_and_charges_once(month, owner, method, when, nth):
    table = bills(1_100)
    run = month.land(table)
    arguments = [str(month.settings.home), month.as_of.isoformat(), run, owner, method, when, str(nth)]
    killed = subprocess.run([sys.executable, "-c", CRASH, *arguments], cwd=ROOT, capture_output=True, timeout=120)
    assert killed.returncode == -9, killed.stderr.decode()[-2000:]
    resumed = month.app().release(run)
    assert (resumed.charged, resumed.unknown, resumed.not_sent) == (1_100, 0, 0)
    assert month.approvals() == expected(table)
