"""# The daily settlement

Every day at 09:00 in the business time zone, when the acquirer's files of the day before are here: looks up what got no answer,
matches every settlement line with the ledger - ordinary runs and incidents alike - and gives every difference a name. Then it signs what
the audit log and the books are, outside the database.

| it ends at | colour | meaning | what to do |
|---|---|---|---|
| `breaks` | green | everything matches, or differs only since the last two business days | read the log now and then |
| `breaks` | **red** | a difference is older than two business days, a file cannot be read, or an outcome is unknown | see the task |
| `match` | **red** | the acquirer or the database stayed away | clear it when they are back |

It moves no money. A backfill is harmless and useless: every day matches all files there are, each line once.
"""

from typing import Any

from airflow.sdk import DAG, Param, get_current_context

from dags.every_day import every_day
from dags.policies import DEFAULT_ARGS
from dags.stages import log, open_installation, stage
from pipeline.core.settlement import AGE_BUCKETS
from pipeline.errors import GateClosed

STILL_YOUNG = {name for _, name in AGE_BUCKETS[:2]}
"""Ages at which a difference only warns: files come late over a weekend, and the next one often explains the one before."""

AS_OF = Param(
    None,
    type=["null", "string"],
    format="date-time",
    title="As of",
    description="A simulated instant with time zone; works with the practice acquirer alone.",
)


@stage()
def match() -> dict[str, Any]:
    """### Match the acquirer's files with the ledger
    What was sent and never answered is looked up first. Every line of every file is entered once; what differs is kept as a break
    and goes when its reason goes.

    **Red?** The acquirer or the database is away; it was retried. Clear it when they are back.
    """
    said = open_installation(get_current_context()["params"]["as_of"]).settle_day()
    log.info("%s lines, %s newly entered, %s breaks (%s new, %s resolved)",
             said["lines"], said["entered"], said["break_count"], said["new_breaks"], said["resolved"])  # fmt: skip
    old = {
        kind: sum(n for age, n in found["ages"].items() if age not in STILL_YOUNG)
        for kind, found in said["breaks"].items()
    }
    return {
        "lines": said["lines"],
        "breaks": {kind: found["count"] for kind, found in said["breaks"].items()},
        "old": {kind: count for kind, count in old.items() if count},
        "refused_files": said["exceptions"]["refused"],
        "anchor_problem": said["anchor"]["problem"],
        "unknown": {item["scope"]: item["operations"] for item in said["unknown"]},
    }


@stage()
def breaks(matched: dict[str, Any]) -> dict[str, int]:
    """### Does anything differ?
    Differences of the last two business days warn in the log; older ones are red, once a day, until they are gone.

    **Red?** `makegood settle` lists the first of each kind by name. A file that was refused has to be sent again. For what is
    unknown ask the acquirer: it is never sent again blindly. Differences of an incident keep it from being closed.
    """
    problems = [f"{count} {kind}, older than two business days" for kind, count in matched["old"].items()]
    problems += [f"file {name} is not read: {why}" for name, why in matched["refused_files"].items()]
    problems += [f"{count} of {scope} have no answer" for scope, count in matched["unknown"].items()]
    problems += [matched["anchor_problem"]] if matched["anchor_problem"] else []
    if problems:
        raise GateClosed("; ".join(problems) + ". `makegood settle` names them")
    if matched["breaks"]:
        log.warning("differences of the last two business days: %s", matched["breaks"])
    return matched["breaks"]


with DAG(
    dag_id="settlement",
    description="Daily: the acquirer's settlement files against the ledger",
    schedule=every_day(at_hour=9),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params={"as_of": AS_OF},
    tags=["settlement"],
    doc_md=__doc__,
):
    breaks(match())
