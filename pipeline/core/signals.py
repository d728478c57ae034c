"""What can be odd about a bill beside the account's own bills: the signals, by name, and among which bills each is counted.

Belongs here: the names that `sql/flags.sql`, `sql/signals.sql` and the suites share. Does not: how a signal is measured (there), from
which number on it is too many (`expectations/suites`), or what it means together with others (`core.diagnosis`).
"""

from collections.abc import Mapping
from types import MappingProxyType

SIGNALS: Mapping[str, str] = MappingProxyType(
    {
        "times_10": "steady",
        "times_100": "steady",
        "times_1000": "steady",
        "tenth": "steady",
        "hundredth": "steady",
        "doubled": "steady",
        "halved": "steady",
        "far_above": "steady",
        "far_below": "steady",
        "zeroed": "steady",
        "sign_flipped": "steady",
        "rounded_off": "billed_anew",
        "joined": "billed",
        "returned": "billed",
        "plan_changed": "continued",
        "method_changed": "continued",
        "issuer_changed": "continued",
        "card_changed": "continued",
        "base_changed": "kept_plan_with_base",
        "discount_dropped": "discounted",
        "discount_doubled": "discounted",
        "usage_vanished": "metered",
        "usage_high": "metered",
    }
)
"""Signal, and the bills among which it is counted: both are columns of `sql/flags.sql`.

`steady`: three earlier bills, all positive, the highest at most a quarter above the lowest. `continued`: billed last month too.
`kept_plan_with_base`: on the plan of last month, both bills with components. `discounted`: with a discount last month. `metered`: with
usage in both months before. `billed_anew`: positive, and not last month's amount.
"""

OF_ATTRIBUTES = frozenset({"continued", "kept_plan_with_base", "discounted", "metered"})
"""Bills counted by more than their amounts, which are laid out two months back only: such a signal has one month of normal."""

COUNTED_APART = (
    "missing", "cut_off", "neighbours", "another_card", "shared_card", "second_cycle", "date_like", "id_like", "off_grid",
    "heaped", "at_the_maximum", "stale_base", "repeated",
)  # fmt: skip
"""Signals that `sql/signals.sql` counts: they are about other rows than an account's own."""

TOLD_BY_MANY_MONTHS = frozenset({*SIGNALS, "missing"} - {"usage_high"})
"""Signals whose number is about the same in every month, so that their mean and spread say more than slack. Usage has its seasons; of
`joined` too few are looked for in this way, not too many: campaigns bring customers."""
