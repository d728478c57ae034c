"""Bounds learned from the months that were right: what they are, how they follow from those months, and their JSON.

Belongs here: the statistics, on small tables of one number per metric, cohort and month. Does not: measuring the months (`calibrate`), or
judging by the bounds (`judge`).
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.rule import Unit
from pipeline.core.verdict import WHOLE_RUN, Table

METHOD = 1
"""How bounds are learned; raise on any change, so that a file says by which method its bounds were."""

MONTHS_NEEDED = 6
"""Fewer months do not tell what is usual from what happened: the shipped default stays."""

YEAR = 12
"""From as many months on each calendar month has been seen; before, a bound stays halfway to its default."""

SPREADS = 6
"""Robust standard deviations from the middle to a bound. Some hundred bounds are asked each month, and a dozen months know a spread
only to a third: at four, one year in a few would hold a right month."""

MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of normal figures, times this, is their standard deviation."""

PRIOR_WEIGHT = 500
"""Bills: a cohort of this size is drawn halfway to the whole run, as the gate draws its signals."""

SIGNAL_BASE_NEEDED = 200
"""Bills a cohort must have in a usual month for a share of its own; smaller ones the gate draws to the whole run by itself."""

FLOORS: Mapping[Unit, float] = {"change": 0.05, "points": 0.02, "excess": 0.03, "share": 0.02}
"""A bound is never nearer to the middle: a month this far from usual is worth nobody's night, however steady the past."""

Subject = Literal["rule", "signal"]


@dataclass(frozen=True, slots=True)
class Default:
    """A rule's shipped bounds.

    Attributes:
        low, high: None where the rule has no such bound; then none is learned.
        unit: of the metric; decides the floor.
    """

    low: float | None
    high: float | None
    unit: Unit


@dataclass(frozen=True, slots=True)
class Bound:
    """What is normal for a rule's metric, or a signal's share, in one cohort.

    Attributes:
        name: the rule's or the signal's.
        cohort: as `core.rule.cohort_name` writes it.
        low, high: included; None where the rule has no such bound.
        in_month: "1" to "12" -> (low, high) where that calendar month was seen a year before; wider than low and high, never narrower.
        was: the bounds before; None where the gate took the two latest months.
        seen: least and largest of the months.
        months, first, last: from how many and which.
    """

    subject: Subject
    name: str
    cohort: str
    low: float | None
    high: float | None
    in_month: dict[str, tuple[float | None, float | None]]
    was: tuple[float | None, float | None] | None
    seen: tuple[float, float]
    months: int
    first: str
    last: str

    def at(self, month: int) -> tuple[float | None, float | None]:
        """The bounds in a calendar month (1 to 12)."""
        return self.in_month.get(str(month), (self.low, self.high))


@dataclass(frozen=True, slots=True)
class Learned:
    """Every bound, and where they come from; what a proposal and an installed `learned.json` hold.

    Attributes:
        provenance: `method, made_at, suites` (digest), `months` (`billing_period, run_id, standing`), `left_out` (periods).
        defaults: rule -> its bounds when this was learned.
        not_learned: `subject, name, cohort, reason`.
        applied: `by, at`; None for a proposal.
    """

    provenance: dict[str, Any]
    defaults: dict[str, tuple[float | None, float | None]]
    bounds: tuple[Bound, ...]
    not_learned: Table
    applied: dict[str, str] | None = field(default=None)

    @property
    def digest(self) -> str:
        """Of all but who applied it: a proposal and what was installed of it have the same."""
        content = asdict(self)
        del content["applied"]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def ranges(self, rule: str, month: int) -> dict[str, list[float | None]]:
        """Cohort -> bounds of a rule in a calendar month."""
        found = (bound for bound in self.bounds if bound.subject == "rule" and bound.name == rule)
        return {bound.cohort: list(bound.at(month)) for bound in found}

    def shares(self, month: int) -> list[tuple[str, str, str, float, float]]:
        """`cohort_kind, cohort, signal, lowest, highest` of every signal in a calendar month."""
        found = [bound for bound in self.bounds if bound.subject == "signal"]
        return [(*_kind_and_cohort(bound.cohort), bound.name, *bound.at(month)) for bound in found]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "learned", "digest": self.digest} | asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> "Learned":
        """Read back what `to_json` wrote.

        Raises:
            ValueError: it is not that, or it was changed since.
        """
        if not isinstance(content, dict) or content.get("kind") != "learned":
            raise ValueError('"kind" is not "learned"')
        try:
            found = cls(
                provenance=content["provenance"],
                defaults={name: tuple(bounds) for name, bounds in content["defaults"].items()},
                bounds=tuple(_bound(each) for each in content["bounds"]),
                not_learned=content["not_learned"],
                applied=content["applied"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it does not hold what it must ({type(error).__name__}: {error})") from None
        if found.digest != content.get("digest"):
            raise ValueError("its content is not what its digest says: it was damaged, or changed by hand")
        return found


def learn(
    observations: Iterable[Mapping[str, Any]],
    defaults: Mapping[str, Default],
    was: Mapping[tuple[Subject, str, str], tuple[float | None, float | None]],
) -> tuple[list[Bound], Table]:
    """The bounds that past months teach, and what they do not teach.

    Args:
        observations: `subject, name, cohort, billing_period, value, base`: a metric (share of the bills, for a signal) of a cohort in a
            month, and among how many bills. One row per month at most.
        defaults: rule -> its shipped bounds.
        was: what is in force now, by subject, name and cohort.

    Returns:
        Bounds, and `subject, name, cohort, reason` of what was not learned.
    """
    series: dict[tuple[Subject, str, str], dict[str, tuple[float, int]]] = defaultdict(dict)
    for row in observations:
        series[row["subject"], row["name"], row["cohort"]][row["billing_period"]] = row["value"], row["base"]
    bounds, not_learned = [], []
    for key, own in sorted(series.items()):
        subject, name, cohort = key
        reason = _too_little(subject, own)
        if reason:
            not_learned.append({"subject": subject, "name": name, "cohort": cohort, "reason": reason})
            continue
        whole = series.get((subject, name, WHOLE_RUN), own)
        low, high, in_month = _of_signal(own, whole) if subject == "signal" else _of_rule(own, whole, defaults[name])
        values = [value for value, _ in own.values()]
        bounds.append(
            Bound(
                subject, name, cohort, low, high, in_month, was.get(key), (_short(min(values)), _short(max(values))),
                len(own), min(own), max(own),
            )
        )  # fmt: skip
    return bounds, not_learned


Months = Mapping[str, tuple[float, int]]
"""Billing period -> value and base."""

Range = tuple[float | None, float | None]


def _too_little(subject: Subject, own: Months) -> str:
    if len(own) < MONTHS_NEEDED:
        return f"{len(own)} months, of at least {MONTHS_NEEDED} needed"
    usual = _usual_base(own)
    if subject == "signal" and usual < SIGNAL_BASE_NEEDED:
        return f"about {usual:,.0f} bills a month, of at least {SIGNAL_BASE_NEEDED} needed"
    return ""


def _of_rule(own: Months, whole: Months, default: Default) -> tuple[float | None, float | None, dict[str, Range]]:
    """Middle and spread, drawn to the whole run's; within the default unless the months themselves went further."""
    floor = FLOORS[default.unit]
    values = [value for value, _ in own.values()]
    middle, spread = _drawn(own, whole)
    half = max(SPREADS * spread, floor)
    low = high = None
    if default.low is not None:
        low = middle - half if len(own) >= YEAR else min(middle - half, (middle - half + default.low) / 2)
        low = min(max(low, min(default.low, min(values))), middle - floor)
    if default.high is not None:
        high = middle + half if len(own) >= YEAR else max(middle + half, (middle + half + default.high) / 2)
        high = max(min(high, max(default.high, max(values))), middle + floor)
    low, high = _short(low), _short(high)
    # A calendar month that went over halfway to its bound a year before gets the whole width around that.
    far = {month: value for month, value in _a_year_before(own).items() if abs(value - middle) > half / 2}
    in_month = {
        month: (
            None if low is None else min(low, max(value - half, min(default.low, value))),
            None if high is None else max(high, min(value + half, max(default.high, value))),
        )
        for month, value in far.items()
    }
    return low, high, _wider(in_month, low, high)


def _of_signal(own: Months, whole: Months) -> tuple[float, float, dict[str, Range]]:
    """Least and largest share of the months, drawn month by month to the whole run's; months far from the rest do not count."""
    drawn = {}
    for period, (share, base) in own.items():
        of_run = whole.get(period, (share, base))[0]
        drawn[period] = (share * base + PRIOR_WEIGHT * of_run) / (base + PRIOR_WEIGHT), base
    shares = [share for share, _ in drawn.values()]
    size = _usual_base(own) + PRIOR_WEIGHT
    middle = median(shares)
    # Chance alone makes a count of bills vary, and a single bill is never far from none.
    spread = max(_deviation(shares), (max(middle, 1 / size) / size) ** 0.5)
    low = _short(max(min(shares), middle - SPREADS * spread, 0.0))
    high = _short(min(max(shares), middle + SPREADS * spread))
    in_month = {month: (min(low, value), max(high, value)) for month, value in _a_year_before(drawn).items()}
    return low, high, _wider(in_month, low, high)


def _drawn(own: Months, whole: Months) -> tuple[float, float]:
    """Middle and spread of a cohort's months. What a small cohort lacks in bills is taken from the whole run: its middle, and the spread
    that the whole run would have in so few bills."""
    values = [value for value, _ in own.values()]
    if whole is own:
        return median(values), _deviation(values)
    of_run = [value for value, _ in whole.values()]
    base, run_base = _usual_base(own), _usual_base(whole)
    weight = base / (base + PRIOR_WEIGHT)
    in_so_few = _deviation(of_run) ** 2 * max(run_base / base, 1)
    spread = (weight * _deviation(values) ** 2 + (1 - weight) * in_so_few) ** 0.5
    return weight * median(values) + (1 - weight) * median(of_run), spread


def _a_year_before(own: Months) -> dict[int, float]:
    """Calendar month -> its value when it was last seen; empty where there is not a year of months."""
    return {BillingPeriod.parse(period).month: own[period][0] for period in sorted(own)} if len(own) >= YEAR else {}


def _wider(in_month: Mapping[int, Range], low: float | None, high: float | None) -> dict[str, Range]:
    """The calendar months whose bounds are not the usual ones, as JSON can key them."""
    found = {str(month): (_short(lower), _short(upper)) for month, (lower, upper) in sorted(in_month.items())}
    return {month: bounds for month, bounds in found.items() if bounds != (low, high)}


def _deviation(values: list[float]) -> float:
    middle = median(values)
    return MAD_TO_SIGMA * median(abs(value - middle) for value in values)


def _usual_base(own: Months) -> float:
    return max(median(base for _, base in own.values()), 1)


def _short(value: float | None) -> float | None:
    """To a millionth: nobody reads more, and a file of bounds stays small."""
    return None if value is None else round(value, 6)


def _kind_and_cohort(name: str) -> tuple[str, str]:
    kind, _, cohort = name.partition(":")
    return kind, cohort


def _bound(content: dict[str, Any]) -> Bound:
    pairs = {
        "in_month": {month: tuple(pair) for month, pair in content["in_month"].items()},
        "was": None if content["was"] is None else tuple(content["was"]),
        "seen": tuple(content["seen"]),
    }
    return Bound(**content | pairs)
