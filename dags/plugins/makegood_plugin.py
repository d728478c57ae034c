"""What Airflow loads at its start: the timetable of billing months, and the reports as tabs of its pages.

Belongs here: registration. Does not: the timetable (`dags.billing_months`) or the report pages (`dags.reports`), which
only the api-server loads, when the first of them is asked for.
"""

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from dags.billing_months import BillingMonths


async def reports(scope: Any, receive: Any, send: Any) -> None:
    """The report pages as an ASGI application; imported here, because every task process loads its plugins."""
    from dags.reports import app

    await app(scope, receive, send)


class MakegoodPlugin(AirflowPlugin):
    """Registers what belongs to Makegood."""

    name = "makegood"
    timetables = [BillingMonths]  # noqa: RUF012 - Airflow's plugin interface
    fastapi_apps = [{"app": reports, "url_prefix": "/makegood", "name": "makegood"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Charge reports",
            "href": "makegood/reports/index.html",
            "destination": "nav",
            "category": "browse",
            "url_route": "charge-reports",
        },
        {
            "name": "Report",
            "href": "makegood/dags/{DAG_ID}/report?run_id={RUN_ID}",
            "destination": "dag_run",
            "url_route": "charge-report",
        },
    ]
