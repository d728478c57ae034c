"""Anchor the audit log outside the database, and hold log and books against every head that was ever anchored.

Belongs here: what a new head covers, and what counts as a break. Does not: the log (`adapters.audit`), the file of heads
(`adapters.head_file`), or what a head says (`core.heads`).

An act or a row that was altered, removed or added afterwards is found from the first head after it: so what lies behind the newest head
is only as safe as the database. Every close of an incident anchors the log; every day's settlement anchors the log and the day's rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from pipeline.core.heads import Head, TableDigest, difference
from pipeline.ports import Progress

BREAKS_NAMED = 20
"""Breaks that are named: one deed breaks every head after it."""


class Kept(Protocol):
    """See `adapters.head_file.Kept`."""

    head: Head
    digest: str


class Log(Protocol):
    """What anchoring needs of the database; see `adapters.audit` for each promise."""

    def now(self) -> str: ...
    def newest_seal(self) -> tuple[int, str]: ...
    def seal_of(self, act: int) -> str | None: ...
    def first_break(self) -> str | None: ...
    def anchors(self) -> list[Any]: ...
    def settled_before(self) -> str: ...
    def tables(self) -> dict[str, tuple[str, ...]]: ...
    def digest(self, table: str, columns: Sequence[str], since: str, until: str) -> TableDigest | None: ...


def next_head(log: Log, last: Kept | None, *, beginning: str, with_books: bool) -> Head:
    """The head that follows `last`, of the sealed log and - `with_books` - of every row since the head before that covered rows."""
    since = last.head.until if last else beginning
    until = since
    tables: tuple[TableDigest, ...] = ()
    if with_books:
        until = max(since, log.settled_before()) if last else log.settled_before()
        digests = (log.digest(table, columns, since, until) for table, columns in log.tables().items())
        tables = tuple(digest for digest in digests if digest is not None)
    acts, seal = log.newest_seal()
    return Head(
        number=last.head.number + 1 if last else 1, at=log.now(), acts=acts, seal=seal, since=since, until=until, tables=tables,
        previous=last.digest if last else "",
    )  # fmt: skip


def breaks(log: Log, kept: Sequence[Kept], *, progress: Progress) -> Iterator[str]:
    """Everything in which log and books are not what the heads vouch for, in words, the earliest head first."""
    if broken := log.first_break():
        yield f"the audit log: {broken}"
    yield from _log_breaks(log, kept)
    for done, line in enumerate(kept):
        progress("heads held against the books", done, len(kept))
        yield from _book_breaks(log, line.head)
    progress("heads held against the books", len(kept), len(kept))


def _log_breaks(log: Log, kept: Sequence[Kept]) -> Iterator[str]:
    acts, _ = log.newest_seal()
    for line in kept:
        head = line.head
        if head.acts > acts:
            yield (
                f"the audit log has {acts} acts, head {head.number} of {head.at[:19]} vouches for {head.acts}:"
                f" {'it was emptied' if not acts else 'its end was cut off'}"
            )
            break
        if head.acts and log.seal_of(head.acts) != head.seal:
            yield (
                f"the audit log up to act {head.acts} is not what head {head.number} of {head.at[:19]} vouches for:"
                " acts were altered, removed or added, and the log was sealed anew"
            )
            break
    digests = {line.head.number: line.digest for line in kept}
    for anchor in log.anchors():
        if digests.get(anchor.number) != anchor.digest:
            yield f"head {anchor.number} is not the one that the audit log says was anchored: the file of heads was cut or made anew"
            break


def _book_breaks(log: Log, head: Head) -> Iterator[str]:
    for said in head.tables:
        broken = difference(said, log.digest(said.table, said.columns, head.since, head.until), head)
        if broken:
            yield broken
