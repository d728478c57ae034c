"""Money as an integer of minor units; no float ever holds an amount.

Belongs here: what ISO 4217 says about a currency and how an amount is shown. Does not: rates,
rounding policies of a tax, or anything that sums a column - that is SQL's work.
"""

from dataclasses import dataclass
from decimal import Decimal

MINOR_UNIT_EXPONENT = {
    "AUD": 2, "CAD": 2, "CHF": 2, "CNY": 2, "DKK": 2, "EUR": 2, "GBP": 2, "HKD": 2, "IDR": 2, "INR": 2,
    "JPY": 0, "KRW": 0, "KWD": 3, "MYR": 2, "NOK": 2, "NZD": 2, "PHP": 2, "PLN": 2, "SEK": 2, "SGD": 2,
    "THB": 2, "TWD": 2, "USD": 2, "VND": 0,
}  # fmt: skip
"""ISO 4217 exponent by currency: 52,300 won is 52300, NT$3,913 is 391300."""

SYMBOL = {"KRW": "₩", "TWD": "NT$", "USD": "US$", "EUR": "€", "GBP": "£", "JPY": "¥"}


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount.

    Attributes:
        amount_minor: whole minor units of the currency (won, cents); may be negative.
        currency: ISO 4217 code known to `MINOR_UNIT_EXPONENT`.
    """

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.amount_minor) is not int:
            raise TypeError(f"an amount is a whole number of minor units, not {type(self.amount_minor).__name__}")
        if self.currency not in MINOR_UNIT_EXPONENT:
            raise ValueError(f"unknown currency {self.currency!r}")

    def __str__(self) -> str:
        return format_minor(self.amount_minor, self.currency)


def format_minor(amount_minor: int, currency: str) -> str:
    """`amount_minor` as a person reads it: `₩52,300`, `NT$3,913.00`, `-US$0.05`; an unknown code is shown as it is."""
    exponent = MINOR_UNIT_EXPONENT.get(currency, 0)
    figure = Decimal(abs(amount_minor)).scaleb(-exponent)
    sign = "-" if amount_minor < 0 else ""
    return f"{sign}{SYMBOL.get(currency, currency + ' ')}{figure:,.{exponent}f}"
