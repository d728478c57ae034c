"""Charges and bills of a few customers, written down row by row, for tests of assessing and planning."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from charge_files import CHARGE
from incident_story import SEOUL

from pipeline import assess as assess_stage
from pipeline import plan as plan_stage
from pipeline.adapters.holiday_calendar import holidays_around
from pipeline.adapters.incident_books import BILL_SCHEMA, REBILLED_SCHEMA, UNDONE_SCHEMA, WRONG_SCHEMA
from pipeline.adapters.incident_lines import LIVE_SCHEMA, lay_out
from pipeline.adapters.lead_times import LeadTimes
from pipeline.adapters.plan_file import digest_of, lines_digest
from pipeline.core.window import Windows, default_windows
from pipeline.schema import LANDED_SCHEMA

DAY = date(2023, 9, 10)
INCIDENT = SimpleNamespace(
    incident_id="inc-2023-09-00000000", billing_period="2023-09", charge_scope="2023-09-000000000001", issuers=None,
    corrected_run="2023-09-000000000002",
)  # fmt: skip


class Case:
    """Charges and bills of a few customers, written down row by row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wrong: list[dict] = []
        self.right: list[dict] = []
        self.live: list[dict] = []
        self.undone: list[dict] = []
        self.rebilled: list[dict] = []
        self.elsewhere: list[dict] = []
        self.issuers: tuple[str, ...] | None = None

    def charged(
        self, customer: str, amount: int, *, state: str = "succeeded", live: str | None = "authorised", occurrence: int = 1,
        refunded: int = 0, **columns: Any,
    ) -> "Case":  # fmt: skip
        key = f"{customer}-{occurrence}"
        self.wrong.append(
            {"operation_id": f"op-{key}", "customer_id": customer, "bill_cycle": 1, "occurrence": occurrence,
             "charge_id": f"W-{key}", "amount_minor": amount, "currency": "KRW", "payment_method": "credit_card", "issuer": "HANBIT",
             "instrument_token": f"tok-{customer}", "state": state, "payment_id": f"pay-{key}" if state == "succeeded" else None}
            | columns
        )  # fmt: skip
        if state == "succeeded" and live:
            self.live.append(
                {"payment_id": f"pay-{key}", "state": live, "charged_minor": amount, "refunded_minor": refunded,
                 "refundable_minor": amount - refunded if live == "acquired" else 0}
            )  # fmt: skip
        return self

    def bill(self, customer: str, amount: int | None, **columns: Any) -> "Case":
        row = CHARGE | {"charge_id": f"R-{customer}", "customer_id": customer, "amount_minor": amount, "issuer": "HANBIT",
                        "instrument_token": f"tok-{customer}", "source_file": "f", "source_row": len(self.right) + 1}  # fmt: skip
        self.right.append(row | columns)
        return self

    def _laid_out(self):
        path = self.folder / "right.parquet"
        pq.write_table(pa.Table.from_pylist(self.right, LANDED_SCHEMA), path)
        return lay_out(
            billing_period="2023-09", wrong=pa.Table.from_pylist(self.wrong, WRONG_SCHEMA),
            elsewhere=pa.Table.from_pylist(self.elsewhere, BILL_SCHEMA), corrected=path, issuers=self.issuers,
        )  # fmt: skip

    def assess(self) -> assess_stage.Assessment:
        with self._laid_out() as lines:
            return assess_stage.assess("inc", "2023-09", lines)

    def draft(self, *, windows: Windows | None = None, plans: list | None = None, **policy: bool) -> plan_stage.Draft:
        windows = windows or default_windows(DAY)
        times = LeadTimes(self.folder)
        holidays = holidays_around(DAY, timezone=SEOUL, home=self.folder)
        facts = plan_stage.Facts(
            live=pa.Table.from_pylist(self.live, LIVE_SCHEMA),
            undone=pa.Table.from_pylist(self.undone, UNDONE_SCHEMA),
            rebilled=pa.Table.from_pylist(self.rebilled, REBILLED_SCHEMA),
            clock=lambda method, issuer: tuple(
                times.of(method, issuer).money_back_by(kind, windows.reversal.last, holidays)
                for kind in ("void", "refund")
            ),
        )
        with self._laid_out() as lines:
            return plan_stage.plan(
                INCIDENT, lines, facts=facts, windows=windows, policy=plan_stage.Policy(**policy), plans=plans or [],
                lines_digest=lines_digest, digest_of=digest_of,
            )  # fmt: skip

    def line(self, customer: str = "c", occurrence: int | None = None, **policy: bool) -> dict:
        found = [
            row
            for row in self.draft(**policy).lines.to_pylist()
            if row["customer_id"] == customer and occurrence in (None, row["occurrence"])
        ]
        assert len(found) == 1
        return found[0]
