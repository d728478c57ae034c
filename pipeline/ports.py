"""What the verbs need of the outside world, so that no verb imports a client library.

A protocol belongs here when a verb calls it. How it is done is in `adapters`; which one is used is
decided in `bootstrap`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

from pipeline.core.billing_period import BillingPeriod
from pipeline.core.verdict import Table

Progress = Callable[[str, int, int | None], None]
"""Told `(what, done, total)` as long work goes on; `total` is None while it is not known."""


def no_progress(what: str, done: int, total: int | None) -> None:
    """For callers that show nothing."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file (or query) that a run was read from.

    Attributes:
        name: file name inside its period's folder; the query's name for a database.
        sha256: of the bytes as they arrived; of the rows for a query.
        row_count: rows read from it.
        control_total_minor: sum of `amount_minor` over them.
        manifest_row_count, manifest_control_total_minor: what the manifest promised; None without one.
    """

    name: str
    sha256: str
    row_count: int
    control_total_minor: int
    manifest_row_count: int | None = None
    manifest_control_total_minor: int | None = None


@dataclass(frozen=True, slots=True)
class LandedRun:
    """A run in the lake: content that never changes again.

    Attributes:
        run_id: `<billing_period>-<first 12 hex digits of content_sha256>`; names the content.
        billing_period: the period the source folder claims (rows may say otherwise; the gate looks).
        source: the folder or database URL (without password) it came from.
        path: its Parquet file.
        content_sha256: over all charge columns of all rows in file order, independent of the file format.
        row_count, control_total_minor: over all files.
        files: where the rows came from.
        landed_at: UTC.
    """

    run_id: str
    billing_period: str
    source: str
    path: Path
    content_sha256: str
    row_count: int
    control_total_minor: int
    files: tuple[SourceFile, ...]
    landed_at: datetime


@dataclass(frozen=True, slots=True)
class Landing:
    """What became of landing some content.

    Attributes:
        was_there: the same content was there before, intact, and nothing was written.
        set_aside: where a damaged or edited partition of the same run is kept from now on; None where there was none.
    """

    run: LandedRun
    was_there: bool
    set_aside: Path | None = None


@dataclass(frozen=True, slots=True)
class HistoryPeriod:
    """One earlier month a run is compared with.

    Attributes:
        billing_period: the earlier month.
        run_id, path: the partition used.
        standing: `released`, `corrected`, or `unverified` (taken from the source as it lies there).
    """

    billing_period: str
    run_id: str
    path: Path
    standing: str


@dataclass(frozen=True, slots=True)
class Due:
    """What a run still owes the acquirer.

    Attributes:
        operations: the due charges, keyed and cut into waves.
        classes: rows and amount of every class of row, `due` and each reason for not charging a row.
    """

    operations: pa.Table
    classes: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class BatchFile:
    """An outgoing file, written but not handed over.

    Attributes:
        path: where it is kept as evidence of what goes out, outside the folder the acquirer reads.
        staged: a second copy, one rename away from the acquirer; whoever moves it first - to the acquirer, or out of its
            reach - has decided. None for a file of before there was one.
        sequence: the acquirer's file sequence number, exactly one above the last accepted.
        header: its first line, which comes back in every answer: it names the sequence number and a digest of the rest.
        sha256: of its bytes.
        operation_count, total_minor: what it was written to contain.
    """

    path: Path
    staged: Path | None
    sequence: int
    header: str
    sha256: str
    operation_count: int
    total_minor: int


Whereabouts = Literal["withdrawn", "delivered", "missing"]
"""Of a staged file: moved out of the acquirer's reach, with the acquirer, or in no place that is known."""


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file that the acquirer has, by its own answers.

    Attributes:
        name, sequence, header: as in `BatchFile`.
        scope, wave: what it was written for, as its header says; empty and 0 where it does not.
    """

    name: str
    sequence: int
    header: str
    scope: str
    wave: int


@dataclass(frozen=True, slots=True)
class Noted:
    """What is known outside the database to have gone out, so that one restored from a backup is found out.

    Attributes:
        epoch: of the sender that handed over last.
        sequence: of the last file handed over, or accepted by the acquirer; 0 for none.
        accepted: of the last one that the acquirer has accepted, or that lies before it; 0 for none. A file that was handed over
            may have been taken back before the acquirer had it; one that was accepted was not.
    """

    epoch: int
    sequence: int
    accepted: int = 0


class PaymentRail(Protocol):
    """A way to an acquirer that takes batches.

    Attributes:
        simulated: whether a simulated clock may be used with it; only the practice acquirer says yes.
        identity: names the counter of file sequence numbers; the same for as long as the acquirer counts on.
    """

    simulated: bool
    identity: str

    def introduce(self, cards: pa.Table) -> None:
        """Make `cards` (`CARD_SCHEMA`) known to the acquirer; repeating it changes nothing. A no-op on real rails."""

    def write(self, operations: pa.Table, *, sequence: int, echo: str) -> BatchFile:
        """Write `operations` (`OPERATION_SCHEMA`, all of one file type) as a file, not handed over, and staged.

        Both copies are on the disk, and survive a power loss, when this returns. `echo` goes out in the file's header with a
        digest of its operations, and comes back in its answers.
        """

    def read_back(self, file: BatchFile) -> pa.Table:
        """What the staged file on disk really says, as `OPERATION_SCHEMA`; reads the bytes anew.

        Raises:
            FatalError: it cannot be parsed, or its trailers contradict its lines.
        """

    def require_as_written(self, file: BatchFile) -> None:
        """Prove that the staged bytes are those that were read back and matched.

        Raises:
            FatalError: they are not; nothing was sent.
        """

    def note(self, noted: Noted) -> None:
        """Keep, beside the rail and through a power loss, what was handed over last."""

    def noted(self) -> Noted:
        """What is known here to have gone out: the note, or what the acquirer has accepted since."""

    def deliver(self, file: BatchFile) -> None:
        """Hand the file over: one atomic rename of its staged copy.

        Raises:
            SenderLost: somebody has moved it out of the acquirer's reach; it was not handed over.
        """

    def recall(self, file: BatchFile) -> Whereabouts:
        """Move the staged file out of the acquirer's reach, unless it was delivered; says which. Repeating it says the same."""

    def poll(self, file: BatchFile, operations: pa.Table, *, timeout_seconds: float) -> pa.Table:
        """Wait for the answers to the file's `operations`, as `OUTCOME_SCHEMA`; what it does not answer for is left out.

        Raises:
            FileRefused: the acquirer rejected the whole file, and cannot have booked it; the message has its reason.
            DamagedAnswer: an answer is there that cannot be trusted; a copy was kept, and the message names it.
            OutcomeUnknown: no answer within `timeout_seconds`.
        """

    def inquire(self, merchant_references: pa.Array) -> pa.Table:
        """What became of these operations, as `OUTCOME_SCHEMA`; `not_found` where the acquirer knows nothing (yet).

        Raises:
            RetriableError: the acquirer is away.
        """

    def next_sequence(self) -> int:
        """The file sequence number the acquirer will accept next, as far as its answers say."""

    def set_clock(self, as_of: datetime | None) -> None:
        """Tell a practice acquirer what time it is; None means real time.

        Raises:
            FatalError: this rail is real and knows its own time.
        """


class LiveStates(Protocol):
    """What a rail may be able to say beside moving money: the state of payments now."""

    def ask_states(self, *, payment_ids: pa.Array) -> Callable[[], pa.Table]:
        """Put the question; calling the result waits for the answer: `PAYMENT_STATE_SCHEMA`, one row for each id, in order.

        Raises:
            RetriableError: the acquirer is away.
        """


class ChargeFile(Protocol):
    """One file (or query) of a period, ready to be read once from its first row to its last.

    Attributes:
        name: file name inside its period's folder; the query's name for a database.
    """

    name: str

    def read(self, progress: Progress) -> Iterator[pa.RecordBatch]:
        """Its rows as `CHARGE_SCHEMA`, in order, never more than a batch in memory.

        Raises:
            UnreadableInput: it cannot be read faithfully; the message names file, row, column and reason.
            NotYetArrived: it changed while it was read.
        """

    def facts(self) -> SourceFile:
        """What was read; to be asked once `read` is exhausted."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a source holds for a period now.

    Attributes:
        files: what can be read, in the order in which it lands.
        waiting_for: names of files that have not arrived, or not completely; while there is one, nothing is landed.
        fingerprint: `(name, size in bytes, mtime in ns)` of everything that was looked at; None where a source has none.
    """

    files: tuple[ChargeFile, ...]
    waiting_for: tuple[str, ...]
    fingerprint: tuple[tuple[str, int, int], ...] | None


class Source(Protocol):
    """Where charges come from: a folder of periods, or a database and a query.

    Attributes:
        label: the folder, or the database URL without its password.
    """

    label: str

    def arrived(self, billing_period: BillingPeriod) -> Arrival:
        """What is there for the period; reads names and the manifest, no charges.

        Raises:
            UnreadableInput: there is no such period, or its manifest or file names make no sense.
        """

    def periods(self) -> list[BillingPeriod]:
        """The periods it has, earliest first; a database cannot say and answers with none."""


class Lake(Protocol):
    """Landed runs as immutable Parquet partitions."""

    def land(self, *, source: str, billing_period: str, files: Iterable[ChargeFile], progress: Progress) -> Landing:
        """Land `files`, whole or not at all, unless this content is there already; a damaged partition of it is set aside.

        Raises:
            UnreadableInput, NotYetArrived: from a file; nothing was landed.
            RetriableError: the disk failed or is full; nothing was landed.
            FatalError: another content has the same run id.
        """

    def path_of(self, run_id: str) -> Path:
        """Where the run's Parquet file is, or would be."""

    def find(self, run_id: str) -> LandedRun | None:
        """The run by its own record, or None: enough to name it, never to charge by it.

        Raises:
            FatalError: it is there but damaged.
        """

    def prove(
        self, recorded: Sequence[LandedRun], *, proven_before: Collection[tuple[str, str]] = ()
    ) -> set[tuple[str, str]]:
        """Read back the rows of runs and hold them against what was recorded elsewhere when they landed.

        Args:
            proven_before: run ids, each with the SHA-256 of bytes whose rows need not be read again.

        Returns:
            The same of what is proven now.

        Raises:
            FatalError: a partition is gone, damaged or not what landed.
        """

    def remember(self, *, source: str, billing_period: str, fingerprint: tuple, run_id: str) -> None:
        """Note that the source's files, as `fingerprint` has them, are run `run_id`."""

    def recall(self, *, source: str, billing_period: str, fingerprint: tuple) -> LandedRun | None:
        """The run last noted for the source and period, if `fingerprint` is still the same."""


class Measurement(Protocol):
    """The facts of one run against its history, counted once and ready to be added up.

    Attributes:
        currency: the run's currency: history's, or without history the run's most frequent; `XXX` without any.
    """

    currency: str

    def profile(self) -> Table:
        """One row per cohort (`cohort_kind`, `cohort`), the whole run first; one column per metric."""

    def lags(self) -> Table:
        """One row per cohort and earlier month, the whole run first."""

    def signals(self) -> Table:
        """One row per cohort, two-way cohorts included, and signal of `core.signals`; the whole run first."""

    def factors(self) -> Table:
        """What odd bills are of the bills before them: `kind, bills, lower, middle, upper`; empty without history."""

    def without(self, cohorts: Sequence[str]) -> AbstractContextManager[None]:
        """Within the block, profile, lags and signals are those of the run without these cohorts, `<kind>:<value>`; blocks nest."""

    def amounts(self) -> Table:
        """`core.verdict.Charts.amounts`."""

    def totals(self) -> Table:
        """`billing_period, charges, total_minor` per month, this run last."""

    def quarantine(self, path: Path) -> Table:
        """Write the offending rows to `path` (Parquet); returns `reason, rows`, most frequent first."""

    def quarantine_sample(self, path: Path, per_reason: int) -> Table:
        """The first rows of each reason in what `quarantine` wrote."""


class Engine(Protocol):
    """Where a run is measured."""

    def measure(
        self, run: LandedRun, history: Sequence[HistoryPeriod], parameters: Mapping[str, Any], progress: Progress
    ) -> AbstractContextManager[Measurement]:
        """Count every fact about `run` against `history`; `parameters` as `judge.MEASURING` lists them.

        Raises:
            FatalError: a partition is missing or is no landed run.
        """
