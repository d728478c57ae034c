"""What people tell the gate: changes declared ahead, and which findings were real.

Belongs here: checking what is said against suites and runs, and handing it to the register. Does not: judging (`verify`), or the
database's rules (`adapters.declared_changes`, `adapters.finding_decisions`).
"""

from functools import cached_property
from typing import Any

from pipeline.adapters.finding_decisions import FindingDecisions
from pipeline.core.declared import BY_NAME, DeclaredChange
from pipeline.errors import UsageError
from pipeline.installation import Installation
from pipeline.judge import load_suites


class Declarations(Installation):
    """An installation, with what people declare about its months."""

    @cached_property
    def finding_decisions(self) -> FindingDecisions:
        return FindingDecisions(self.server)

    def declare_change(
        self,
        kind: str,
        cohort: str,
        first_period: str,
        last_period: str,
        *,
        percent: float | None,
        rule: str | None,
        reason: str,
    ) -> dict[str, Any]:
        """Declare a change in the name of the person whose login the settings carry; returns it as it stands.

        Raises:
            UsageError: it cannot be meant, or names a rule that nothing lifts.
        """
        try:
            change = DeclaredChange(kind, cohort, first_period, last_period, percent, rule, reason)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if rule is not None:
            waivable = [each.name for each in load_suites(self.settings.suites).rules if BY_NAME in each.lifted_by]
            if rule not in waivable:
                raise UsageError(f"rule {rule!r} is none that may be waived; those are: {', '.join(waivable)}")
        return self.changes.declare(change, login=self.settings.login, password=self.settings.password).to_json()

    def approve_change(self, change_id: str) -> dict[str, Any]:
        """Agree to a change that somebody else declared; returns it as it stands."""
        return self.changes.approve(change_id, login=self.settings.login, password=self.settings.password).to_json()

    def withdraw_change(self, change_id: str, *, reason: str) -> dict[str, Any]:
        """Take a change back, whoever declared it; returns it as it stands."""
        settings = self.settings
        return self.changes.withdraw(
            change_id, reason=reason, login=settings.login, password=settings.password
        ).to_json()

    def list_changes(self) -> list[dict[str, Any]]:
        """Every change ever declared, newest first."""
        return [record.to_json() for record in self.changes.all()]
