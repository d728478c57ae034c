"""Airflow lives here and nowhere else: when the stages run, in which order, and what an operator sees of it.

Belongs here: schedules, wiring, retries, the two people's answers, the report inside the Airflow pages, and the
server that `make airflow` starts. Does not: any rule of a stage or any state of money; both are behind
`pipeline.bootstrap`, so a task that is cleared, retried or run twice moves nothing twice.

    charge_run.py        nightly: take what arrived, verify, release or hold
    charge_history.py    backfills: verify past months, charge nobody
    decide_held_run.py   two people decide on a run that was held
    stages.py            the tasks these three share
    remediation.py       per incident: assess, plan, another person's approval, void, refund, rebill, reconcile, close
    settlement.py        daily: the acquirer's files against the ledger
"""
