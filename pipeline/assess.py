"""Assess an incident: who was charged too much, too little, twice or for nothing, and by how much in all.

Belongs here: what the figures of the blast radius are. Does not: the classes themselves (`sql/assess.sql`), or what is done
about them (`plan`). Counts and sums only; a customer is named by id alone, and only as an exception to be looked at.
"""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.incident_words import CLASSES
from pipeline.errors import UsageError

NAMED = ("not_billed", "unusable", "twice", "missing", "unknown")
"""Classes whose customers a person may want to look up."""

NAMED_AT_MOST = 20
"""Customers named per class: enough to look at, few enough to read."""

FIGURES = ("lines", "charged_minor", "due_minor", "net_minor")


class Lines(Protocol):
    """The incident's charges beside the right bills; see `adapters.incident_lines`."""

    def totals(self) -> list[dict[str, Any]]: ...
    def examples(self, classes: tuple[str, ...], limit: int) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Assessment:
    """The blast radius.

    Attributes:
        currency: of all amounts.
        classes: by class in the order of `CLASSES`: lines, charged_minor, due_minor, net_minor (positive: customers paid too much).
        total: the same over all classes.
        cells: the same by class, issuer and payment method, with customers.
        examples: class, customer_id, bill_cycle, occurrence, wrong_minor, right_minor of some lines of `NAMED` classes.
    """

    incident_id: str
    billing_period: str
    currency: str
    classes: dict[str, dict[str, int]]
    total: dict[str, int]
    cells: list[dict[str, Any]]
    examples: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__ if name != "examples"}

    def save(self, path: Path) -> None:
        """Keep it in a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Assessment":
        """Read back what `save` kept."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def assess(incident_id: str, billing_period: str, lines: Lines) -> Assessment:
    """Add up an incident's lines.

    Raises:
        UsageError: they are in several currencies: no sum means anything.
    """
    cells = lines.totals()
    currencies = sorted({cell["currency"] for cell in cells})
    if len(currencies) > 1:
        raise UsageError(f"{incident_id} spans {' and '.join(currencies)}; open one incident per currency, by --issuer")
    by_class: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    for cell in cells:
        for figure in FIGURES:
            by_class[cell["class"]][figure] += cell[figure]
    return Assessment(
        incident_id=incident_id,
        billing_period=billing_period,
        currency=currencies[0] if currencies else "XXX",
        classes={name: by_class[name] for name in CLASSES if name in by_class},
        total={figure: sum(cell[figure] for cell in cells) for figure in FIGURES},
        cells=cells,
        examples=lines.examples(NAMED, NAMED_AT_MOST),
    )
