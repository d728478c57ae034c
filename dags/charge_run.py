"""# The nightly charge run

Every night at 02:00 in the business time zone: takes what has arrived for the period the billing calendar expects,
verifies it against earlier months, and releases it to the acquirer or holds it.

| it ends at | colour | meaning | what to do |
|---|---|---|---|
| `nothing_new` | green | nothing arrived, files are missing, or all is settled | nothing |
| `charged` | green | the run passed and was charged, once | nothing |
| `verified_not_charged` | green | it passed, but the calendar expects another period | nothing; or `decide_held_run` |
| `held` | **red** | the gate holds it; **nothing was sent** | read the report; corrected file, or `decide_held_run` |
| `extract` | **red** | a file cannot be read; nothing was landed | have it sent again, clear the task |
| `canary`, `send_wave` | **red** | sending was stopped, by a person or a stop rule | read the report, `makegood resume`, clear the task |
| `charged` | **red** | some charges got no answer | ask the acquirer, then clear the task |

Clearing or repeating anything here charges nobody twice. Failures of the world (database, disk, acquirer away) are retried by
themselves; failures of the data are not.

**Another month:** trigger the DAG with the Param `billing_period`. It is verified and reported; it is charged only if the
calendar expects it, or two people have released it. For several past months use `charge_history`.
"""

from airflow.sdk import DAG, Param

from dags import stages
from dags.every_day import every_day
from dags.policies import DEFAULT_ARGS

PERIOD = Param(
    None,
    type=["null", "string"],
    pattern="^[0-9]{4}-(0[1-9]|1[0-2])$",
    title="Billing period",
    description="YYYY-MM, such as 2005-09; empty: the period that the billing calendar expects at the run's time.",
)

AS_OF = Param(
    None,
    type=["null", "string"],
    format="date-time",
    title="As of",
    description="A simulated instant with time zone, such as 2005-09-11T02:00:00+08:00; works with the practice acquirer alone.",
)

with DAG(
    dag_id="charge_run",
    description="Nightly: extract, verify, release or hold",
    schedule=every_day(at_hour=2),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=["scheduled", "manual"],  # a backfill by night is charge_history's, by month
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params={"billing_period": PERIOD, "source": stages.SOURCE_PARAM, "as_of": AS_OF},
    tags=["charging"],
    doc_md=__doc__,
):
    asked = stages.choose_period()
    extracted = stages.extract(asked)
    judged = stages.verify(asked, extracted)
    stages.anything_new(extracted) >> [judged, stages.nothing_new(extracted)]

    prepared, last = stages.release("{{ ti.xcom_pull('extract')['run_id'] }}", "{{ params.as_of or '' }}")
    held, not_charged = stages.held(judged), stages.verified_not_charged(judged)
    stages.gate(asked, judged) >> [prepared, held, not_charged]

    [last, held, not_charged] >> stages.report(
        "{{ (ti.xcom_pull('extract') or {}).get('run_id') or '' }}"
    ).as_teardown()
