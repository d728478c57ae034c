"""Settlement files come late, twice, cut off, in any order and any time zone; nothing is guessed, and the others go on."""

import shutil
from collections.abc import Iterator
from copy import copy
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pipeline.adapters.settlement_files import read_settlement_files
from pipeline.settings import Settings
from tests.remediation_world import World
from tests.settlement_case import Settlement, incident_is_over


@pytest.fixture(scope="module")
def once(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settlement]:
    folder = tmp_path_factory.mktemp("once")
    world = World(settings, folder, "settled once")
    incident_is_over(world)
    yield Settlement(world, folder / "settlement")
    world.rail.close()


@pytest.fixture
def shared(once: Settlement, tmp_path: Path) -> Settlement:
    """One whose files are a test's own, over a ledger that tests share."""
    folder = tmp_path / "files"
    shutil.copytree(once.folder, folder)
    mine = copy(once)
    mine.folder = folder
    return mine


def test_the_wrong_sign_is_a_break(shared):
    def turn(line: dict[str, str]) -> None:
        line["Gross Credit (GC)"], line["Gross Debit (GC)"] = line["Gross Debit (GC)"], line["Gross Credit (GC)"]

    shared.edit(turn, of="Refunded")
    assert list(shared.breaks(shared.reconcile())) == ["sign"]


def test_a_line_of_two_batches_is_settled_twice_and_entered_once(shared):
    first, last = shared.files()[0], shared.files()[-1]
    again = shared.lines(first)[0]
    lines = shared.lines(last)
    shared.write(last, [*lines, again | {"Batch Number": lines[0]["Batch Number"]}])
    result = shared.reconcile()
    assert [len(references) for references in shared.breaks(result).values()] == [1]
    assert list(shared.breaks(result)) == ["twice"]


def test_a_voided_approval_in_settlement_is_named(shared):
    world = shared.world
    payment = world.payments()[shared.card[0]]
    last = shared.files()[-1]
    lines = shared.lines(last)
    ghost = lines[-1] | {
        "Psp Reference": payment,
        "Modification Reference": payment,
        "Merchant Reference": shared.card[0],
    }
    shared.write(last, [*lines, ghost])
    assert shared.breaks(shared.reconcile()) == {"undone_but_settled": [shared.card[0]]}


def test_the_same_content_under_another_name_is_one_file(shared):
    shutil.copy(shared.files()[0], shared.folder / "copy_of_1.csv")
    result = shared.reconcile()
    assert shared.breaks(result) == {}
    assert len(result.exceptions["duplicates"]) == 1


def test_a_file_issued_again_with_more_lines_is_one_batch(shared):
    path = shared.files()[0]
    lines = shared.lines(path)
    assert len(lines) > 1
    shared.write(shared.folder / "cut_1.csv", lines[:1])
    assert shared.breaks(shared.reconcile()) == {}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda text: text[:-20], "cut off"),
        (lambda text: text.replace("Psp Reference", "Reference", 1), "its header lacks Psp Reference"),
        (lambda text: "", "empty"),
        (lambda text: text.replace(",UTC,", ",MOON,", 1), "TimeZone is unknown"),
        (lambda text: text.replace("KRW", "ZZZ", 1), "Gross Currency is unknown"),
        (lambda text: text.replace(",52300,", ",52300.5,", 1), "no whole number of minor units"),
        (lambda text: text + "a,b\n", "does not have the header's"),
        (lambda text: text.splitlines(keepends=True)[0], "no lines"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_exception_by_name_and_the_others_go_on(shared, spoil, says):
    path = shared.files()[0]
    path.write_text(spoil(path.read_text()))
    result = shared.reconcile()
    assert says in result.exceptions["refused"][path.name]
    assert result.lines > 0


def test_a_batch_that_is_not_here_is_a_gap(shared):
    assert len(shared.files()) >= 3
    shared.files()[1].unlink()
    assert len(shared.reconcile().exceptions["gaps"]) == 1


def test_a_day_is_that_of_the_business_time_zone_whatever_zone_the_file_is_in(shared):
    def elsewhere(line: dict[str, str]) -> None:
        moment = datetime.strptime(line["Creation Date"], "%Y-%m-%d %H:%M:%S") + timedelta(hours=9)  # noqa: DTZ007
        line.update({"Creation Date": f"{moment:%Y-%m-%d %H:%M:%S}", "TimeZone": "KST"})

    before = read_settlement_files(shared.files(), shared.world.settings.timezone).lines
    shared.edit(elsewhere, of="Refunded")
    after = read_settlement_files(shared.files(), shared.world.settings.timezone).lines
    assert before.equals(after)


@pytest.mark.parametrize(
    ("currency", "text", "minor"),
    [("KRW", "52300", 52300), ("KRW", "52300.00", 52300), ("TWD", "3913", 391300), ("USD", "0.05", 5), ("USD", "12.30", 1230),
     ("KWD", "1.234", 1234)],
)  # fmt: skip
def test_amounts_become_minor_units_exactly(shared, currency, text, minor):
    shared.edit(lambda line: line.update({"Gross Debit (GC)": text, "Gross Currency": currency}), of="Refunded")
    lines = read_settlement_files(shared.files(), shared.world.settings.timezone).lines
    assert minor in [row["amount_minor"] for row in lines.to_pylist() if row["currency"] == currency]


def test_fees_and_payouts_are_set_aside_and_a_type_nobody_knows_is_extra(shared):
    last = shared.files()[-1]
    lines = shared.lines(last)
    fee = lines[-1] | {"Type": "Fee", "Psp Reference": "", "Gross Credit (GC)": ""}
    shared.write(last, [*lines, fee, lines[-1] | {"Type": "Surprise", "Psp Reference": "900"}])
    result = shared.reconcile()
    assert shared.breaks(result) == {"extra": [lines[-1]["Modification Reference"]]}
