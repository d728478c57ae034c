"""The key of an operation is the business fact, the same in Python, in DuckDB and in the database's constraint."""

from collections import Counter

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.idempotency import merchant_reference, operation_id
from pipeline.core.ledger import POSTINGS, posting_for

FACT = {
    "kind": "charge",
    "incident_id": None,
    "billing_period": "2023-09",
    "bill_cycle": 1,
    "occurrence": 1,
    "attempt": 1,
}
CUSTOMERS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(CUSTOMERS, CUSTOMERS)
def test_two_customers_never_share_a_key(one, other):
    assert (operation_id(**FACT, customer_id=one) == operation_id(**FACT, customer_id=other)) == (one == other)


def test_every_part_of_the_fact_changes_the_key():
    facts = [
        FACT, FACT | {"kind": "refund"}, FACT | {"incident_id": "i1"}, FACT | {"billing_period": "2023-10"},
        FACT | {"bill_cycle": 2}, FACT | {"occurrence": 2},
        FACT | {"attempt": 2},
    ]  # fmt: skip
    assert len({operation_id(**fact, customer_id="C1") for fact in facts}) == len(facts)


@given(CUSTOMERS)
def test_duckdb_computes_the_same_key(customer):
    text = duckdb.execute("SELECT md5('charge||2023-09|1|1|1|' || ?)", [customer]).fetchone()[0]
    assert text == merchant_reference(operation_id(**FACT, customer_id=customer))


@given(st.sampled_from(sorted(POSTINGS)), st.sampled_from(["succeeded", "declined"]))
def test_an_amount_that_was_unknown_leaves_suspense_again(kind, state):
    direct = posting_for(kind, state, was_unknown=False)
    detour = (posting_for(kind, "unknown", was_unknown=False), posting_for(kind, state, was_unknown=True))
    assert _balances([direct]) == _balances(detour)


def test_undoing_a_charge_leaves_nothing():
    assert (
        _balances(
            [
                posting_for("charge", "succeeded", was_unknown=False),
                posting_for("refund", "succeeded", was_unknown=False),
            ]
        )
        == {}
    )


@pytest.mark.parametrize("kind", sorted(POSTINGS))
@given(
    fates=st.lists(st.sampled_from(["declined", "unknown then declined"]), max_size=3),
    last=st.sampled_from(["succeeded", "declined"]),
)
def test_many_attempts_end_where_the_last_one_alone_would(kind, fates, last):
    entries, declined = [], False
    for fate in fates:
        if fate != "declined":
            entries.append(posting_for(kind, "unknown", was_unknown=False, after_decline=declined))
        entries.append(posting_for(kind, "declined", was_unknown=fate != "declined", after_decline=declined))
        declined = True
    entries.append(posting_for(kind, last, was_unknown=False, after_decline=declined))
    assert _balances([e for e in entries if e]) == _balances([posting_for(kind, last, was_unknown=False)])


def _balances(postings):
    sides = Counter()
    for posting in postings:
        sides[posting.debit] += 1
        sides[posting.credit] -= 1
    return {account: balance for account, balance in sides.items() if balance}
