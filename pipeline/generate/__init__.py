"""Charge files to practise on: any number of customers and months, and the incident made on purpose.

Belongs here: making up bills (`bills`), writing them in the layout a source must have (`charge_files`),
building their columns whole (`columns`), and files that carry the wrong month's amounts (`mischarge`).
Does not: anything the nightly run needs - no stage imports this package.
"""

from pipeline.generate.bills import Behaviour, generate
from pipeline.generate.charge_files import PeriodWriter, WrittenPeriod
from pipeline.generate.mischarge import with_earlier_amounts, with_wrong_month

__all__ = ["Behaviour", "PeriodWriter", "WrittenPeriod", "generate", "with_earlier_amounts", "with_wrong_month"]
