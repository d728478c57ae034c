"""A month's charge file in an installation that charges at a real practice acquirer, and what the acquirer's own book says of it."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bootstrap import Makegood
from pipeline.core.billing_period import BillingPeriod
from tests.charge_files import charges

ROOT = Path(__file__).resolve().parents[1]

PERIODS = (BillingPeriod(2023, 9).plus(n) for n in itertools.count())
"""A period for every test: one run of a period is charged, and the tests of this module share a database."""


RELEASE = """
import sys
from datetime import datetime
from pipeline.bootstrap import open_makegood
from pipeline.errors import MakegoodError

home, at, run = sys.argv[1:]
try:
    open_makegood(as_of=datetime.fromisoformat(at)).release(run)
except MakegoodError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Month:
    """One period of an installation, its charge file and the day it is charged on."""

    def __init__(self, settings, source: Path) -> None:
        self.settings, self.source = settings, source
        self.period = next(PERIODS)
        self.as_of = datetime.combine(self.period.first_day, datetime.min.time(), settings.timezone) + timedelta(
            hours=10
        )

    def app(self, **changed) -> Makegood:
        return Makegood(replace(self.settings, **changed), as_of=self.as_of)

    def land(self, table: pa.Table, decision: str = "release") -> str:
        """Put `table` into the source, land it, and let the gate have said `decision`; returns the run's id."""
        folder = self.source / f"billing_period={self.period}"
        folder.mkdir(parents=True, exist_ok=True)
        labelled = table.set_column(
            table.column_names.index("billing_period"), "billing_period", pa.repeat(str(self.period), table.num_rows)
        )
        pq.write_table(labelled, folder / "charges.parquet")
        app = self.app()
        run_id = app.extract(str(self.source), self.period).run.run_id
        app.register.record_verification(
            run_id, suite_digest="s", history_digest="none", decision=decision, findings=[], not_judged=[], report="x"
        )
        return run_id

    def approvals(self) -> dict[str, list[int]]:
        """By token, what the acquirer's own book has approved in this period's clock."""
        path = self.settings.home / "book.parquet"
        app = self.app()
        with app.rail() as rail:
            rail.export_book(path)
        found: dict[str, list[int]] = {}
        references = {row[0] for row in self.rows(
            "SELECT replace(operation_id::text, '-', '') FROM operation WHERE billing_period = %s", str(self.period))}  # fmt: skip
        for row in pq.read_table(path).to_pylist():
            if row["kind"] == "authorise" and row["status"] == "succeeded" and row["merchant_reference"] in references:
                found.setdefault(row["instrument_token"], []).append(row["amount_minor"])
        return found

    def call(self, run_id: str, failpoint: str) -> subprocess.Popen:
        """A process of its own that releases a run, with a fault armed (`pipeline.failpoints.arm`)."""
        arguments = [str(self.settings.home), self.as_of.isoformat(), run_id]
        environment = os.environ | {"MAKEGOOD_FAILPOINT": failpoint, "MAKEGOOD_HOME": str(self.settings.home)}
        return subprocess.Popen(
            [sys.executable, "-c", RELEASE, *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE
        )

    def rows(self, query: str, *values) -> list[tuple]:
        with self.app().server.connect() as connection:
            return connection.execute(query, values).fetchall()


def bills(count: int, **changed) -> pa.Table:
    """`count` charges, each on a card of its own."""
    table = charges(count, **changed)
    tokens = pa.array([f"tok-{customer}" for customer in table["customer_id"].to_pylist()])
    return table.set_column(table.column_names.index("instrument_token"), "instrument_token", tokens)


def expected(table: pa.Table) -> dict[str, list[int]]:
    return {row["instrument_token"]: [row["amount_minor"]] for row in table.to_pylist() if row["amount_minor"] > 0}
