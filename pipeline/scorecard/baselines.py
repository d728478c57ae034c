"""What others would have said of a month: held or not.

Belongs here: the contenders that the gate is compared with, on the same landed months. Does not: the gate.
"""

import statistics
from collections.abc import Sequence

from pipeline.core.billing_period import BillingPeriod
from pipeline.ports import LandedRun

SIGMAS = 3
LEAST_MONTHS = 3
"""Fewer months have no spread to speak of."""


def three_sigma_holds(run: LandedRun, earlier: Sequence[LandedRun]) -> bool:
    """Whether total, number or mean of the charges is more than three standard deviations from the earlier months' mean.

    Where a figure never differed, any difference is too much.
    """
    if len(earlier) < LEAST_MONTHS:
        return False

    def figures(month: LandedRun) -> tuple[float, ...]:
        return month.control_total_minor, month.row_count, month.control_total_minor / max(month.row_count, 1)

    for now, *then in zip(figures(run), *map(figures, earlier), strict=True):
        if abs(now - statistics.fmean(then)) > SIGMAS * statistics.stdev(then):
            return True
    return False


def plain_suite_holds(run: LandedRun, earlier: Sequence[LandedRun]) -> bool:
    """Whether a plain Great Expectations suite with drift tolerances fails; nothing before it, nothing to fail."""
    from expectations.plain_suite import plain_suite_holds as holds

    return holds(run.path, earlier[0].path, BillingPeriod.parse(run.billing_period)) if earlier else False


BASELINES = {"plain suite": plain_suite_holds, "3 sigma": three_sigma_holds}
