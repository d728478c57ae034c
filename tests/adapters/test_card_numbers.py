"""What is a card number never lands, and what is none is never taken for one - whoever asks, by one rule."""

import pyarrow as pa
import pytest
from charge_files import charges, land, landed, write

from pipeline.adapters.card_numbers import card_numbers
from pipeline.adapters.charges_due import find_due
from pipeline.adapters.ledger import CHARGED_SCHEMA
from pipeline.errors import UnreadableInput

CARDS = [
    "4111111111111111", "4222222222222", "5555555555554444", "2223003122003222", "378282246310005", "371449635398431",
    "30569309025904", "38520000023237", "3530111333300000", "6011111111111117", "6200000000000005", "6759649826438453",
    "9410000000000005",
]  # fmt: skip
"""Test numbers that networks and acquirers publish, and one as cards of one country begin."""

PRINTED = ["4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005", "3056-930902-5904"]

NO_CARDS = [
    "4111111111111112", "8415010078600005", "1234567890123452", "7777777777777772", "411111111111116", "tok_4111111111111111",
    "450050000007919", "450050000055434", "353490069873368", "490154203237518", "82101012345678", "2023-09-C000900", "", None,
    "0000000000000000", "4111 1111 1111 1112", "500000000000005", "628888888888880",
]  # fmt: skip
"""A wrong check digit, acquirers' references, subscriber (IMSI) and device numbers (IMEI) with a right one, and other ids."""


def found(values: list, **how: bool) -> list:
    return card_numbers(pa.array(values, pa.string()), **how).to_pylist()


def test_cards_of_every_network_are_known_bare_and_grouped():
    assert found(CARDS + PRINTED) == [True] * len(CARDS + PRINTED)


def test_ids_and_references_are_no_cards():
    assert found(NO_CARDS) == [False] * len(NO_CARDS)


def test_among_ids_only_what_is_grouped_as_on_a_card_is_one():
    assert found(CARDS, as_printed=True) == [False] * len(CARDS)
    assert found(PRINTED, as_printed=True) == [True] * len(PRINTED)


@pytest.mark.parametrize("value", [*CARDS, *PRINTED, "41-11 1111 11 1111 11"])
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_card_number_for_a_token_never_lands_and_is_never_shown(tmp_path, name, value):
    table = charges(3)
    tokens = pa.array([*table["instrument_token"].to_pylist()[:2], value])
    write(
        tmp_path / "source",
        name,
        table.set_column(table.column_names.index("instrument_token"), "instrument_token", tokens),
    )
    with pytest.raises(UnreadableInput, match=f"{name}, row 3, column instrument_token: is a card number") as refused:
        land(tmp_path / "source", tmp_path / "lake")
    assert value not in str(refused.value)
    assert not list((tmp_path / "lake").rglob("*.parquet"))


@pytest.mark.parametrize("column", ["customer_id", "charge_id", "plan_code", "issuer"])
def test_a_number_grouped_as_on_a_card_lands_in_no_column(tmp_path, column):
    write(tmp_path / "source", "a.csv", charges(1, **{column: PRINTED[0]}))
    with pytest.raises(UnreadableInput, match=f"row 1, column {column}: is a card number"):
        land(tmp_path / "source", tmp_path / "lake")


def test_numeric_tokens_and_subscriber_numbers_land_and_are_due(tmp_path):
    numbers = [value for value in NO_CARDS if value and value.isdigit()]
    table = charges(len(numbers))
    for column in ("instrument_token", "customer_id", "charge_id"):
        table = table.set_column(table.column_names.index(column), column, pa.array(numbers))
    write(tmp_path / "source", "a.csv", table)
    run = land(tmp_path / "source", tmp_path / "lake")
    assert landed(run)["instrument_token"].to_pylist() == numbers
    charged = CHARGED_SCHEMA.empty_table()
    assert find_due(run.run, charged).classes["due"]["rows"] == len(numbers)
