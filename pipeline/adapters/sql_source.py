"""Charges from any database that SQLAlchemy reaches: a URL and a query, streamed in batches.

Belongs here: running the query and taking its values as they are. Does not: the pipeline's own database.
The password is in no message, label or record.
"""

import datetime as dt
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.adapters.content_hash import ContentHash
from pipeline.adapters.control_total import ControlTotal
from pipeline.adapters.strict_columns import Place, charges, check_names, dates, why_no_whole_number
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import RetriableError, UnreadableInput, UsageError
from pipeline.ports import Arrival, Progress, SourceFile
from pipeline.schema import CHARGE_COLUMNS

FETCHED_ROWS = 20_000
"""Rows held as Python objects at a time: some 30 MB."""

QUERY_NAME = "query"
"""What a landed row from a database names as its file."""


class SqlSource:
    """A source whose charges come from one query.

    Attributes:
        label: the URL without password and options.
    """

    def __init__(self, url: str, query: str) -> None:
        """Take a SQLAlchemy URL and a query with `:billing_period` and ORDER BY; connects to nothing.

        Raises:
            UsageError: the URL is none, or the query would read other rows or another order each time.
        """
        try:
            self._url = sa.engine.make_url(url)
        except sa.exc.ArgumentError:
            raise UsageError(
                "the source is no SQLAlchemy URL, such as postgresql+psycopg://user@host/database"
            ) from None
        known = self._url
        self.label = sa.URL.create(
            known.drivername, known.username, None, known.host, known.port, known.database
        ).render_as_string()
        self._query = sa.text(query)
        if "billing_period" not in self._query._bindparams:
            raise UsageError(f"{self.label}: the query must choose its rows by :billing_period")
        if not re.search(r"\border\s+by\b", query, re.IGNORECASE):
            raise UsageError(
                f"{self.label}: the query must have an ORDER BY, such as ORDER BY charge_id: "
                "the same rows in another order would be another run"
            )

    def arrived(self, billing_period: BillingPeriod) -> Arrival:
        """One file-like query; whether it has rows shows when it is read."""
        return Arrival((_QueryResult(self._url, self.label, self._query, str(billing_period)),), (), None)

    def periods(self) -> list[BillingPeriod]:
        """None: a query answers for the period it is asked for."""
        return []


class _QueryResult:
    """The query's rows for one period."""

    name = QUERY_NAME

    def __init__(self, url: sa.URL, label: str, query: sa.TextClause, billing_period: str) -> None:
        self._url, self._label, self._query, self._period = url, label, query, billing_period
        self._total, self._hash = ControlTotal(), ContentHash()

    def read(self, progress: Progress) -> Iterator[pa.RecordBatch]:
        """Run the query and stream its rows as `CHARGE_SCHEMA`.

        Raises:
            UnreadableInput: a value is not what its column demands; the message names row and column.
            RetriableError: the database failed.
        """
        for batch in self._batches():
            self._total.add(batch)
            self._hash.update(batch)
            progress(f"landing {self._label}", self._total.row_count, None)
            yield batch
        if self._total.row_count == 0:
            raise UnreadableInput(f"{self._label}: the query has no rows for {self._period}")

    def facts(self) -> SourceFile:
        """What was read."""
        return SourceFile(self.name, self._hash.hexdigest(), self._total.row_count, self._total.amount_minor)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with _database_errors(self._url, self._label):
            engine = sa.create_engine(self._url, poolclass=sa.NullPool, hide_parameters=True)
            with engine.connect().execution_options(stream_results=True, max_row_buffer=FETCHED_ROWS) as connection:
                result = connection.execute(self._query, {"billing_period": self._period})
                names = list(result.keys())
                check_names(self._label, names)
                rows = 0
                for fetched in result.partitions(FETCHED_ROWS):
                    place = Place(self._label, rows)
                    values = zip(names, zip(*fetched, strict=True), strict=True)
                    columns = {name: _typed(of_rows, name, place) for name, of_rows in values}
                    yield charges(columns, len(fetched), place)
                    rows += len(fetched)


def _typed(values: tuple[Any, ...], name: str, place: Place) -> pa.Array:
    column = next(column for column in CHARGE_COLUMNS if column.name == name)
    expected = {"text": str, "integer": int, "date": dt.date}[column.kind]
    found = set(map(type, values)) - {type(None)}
    if column.kind == "date" and found == {str}:  # databases without dates, such as SQLite, keep them as text
        return dates(pa.array(values, pa.string()), name, place)
    if found - {expected}:
        index = next(i for i, value in enumerate(values) if type(value) not in (expected, type(None)))
        wrong = type(values[index]).__name__
        raise place.error(
            index, name, f"is {wrong} and must be {column.kind}; cast it in the query, where it can be seen"
        )
    try:
        return pa.array(values, column.arrow_type)
    except (OverflowError, pa.ArrowInvalid):
        index = next(i for i, value in enumerate(values) if value is not None and why_no_whole_number(str(value)))
        raise place.error(index, name, "is outside the range of 64 bits") from None


@contextmanager
def _database_errors(url: sa.URL, label: str) -> Iterator[None]:
    """Our errors for SQLAlchemy's: those may carry the URL, and those of values the values."""
    try:
        yield
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise UsageError(f"{label}: its driver is not installed ({error})") from None
    except (sa.exc.ProgrammingError, sa.exc.CompileError) as error:
        raise UsageError(f"{label}: the query was refused ({_first_line(error, url)})") from None
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        raise RetriableError(f"{label}: the database failed ({_first_line(error, url)})") from None
    except (sa.exc.SQLAlchemyError, UnicodeDecodeError) as error:
        raise UnreadableInput(f"{label}: the rows cannot be read ({type(error).__name__})") from None


def _first_line(error: Exception, url: sa.URL) -> str:
    lines = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
    for secret in (url.password, *(value for name, value in url.query.items() if "pass" in name.lower())):
        if isinstance(secret, str) and secret:
            lines[0] = lines[0].replace(secret, "***")
    return lines[0]
