"""Builds the committed sample from the public data set it comes from.

    python -m tools.build_sample PATH_TO_UCI_CSV [--out data/sample]

Belongs here: what the sample's columns are made of. `data/sample/README.md` says it in words. The same CSV gives
the same bytes with the locked Arrow version; any other CSV is refused by its hash.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.errors import FatalError, MakegoodError
from pipeline.generate.charge_files import PeriodWriter, WrittenPeriod, charge_file_name
from pipeline.generate.columns import labels, numbered, scatter, spread, tokens
from pipeline.schema import CHARGE_SCHEMA

SOURCE_SHA256 = "5ae1a507f03814feae4564eb57822471b7cb53e3c0372637193f23b18a2a10cb"

BILL_COLUMNS = {
    "BILL_AMT6": BillingPeriod(2005, 4),
    "BILL_AMT5": BillingPeriod(2005, 5),
    "BILL_AMT4": BillingPeriod(2005, 6),
    "BILL_AMT3": BillingPeriod(2005, 7),
    "BILL_AMT2": BillingPeriod(2005, 8),
    "BILL_AMT1": BillingPeriod(2005, 9),
}
"""The data set counts its months backwards."""

CURRENCY = "TWD"
MINOR_PER_DOLLAR = 10 ** MINOR_UNIT_EXPONENT[CURRENCY]

PAYMENT_METHODS = {"credit_card": 90, "check_card": 10}
"""Share of customers in percent; about one in ten paid by check card in the incident."""

ISSUERS = {"Alder": 29, "Birch": 22, "Cedar": 17, "Elm": 13, "Juniper": 10, "Linden": 7, "Rowan": 2}
"""Card companies, none of them real: share of customers in percent; the last is small on purpose."""

PLANS = {"CLASSIC": 0, "SILVER": 50_001, "GOLD": 140_001, "PLATINUM": 240_001}
"""Plan code: the lowest credit limit it is given to, in whole dollars; near the quartiles."""

TOKEN, METHOD, ISSUER = 1, 2, 3
"""Salts: which of a customer's independent hashes decides a column."""


def build_sample(csv: Path, out: Path) -> list[WrittenPeriod]:
    """Write the six months of `csv` below `out`, oldest first; months there already are replaced.

    Raises:
        FatalError: `csv` is not the data set that the sample's papers speak of.
    """
    with csv.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != SOURCE_SHA256:
        raise FatalError(
            f"{csv} has sha256 {sha256}, not {SOURCE_SHA256}: get the file that data/sample/README.md names"
        )
    customers = pa.csv.read_csv(
        csv,
        convert_options=pa.csv.ConvertOptions(
            include_columns=["ID", "LIMIT_BAL", *BILL_COLUMNS],
            column_types={name: pa.int64() for name in ("ID", "LIMIT_BAL", *BILL_COLUMNS)},
        ),
    )
    written = []
    for column, period in BILL_COLUMNS.items():
        charges = _charges(customers, column, period)
        with PeriodWriter(out, period, overwrite=True) as writer:
            for issuer in ISSUERS:
                writer.append(charge_file_name(issuer), charges.filter(pa.compute.equal(charges["issuer"], issuer)))
        written.append(writer.written)
    return written


def _charges(customers: pa.Table, bill_column: str, period: BillingPeriod) -> pa.Table:
    """One month's charges, in the order of the data set; the columns it cannot honestly fill are left out."""
    number = customers["ID"].to_numpy()
    limit = customers["LIMIT_BAL"].to_numpy()
    method = spread(scatter(number, salt=METHOD), list(PAYMENT_METHODS.values()))
    issuer = spread(scatter(number, salt=ISSUER), list(ISSUERS.values()))
    plan = np.searchsorted(list(PLANS.values()), limit, side="right") - 1
    count = len(number)
    columns = {
        "charge_id": numbered(f"{period}-C", number, digits=7),
        "customer_id": numbered("C", number, digits=7),
        "billing_period": pa.repeat(str(period), count),
        "bill_cycle": pa.repeat(pa.scalar(1, pa.int64()), count),
        "amount_minor": pa.array(customers[bill_column].to_numpy() * MINOR_PER_DOLLAR),
        "currency": pa.repeat(CURRENCY, count),
        "payment_method": labels(list(PAYMENT_METHODS), method),
        "issuer": labels(list(ISSUERS), issuer),
        "instrument_token": tokens(scatter(number, salt=TOKEN)),
        "plan_code": labels(list(PLANS), plan),
        "service_start": pa.repeat(pa.scalar(period.first_day, pa.date32()), count),
        "service_end": pa.repeat(pa.scalar(period.last_day, pa.date32()), count),
    }
    schema = pa.schema([field for field in CHARGE_SCHEMA if field.name in columns])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the committed sample from the UCI data set.")
    parser.add_argument("csv", type=Path, help="UCI_Credit_Card.csv")
    parser.add_argument("--out", type=Path, default=Path("data/sample"), help="where to write (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        for period in build_sample(arguments.csv, arguments.out):
            print(f"{period.path}: {period.row_count:,} charges, {period.control_total_minor} minor units {CURRENCY}")
    except (MakegoodError, OSError) as error:
        print(f"build_sample: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
