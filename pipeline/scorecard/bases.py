"""The months that the scorecard tries: made-up customers of many habits, split into a half to tune with and a half to report.

Belongs here: each base's seed and settings, making its files, landing them. Does not: what is done to a month (`cases`).
"""

import hashlib
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline import generate as generate_package
from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.sources import open_source
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import FatalError
from pipeline.extract import extract, periods_available
from pipeline.generate import Behaviour, generate
from pipeline.generate.bill_parts import BillParts
from pipeline.generate.bills import PLANS, USAGE_STEP_MINOR
from pipeline.generate.charge_files import PeriodWriter
from pipeline.generate.month import Month, with_column
from pipeline.ports import LandedRun, no_progress

Half = Literal["tuning", "reporting"]

REPORTING_SEEDS = 301
"""Seeds of the reporting half are odd from here on; nobody has looked at their months before they were reported."""

BASES_PER_HALF = 28
"""Of twelve judged months each: more than 300 right months a half, those of a declared price change not counted."""

CUSTOMERS, MONTHS = 20_000, 13

FLAT_SHARES = (0.0, 0.3, 0.8)

SEASONS = (
    (104, 110, 98, 98, 101, 99, 106, 108, 112, 102, 97, 107),  # as made-up customers have it
    (100,) * 12,
    (115, 135, 95, 95, 110, 100, 105, 110, 140, 105, 95, 145),  # strong holidays
    (85, 85, 90, 95, 100, 115, 140, 145, 110, 95, 90, 85),  # a long summer
)
"""Usage in January ... December, in percent."""

PRICE_CHANGE_EVERY = 5
"""Every so many bases, and the first, there is one whose fees rise in one of its months."""

DEARER_SINCE_LAST_MONTH, MOST_RESTLESS = 1, 2
"""Places of two bases that get every fault where it is hardest to see: all fees rose the month before, or as many customers as we
expect anywhere come, go and change their plan."""

MOST_CHURN, MOST_PLAN_CHANGES = 0.05, 0.02
"""Shares of customers a month: the upper ends of what other bases draw."""

IN_CENTS_EVERY, FAULT_PLACE_IN_CENTS = 7, 3
"""Every so many bases one is billed to the cent, in another currency; one of the first three is, which get every fault."""

CENTS = 100

ARRANGEMENTS: tuple["Arrangement", ...] = ("as made", "shuffled", "by night")

Arrangement = Literal["as made", "shuffled", "by night"]
"""How a base's files lie: each month alike; rows in another order each month; besides, each file named after the night it came,
and only some there on the first."""


@dataclass(frozen=True, slots=True)
class Base:
    """A made-up source.

    Attributes:
        name: for people and files.
        seed: even to tune with, odd to report.
        currency: `KRW`, or one of cents.
        settings: for people, what is particular about it.
    """

    name: str
    seed: int
    behaviour: Behaviour
    first_period: BillingPeriod
    currency: str = "KRW"
    arrangement: Arrangement = "as made"
    customers: int = CUSTOMERS
    months: int = MONTHS

    @property
    def settings(self) -> str:
        behaviour = self.behaviour
        change = behaviour.price_change_period
        rise = f", fees {behaviour.price_change_percent:+} % from {change}" if change else ""
        return (
            f"{behaviour.flat_share:.0%} flat, churn {behaviour.monthly_churn:.1%}, plan changes {behaviour.plan_change_share:.1%}, "
            f"credits {behaviour.credit_share:.1%}, waived {behaviour.zero_share:.1%}, usage {min(behaviour.usage_percent_by_month)}"
            f"-{max(behaviour.usage_percent_by_month)} %, {self.currency}, files {self.arrangement}{rise}"
        )


def bases(half: Half, count: int = BASES_PER_HALF) -> tuple[Base, ...]:
    """The half's bases: even seeds to tune with, odd ones from 303 to report (those below were looked at while tuning), their settings
    drawn by the seed."""
    return tuple(
        _base(2 * place + (REPORTING_SEEDS if half == "reporting" else 0), place) for place in range(1, count + 1)
    )


def _base(seed: int, place: int) -> Base:
    chance = random.Random(seed)  # noqa: S311  settings to try, no secret
    strength = chance.uniform(0.5, 1.25)
    season = tuple(round(100 + strength * (month - 100)) for month in SEASONS[place % len(SEASONS)])
    first = BillingPeriod(2021, 1).plus(chance.randrange(24))
    change = first.plus(chance.randrange(2, MONTHS)) if place % PRICE_CHANGE_EVERY == 1 else None
    if place == DEARER_SINCE_LAST_MONTH:
        change = first.plus(MONTHS - 2)
    behaviour = Behaviour(
        flat_share=FLAT_SHARES[place % len(FLAT_SHARES)],
        monthly_churn=_between(chance, 0.002, 0.05),
        check_card_share=chance.uniform(0.03, 0.4),
        zero_share=_between(chance, 0.001, 0.03),
        credit_share=_between(chance, 0.001, 0.03),
        plan_change_share=_between(chance, 0.001, 0.02),
        price_change_period=change,
        price_change_percent=chance.randint(2, 10) if change else 0,
        price_change_plans=tuple(chance.sample(list(PLANS), 3)) if change and chance.random() < 0.5 else (),
        usage_percent_by_month=season,
    )
    if place == DEARER_SINCE_LAST_MONTH:
        behaviour = replace(behaviour, price_change_plans=())
    if place == MOST_RESTLESS:
        behaviour = replace(behaviour, monthly_churn=MOST_CHURN, plan_change_share=MOST_PLAN_CHANGES)
    currency = "TWD" if place % IN_CENTS_EVERY == FAULT_PLACE_IN_CENTS else "KRW"
    return Base(
        f"base-{seed:02}", seed, behaviour, first, currency, ARRANGEMENTS[(place + place // 3) % len(ARRANGEMENTS)]
    )


def _between(chance: random.Random, low: float, high: float) -> float:
    """Small and large alike: uniform in the logarithm."""
    return round(low * (high / low) ** chance.random(), 5)


@dataclass(frozen=True, slots=True)
class LandedSource:
    """A source of charge files whose months are all landed.

    Attributes:
        folder: the charge files.
        runs: each month's, earliest first.
    """

    folder: Path
    runs: tuple[LandedRun, ...]

    def before(self, period: str) -> tuple[LandedRun, ...]:
        """The months before `period`, the latest first."""
        return tuple(run for run in reversed(self.runs) if run.billing_period < period)

    def of(self, period: str) -> LandedRun:
        return next(run for run in self.runs if run.billing_period == period)


def make(base: Base, home: Path) -> Path:
    """The base's charge files in a folder of its own below `home`, made unless this very code has made them; older ones go."""
    label = f"{base.name}-{_code_digest(repr(base))}"
    folder = home / label / "source"
    if not folder.exists():
        for older in home.glob(f"{base.name}-*"):
            shutil.rmtree(older)
        raw = home / label / "raw"
        raw.parent.mkdir(parents=True)
        generate(
            raw, customers=base.customers, first_period=base.first_period, months=base.months, seed=base.seed,
            behaviour=base.behaviour, currency=base.currency,
        )  # fmt: skip
        if base.arrangement != "as made" or base.currency != "KRW":
            raw = _rearranged(raw, base)
        raw.rename(folder)
    return folder


def _code_digest(settings: str) -> str:
    content = hashlib.sha256(settings.encode())
    for path in [Path(__file__), *sorted(Path(generate_package.__file__).parent.glob("*.py"))]:
        content.update(path.read_bytes())
    return content.hexdigest()[:8]


def land(folder: Path, lake: ParquetLake, *, in_two_nights: bool = False) -> LandedSource:
    """Land every month of a source, once.

    Args:
        in_two_nights: half of each month's files come a night later; the month must be waited for.

    Raises:
        FatalError: a month was landed before all its files were there.
    """
    source = open_source(folder)
    runs = []
    for period in periods_available(source):
        if in_two_nights:
            _require_waiting(folder, period, lake)
        landed = extract(source, period, lake=lake, trust_unchanged_files=True)
        runs.append(landed.run)
    return LandedSource(folder, tuple(runs))


def _rearranged(raw: Path, base: Base) -> Path:
    """The same rows in another order and, by night, in files of other names; with a currency of cents, billed to the cent."""
    out = raw.with_name("arranged")
    chance = np.random.default_rng(base.seed)
    for number in range(base.months):
        month = Month.read(raw, base.first_period.plus(number))
        rows = np.arange(month.charges.num_rows)
        order = rows if base.arrangement == "as made" else chance.permutation(rows)
        names = month.names
        if base.arrangement == "by night":
            nights = chance.integers(1, 10, len(names))
            names = tuple(f"{night:02}-{name}" for night, name in zip(nights, names, strict=True))
        charges = month.charges.take(pa.array(order))
        if base.currency != "KRW":
            charges = _to_the_cent(charges, chance)
        moved = Month(month.billing_period, charges, month.file[order], names)
        with PeriodWriter(out, month.billing_period) as writer:
            moved.write(writer)
    shutil.rmtree(raw)
    return out


def _to_the_cent(charges: pa.Table, chance: np.random.Generator) -> pa.Table:
    """A hundred times the amounts, usage any number of cents between two of its steps: hardly a bill repeats by itself."""
    for name, values in BillParts.of(charges).scaled(CENTS).items():
        charges = with_column(charges, name, values)
    bills = BillParts.of(charges)
    cents = np.where(bills.usage > 0, chance.integers(0, CENTS * USAGE_STEP_MINOR, charges.num_rows), 0)
    waived = np.where(bills.net <= 0, cents, 0)  # a waived bill stays one, and a credit as large as it is
    for name, values in bills.columns(usage=bills.usage + cents, discount=bills.discount + waived).items():
        charges = with_column(charges, name, values)
    return charges


def _require_waiting(folder: Path, period: BillingPeriod, lake: ParquetLake) -> None:
    month = folder / f"billing_period={period}"
    late: Sequence[Path] = sorted(month.glob("*.parquet"))[::2]
    aside = [path.rename(path.with_name(f".{path.name}")) for path in late]
    try:
        early = extract(open_source(folder), period, lake=lake, progress=no_progress)
    finally:
        for hidden, path in zip(aside, late, strict=True):
            hidden.rename(path)
    if early.run is not None or set(early.waiting_for) != {path.name for path in late}:
        raise FatalError(f"{folder.name} {period}: landed as {early.run} although {len(late)} files were still to come")
