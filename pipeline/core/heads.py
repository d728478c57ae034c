"""A head of the audit log: what the log and the books were at one moment, in a form that can be signed and held against them later.

Belongs here: what a head says, its one text, and what differs between what it says and what is found. Does not: the file that keeps
heads (`adapters.head_file`), or asking the database (`adapters.audit`).
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any


@dataclass(frozen=True, slots=True)
class TableDigest:
    """The rows of one table that were recorded within a head's time.

    Attributes:
        columns: what of each row went into the digest; a column that is added later changes no earlier digest.
        total_minor: sum of `amount_minor`; None where the table has no amounts.
        sha256: over the digests of all rows, sorted.
    """

    table: str
    columns: tuple[str, ...]
    rows: int
    total_minor: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Head:
    """What the log and the books were.

    Attributes:
        number: rises by one from 1.
        at: when it was made (ISO 8601, UTC).
        acts: sealed acts in the log.
        seal: of the last of them; empty without any.
        since, until: the rows of the books that `tables` covers: recorded from `since` on and before `until` (ISO 8601, UTC). Every
            head begins where the one before ended, so making one costs what the time between cost. Equal where only the log is covered.
        previous: SHA-256 of the line before; empty for the first.
    """

    number: int
    at: str
    acts: int
    seal: str
    since: str
    until: str
    tables: tuple[TableDigest, ...]
    previous: str

    def text(self) -> str:
        """The one text of this head: what is signed, and one line of the file without its signature."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> "Head":
        """A head as `text` wrote it.

        Raises:
            TypeError, KeyError: it is none.
        """
        tables = tuple(TableDigest(**(table | {"columns": tuple(table["columns"])})) for table in said["tables"])
        return cls(**(said | {"tables": tables}))


def line_digest(line: str) -> str:
    """SHA-256 of a line of the file, as the next head and the audit log name it."""
    return sha256(line.encode()).hexdigest()


def difference(said: TableDigest, found: TableDigest | None, head: Head) -> str | None:
    """What was done to a table's rows since `head` vouched for them, in words; None where they are the same."""
    when = f"rows of {said.table} recorded from {head.since[:19]} to {head.until[:19]}, for which head {head.number} vouches"
    if found is None:
        return f"{when}: the table, or one of its columns, is gone"
    if found == said:
        return None
    if found.rows != said.rows:
        count = found.rows - said.rows
        return f"{when}: {abs(count):,} {'added afterwards' if count > 0 else 'removed'} ({said.rows:,} were, {found.rows:,} are)"
    if found.total_minor != said.total_minor:
        return f"{when}: altered, their amounts came to {said.total_minor} and come to {found.total_minor}"
    return f"{when}: altered, with the same number and amount"
