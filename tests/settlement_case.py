"""An incident that is over, with its settlement files in a folder where they can be spoilt."""

import csv
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa

from pipeline.adapters.reconciliation import PlannedLines, Reconciliation
from pipeline.adapters.settlement_files import read_settlement_files
from pipeline.reconcile import Reconciled, reconcile
from tests.remediation_world import ELEVENTH, TWELFTH, WINDOWS, World, charged_and_approved, people

EVERYTHING_SETTLED = datetime(2023, 9, 20, 3, tzinfo=UTC)
TODAY = date(2023, 9, 20)


def incident_is_over(world: World) -> None:
    """Two credit cards and two check cards, charged wrongly, undone and rebilled; a week has passed."""
    charged_and_approved(world, [*people(world, 2), *people(world, 2, method="check_card")])
    world.step("cancel", ELEVENTH)
    world.step("refund")
    world.step("rebill", TWELFTH)
    world.turn(EVERYTHING_SETTLED)


class Settlement:
    """A world's settlement files, copied into a folder, and their reconciliation.

    Attributes:
        card, check: the wrong charges of `incident_is_over`: references of voided approvals, and of refunded withdrawals.
    """

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        folder.mkdir()
        for path in world.rail.settle():
            shutil.copy(path, folder / path.name)
        charged = world.rows(
            "SELECT replace(operation_id::text, '-', ''), payment_method FROM operation WHERE scope = %s ORDER BY customer_id",
            world.run_id,
        )
        self.card, self.check = ([r for r, m in charged if m == method] for method in ("credit_card", "check_card"))

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.csv"), key=lambda path: int(path.stem.rpartition("_")[2]))

    def lines(self, path: Path) -> list[dict[str, str]]:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def write(self, path: Path, lines: list[dict[str, str]]) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)

    def edit(self, change: Callable[[dict[str, str]], object], *, of: str, charge: str | None = None) -> dict[str, str]:
        """Change the first line of a type (of one charge); returns it as it was."""
        for path in self.files():
            lines = self.lines(path)
            for line in lines:
                if line["Type"] == of and charge in (None, line["Merchant Reference"]):
                    before = dict(line)
                    change(line)
                    self.write(path, lines)
                    return before
        raise AssertionError(f"no {of} line")

    def reconcile(self, *, today: date = TODAY) -> Reconciled:
        world = self.world
        approved = [plan for plan in world.incidents.plans(world.incident) if plan.approver]
        plans = [PlannedLines(plan.number, world.incidents.require_approved(world.incident, TWELFTH).lines,
                              WINDOWS.reversal.last, WINDOWS.rebill.last) for plan in approved]  # fmt: skip
        files = read_settlement_files(self.files(), world.settings.timezone)

        def ask(payment_ids: pa.Array, references: pa.Array) -> tuple[pa.Table, pa.Table]:
            return world.rail.states(payment_ids=payment_ids), world.rail.states(merchant_references=references)

        with Reconciliation(world.server, incident_id=world.incident, today=today) as work:
            return reconcile(work, files=files, plans=plans, ask=ask, today=today, holidays=frozenset(), currency="KRW")

    def breaks(self, result: Reconciled) -> dict[str, list[str]]:
        """Break kind to references, of this world: the database is shared with others, whose files are not here."""
        mine = (self.world.run_id, self.world.incident)
        return {
            kind: [
                item["reference"] for item in figures["first"] if not item["scope"] or item["scope"].startswith(mine)
            ]
            for kind, figures in result.breaks.items()
            if any(not item["scope"] or item["scope"].startswith(mine) for item in figures["first"])
        }

    def settled(self) -> list[tuple]:
        return self.world.rows(
            "SELECT o.kind, e.debit::text, e.credit::text, count(*), sum(e.amount_minor)::bigint FROM entry e JOIN operation o"
            " USING (operation_id) WHERE e.step = 'settled' AND (o.scope = %s OR o.incident_id = %s) GROUP BY 1, 2, 3 ORDER BY 1",
            self.world.run_id, self.world.incident,
        )  # fmt: skip
