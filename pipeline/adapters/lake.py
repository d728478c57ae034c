"""The lake: landed runs as immutable Parquet partitions, written whole or not at all.

`<lake>/billing_period=2023-09/run_id=2023-09-0123456789ab/` holds `charges.parquet` and `run.json`, which
records where every row came from. Belongs here: writing, finding and checking partitions. Does not:
reading sources, or deciding which run counts.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adapters.content_hash import ContentHash
from pipeline.errors import FatalError, RetriableError
from pipeline.ports import ChargeFile, LandedRun, Progress, SourceFile
from pipeline.schema import LANDED_SCHEMA

CHARGES_NAME, RECORD_NAME = "charges.parquet", "run.json"

ROW_GROUP_ROWS = 122_880
"""DuckDB's own: it reads row groups in parallel and sizes its threads' work by this number."""

ROW_GROUP_BYTES = 128 * 1024 * 1024
"""A row group ends early here, so that long values cannot fill the memory."""

COMPRESSION, COMPRESSION_LEVEL = "zstd", 1
"""Half the size of LZ4 and Snappy on charges, and DuckDB scans a month of 1.46M within 30 ms of the fastest."""

PROVERS = 2
"""Partitions whose bytes are hashed at once: hashing keeps a core busy and lets go of the interpreter meanwhile."""

RUN_ID_DIGITS = 12
"""Of the content hash in a run's id: 48 bits, where a period sees tens of runs."""

ABANDONED_SECONDS = 24 * 3600
"""No landing takes a day: an older unfinished one belongs to a process that was killed."""

_RUN_ID = re.compile(r"([0-9]{4}-[0-9]{2})-[0-9a-f]{12}")
_LANDING, _SEEN = "_landing-", "_seen"


class ParquetLake:
    """A lake in one folder; any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def land(
        self, *, source: str, billing_period: str, files: Iterable[ChargeFile], progress: Progress
    ) -> tuple[LandedRun, bool]:
        """Land `files` as one run and say whether this very content was there already.

        Raises:
            UnreadableInput, NotYetArrived: from a file; nothing was landed.
            RetriableError: the disk failed or is full; nothing was landed.
            FatalError: the same content is there but damaged.
        """
        with self._landing() as folder:
            content, facts = _write(folder / CHARGES_NAME, files, progress)
            run_id = f"{billing_period}-{content[:RUN_ID_DIGITS]}"
            if (there := self.find(run_id, thoroughly=True)) is not None:
                return _same_content(there, content), True
            run = LandedRun(
                run_id=run_id,
                billing_period=billing_period,
                source=source,
                path=self._partition(run_id) / CHARGES_NAME,
                content_sha256=content,
                row_count=sum(file.row_count for file in facts),
                control_total_minor=sum(file.control_total_minor for file in facts),
                files=facts,
                landed_at=datetime.now(UTC),
            )
            _write_record(folder, run)
            if self._commit(folder, run_id):
                return run, False
            return _same_content(self.find(run_id, thoroughly=True), content), True

    def find(self, run_id: str, *, thoroughly: bool = False) -> LandedRun | None:
        """The run, or None; `thoroughly` also reads its bytes and compares their SHA-256.

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
            size, sha256 = record["parquet_bytes"], record["parquet_sha256"]
            intact = charges.stat().st_size == size and pq.read_metadata(charges).num_rows == run.row_count
            intact = intact and (not thoroughly or _sha256(charges) == sha256)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            intact = False
        if not intact:
            raise FatalError(
                f"run {run_id} is damaged: {partition} is not what was landed there. Restore that folder from a "
                "backup, or move it away and land the source again: the same charges get the same run id"
            )
        return run

    def prove(self, run_ids: Iterable[str]) -> None:
        """`find` each thoroughly, some at once: DuckDB reads over a flipped byte.

        Raises:
            FatalError: one of them is damaged.
        """
        with ThreadPoolExecutor(max_workers=PROVERS) as threads:
            for _ in threads.map(lambda run_id: self.find(run_id, thoroughly=True), run_ids):
                pass

    def runs(self, billing_period: str) -> list[LandedRun]:
        """The period's runs, in the order in which they landed.

        Raises:
            FatalError: one of them is damaged.
        """
        folders = self._root.glob(f"billing_period={billing_period}/run_id=*")
        found = [self.find(folder.name.removeprefix("run_id=")) for folder in folders]
        return sorted((run for run in found if run is not None), key=lambda run: (run.landed_at, run.run_id))

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
        """The run last noted for the source and period, if `fingerprint` is still the same.

        Raises:
            FatalError: the run is there but damaged.
        """
        try:
            note = json.loads(self._note(source, billing_period).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None  # a note is only a short cut: without it the files are read
        if note["files"] != [list(file) for file in fingerprint]:
            return None
        return self.find(note["run_id"])

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
            folder.chmod(0o755)
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
                _sync(path)
            try:
                folder.rename(partition)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
            _sync(partition.parent)
            _sync(self._root)
        return True


def _same_content(run: LandedRun | None, content: str) -> LandedRun:
    if run is None or run.content_sha256 != content:
        raise FatalError(f"one run id, two contents: {content} and {run and run.content_sha256}; ask an engineer")
    return run


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
        record |= {"parquet_bytes": charges.stat().st_size, "parquet_sha256": _sha256(charges)}
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the file or folder on the disk, not in a cache, before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RetriableError(
            f"the lake cannot be written at {path.parent}: {error.strerror or error}; nothing was landed"
        ) from error
