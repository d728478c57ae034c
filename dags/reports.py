"""Reports inside the Airflow pages: what `reports/` holds, for people who are logged in, and their reviews.

Belongs here: who may read, which file a path means, who is recorded as reviewer. Does not: what a report says
(`pipeline.report`). Airflow leaves the apps of plugins open to anybody; here every route asks for a user.
"""

import re
from html import escape
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_authenticated
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from sqlalchemy import select

from dags.stages import RUN_ID_PATTERN, open_installation
from pipeline.errors import UsageError
from pipeline.settings import Settings

PREFIX = "/makegood"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".css": "text/css",
    ".js": "text/javascript",
    ".png": "image/png",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
}
"""What is handed out: reports, their data, quarantine files and Great Expectations' pages; nothing else that may lie there."""

OWN_PAGE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-src 'self'; form-action 'self'; frame-ancestors 'self'"
"""Our pages need no script and nothing from outside."""

FOREIGN_PAGE = "sandbox allow-scripts; frame-ancestors 'self'"
"""Great Expectations' pages run scripts: they get an origin of their own, without the reader's session."""

COMMENT_BYTES_MAX = 4_000
"""A review is a remark, not a document."""

INCIDENT_ID_PATTERN = "^inc-[0-9]{4}-(0[1-9]|1[0-2])-[0-9a-f]{8}$"

IncidentId = Annotated[str, PathParameter(pattern=INCIDENT_ID_PATTERN)]

RunId = Annotated[str, PathParameter(pattern=RUN_ID_PATTERN)]

app = FastAPI(
    title="Makegood reports", dependencies=[Depends(requires_authenticated())], docs_url=None, openapi_url=None
)


@app.get("/reports/{path:path}")
def file(path: str) -> Response:
    """A file of the reports folder; 404 for anything outside it."""
    found = find_file(Settings.from_environment().reports, path or "index.html")
    if found is None:
        raise HTTPException(404, "there is no such report")
    own = "data_docs" not in PurePosixPath(path).parts
    headers = {"Content-Security-Policy": OWN_PAGE if own else FOREIGN_PAGE, "X-Content-Type-Options": "nosniff"}
    return FileResponse(found, media_type=MEDIA_TYPES[found.suffix], headers=headers)


def find_file(reports: Path, path: str) -> Path | None:
    """The file below `reports` that `path` names, or None: outside, hidden, of a strange run or type, or not there."""
    parts = PurePosixPath(path).parts
    if not parts or any(part.startswith(".") for part in parts) or "\\" in path or "\0" in path:
        return None
    if parts != ("index.html",) and not (len(parts) > 1 and re.fullmatch(RUN_ID_PATTERN, parts[0])):
        return None
    wanted = reports.joinpath(*parts).resolve()
    if not wanted.is_relative_to(reports.resolve()) or wanted.suffix not in MEDIA_TYPES or not wanted.is_file():
        return None
    return wanted


@app.get("/dags/{dag_id}/report", dependencies=[Depends(requires_access_dag(method="GET"))])
def of_dag_run(dag_id: str, run_id: str, session: SessionDep) -> Response:
    """The report of the charges, or the page of the incident, that a DAG run (`run_id` is Airflow's) was about."""
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    incident_id = _returned(run, "open_incident", session).get("incident_id") if run else None
    if isinstance(incident_id, str) and re.fullmatch(INCIDENT_ID_PATTERN, incident_id):
        return RedirectResponse(f"{PREFIX}/incidents/{incident_id}", status_code=303)
    about = _charges_of(run, session) if run else None
    if about is None:
        return _page("No report yet", "<p>This run has landed no charges (yet), so there is no report.</p>")
    return RedirectResponse(f"{PREFIX}/runs/{about}", status_code=303)


def _charges_of(run: DagRun, session: SessionDep) -> str | None:
    named = (run.conf or {}).get("run_id")
    if named is None:
        named = _returned(run, "extract", session).get("run_id")
    return named if isinstance(named, str) and re.fullmatch(RUN_ID_PATTERN, named) else None


def _returned(run: DagRun, task_id: str, session: SessionDep) -> dict[str, Any]:
    """What a task of the run has returned; empty if nothing."""
    found = session.scalar(
        XComModel.get_many(run_id=run.run_id, dag_ids=run.dag_id, task_ids=task_id, key="return_value")
    )
    value = XComModel.deserialize_value(found) if found else None
    return value if isinstance(value, dict) else {}


@app.get("/incidents/{incident_id}")
def of_incident(incident_id: IncidentId) -> Response:
    """The page of an incident: who was hurt, its plans and how far they are."""
    page = Settings.from_environment().home / "incidents" / incident_id / "incident.html"
    if not page.is_file():
        return _page("No page yet", f"<p>There is no incident {incident_id}, or nothing was assessed yet.</p>")
    headers = {"Content-Security-Policy": OWN_PAGE, "X-Content-Type-Options": "nosniff"}
    return FileResponse(page, media_type=MEDIA_TYPES[".html"], headers=headers)


@app.get("/runs/{run_id}")
def with_review(run_id: RunId) -> Response:
    """The report with the line in which a reader marks it as reviewed."""
    if find_file(Settings.from_environment().reports, f"{run_id}/report.html") is None:
        return _page("No report yet", f"<p>{run_id} has not been verified here, so there is no report.</p>")
    reviews = "".join(
        f"<li>{escape(review['person'])}, {review['at']:%Y-%m-%d %H:%M %Z}: {escape(review['comment'])}</li>"
        for review in open_installation().register.reviews(run_id)
    )
    form = (
        f'<form method="post" action="{PREFIX}/runs/{run_id}/review">'
        f'<label>Mark as reviewed: <input name="comment" required maxlength="500" size="60" placeholder="what you found"></label>'
        f"<button>Reviewed</button></form>"
    )
    body = (
        f'{form}<ul>{reviews}</ul><iframe src="{PREFIX}/reports/{quote(run_id)}/report.html" title="Report"></iframe>'
    )
    return _page(f"Report {run_id}", body)


@app.post("/runs/{run_id}/review")
async def review(run_id: RunId, request: Request, user: GetUserDep) -> Response:
    """Keep that the user who is logged in has read the report, with a comment."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "a review is sent from the report's own page")
    body = await request.body()
    if len(body) > COMMENT_BYTES_MAX:
        raise HTTPException(413, "the comment is too long")
    comment = parse_qs(body.decode("utf-8", "replace")).get("comment", [""])[0].strip()
    if not comment:
        raise HTTPException(422, "a review needs its comment")
    try:
        open_installation().review_for_airflow_user(run_id, comment=comment, user=user.get_name())
    except UsageError as error:
        raise HTTPException(404, str(error)) from None
    return RedirectResponse(f"{PREFIX}/runs/{run_id}", status_code=303)


def _page(title: str, body: str) -> HTMLResponse:
    style = "body{font:14px system-ui;margin:8px}iframe{border:0;width:100%;height:92vh}form{display:inline}ul{margin:4px 0}"
    page = f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{style}</style>{body}"
    return HTMLResponse(page, headers={"Content-Security-Policy": OWN_PAGE, "X-Content-Type-Options": "nosniff"})
