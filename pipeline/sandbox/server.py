"""The acquirer's counter: who may hold the folder, and what is taken from it in which order.

A request file is booked in one transaction, and only then answered and removed. So a process killed at
any moment leaves either nothing booked, or a booked file that is still in `in/`: the next process finds it
in the book, books nothing and answers. Requests are removed once answered and may be carried out twice.
Cards are taken before files, files in order of sequence, requests last: who drops cards and then a file
finds the cards known, and who asks after a file was answered finds it booked.
"""

import fcntl
import hashlib
import json
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sandbox import batchfile
from pipeline.sandbox.batchfile import RejectedError, write_whole
from pipeline.sandbox.book import OPERATION_KEYS, Book
from pipeline.sandbox.inquiry import export_book, inquire
from pipeline.sandbox.rules import book_due, book_operations
from pipeline.sandbox.settlement import settle

FOLDERS = ("in", "ack", "result", "cards", "request", "answer", "settlement")

POLL_SECONDS = 0.02
"""How often an idle process looks: short against the 0.2 s a file of 50,000 takes, under 1 % of a core."""

LOCK_PATIENCE_SECONDS = 1.0
"""How long a starting process tries for the folder: a command in it is done by then, another server is not."""

ANSWER_SECONDS = 120.0
"""Longest wait for an answer: exporting six million entries takes ten."""

PARENT_CHECK_SECONDS = 0.5
"""How long an acquirer may outlive the process that started it."""


class FolderTakenError(Exception):
    """Another process serves this folder."""


class Counter:
    """One folder, held by this process from construction to `close`.

    Args:
        folder: made when missing.
        patience_seconds: how long to try; others hold the folder for an instant when they look whether it is served.

    Raises:
        FolderTakenError: another process holds it.
    """

    def __init__(self, folder: Path, *, patience_seconds: float = 0.0) -> None:
        self.folder = folder
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "server.lock").open("a")
        deadline = time.monotonic() + patience_seconds
        while not _try_lock(self._lock):
            if time.monotonic() >= deadline:
                self._lock.close()
                raise FolderTakenError(f"{folder} is served by another process")
            time.sleep(POLL_SECONDS)
        self.book = Book(folder / "book.duckdb")

    def close(self) -> None:
        self.book.close()
        self._lock.close()

    def serve(self, parent: int | None) -> None:
        """Take what comes until told to stop (SIGTERM, SIGINT) or until process `parent` is gone."""
        stopping: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _frame: stopping.append(received))
        next_look = 0.0
        while not stopping:
            if time.monotonic() >= next_look:
                if parent is not None and not _is_alive(parent):
                    return
                book_due(self.book)
                settle(self.book, self.folder / "settlement")
                next_look = time.monotonic() + PARENT_CHECK_SECONDS
            if not self.take_all():
                time.sleep(POLL_SECONDS)

    def take_all(self) -> bool:
        """Take what lies there now; answers whether there was anything."""
        # Looked at in the opposite order: cards dropped before a file that is seen here are then seen here as well.
        requests = self._waiting("request", "json")
        files = sorted(self._waiting("in", "csv"), key=_file_order)
        cards = sorted(self._waiting("cards", "parquet"), key=lambda path: path.stat().st_mtime_ns)
        for path in cards:
            self._take_cards(path)
        for path in files:
            self._take_file(path)
        for path in requests:
            self._take_request(path)
        return bool(cards or files or requests)

    def take_requests(self) -> None:
        """Answer the requests that lie there now, and leave everything else."""
        for path in self._waiting("request", "json"):
            self._take_request(path)

    def _waiting(self, folder: str, ending: str) -> list[Path]:
        return sorted((self.folder / folder).glob(f"[!.]*.{ending}"))

    def _take_cards(self, path: Path) -> None:
        try:
            self.book.know_cards(path)
        except (ValueError, duckdb.Error) as error:
            write_whole(path.with_name(f"{path.name}.refused"), f"{error}\n".encode())
        path.unlink()

    def _take_file(self, path: Path) -> None:
        name, content = path.name, path.read_bytes()
        try:
            answers = self._book_file(name, content)
        except RejectedError as rejected:
            answers = {"ack": batchfile.rejection(content, str(rejected), self._next_sequence(name.partition("_")[0]))}
        for folder, answer in answers.items():
            write_whole(self.folder / folder / f"{name}_{folder}", answer)
        path.unlink()

    def _book_file(self, name: str, content: bytes) -> dict[str, bytes]:
        """Book a file once, whatever happened before, and write its answers; `RejectedError` where it may not be."""
        connection, sha256 = self.book.connection, hashlib.sha256(content).hexdigest()
        book_due(self.book)
        header = batchfile.read(connection, name, content)
        is_booked = self.book.one("SELECT count(*) FROM batch_file WHERE name = ? AND sha256 = ?", name, sha256)
        expected = self._next_sequence(header.platform)
        if not is_booked and header.sequence != expected:
            what = "was used before" if header.sequence < expected else "leaves a gap"
            raise RejectedError(f"file sequence number {header.sequence} {what}: the next is {expected}")
        crashes = not is_booked and self.book.settings["crash_after_booking"] == "1"
        connection.begin()
        try:
            book_operations(self.book)
            if not is_booked:
                connection.execute(
                    """INSERT INTO batch_file SELECT ?, ?, ?, ?, ?,
                       (SELECT merchant_account FROM (FROM operation UNION ALL BY NAME FROM bad_line) LIMIT 1), ?""",
                    [header.platform, header.sequence, name, sha256, header.company_account, self.book.now()],
                )
            if crashes:
                self.book.set({"crash_after_booking": "0"})
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        if crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        acknowledgement = batchfile.acknowledgement(connection, header, self._next_sequence(header.platform))
        return {"ack": acknowledgement, "result": batchfile.result(connection, header)}

    def _next_sequence(self, platform: str) -> int:
        return 1 + (self.book.one("SELECT max(sequence) FROM batch_file WHERE platform = ?", platform) or 0)

    def _take_request(self, path: Path) -> None:
        payload = path.with_suffix(".parquet")
        try:
            request = json.loads(path.read_text())
            table = pq.read_table(payload) if payload.exists() else None
            answer = self.answer(request.pop("verb"), request, table, request_id=path.stem)
        except (ValueError, KeyError, TypeError, OSError, pa.ArrowException, duckdb.Error) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if isinstance(answer, pa.Table):
            part = self.folder / "answer" / f".{path.stem}.part"
            pq.write_table(answer, part, compression="none")
            part.replace(part.with_name(f"{path.stem}.parquet"))
            answer = {"rows": answer.num_rows}
        write_whole(self.folder / "answer" / f"{path.stem}.json", json.dumps(answer).encode())
        payload.unlink(missing_ok=True)
        path.unlink()

    def answer(self, verb: str, arguments: dict, table: pa.Table | None, *, request_id: str) -> pa.Table | dict:
        """Do what a request asks for.

        Verbs: `status`; `set` (settings by name); `clock` (as_of: ISO 8601 UTC, or null for real time); `settle`; `export`
        (to: absolute path); `inquire` (with a table); `event` (kind, and columns by name or as a table).

        Raises:
            ValueError: the request makes no sense.
        """
        match verb:
            case "status":
                return self._status()
            case "set":
                self.book.set({name: str(value) for name, value in arguments.items()})
            case "clock":
                self.book.set({"clock": arguments["as_of"] or ""})
            case "export":
                return {"rows": export_book(self.book, Path(arguments["to"]))}
            case "inquire":
                return inquire(self.book, table)
            case "event":
                kind = arguments.pop("kind")
                return self._event(
                    kind, table or pa.table({name: [value] for name, value in arguments.items()}), request_id
                )
            case "settle":
                pass  # done below, as after every change of settings or of time
            case _:
                raise ValueError(f"no verb {verb!r}")
        book_due(self.book)
        settle(self.book, self.folder / "settlement")
        return self._status()

    def _status(self) -> dict:
        platforms = self.book.connection.execute(
            "SELECT platform, max(sequence) + 1 FROM batch_file GROUP BY platform"
        ).fetchall()
        return {
            "pid": os.getpid(),
            "now": self.book.now().replace(tzinfo=UTC).isoformat(),
            "next_sequence": dict(platforms),
            "payments": self.book.one("SELECT count(*) FROM payment"),
            "settings": self.book.settings,
        }

    def _event(self, kind: str, table: pa.Table, request_id: str) -> dict:
        """Something that happens at the acquirer without the merchant's files: tests and rehearsals plant it here."""
        connection = self.book.connection
        book_due(self.book)
        connection.register("event", table)
        try:
            connection.begin()
            match kind:
                case "support_refund":
                    amount = "e.amount_minor" if "amount_minor" in table.column_names else "NULL"
                    connection.execute(_SUPPORT_REFUND.format(amount=amount), {"id": request_id})
                    connection.execute(
                        f"CREATE OR REPLACE TEMP VIEW operation AS SELECT *, {OPERATION_KEYS} FROM given_back"
                    )
                    book_operations(self.book, from_held=True)
                    done = self.book.one("SELECT count(*) FROM outcome WHERE status = 'succeeded'")
                case "dispute":
                    done = connection.execute(
                        """INSERT INTO dispute SELECT payment_no, ? FROM payment
                           SEMI JOIN event ON payment_no = try_number(payment_id)""",
                        [self.book.now()],
                    ).fetchone()[0]
                case "close_card":
                    done = connection.execute(
                        "UPDATE card SET status = 'closed' WHERE instrument_token IN (SELECT instrument_token FROM event)"
                    ).fetchone()[0]
                case _:
                    raise ValueError(f"no event {kind!r}: there are support_refund, dispute, close_card")
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            connection.unregister("event")
        return {"done": done, "asked": table.num_rows}


# What support gives back without being told how much is what is left; the reference is the request's, so that a repeated request is known.
_SUPPORT_REFUND = """
CREATE OR REPLACE TEMP TABLE given_back AS
WITH left_over AS (
    SELECT payment_no, any_value(p.amount_minor) - coalesce(sum(m.amount_minor), 0) AS amount_minor, any_value(p.currency) AS currency
    FROM payment p LEFT JOIN (FROM modification WHERE kind = 'refund' AND refusal IS NULL) m USING (payment_no)
    WHERE payment_no IN (SELECT try_number(payment_id) FROM event) GROUP BY payment_no
)
SELECT row_number() OVER () AS line, concat('support-', $id, '-', row_number() OVER ()) AS merchant_reference, 'refund' AS kind,
    payment_id AS original, CAST(coalesce({amount}, l.amount_minor) AS BIGINT) AS amount_minor, l.currency
FROM event e JOIN left_over l ON l.payment_no = try_number(e.payment_id) WHERE coalesce({amount}, l.amount_minor) > 0"""


def _file_order(path: Path) -> tuple[str, int, str]:
    match = batchfile.NAME.fullmatch(path.name)
    return (match["platform"], int(match["sequence"]), path.name) if match else ("", 0, path.name)


def _is_alive(process: int) -> bool:
    """Whether `process` runs; one that has ended and waits for its own parent does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def ask(folder: Path, verb: str, arguments: dict) -> dict:
    """Put a request to the process that serves `folder` - or, where none does, open the book and answer it here.

    Raises:
        ValueError: the request makes no sense.
        TimeoutError: the process that serves the folder does not answer.
    """
    (folder / "request").mkdir(parents=True, exist_ok=True)
    request_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"
    write_whole(folder / "request" / f"{request_id}.json", json.dumps({"verb": verb, **arguments}).encode())
    answer = folder / "answer" / f"{request_id}.json"
    deadline = time.monotonic() + ANSWER_SECONDS
    while not answer.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the acquirer of {folder} has not answered in {ANSWER_SECONDS:.0f} s")
        try:
            counter = Counter(folder)
        except FolderTakenError:
            time.sleep(POLL_SECONDS)
            continue
        try:
            counter.take_requests()
        finally:
            counter.close()
    said = json.loads(answer.read_text())
    answer.unlink()
    if "error" in said:
        raise ValueError(said["error"])
    return said
