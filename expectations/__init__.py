"""What is expected of a charge run: rule classes here, every rule with its threshold in `suites/*.json`.

Belongs here: an `Expectation` subclass where none that Great Expectations has would do. Does not: any
threshold, or how what is judged was measured. The classes import Great Expectations, which takes seconds,
so this module imports none of them: `pipeline.judge` does, when it is about to judge.
"""

RULE_CLASS_VERSIONS = {"expect_cohort_metric_to_be_between": 1}
"""Part of the suite digest: a rule class that decides differently is another suite. Raise on any such change."""
