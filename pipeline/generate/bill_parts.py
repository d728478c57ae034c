"""A month's bills as whole columns of money, taken apart and put together again so that they still add up.

Belongs here: base + usage - discount + tax = amount, kept for bills that are changed on purpose, and what unit a
source's amounts come in. Does not: which bills are changed, or why.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.core.tax import tax_minor
from pipeline.generate.catalogue import PARTS


@dataclass(frozen=True, slots=True)
class BillParts:
    """Amounts of bills in minor units, one array entry per bill.

    A bill without its four parts (no such columns, or one is NULL) has its amount as base, and no tax of its own.

    Attributes:
        base, usage, discount, tax: int64; base + usage - discount + tax is the amount.
        is_whole: whether the bill has its four parts.
        is_known: whether it has an amount at all.
        own: the columns that this was made of; what a bill lacks stays as it is.
    """

    base: np.ndarray
    usage: np.ndarray
    discount: np.ndarray
    tax: np.ndarray
    is_whole: np.ndarray
    is_known: np.ndarray
    own: Mapping[str, pa.ChunkedArray]

    @classmethod
    def of(cls, charges: pa.Table) -> "BillParts":
        """The parts of `charges`."""
        present = tuple(name for name in PARTS if name in charges.column_names)
        amount, is_known = _integers(charges["amount_minor"])
        is_whole = is_known & (len(present) == len(PARTS))
        parts = [np.zeros_like(amount)] * len(PARTS)
        if len(present) == len(PARTS):
            columns = [_integers(charges[name]) for name in PARTS]
            is_whole = np.logical_and.reduce([is_known, *(valid for _, valid in columns)])
            parts = [np.where(is_whole, values, 0) for values, _ in columns]
        base = np.where(is_whole, parts[0], amount)
        own = {name: charges[name] for name in ("amount_minor", *present)}
        return cls(base, *parts[1:], is_whole, is_known, own)

    @property
    def net(self) -> np.ndarray:
        return self.base + self.usage - self.discount

    @property
    def amount(self) -> np.ndarray:
        return self.net + self.tax

    def columns(self, **changed: np.ndarray) -> Mapping[str, pa.Array]:
        """The money columns with `base`, `usage`, `discount` or `tax` changed; a tax that is not given is worked out anew
        where any of the others changed."""
        base, usage, discount = (changed.get(name, getattr(self, name)) for name in ("base", "usage", "discount"))
        net = base + usage - discount
        tax = changed.get("tax")
        if tax is None:
            tax = np.where(net == self.net, self.tax, tax_minor(net))
        tax = np.where(self.is_whole, tax, 0)
        values = dict(zip(PARTS, (base, usage, discount, tax), strict=True)) | {"amount_minor": net + tax}
        has = dict.fromkeys(PARTS, self.is_whole) | {"amount_minor": self.is_known}
        return {
            name: pc.if_else(pa.array(has[name]), pa.array(values[name]), own).combine_chunks()
            for name, own in self.own.items()
        }

    def scaled(self, numerator: int, denominator: int = 1, *, step: int = 1) -> Mapping[str, pa.Array]:
        """All parts times `numerator` / `denominator`, each rounded half away from zero to a multiple of `step`."""

        def times(minor: np.ndarray) -> np.ndarray:
            return rounded(minor * numerator, denominator * step) * step

        return self.columns(base=times(self.base), usage=times(self.usage), discount=times(self.discount))

    def with_amount(self, amount: np.ndarray) -> Mapping[str, pa.Array]:
        """The bills at exactly `amount`, their parts in proportion and the base taking up the rest.

        With tax rounded half up to the unit, one amount in eleven belongs to no net; such a bill stays as it is.
        """
        net = np.where(self.is_whole, np.sign(amount) * ((10 * np.abs(amount) + 5) // 11), amount)
        fits = net + np.where(self.is_whole, tax_minor(net), 0) == amount
        net = np.where(fits, net, self.net)
        own = np.where(self.net == 0, 1, self.net)
        share = np.where(self.net == 0, net == 0, net)
        usage, discount = self.usage * share // own, self.discount * share // own
        return self.columns(base=net - usage + discount, usage=usage, discount=discount)


def rounded(numerator: np.ndarray, denominator: int) -> np.ndarray:
    """`numerator / denominator` as whole numbers, half away from zero."""
    return np.sign(numerator) * ((2 * np.abs(numerator) + denominator) // (2 * denominator))


def is_payable(amount: int) -> bool:
    """Whether some net and its tax, rounded half up, add up to `amount`."""
    return abs(amount) % 11 != 5


def unit_minor(charges: pa.Table) -> int:
    """The smallest amount that the source bills in: a whole dollar's hundred cents where all amounts are whole dollars."""
    currency = pc.first(charges["currency"]).as_py()
    unit = 10 ** MINOR_UNIT_EXPONENT.get(currency, 0)
    amount, _ = _integers(charges["amount_minor"])
    return unit if not (amount % unit).any() else 1


def _integers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """A column's values, 0 for NULL, and where it has one."""
    values = pc.fill_null(column, 0).to_numpy().astype(np.int64)
    return values, pc.is_valid(column).to_numpy()
