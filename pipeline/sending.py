"""What an operator sees and does about sending itself: where it stands, and how books are repaired that are behind the acquirer.

Belongs here: handing the books, the rail, runs and plans to `repair`. Does not: any rule of it, or sending.
"""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters.plan_file import read_plan
from pipeline.adapters.reentry import OF_A_REBILL, OF_A_REVERSAL, OF_A_RUN, operations_of
from pipeline.errors import FatalError, UsageError
from pipeline.ports import PaymentRail
from pipeline.remediation import Remediation
from pipeline.repair import NEEDS_TWO, Repair


class Sending(Remediation):
    """An installation, with what keeps its sending in order."""

    def sending_status(self) -> dict[str, Any]:
        """Where sending stands; changes nothing.

        Returns:
            `stopped_by` (None while it is allowed), `unfinished` (operations not sent, sent or unknown, by scope), `damaged` (answers that
            could not be trusted), `findings` (as `sending_repair`), `last_sequence` and `next_sequence` (of the books and of the acquirer).
        """
        with self.rail() as rail:
            return {
                "stopped_by": self.register.stopped_by(),
                "unfinished": self.ledger.unfinished(),
                "damaged": self.ledger.damaged_answers(),
                "findings": [finding.to_json() for finding in self._repair(rail).find()],
                "last_sequence": self.ledger.last_sequence(rail.identity),
                "next_sequence": rail.next_sequence(),
            }

    def sending_repair(self, *, apply: bool = False) -> dict[str, Any]:
        """What no sender puts right by itself, and - with `apply`, as the person whose login the settings carry - putting it right.

        Returns:
            `findings`, `applied`, and `people_needed` to let sending go on.

        Raises:
            UsageError: nobody is logged in.
            FatalError: a file cannot be entered; what was found before it is done, and calling again goes on.
        """
        with self.rail() as rail:
            repair = self._repair(rail)
            if not apply:
                found = repair.find()
            else:
                with self.register.acting("repair_sending", "sending", self.settings.login, self.settings.password):
                    pass
                found = repair.apply()
        needs_two = any(finding.kind in NEEDS_TWO for finding in found)
        return {
            "findings": [finding.to_json() for finding in found],
            "applied": apply,
            "people_needed": 2 if needs_two else 0,
        }

    def _repair(self, rail: PaymentRail) -> Repair:
        return Repair(self.ledger, rail, self._sender(rail), self._meant)

    def _meant(self, scope: str, wave: int, operations: pa.Table) -> pa.Table:
        """The rows that the books once had of the operations in a file."""
        incident_id, _, rest = scope.partition("/")
        if not rest:
            facts = pq.read_table(self._landed(scope).path)
            return operations_of(operations, facts, OF_A_RUN, scope=scope, wave=wave, incident_id=None)
        digest, _, step = rest.partition("/")
        try:
            plan = self.incidents.plan(digest)
        except UsageError:
            raise FatalError(
                f"the plan {digest} of {incident_id}, of which a file went out, is not in this database: restore a backup that has it"
            ) from None
        facts = read_plan(self.settings.home / plan.file, plan.plan_digest).lines
        columns = OF_A_REBILL if step == "rebill" else OF_A_REVERSAL
        return operations_of(operations, facts, columns, scope=scope, wave=wave, incident_id=incident_id)
