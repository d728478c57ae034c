"""# Backfill: verify past months, charge nobody

Runs on request only. Trigger a **backfill** over a range of dates: every billing month that the range touches becomes one
run, named after the month. Each run lands the month, verifies it against the months before it and writes its report.
There is no task here that could charge anybody, so repeating a backfill is always safe.

| it ends at | colour | meaning |
|---|---|---|
| `verified_not_charged` | green | the month passes the gate |
| `held` | **red** | the gate would hold it; the report says why |
| `nothing_new` | green | the source has no files for the month, or not all of them |

* In the pages: *Trigger* -> *Backfill*; from any day of the first month to any day of the last, for instance 2005-04-01 to
  2005-09-30 for April to September. Days are read in the business time zone. The current month is not yet past: it is left out.
* Reprocess behaviour *All Runs* verifies months anew that have a run already; *Missing Runs* leaves them alone.
* Set *Max Active Runs* to 1 to read the months one after the other, oldest first.
* A paused DAG leaves a backfill queued for ever: this one is unpaused from the start; unpause it if somebody paused it.

Why a DAG of its own: `charge_run` runs every night, and a backfill over it would be 180 nights for six months.
"""

from airflow.sdk import DAG

from dags import stages
from dags.billing_months import EARLIEST, BillingMonths
from dags.policies import DEFAULT_ARGS
from pipeline.settings import Settings

with DAG(
    dag_id="charge_history",
    description="Backfill over past months: verifies and reports, charges nobody",
    schedule=BillingMonths(Settings.from_environment().timezone.key),
    start_date=EARLIEST,
    catchup=False,
    max_active_runs=1,
    allowed_run_types=["backfill", "manual"],
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params={"source": stages.SOURCE_PARAM},
    tags=["charging", "backfill"],
    doc_md=__doc__,
):
    asked = stages.choose_month()
    extracted = stages.extract(asked)
    judged = stages.verify.override(max_active_tis_per_dag=1)(asked, extracted)  # one month's measuring fits the memory
    stages.anything_new(extracted) >> [judged, stages.nothing_new(extracted)]
    held, not_charged = stages.held(judged), stages.verified_not_charged(judged)
    stages.passed_or_held(judged) >> [held, not_charged]
