"""What is normal by many months: a count is held against their mean, and against how much they differ by themselves."""

from collections.abc import Sequence
from importlib import resources

import duckdb
import pytest

BASE = 10_000
HELD_ABOVE = 9.0


def _surprise(earlier: Sequence[int], now: int) -> float | None:
    """Of `now` hits among `BASE` bills, after months that had `earlier`; None where they tell nothing."""
    with duckdb.connect() as connection:
        connection.execute(_sql("macros"))
        connection.execute("CREATE TABLE parameters AS SELECT 0.1 AS event_share")
        connection.execute("CREATE TABLE month_counts (signal VARCHAR, recency INTEGER, base BIGINT, hits BIGINT)")
        connection.execute(
            "CREATE TABLE many_months (signal VARCHAR, share DOUBLE, month_count BIGINT, dispersion DOUBLE)"
        )
        rows = [("missing", recency, BASE, hits) for recency, hits in enumerate(earlier, start=1)]
        connection.executemany("INSERT INTO month_counts VALUES (?, ?, ?, ?)", rows)
        connection.execute(_sql("many_months"))
        row = connection.execute(
            "SELECT dispersed(surprise(?, share * ?), dispersion, month_count) FROM many_months", [now, BASE]
        ).fetchone()
        return row and row[0]


def _sql(name: str) -> str:
    return (resources.files("pipeline") / "sql" / f"{name}.sql").read_text(encoding="utf-8")


STEADY = (388, 402, 410, 395, 391, 405, 399, 412, 397)
RESTLESS = (310, 480, 400, 350, 450, 390, 420, 330, 470)


def test_a_quarter_more_than_in_months_that_hardly_differ_is_surprising():
    assert _surprise(STEADY, 500) > HELD_ABOVE


def test_a_quarter_more_than_in_months_that_differ_as_much_is_not_surprising():
    assert _surprise(RESTLESS, 500) < HELD_ABOVE


def test_a_month_like_the_others_is_not_surprising():
    assert _surprise(STEADY, 412) < 1


def test_a_month_that_was_an_event_is_not_taken_for_normal():
    assert _surprise((*STEADY, 9_000), 500) == pytest.approx(_surprise(STEADY, 500))


def test_few_months_tell_nothing():
    assert _surprise(STEADY[:4], 500) is None
