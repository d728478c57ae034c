"""Which cases the scorecard tries: every fault at every size, and clean months.

Belongs here: sizes, which months, what is promised of a case. Does not: trying them (`trial`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.billing_period import BillingPeriod
from pipeline.generate import CATALOGUE, Fault
from pipeline.scorecard.bases import Base, Half

SIZES = (0.001, 0.01, 0.1, 1.0)
"""Shares of customers that are hit."""

UNPROMISED_SIZES = (0.05, 0.25, 1.0)
"""For faults of which no share is promised."""

SMALL_ISSUER = "small issuer"
"""In place of a size: everybody of the smallest issuer, and nobody else."""

NOT_OF_AN_ISSUER = ("customers_dropped",)
"""Everybody of an issuer dropped is a missing file: another fault."""

REPEATS = ("earlier_month", "mixed_months", "earlier_bill")
"""Amounts of earlier months: tried at the smallest size as well, which is promised where hardly a bill repeats by itself."""

RARE_REPEATS = 0.0001
"""Natural share of repeats up to which the smallest size of `REPEATS` is promised."""

Kind = Literal["fault", "clean", "price change"]


@dataclass(frozen=True, slots=True)
class Tried:
    """A source that cases are made of.

    Attributes:
        name: for people; also the results' key.
        kind: `sample`, `generated`, or `own`.
        folder: its charge files; None for a base, which is made.
        smallest_issuer: to be hit alone.
        lag: how many months back earlier amounts are taken from.
        faulted: whether faults are injected, or clean months judged alone.
    """

    name: str
    kind: Literal["sample", "generated", "own"]
    folder: Path | None
    base: Base | None
    periods: tuple[BillingPeriod, ...]
    smallest_issuer: str
    seed: int
    lag: int = 2
    faulted: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """One month to judge.

    Attributes:
        kind: `clean`, `fault`, or `price change`: a right month in which fees rise, as was declared ahead.
        size: share of customers hit, or `SMALL_ISSUER`; None for a right month.
    """

    source: Tried
    period: BillingPeriod
    kind: Kind
    fault: str | None = None
    size: float | str | None = None

    @property
    def key(self) -> str:
        """Names the case among results."""
        parts = (self.source.name, str(self.period), self.kind, self.fault, self.size)
        return "/".join(str(part) for part in parts if part is not None)


def faults(source: Tried, only: Sequence[str] = (), sizes: Sequence[float] = ()) -> Iterator[Case]:
    """The last month of `source` with every fault of the catalogue, or `only` some, at its sizes."""
    for fault in CATALOGUE.values():
        if only and fault.name not in only:
            continue
        for size in sizes or sizes_of(fault):
            yield Case(source, source.periods[-1], "fault", fault.name, size)
        if fault.scope == "customers" and fault.name not in NOT_OF_AN_ISSUER and not sizes:
            yield Case(source, source.periods[-1], "fault", fault.name, SMALL_ISSUER)


def sizes_of(fault: Fault) -> tuple[float, ...]:
    """The sizes at which a fault is tried."""
    if fault.smallest is None:
        return UNPROMISED_SIZES
    least = SIZES[0] if fault.name in REPEATS else fault.smallest
    return tuple(size for size in SIZES if size >= least)


def clean(source: Tried) -> Iterator[Case]:
    """Every month of `source` that has a month before it."""
    behaviour = source.base and source.base.behaviour
    for period in source.periods[1:]:
        dearer = behaviour is not None and period == behaviour.price_change_period
        yield Case(source, period, "price change" if dearer else "clean")


def halves_seed(half: Half) -> int:
    """Which customers of a source that is not made up are hit."""
    return 1 if half == "reporting" else 2
