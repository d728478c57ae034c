"""The batch format as the rail writes and reads it, against the examples Adyen prints and against damage.

No acquirer here: files and bytes only. The printed examples are short quotations from the pages under
docs.adyen.com/development-resources/batch-processing/advanced-sftp-batch-files, named beside each.
"""

import dataclasses
import threading

import pyarrow as pa
import pytest

from pipeline.adapters.rails.adyen_batch import (
    AdyenBatchRail,
    MerchantAccount,
    parse_acknowledgement,
    parse_result,
    read_request,
)
from pipeline.errors import DamagedAnswer, FatalError, FileRefused, OutcomeUnknown, SenderLost
from pipeline.ports import Noted
from pipeline.schema import OPERATION_SCHEMA

PRINTED = MerchantAccount("TEST", "TestCompany", "TestMerchant", "Default", "ws@Company.TestCompany")

# batch-request-file/modification-request-file/cancel-request; its records end in blanks, which are kept here.
CANCEL = (
    "FH,1.0,TEST,Company,TestCompany,Default,3,ws@Company.TestCompany,Modification,FileHeaderEchoData \n"
    "BH,1,BlockHeaderEchoData \n"
    "L,1,MerchantAccount,TestMerchant,Cancel,Test Product 3,EchoData \n"
    "SL,1,Cancel,8452147852369014\n"
    "BT,1\n"
    "FT,1"
)
# batch-request-file/modification-request-file/refund-request
REFUND = CANCEL.replace(",Cancel,Test", ",Refund,Test").replace(
    "SL,1,Cancel,8452147852369014", "SL,1,Refund,9630124578963201,123,2,EUR"
)
# batch-result-file/authorisation-result-file
AUTHORISATION_RESULT = (
    "FH,1.0,TEST,Company,TestCompany,Default,206,ws@Company.TestCompany,Authorisation,FileHeaderEchoData\n"
    "BH,1,BlockHeaderEchoData\n"
    "L,1,MerchantAccount,TestMerchant,Authorisation,9874563210158741,Authorised,EchoData\n"
    "SL,1,PaymentResult,9874563210158741,85421,100,Approved\n"
    "L,2,MerchantAccount,TestMerchant,Authorisation,9874563210157874,Refused,\n"
    "SL,1,PaymentResult,9874563210157874,,140,Invalid expiry date\n"
    "BT,2\n"
    "FT,1"
)
# batch-result-file/modification-result-file, its first line
MODIFICATION_RESULT = (
    "FH,1.0,TEST,Company,TestCompany,Default,1,ws@Company.TestCompany,Modification,FileHeaderEchoData\n"
    "BH,1,BlockHeaderEchoData\n"
    "L,1,MerchantAccount,TestMerchant,Capture,9874560210158741,Success,\n"
    "SL,1,ModificationResult,9874560210158741,9248732154865245,\n"
    "BT,1\n"
    "FT,1"
)
# batch-acknowledgement-file
ACKNOWLEDGEMENT = (
    "FH,1.0,TEST,Company,TestCompany,CaptureOverAuthAmount,1,ws@Company.TestCompany,Modification,EchoData_BatchAck\n"
    "R,2,8\n"
    "N,NextFileSubmissionNumber,2"
)


def operations(*rows: tuple) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(OPERATION_SCHEMA.names, row, strict=True)) for row in rows], schema=OPERATION_SCHEMA
    )


CHARGES = operations(
    ("r-1", "charge", "C 1", "tok_1", 52300, "KRW", None),
    ("r-2", "rebill", "고객-2", "tok_2", 391300, "TWD", None),
)
REFUNDS = operations(
    ("u-1", "refund", "C 1", None, 52300, "KRW", "8800000000000001"),
    ("u-2", "refund", "C-2", None, 391300, "TWD", "8800000000000002"),
)


@pytest.fixture
def rail(tmp_path):
    return AdyenBatchRail(tmp_path / "sftp", outbox=tmp_path / "outbox", account=PRINTED)


@pytest.mark.parametrize(("kind", "printed", "original", "amount", "currency"), [
    ("void", CANCEL, "8452147852369014", 123, "EUR"),
    ("refund", REFUND, "9630124578963201", 123, "EUR"),
])  # fmt: skip
def test_an_undo_is_written_as_printed_but_for_our_echo_data(rail, kind, printed, original, amount, currency):
    undo = operations(("Test Product 3", kind, "C1", None, amount, currency, original))
    file = rail.write(undo, sequence=3, echo="FileHeaderEchoData")
    written = file.path.read_text().replace(
        file.header, file.header.rpartition(" ")[0]
    )  # our echo data ends with a digest
    written = written.replace(",123 EUR C1\n", ",EchoData\n").replace("BH,1,\n", "BH,1,BlockHeaderEchoData\n")
    assert written.splitlines() == [line.rstrip() for line in printed.splitlines()]
    assert file.path.name == "Default_3_Modification.csv"


def test_a_charge_is_a_line_with_the_three_mandatory_sub_lines_of_a_recurring_payment(rail):
    # batch-request-file/authorisation-request-file/authorisation-for-a-recurring-payment: 11, 5 and 4 fields, empty ones kept.
    assert rail.write(CHARGES.slice(0, 1), sequence=2, echo="e").path.read_text().splitlines() == [
        "FH,1.0,TEST,Company,TestCompany,Default,2,ws@Company.TestCompany,Authorisation,e c98c2d47081d6b78",
        "BH,1,",
        "L,1,MerchantAccount,TestMerchant,Authorisation,r-1,charge",
        "SL,1,PaymentDetails,52300,0,KRW,C 1,,,,",
        "SL,2,Recurring,RECURRING,tok_1",
        "SL,3,ShopperInteraction,ContAuth",
        "BT,1",
        "FT,1",
    ]


def test_the_printed_refund_is_read_except_for_the_customer_which_the_format_does_not_carry():
    with pytest.raises(FatalError, match="record 3: echo data does not say amount, currency and customer"):
        read_request(REFUND.encode(), name="x")
    header, rows = read_request(REFUND.replace(",EchoData ", ",123 EUR C1").encode(), name="x")
    assert header[8:] == ["Modification", "FileHeaderEchoData"]
    assert (
        rows.to_pylist()
        == operations(("Test Product 3", "refund", "C1", None, 123, "EUR", "9630124578963201")).to_pylist()
    )


def test_the_printed_results_are_read():
    assert parse_result(AUTHORISATION_RESULT.encode(), name="x").select([0, 1, 2, 3]).to_pylist() == [
        {"merchant_reference": "9874563210158741", "status": "succeeded", "reason": None, "payment_id": "9874563210158741"},
        {"merchant_reference": "9874563210157874", "status": "declined", "reason": "other: Invalid expiry date",
         "payment_id": "9874563210157874"},
    ]  # fmt: skip
    (capture,) = parse_result(MODIFICATION_RESULT.encode(), name="x").to_pylist()
    assert (capture["status"], capture["reason"], capture["payment_id"]) == ("succeeded", None, "9874560210158741")


def test_the_printed_acknowledgement_is_read():
    said = parse_acknowledgement(ACKNOWLEDGEMENT.encode())
    assert (said.accepted, said.next_sequence, said.problems) == (True, 2, ())


@pytest.mark.parametrize("rows", [CHARGES, REFUNDS, REFUNDS.set_column(1, "kind", pa.array(["void", "void"]))])
def test_what_is_read_back_is_what_was_written_and_the_same_input_gives_the_same_bytes(rail, rows):
    file = rail.write(rows, sequence=1, echo="run 7, wave 2".replace(",", ";"))
    assert rail.read_back(file).equals(rows)
    assert (file.operation_count, file.total_minor) == (2, 443600)
    again = rail.write(rows, sequence=1, echo="run 7; wave 2")
    assert again.staged.read_bytes() == file.staged.read_bytes() == file.path.read_bytes()
    assert dataclasses.replace(again, staged=file.staged) == file


def test_any_flipped_byte_is_noticed_before_the_file_is_handed_over(rail):
    file = rail.write(CHARGES, sequence=1, echo="e")
    content = file.staged.read_bytes()
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1
        file.staged.write_bytes(damaged)
        with pytest.raises(FatalError):
            rail.read_back(file)
        with pytest.raises(FatalError, match="not as it was written"):
            rail.require_as_written(file)


def test_every_file_names_a_digest_of_its_operations_so_that_no_answer_is_taken_for_another_files(rail):
    file = rail.write(CHARGES, sequence=1, echo="same")
    other = rail.write(CHARGES.set_column(4, "amount_minor", pa.array([1, 2])), sequence=1, echo="same")
    assert file.header.startswith("FH,1.0,") and file.header != other.header
    assert file.header == file.staged.read_text().splitlines()[0]


@pytest.mark.parametrize("records", range(8 + 4))
def test_a_cut_off_file_is_not_parsed_wherever_it_is_cut(rail, records):
    lines = rail.write(CHARGES, sequence=1, echo="e").path.read_text().splitlines(keepends=True)
    assert len(lines) == 12
    with pytest.raises(FatalError):
        read_request("".join(lines[:records]).encode(), name="x")


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ("SL,1,PaymentDetails,52300,0", "SL,1,PaymentDetails,52300,2", "record 4: the currency is unknown, or its exponent"),
    ("PaymentDetails,52300,", "PaymentDetails,-52300,", "record 4: amount is not 1 to 12 digits"),
    ("PaymentDetails,52300,", "PaymentDetails,５２３００,", "record 4: amount is not 1 to 12 digits"),
    ("\nL,2,", "\nL,3,", "record 7: line numbers do not rise by one"),
    ("RECURRING,tok_1", "ONECLICK,tok_1", "record 5: field 4 is not RECURRING"),
    (",,,,\nSL,2,Recurring,RECURRING,tok_1", ",,,\nSL,2,Recurring,RECURRING,tok_1", "record 4: not 11 fields"),
    ("BT,2", "BT,3", "the block trailer is 'BT,3', but the block has 2 lines"),
    ("FT,1", "FT,2", "the last record is not the file trailer"),
])  # fmt: skip
def test_a_wrong_record_is_named(rail, old, new, complaint):
    text = rail.write(CHARGES, sequence=1, echo="e").path.read_text()
    assert text.count(old) == 1
    with pytest.raises(FatalError, match=complaint):
        read_request(text.replace(old, new).encode(), name="x")


def test_a_file_that_says_something_else_than_it_was_written_for_is_refused(rail):
    file = rail.write(CHARGES, sequence=1, echo="e")
    with pytest.raises(FatalError, match="holds 2 operations of 443600 in all, but was written for 2 of 443601"):
        rail.read_back(dataclasses.replace(file, total_minor=443601))
    with pytest.raises(FatalError, match="header field 7 is '1', not '2'"):
        rail.read_back(dataclasses.replace(file, sequence=2))


@pytest.mark.parametrize(("column", "value", "complaint"), [
    ("customer_id", "Kim, Minji", "operation 2: customer_id is empty, or has a comma"),
    ("customer_id", 'O"Neil', "operation 2: customer_id"),
    ("merchant_reference", "a\nb", "operation 2: merchant_reference"),
    ("merchant_reference", "", "operation 2: merchant_reference"),
    ("merchant_reference", "x" * 81, "operation 2: merchant_reference is longer than 80"),
    ("merchant_reference", "r-1", "the same one twice"),
    ("instrument_token", None, "operation 2: instrument_token"),
    ("amount_minor", 0, "operation 2: amount_minor is not between 1 and 999999999999"),
    ("amount_minor", 10**12, "operation 2: amount_minor"),
    ("currency", "XXX", "operation 2: currency is unknown"),
    ("kind", "void", "one file holds charges and rebills, or voids, or refunds"),
    ("kind", "capture", "one file holds"),
])  # fmt: skip
def test_what_the_format_cannot_say_is_refused_by_row_and_column(rail, column, value, complaint):
    rows = CHARGES.to_pylist()
    rows[1][column] = value
    with pytest.raises(FatalError, match=complaint):
        rail.write(pa.Table.from_pylist(rows, schema=OPERATION_SCHEMA), sequence=1, echo="e")
    assert not (rail.outbox / "Default_1_Authorisation.csv").exists()


def test_of_a_sender_and_its_successor_who_reach_for_one_staged_file_the_first_decides(rail):
    file = rail.write(CHARGES, sequence=1, echo="first")
    assert rail.recall(file) == rail.recall(file) == "withdrawn"
    with pytest.raises(SenderLost, match="taken back by another sender"):
        rail.deliver(file)
    assert not list((rail.folder / "in").iterdir())

    file = rail.write(CHARGES, sequence=1, echo="again")
    rail.deliver(file)
    assert rail.recall(file) == rail.recall(file) == "delivered"
    assert [path.name for path in (rail.folder / "in").iterdir()] == ["Default_1_Authorisation.csv"]
    assert rail.next_sequence() == 2


def test_a_file_is_with_the_acquirer_once_it_is_answered_and_missing_when_it_lies_nowhere(rail):
    file = rail.write(CHARGES, sequence=1, echo="e")
    rail.deliver(file)
    (rail.folder / "in" / file.path.name).unlink()
    assert rail.recall(file) == "missing"
    answer(rail, file, "ack", f"{file.header}\nR,1,2\nN,NextFileSubmissionNumber,2\n")
    assert rail.recall(file) == "delivered"
    assert rail.next_sequence() == 2


def test_what_was_handed_over_last_is_kept_beside_the_rail(rail):
    assert rail.noted() == Noted(0, 0)
    rail.note(Noted(7, 3))
    assert rail.noted() == Noted(7, 3)
    (rail.outbox / "handed_over.json").write_text("{")
    with pytest.raises(FatalError, match="makegood sending status"):
        rail.noted()


def test_no_answer_is_unknown_and_never_an_empty_answer(rail):
    file = rail.write(CHARGES, sequence=1, echo="e")
    rail.deliver(file)
    with pytest.raises(OutcomeUnknown, match="inquire by merchant reference"):
        rail.poll(file, CHARGES, timeout_seconds=0.05)


def test_an_answer_about_operations_never_sent_is_not_believed(rail):
    file = rail.write(CHARGES, sequence=206, echo="FileHeaderEchoData")
    answer(rail, file, "result", AUTHORISATION_RESULT.replace(AUTHORISATION_RESULT.splitlines()[0], file.header))
    with pytest.raises(DamagedAnswer, match="answers for 2 operations that were not sent"):
        rail.poll(file, CHARGES, timeout_seconds=30)


RESULT = (
    "{header}\nBH,1,\n"
    "L,1,MerchantAccount,M,Authorisation,r-1,Authorised,charge\nSL,1,PaymentResult,88001,000001,100,Approved\n"
    "L,2,MerchantAccount,M,Authorisation,r-2,Refused,charge\nSL,1,PaymentResult,88002,,,2,Not enough balance\n"
    "BT,2\nFT,1\n"
)


@pytest.mark.parametrize(("old", "new"), [
    ("FT,1\n", ""),  # cut off
    ("BT,2\nFT,1\n", "BT,"),
    ("Authorised", "Authorized"),  # an unknown status
    ("r-2", "r-1"),  # one operation twice
    ("r-2", "r-9"),  # one that was not sent
    ("Approved", "Appro\udcffved"),  # not UTF-8
    ("L,2,", "L,2"),
    ("SL,1,PaymentResult,88002", "SL,1,Mystery,88002"),
])  # fmt: skip
def test_a_damaged_result_is_unknown_never_refused_and_a_copy_is_kept(rail, old, new):
    file = rail.write(CHARGES, sequence=1, echo="e")
    rail.deliver(file)
    text = RESULT.format(header=file.header)
    assert old in text
    answer(rail, file, "result", text.replace(old, new))
    with pytest.raises(DamagedAnswer, match="damaged"):
        rail.poll(file, CHARGES, timeout_seconds=30)
    (kept,) = (rail.outbox / "damaged").iterdir()
    assert kept.read_bytes() == text.replace(old, new).encode("utf-8", "surrogateescape")


def test_an_answer_that_is_whole_a_moment_later_is_not_damaged(rail):
    file = rail.write(CHARGES, sequence=1, echo="e")
    rail.deliver(file)
    whole = RESULT.format(header=file.header)
    answer(rail, file, "result", whole[:-20])
    threading.Timer(0.3, answer, (rail, file, "result", whole)).start()
    assert rail.poll(file, CHARGES, timeout_seconds=30)["status"].to_pylist() == ["succeeded", "declined"]


@pytest.mark.parametrize(("reason", "next_number", "is_refusal"), [
    ("file sequence number 2 leaves a gap: the next is 1", 1, True),
    ("not UTF-8 at byte 7", 2, True),
    ("file sequence number 2 was used before: the next is 3", 3, False),
    ("duplicate file", 2, False),
    ("something nobody here has met", 2, False),
    ("file sequence number 2 leaves a gap: the next is 1", 3, False),  # it takes the number after ours: ours was taken
])  # fmt: skip
def test_only_a_refusal_that_excludes_that_the_file_was_booked_is_one(rail, reason, next_number, is_refusal):
    file = rail.write(CHARGES, sequence=2, echo="e")
    rail.deliver(file)
    answer(rail, file, "ack", f"{file.header}\nE,0,,{reason}\nN,NextFileSubmissionNumber,{next_number}\n")
    with pytest.raises(FileRefused if is_refusal else DamagedAnswer):
        rail.poll(file, CHARGES, timeout_seconds=30)


@pytest.mark.parametrize(
    "content", ["", "FH,", "N,NextFileSubmissionNumber,x", "\udcff\udcfe", "{header}\nN,NextFileSubmissionNumber,two"]
)
def test_a_damaged_acknowledgement_is_unknown_and_does_not_hide_a_good_result(rail, content):
    file = rail.write(CHARGES, sequence=1, echo="e")
    rail.deliver(file)
    answer(rail, file, "ack", content.replace("{header}", file.header))
    with pytest.raises(DamagedAnswer):
        rail.poll(file, CHARGES, timeout_seconds=30)
    assert rail.next_sequence() == 2  # it lies before the acquirer still
    answer(rail, file, "result", RESULT.format(header=file.header))
    assert rail.poll(file, CHARGES, timeout_seconds=30)["status"].to_pylist() == ["succeeded", "declined"]


def answer(rail, file, place: str, text: str) -> None:
    """The acquirer writes an answer to `file`."""
    (rail.folder / place).mkdir(parents=True, exist_ok=True)
    (rail.folder / place / f"{file.path.name}_{place}").write_bytes(text.encode("utf-8", "surrogateescape"))


def test_a_real_rail_takes_no_simulated_clock_and_answers_no_inquiry(rail):
    assert rail.simulated is False
    with pytest.raises(FatalError, match="knows its own time"):
        rail.set_clock(None)
    with pytest.raises(FatalError, match="cannot ask"):
        rail.inquire(pa.array(["r-1"]))
