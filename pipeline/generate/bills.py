"""Telecom bills of made-up customers, month after month, in the layout of a source.

A customer keeps a plan, add-ons, a discount, a card and a level of usage; usage varies around that level from
month to month; some are flat, billed the same every month. Each month as many join as leave, so every month
has the same number of bills. Amounts are whole minor units: a random draw becomes an amount only by rounding
to `USAGE_STEP_MINOR`, and everything after that is integer arithmetic, so that
base + usage - discount + tax = amount holds exactly, with the tax of `core.tax`.

Customers who are not flat still repeat an earlier amount by chance: measured on 400,000 customers without
flat ones, 0.1 % of positive bills, at lags of one to three months.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.core.tax import tax_minor
from pipeline.errors import UsageError
from pipeline.generate.charge_files import PeriodWriter, WrittenPeriod, charge_file_name
from pipeline.generate.columns import labels, numbered, scatter, spread, tokens
from pipeline.ports import Progress, no_progress
from pipeline.schema import CHARGE_SCHEMA

PLANS = {
    "LTE-SLIM": (20_000, 12), "LTE-33": (30_000, 16), "LTE-49": (45_000, 14), "5G-SLIM": (50_000, 18),
    "5G-STANDARD": (68_000, 15), "5G-PREMIER": (80_000, 9), "SENIOR": (22_000, 10), "TEEN": (27_000, 6),
}  # fmt: skip
"""Plan code: monthly fee before tax in minor units (whole won), share of customers in percent."""

ISSUERS = {
    "Hanbit": 24, "Saebyeok": 19, "Narae": 16, "Garam": 13, "Dasom": 11, "Onsaem": 9, "Maru": 6, "Byeolbit": 2,
}  # fmt: skip
"""Card company, none of them real: share of customers in percent; the last is small on purpose."""

DISCOUNT_PERCENT = {0: 35, 10: 15, 25: 50}
"""Discount on the recurring fee in percent (none, family bundle, contract): share of customers in percent."""

ADD_ON_MINOR = 1_000
"""Price step of add-ons; a customer has none (half of them) up to 19 steps, every month the same."""

USAGE_LEVEL_MEDIAN_MINOR = 8_000
USAGE_LEVEL_SIGMA = 0.9
"""Customers' typical usage is lognormal: half use less than W8,000 a month, one in a hundred more than W65,000."""

USAGE_SHAPE = 4.0
"""A month's usage is the level times a gamma draw of this shape and mean 1: it varies by half of itself."""

USAGE_STEP_MINOR = 10
"""Usage is billed in units of ten won."""

CREDIT_STEP_MINOR, CREDIT_STEPS_MAX = 100, 300
"""A credit bill carries forward W100 to W30,000, before tax."""

BLOCK = 1 << 18
"""Customers made at a time: each block has its own random stream, and bounds the memory used."""

CUSTOMER_DIGITS = 8
_ID_STRIDE, _ID_START = 73_687_871, 12_345_678
"""Account n is customer `(n * stride + start) % 10**8`: all different, and not in the order they joined."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the made-up customers behave.

    Attributes:
        flat_share: share of customers billed the same every month until they change plan, 0 to 0.8.
        monthly_churn: share of customers who leave, and are replaced, each month; the oldest accounts go first.
        check_card_share: share of customers who pay by check card, exact in the first month; 150,000 in
            1,460,000 unless said otherwise. All others pay by credit card.
        zero_share: share of bills waived in full; among customers who are not flat.
        credit_share: share of bills below zero; among customers who are not flat.
        plan_change_share: share of customers who change plan for the first time, each month.
        price_change_period, price_change_percent: from that month on, plan fees are so much dearer.
        price_change_plans: the plans whose fee changes; none named: all.
        usage_percent_by_month: usage in January ... December, in percent of a normal month; the lunar new
            year, Chuseok and the end of the year are the high ones.
    """

    flat_share: float = 0.3
    monthly_churn: float = 0.012
    check_card_share: float = 150_000 / 1_460_000
    zero_share: float = 0.01
    credit_share: float = 0.005
    plan_change_share: float = 0.005
    price_change_period: BillingPeriod | None = None
    price_change_percent: int = 0
    price_change_plans: tuple[str, ...] = ()
    usage_percent_by_month: tuple[int, ...] = (104, 110, 98, 98, 101, 99, 106, 108, 112, 102, 97, 107)

    def __post_init__(self) -> None:
        limits = {"flat_share": 0.8, "monthly_churn": 0.5, "check_card_share": 1.0, "plan_change_share": 0.5}
        limits |= {"zero_share": 0.1, "credit_share": 0.1}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise UsageError(f"{name} is a share from 0 to {most}; not {getattr(self, name)}")
        if unknown := [code for code in self.price_change_plans if code not in PLANS]:
            raise UsageError(f"no plan is called {unknown[0]!r}; there are {', '.join(PLANS)}")
        if len(self.usage_percent_by_month) != 12:
            raise UsageError("usage_percent_by_month has twelve percentages, January first")


def generate(
    out: Path,
    *,
    customers: int,
    first_period: BillingPeriod,
    months: int,
    seed: int = 1,
    behaviour: Behaviour = Behaviour(),
    currency: str = "KRW",
    contacts: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> tuple[WrittenPeriod, ...]:
    """Write a source of charge files: `customers` bills in each of `months` months.

    Nothing is at `out` until all of it is. The same arguments give the same bytes.

    Args:
        out: the folder to make.
        customers: bills per month, zero and negative ones included.
        seed: another seed makes other customers.
        currency: ISO 4217; the figures stay the same number of minor units.
        contacts: whether to write `contacts.parquet` too, with numbers and addresses that cannot be anybody's.
        overwrite: whether a source generated earlier at `out` may be replaced.
        progress: told how many bills of a month are written.

    Returns:
        What was written, oldest month first.

    Raises:
        UsageError: the arguments make no sense, or `out` is there and may not be replaced.
    """
    if customers < 1 or months < 1:
        raise UsageError(f"at least one customer and one month are needed; not {customers} and {months}")
    if seed < 0:
        raise UsageError(f"a seed is a whole number from 0; not {seed}")
    if currency not in MINOR_UNIT_EXPONENT:
        raise UsageError(f"unknown currency {currency!r}; known: {', '.join(sorted(MINOR_UNIT_EXPONENT))}")
    portfolio = _Portfolio(customers, round(customers * behaviour.monthly_churn), first_period, seed, behaviour)
    if portfolio.accounts_by(months - 1) > 10**CUSTOMER_DIGITS:
        raise UsageError(f"more than {10**CUSTOMER_DIGITS:,} customers in all: ask for fewer customers or months")
    out = out.absolute()
    _refuse_to_replace(out, overwrite=overwrite)

    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        written = []
        for month in range(months):
            with PeriodWriter(staging, first_period.plus(month)) as writer:
                for accounts in portfolio.billed_in(month):
                    _append_by_issuer(writer, portfolio.bills(accounts, month, currency))
                    progress(f"generating {first_period.plus(month)}", writer.written.row_count, customers)
            written.append(replace(writer.written, path=out / writer.path.name))
        if contacts:
            _write_contacts(staging / "contacts.parquet", portfolio.accounts_by(months - 1), seed)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return tuple(written)


def _refuse_to_replace(out: Path, *, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file: choose another folder")
    found = sorted(entry.name for entry in out.iterdir())
    if found and not overwrite:
        raise UsageError(f"{out} exists: choose another folder, or say that it may be overwritten")
    foreign = [name for name in found if not name.startswith("billing_period=") and name != "contacts.parquet"]
    if foreign:
        raise UsageError(f"{out} holds {foreign[0]}, which was not generated: choose another folder")


@dataclass(frozen=True, slots=True)
class _Accounts:
    """Some customers: arrays of one length, one entry each; what stays the same from month to month."""

    number: np.ndarray  # in the order they joined
    issuer: np.ndarray
    plan: np.ndarray
    later_plan: np.ndarray
    plan_change_month: np.ndarray  # months after the first one generated
    add_ons_minor: np.ndarray
    discount_percent: np.ndarray
    usage_level: np.ndarray  # in minor units, but a level and no amount
    is_flat: np.ndarray
    is_check_card: np.ndarray

    def between(self, first: int, end: int) -> "_Accounts":
        """Those numbered from `first` up to but not including `end`."""
        window = slice(*np.searchsorted(self.number, [first, end]))
        return _Accounts(*(getattr(self, field.name)[window] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class _Portfolio:
    """All customers there ever are: accounts are numbered as they join, and the oldest leave first."""

    customers: int  # each month
    joining: int  # each month but the first, and as many leave
    first_period: BillingPeriod
    seed: int
    behaviour: Behaviour

    def accounts_by(self, month: int) -> int:
        """How many accounts were opened up to and including the month."""
        return self.customers + self.joining * month

    def billed_in(self, month: int) -> Iterator[_Accounts]:
        """The customers billed in a month, a block at a time."""
        first, end = self.joining * month, self.accounts_by(month)
        for block in range(first // BLOCK, (end - 1) // BLOCK + 1):
            yield self._open_accounts(block).between(first, end)

    def bills(self, accounts: _Accounts, month: int, currency: str) -> pa.Table:
        """The charges (`CHARGE_SCHEMA`) of these customers in a month, an issuer's all together."""
        period = self.first_period.plus(month)
        plan, minor = self._components(accounts, month)
        order = np.argsort(accounts.issuer, kind="stable")
        number = accounts.number[order]
        customer = _customer_number(number)
        count = len(order)
        columns = {
            "charge_id": numbered(f"{period}-C", customer, digits=CUSTOMER_DIGITS),
            "customer_id": numbered("C", customer, digits=CUSTOMER_DIGITS),
            "billing_period": pa.repeat(str(period), count),
            "bill_cycle": pa.repeat(pa.scalar(1, pa.int64()), count),
            "currency": pa.repeat(currency, count),
            "payment_method": labels(["credit_card", "check_card"], accounts.is_check_card[order].astype(np.int32)),
            "issuer": labels(list(ISSUERS), accounts.issuer[order]),
            "instrument_token": tokens(scatter(number, salt=self.seed)),
            "plan_code": labels(list(PLANS), plan[order]),
            "service_start": pa.repeat(pa.scalar(period.first_day, pa.date32()), count),
            "service_end": pa.repeat(pa.scalar(period.last_day, pa.date32()), count),
        }
        columns |= {name: pa.array(amounts[order]) for name, amounts in minor.items()}
        return pa.table([columns[name] for name in CHARGE_SCHEMA.names], schema=CHARGE_SCHEMA)

    def _open_accounts(self, block: int) -> _Accounts:
        """A block's customers, from a random stream of its own: the same whichever month asks for them."""
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, block])))
        number = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.int64)
        plan_weights = [share for _, share in PLANS.values()]
        check_cards = Fraction(self.behaviour.check_card_share).limit_denominator(1_000_000)

        def drawn(weights: Sequence[int]) -> np.ndarray:
            return spread(random.integers(0, 2**63, BLOCK, dtype=np.uint64), weights)

        return _Accounts(
            number=number,
            issuer=drawn(list(ISSUERS.values())),
            plan=drawn(plan_weights),
            later_plan=drawn(plan_weights),
            plan_change_month=np.ceil(random.standard_exponential(BLOCK) / max(self.behaviour.plan_change_share, 1e-9)),
            add_ons_minor=np.maximum(random.integers(-19, 20, BLOCK), 0) * ADD_ON_MINOR,
            discount_percent=np.array(list(DISCOUNT_PERCENT))[drawn(list(DISCOUNT_PERCENT.values()))],
            usage_level=USAGE_LEVEL_MEDIAN_MINOR * random.lognormal(0.0, USAGE_LEVEL_SIGMA, BLOCK),
            is_flat=random.random(BLOCK) < self.behaviour.flat_share,
            is_check_card=number * check_cards.numerator % check_cards.denominator < check_cards.numerator,
        )

    def _components(self, accounts: _Accounts, month: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Each customer's plan in a month; amount and components, in minor units."""
        behaviour, period, count = self.behaviour, self.first_period.plus(month), len(accounts.number)
        stream = [self.seed, int(accounts.number[0]), period.year * 12 + period.month]
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence(stream)))

        plan = np.where(month >= accounts.plan_change_month, accounts.later_plan, accounts.plan)
        fee = np.array([fee for fee, _ in PLANS.values()])
        if behaviour.price_change_period and period >= behaviour.price_change_period:
            changes = np.isin(list(PLANS), behaviour.price_change_plans or list(PLANS))
            fee = np.where(changes, fee * (100 + behaviour.price_change_percent) // 100, fee)
        base = fee[plan] + accounts.add_ons_minor

        season = behaviour.usage_percent_by_month[period.month - 1] / 100
        metered = accounts.usage_level * random.standard_gamma(USAGE_SHAPE, count) * (season / USAGE_SHAPE)
        usage = np.rint(metered / USAGE_STEP_MINOR).astype(np.int64) * USAGE_STEP_MINOR
        usage[accounts.is_flat] = 0

        discount = base * accounts.discount_percent // 100
        chance = random.random(count) * (1 - behaviour.flat_share)
        credit = random.integers(1, CREDIT_STEPS_MAX + 1, count) * CREDIT_STEP_MINOR
        is_credit = ~accounts.is_flat & (chance < behaviour.credit_share)
        is_waived = ~accounts.is_flat & (chance < behaviour.credit_share + behaviour.zero_share)
        discount = np.where(is_waived, base + usage + credit * is_credit, discount)

        net = base + usage - discount
        tax = tax_minor(net)
        return plan, {
            "amount_minor": net + tax,
            "base_fee_minor": base,
            "usage_fee_minor": usage,
            "discount_minor": discount,
            "tax_minor": tax,
        }


def _customer_number(number: np.ndarray) -> np.ndarray:
    return (number * _ID_STRIDE + _ID_START) % 10**CUSTOMER_DIGITS


def _append_by_issuer(writer: PeriodWriter, charges: pa.Table) -> None:
    """Each issuer's charges lie together, so a slice of the table is its file's share."""
    runs = pc.run_end_encode(charges["issuer"].combine_chunks())
    start = 0
    for issuer, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        writer.append(charge_file_name(issuer), charges.slice(start, end - start))
        start = end


def _write_contacts(path: Path, accounts: int, seed: int) -> None:
    """A contact for every customer there ever was: no Korean subscriber number begins with 0, and
    no mail leaves example.com."""
    number = np.arange(accounts, dtype=np.int64)
    hashes = scatter(number, salt=seed + 1)
    upper, lower = np.divmod((hashes % np.uint64(10**7)).astype(np.int64), 10**4)
    customer = _customer_number(number)
    contacts = {
        "customer_id": numbered("C", customer, digits=CUSTOMER_DIGITS),
        "phone": pc.binary_join_element_wise(numbered("010-0", upper, digits=3), numbered("", lower, digits=4), "-"),
        "email": pc.binary_join_element_wise(numbered("c", customer, digits=CUSTOMER_DIGITS), "example.com", "@"),
        "language": labels(["ko", "en"], spread(hashes >> np.uint64(32), [95, 5])),
    }
    pq.write_table(pa.table(contacts), path, compression="zstd")
