"""Extract: a month's charges become an immutable, hashed partition of the lake - a run.

Belongs here: when to land, when to wait, when to trust what was landed before. Does not: how a file is
read (`adapters.sources`) or how a partition is written (`adapters.lake`).
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import NotYetArrived
from pipeline.ports import Lake, LandedRun, Progress, Source, no_progress

__all__ = ["Extracted", "extract", "periods_available"]


@dataclass(frozen=True, slots=True)
class Extracted:
    """What became of one look at a source.

    Attributes:
        run: the landed run; None while files are waited for.
        waiting_for: names of files that have not arrived, or not completely.
        already_landed: the same content was there before, and nothing was written.
        set_aside: where a damaged or edited partition of the same run was moved to; None where there was none.
    """

    run: LandedRun | None
    waiting_for: tuple[str, ...]
    already_landed: bool
    set_aside: Path | None = None


def extract(
    source: Source,
    billing_period: BillingPeriod,
    *,
    lake: Lake,
    progress: Progress = no_progress,
    trust_unchanged_files: bool = False,
) -> Extracted:
    """Land what `source` holds for `billing_period`, whole or not at all.

    Landing the same content again changes nothing and returns the same run; new content is a new run. A partition that was damaged
    or edited since is set aside and landed anew.

    Args:
        trust_unchanged_files: take files whose names, sizes and modification times are those of the last
            landing as already landed, unread. For history only: a period about to be judged is read.

    Raises:
        UnreadableInput: it cannot be read faithfully; nothing was landed.
        RetriableError: the disk or the database failed; nothing was landed.
        FatalError: another content has the same run id.
    """
    try:
        return _extract(source, billing_period, lake, progress, trust_unchanged_files)
    except NotYetArrived as late:
        return Extracted(None, late.files, already_landed=False)


def _extract(
    source: Source, billing_period: BillingPeriod, lake: Lake, progress: Progress, trust_unchanged_files: bool
) -> Extracted:
    arrival = source.arrived(billing_period)
    if arrival.waiting_for:
        return Extracted(None, arrival.waiting_for, already_landed=False)
    period = str(billing_period)
    seen = arrival.fingerprint
    if trust_unchanged_files and seen is not None:
        run = lake.recall(source=source.label, billing_period=period, fingerprint=seen)
        if run is not None:
            return Extracted(run, (), already_landed=True)
    landing = lake.land(source=source.label, billing_period=period, files=arrival.files, progress=progress)
    if seen is not None:
        lake.remember(source=source.label, billing_period=period, fingerprint=seen, run_id=landing.run.run_id)
    return Extracted(landing.run, (), already_landed=landing.was_there, set_aside=landing.set_aside)


def periods_available(source: Source) -> list[BillingPeriod]:
    """The periods that `source` holds, earliest first."""
    return source.periods()
