"""A source with one fault of the catalogue in one month, and exactly what is wrong with it.

Belongs here: whom a fault hits, writing the wrong source, and the truth beside it. Does not: what a fault does to a
row (`faults`), or what faults there are (`catalogue`).
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import UsageError
from pipeline.generate.catalogue import CATALOGUE, Fault
from pipeline.generate.charge_files import PeriodWriter, WrittenPeriod, period_folder
from pipeline.generate.columns import scatter
from pipeline.generate.faults import (
    ABSENT,
    CHANGES,
    EXTRAS,
    FILES,
    IN_A_STRETCH,
    Case,
    Columns,
    Extra,
    Wrong,
    added,
    crept,
    without,
)
from pipeline.generate.mischarge import AMOUNT_COLUMNS
from pipeline.generate.month import Month
from pipeline.ports import Progress, no_progress

TRUTH_NAME = "truth.parquet"
"""Lies beside the months' folders, where no reader of charge files looks."""

LAG = 2
"""How many months back the incident's amounts were: July's for September."""

_HASH_FACTOR = np.uint64(0x100000001B3)
"""Of the FNV-1a hash."""


@dataclass(frozen=True, slots=True)
class Injected:
    """A wrong source that was written.

    Attributes:
        written: the wrong month.
        truth: Parquet file with a row for each bill that is not as it should be: `customer_id`, `bill_cycle`,
            `right_minor` (NULL: there should be none), `wrong_minor` (NULL: there is none) and `what`: `amount`,
            `details` (all else than the amount), `missing` or `extra`.
        affected: rows of the truth.
        difference_minor: by how much the month's total is too high; minor units.
    """

    written: WrittenPeriod
    truth: Path
    affected: int
    difference_minor: int


def inject(
    source: Path,
    out: Path,
    *,
    fault: str,
    period: BillingPeriod,
    size: float = 1.0,
    cohort: Mapping[str, str] = {},
    seed: int = 1,
    lag: int = LAG,
    overwrite: bool = False,
    history: bool = True,
    progress: Progress = no_progress,
) -> Injected:
    """Make a source at `out` that is `source` up to `period`, with `fault` in `period`; the manifest agrees with it.

    File names, row order and all rows that the fault does not hit stay as they are; rows that it adds come last in their
    file. Nobody is hit whose bill the fault would leave as it is, so `size` is the share of customers with a wrong bill,
    as far as the cohort has such. `slow_creep` makes the months before wrong too; the truth is about `period`.

    Args:
        source: holds `period` and the months before it as Parquet charge files.
        out: the folder to make.
        fault: a name in `CATALOGUE`.
        size: share of the cohort's customers that is hit, more than 0 and at most 1; of a fault of files, which file
            is hit: the one whose share is nearest.
        cohort: column and value that rows must have to be hit, such as `{"issuer": "Rowan"}`.
        seed: another seed hits other customers.
        lag: for faults of earlier amounts, how many months back they are.
        overwrite: whether what was injected at `out` earlier may be replaced.
        history: whether the months before `period` come with it (as hard links, where the file system has them).

    Raises:
        UsageError: the fault is unknown, the source cannot show it, nobody is hit, or `out` cannot be written.
    """
    kind = _known(fault)
    _refuse_to_replace(source, out, overwrite=overwrite)
    if not 0 < size <= 1:
        raise UsageError(f"size is a share of customers, more than 0 and at most 1; not {size}")
    case = _case(source, kind, period, size, cohort, seed, lag)
    progress(f"{fault} in {period}", 0, None)
    wrong = _wrong_month(kind, case)
    truth = truth_of(case.right, wrong)
    if not truth.num_rows:
        raise UsageError(f"{fault} would change nothing in {source} {period}: nobody there has what it takes")
    if not wrong.month.charges.num_rows:
        raise UsageError(f"{fault} would leave no charge at all: choose a smaller size or a cohort")
    shutil.rmtree(out, ignore_errors=True)
    with PeriodWriter(out, period) as writer:
        wrong.month.write(writer)
    if history:
        hit = pc.unique(truth["customer_id"]) if fault == "slow_creep" else None
        _bring_history(source, out, case, hit)
    pq.write_table(truth, out / TRUTH_NAME, compression="zstd")
    progress(f"{fault} in {period}", truth.num_rows, truth.num_rows)
    difference = (pc.sum(truth["wrong_minor"]).as_py() or 0) - (pc.sum(truth["right_minor"]).as_py() or 0)
    return Injected(writer.written, out / TRUTH_NAME, truth.num_rows, difference)


def truth_of(right: Month, wrong: Wrong) -> pa.Table:
    """What is wrong with a month, bill by bill, as `Injected.truth` says it."""
    charges, origin = wrong.month.charges, wrong.origin
    stands = np.flatnonzero(origin >= 0)
    ours, theirs = charges.take(pa.array(stands)), right.charges.take(pa.array(origin[stands]))
    amount, any_column = _differs(ours, theirs, ["amount_minor"]), _differs(ours, theirs, ours.column_names)
    lost = np.ones(right.charges.num_rows, dtype=bool)
    lost[origin[stands]] = False
    nothing = pa.scalar(None, pa.int64())
    parts = [
        _truth("amount", theirs, theirs["amount_minor"], ours["amount_minor"], amount),
        _truth("details", theirs, theirs["amount_minor"], ours["amount_minor"], any_column & ~amount),
        _truth("missing", right.charges, right.charges["amount_minor"], nothing, lost),
    ]
    extra = charges.filter(pa.array(origin < 0))
    parts.append(_truth("extra", extra, nothing, extra["amount_minor"], np.ones(extra.num_rows, dtype=bool)))
    return pa.concat_tables(parts)


def _truth(what: str, charges: pa.Table, right: object, wrong: object, rows: np.ndarray) -> pa.Table:
    def column(values: object) -> pa.ChunkedArray | pa.Array:
        return pa.repeat(values, charges.num_rows) if isinstance(values, pa.Scalar) else values.cast(pa.int64())

    one = pa.scalar(1, pa.int64())
    columns = {
        "customer_id": charges["customer_id"],
        "bill_cycle": column(charges["bill_cycle"] if "bill_cycle" in charges.column_names else one),
        "right_minor": column(right),
        "wrong_minor": column(wrong),
        "what": pa.repeat(what, charges.num_rows),
    }
    return pa.table(columns).filter(pa.array(rows))


# -- whom it hits -------------------------------------------------------------------------------------------------------


def _case(
    source: Path, fault: Fault, period: BillingPeriod, size: float, cohort: Mapping[str, str], seed: int, lag: int
) -> Case:
    right = Month.read(source, period)
    periods = _periods_before(source, period)
    _require(fault, right, periods, lag)
    in_cohort = _in_cohort(right.charges, cohort)
    customers = pc.count_distinct(right.charges["customer_id"].filter(pa.array(in_cohort))).as_py()
    wanted = round(size * customers)
    if not wanted:
        raise UsageError(f"size {size} of {customers} customers is nobody: choose a larger one")
    earlier = lru_cache(maxsize=None)(lambda months: Month.read(source, period.plus(-months)))
    return Case(right, earlier, periods, cohort, in_cohort, wanted, lag, seed)


def _wrong_month(fault: Fault, case: Case) -> Wrong:
    if fault.name in FILES:
        return FILES[fault.name](case)
    if fault.name in ABSENT:
        return without(case.right, _chosen(case, case.charges, ABSENT[fault.name](case) & case.in_cohort))
    if fault.name in EXTRAS:
        extra = EXTRAS[fault.name](case)
        eligible = case.in_cohort
        if fault.name == "leavers_billed":  # rows of their own: nobody of this month
            eligible = _in_cohort(extra.charges, case.cohort)
        hit = _chosen(case, extra.charges, eligible)
        return added(case.right, Extra(extra.charges.filter(pa.array(hit)), extra.file[hit]))
    return _changed(fault, case)


def _changed(fault: Fault, case: Case) -> Wrong:
    columns = CHANGES[fault.name](case)
    eligible = case.in_cohort & _would_change(case.charges, columns)
    hit = _stretch(case, eligible) if fault.name in IN_A_STRETCH else _chosen(case, case.charges, eligible)
    month = case.right
    for name, values in columns.items():
        month = month.with_column(name, _where(hit, values, case.charges[name]))
    return Wrong(month, np.arange(len(hit)))


def _would_change(charges: pa.Table, columns: Columns) -> np.ndarray:
    """Where a column is another; where nothing but money is, the amount: parts of a waived bill harm nobody."""
    changed = np.zeros(charges.num_rows, dtype=bool)
    judged = ["amount_minor"] if set(columns) <= set(AMOUNT_COLUMNS) else columns
    for name in judged if columns else ():
        values = columns[name]
        changed |= pc.fill_null(pc.not_equal(values, charges[name]), False).to_numpy()
    return changed


def _where(hit: np.ndarray, values: pa.Array, own: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pa.array(hit), values.cast(own.type), own)


def _chosen(case: Case, charges: pa.Table, eligible: np.ndarray) -> np.ndarray:
    """Of the eligible rows those of as many customers as are wanted: the ones whose ids' hashes are smallest."""
    hashes = scatter(_hashes(charges["customer_id"]), salt=case.seed)
    customers = np.unique(hashes[eligible])
    if len(customers) <= case.wanted:
        return eligible
    return eligible & (hashes < customers[case.wanted])


def _stretch(case: Case, eligible: np.ndarray) -> np.ndarray:
    """Of the eligible rows as many as are wanted, one after the other from anywhere."""
    rows = np.flatnonzero(eligible)
    start = int(np.random.default_rng(case.seed).integers(0, max(len(rows) - case.wanted, 0) + 1))
    hit = np.zeros_like(eligible)
    hit[rows[start : start + case.wanted]] = True
    return hit


def _hashes(ids: pa.ChunkedArray) -> np.ndarray:
    """A 64-bit hash of each text (FNV-1a), place by place for all texts at once."""
    texts = ids.combine_chunks().cast(pa.large_binary())
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.frombuffer(texts.buffers()[2], dtype=np.uint8)
    lengths = np.diff(offsets)
    hashes = np.full(len(texts), 0xCBF29CE484222325, dtype=np.uint64)
    for place in range(int(lengths.max(initial=0))):
        has = lengths > place
        hashes[has] = (hashes[has] ^ letters[offsets[:-1][has] + place]) * _HASH_FACTOR
    return hashes


def _in_cohort(charges: pa.Table, cohort: Mapping[str, str]) -> np.ndarray:
    mask = np.ones(charges.num_rows, dtype=bool)
    for name, value in cohort.items():
        if name not in charges.column_names:
            raise UsageError(f"no column {name} to choose a cohort by; there are {', '.join(charges.column_names)}")
        mask &= pc.fill_null(pc.equal(pc.cast(charges[name], pa.string()), value), False).to_numpy()
        if not mask.any():
            raise UsageError(f"no charge has {name} {value}: choose a value that the month has")
    return mask


# -- what it needs, and where it goes -----------------------------------------------------------------------------------


def _known(fault: str) -> Fault:
    if fault not in CATALOGUE:
        raise UsageError(f"no fault is called {fault!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[fault]


def _require(fault: Fault, right: Month, periods: tuple[BillingPeriod, ...], lag: int) -> None:
    if lag < 1:
        raise UsageError(f"the lag is a number of months from 1; not {lag}")
    for name in fault.needs:
        if name not in right.charges.column_names:
            raise UsageError(f"this source cannot show {fault.name}: no column {name}")
    farthest = {"earlier_month": lag, "earlier_bill": lag, "earlier_file": lag, "mixed_months": lag + 1}
    for months in {1, farthest.get(fault.name, fault.earlier_months)} if fault.earlier_months else ():
        if (wanted := right.billing_period.plus(-months)) not in periods:
            raise UsageError(f"this source cannot show {fault.name}: no month {wanted}")


def _periods_before(source: Path, period: BillingPeriod) -> tuple[BillingPeriod, ...]:
    found = []
    for folder in source.glob("billing_period=*/"):
        try:
            found.append(BillingPeriod.parse(folder.name.removeprefix("billing_period=")))
        except ValueError:
            continue
    return tuple(sorted((each for each in found if each < period), reverse=True))


def _bring_history(source: Path, out: Path, case: Case, crept_customers: pa.Array | None) -> None:
    for age, period in enumerate(reversed(case.periods)):
        if crept_customers is None or age == 0:
            shutil.copytree(period_folder(source, period), period_folder(out, period), copy_function=_link)
            continue
        month = Month.read(source, period)
        hit = pc.is_in(month.charges["customer_id"], crept_customers).to_numpy()
        for name, values in crept(month.charges, age).items():
            month = month.with_column(name, _where(hit, values, month.charges[name]))
        with PeriodWriter(out, period) as writer:
            month.write(writer)
    if (contacts := source / "contacts.parquet").is_file():
        _link(str(contacts), str(out / contacts.name))


def _link(source: str, target: str) -> None:
    """Nothing here changes a file in place, so two sources may share one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _refuse_to_replace(source: Path, out: Path, *, overwrite: bool) -> None:
    if out.resolve() == source.resolve():
        raise UsageError(f"{out} is the source itself: its right charges would be lost; choose another folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / TRUTH_NAME).is_file():
        raise UsageError(f"{out} holds something that was not injected: choose another folder")
    if not overwrite:
        raise UsageError(f"{out} exists: choose another folder, or say that it may be overwritten")


def _differs(ours: pa.Table, theirs: pa.Table, columns: list[str]) -> np.ndarray:
    """Where two tables' rows differ in any of the columns; two NULLs do not."""
    differs = np.zeros(ours.num_rows, dtype=bool)
    for name in columns:
        left, right = ours[name], theirs[name]
        unequal = pc.fill_null(pc.not_equal(left, right), False)
        only_one = pc.xor(pc.is_null(left), pc.is_null(right))
        differs |= pc.or_(unequal, only_one).to_numpy()
    return differs
