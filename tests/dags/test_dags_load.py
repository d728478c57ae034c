"""The DAG files as Airflow's parser sees them: whole, light, documented, and with the policy for failures.

They are loaded in an interpreter of their own: what parsing imports can only be seen in a fresh one.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dags.server import DAGS
from pipeline.settings import PROJECT_ROOT, inherited_environment

HEAVY = ("great_expectations", "pandas", "duckdb", "pyarrow", "psycopg", "pipeline.bootstrap")

LOAD = f"""
import json, sys
from airflow.dag_processing.dagbag import DagBag

bag = DagBag({str(PROJECT_ROOT / "dags")!r})
dags = {{
    dag.dag_id: {{
        "doc": dag.doc_md, "tags": sorted(dag.tags), "backfillable": getattr(dag.timetable, "periodic", None),
        "scheduled": dag.timetable.can_be_scheduled, "run_types": sorted(dag.allowed_run_types or []), "catchup": dag.catchup,
        "tasks": {{
            task.task_id: {{
                "doc": task.doc_md, "owner": task.owner, "retries": task.retries, "policy": task.retry_policy.serialize(),
                "upstream": sorted(task.upstream_task_ids),
            }} for task in dag.tasks
        }},
    }} for dag in bag.dags.values()
}}
print(json.dumps({{"errors": bag.import_errors, "heavy": [m for m in {HEAVY!r} if m in sys.modules], "dags": dags}}))
"""

RANGES = """
import json
from datetime import datetime
from airflow.timetables.base import TimeRestriction
from pendulum import instance
from dags.billing_months import BillingMonths

def months(first, last, zone="Asia/Seoul", catchup=True):
    timetable, restriction, found, info = BillingMonths(zone), TimeRestriction(first, last, catchup), [], None
    while info := timetable.next_dagrun_info_v2(last_dagrun_info=info, restriction=restriction):
        found.append(info.logical_date.isoformat()[:7])
    return found

at = lambda text: instance(datetime.fromisoformat(text))
print(json.dumps({
    "days in Seoul": months(at("2005-04-01T00:00:00+09:00"), at("2005-09-30T00:00:00+09:00")),
    "days in UTC": months(at("2005-04-01T00:00:00+00:00"), at("2005-09-30T23:59:00+00:00")),
    "mid-month": months(at("2005-04-20T00:00:00+09:00"), at("2005-05-02T00:00:00+09:00")),
    "one instant": months(at("2004-12-31T15:00:00+00:00"), at("2004-12-31T15:00:00+00:00")),
    "by the scheduler": months(at("1990-01-01T00:00:00+00:00"), None, catchup=False),
}))
"""


FIRST_RUN = """
import json
from datetime import datetime
from unittest.mock import patch
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables import trigger
from airflow.timetables.base import DataInterval, TimeRestriction
from pendulum import instance
from dags.every_day import every_day

timetable = decode_timetable(json.loads(json.dumps(encode_timetable(every_day(at_hour=2)))))  # as the scheduler has it
at = lambda text: instance(datetime.fromisoformat(text))

def next_run(now, last=None):
    with patch.object(trigger, "utcnow", lambda: at(now)):
        before = DataInterval.exact(at(last)) if last else None
        info = timetable.next_dagrun_info(last_automated_data_interval=before, restriction=TimeRestriction(None, None, False))
    return info.run_after.in_timezone("Asia/Seoul").isoformat()[:16]

print(json.dumps({
    "set up at four": next_run("2005-09-11T04:00:00+09:00"),
    "set up at one": next_run("2005-09-11T01:00:00+09:00"),
    "away over night": next_run("2005-09-11T04:00:00+09:00", last="2005-09-10T02:00:00+09:00"),
}))
"""


def run_with_airflow(code: str, home: Path) -> dict:
    """The JSON that `code` prints last, run in a fresh interpreter with an Airflow that knows our plugins."""
    environment = inherited_environment() | {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "dags" / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL": "error",
        "MAKEGOOD_HOME": str(home / "home"),
        "PYTHONPATH": str(PROJECT_ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict:
    return run_with_airflow(LOAD, tmp_path_factory.mktemp("load"))


def test_every_dag_loads_and_nothing_else_is_taken_for_one(loaded):
    assert loaded["errors"] == {}
    assert set(loaded["dags"]) == DAGS


def test_parsing_a_dag_loads_nothing_that_computing_needs(loaded):
    assert loaded["heavy"] == []


def test_an_operator_finds_documentation_on_every_dag_and_task(loaded):
    for dag_id, dag in loaded["dags"].items():
        assert dag["doc"].startswith("# ") and "red" in dag["doc"], dag_id
        for task_id, task in dag["tasks"].items():
            assert task["doc"].startswith("### "), f"{dag_id}.{task_id}"
            assert not any(line.startswith("    ") for line in task["doc"].splitlines()), (
                f"{task_id}: Markdown would show code"
            )


def test_every_task_fails_or_retries_by_the_class_of_its_error(loaded):
    for dag in loaded["dags"].values():
        assert dag["tags"]
        for task in dag["tasks"].values():
            assert task["owner"] == "billing"
            assert task["retries"] > 0
            actions = {rule["exception"]: rule["action"] for rule in task["policy"]["rules"]}
            assert actions == {
                "pipeline.errors.GateClosed": "fail",
                "pipeline.errors.FatalError": "fail",
                "pipeline.errors.OutcomeUnknown": "retry",
                "pipeline.errors.RetriableError": "retry",
            }


def test_a_backfill_has_no_task_that_could_charge(loaded):
    tasks = set(loaded["dags"]["charge_history"]["tasks"])
    assert "verify" in tasks
    assert tasks.isdisjoint({"prepare_waves", "canary", "send_wave", "charged"})


def test_only_the_history_is_backfilled_and_it_never_runs_by_itself(loaded):
    nightly, history = loaded["dags"]["charge_run"], loaded["dags"]["charge_history"]
    assert "backfill" not in nightly["run_types"] and nightly["scheduled"] and not nightly["catchup"]
    assert "backfill" in history["run_types"] and history["backfillable"] and not history["scheduled"]


def test_nothing_is_sent_before_the_gate_or_two_people(loaded):
    nightly, decide = (loaded["dags"][dag_id]["tasks"] for dag_id in ("charge_run", "decide_held_run"))
    assert nightly["prepare_waves"]["upstream"] == ["gate"]
    assert decide["prepare_waves"]["upstream"] == ["second_person"]
    assert decide["second_person"]["upstream"] == ["first_person"]
    for tasks in (nightly, decide):
        assert tasks["canary"]["upstream"] == ["prepare_waves"]
        assert tasks["send_wave"]["upstream"] == ["canary"]
        assert tasks["charged"]["upstream"] == ["canary", "send_wave"]


def test_no_wrong_charge_is_touched_before_another_person_approved(loaded):
    remediation = loaded["dags"]["remediation"]
    assert remediation["run_types"] == ["manual"] and not remediation["backfillable"]
    upstream = {task_id: task["upstream"] for task_id, task in remediation["tasks"].items()}
    assert upstream["approve"] == ["plan"]
    for task_id, before in {
        "cancel": "approve",
        "refund": "cancel",
        "rebill": "refund",
        "anything_left": "rebill",
    }.items():
        assert upstream[task_id] == [before]
    assert upstream["close"] == ["reconcile"] and upstream["reconcile"] == ["anything_left"]


def test_a_range_means_every_month_it_touches_whatever_zone_it_was_typed_in(tmp_path):
    found = run_with_airflow(RANGES, tmp_path)
    six = ["2005-04", "2005-05", "2005-06", "2005-07", "2005-08", "2005-09"]
    assert found["days in Seoul"] == six
    assert found["mid-month"] == ["2005-04", "2005-05"]
    assert found["one instant"] == ["2005-01"]
    assert found["by the scheduler"] == []
    assert found["days in UTC"] == [*six, "2005-10"]  # 23:59 UTC is the first of October in Seoul


def test_a_new_installation_charges_nobody_before_its_first_night_and_makes_up_for_a_night_missed_later(tmp_path):
    assert run_with_airflow(FIRST_RUN, tmp_path) == {
        "set up at four": "2005-09-12T02:00",
        "set up at one": "2005-09-11T02:00",
        "away over night": "2005-09-11T02:00",
    }
