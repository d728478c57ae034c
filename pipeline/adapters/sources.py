"""A folder of charge files by period, and the choice between it and a database.

Belongs here: which files a period has, whether all have arrived, and whether each is what the manifest
promised. Does not: how a format is read (`csv_source`, `parquet_source`, `sql_source`).
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipeline.adapters.byte_check import ByteCheck, check_binary, check_text
from pipeline.adapters.control_total import ControlTotal
from pipeline.adapters.csv_source import read_csv
from pipeline.adapters.manifest import MANIFEST_NAME, PromisedFile, read_manifest
from pipeline.adapters.parquet_source import read_parquet
from pipeline.adapters.sql_source import SqlSource
from pipeline.adapters.strict_columns import shown
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import NotYetArrived, UnreadableInput, UsageError
from pipeline.ports import Arrival, Progress, Source, SourceFile

__all__ = ["FolderSource", "SqlSource", "open_source"]

FOLDER_PREFIX = "billing_period="

FORMATS = (".parquet", ".csv", ".csv.gz")

PARTIAL_SUFFIXES = (".part", ".partial", ".tmp", ".filepart", ".crdownload")
"""What transfer programs call a file until it is complete."""


def open_source(where: str | Path, query: str | None = None) -> Source:
    """The source at `where`: a folder, or a SQLAlchemy URL together with `query`.

    Raises:
        UsageError: it is neither, or the query is missing or superfluous.
    """
    if "://" in str(where):
        if query is None:
            raise UsageError("a database source needs a query that chooses its rows by :billing_period")
        return SqlSource(str(where), query)
    if query is not None:
        raise UsageError(f"{where} is a folder, which takes no query")
    return FolderSource(Path(where))


class FolderSource:
    """Charge files in `billing_period=YYYY-MM` folders.

    Attributes:
        label: the folder's absolute path.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().resolve()
        self.label = str(self._root)

    def periods(self) -> list[BillingPeriod]:
        """The periods that have a folder, earliest first.

        Raises:
            UsageError: the source folder does not exist.
        """
        if not self._root.is_dir():
            raise UsageError(f"the source folder {self._root} does not exist")
        found = []
        for folder in self._root.glob(f"{FOLDER_PREFIX}*/"):
            try:
                found.append(BillingPeriod.parse(folder.name.removeprefix(FOLDER_PREFIX)))
            except ValueError:
                continue
        return sorted(found)

    def arrived(self, billing_period: BillingPeriod) -> Arrival:
        """The period's files in name order, and those that the manifest names or a transfer has begun.

        Raises:
            UnreadableInput: there is no such period, or its manifest or file names make no sense.
        """
        if billing_period not in (periods := self.periods()):
            known = ", ".join(map(str, periods)) or "none"
            raise UnreadableInput(f"{self._root} has no folder {FOLDER_PREFIX}{billing_period}; periods there: {known}")
        folder = (self._root / f"{FOLDER_PREFIX}{billing_period}").resolve()
        promised = read_manifest(folder)
        visible = _visible_names(folder)
        partial = [name for name in visible if name.lower().endswith(PARTIAL_SUFFIXES)]
        present = [name for name in visible if name not in partial and name != MANIFEST_NAME]
        there = set(present)
        names = sorted(promised or present)
        if promised and (unnamed := [name for name in present if name not in promised]):
            raise UnreadableInput(
                f"{unnamed[0]}: lies beside {MANIFEST_NAME}, which does not name it; name it there or take it away"
            )
        waiting = [name for name in names if name not in there] if promised else partial
        if not names and not waiting:
            raise UnreadableInput(f"{folder} holds no charge file ({', '.join(FORMATS)})")
        files = tuple(
            _ArrivedFile(_inside(folder, name), (promised or {}).get(name)) for name in names if name in there
        )
        looked_at = [file.path for file in files] + ([folder / MANIFEST_NAME] if promised else [])
        return Arrival(files, tuple(waiting), tuple((path.name, *_size_and_time(path)) for path in looked_at))


def _visible_names(folder: Path) -> list[str]:
    """What lies in `folder` and is meant to be looked at, in order.

    Raises:
        UnreadableInput: it cannot be listed, or a name has characters that no name may have: it would end up in reports and on terminals.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith((".", "_")))
    except OSError as error:
        raise UnreadableInput(f"{folder} cannot be listed ({error.strerror or error})") from None
    if odd := [name for name in names if not name.isprintable()]:
        raise UnreadableInput(f"{odd[0]!a}: its name has control characters, or is not UTF-8; rename it")
    return names


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    try:
        is_inside = path.resolve(strict=True).is_relative_to(folder)
    except (OSError, RuntimeError):  # a loop of links, or one that leads nowhere
        is_inside = False
    if not is_inside:
        raise UnreadableInput(f"{shown(name)}: links to a place outside its period's folder; put the file itself there")
    if not path.is_file() or not name.lower().endswith(FORMATS):
        raise UnreadableInput(f"{shown(name)}: is none of {', '.join(FORMATS)}; take it away, or begin its name with _")
    return path


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotYetArrived(f"{path.name} was there and is gone", (path.name,)) from None
    return status.st_size, status.st_mtime_ns


class _ArrivedFile:
    """One file of a folder, checked against the manifest before and after it is read."""

    def __init__(self, path: Path, promised: PromisedFile | None) -> None:
        self.path, self.name = path, path.name
        self._promised = promised
        self._total = ControlTotal()
        self._sha256 = ""

    def read(self, progress: Progress) -> Iterator[pa.RecordBatch]:
        """The rows as `CHARGE_SCHEMA`, if bytes, rows and total are what was promised.

        Raises:
            UnreadableInput: they are not, or cannot be read faithfully.
            NotYetArrived: the file changed meanwhile.
        """
        before = _size_and_time(self.path)
        try:
            for batch in self._rows(progress):
                self._total.add(batch)
                yield batch
            self._check_totals()
        except (UnreadableInput, OSError) as error:
            self._check_unchanged(before)  # half a file is no broken file while the rest is on its way
            if isinstance(error, OSError):
                raise UnreadableInput(f"{self.name}: cannot be read ({error.strerror or error})") from None
            raise
        self._check_unchanged(before)

    def facts(self) -> SourceFile:
        """What was read."""
        return SourceFile(
            self.name,
            self._sha256,
            self._total.row_count,
            self._total.amount_minor,
            self._promised and self._promised.row_count,
            self._promised and self._promised.control_total_minor,
        )

    def _rows(self, progress: Progress) -> Iterator[pa.RecordBatch]:
        lower = self.name.lower()
        compressed = lower.endswith(".gz")
        if lower.endswith(".parquet"):
            check = check_binary(self.path, progress)
            self._check_bytes(check)
            return read_parquet(self.path, progress)
        check = check_text(self.path, progress, compressed=compressed)
        self._check_bytes(check)
        return read_csv(self.path, check, progress, compressed=compressed)

    def _check_bytes(self, check: ByteCheck) -> None:
        self._sha256 = check.sha256
        if self._promised and check.sha256 != self._promised.sha256:
            raise UnreadableInput(
                f"{self.name}: its SHA-256 is {check.sha256} and {MANIFEST_NAME} says {self._promised.sha256}: "
                "it was truncated or changed on the way; have it sent again"
            )
        if check.problem:
            raise UnreadableInput(f"{self.name}: {check.problem}")
        if not check.ends_with_newline and not self._promised:
            raise UnreadableInput(
                f"{self.name}: the last row does not end in a line break, so it may be truncated; "
                f"have the file sent again, or with a {MANIFEST_NAME} that vouches for it"
            )

    def _check_unchanged(self, before: tuple[int, int]) -> None:
        if _size_and_time(self.path) != before:
            raise NotYetArrived(f"{self.name} changed while it was read: it is still arriving", (self.name,))

    def _check_totals(self) -> None:
        if self._total.row_count == 0:
            raise UnreadableInput(f"{self.name}: has no rows")
        if self._promised is None:
            return
        for what, found, promised in (
            ("row_count", self._total.row_count, self._promised.row_count),
            ("control_total_minor", self._total.amount_minor, self._promised.control_total_minor),
        ):
            if found != promised:
                raise UnreadableInput(f"{self.name}: {what} is {found} and {MANIFEST_NAME} says {promised}")
