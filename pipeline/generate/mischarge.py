"""Charge files that carry the wrong month's amounts: the incident, made on purpose.

Belongs here: deriving a wrong source from a right one. Does not: judging or repairing it.
"""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import FatalError, UsageError
from pipeline.generate.charge_files import PeriodWriter, WrittenPeriod, period_folder
from pipeline.generate.month import ACCOUNT_KEY, account_keys, charge_files
from pipeline.ports import Progress, no_progress

AMOUNT_COLUMNS = ("amount_minor", "base_fee_minor", "usage_fee_minor", "discount_minor", "tax_minor")
"""What is exchanged: the amount and, where the files have them, the components that add up to it."""


def with_earlier_amounts(
    source: Path,
    out: Path,
    *,
    period: BillingPeriod,
    amounts_of: BillingPeriod,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> WrittenPeriod:
    """Write `period`'s charge files again, each bill with the amount the same customer had in `amounts_of`.

    All else is `period`'s own - ids, labels, service dates, plan, row order, file names - and the manifest agrees with
    the wrong files, as it would: the source did not know. A customer with no bill in `amounts_of` keeps the right
    amount, so that nothing but amounts tells the two apart; one who has left since is not brought back.

    Args:
        source: holds both periods as Parquet charge files.
        out: the folder to write `billing_period=<period>` in; other periods there are left alone.
        overwrite: whether that period may be replaced at `out`.

    Returns:
        What was written.

    Raises:
        UsageError: `out` is `source`, a period is not there, or `out` has it and it may not be replaced.
        FatalError: a customer has two bills of one cycle in `amounts_of`: whose amount to take is not known.
    """
    if out.resolve() == source.resolve():
        raise UsageError(f"{out} is the source itself: its right amounts would be lost; choose another folder")
    files = charge_files(source, period)
    earlier = pa.concat_tables([_amounts(path) for path in charge_files(source, amounts_of)])
    earlier_keys = account_keys(earlier)
    if pc.count_distinct(earlier_keys).as_py() != earlier.num_rows:
        raise FatalError(f"{period_folder(source, amounts_of)}: a customer has two bills of one cycle; remove one")
    with PeriodWriter(out, period, overwrite=overwrite) as writer:
        for done, path in enumerate(files, start=1):
            charges = pq.ParquetFile(path).read()
            writer.append(path.name, exchanged(charges, earlier, pc.index_in(account_keys(charges), earlier_keys)))
            progress(f"{period} with the amounts of {amounts_of}", done, len(files))
    return writer.written


def with_wrong_month(
    source: Path,
    out: Path,
    *,
    period: BillingPeriod,
    amounts_of: BillingPeriod,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> WrittenPeriod:
    """A whole source whose `period` carries the amounts of `amounts_of`: that month wrong, the months before it as they are.

    Arguments, result and errors are those of `with_earlier_amounts`.
    """
    written = with_earlier_amounts(
        source, out, period=period, amounts_of=amounts_of, overwrite=overwrite, progress=progress
    )
    for folder in sorted(source.glob("billing_period=*")):
        if folder.name < period_folder(source, period).name:
            shutil.copytree(folder, out / folder.name, dirs_exist_ok=True)
    return written


def _amounts(path: Path) -> pa.Table:
    file = pq.ParquetFile(path)
    return file.read([name for name in file.schema_arrow.names if name in ACCOUNT_KEY + AMOUNT_COLUMNS])


def exchanged(charges: pa.Table, earlier: pa.Table, row: pa.ChunkedArray) -> pa.Table:
    """`charges` with the amounts of the `earlier` rows, all parts of each; their own where there is no such row or amount."""
    has = pc.is_valid(earlier["amount_minor"].take(row))
    for name in AMOUNT_COLUMNS:
        if name in charges.column_names:
            amounts = pc.if_else(has, earlier[name].take(row), charges[name])
            charges = charges.set_column(charges.column_names.index(name), charges.field(name), amounts)
    return charges
