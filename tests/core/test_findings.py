"""A fault is told once, of the cohort that holds it."""

import pytest

from pipeline.core.findings import findings
from pipeline.core.rule import Failure, Rule

JUDGED = {"run": 1, "issuer": 2, "payment_method": 2, "plan": 3, "issuer_plan": 6}

HEAPED = Rule(
    name="heaped", suite="signals.json", table="signals", rank=3, severity="critical", type="", description="No heaps.",
    kwargs={"column": "surprise", "max_value": 9}, says="{where}", unit="nats", confidence="near certain",
)  # fmt: skip


def failed(cohort: str, share: float) -> Failure:
    kind, _, name = cohort.partition(":")
    row = {"cohort_kind": kind, "cohort": name, "signal": "heaped", "surprise": 50.0, "excess_share": share}
    return Failure(HEAPED, "failed", row, JUDGED)


def told(*failures: Failure) -> list[str]:
    return sorted(finding.cohort for finding in findings(list(failures), billing_period="2023-09", currency="KRW"))


@pytest.mark.parametrize("run_failed_too", [True, False])
def test_what_all_issuers_of_a_plan_have_is_told_of_the_plan(run_failed_too):
    run = [failed("run:", 0.02)] if run_failed_too else []
    parts = [failed("issuer_plan:Rowan / GOLD", 0.17), failed("issuer_plan:Elm / GOLD", 0.2)]
    assert told(*run, failed("plan:GOLD", 0.18), failed("plan:SILVER", 0.03), *parts) == sorted(
        ["plan:GOLD"] if run_failed_too else ["plan:GOLD", "plan:SILVER"]
    )


def test_a_part_that_is_far_worse_is_told_besides():
    part = failed("issuer_plan:Rowan / GOLD", 0.9)
    assert told(failed("plan:GOLD", 0.1), part) == [part.cohort, "plan:GOLD"]
