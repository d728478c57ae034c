"""Damaged settlement files, Parquet files, plans, contacts, settings and answers: refused with a message, or read as they say."""

import json
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from charge_files import charges

from pipeline.adapters.holiday_calendar import holidays_around
from pipeline.adapters.lead_times import LeadTimes
from pipeline.adapters.plan_file import LINE_KEY, plan_digest, write_plan
from pipeline.adapters.rails.adyen_batch import AdyenBatchRail, parse_acknowledgement, parse_result, read_request
from pipeline.adapters.settlement_files import NEEDED_COLUMNS, read_settlement_files
from pipeline.calibrate import write as write_learned
from pipeline.core.calibration import Learned
from pipeline.core.settlement import NOT_CUSTOMERS
from pipeline.errors import MakegoodError
from pipeline.judge import read_learned
from pipeline.schema import OPERATION_SCHEMA, PLAN_SCHEMA
from tests.fuzz.campaign import campaign, refusal
from tests.fuzz.test_charge_files import imports, slowly
from tests.hostile.reading import Reading

SEOUL = ZoneInfo("Asia/Seoul")


# -- settlement files -----------------------------------------------------------------------------------------------


def settlement_file(batch: int) -> bytes:
    rows = [",".join([*NEEDED_COLUMNS, "Payment Method"])]
    for n in range(1, 15):
        debit, credit = ("", f"{n}00.50") if n % 3 else (f"{n}7", "")
        kind = "Fee" if n == 7 else "Refunded" if debit else "Settled"
        said = [
            "M",
            f"88{n:014d}",
            f"{n:032x}",
            "2023-09-12 10:00:00",
            "KST",
            kind,
            "",
            "TWD",
            debit,
            credit,
            str(batch),
            "visa",
        ]
        rows.append(",".join(said))
    return "\n".join([*rows, ""]).encode()


def minor_units(content: bytes) -> int:
    """What customers were paid and charged, by the standard library alone (all currencies here have two digits)."""
    header, rows = slowly(content)
    total = Decimal(0)
    for row in rows:
        line = dict(zip(header, row, strict=True))
        if line["Type"] not in NOT_CUSTOMERS:
            total += Decimal(line["Gross Debit (GC)"] or line["Gross Credit (GC)"])
    return int(total * 100)


def test_damaged_settlement_files_are_named_or_their_totals_agree_and_the_others_are_read(tmp_path):
    good, bad = tmp_path / "good_1.csv", tmp_path / "bad_2.csv"
    good.write_bytes(settlement_file(1))

    def parse(content: bytes, _: Random) -> str | None:
        bad.write_bytes(content)
        read = read_settlement_files([bad, good], SEOUL)
        names = {file.name for file in read.files}
        assert ({good.name, bad.name} - names) <= read.refused.keys() | read.duplicates.keys()
        assert good.name not in read.refused, "the other file has nothing to do with it"
        for file in read.files:
            written = (tmp_path / file.name).read_bytes()
            assert file.debit_minor + file.credit_minor == minor_units(written), "totals differ"
            assert file.row_count == len(slowly(written)[1]), "lines differ"
        return read.refused.get(bad.name)

    came_of = campaign("settlement", 250, [settlement_file(2)], parse)
    assert min(came_of["read"], came_of["refused"]) > 0, came_of


# -- Parquet: in a process of its own, which a reader written in C++ may take down ------------------------------------


@pytest.fixture(scope="module")
def reading() -> Iterator[Reading]:
    reading = Reading()
    yield reading
    reading.close()


def contacts(path: Path) -> None:
    rows = [
        {"customer_id": f"{n:07d}", "phone": f"010-5555-{n:04d}", "email": f"secret@example{n}", "language": "ko"}
        for n in range(9)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def import_parquet(path: Path) -> None:
    header, rows = slowly(imports().encode())
    table = pa.table({name: [row[place] for row in rows] for place, name in enumerate(header)})
    amounts = table["amount_minor"].cast(pa.int64())
    table = table.set_column(header.index("amount_minor"), "amount_minor", amounts)
    pq.write_table(
        table.set_column(header.index("bill_cycle"), "bill_cycle", table["bill_cycle"].cast(pa.int64())), path
    )


def plan(path: Path) -> None:
    line = {
        "customer_id": "C",
        "billing_period": "2023-09",
        "bill_cycle": 1,
        "occurrence": 1,
        "instrument_token": "tok_secret_1",
    }
    lines = pa.Table.from_pylist([line | {"customer_id": f"C{n}"} for n in range(9)], PLAN_SCHEMA).sort_by(LINE_KEY)
    header = {"incident_id": "inc-1"}
    digest = plan_digest(header, lines)
    path.write_bytes(write_plan(path.parent, header, lines, digest).read_bytes())
    path.with_suffix(".digest").write_text(digest)


def with_dictionaries(path: Path) -> None:
    pq.write_table(charges(40, plan_code="P"), path, data_page_size=200, row_group_size=15)


def without(path: Path) -> None:
    pq.write_table(charges(40), path, use_dictionary=False, compression="none", write_page_checksum=True)


PARQUET = {
    "land": ([with_dictionaries, without], 700), "import": ([import_parquet], 300), "contacts": ([contacts], 300), "plan": ([plan], 300),
}  # fmt: skip
"""Reader, what makes its valid files, and how many damaged ones it is given."""


@pytest.mark.parametrize("reader", PARQUET)
def test_damaged_parquet_files_are_refused_or_read_whole(reading, tmp_path, reader):
    makers, inputs = PARQUET[reader]
    folder = tmp_path / "source" / "billing_period=2023-09"
    folder.mkdir(parents=True)
    path = folder / "a.parquet"
    valid, rows = [], []
    for make in makers:
        make(path)
        valid.append(path.read_bytes())
        rows.append(pq.read_metadata(path).num_rows)
        place = folder.parent if reader == "land" else path
        assert reading.read(reader, place)["result"]["rows"] == rows[-1]
    (plans := list(folder.glob("*/plan.parquet"))) and [found.unlink() or found.parent.rmdir() for found in plans]

    def parse(content: bytes, _: Random) -> str | None:
        path.write_bytes(content)
        found = reading.read(reader, place)
        assert found.keys() & {"result", "refused"}, found
        assert found["seconds"] < 20 and found["mib"] < 600, found
        if reader == "plan" and "result" in found:
            assert found["result"]["rows"] == rows[0]
        return found.get("refused")

    came_of = campaign(f"parquet_{reader}", inputs, valid, parse)
    assert came_of["refused"] > 0, came_of


# -- settings -------------------------------------------------------------------------------------------------------

LEAD_TIMES = b"""{"payment_methods": {"credit_card": {"void_days": 3, "refund_days": 4}},
 "issuers": {"Hanbit": {"check_card": {"refund_days": 2, "business_days": false, "cutoff_hour": 16}}},
 "rails": {"practice": {"answer_days": 0}}}"""
HOLIDAYS = b'{"country": "KR",\n "add": ["2023-10-02", "2023-12-25"],\n "remove": ["2023-09-28"]}'


@pytest.mark.parametrize(("name", "valid", "read"), [
    ("lead_times.json", LEAD_TIMES, lambda home: (LeadTimes(home), LeadTimes(home).answer_days("practice"))),
    ("holidays.json", HOLIDAYS, lambda home: holidays_around(date(2023, 9, 1), timezone=SEOUL, home=home)),
])  # fmt: skip
def test_damaged_settings_are_refused(tmp_path, name, valid, read):
    def parse(content: bytes, _: Random) -> str | None:
        (tmp_path / name).write_bytes(content)
        return refusal(lambda: read(tmp_path))

    came_of = campaign(name, 400, [valid], parse)
    assert min(came_of["read"], came_of["refused"]) > 0, came_of


def test_a_damaged_proposal_of_bounds_is_refused(tmp_path):
    path = tmp_path / "proposal.json"
    nothing_learned = {"subject": "rule", "name": "mean_drift", "cohort": "run", "reason": "too few months"}
    write_learned(
        Learned({"suites": "s", "months": ["2023-08"]}, {"mean_drift": (None, 0.25)}, (), [nothing_learned], None), path
    )
    valid = path.read_bytes()

    def parse(content: bytes, _: Random) -> str | None:
        path.write_bytes(content)
        message = refusal(lambda: read_learned(path))
        if message is None:
            assert json.loads(content.decode("utf-8-sig")) == json.loads(valid), "its digest vouches for what it says"
        return message

    assert campaign("proposal", 500, [valid], parse)["refused"] > 0


# -- the acquirer's answers -----------------------------------------------------------------------------------------


def request(folder: Path, kind: str) -> bytes:
    rows = [
        {"merchant_reference": f"{n:032x}", "kind": kind, "customer_id": f"{n:07d}", "instrument_token": f"tok_secret_{n}",
         "amount_minor": 100 * n, "currency": "KRW", "original_payment_id": None if kind == "charge" else f"88{n:014d}"}
        for n in range(1, 12)
    ]  # fmt: skip
    rail = AdyenBatchRail(folder, outbox=folder)
    return rail.write(pa.Table.from_pylist(rows, OPERATION_SCHEMA), sequence=1, echo="a run wave 0").path.read_bytes()


HEAD = b"FH,1.0,TEST,Company,Makegood,Makegood,1,ws@Company.Makegood,Authorisation,run wave 0\n"
RESULT = HEAD + b"BH,1,\n" + b"".join(
    b"L,%d,MerchantAccount,M,Authorisation,%032x,%s,charge\nSL,1,PaymentResult,88%014d,%s\n"
    % (n, n, b"Success" if n % 4 else b"Refused", n, b"" if n % 4 else b"Not enough balance")
    for n in range(1, 12)
) + b"BT,11\nFT,1\n"  # fmt: skip
ACKNOWLEDGED = HEAD + b"R,1,1,11\nN,NextFileSubmissionNumber,2\n"


@pytest.mark.parametrize(("name", "make", "read"), [
    ("request_charge", lambda folder: request(folder, "charge"), lambda content: read_request(content, name="a.csv")),
    ("request_void", lambda folder: request(folder, "void"), lambda content: read_request(content, name="a.csv")),
    ("request_refund", lambda folder: request(folder, "refund"), lambda content: read_request(content, name="a.csv")),
    ("result", lambda folder: RESULT, lambda content: parse_result(content, name="a.csv")),
    ("acknowledgement", lambda folder: ACKNOWLEDGED, parse_acknowledgement),
])  # fmt: skip
def test_damaged_answers_raise_nothing_but_our_own_errors(tmp_path, name: str, make: Callable, read: Callable):
    valid = make(tmp_path)
    read(valid)

    def parse(content: bytes, _: Random) -> str | None:
        try:
            read(content)
        except MakegoodError:
            return "refused"
        return None

    assert campaign(f"rail_{name}", 800, [valid], parse)["refused"] > 0
