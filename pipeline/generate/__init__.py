"""Charge files to practise on: any number of customers and months, and whatever goes wrong made on purpose.

Belongs here: making up bills (`bills`), writing them in the layout a source must have (`charge_files`), building
their columns whole (`columns`), files that carry the wrong month's amounts (`mischarge`), and every other known fault:
what there is (`catalogue`), what it does to a row (`faults`) and a source that has it (`inject`).
Does not: anything the nightly run needs - no stage imports this package.
"""

from pipeline.generate.bills import Behaviour, generate
from pipeline.generate.catalogue import CATALOGUE, Fault
from pipeline.generate.charge_files import PeriodWriter, WrittenPeriod
from pipeline.generate.inject import Injected, inject
from pipeline.generate.mischarge import with_earlier_amounts, with_wrong_month

__all__ = [
    "CATALOGUE",
    "Behaviour",
    "Fault",
    "Injected",
    "PeriodWriter",
    "WrittenPeriod",
    "generate",
    "inject",
    "with_earlier_amounts",
    "with_wrong_month",
]
