"""The practice acquirer by itself: its isolation, its commands, and its own reading of the printed batch format."""

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.sandbox
from pipeline.sandbox.server import Counter, FolderTakenError

SOURCES = sorted(Path(pipeline.sandbox.__file__).parent.glob("*.py"))

# Adyen's pages modification-request-file/cancel-request and .../refund-request, blanks at the ends of records included.
PRINTED_UNDO = (
    "FH,1.0,TEST,Company,TestCompany,Default,{sequence},ws@Company.TestCompany,Modification,FileHeaderEchoData \n"
    "BH,1,BlockHeaderEchoData \nL,1,MerchantAccount,TestMerchant,{kind},Test Product 3,EchoData \n{sub_line}\nBT,1\nFT,1"
)


def command(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.sandbox", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def charge_file(sequence: int, *lines: tuple[str, str, int]) -> tuple[str, str]:
    """Name and text of an authorisation file, built line by line as the public pages describe it."""
    body = "".join(
        f"L,{n},MerchantAccount,M,Authorisation,{reference},echo {n}\nSL,1,PaymentDetails,{amount},0,KRW,shopper,,,,\n"
        f"SL,2,Recurring,RECURRING,{token}\nSL,3,ShopperInteraction,ContAuth\n"
        for n, (reference, token, amount) in enumerate(lines, 1)
    )
    head = f"FH,1.0,TEST,Company,C,P,{sequence},ws@Company.C,Authorisation,file echo\nBH,1,block echo\n"
    return f"P_{sequence}_Authorisation.csv", f"{head}{body}BT,{len(lines)}\nFT,1\n"


def is_free(folder: Path) -> bool:
    try:
        Counter(folder).close()
    except FolderTakenError:
        return False
    return True


@pytest.fixture
def counter(tmp_path):
    counter = Counter(tmp_path)
    pq.write_table(
        pa.table({"instrument_token": ["t"], "payment_method": ["check_card"], "issuer": ["BC"]}),
        tmp_path / "cards" / "c.parquet",
    )
    yield counter
    counter.close()


def take(counter: Counter, name: str, text: str) -> tuple[list[str], list[str]]:
    """The acknowledgement and the result of one file."""
    (counter.folder / "in" / name).write_text(text)
    counter.take_all()
    answers = [counter.folder / folder / f"{name}_{folder}" for folder in ("ack", "result")]
    return tuple(answer.read_text().splitlines() if answer.exists() else [] for answer in answers)


def test_it_imports_nothing_of_the_pipeline():
    seen = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                seen |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {name for name in seen if name.startswith("pipeline.sandbox.")}
    assert own
    assert {"duckdb", "pyarrow"} <= seen
    assert {name for name in seen if name.split(".")[0] in ("pipeline", "expectations", "dags")} == own


def test_serving_loads_nothing_of_the_pipeline():
    code = "import sys, pipeline.sandbox.__main__; print(*[m for m in sys.modules if m.startswith('pipeline')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {module for module in loaded if not module.startswith("pipeline.sandbox")} == {"pipeline"}
    assert "pipeline.sandbox.book" in loaded


@pytest.mark.parametrize(
    ("kind", "sub_line"),
    [("Cancel", "SL,1,Cancel,8452147852369014"), ("Refund", "SL,1,Refund,9630124578963201,123,2,EUR")],
)
def test_the_printed_undo_requests_are_read_and_answered_in_the_printed_form(counter, kind, sub_line):
    text = PRINTED_UNDO.format(sequence=1, kind=kind, sub_line=sub_line)
    ack, result = take(counter, "Default_1_Modification.csv", text)
    header = "FH,1.0,TEST,Company,TestCompany,Default,1,ws@Company.TestCompany,Modification,FileHeaderEchoData"
    assert ack == [header, "R,1,1", "N,NextFileSubmissionNumber,2"]
    original = sub_line.split(",")[3]
    assert result == [
        header, "BH,1,BlockHeaderEchoData", f"L,1,MerchantAccount,TestMerchant,{kind},Test Product 3,Error,EchoData",
        f"SL,1,ModificationResult,8800000000000001,{original},Transaction not found", "BT,1", "FT,1",
    ]  # fmt: skip


def test_a_charge_file_is_answered_in_the_printed_form(counter):
    _, result = take(counter, *charge_file(1, ("a", "t", 5), ("b", "nobody", 5)))
    assert result[2:] == [
        "L,1,MerchantAccount,M,Authorisation,a,Authorised,echo 1", "SL,1,PaymentResult,8800000000000001,000001,100,Approved",
        "L,2,MerchantAccount,M,Authorisation,b,Refused,echo 2", "SL,1,PaymentResult,8800000000000002,,800,Recurring contract not found",
        "BT,2", "FT,1",
    ]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "reason"), [
    ("BT,2", "BT,1", "promises 1 lines; the block has 2"),
    ("FT,1\n", "", "file trailer"),
    ("FH,1.0", "FH,2.0", "no file header"),
    (",P,1,", ",P,2,", "is not that of the file name"),
    ("BH,1,", "BH,2,", "no block header"),
    (",a,echo", ',"a",echo', "quoted"),
])  # fmt: skip
def test_a_broken_file_is_rejected_whole_with_the_reason(counter, old, new, reason):
    name, text = charge_file(1, ("a", "t", 5), ("b", "t", 5))
    assert text.count(old) == 1
    ack, result = take(counter, name, text.replace(old, new))
    assert reason in ack[1]
    assert (ack[2], result) == ("N,NextFileSubmissionNumber,1", [])
    assert counter.book.one("SELECT count(*) FROM payment") == 0
    ack, _ = take(counter, name, text)
    assert ack[-1] == "N,NextFileSubmissionNumber,2"


@pytest.mark.parametrize(("old", "new", "reason"), [
    ("PaymentDetails,7,0,KRW", "PaymentDetails,7.5,0,KRW", "amount is not a positive whole number"),
    ("PaymentDetails,7,0,KRW", "PaymentDetails,-7,0,KRW", "amount is not a positive whole number"),
    ("PaymentDetails,7,0,KRW", "PaymentDetails,7,2,KRW", "currency exponent is not that of the currency"),
    ("PaymentDetails,7,0,KRW,shopper,,,,", "PaymentDetails,7,0,KRW,shopper,,,", "sub-line 1 is not PaymentDetails"),
    ("RECURRING,u", "ONECLICK,u", "sub-line 2 is not Recurring"),
    ("L,2,Mer", "L,4,Mer", "line numbers rise by one from 1"),
])  # fmt: skip
def test_a_malformed_line_is_listed_and_no_money_moves_for_it(counter, old, new, reason):
    name, text = charge_file(1, ("a", "t", 5), ("b", "u", 7), ("c", "t", 9))
    assert text.count(old) == 1
    ack, result = take(counter, name, text.replace(old, new))
    assert ack[1:3] == ["R,1,3", f"E,2,b,{reason}"]
    assert [line.split(",")[6] for line in result if line.startswith("L,")] == [
        "Authorised",
        "ValidationError",
        "Authorised",
    ]
    assert counter.book.connection.execute("SELECT merchant_reference FROM payment ORDER BY 1").fetchall() == [
        ("a",),
        ("c",),
    ]


def test_one_reference_twice_in_a_file_is_booked_once_and_answered_twice(counter):
    _, result = take(counter, *charge_file(1, ("same", "t", 5), ("same", "t", 5)))
    assert [line.split(",")[3] for line in result if line.startswith("SL")] == ["8800000000000001"] * 2
    assert counter.book.one("SELECT count(*) FROM payment") == 1


def test_a_reference_is_known_again_after_another_version_of_the_database_has_hashed_it(counter):
    take(counter, *charge_file(1, ("once", "t", 100)))
    counter.book.connection.execute("UPDATE payment SET reference_key = 0; UPDATE version_of_keys SET value = '0.1'")
    counter.close()
    later = Counter(counter.folder)
    try:
        take(later, *charge_file(2, ("once", "t", 100)))
        assert later.book.one("SELECT count(*) FROM payment") == 1
    finally:
        later.close()


def test_a_card_that_was_closed_after_it_was_introduced_is_charged_nothing(counter):
    take(counter, *charge_file(1, ("a", "t", 100)))
    counter.answer("event", {"kind": "close_card", "instrument_token": "t"}, None, request_id="r")
    take(counter, *charge_file(2, ("b", "t", 100)))
    refusals = counter.book.connection.execute("SELECT refusal FROM payment ORDER BY payment_no").fetchall()
    assert refusals == [(None,), ("closed_card",)]


def test_thousands_of_lines_are_booked_to_the_won(counter):
    lines = [(f"ref-{n}", "t", n) for n in range(1, 5001)]
    _, result = take(counter, *charge_file(1, *lines))
    assert result[-2] == "BT,5000"
    assert [line.split(",")[5] for line in result if line.startswith("L,")] == [reference for reference, _, _ in lines]
    assert (
        counter.book.one("SELECT CAST(sum(amount_minor) AS BIGINT) FROM payment JOIN acquisition USING (payment_no)")
        == 12502500
    )


def test_cards_that_make_no_sense_are_refused_by_name(counter):
    pq.write_table(pa.table({"instrument_token": ["t"]}), counter.folder / "cards" / "half.parquet")
    (counter.folder / "cards" / "junk.parquet").write_bytes(b"not parquet")
    counter.take_all()
    assert sorted(path.name for path in (counter.folder / "cards").iterdir()) == [
        "half.parquet.refused",
        "junk.parquet.refused",
    ]
    assert "issuer, payment_method" in (counter.folder / "cards" / "half.parquet.refused").read_text()


def test_a_folder_is_held_by_one_process(counter):
    with pytest.raises(FolderTakenError):
        Counter(counter.folder)


def test_commands_work_while_it_serves_and_while_it_does_not(tmp_path):
    folder = tmp_path / "acquirer"
    assert command("clock", "--folder", folder, "2023-09-11T01:00:00+00:00").returncode == 0
    server = subprocess.Popen([sys.executable, "-m", "pipeline.sandbox", "serve", "--folder", folder])
    try:
        deadline = time.monotonic() + 20
        while is_free(folder):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        said = json.loads(command("fault", "--folder", folder, "over_limit=0.5").stdout)
        assert (said["pid"], said["settings"]["over_limit"], said["now"]) == (
            server.pid,
            "0.5",
            "2023-09-11T01:00:00+00:00",
        )
        assert command("export-book", "--folder", folder, "--to", tmp_path / "one.parquet").returncode == 0
        wrong = command("fault", "--folder", folder, "over_limit=2")
        assert (wrong.returncode, "a share between 0 and 1" in wrong.stderr) == (2, True)
    finally:
        server.terminate()
        assert server.wait(timeout=20) == 0
    assert json.loads(command("status", "--folder", folder).stdout)["settings"]["over_limit"] == "0.5"
    assert command("export-book", "--folder", folder, "--to", tmp_path / "two.parquet").returncode == 0
    assert pq.read_schema(tmp_path / "one.parquet") == pq.read_schema(tmp_path / "two.parquet")


def test_it_ends_with_the_process_it_was_started_for(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pipeline.sandbox",
            "serve",
            "--folder",
            tmp_path,
            "--until-parent-exits",
            str(parent.pid),
        ]
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "book.duckdb").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert server.poll() is None
    parent.communicate(b"\n")
    assert server.wait(timeout=20) == 0


def test_what_was_settled_is_settled_once(counter):
    counter.book.set({"clock": "2023-09-11T01:00:00+00:00"})
    take(counter, *charge_file(1, ("a", "t", 500), ("b", "t", 700)))
    counter.answer("clock", {"as_of": "2023-09-13T00:00:00+00:00"}, None, request_id="1")
    take(counter, *charge_file(2, ("c", "t", 900)))
    for day in ("2023-09-14", "2023-09-15"):
        counter.answer("clock", {"as_of": f"{day}T00:00:00+00:00"}, None, request_id=day)
    files = sorted((counter.folder / "settlement").iterdir())
    assert [path.name for path in files] == [
        "settlement_detail_report_batch_1.csv",
        "settlement_detail_report_batch_2.csv",
    ]
    assert files[0].read_text().splitlines()[0] == (
        "Company Account,Merchant Account,Psp Reference,Merchant Reference,Payment Method,Creation Date,TimeZone,Type,"
        "Modification Reference,Gross Currency,Gross Debit (GC),Gross Credit (GC),Exchange Rate,Net Currency,Net Debit (NC),"
        "Net Credit (NC),Commission (NC),Markup (NC),Scheme Fees (NC),Interchange (NC),Batch Number"
    )
    rows = [line.split(",") for path in files for line in path.read_text().splitlines()[1:]]
    assert sorted((row[3], row[11], row[20]) for row in rows) == [
        ("a", "500", "1"),
        ("b", "700", "1"),
        ("c", "900", "2"),
    ]


def test_a_request_that_makes_no_sense_gets_an_answer_that_says_so(counter):
    (counter.folder / "request" / "r.json").write_text(json.dumps({"verb": "dance"}))
    (counter.folder / "request" / "s.json").write_text("{")
    counter.take_all()
    answers = {path.stem: json.loads(path.read_text())["error"] for path in (counter.folder / "answer").iterdir()}
    assert "no verb 'dance'" in answers["r"]
    assert "JSONDecodeError" in answers["s"]
    assert not list((counter.folder / "request").iterdir())
