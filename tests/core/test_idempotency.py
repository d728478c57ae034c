"""The key of an operation is the business fact, the same in Python, in DuckDB and in the database's constraint."""

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.idempotency import merchant_reference, operation_id
from pipeline.core.ledger import ON_INTENT, ON_SUCCESS

FACT = {"kind": "charge", "incident_id": None, "billing_period": "2023-09", "bill_cycle": 1, "attempt": 1}
CUSTOMERS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(CUSTOMERS, CUSTOMERS)
def test_two_customers_never_share_a_key(one, other):
    assert (operation_id(**FACT, customer_id=one) == operation_id(**FACT, customer_id=other)) == (one == other)


def test_every_part_of_the_fact_changes_the_key():
    facts = [
        FACT, FACT | {"kind": "refund"}, FACT | {"incident_id": "i1"}, FACT | {"billing_period": "2023-10"},
        FACT | {"bill_cycle": 2}, FACT | {"attempt": 2},
    ]  # fmt: skip
    assert len({operation_id(**fact, customer_id="C1") for fact in facts}) == len(facts)


@given(CUSTOMERS)
def test_duckdb_computes_the_same_key(customer):
    text = duckdb.execute("SELECT md5('charge||2023-09|1|1|' || ?)", [customer]).fetchone()[0]
    assert text == merchant_reference(operation_id(**FACT, customer_id=customer))


def test_every_entry_is_between_two_accounts_and_each_step_is_named_once():
    for rules in (ON_INTENT, ON_SUCCESS):
        for kind, postings in rules.items():
            steps = [posting.step for posting in postings]
            assert len(set(steps)) == len(steps), kind
            assert all(posting.debit != posting.credit for posting in postings)
