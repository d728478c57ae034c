"""What goes wrong with a month of charges: a catalogue, as data.

Belongs here: each fault's name, the cause a diagnosis should name, where it has happened, what a source must have to
show it, and the smallest share of customers at which the gate must see it. Does not: making the wrong files
(`faults` says how, `inject` does it) or finding them (the gate, which knows nothing of this module).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

NOT_PUBLIC = "no public mass case known"

PARTS = ("base_fee_minor", "usage_fee_minor", "discount_minor", "tax_minor")
"""The four parts of an amount; a fault about one of them needs all, or there is nothing to add up."""

SERVICE_DATES = ("service_start", "service_end")

SMALL, USUAL = 0.001, 0.01
"""Shares of customers: what a rule on single rows or an unmistakable ratio must see, and all else."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a month goes wrong.

    Attributes:
        name: its id.
        cause: id of the cause that a diagnosis should name; faults that leave the same traces share one.
        title: what it is, for an analyst.
        incident: where it has happened, in one clause.
        scope: what it hits: a share of `customers`, or whole `files`.
        needs: optional columns that a source must have to show it.
        earlier_months: how many months before the wrong one it takes from or looks at.
        smallest: smallest share of customers at which the gate must catch it; None where no share is promised.
        why: where `smallest` is None, why the data cannot show less.
    """

    name: str
    cause: str
    title: str
    incident: str
    scope: Literal["customers", "files"] = "customers"
    needs: tuple[str, ...] = ()
    earlier_months: int = 0
    smallest: float | None = USUAL
    why: str = ""


_KT = "a Korean telecom, September 2023: July's amounts for 1,460,000 customers of some card companies"
_CARDNET = "Cardnet, August 2018: Wednesday's file was sent twice and Thursday's not at all"
_TARIFF = (
    "O2 UK, 2011-19: final bills by a rule that no longer held, 140,000 customers paid 2.4 million pounds too much"
)
_TELSTRA = "Telstra, 2012-23: 6,532 customers billed for services that were no longer active"
_FUEL = "a fuel retailer in the Bay Area: prices times 100 after a software update, some 200 customers"
_MAPPING = "Seattle's utilities, 2016: 3,041 of 30,000 customers were sent other people's bills"
_USAGE_LOST = "Three UK, November 2024: usage was left out of the direct debit and collected in January"

_FAULTS = (
    # -- an earlier month -------------------------------------------------------------------------------------------
    Fault("earlier_month", "earlier_month", "Customers are charged an earlier month's amount", _KT,
          earlier_months=1),
    Fault("mixed_months", "earlier_month", "Some are charged one earlier month's amount, others another's", NOT_PUBLIC,
          earlier_months=2),
    Fault("earlier_bill", "earlier_month", "An earlier month's bill whole: amounts, label and service dates", _KT,
          needs=SERVICE_DATES, earlier_months=1),
    Fault("earlier_file", "earlier_month", "An issuer's file of an earlier month under this month's label, with the customers of then", _KT,
          scope="files", earlier_months=1),
    Fault("two_months", "billed_double", "Last month's bill is charged once more, inside this month's amount",
          NOT_PUBLIC, earlier_months=1, needs=PARTS),
    Fault("doubled", "billed_double", "The amount is the double of what is due",
          "giffgaff, fined in 2019: 2.6 million customers charged twice over while a bundle was applied late", needs=PARTS),
    # -- sent or billed more than once ------------------------------------------------------------------------------
    Fault("sent_twice", "sent_twice", "Charges are there twice, with the same charge ids",
          "Santander UK, 25 December 2021: a schedule ran twice, 75,000 payments of 2,000 businesses", smallest=SMALL),
    Fault("file_twice", "sent_twice", "An issuer's charges come again in a file of another name", _CARDNET,
          scope="files", smallest=SMALL),
    Fault("file_instead", "sent_twice", "An issuer's file holds another issuer's charges; its own are missing", _CARDNET,
          scope="files"),
    Fault("new_charge_ids", "billed_twice", "Customers are billed twice, under two charge ids",
          "Vodafone Ireland, March 2010: several thousand cards debited twice", smallest=SMALL),
    Fault("second_cycle", "billed_twice", "Customers are billed once more in another bill cycle",
          "a Korean telecom and a bank, June 2017: a correction of the debit file was run as a new one",
          needs=("bill_cycle",), smallest=SMALL),
    Fault("new_customer_ids", "billed_twice", "Customers are billed once more under a new customer id, on the same card",
          NOT_PUBLIC, smallest=SMALL),
    # -- missing, or too many ---------------------------------------------------------------------------------------
    Fault("file_missing", "file_missing", "An issuer's file is missing, and the manifest does not know of it", _CARDNET,
          scope="files"),
    Fault("file_cut", "customers_missing", "The end of a file is missing, and the manifest agrees with what is left", NOT_PUBLIC,
          scope="files"),
    Fault("customers_dropped", "customers_missing", "Customers here and there have no bill", NOT_PUBLIC),
    Fault("joiners_missing", "joiners_missing", "Customers who joined this month have no bill", NOT_PUBLIC,
          earlier_months=1),
    Fault("leavers_billed", "leavers_billed", "Customers who left are billed again, with their last bill", _TELSTRA,
          earlier_months=2),
    # -- units and currency -----------------------------------------------------------------------------------------
    Fault("times_10", "unit_slip", "Amounts are ten times what is due", NOT_PUBLIC, smallest=SMALL),
    Fault("times_100", "unit_slip", "Amounts are a hundred times what is due: a currency without decimals given two", _FUEL,
          smallest=SMALL),
    Fault("times_1000", "unit_slip", "Amounts are a thousand times what is due", NOT_PUBLIC, smallest=SMALL),
    Fault("over_10", "unit_slip", "Amounts are a tenth of what is due", NOT_PUBLIC, smallest=SMALL),
    Fault("over_100", "unit_slip", "Amounts are a hundredth of what is due", NOT_PUBLIC, smallest=SMALL),
    Fault("last_digit_lost", "unit_slip", "The last digit of the amount is cut off: a field one too short", NOT_PUBLIC),
    Fault("wrong_currency", "currency", "The currency code is another one", NOT_PUBLIC, smallest=SMALL),
    Fault("foreign_amounts", "currency", "Amounts are in another currency, under the right code", NOT_PUBLIC, smallest=SMALL),
    # -- another field as the amount --------------------------------------------------------------------------------
    Fault("date_as_amount", "wrong_field", "A date stands where the amount should",
          "Worldpay, Brighton Pier, June 2021: visitors charged the date, about 2,100 pounds"),
    Fault("id_as_amount", "wrong_field", "The digits of the customer's id stand where the amount should", NOT_PUBLIC),
    Fault("padding_as_amount", "wrong_field", "Blanks are read as a number and stand where the amount should",
          "Visa prepaid cards, 2009: blanks in a numeric field read as 23,148,855,308,184,500 dollars"),
    Fault("one_amount", "one_amount", "Everybody hit is charged the same amount: a default, or a test's", NOT_PUBLIC),
    # -- whose bill, whose card -------------------------------------------------------------------------------------
    Fault("rows_shifted", "wrong_customer", "In a stretch of rows each customer gets the bill of the row above", _MAPPING),
    Fault("shuffled", "wrong_customer", "Customers get the bill of somebody else in the same file", _MAPPING, needs=PARTS),
    Fault("cards_shifted", "wrong_card", "In a stretch of rows each bill goes to the card of the row above", _MAPPING),
    Fault("wrong_method", "wrong_card", "Credit cards are called check cards, and the reverse", NOT_PUBLIC),
    # -- tariff, discount, tax, usage -------------------------------------------------------------------------------
    Fault("wrong_plan", "wrong_plan", "Customers of one plan are billed as another plan's", NOT_PUBLIC,
          needs=("plan_code", *PARTS)),
    Fault("stale_tariff", "stale_tariff", "Customers are billed the fee of before a price change", _TARIFF,
          needs=("plan_code", *PARTS), earlier_months=1),
    Fault("discount_dropped", "discount", "The discount is not taken off",
          NOT_PUBLIC, needs=PARTS),
    Fault("discount_twice", "discount", "The discount is taken off twice", NOT_PUBLIC, needs=PARTS),
    Fault("tax_missing", "tax", "No tax is charged", NOT_PUBLIC, needs=PARTS),
    Fault("tax_doubled", "tax", "The tax is charged twice", NOT_PUBLIC, needs=PARTS),
    Fault("tax_rounded", "tax", "The tax is cut to whole tens", NOT_PUBLIC, needs=PARTS),
    Fault("taxed_again", "tax", "Ten percent is added to amounts that have the tax in them", NOT_PUBLIC, needs=PARTS),
    Fault("usage_missing", "usage", "Usage is not billed, as when a region's records do not arrive", _USAGE_LOST, needs=PARTS),
    Fault("usage_twice", "usage", "Usage is billed twice, as when a region's records arrive twice",
          NOT_PUBLIC, needs=PARTS, smallest=None,
          why="single customers' usage doubles by itself every month; it shows where most of 2,000 have it, unless a holiday was before"),
    Fault("usage_day_missing", "usage", "One day's usage is not billed", NOT_PUBLIC, needs=PARTS, smallest=None,
          why="a thirtieth of the usage is far less than usage varies from month to month"),
    Fault("usage_day_twice", "usage", "One day's usage is billed twice", NOT_PUBLIC, needs=PARTS, smallest=None,
          why="a thirtieth of the usage is far less than usage varies from month to month"),
    # -- the amount itself ------------------------------------------------------------------------------------------
    Fault("sign_flipped", "sign_flipped", "Charges have become credits, and credits charges", NOT_PUBLIC),
    Fault("zeroed", "zeroed", "Bills are zero", NOT_PUBLIC),
    Fault("capped", "capped", "Amounts above a limit are the limit", NOT_PUBLIC),
    Fault("truncated", "truncated", "The last three digits of the amount are noughts", NOT_PUBLIC),
    Fault("leading_digit_lost", "truncated", "Large amounts lose their first digits: a field too short", NOT_PUBLIC, needs=PARTS),
    # -- labels and dates -------------------------------------------------------------------------------------------
    Fault("label_wrong", "label", "The label is last month's; the service dates are right", _KT, smallest=SMALL),
    Fault("dates_wrong", "label", "The service dates are last month's; the label is right", _KT,
          needs=SERVICE_DATES, smallest=SMALL),
    Fault("label_and_dates_wrong", "label", "Label and service dates are last month's", _KT,
          needs=SERVICE_DATES, smallest=SMALL),
    # -- over months ------------------------------------------------------------------------------------------------
    Fault("slow_creep", "slow_creep", "Amounts grow by one percent more each month, for months", NOT_PUBLIC,
          earlier_months=1, smallest=None,
          why="each month is within what bills do by themselves; only the growth of many months together tells"),
)  # fmt: skip

CATALOGUE: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
"""Every fault, by name, in the order in which they are told."""
