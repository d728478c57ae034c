"""The remediation DAG on a real Airflow, from incident to close, answered over its REST API by two people.

One Airflow serves all tests here; they run in the order in which they stand, as the days of an incident follow one another.
"""

import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from airflow_api import Api, Night
from incident_story import SEOUL, Story, tell

from dags.server import Airflow, running_airflow
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.core.window import Window
from pipeline.settings import Settings

pytestmark = pytest.mark.slow

CUSTOMERS = 300

LATE_ISSUER = "Hanbit"
"""Its charges are an incident of their own, whose reversal window is missed; the other issuers' are repaired in time."""

OTHER_ISSUERS = ["Saebyeok", "Narae", "Garam", "Dasom", "Onsaem", "Byeolbit"]

WAITING_ISSUER = "Maru"
"""Its incident waits for a window that lies ahead by the real clock."""

ELEVENTH = datetime(2023, 9, 11, 10, tzinfo=SEOUL)
TWELFTH = datetime(2023, 9, 12, 10, tzinfo=SEOUL)
THIRTEENTH = datetime(2023, 9, 13, 11, tzinfo=SEOUL)

DEFAULT_DAYS = {
    "reversal_first": "2023-09-11",
    "reversal_last": "2023-09-12",
    "rebill_first": "2023-09-12",
    "rebill_last": "2023-09-13",
}


@dataclass
class Incidents:
    """What the tests share: an Airflow, two people, a wrong month that was charged, and the DAG runs there have been."""

    airflow: Airflow
    story: Story
    operator: Api
    approver: Api
    runs: dict[str, Night] = field(default_factory=dict)

    def trigger(self, at: datetime | None, issuers: list[str], **conf: Any) -> str:
        """Start a remediation as the operator; returns the DAG run's id."""
        given = {
            "wrong_run": self.story.wrong_run,
            "corrected_run": self.story.right_run,
            "issuers": issuers,
            "reason": "July's amounts in September",
            "as_of": at and at.isoformat(),
        }
        return self.operator.start("remediation", **(given | conf))

    def finish(self, run_id: str) -> Night:
        return self.operator.finish("remediation", run_id)

    def answered(self, run_id: str, person: Api, choice: str, reason: str = "") -> Night:
        """The run after somebody has answered."""
        assert person.answer(run_id, "approve", choice, reason, dag_id="remediation") == 200
        return self.finish(run_id)

    def incident(self, night: Night) -> str:
        return self.operator.returned(night, "plan")["incident_id"]

    def book(self) -> list[dict[str, Any]]:
        """The acquirer's own book."""
        settings = self.story.settings
        with PracticeRail(settings.acquirer, outbox=settings.home / "outgoing") as rail:
            rail.export_book(settings.home / "book.parquet")
        return pq.read_table(settings.home / "book.parquet").to_pylist()

    def moved(self) -> Counter:
        """What we had the acquirer do, by kind: `acquire` is its own doing."""
        return Counter(row["kind"] for row in self.book() if row["status"] == "succeeded" and row["kind"] != "acquire")

    def kept(self, issuers: list[str]) -> dict[str, int]:
        """By instrument, what the acquirer keeps or holds of the money of an issuer's customers."""
        tokens = {bill["instrument_token"] for bill in self.bills(issuers)}
        kept = dict.fromkeys(tokens, 0)
        undone = {row["payment_id"] for row in self.book() if row["kind"] == "void" and row["status"] == "succeeded"}
        for row in self.book():
            sign = {"authorise": 1, "refund": -1}.get(row["kind"], 0)
            is_ours = row["status"] == "succeeded" and row["instrument_token"] in tokens
            if is_ours and row["payment_id"] not in undone:
                kept[row["instrument_token"]] += sign * row["amount_minor"]
        return kept

    def bills(self, issuers: list[str]) -> list[dict[str, Any]]:
        """The right bills of an issuer's customers."""
        path = self.story.at(ELEVENTH).lake.find(self.story.right_run).path
        rows = pq.read_table(path, columns=["instrument_token", "issuer", "amount_minor", "payment_method"]).to_pylist()
        return [row for row in rows if row["issuer"] in issuers]

    def right(self, issuers: list[str]) -> dict[str, int]:
        """By instrument, what its customer owes; a zero or credit bill takes nothing."""
        return {bill["instrument_token"]: max(bill["amount_minor"], 0) for bill in self.bills(issuers)}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Iterator[Incidents]:
    folder = tmp_path_factory.mktemp("remediation")
    settings = replace(
        Settings.from_environment(), home=folder / "home", source=folder / "right", database_url=None, login=None, password=None
    )  # fmt: skip
    with running_airflow(settings) as airflow:
        story = tell(settings, folder, customers=CUSTOMERS)
        yield Incidents(airflow, story, Api(airflow, "operator"), Api(airflow, "approver"))


def test_who_asked_for_a_plan_cannot_approve_it(here):
    before = here.moved()
    run_id = here.trigger(ELEVENTH, OTHER_ISSUERS)
    asked = here.operator.question("remediation", run_id, "approve")
    assert "It voids " in asked["body"] and "refunds " in asked["body"] and "rebills " in asked["body"]
    night = here.runs["first"] = here.answered(run_id, here.operator, "Approve")
    assert night.state == "failed" and night.tasks["approve"] == ["failed"]
    assert "a different person must approve it" in here.operator.log(night, "approve")
    assert night.tasks["cancel"] == ["upstream_failed"]
    assert here.moved() == before


def test_a_plan_that_was_changed_after_its_approval_is_not_carried_out(here):
    night, before = here.runs["first"], here.moved()
    operator = here.story.at(ELEVENTH, "operator")
    operator.stop("to change the plan between its approval and its first step")
    here.operator.clear(night, "approve", downstream=True)
    stopped = here.answered(night.run_id, here.approver, "Approve")
    assert stopped.tasks["approve"] == ["success"] and stopped.tasks["cancel"] == ["failed"]
    assert "sending was stopped by operator" in here.operator.log(stopped, "cancel")

    longer = Window.parse("2023-09-11..2023-09-12"), Window.parse("2023-09-12..2023-09-14")
    changed = operator.plan(here.incident(night), reversal=longer[0], rebill=longer[1])
    operator.request_approval(changed)
    operator.resume("the plan is changed")
    here.operator.clear(stopped, "cancel")
    refused = here.finish(night.run_id)
    assert refused.state == "failed" and refused.tasks["cancel"] == ["failed"]
    assert f"{changed.plan_digest[:12]} of operator has superseded" in here.operator.log(refused, "cancel", 2)
    assert here.moved() == before


def test_an_old_question_that_is_shown_again_approves_no_newer_plan(here):
    """Airflow keeps a question's text when its task is cleared; the answer names the plan that the text is about."""
    night = here.runs["first"]
    here.operator.clear(night, "plan", downstream=True)
    shown = here.operator.question("remediation", night.run_id, "approve")["options"][0]
    refused = here.answered(night.run_id, here.approver, "Approve")
    newest = here.operator.returned(refused, "plan")["plan_digest"]
    assert newest[:12] not in shown and refused.tasks["approve"] == ["failed"]
    assert f"superseded by {newest[:12]}" in here.operator.log(refused, "approve", 3)
    assert here.story.at(ELEVENTH).plan_to_decide(here.incident(night)).approver is None


def test_no_answer_is_a_no_that_is_kept_and_ends_red(here):
    run_id = here.trigger(ELEVENTH, OTHER_ISSUERS)
    here.operator.question("remediation", run_id, "approve")
    metadata = here.airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg", "", 1)
    with psycopg.connect(metadata) as connection:  # a day goes by
        late = connection.execute(
            "UPDATE task_instance SET trigger_timeout = now() WHERE run_id = %s AND task_id = 'approve'", (run_id,)
        )
        assert late.rowcount == 1
    night = here.finish(run_id)
    assert night.state == "failed" and night.tasks["approve"] == ["failed"]
    rejected = here.story.at(ELEVENTH).plan_to_decide(here.incident(night))
    assert rejected.rejected_by == "nobody" and "within 24 hours" in rejected.rejection


def test_a_refund_task_that_is_cleared_and_done_again_moves_no_money(here):
    operator = here.story.at(TWELFTH, "operator")
    operator.stop("to take the steps one by one")
    run_id = here.trigger(TWELFTH, OTHER_ISSUERS)
    night = here.runs["whole"] = here.answered(run_id, here.approver, "Approve")
    operator.resume("go on")
    here.operator.clear(night, "cancel", "refund")
    undone = here.finish(run_id)
    assert undone.tasks["cancel"] == undone.tasks["refund"] == ["success"]
    moved, refunded = here.moved(), here.operator.returned(undone, "refund")
    assert moved["refund"] == refunded["done"] > 0 and moved["void"] > 0
    here.operator.clear(undone, "refund")
    assert here.finish(run_id).tasks["refund"] == ["success"]
    assert here.operator.returned(undone, "refund") == refunded
    assert here.moved() == moved


def test_an_incident_is_repaired_to_its_proof(here):
    """On the 12th: check cards are refunded that day, so they can be charged on the 13th alone."""
    run_id = here.runs["whole"].run_id
    here.operator.clear(here.runs["whole"], "rebill", "notify_undone", downstream=True)
    night = here.runs["whole"] = here.finish(run_id)
    assert night.state == "success", night.tasks
    assert all(night.ended_at(task_id) for task_id in night.tasks)
    closed = here.operator.returned(night, "close")
    assert closed["residual_minor"] == 0 and closed["open"] == 0
    with here.story.at(TWELFTH).server.connect() as connection:
        person = connection.execute(
            "SELECT person FROM incident_closing WHERE incident_id = %s", (here.incident(night),)
        )
        assert person.fetchall() == [("operator",)], "whoever triggered the run"
    assert here.operator.returned(night, "rebill")["at"].startswith("2023-09-13")
    assert here.kept(OTHER_ISSUERS) == here.right(OTHER_ISSUERS)
    assert any(bill["payment_method"] == "check_card" for bill in here.bills(OTHER_ISSUERS))
    page = here.operator.text(f"/makegood/dags/remediation/report?run_id={urllib.parse.quote(run_id)}")
    assert page[0] == 200 and here.incident(night) in page[1]
    assert "Reconciliation" in page[1] and "What was charged wrongly" in page[1], "the page shows how it ended"


def test_a_refund_task_cleared_after_the_close_has_no_effect(here):
    night, before = here.runs["whole"], here.moved()
    here.operator.clear(night, "refund")
    assert here.finish(night.run_id).tasks["refund"] == ["skipped"]
    assert here.moved() == before


def test_a_closed_window_holds_the_run_and_leaves_a_successor_plan(here):
    before = here.moved()
    run_id = here.trigger(THIRTEENTH, [LATE_ISSUER], **DEFAULT_DAYS)
    night = here.runs["held"] = here.answered(run_id, here.approver, "Approve")
    assert night.state == "failed" and night.tasks["anything_left"] == ["failed"]
    assert night.tasks["cancel"] == night.tasks["refund"] == ["skipped"]
    assert "2023-09-11..2023-09-12 has closed" in here.operator.log(night, "refund")
    assert here.moved() == before
    successor = here.story.at(THIRTEENTH).plan_to_decide(here.incident(night))
    assert successor.state == "requested" and successor.requested_by == "operator"
    assert successor.successor_of == here.operator.returned(night, "plan")["plan_digest"]
    assert successor.plan_digest[:12] in here.operator.log(night, "anything_left")
    assert str(successor.windows.reversal) == "2023-09-14..2023-09-15"


def test_what_a_closed_window_left_is_done_by_its_successor(here):
    digest = here.story.at(THIRTEENTH).plan_to_decide(here.incident(here.runs["held"])).plan_digest
    days = {
        "reversal_first": "2023-09-14",
        "reversal_last": "2023-09-15",
        "rebill_first": "2023-09-15",
        "rebill_last": "2023-09-16",
    }
    run_id = here.trigger(THIRTEENTH, [LATE_ISSUER], **days)
    assert f"Approve {digest[:12]}" in here.operator.question("remediation", run_id, "approve")["options"]
    night = here.runs["successor"] = here.answered(run_id, here.approver, "Approve")
    assert night.state == "success", night.tasks
    assert here.kept([LATE_ISSUER]) == here.right([LATE_ISSUER])


def test_a_backfill_over_the_days_of_the_incident_has_no_effect(here):
    before, everybody = here.moved(), [LATE_ISSUER, *OTHER_ISSUERS]
    days = {
        "from_date": "2023-09-10T15:00:00Z",
        "to_date": "2023-09-11T15:00:00Z",
        "reprocess_behavior": "none",
        "max_active_runs": 1,
    }
    assert here.operator.status("POST", "/api/v2/backfills", {"dag_id": "remediation", **days}) == 400
    for dag_id, last in (("charge_history", "verify"), ("settlement", "match")):
        here.operator.call("POST", "/api/v2/backfills", {"dag_id": dag_id, **days})
        runs = here.operator.call("GET", f"/api/v2/dags/{dag_id}/dagRuns?run_type=backfill")["dag_runs"]
        assert len(runs) == 1
        assert here.operator.finish(dag_id, runs[0]["dag_run_id"]).ended_at(last)
    assert here.moved() == before
    assert here.kept(everybody) == here.right(everybody)


def test_nobody_was_reversed_or_charged_twice(here):
    done = [row for row in here.book() if row["status"] == "succeeded"]
    undone = Counter(row["payment_id"] for row in done if row["kind"] in ("void", "refund"))
    approved = Counter(row["instrument_token"] for row in done if row["kind"] == "authorise")
    assert max(undone.values()) == 1 and max(approved.values()) == 2
    assert sum(undone.values()) == here.moved()["void"] + here.moved()["refund"] > CUSTOMERS // 2


def test_waiting_for_a_window_holds_no_worker(here):
    today = datetime.now(SEOUL).date()
    days = {
        "reversal_first": str(today + timedelta(days=2)),
        "reversal_last": str(today + timedelta(days=2)),
        "rebill_first": str(today + timedelta(days=3)),
        "rebill_last": str(today + timedelta(days=3)),
    }
    before = here.moved()
    run_id = here.trigger(None, [WAITING_ISSUER], **days)
    assert here.approver.answer(run_id, "approve", "Approve", "", dag_id="remediation") == 200
    here.operator.wait("remediation", run_id, "cancel", "deferred")
    waits = here.operator.call(
        "GET", f"/api/v2/dags/remediation/dagRuns/{urllib.parse.quote(run_id)}/taskInstances/cancel"
    )
    assert "DateTimeTrigger" in waits["trigger"]["classpath"]
    assert here.moved() == before
