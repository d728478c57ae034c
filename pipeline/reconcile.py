"""Reconcile: plan, ledger and the acquirer's settlement files, line by line; what differs gets a name and grows old.

Belongs here: which claims are late, what the acquirer says of those in doubt, and how it all is told. Does not: matching
(`adapters.reconciliation`) or resolving anything by hand - a break goes when its reason goes, or a person closes it with
the incident. "Missing" is a matter of time; a file that cannot be read is an exception beside the breaks, never a failure.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.money import format_minor
from pipeline.core.settlement import BREAK_KINDS, age_bucket, settles_within_days
from pipeline.core.window import add_business_days, business_days_between

BREAKS_NAMED = 20
"""Breaks of each kind that a result lists; the database has them all."""

NEVER_TAKEN = ("declined", "expired", "voided")
"""States of a payment that contradict a ledger which calls it charged."""

AskStates = Callable[[pa.Array, pa.Array], tuple[pa.Table, pa.Table]]
"""Told payment ids and merchant references, answers their live states: two tables with `status` and `state`, in order."""


class CameBack(Protocol):
    """See `adapters.deviations.CameBack`."""

    def standing(self, incident: Any) -> pa.Table: ...
    def keep(self, incident_id: str, said: pa.Table, *, day: date) -> int: ...


class SideBySide(Protocol):
    """See `adapters.reconciliation.Reconciliation`."""

    def side_by_side(self, lines: pa.Table, plans: Iterable[Any]) -> Any: ...
    def record(self, files: Iterable[Any], breaks: pa.Table) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a reconciliation has come to.

    Attributes:
        day: the business day.
        lines: settlement lines, each once.
        matched: by kind of operation: count and amount of lines that match.
        entered: operations entered as settled this time.
        not_due: operations that no file speaks of and that need not be there yet: count and amount.
        waiting: all operations that no file speaks of, late or not, by scope.
        breaks: by kind: count, amount, by age, and the first by name.
        new_breaks, resolved: against the last time.
        exceptions: of files: `refused`, `duplicates` by name, `gaps`.
        returned_elsewhere: refunds that somebody else made and a deviation explains.
    """

    day: date
    lines: int
    matched: dict[str, dict[str, int]]
    entered: int
    not_due: dict[str, int]
    waiting: dict[str, int]
    breaks: dict[str, dict[str, Any]]
    new_breaks: int
    resolved: int
    exceptions: dict[str, Any]
    returned_elsewhere: dict[str, int]
    currency: str = field(default="KRW")

    @property
    def break_count(self) -> int:
        return sum(figures["count"] for figures in self.breaks.values())

    def to_json(self) -> dict[str, Any]:
        result = {name: getattr(self, name) for name in self.__slots__}
        return result | {"day": str(self.day), "break_count": self.break_count}

    @classmethod
    def again(cls, result: dict[str, Any]) -> "Reconciled":
        """What `to_json` said, found a second time: nothing is new."""
        said = {name: result[name] for name in cls.__slots__}
        return cls(**said | {"day": date.fromisoformat(result["day"]), "entered": 0, "new_breaks": 0, "resolved": 0})


def to_text(result: dict[str, Any]) -> str:
    """`Reconciled.to_json` as a person reads it."""

    def money(amount_minor: int) -> str:
        return format_minor(amount_minor, result["currency"])

    lines = [
        f"{result['day']}: {result['lines']:,} settlement lines, {result['entered']:,} operations newly entered as settled"
    ]
    lines += [
        f"  matched {kind:7} {f['count']:>10,}  {money(f['amount_minor']):>20}" for kind, f in result["matched"].items()
    ]
    for name, figures in (("refunded by others", result["returned_elsewhere"]), ("not due yet", result["not_due"])):
        if figures["count"]:
            lines.append(f"  {name}: {figures['count']:,}, {money(figures['amount_minor'])}")
    lines.append(f"breaks: {result['break_count']:,} ({result['new_breaks']:,} new, {result['resolved']:,} resolved)")
    for kind, figures in result["breaks"].items():
        ages = ", ".join(f"{count:,} {bucket}" for bucket, count in figures["ages"].items())
        lines.append(f"  {kind}: {figures['count']:,}, {money(figures['amount_minor'])} - {BREAK_KINDS[kind]} ({ages})")
        lines += [
            f"    {item['reference']}  {money(item['amount_minor'])}  {item['detail']}" for item in figures["first"]
        ]
    for name, words in _EXCEPTION.items():
        lines += [f"file {file} {words} {why}" for file, why in result["exceptions"][name].items()]
    return "\n".join([*lines, *(f"not here: {gap}" for gap in result["exceptions"]["gaps"])])


_EXCEPTION = {"refused": "is not read:", "duplicates": "has the same content as"}


def reconcile(
    work: SideBySide,
    *,
    files: Any,
    plans: Iterable[Any],
    ask: AskStates,
    today: date,
    holidays: Set[date],
    currency: str,
) -> Reconciled:
    """Match everything, name what differs, keep it.

    Args:
        work: opened for this reconciliation alone.
        files: what the settlement files say (`adapters.settlement_files.SettlementFiles`).
        plans: approved plans of the incident, if it is about one.
        ask: the acquirer, asked only about claims that are late.
        currency: to show amounts in.
    """
    matched = work.side_by_side(files.lines, plans)
    late, not_due = _late(matched.unmatched, today, holidays)
    breaks = pa.concat_tables([matched.breaks, _doubted(late, ask).cast(matched.breaks.schema)])
    kept = work.record(files.files, breaks)
    return Reconciled(
        day=today,
        lines=matched.lines,
        matched=matched.matched,
        entered=kept["entered"],
        not_due={"count": not_due.num_rows, "amount_minor": pc.sum(not_due["amount_minor"]).as_py() or 0},
        waiting=_by_scope(matched.unmatched),
        breaks=_told(breaks, today, holidays),
        new_breaks=kept["new_breaks"],
        resolved=kept["resolved"],
        exceptions={"refused": files.refused, "duplicates": files.duplicates, "gaps": list(files.gaps)},
        returned_elsewhere=matched.returned_elsewhere,
        currency=currency,
    )


def keep_what_came_back(books: CameBack, incident: Any, *, ask: Callable[[pa.Array], pa.Table], today: date) -> int:
    """Ask about wrong charges that by the books still stand, and keep those of which the acquirer says that they do not.

    Returns:
        How many were not known before: matching again then finds fewer differences.
    """
    standing = books.standing(incident)
    if not standing.num_rows:
        return 0
    said = ask(standing["payment_id"].combine_chunks()).select(["state", "refunded_minor"])
    return books.keep(incident.incident_id, said.append_column("original_id", standing["original_id"]), day=today)


def _by_scope(unmatched: pa.Table) -> dict[str, int]:
    counts = unmatched.group_by("scope").aggregate([([], "count_all")]).to_pylist()
    return {row["scope"]: row["count_all"] for row in counts}


def _late(unmatched: pa.Table, today: date, holidays: Set[date]) -> tuple[pa.Table, pa.Table]:
    """Split operations that no file speaks of into those that should be there by now, with `since`, and the others."""
    groups = unmatched.group_by(["kind", "payment_method", "effective_on"]).aggregate([]).to_pylist()
    due = [
        add_business_days(g["effective_on"], settles_within_days(g["kind"], g["payment_method"]), holidays)
        for g in groups
    ]
    days = pa.table(
        {
            "kind": pa.array([g["kind"] for g in groups], pa.string()),
            "payment_method": pa.array([g["payment_method"] for g in groups], pa.string()),
            "effective_on": pa.array([g["effective_on"] for g in groups], pa.date32()),
            "since": pa.array(due, pa.date32()),
        }
    )
    dated = unmatched.join(days, ["kind", "payment_method", "effective_on"], join_type="inner")
    is_late = pc.less(dated["since"], pa.scalar(today, pa.date32()))
    return dated.filter(is_late), dated.filter(pc.invert(is_late))


def _doubted(late: pa.Table, ask: AskStates) -> pa.Table:
    """Late claims as breaks: `state` where the acquirer contradicts the ledger, else `missing`."""
    is_refund = pc.equal(late["kind"], "refund")
    refunds, takings = late.filter(is_refund), late.filter(pc.invert(is_refund))
    parts = []
    if late.num_rows:
        payments, modifications = ask(takings["payment_id"].combine_chunks(), refunds["operation_id"].combine_chunks())
        parts.append(_named(takings, payments["state"], pc.is_in(payments["state"], pa.array(NEVER_TAKEN))))
        parts.append(_named(refunds, modifications["status"], pc.not_equal(modifications["status"], "succeeded")))
    return pa.concat_tables(parts) if parts else _named(late, late["kind"], is_refund)


def _named(claims: pa.Table, said: pa.ChunkedArray, is_contradicted: pa.ChunkedArray) -> pa.Table:
    said = pc.fill_null(said, "not_found")
    contradicted = pc.or_(pc.fill_null(is_contradicted, True), pc.equal(said, "not_found"))
    detail = pc.binary_join_element_wise("a ", claims["kind"], " that the acquirer calls ", said, "")
    return pa.table(
        {
            "kind": pc.if_else(contradicted, "state", "missing"),
            "reference": claims["operation_id"],
            "scope": claims["scope"],
            "amount_minor": claims["amount_minor"],
            "since": claims["since"],
            "detail": detail,
        }
    )


def _told(breaks: pa.Table, today: date, holidays: Set[date]) -> dict[str, dict[str, Any]]:
    """Breaks by kind: count, amount, ages and the first by name."""

    @cache
    def age(since: date) -> str:
        return age_bucket(business_days_between(since, today, holidays))

    told = {}
    for kind in BREAK_KINDS:
        these = breaks.filter(pc.equal(breaks["kind"], kind))
        if not these.num_rows:
            continue
        ages: dict[str, int] = defaultdict(int)
        for row in (
            these.group_by("since").aggregate([([], "count_all")]).sort_by([("since", "descending")]).to_pylist()
        ):
            ages[age(row["since"])] += row["count_all"]
        first = (
            these.slice(0, BREAKS_NAMED).select(["reference", "scope", "amount_minor", "since", "detail"]).to_pylist()
        )
        told[kind] = {
            "count": these.num_rows,
            "amount_minor": pc.sum(these["amount_minor"]).as_py(),
            "ages": dict(ages),
            "first": [item | {"since": str(item["since"]), "age": age(item["since"])} for item in first],
        }
    return told
