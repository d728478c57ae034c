"""How each fault of the catalogue makes a right month wrong, for every row at once.

Belongs here: for each fault, the columns, rows or files as it would leave them if it hit everybody. Does not: whom it hits,
and what is written (`inject`). A fault that changes columns says what they would be (`CHANGES`); one that adds rows
gives them (`EXTRAS`); one that loses rows says which it can lose (`ABSENT`); one of whole files gives the wrong month (`FILES`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.billing_period import BillingPeriod
from pipeline.generate.bill_parts import BillParts, is_payable, rounded, unit_minor
from pipeline.generate.columns import numbered
from pipeline.generate.mischarge import AMOUNT_COLUMNS, exchanged
from pipeline.generate.month import Month, account_keys, with_column

Columns = Mapping[str, pa.Array]

PADDING = 0x20202020
"""Four blanks read as a whole number: 538,976,288."""

FOREIGN_RATE = 1_300
"""Won to the US dollar: an amount in dollars under the won's code is about a 1,300th."""

CREEP_PERCENT = 1
"""How much faster than they should amounts grow each month."""

INCIDENT_DAY = 11
"""Of the month: the date that stands where the amount should."""


@dataclass(frozen=True)
class Case:
    """A right month, and whom a fault is to hit.

    Attributes:
        right: the month as it should be.
        earlier: the month so many months before, as it is in the source.
        periods: the source's months before this one, latest first.
        cohort: column and value that rows must have to be hit.
        in_cohort: for each row, whether it has.
        wanted: how many customers are to be hit.
        lag: how many months back the earlier amounts lie.
        seed: settles every choice.
    """

    right: Month
    earlier: Callable[[int], Month]
    periods: tuple[BillingPeriod, ...]
    cohort: Mapping[str, str]
    in_cohort: np.ndarray
    wanted: int
    lag: int
    seed: int

    @property
    def charges(self) -> pa.Table:
        return self.right.charges

    @cached_property
    def bills(self) -> BillParts:
        return BillParts.of(self.right.charges)

    @cached_property
    def unit(self) -> int:
        return unit_minor(self.right.charges)

    def same_bill(self, earlier: Month) -> pa.Array:
        """For each row, the earlier month's row of the same account; NULL where it has none."""
        return pc.index_in(account_keys(self.charges), account_keys(earlier.charges).combine_chunks())


@dataclass(frozen=True, slots=True)
class Extra:
    """Rows that a fault adds.

    Attributes:
        charges: the rows.
        file: which file each is added to.
    """

    charges: pa.Table
    file: np.ndarray


@dataclass(frozen=True, slots=True)
class Wrong:
    """A month as it is after a fault.

    Attributes:
        month: its files.
        origin: for each row, the row of the right month that it stands for; -1 for a bill that should not be there.
    """

    month: Month
    origin: np.ndarray


# -- amounts ------------------------------------------------------------------------------------------------------------


def _scaled(numerator: int, denominator: int, case: Case) -> Columns:
    return case.bills.scaled(numerator, denominator)


def crept(charges: pa.Table, months: int) -> Columns:
    """The money columns of `charges` after so many months of slow creep."""
    million = 10**6
    numerator = million * (100 + CREEP_PERCENT) ** months // 100**months
    return BillParts.of(charges).scaled(numerator, million, step=unit_minor(charges))


def _crept(case: Case) -> Columns:
    return crept(case.charges, len(case.periods))


def _exactly(amount: Callable[[Case], np.ndarray], case: Case) -> Columns:
    """Each bill at an amount that has nothing to do with its parts."""
    return case.bills.with_amount(np.broadcast_to(amount(case), case.charges.num_rows))


def _date(case: Case) -> np.ndarray:
    period = case.right.billing_period
    day = period.year * 10_000 + period.month * 100 + INCIDENT_DAY
    return np.array(_payable(day * case.unit))


def _padding(case: Case) -> np.ndarray:
    return np.array(_payable(PADDING * case.unit))


def _id(case: Case) -> np.ndarray:
    digits = pc.struct_field(pc.extract_regex(case.charges["customer_id"], r"(?P<digits>[0-9]{1,12})$"), "digits")
    number = pc.fill_null(pc.cast(digits, pa.int64()), 0).to_numpy()
    return np.where(number > 0, number * case.unit, case.bills.amount)


def _one_amount(case: Case) -> np.ndarray:
    positive = np.sort(case.bills.amount[case.bills.amount > 0])
    return np.array(_payable(int(positive[len(positive) // 2]))) if len(positive) else case.bills.amount


def _truncated(case: Case) -> np.ndarray:
    amount, step = case.bills.amount, 1_000 * case.unit
    return np.sign(amount) * (np.abs(amount) // step * step)


def _last_digit_lost(case: Case) -> np.ndarray:
    amount, step = case.bills.amount, 10 * case.unit
    return np.sign(amount) * (np.abs(amount) // step * case.unit)


def _leading_digit_lost(case: Case) -> np.ndarray:
    """The field is as wide as it can be with the customers asked for still hit."""
    amount = case.bills.amount
    widths = (10**digits * case.unit for digits in range(12, 1, -1))
    reach = next((w for w in widths if np.sum(np.abs(amount[case.in_cohort]) >= w) >= case.wanted), 10 * case.unit)
    return np.sign(amount) * (np.abs(amount) % reach)


def _capped(case: Case) -> np.ndarray:
    """The cap is the largest amount that as many bills as are asked for exceed."""
    amount = case.bills.amount
    positive = np.sort(amount[case.in_cohort & (amount > 0)])
    if not len(positive):
        return amount
    cap = _payable(int(positive[max(len(positive) - case.wanted - 1, 0)]))
    return np.minimum(amount, cap)


def _payable(amount: int) -> int:
    return amount if is_payable(amount) else amount - 1


def _zeroed(case: Case) -> Columns:
    nothing = np.zeros_like(case.bills.base)
    return case.bills.columns(base=nothing, usage=nothing, discount=nothing)


# -- amounts of another month or of another customer --------------------------------------------------------------------


def _earlier_month(case: Case) -> Columns:
    return _of(case.earlier(case.lag), case)


def _of(earlier: Month, case: Case) -> Columns:
    charges = exchanged(case.charges, earlier.charges, case.same_bill(earlier))
    return {name: charges[name].combine_chunks() for name in AMOUNT_COLUMNS if name in charges.column_names}


def _mixed_months(case: Case) -> Columns:
    """Every second row has the amounts of the month before that of the others."""
    one, other = _earlier_month(case), _of(case.earlier(case.lag + 1), case)
    every_second = pa.array(np.arange(case.charges.num_rows) % 2 == 0)
    return {name: pc.if_else(every_second, one[name], other[name]) for name in one}


def _earlier_bill(case: Case) -> Columns:
    earlier = case.earlier(case.lag)
    row = case.same_bill(earlier)
    labels = {
        name: pc.coalesce(earlier.charges[name].take(row), case.charges[name]).combine_chunks()
        for name in ("billing_period", "service_start", "service_end")
    }
    return _of(earlier, case) | labels


def _two_months(case: Case) -> Columns:
    """Part by part, this month's and last month's bill; a credit of last month's is not added."""
    earlier = case.earlier(1)
    row = case.same_bill(earlier)
    last, this = BillParts.of(earlier.charges.take(row)), case.bills
    adds = (last.amount > 0) & (last.is_whole == this.is_whole)
    both = {
        name: getattr(this, name) + np.where(adds, getattr(last, name), 0) for name in ("base", "usage", "discount")
    }
    return this.columns(**both)


def _moved(columns: tuple[str, ...], case: Case) -> Columns:
    """Each row gets the columns of the row above it in its file; the first gets the last one's."""
    above = pa.array(_row_above(case.right.file))
    return {
        name: case.charges[name].take(above).combine_chunks() for name in columns if name in case.charges.column_names
    }


def _row_above(file: np.ndarray) -> np.ndarray:
    above = np.arange(len(file)) - 1
    first = np.flatnonzero(np.diff(file, prepend=-1))
    above[first] = np.append(first[1:], len(file)) - 1
    return above


def _shuffled(case: Case) -> Columns:
    """The rows of a file are dealt out anew."""
    chance = np.random.default_rng(case.seed).random(case.charges.num_rows)
    dealt = np.empty(case.charges.num_rows, dtype=np.int64)
    dealt[np.lexsort((np.arange(len(chance)), case.right.file))] = np.lexsort((chance, case.right.file))
    row = pa.array(dealt)
    return {
        name: case.charges[name].take(row).combine_chunks()
        for name in AMOUNT_COLUMNS
        if name in case.charges.column_names
    }


# -- parts --------------------------------------------------------------------------------------------------------------


def _discount_dropped(case: Case) -> Columns:
    return case.bills.columns(discount=np.zeros_like(case.bills.discount))


def _discount_twice(case: Case) -> Columns:
    """No bill becomes a credit by it."""
    bills = case.bills
    most = np.maximum(bills.base + bills.usage, bills.discount)
    return bills.columns(discount=np.minimum(2 * bills.discount, most))


def _tax(numerator: int, case: Case) -> Columns:
    return case.bills.columns(tax=case.bills.tax * numerator)


def _tax_rounded(case: Case) -> Columns:
    tax = case.bills.tax
    return case.bills.columns(tax=np.sign(tax) * (np.abs(tax) // 10 * 10))


def _taxed_again(case: Case) -> Columns:
    return case.bills.scaled(11, 10, step=case.unit)


def _usage(numerator: int, case: Case) -> Columns:
    return case.bills.columns(usage=_where_billed(case, case.bills.usage * numerator))


def _where_billed(case: Case, usage: np.ndarray) -> np.ndarray:
    """`usage` where there is a bill to pay; a bill that was waived, or is a credit, is waived with whatever was used."""
    return np.where(case.bills.amount > 0, usage, case.bills.usage)


def _usage_days(days: int, case: Case) -> Columns:
    """So many days more than the month has, in the step that usage is billed in."""
    usage, in_month = case.bills.usage, case.right.billing_period.last_day.day
    step = next(step for step in (100, 10, 1) if not (usage % step).any())
    return case.bills.columns(usage=_where_billed(case, rounded(usage * (in_month + days), in_month * step) * step))


def _wrong_plan(case: Case) -> Columns:
    """The plan with the most customers of the cohort becomes another; add-ons stay, the discount keeps its percentage."""
    bills, plan = case.bills, case.charges["plan_code"]
    counts = pc.value_counts(plan.filter(pa.array(case.in_cohort))).to_pylist()
    from_plan = max(counts, key=lambda each: (each["counts"], each["values"] or ""))["values"]
    others = sorted(code for code in pc.unique(plan).to_pylist() if code not in (None, from_plan))
    if not others:
        return {}
    to_plan = others[case.seed % len(others)]
    is_from, is_to = (
        pc.fill_null(pc.equal(plan, code), False).to_numpy() & bills.is_whole for code in (from_plan, to_plan)
    )
    dearer = int(bills.base[is_to].min(initial=2**62)) - int(bills.base[is_from].min(initial=2**62))
    base = np.where(is_from, bills.base + dearer, bills.base)
    code = pc.if_else(pa.array(is_from), to_plan, plan).combine_chunks()
    return {**_rebased(bills, base), "plan_code": code}


def _stale_tariff(case: Case) -> Columns:
    """The base fee of the latest month in which customers of the same plan paid another one."""
    bills, base = case.bills, case.bills.base
    for lag in range(1, len(case.periods) + 1):
        earlier = case.earlier(lag)
        row = case.same_bill(earlier)
        same_plan = pc.fill_null(pc.equal(earlier.charges["plan_code"].take(row), case.charges["plan_code"]), False)
        then = BillParts.of(earlier.charges.take(row))
        applies = same_plan.to_numpy() & then.is_whole & bills.is_whole & (then.base != base)
        if applies.any():
            return _rebased(bills, np.where(applies, then.base, base))
    return {}


def _rebased(bills: BillParts, base: np.ndarray) -> Columns:
    """Another base fee; a discount is a percentage of it, one that waives the whole bill still does."""
    own = np.where(bills.base == 0, 1, bills.base)
    waived = bills.net == 0
    discount = np.where(waived, base + bills.usage, rounded(bills.discount * base, np.abs(own)))
    return bills.columns(base=base, discount=np.where(base == bills.base, bills.discount, discount))


# -- labels, cards, currency --------------------------------------------------------------------------------------------


def _label(case: Case) -> Columns:
    last = str(case.right.billing_period.plus(-1))
    return {"billing_period": pa.array(np.full(case.charges.num_rows, last))}


def _dates(case: Case) -> Columns:
    """Both days as many days earlier as their month and the one before make them: the first and last of last month."""
    period = case.right.billing_period
    shift = {"service_start": period.plus(-1).last_day.day, "service_end": period.last_day.day}
    return {
        name: pc.cast(pc.subtract(pc.cast(case.charges[name].combine_chunks(), pa.int32()), pa.scalar(days, pa.int32())),
                      pa.date32())
        for name, days in shift.items()
    }  # fmt: skip


def _label_and_dates(case: Case) -> Columns:
    return {**_label(case), **_dates(case)}


def _wrong_currency(case: Case) -> Columns:
    currency = case.charges["currency"]
    return {"currency": pc.if_else(pc.equal(currency, "USD"), "KRW", "USD").combine_chunks()}


def _wrong_method(case: Case) -> Columns:
    method = case.charges["payment_method"]
    is_credit, is_check = pc.equal(method, "credit_card"), pc.equal(method, "check_card")
    return {
        "payment_method": pc.if_else(
            is_credit, "check_card", pc.if_else(is_check, "credit_card", method)
        ).combine_chunks()
    }


# -- rows added ---------------------------------------------------------------------------------------------------------


def _sent_twice(case: Case) -> Extra:
    return Extra(case.charges, case.right.file)


def _new_charge_ids(case: Case) -> Extra:
    return Extra(_numbered_again(case.charges), case.right.file)


def _second_cycle(case: Case) -> Extra:
    cycle = pc.add(case.charges["bill_cycle"], 1)
    return Extra(with_column(_numbered_again(case.charges), "bill_cycle", cycle), case.right.file)


def _new_customer_ids(case: Case) -> Extra:
    known = pa.chunked_array(
        [
            chunk
            for month in (case.right, *(case.earlier(case.right.billing_period.months_since(p)) for p in case.periods))
            for chunk in month.charges["customer_id"].chunks
        ]
    )
    customer = _unused_ids(case.charges["customer_id"].combine_chunks(), known, case.seed)
    charges = with_column(_numbered_again(case.charges), "customer_id", customer)
    label = pc.binary_join_element_wise(case.charges["billing_period"], case.charges["customer_id"], "-")
    if pc.all(pc.equal(label, case.charges["charge_id"])).as_py():  # charge ids are made of customer ids
        charge = pc.binary_join_element_wise(case.charges["billing_period"], customer, "-")
        charges = with_column(charges, "charge_id", charge)
    return Extra(charges, case.right.file)


def _numbered_again(charges: pa.Table) -> pa.Table:
    charge = pc.binary_join_element_wise(charges["charge_id"], "2", "-")
    return with_column(charges, "charge_id", charge)


def _unused_ids(ids: pa.Array, known: pa.ChunkedArray, seed: int) -> pa.Array:
    """An id nobody has for each of `ids`: of the same form where they are a prefix and digits."""
    parts = pc.extract_regex(ids, r"^(?P<prefix>.*?)(?P<digits>[0-9]{1,18})$")
    prefixes, digits = pc.unique(parts.field("prefix")), parts.field("digits")
    widths = pc.unique(pc.binary_length(digits))
    if parts.null_count == 0 and len(prefixes) == len(widths) == 1:
        width, number = widths[0].as_py(), pc.cast(digits, pa.int64()).to_numpy()
        used = pc.unique(pc.cast(pc.struct_field(pc.extract_regex(known, r"(?P<n>[0-9]{1,18})$"), "n"), pa.int64()))
        free = np.flatnonzero(
            ~np.isin(np.arange(min(10**width, 4 * len(used) + 4 * len(ids) + 1_000)), used.to_numpy())
        )
        if len(free) >= len(ids):
            order = np.argsort(np.argsort(number, kind="stable"), kind="stable")
            start = seed % (len(free) - len(ids) + 1)
            return numbered(prefixes[0].as_py(), free[start : start + len(ids)][order], digits=width)
    return pc.binary_join_element_wise(ids, "2", "-")


def _leavers_billed(case: Case) -> Extra:
    """The last bill of everybody who was billed before last month and is billed neither then nor now."""
    seen = [account_keys(case.charges), account_keys(case.earlier(1).charges)]
    found, files = [], []
    for period in case.periods:
        lag = case.right.billing_period.months_since(period)
        if lag < 2:
            continue
        month = case.earlier(lag)
        keys = account_keys(month.charges)
        gone = pc.invert(pc.is_in(keys, pa.chunked_array([c for each in seen for c in each.chunks])))
        seen.append(keys)
        charges = month.charges.filter(gone)
        found.append(_relabelled(charges, month.billing_period, case).select(case.charges.column_names))
        files.append(_same_file(month, case.right)[month.file[gone.to_numpy()]])
    return Extra(pa.concat_tables(found), np.concatenate(files))


def _same_file(month: Month, right: Month) -> np.ndarray:
    """For each of the month's files, the right month's of the same name, or its first."""
    return np.array([right.names.index(name) if name in right.names else 0 for name in month.names])


def _relabelled(charges: pa.Table, period: BillingPeriod, case: Case) -> pa.Table:
    """An earlier month's rows as if they were this month's: charge id, label and service dates."""
    count, this = charges.num_rows, case.right.billing_period
    charge = pc.replace_substring(charges["charge_id"], str(period), str(this), max_replacements=1)
    charge = pc.if_else(
        pc.equal(charge, charges["charge_id"]), pc.binary_join_element_wise(charge, str(this), "-"), charge
    )
    charges = with_column(charges, "charge_id", charge)
    charges = with_column(
        charges, "billing_period", pa.array([str(this)] * 1).take(pa.array(np.zeros(count, np.int64)))
    )
    for name, day in (("service_start", this.first_day), ("service_end", this.last_day)):
        if name in charges.column_names:
            charges = with_column(charges, name, pa.repeat(pa.scalar(day, pa.date32()), count))
    return charges


# -- rows lost ----------------------------------------------------------------------------------------------------------


def _anybody(case: Case) -> np.ndarray:
    return np.ones(case.charges.num_rows, dtype=bool)


def _joiners(case: Case) -> np.ndarray:
    return pc.is_null(case.same_bill(case.earlier(1))).to_numpy()


# -- whole files --------------------------------------------------------------------------------------------------------


def files_hit(case: Case) -> np.ndarray:
    """The files that hold the cohort; where it is the whole run, the one whose size is nearest to what is asked for."""
    if not case.in_cohort.all():
        return np.unique(case.right.file[case.in_cohort])
    return np.array([np.argmin(np.abs(np.bincount(case.right.file, minlength=len(case.right.names)) - case.wanted))])


def _file_missing(case: Case) -> Wrong:
    return without(case.right, np.isin(case.right.file, files_hit(case)))


def _file_cut(case: Case) -> Wrong:
    """One file loses its last rows: the smallest of the cohort's that has more than are asked for, or the largest."""
    right, candidates = case.right, np.unique(case.right.file[case.in_cohort])
    rows = np.bincount(right.file, minlength=len(right.names))
    long_enough = candidates[rows[candidates] > case.wanted]
    cut = min(long_enough, key=rows.__getitem__) if len(long_enough) else max(candidates, key=rows.__getitem__)
    in_file = np.flatnonzero(right.file == cut)
    lost = np.zeros(len(right.file), dtype=bool)
    lost[in_file[-min(case.wanted, len(in_file) - 1) :]] = len(in_file) > 1
    return without(right, lost)


def _file_twice(case: Case) -> Wrong:
    right, hit = case.right, files_hit(case)
    again = np.isin(right.file, hit)
    names = right.names + tuple(f"{right.names[index].removesuffix('.parquet')}-2.parquet" for index in hit)
    new_index = np.searchsorted(hit, right.file[again]) + len(right.names)
    return added(replace(right, names=names), Extra(right.charges.filter(pa.array(again)), new_index))


def _file_instead(case: Case) -> Wrong:
    """The file has the rows of the one before it, to the letter."""
    right, hit = case.right, files_hit(case)[:1]
    giver = (hit[0] - 1) % len(right.names)
    kept = without(right, np.isin(right.file, hit))
    copied = right.charges.filter(pa.array(right.file == giver))
    if giver == hit[0]:
        return kept
    wrong = added(kept.month, Extra(copied, np.full(copied.num_rows, hit[0])))
    return Wrong(wrong.month, np.append(kept.origin, np.full(copied.num_rows, -1)))


def _earlier_file(case: Case) -> Wrong:
    right, earlier = case.right, case.earlier(case.lag)
    names = [right.names[index] for index in files_hit(case) if right.names[index] in earlier.names]
    kept = without(right, np.isin(right.file, [right.names.index(name) for name in names]))
    taken = np.isin(earlier.file, [earlier.names.index(name) for name in names])
    rows = _relabelled(earlier.charges.filter(pa.array(taken)), earlier.billing_period, case)
    rows = rows.select(right.charges.column_names)
    wrong = added(kept.month, Extra(rows, _same_file(earlier, right)[earlier.file[taken]]))
    own = pc.index_in(account_keys(rows), account_keys(right.charges).combine_chunks())
    return Wrong(wrong.month, np.append(kept.origin, pc.fill_null(own, -1).to_numpy()))


def added(right: Month, extra: Extra) -> Wrong:
    """A month with rows that should not be there."""
    charges = pa.concat_tables([right.charges, extra.charges.cast(right.charges.schema)])
    month = replace(right, charges=charges, file=np.append(right.file, extra.file))
    return Wrong(month, np.append(np.arange(len(right.file)), np.full(len(extra.file), -1)))


def without(right: Month, lost: np.ndarray) -> Wrong:
    """A month that lacks rows."""
    kept = np.flatnonzero(~lost)
    return Wrong(replace(right, charges=right.charges.take(pa.array(kept)), file=right.file[kept]), kept)


CHANGES: Mapping[str, Callable[[Case], Columns]] = {
    "earlier_month": _earlier_month, "mixed_months": _mixed_months, "earlier_bill": _earlier_bill,
    "two_months": _two_months, "doubled": partial(_scaled, 2, 1),
    "times_10": partial(_scaled, 10, 1), "times_100": partial(_scaled, 100, 1), "times_1000": partial(_scaled, 1000, 1),
    "over_10": partial(_scaled, 1, 10), "over_100": partial(_scaled, 1, 100),
    "last_digit_lost": partial(_exactly, _last_digit_lost),
    "wrong_currency": _wrong_currency, "foreign_amounts": partial(_scaled, 1, FOREIGN_RATE),
    "date_as_amount": partial(_exactly, _date), "id_as_amount": partial(_exactly, _id),
    "padding_as_amount": partial(_exactly, _padding), "one_amount": partial(_exactly, _one_amount),
    "rows_shifted": partial(_moved, AMOUNT_COLUMNS), "shuffled": _shuffled,
    "cards_shifted": partial(_moved, ("instrument_token", "payment_method")), "wrong_method": _wrong_method,
    "wrong_plan": _wrong_plan, "stale_tariff": _stale_tariff,
    "discount_dropped": _discount_dropped, "discount_twice": _discount_twice,
    "tax_missing": partial(_tax, 0), "tax_doubled": partial(_tax, 2), "tax_rounded": _tax_rounded, "taxed_again": _taxed_again,
    "usage_missing": partial(_usage, 0), "usage_twice": partial(_usage, 2),
    "usage_day_missing": partial(_usage_days, -1), "usage_day_twice": partial(_usage_days, 1),
    "sign_flipped": partial(_scaled, -1, 1), "zeroed": _zeroed, "capped": partial(_exactly, _capped),
    "truncated": partial(_exactly, _truncated), "leading_digit_lost": partial(_exactly, _leading_digit_lost),
    "label_wrong": _label, "dates_wrong": _dates, "label_and_dates_wrong": _label_and_dates, "slow_creep": _crept,
}  # fmt: skip
"""The columns that a fault changes, as they would be if it hit every row."""

EXTRAS: Mapping[str, Callable[[Case], Extra]] = {
    "sent_twice": _sent_twice, "new_charge_ids": _new_charge_ids, "second_cycle": _second_cycle,
    "new_customer_ids": _new_customer_ids, "leavers_billed": _leavers_billed,
}  # fmt: skip
"""All rows that a fault could add."""

ABSENT: Mapping[str, Callable[[Case], np.ndarray]] = {"customers_dropped": _anybody, "joiners_missing": _joiners}
"""Which rows a fault could lose."""

FILES: Mapping[str, Callable[[Case], Wrong]] = {
    "file_missing": _file_missing, "file_cut": _file_cut, "file_twice": _file_twice, "file_instead": _file_instead,
    "earlier_file": _earlier_file,
}  # fmt: skip
"""Faults of whole files: the wrong month itself."""

IN_A_STRETCH = ("rows_shifted", "cards_shifted")
"""Faults that hit rows next to each other."""
