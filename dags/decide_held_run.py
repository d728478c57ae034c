"""# Decide on a held run

For a run that ended at `held`, or at `verified_not_charged`, and that should be charged all the same. Trigger it with the
`run_id` from that task's log (such as `2005-09-1a2b3c4d5e6f`) and why it should be released.

Two different people then answer under *Required Actions*, each with a reason; each sees counts, amounts and findings first.
Whoever is logged in is the person recorded. You may be one of the two; nobody can be both.

| it ends at | colour | meaning |
|---|---|---|
| `charged` | green | two people released it, and it was charged, once |
| `first_person`, `second_person` | **red** | rejected; or answered twice by one person; or nobody answered within 48 hours |
| `prepare_waves` | **red** | it may not be charged any more: another run of its period was |
| `canary`, `send_wave`, `charged` | **red** | as in `charge_run` |

A rejection is final: have a corrected file sent. After a red end for another reason, trigger this DAG again; answers that
were recorded count.
"""

from airflow.sdk import DAG, Param

from dags import stages
from dags.person_decides import REASON, PersonDecides
from dags.policies import DEFAULT_ARGS

RUN_ID = Param(
    type="string",
    pattern=stages.RUN_ID_PATTERN,
    title="Run",
    description="run_id of the held run, such as 2005-09-1a2b3c4d5e6f: the log of `held` and the report show it.",
)

WHY = Param(
    type="string",
    minLength=3,
    maxLength=500,
    title="Why",
    description="Why it should be charged all the same; both people see it.",
)

FIRST = """### The first person's answer
*Required Actions* shows it. Any user with the right to run DAGs may answer; the answer is kept under that user's name.

**Red?** Rejected, no reason given, or nobody answered in time. Nothing was sent.
"""

SECOND = """### The second, different person's answer
**Red?** As for the first; or the same person answered both. Nothing was sent. Trigger the DAG again: the first answer counts.
"""

with DAG(
    dag_id="decide_held_run",
    description="Two people release a held run, or reject it",
    schedule=None,
    catchup=False,
    max_active_runs=4,  # one waits for people; another run's decision must not wait for it
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params={"run_id": RUN_ID, "why": WHY},
    tags=["charging", "decision"],
    doc_md=__doc__,
):
    run_id = "{{ params.run_id }}"
    first = PersonDecides(task_id="first_person", params={"reason": REASON}, doc_md=FIRST)
    second = PersonDecides(task_id="second_person", params={"reason": REASON}, doc_md=SECOND)
    prepared, last = stages.release(run_id, "")
    first >> second >> prepared
    last >> stages.report(run_id).as_teardown()
