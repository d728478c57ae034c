"""An installation that can be watched: its audit log anchored outside the database, and held against what was anchored.

Belongs here: handing the log and the file of heads to each other. Does not: what a head covers or what a break is (`audit`).
"""

from functools import cached_property
from itertools import islice
from typing import Any

from pipeline import audit as audit_stage
from pipeline.adapters.audit import ANCHORED, BEGINNING
from pipeline.adapters.head_file import HeadFile
from pipeline.errors import FatalError
from pipeline.installation import Installation


class Oversight(Installation):
    """An installation, with the heads of its audit log."""

    @cached_property
    def heads(self) -> HeadFile:
        home = self.settings.home
        return HeadFile(home / "audit", key=home / "keys" / "audit.pem", second=self.settings.audit_anchor)

    def anchor_audit(self, *, with_books: bool) -> dict[str, Any]:
        """Append a head to the file of heads, and to its second place; never in the way of what it comes after.

        Args:
            with_books: whether it vouches for the rows recorded since the last one, too; that costs what recording them cost, or less.

        Returns:
            `head` (its number), `acts`, `until` (rows before it are vouched for), and `problem`: why there is no new head - then the
            others are None - or why the second place lacks it; None where all is well.
        """
        try:
            with self.heads.alone():
                self.audit_log.seal()
                kept = self.heads.append(
                    lambda last: audit_stage.next_head(self.audit_log, last, beginning=BEGINNING, with_books=with_books)
                )
                self.audit_log.append(
                    ANCHORED, f"head {kept.head.number}", {"head": kept.head.number, "sha256": kept.digest}
                )
                problem = self.heads.copy()
        except (FatalError, OSError) as error:
            return {"head": None, "acts": None, "until": None, "problem": f"the audit log is not anchored: {error}"}
        return {"head": kept.head.number, "acts": kept.head.acts, "until": kept.head.until, "problem": problem}

    def verify_audit(self) -> dict[str, Any]:
        """Hold log and books against every head; returns `audit` (`whole` or `broken`), `acts, heads, anchored_until, breaks`."""
        self.audit_log.seal()
        kept, broken = self.heads.read()
        found = audit_stage.breaks(self.audit_log, kept, progress=self.progress)
        broken += islice(found, audit_stage.BREAKS_NAMED)
        return {
            "audit": "broken" if broken else "whole",
            "acts": self.audit_log.newest_seal()[0],
            "heads": len(kept),
            "anchored_until": kept[-1].head.until if kept else None,
            "breaks": broken,
        }
