"""Every column of a charge, once: name, type, whether it must be there, what it means.

Everything that needs a column list - the reader, the landed Parquet, the data dictionary, the
generator - derives it from `CHARGE_COLUMNS`. Tables of the database are in `adapters/migrations`.
"""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

ColumnKind = Literal["text", "integer", "date"]

PAYMENT_METHODS = ("credit_card", "check_card", "bank_debit")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a charge file.

    Attributes:
        name: as written in the file's header.
        kind: `text` (UTF-8, kept to the letter), `integer` (64 bit) or `date` (`YYYY-MM-DD`).
        required: whether the column must be present; a missing optional column lands as NULL.
        meaning: for the data dictionary.
    """

    name: str
    kind: ColumnKind
    required: bool
    meaning: str

    @property
    def arrow_type(self) -> pa.DataType:
        return {"text": pa.string(), "integer": pa.int64(), "date": pa.date32()}[self.kind]


CHARGE_COLUMNS = (
    Column("charge_id", "text", True, "the charge; unique in the run"),
    Column("customer_id", "text", True, "the billing account"),
    Column("billing_period", "text", True, "the month billed, YYYY-MM"),
    Column("bill_cycle", "integer", False, "which cycle of the period; 1 where the file has no such column"),
    Column("amount_minor", "integer", True, "total due, tax included, in minor units; zero: no charge, negative: credit carried forward"),
    Column("currency", "text", True, "ISO 4217"),
    Column("payment_method", "text", True, "credit_card, check_card or bank_debit"),
    Column("issuer", "text", True, "the card company or bank its charges are sent to"),
    Column("instrument_token", "text", True, "the acquirer's token for the card or account; never a card number"),
    Column("plan_code", "text", False, "the tariff plan"),
    Column("base_fee_minor", "integer", False, "base + usage - discount + tax = amount, where all four are present"),
    Column("usage_fee_minor", "integer", False, "usage beyond the base fee"),
    Column("discount_minor", "integer", False, "what is taken off; positive"),
    Column("tax_minor", "integer", False, "tax on base + usage - discount"),
    Column("service_start", "date", False, "first day of service billed"),
    Column("service_end", "date", False, "last day of service billed"),
)  # fmt: skip

PROVENANCE_COLUMNS = (
    Column("source_file", "text", True, "name of the file the row came from"),
    Column("source_row", "integer", True, "its row in that file, counted from 1, the header not counted"),
)

CHARGE_SCHEMA = pa.schema([pa.field(c.name, c.arrow_type) for c in CHARGE_COLUMNS])
"""What a charge file must hold, in this order, once read."""

LANDED_SCHEMA = pa.schema(list(CHARGE_SCHEMA) + [pa.field(c.name, c.arrow_type) for c in PROVENANCE_COLUMNS])
"""A landed run's Parquet partition."""

OPERATION_SCHEMA = pa.schema(
    [
        ("merchant_reference", pa.string()),  # the operation's idempotency key, as the acquirer sees it
        ("kind", pa.string()),  # charge, void, refund, rebill
        ("customer_id", pa.string()),  # goes out as the shopper reference
        ("instrument_token", pa.string()),
        ("amount_minor", pa.int64()),  # positive
        ("currency", pa.string()),
        ("original_payment_id", pa.string()),  # the acquirer's id of what is undone; NULL for charge and rebill
    ]
)
"""What a payment rail is given to send."""

OUTCOME_SCHEMA = pa.schema(
    [
        ("merchant_reference", pa.string()),
        ("status", pa.string()),  # succeeded, declined, pending, not_found
        ("reason", pa.string()),  # reason code of a decline; NULL on success
        ("payment_id", pa.string()),  # the acquirer's id
        ("amount_minor", pa.int64()),
    ]
)
"""What a payment rail answers; an operation it does not answer for is unknown, never failed."""

PAYMENT_STATE_SCHEMA = pa.schema(
    [
        *OUTCOME_SCHEMA,
        ("currency", pa.string()),
        (
            "state",
            pa.string(),
        ),  # declined, authorised, voided, expired, acquired, refunded, disputed; NULL if not found
        ("acquired_at", pa.timestamp("us", "UTC")),  # when the money moved; NULL before
        ("expires_at", pa.timestamp("us", "UTC")),  # when an approval that is not acquired is gone
        ("charged_minor", pa.int64()),  # what was approved
        ("refunded_minor", pa.int64()),  # given back so far, by whomever
        ("refundable_minor", pa.int64()),  # what may still be refunded now; 0 in any state but acquired
    ]
)
"""What the acquirer says of a payment now: what became of the operation asked about, and the state of its payment."""

CARD_SCHEMA = pa.schema([("instrument_token", pa.string()), ("payment_method", pa.string()), ("issuer", pa.string())])
"""What an acquirer knows of a stored instrument before it is charged."""

PLAN_SCHEMA = pa.schema(
    [
        ("customer_id", pa.string()),
        ("billing_period", pa.string()),
        ("bill_cycle", pa.int64()),
        ("occurrence", pa.int32()),  # which of several wrong charges of the same bill; 0 where there was none
        ("charge_id", pa.string()),  # of the wrong charge
        ("original_id", pa.string()),  # its operation, 32 hexadecimal digits; NULL where nothing was charged
        ("payment_id", pa.string()),  # the acquirer's
        ("wrong_minor", pa.int64()),  # what was charged; NULL where nothing was
        ("correct_minor", pa.int64()),  # what is due; NULL where there is no correct bill
        ("currency", pa.string()),
        ("payment_method", pa.string()),  # of the wrong charge: where it is undone
        ("issuer", pa.string()),
        ("instrument_token", pa.string()),
        ("class", pa.string()),  # over, under, equal, zero, credit, not_billed, missing, declined, unknown, ...
        ("reversal", pa.string()),  # void, refund, none, wait, manual
        ("reversal_reason", pa.string()),
        (
            "reversal_minor",
            pa.int64(),
        ),  # what is given back: less than was charged where some was before; NULL where nothing is
        ("rebill", pa.string()),  # rebill, hold, no_rebill
        ("rebill_reason", pa.string()),
        ("rebill_charge_id", pa.string()),  # of the correct charge
        ("rebill_method", pa.string()),  # the customer's current instrument
        ("rebill_issuer", pa.string()),
        ("rebill_token", pa.string()),
        ("money_back_by", pa.date32()),  # when the customer has the money again; NULL where none left the account
        ("wave", pa.int32()),  # in which it goes out; lines of one customer go together
    ]
)
"""A line of a remediation plan: one wrong charge (or one correct bill that was never charged) and what becomes of it."""
