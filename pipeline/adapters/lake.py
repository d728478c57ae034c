"""The lake: landed runs as immutable Parquet partitions, written whole or not at all.

`<lake>/billing_period=2023-09/run_id=2023-09-0123456789ab/` holds `charges.parquet` and `run.json`, which
records where every row came from. Belongs here: writing, finding and proving partitions. Does not:
reading sources, or deciding which run counts - and what a partition says of itself proves nothing: whoever can edit
its charges can edit its record.
"""

import errno
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters.content_hash import ContentHash
from pipeline.adapters.control_total import ControlTotal
from pipeline.adapters.durable import sync
from pipeline.errors import FatalError, RetriableError
from pipeline.ports import ChargeFile, LandedRun, Landing, Progress, SourceFile
from pipeline.schema import LANDED_SCHEMA

CHARGES_NAME, RECORD_NAME = "charges.parquet", "run.json"

ROW_GROUP_ROWS = 122_880
"""DuckDB's own: it reads row groups in parallel and sizes its threads' work by this number."""

ROW_GROUP_BYTES = 128 * 1024 * 1024
"""A row group ends early here, so that long values cannot fill the memory."""

COMPRESSION, COMPRESSION_LEVEL = "zstd", 1
"""Half the size of LZ4 and Snappy on charges, and DuckDB scans a month of 1.46M within 30 ms of the fastest."""

PROVERS = 2
"""Partitions whose rows are hashed at once: hashing keeps a core busy and lets go of the interpreter meanwhile."""

READ_ROWS = 65_536
"""Rows read back at a time: some 15 MB."""

RUN_ID_DIGITS = 12
"""Of the content hash in a run's id: 48 bits, where a period sees tens of runs."""

ABANDONED_SECONDS = 24 * 3600
"""No landing takes a day: an older unfinished one belongs to a process that was killed."""

_RUN_ID = re.compile(r"([0-9]{4}-[0-9]{2})-[0-9a-f]{12}")
_LANDING, _SEEN, _SET_ASIDE = "_landing-", "_seen", "_set_aside"

_FIGURES = {
    "billing_period": "the billing period", "content_sha256": "the content hash", "row_count": "the number of rows",
    "control_total_minor": "the control total",
}  # fmt: skip
"""What a run's database row and its partition must agree in, and how a message calls it."""


def run_id_of(billing_period: str, content_sha256: str) -> str:
    """The name of a run: its period, and the first digits of the hash of its content."""
    return f"{billing_period}-{content_sha256[:RUN_ID_DIGITS]}"


class ParquetLake:
    """A lake in one folder; any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def land(self, *, source: str, billing_period: str, files: Iterable[ChargeFile], progress: Progress) -> Landing:
        """Land `files` as one run, unless this very content is there already; a damaged or edited partition of it is set aside.

        Raises:
            UnreadableInput, NotYetArrived: from a file; nothing was landed.
            RetriableError: the disk failed or is full; nothing was landed.
            FatalError: another content has the same run id.
        """
        with self._landing() as folder:
            content, facts = _write(folder / CHARGES_NAME, files, progress)
            run_id = run_id_of(billing_period, content)
            run = LandedRun(
                run_id=run_id,
                billing_period=billing_period,
                source=source,
                path=self.path_of(run_id),
                content_sha256=content,
                row_count=sum(file.row_count for file in facts),
                control_total_minor=sum(file.control_total_minor for file in facts),
                files=facts,
                landed_at=datetime.now(UTC),
            )
            _write_record(folder, run)
            set_aside = None
            while not self._commit(folder, run_id):
                if (there := self._intact(run)) is not None:
                    return Landing(there, was_there=True)
                set_aside = self._set_aside(run_id) or set_aside
            return Landing(run, was_there=False, set_aside=set_aside)

    def path_of(self, run_id: str) -> Path:
        """Where the run's Parquet file is, or would be."""
        return self._partition(run_id) / CHARGES_NAME

    def find(self, run_id: str) -> LandedRun | None:
        """The run by its own record, or None: enough to name it, never to charge by it (`prove`).

        Raises:
            FatalError: it is there but damaged.
        """
        if not _RUN_ID.fullmatch(run_id):
            return None
        partition = self._partition(run_id)
        if not partition.is_dir():
            return None
        charges = partition / CHARGES_NAME
        try:
            record = json.loads((partition / RECORD_NAME).read_text(encoding="utf-8"))
            run = _run_from(record, charges)
            intact = charges.stat().st_size == record["parquet_bytes"]
            intact = intact and pq.read_metadata(charges).num_rows == run.row_count
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            intact = False
        if not intact:
            raise FatalError(
                f"run {run_id} is damaged: {partition} is not what was landed there. Restore that folder from a backup, or land"
                f" the source again (`makegood verify --period {run_id[:7]}`): the same charges get the same run id, and the"
                " damaged folder is set aside"
            )
        return run

    def prove(
        self, recorded: Sequence[LandedRun], *, proven_before: Collection[tuple[str, str]] = ()
    ) -> set[tuple[str, str]]:
        """Read back the rows of runs, some at once, and hold them against what was recorded elsewhere when they landed.

        Args:
            recorded: the runs as the database has them, with the paths that this lake gives them.
            proven_before: run ids, each with the SHA-256 of bytes whose rows need not be read again.

        Returns:
            The same of what is proven now.

        Raises:
            FatalError: a partition is gone, damaged or not what landed; names what differs and what to do.
        """

        def look(run: LandedRun) -> tuple[tuple[str, str | None], list[str]]:
            seen = (run.run_id, _sha256(run.path))
            if seen in proven_before:
                return seen, []
            differences = self._differences(run)
            if not differences and _sha256(run.path) != seen[1]:
                differences = [f"{CHARGES_NAME} changed while it was read"]
            return seen, differences

        proven = set()
        with ThreadPoolExecutor(max_workers=PROVERS) as threads:
            for run, (seen, differences) in zip(recorded, threads.map(look, recorded), strict=True):
                proven.add(seen)
                if differences:
                    raise FatalError(
                        f"run {run.run_id} is not what landed: {'; '.join(differences)}. Nothing is charged by it. Restore"
                        f" {run.path.parent} from a backup, or land it again: `makegood verify --source {run.source} --period"
                        f" {run.billing_period}` sets the folder aside and names the run as before if the charges are the same"
                    )
        return proven

    def remember(
        self, *, source: str, billing_period: str, fingerprint: tuple[tuple[str, int, int], ...], run_id: str
    ) -> None:
        """Note that the source's files, as `fingerprint` has them, are run `run_id`."""
        note = {"source": source, "billing_period": billing_period, "files": fingerprint, "run_id": run_id}
        with _disk_errors(self._root):
            path = self._note(source, billing_period)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=_LANDING, delete=False) as file:
                json.dump(note, file)
            Path(file.name).replace(path)

    def recall(
        self, *, source: str, billing_period: str, fingerprint: tuple[tuple[str, int, int], ...]
    ) -> LandedRun | None:
        """The run last noted for the source and period, if `fingerprint` is still the same and its record still names that run."""
        try:
            note = json.loads(self._note(source, billing_period).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None  # a note is only a short cut: without it the files are read
        if note["files"] != [list(file) for file in fingerprint]:
            return None
        try:
            run = self.find(note["run_id"])
        except FatalError:
            return None  # landing it again sets it aside
        named = run and run_id_of(billing_period, run.content_sha256)
        return run if run and run.run_id == named and run.billing_period == billing_period else None

    def _differences(self, recorded: LandedRun) -> list[str]:
        """In what a partition is not the run that was recorded, in words; none if it is."""
        found = _read_back(recorded.path)
        if found is None:
            return [f"{CHARGES_NAME} is gone or cannot be read"]
        differences = _unlike(recorded, found, "its rows")
        if recorded.run_id != run_id_of(recorded.billing_period, recorded.content_sha256):
            differences.append("the id recorded names another period or content than what was recorded with it")
        if differences:
            return differences
        try:
            said = self.find(recorded.run_id)
        except FatalError:
            return [f"{RECORD_NAME} is gone or does not fit {CHARGES_NAME}"]
        return _unlike(recorded, {name: getattr(said, name) for name in _FIGURES}, RECORD_NAME)

    def _intact(self, run: LandedRun) -> LandedRun | None:
        """The partition that is there, if it is of the content of `run`; None if it is damaged.

        Raises:
            FatalError: it is intact, and another content has the same run id.
        """
        differences = self._differences(run)
        if differences and (found := _read_back(run.path)) is not None:
            content = found["content_sha256"]
            if content != run.content_sha256 and run_id_of(run.billing_period, content) == run.run_id:
                raise FatalError(f"one run id, two contents: {run.content_sha256} and {content}; ask an engineer")
        return None if differences else self.find(run.run_id)

    def _set_aside(self, run_id: str) -> Path | None:
        """Keep what is not what it was, out of everybody's way; returns where, None if there was nothing."""
        partition, kept = self._partition(run_id), self._root / _SET_ASIDE / f"{run_id}-{time.time_ns()}"
        with _disk_errors(self._root):
            kept.parent.mkdir(exist_ok=True)
            try:
                partition.rename(kept)
            except FileNotFoundError:
                return None
            return kept

    def _partition(self, run_id: str) -> Path:
        return self._root / f"billing_period={run_id[:7]}" / f"run_id={run_id}"

    def _note(self, source: str, billing_period: str) -> Path:
        name = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self._root / _SEEN / f"{billing_period}-{name}.json"

    @contextmanager
    def _landing(self) -> Iterator[Path]:
        """A folder in the lake's own file system that is gone afterwards, unless it became a partition."""
        with _disk_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            self._clear_abandoned()
            folder = Path(tempfile.mkdtemp(dir=self._root, prefix=_LANDING))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _clear_abandoned(self) -> None:
        for folder in self._root.glob(f"{_LANDING}*"):
            try:
                age_seconds = time.time() - folder.stat().st_mtime
            except FileNotFoundError:
                continue  # another landing, done meanwhile
            if age_seconds > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def _commit(self, folder: Path, run_id: str) -> bool:
        """Make `folder` the run's partition in one step; False if another landing was faster."""
        partition = self._partition(run_id)
        with _disk_errors(self._root):
            partition.parent.mkdir(exist_ok=True)
            for path in (folder / CHARGES_NAME, folder / RECORD_NAME, folder):
                sync(path)
            try:
                folder.rename(partition)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
            sync(partition.parent)
            sync(self._root)
        return True


def _write(path: Path, files: Iterable[ChargeFile], progress: Progress) -> tuple[str, tuple[SourceFile, ...]]:
    """Write all rows to `path`; return their content hash and what each file held."""
    content, facts = ContentHash(), []
    # A file's own read errors are never OSError, so what is caught here is the lake's disk.
    with _disk_errors(path), pq.ParquetWriter(
        path, LANDED_SCHEMA, compression=COMPRESSION, compression_level=COMPRESSION_LEVEL, write_page_checksum=True
    ) as writer:  # fmt: skip
        for group in _row_groups(_landed_rows(files, content, facts, progress)):
            writer.write_table(group, row_group_size=group.num_rows)
    return content.hexdigest(), tuple(facts)


def _landed_rows(
    files: Iterable[ChargeFile], content: ContentHash, facts: list[SourceFile], progress: Progress
) -> Iterator[pa.RecordBatch]:
    for file in files:
        rows = 0
        for batch in file.read(progress):
            content.update(batch)
            name = pa.repeat(pa.scalar(file.name), batch.num_rows)
            row_numbers = pa.array(np.arange(rows + 1, rows + batch.num_rows + 1, dtype=np.int64))
            yield pa.RecordBatch.from_arrays([*batch.columns, name, row_numbers], schema=LANDED_SCHEMA)
            rows += batch.num_rows
        facts.append(file.facts())


def _read_back(charges: Path) -> dict[str, Any] | None:
    """Content hash, number and total of the rows that a partition's file holds; None if it cannot be read as one."""
    content, total = ContentHash(), ControlTotal()
    try:
        with pq.ParquetFile(charges, pre_buffer=False, page_checksum_verification=True) as file:
            if file.schema_arrow.remove_metadata() != LANDED_SCHEMA:
                return None
            for batch in file.iter_batches(READ_ROWS):
                content.update(batch)
                total.add(batch)
    except (OSError, pa.ArrowException):
        return None
    return {
        "content_sha256": content.hexdigest(), "row_count": total.row_count, "control_total_minor": total.amount_minor
    }  # fmt: skip


def _unlike(recorded: LandedRun, found: dict[str, Any], where: str) -> list[str]:
    """The figures that are others in `where` than were recorded, in words."""
    return [
        f"{_FIGURES[name]} of {where} is {_short(value)}, recorded was {_short(getattr(recorded, name))}"
        for name, value in found.items()
        if value != getattr(recorded, name)
    ]


def _sha256(file: Path) -> str | None:
    """SHA-256 of a file's bytes; None if they cannot be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None


def _short(value: Any) -> str:
    return value[:RUN_ID_DIGITS] if isinstance(value, str) else f"{value:,}"


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, ROW_GROUP_ROWS - rows)
            waiting.append(part)
            rows, size = rows + part.num_rows, size + part.nbytes
            batch = batch.slice(part.num_rows)
            if rows == ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
                yield pa.Table.from_batches(waiting)
                waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _write_record(folder: Path, run: LandedRun) -> None:
    """Write `run.json`: the run without its path, for a lake may be moved, and what its Parquet file must be."""
    charges = folder / CHARGES_NAME
    record = asdict(run) | {"landed_at": run.landed_at.isoformat()}
    del record["path"]
    with _disk_errors(folder):
        record |= {"parquet_bytes": charges.stat().st_size}
        (folder / RECORD_NAME).write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _run_from(record: dict, charges: Path) -> LandedRun:
    fields = {name: value for name, value in record.items() if not name.startswith("parquet_")}
    return LandedRun(
        **fields
        | {
            "path": charges,
            "files": tuple(SourceFile(**file) for file in fields["files"]),
            "landed_at": datetime.fromisoformat(fields["landed_at"]),
        }
    )


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetriableError(
            f"the lake cannot be written at {path.parent}: {error.strerror or error}; nothing was landed"
        ) from error
