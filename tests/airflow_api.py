"""Airflow's REST API as its users see it, for tests: start runs, wait for them, clear tasks, answer questions."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from dags.server import Airflow

RUN_SECONDS_MAX = 240
"""No DAG run here takes a quarter as long on an idle machine; a longer one hangs."""


@dataclass
class Night:
    """A DAG run that has ended, or that waits for a person."""

    dag_id: str
    run_id: str
    state: str
    tasks: dict[str, list[str]]

    def ended_at(self, task_id: str) -> bool:
        return all(state == "success" for state in self.tasks[task_id])


class Api:
    """Airflow's REST API as one user sees it."""

    def __init__(self, airflow: Airflow, user: str | None) -> None:
        self.address = airflow.address
        self._scheduler_log = airflow.log("scheduler")
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self._token = None
        if user is not None:
            body = {"username": user, "password": airflow.passwords[user]}
            self._token = self.call("POST", "/auth/token", body)["access_token"]

    def status(self, method: str, path: str, body: Any = None) -> int:
        return self._request(method, path, body)[0]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        status, text = self._request(method, path, body)
        assert status < 300, f"{method} {path}: {status} {text[:2000]}"
        return json.loads(text) if text else None

    def text(self, path: str) -> tuple[int, str]:
        return self._request("GET", path, None)

    def _request(self, method: str, path: str, body: Any) -> tuple[int, str]:
        headers = {"Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        if isinstance(body, str):
            headers, data = {"Content-Type": "application/x-www-form-urlencoded"}, body.encode()
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.address + path, data=data, headers=headers, method=method)
        try:
            with self._open(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    # -- DAG runs

    def start(self, dag_id: str, **conf: Any) -> str:
        return self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]

    def finish(self, dag_id: str, run_id: str) -> Night:
        """The run once it has ended."""
        return self._until(dag_id, run_id, lambda night: night.state in ("success", "failed"))

    def run(self, dag_id: str, **conf: Any) -> Night:
        return self.finish(dag_id, self.start(dag_id, **conf))

    def _until(self, dag_id: str, run_id: str, is_so: Any) -> Night:
        deadline = time.monotonic() + RUN_SECONDS_MAX
        while time.monotonic() < deadline:
            night = self.look(dag_id, run_id)
            if is_so(night):
                return night
            time.sleep(0.5)
        raise AssertionError(f"{dag_id} {run_id} did not get there: {night}")

    def look(self, dag_id: str, run_id: str) -> Night:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}"
        tasks: dict[str, list[str]] = {}
        for task in self.call("GET", f"{path}/taskInstances?limit=100")["task_instances"]:
            tasks.setdefault(task["task_id"], []).append(task["state"])
        return Night(dag_id, run_id, self.call("GET", path)["state"], tasks)

    def clear(self, night: Night, *task_ids: str, downstream: bool = False) -> None:
        """Have tasks of a run done again, and those that follow them if `downstream`."""
        body = {
            "dag_run_id": night.run_id,
            "task_ids": task_ids,
            "include_downstream": downstream,
            "dry_run": False,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        assert self.call("POST", f"/api/v2/dags/{night.dag_id}/clearTaskInstances", body)["total_entries"] >= len(
            task_ids
        )

    def returned(self, night: Night, task_id: str) -> Any:
        path = f"/api/v2/dags/{night.dag_id}/dagRuns/{urllib.parse.quote(night.run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.call("GET", f"{path}?stringify=false")["value"]

    def log(self, night: Night, task_id: str, attempt: int = 1) -> str:
        path = f"/api/v2/dags/{night.dag_id}/dagRuns/{urllib.parse.quote(night.run_id)}/taskInstances/{task_id}/logs/{attempt}"
        return self.text(path)[1]

    # -- people

    def wait(self, dag_id: str, run_id: str, task_id: str, state: str) -> Night:
        """The run once a task of it is in that state."""
        return self._until(dag_id, run_id, lambda night: night.tasks.get(task_id) == [state])

    def question(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """What a task asks, once it waits for an answer and the scheduler has noted that it waits.

        An answer between the two is taken for a lost worker: the task is tried again, minutes later.
        """
        self.wait(dag_id, run_id, task_id, "awaiting_input")
        path = f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances/{task_id}"
        attempt = self.call("GET", path)["try_number"]
        key = f"TaskInstanceKey(dag_id='{dag_id}', task_id='{task_id}', run_id='{run_id}', try_number={attempt},"
        noted = f"event with state success for task instance {key}"
        self._until(dag_id, run_id, lambda night: noted in self._scheduler_log.read_text(errors="replace"))
        return self.call("GET", _hitl(dag_id, run_id, task_id))

    def answer(self, run_id: str, task_id: str, choice: str, reason: str, dag_id: str = "decide_held_run") -> int:
        """Answer as this user once the question is put, with the first choice that begins so; returns the HTTP status."""
        offered = self.question(dag_id, run_id, task_id)["options"]
        chosen = next((option for option in offered if option.startswith(choice)), choice)
        body = {"chosen_options": [chosen], "params_input": {"reason": reason}}
        return self.status("PATCH", _hitl(dag_id, run_id, task_id), body)


def _hitl(dag_id: str, run_id: str, task_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id)}/taskInstances/{task_id}/-1/hitlDetails"
