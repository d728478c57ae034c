"""What went wrong, most likely: failed rules become one or few causes, each with its evidence, its size and what to check next.

Belongs here: which evidence speaks for which cause, which failures a cause explains, and the words for it. Does not: what fails
(the suites), or how a failure is told by itself (`findings`). Causes are tried from the most specific to the least: the first that
the evidence carries takes every failure it explains, and what is left is asked again - so one cause is told once, however many
rules it breaks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from pipeline.core.rule import Failure
from pipeline.core.verdict import WHOLE_RUN, Cause, Table

FACTOR_TOLERANCE = 0.2
"""A typical ratio lies at a power of ten when it is within a fifth of it: bills themselves vary by that much."""

TIGHT_SPREAD = 2.0
"""Upper quartile over lower quartile: below, one factor explains the ratios; above, they have none in common."""

PRICE_SPREAD = 1.4
"""Upper quartile over lower quartile of base fees beside last month's: a new price list differs from plan to plan by less; above, the
bills are somebody else's."""

ONE_STEP = 1.02
"""Upper quartile over lower quartile of fees that moved by one percentage: below, rounding explains the difference."""

SMALL_STEP = 0.1
"""A creeping price moves by less than this each month; what moves by more is a price change that people notice."""

FAR = 2.0
"""A factor between currencies is further from one than what bills do by themselves."""

USED_MORE = 0.1
"""Share of metered customers, beyond what is normal, whose usage more than doubled: then usage is what moved the totals."""

NEXT_TO_NOTHING = 0.03
"""Bills far too low for each of zero: below, bills were lost, not digits."""

PART_OF_A_PLAN = 0.5
"""Share of a plan's customers: below, another base fee is not the plan's new price."""

FEW_AMOUNTS = 8
"""A cap, a date or a filler is one amount, or one per issuer; prices are more."""

ONE_OR_TWO = 2
"""Amounts that heap up for one reason, one of them perhaps by chance; more, far from the top, are what is left of many others."""

NEARLY_ALL = 0.9
"""Part of what is odd that heaped amounts must be, to be the fault itself: whoever is billed one amount in place of another is in the heap,
while lost usage or another plan leaves heaps of some."""

CLEARLY = 1.5
"""Logarithm of how much likelier so many repeats are with a cause than without it, to name it: a few months are asked."""

DRIFTS = (
    "total_drift", "total_drift_notable", "mean_drift", "mean_drift_notable", "median_drift", "median_drift_notable", "moved_bills",
    "moved_bills_raised", "zero_bills", "zero_bills_notable", "negative_bills", "negative_bills_notable", "over_limit",
)  # fmt: skip
AMOUNTS = (
    *DRIFTS, "far_above", "far_below", "base_changed", "discount_dropped", "discount_doubled", "usage_vanished", "usage_doubled",
    "usage_high", "doubled", "halved", "tenth", "hundredth", "times_10", "times_100", "times_1000", "rounded_off", "heaped",
    "at_the_maximum", "off_grid", "zeroed", "sign_flipped", "neighbours", "components_disagree", "wrong_tax", "stale_base", "date_like",
    "id_like", "repeated",
)  # fmt: skip
"""Rules that wrong amounts break, whatever made them wrong."""

GROUPS = {
    "far_off": ("far_above", "far_below"),
    "off_grid": ("off_grid",),
    "base_changed": ("base_changed",),
}
"""Groups of odd bills whose factor is measured, and the signals that they show."""

MISLABELLED = ("wrong_period", "service_outside_period")

COUNTS = ("missing", "customers_missing", "customers_missing_raised", "cut_off", "cohort_present", "joined", "joined_too_few",
          "customers_new", "customers_new_raised", "returned", "shared_card", "second_cycle", "another_card",
          "duplicate_account")  # fmt: skip
"""Rules that too many or too few bills break."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The failures of a run that no cause has explained yet, and what was measured besides.

    Attributes:
        failures: by rule.
        signals: the whole run's row by signal, failed or not.
        factors: by group of odd bills, the quartiles of what they are of the bill before: `lower, middle, upper, bills`,
            and how many different `amounts` they have.
        lags: the whole run's row by earlier month: how many bills repeat it.
    """

    failures: Mapping[str, Sequence[Failure]]
    signals: Mapping[str, dict[str, Any]]
    factors: Mapping[str, dict[str, Any]]
    lags: Table

    def failed(self, *rules: str) -> bool:
        return any(rule in self.failures for rule in rules)

    def beyond_normal(self, *signals: str) -> float:
        """Bills that show one of `signals`, beyond what is normal: of the whole run, or of a cohort where it failed if that is more."""
        return sum(max(map(_beyond, self._rows(signal)), default=0) for signal in signals)

    def _rows(self, signal: str) -> list[Mapping[str, Any]]:
        run = [self.signals[signal]] if signal in self.signals else []
        return [*run, *(failure.row for failure in self.failures.get(signal, ()))]

    def is_most_of_it(self, *signals: str, part: float = 0.5) -> bool:
        """Whether the bills that show one of `signals` are at least such a part of those that show any other signal that failed."""
        return self.beyond_normal(*signals) >= part * self.largest()

    def repeats_matter(self) -> bool:
        """Whether the bills that repeat an earlier month are more than what another fault brings by chance."""
        rows = [failure.row for failure in self.failures.get("repeat_share", ()) if "repeated" in failure.row]
        if not rows:  # of no month by itself, but of several together
            return self.is_most_of_it("repeated", part=0.2)
        kinds = {row["cohort_kind"] for row in rows}
        asked = [row for row in rows if row["cohort_kind"] == (WHOLE_RUN if WHOLE_RUN in kinds else row["cohort_kind"])]
        return (
            sum(row["repeated"] - (row["normal_share"] or 0) * row["comparable"] for row in asked)
            >= 0.2 * self.largest()
        )

    def largest(self) -> float:
        """Bills beyond what is normal of the signal that failed in most."""
        failed = {
            f.row["signal"]
            for each in self.failures.values()
            for f in each
            if f.row.get("signal") and f.rule.unit == "nats"
        }
        return max((self.beyond_normal(name) for name in failed), default=0)

    def mislabelled_repeat(self) -> bool:
        """Whether label and dates are wrong, and about as many bills more repeat an earlier month as have them wrong.

        Asked by likelihood: so few repeats need not be surprising among all that come by themselves.
        """
        wrong = [f for rule in MISLABELLED for f in self.failures.get(rule, ()) if f.cohort_kind == WHOLE_RUN]
        if len(wrong) < len(MISLABELLED):
            return False
        share = min(failure.value / failure.row["row_count"] for failure in wrong)
        lags = [row for row in self.lags if row["comparable"]]
        return any(_repeats_speak_for(share, lag, [each for each in lags if each is not lag]) for lag in lags)

    def has_few_heaps(self, at_most: int = FEW_AMOUNTS) -> bool:
        """Whether what heaps up is a handful of amounts, and nearly all of what is odd."""
        few = self.factors.get("heaped", {}).get("amounts", 0) <= at_most
        return few and self.is_most_of_it("heaped", part=NEARLY_ALL)

    def heaps_are_all_there_is(self) -> bool:
        """Whether most bills have such an amount where most of the heaps are: at that issuer, or in the run."""
        rows = [failure.row for failure in self.failures["heaped"] if failure.cohort_kind == "issuer"]
        most = max(rows, key=lambda row: row["hits"], default=self.signals["heaped"])
        return 2 * most["hits"] >= most["base"]

    def heaps_are_lower(self) -> bool:
        """Whether those who have such an amount mostly paid more before."""
        return (self.factors.get("heaped", {}).get("upper") or 2) <= 1.1

    def factor(self, group: str, *, spread: float = TIGHT_SPREAD) -> float | None:
        """The one factor that a group of odd bills has in common with what those customers pay; None where it has none."""
        row = self.factors.get(group)
        if not row or not row["bills"] or not row["lower"] or row["lower"] <= 0 or row["upper"] > spread * row["lower"]:
            return None
        return row["middle"]

    def is_power_of_ten(self, group: str) -> bool:
        factor = self.factor(group)
        powers = (0.001, 0.01, 0.1, 10, 100, 1000)
        return factor is not None and any(abs(factor / power - 1) <= FACTOR_TOLERANCE for power in powers)

    def is_far_factor(self, group: str) -> bool:
        """Whether a group shares a factor as lies between two currencies: far from one, and no power of ten."""
        factor = self.factor(group)
        return factor is not None and not 1 / FAR <= factor <= FAR and not self.is_power_of_ten(group)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A cause that can be named.

    Attributes:
        points: rules of which one at least must have failed; the first that did says where and how many.
        carried: whether the rest of the evidence agrees.
        explains: rules whose failures follow from it.
        check: what a person looks at next.
    """

    name: str
    title: str
    points: tuple[str, ...]
    explains: tuple[str, ...]
    check: str
    carried: Callable[[Evidence], bool] = lambda evidence: True


def _beyond(row: Mapping[str, Any]) -> float:
    return max((row["hits"] or 0) - (row["normal_share"] or 0) * row["base"], 0)


def _repeats_speak_for(share: float, lag: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it is likelier that this share of the bills has the amounts of the lag's month than that none has."""
    # What is normal was counted in one month, so chance itself: this run's repeats of the other months say it once more.
    chance = median([each["repeated"] / each["comparable"] for each in others] or [0])
    normal = max(lag["normal_share"] or 0, chance) * lag["comparable"]
    normal += math.sqrt(normal) + 0.5
    more = share * lag["comparable"]
    return lag["repeated"] * math.log(1 + more / normal) - more > CLEARLY


def _slipped(evidence: Evidence) -> bool:
    """Most of the bills that are far off are off by a power of ten."""
    slips = evidence.beyond_normal("times_10", "times_100", "times_1000", "tenth", "hundredth")
    far = evidence.beyond_normal("far_above", "far_below")
    return slips >= 0.5 * far or evidence.is_power_of_ten("far_off")


def _wrong_unit(evidence: Evidence) -> bool:
    if evidence.failed("times_10", "times_100", "times_1000", "tenth", "hundredth"):
        return _slipped(evidence)
    return any(evidence.is_power_of_ten(group) for group in _odd_groups(evidence))


def _odd_groups(evidence: Evidence) -> list[str]:
    """Groups of odd bills of which a signal failed, and that are much of what is odd: one factor of theirs tells of all."""
    return [
        group
        for group, signals in GROUPS.items()
        if evidence.failed(*signals) and evidence.is_most_of_it(*signals, part=0.3)
    ]


def _capped(evidence: Evidence) -> bool:
    """The most frequent amounts are the largest there are, of some bills, or those who have them paid more before."""
    if not evidence.has_few_heaps():
        return False
    if evidence.beyond_normal("at_the_maximum") >= 0.5 * evidence.beyond_normal("heaped"):
        return evidence.heaps_are_lower() or not evidence.heaps_are_all_there_is()
    return evidence.heaps_are_lower() and evidence.has_few_heaps(at_most=ONE_OR_TWO)


def _at_a_limit(evidence: Evidence) -> bool:
    """Nearly all that is odd is the largest amount there is, and lower than before - an amount that many had anyway, or it were a heap."""
    groups = (evidence.factors[kind] for kind in ("base_changed", "far_off") if kind in evidence.factors)
    is_lower = any(group["bills"] >= 0.5 * evidence.largest() and group["upper"] < 1 for group in groups)
    return is_lower and evidence.is_most_of_it("at_the_maximum", part=NEARLY_ALL)


def _rated_at_nothing(evidence: Evidence) -> bool:
    """Zero is most of what is odd, and what is not zero is as ever: where digits are lost, much of that is next to nothing."""
    low, zero = evidence.beyond_normal("far_below"), evidence.beyond_normal("zeroed")
    is_low = evidence.failed("far_below", "tenth") and low >= NEXT_TO_NOTHING * zero
    return evidence.is_most_of_it("zeroed") and not is_low


def _used_more(evidence: Evidence) -> bool:
    """Many more than normal used over twice what they used in either month before."""
    usage = evidence.signals.get("usage_high", {"base": 0})
    return evidence.beyond_normal("usage_high") > USED_MORE * usage["base"]


def _digits_lost(evidence: Evidence) -> bool:
    """Most of what is odd ends in zeros, or much of it is far too low and hardly any too high."""
    if evidence.failed("rounded_off") and evidence.is_most_of_it("rounded_off"):
        return True
    is_low = evidence.beyond_normal("far_below") > evidence.beyond_normal("far_above")
    return evidence.failed("far_below", "tenth") and is_low and evidence.is_most_of_it("far_below", "zeroed", part=0.3)


def _one_foreign_factor(evidence: Evidence) -> bool:
    return any(evidence.is_far_factor(group) for group in _odd_groups(evidence))


def _creeping(evidence: Evidence) -> bool:
    """Base fees of as many customers as last month moved again, by one small step, and nothing fails in more bills."""
    factor = evidence.factor("base_changed", spread=ONE_STEP)
    if factor is None or evidence.failed("base_changed"):
        return False
    return 0 < abs(factor - 1) < SMALL_STEP and evidence.factors["base_changed"]["bills"] >= evidence.largest()


def _reaches_a_part(evidence: Evidence) -> bool:
    """One step of the base fee, for less than half of every plan: a price list changes for a plan, not for some on it."""
    rows = [failure.row for failure in evidence.failures["base_changed"]]
    asked = [row for row in rows if row["cohort_kind"] == "plan"] or rows
    return max(row["hits"] / row["base"] for row in asked) < PART_OF_A_PLAN


SUSPECTS = (
    Suspect("card_number", "card numbers where none belongs", ("card_number",), (), "Stop the export; card numbers must not be stored."),
    Suspect(
        "earlier_month", "amounts of an earlier month", ("repeat_share", "repeated"),
        (*AMOUNTS, *COUNTS, *MISLABELLED, "repeat_share_raised", "method_changed", "issuer_changed",
         "plan_changed", "card_changed"),
        "Which month's extract did the billing job read? Compare its file with that month's.",
        lambda e: e.repeats_matter(),
    ),
    Suspect(
        "earlier_month", "bills of an earlier month, amounts and labels", MISLABELLED, MISLABELLED,
        "Which month's extract did the billing job read? Compare its file with that month's.",
        lambda e: e.mislabelled_repeat(),
    ),
    Suspect(
        "sent_twice", "rows or files sent twice", ("duplicate_charge_id",), (*AMOUNTS, *COUNTS),
        "Ask the source which file it sent twice; take one away.",
    ),
    Suspect("tax", "tax is wrong", ("wrong_tax",), AMOUNTS, "Compare the rate and its rounding."),
    Suspect(
        "wrong_field", "another field where the amount belongs", ("date_like", "id_like"), AMOUNTS,
        "Compare the file's columns with its layout: a column has moved.",
    ),
    Suspect(
        "wrong_field", "a filler where the amount belongs", ("heaped",), AMOUNTS, "Look at the amount that so many have: it is no price.",
        lambda e: e.failed("over_limit") and e.has_few_heaps() and not e.heaps_are_lower(),
    ),
    Suspect(
        "file_missing", "a file is missing", ("cohort_present",), (*DRIFTS, *COUNTS, "plan_changed", "issuer_changed", "method_changed"),
        "Has that issuer's file arrived? Wait for it, or ask for it.",
        lambda e: any(failure.cohort_kind != "plan" for failure in e.failures["cohort_present"]),
    ),
    Suspect(
        "billed_twice", "customers billed twice", ("duplicate_account", "second_cycle", "shared_card"), (*DRIFTS, *COUNTS, "heaped"),
        "Which of the two bills is right? Nobody is charged both.",
    ),
    Suspect("currency", "wrong currency", ("wrong_currency",), ("over_limit", *DRIFTS), "Which currency does the source bill in?"),
    Suspect(
        "sign_flipped", "bills with the wrong sign", ("sign_flipped",), AMOUNTS, "Does the source write charges as credits?",
    ),
    Suspect(
        "wrong_customer", "bills of other customers", ("neighbours",), AMOUNTS,
        "Rows have shifted against their customers: compare ids and amounts with the source, row by row.",
    ),
    Suspect(
        "slow_creep", "prices that creep from month to month", ("stale_base", "heaped", "rounded_off", *DRIFTS), AMOUNTS,
        "Base fees rose last month and again, by the same small step: compare the price list with those of earlier months.", _creeping,
    ),
    Suspect(
        "capped", "amounts capped", ("heaped",), AMOUNTS,
        "Those who have the most frequent amounts paid more before: look for a limit or a field too short.",
        _capped,
    ),
    Suspect(
        "one_amount", "one amount in everybody's bill", ("heaped",), AMOUNTS, "Look at the amount that so many have, and whose it is.",
        lambda e: e.has_few_heaps(at_most=ONE_OR_TWO),
    ),
    Suspect(
        "capped", "amounts capped", ("halved", "tenth", "far_below", "base_changed"), AMOUNTS,
        "All these bills have the largest amount there is, and paid more before: look for a limit or a field too short.",
        _at_a_limit,
    ),
    Suspect(
        "billed_double", "two months in one bill", ("doubled",), AMOUNTS, "Was last month's bill added once more?",
        lambda e: e.is_most_of_it("doubled"),
    ),
    Suspect(
        "unit_slip", "amounts in the wrong unit",
        ("times_10", "times_100", "times_1000", "tenth", "hundredth", "far_above", "far_below", "off_grid", "base_changed"),
        AMOUNTS,
        "Minor or major units? Compare a few bills with the customers' last ones.",
        _wrong_unit,
    ),
    Suspect(
        "currency", "amounts in another currency", ("far_below", "far_above", "off_grid", "base_changed"), AMOUNTS,
        "The same factor lies between these bills and the customers' last ones: an exchange rate?", _one_foreign_factor,
    ),
    Suspect(
        "zeroed", "bills of zero", ("zeroed", "base_changed"), (*AMOUNTS, "zero_bills"), "Were these customers rated at all this month?",
        _rated_at_nothing,
    ),
    Suspect(
        "usage", "usage lost", ("usage_vanished",), AMOUNTS, "Which day or region do the usage records lack?",
        lambda e: e.is_most_of_it("usage_vanished") and not e.failed("base_changed"),
    ),
    Suspect(
        "truncated", "digits lost", ("rounded_off", "tenth", "hundredth", "far_below", "off_grid"), AMOUNTS,
        "Amounts end in zeros or lack a digit: look for a field too short.",
        _digits_lost,
    ),
    Suspect(
        "wrong_card", "bills to the wrong card", ("another_card", "card_changed", "method_changed", "issuer_changed"),
        ("card_changed", "method_changed", "issuer_changed", "another_card", "plan_changed", "shared_card"),
        "Compare cards with last month's, customer by customer; the amounts may be right.",
    ),
    Suspect(
        "wrong_plan", "customers on the wrong plan", ("plan_changed",), (*AMOUNTS, *COUNTS, "unknown_plan"),
        "Which job moved these customers, and was it meant to?",
    ),
    Suspect(
        "discount", "discounts lost or given twice", ("discount_dropped", "discount_doubled"),
        AMOUNTS, "Which discount, and since when?",
        lambda e: not e.failed("base_changed"),
    ),
    Suspect(
        "tax", "tax added twice", ("base_changed",), AMOUNTS, "The base fees are higher by the tax rate: is tax part of the price list?",
        lambda e: (factor := e.factor("base_changed")) is not None and abs(factor - 1.1) < 0.005,
    ),
    Suspect(
        "wrong_customer", "bills of other customers", ("base_changed",), AMOUNTS,
        "Base fees differ both ways, without a plan's change: compare ids and amounts with the source.",
        lambda e: e.factor("base_changed", spread=PRICE_SPREAD) is None,
    ),
    Suspect(
        "usage", "usage lost or counted twice", ("usage_vanished", "usage_doubled", "usage_high"), AMOUNTS,
        "Which day or region do the usage records lack, or have twice?",
        lambda e: not e.failed("base_changed"),
    ),
    Suspect("stale_tariff", "prices of before the change", ("stale_base",), AMOUNTS, "Which customers did the new price list not reach?"),
    Suspect(
        "stale_tariff", "prices that the rest of the plan does not pay", ("base_changed",), AMOUNTS,
        "Some of a plan pay another base fee than last month, in one step: from which price list?", _reaches_a_part,
    ),
    Suspect(
        "price_change", "another price than last month", ("base_changed",), AMOUNTS,
        "If the price was meant to change, declare it ahead; if not, ask who changed the price list.",
    ),
    Suspect(
        "customers_missing", "customers missing", ("cut_off", "missing", "customers_missing", "customers_missing_raised"),
        (*DRIFTS, *COUNTS),
        "Compare the file's row count with the source's; ask for the rest.",
    ),
    Suspect(
        "leavers_billed", "customers billed who had left", ("returned",), (*DRIFTS, "joined", "customers_new", "customers_new_raised"),
        "Have these customers come back, or were they never to be billed again?",
    ),
    Suspect(
        "joiners_missing", "new customers missing", ("joined_too_few",), (*DRIFTS, "missing"), "Compare with the customers who joined.",
    ),
    Suspect(
        "usage", "usage counted twice", DRIFTS, (*DRIFTS, "usage_doubled", "usage_high"),
        "Many used over twice what they did before: do the usage records hold a day or a region twice, or was there a holiday?", _used_more,
    ),
    Suspect(
        "drift", "totals moved for no single reason that shows", DRIFTS, (*DRIFTS, "usage_doubled", "usage_high"),
        "Compare with what is known of the month: a holiday, a campaign, new prices? What was known ahead can be declared.",
    ),
    Suspect(
        "label", "wrong period or dates", MISLABELLED, MISLABELLED,
        "Is the label wrong, or are these another month's charges?",
    ),
)  # fmt: skip
"""From the most specific to the least."""


def causes(
    failures: Sequence[Failure], findings_of: Callable[[Failure], str], signals: Table, factors: Table, lags: Table
) -> list[Cause]:
    """The likely causes of `failures`, the most likely first: those that hold the run, then those that only warn.

    Args:
        findings_of: the sentence that a failure is told in.
        signals: the run's signals (`sql/signal_table.sql`).
        factors: what odd bills are of the bills before them (`sql/factors.sql`).
        lags: how many bills repeat an earlier month (`sql/lags.sql`).
    """
    whole = {row["signal"]: row for row in signals if row["cohort_kind"] == WHOLE_RUN}
    by_group = {row["kind"]: row for row in factors}
    of_run = [row for row in lags if row["cohort_kind"] == WHOLE_RUN]
    found: list[Cause] = []
    for severities in (("critical",), ("critical", "warning")):
        left: dict[str, list[Failure]] = {}
        named = {cause.name for cause in found}
        explained = {rule for cause in found for rule in cause.rules}
        explained |= {rule for suspect in SUSPECTS if suspect.name in named for rule in suspect.explains}
        for failure in failures:
            if failure.rule.severity in severities and failure.kind == "failed" and failure.rule.name not in explained:
                left.setdefault(failure.rule.name, []).append(failure)
        found += _named(Evidence(left, whole, by_group, of_run), findings_of)
    return found


def _named(evidence: Evidence, said: Callable[[Failure], str]) -> list[Cause]:
    found = []
    for suspect in SUSPECTS:
        if not evidence.failed(*suspect.points) or not suspect.carried(evidence):
            continue
        left = evidence.failures
        explained = [rule for rule in (*suspect.points, *suspect.explains) if rule in left]
        found.append(_cause(suspect, [left[rule] for rule in dict.fromkeys(explained)], said))
        evidence = replace(evidence, failures={rule: each for rule, each in left.items() if rule not in explained})
    for rule, failures in evidence.failures.items():
        found.append(
            _cause(Suspect(rule, failures[0].rule.description, (rule,), (), "Look at the evidence."), [failures], said)
        )
    return found


def _cause(suspect: Suspect, explained: list[list[Failure]], said: Callable[[Failure], str]) -> Cause:
    first = explained[0]
    broadest = next(
        (failure for failure in first if failure.cohort_kind == WHOLE_RUN),
        max(first, key=lambda failure: _bills(failure) or 0),
    )
    return Cause(
        name=suspect.name,
        title=suspect.title,
        confidence=broadest.rule.confidence,
        severity=min(
            (f.rule.severity for group in explained for f in group), key=("critical", "warning", "info").index
        ),
        cohorts=sorted({failure.cohort for failure in first}, key=lambda name: (name != WHOLE_RUN, name)),
        affected=_bills(broadest),
        amount_minor=broadest.row.get("hit_minor"),
        evidence=[said(group[0] if broadest not in group else broadest) for group in explained],
        rules=sorted({failure.rule.name for group in explained for failure in group}),
        check=suspect.check,
    )


def _bills(failure: Failure) -> int | None:
    """How many bills a failure is about: what shows the signal, repeats, or breaks the rule; None where a share or total is judged."""
    row = failure.row
    for column in ("hits", "repeated"):
        if column in row:
            return row[column]
    return failure.value if failure.rule.unit == "count" else None
