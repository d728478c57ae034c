"""The rail to the practice acquirer: the batch rail, with the questions a batch format does not have.

Belongs here: keeping the acquirer's process alive while it is needed, and its request and answer files.
Does not: the batch format (`adyen_batch`), or anything the acquirer does (`pipeline.sandbox`, which this
module starts as a program and never imports).
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import pipeline
from pipeline.adapters.rails.adyen_batch import POLL_SECONDS, REASONS, REHEARSAL, AdyenBatchRail, MerchantAccount
from pipeline.errors import FatalError, RetriableError
from pipeline.ports import BatchFile
from pipeline.schema import CARD_SCHEMA, OUTCOME_SCHEMA, PAYMENT_STATE_SCHEMA

START_SECONDS = 30.0
"""Longest wait for the acquirer's process to come up; it takes half a second on an idle machine."""

ANSWER_SECONDS = 120.0
"""Longest wait for an answer: acquiring 1.46M approvals at a cut-off takes seconds, and the machine may be busy."""

INQUIRY_ROWS = 250_000
"""Rows of one question: bounds the memory on both sides, and costs one pass over the book each."""

LIVENESS_SECONDS = 0.5
"""How often a wait looks whether the acquirer is still there, and starts it again."""


class PracticeRail(AdyenBatchRail):
    """A `PaymentRail` to a practice acquirer, which it starts if nobody has, and stops if it started it.

    Use it as a context manager, or call `close`.

    Args:
        folder: the acquirer's folder; made when missing.
        outbox: where outgoing files wait and are kept.
        account: who sends.
    """

    simulated = True

    def __init__(self, folder: Path, *, outbox: Path, account: MerchantAccount = REHEARSAL) -> None:
        super().__init__(folder.resolve(), outbox=outbox, account=account)
        self._process: subprocess.Popen | None = None
        self._next_liveness_look = 0.0
        self._dropped_cards: list[Path] = []

    def __enter__(self) -> "PracticeRail":
        self._ensure_served()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the acquirer if this rail started it; it finishes the file in hand."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def introduce(self, cards: pa.Table) -> None:
        """Make `cards` known; beyond `CARD_SCHEMA` a practice card may have `status` (open, closed), `limit_minor`, `balance_minor`.

        Does not wait: the acquirer takes cards before files and requests. Should it refuse them, the next call or poll says so.

        Raises:
            FatalError: columns are missing, or the acquirer refused cards dropped before.
        """
        missing = set(CARD_SCHEMA.names) - set(cards.column_names)
        if missing:
            raise FatalError(f"cards without {', '.join(sorted(missing))}")
        self._ensure_served()
        path = self.folder / "cards" / f"{uuid.uuid4().hex}.parquet"
        part = path.with_name(f".{path.name}.part")
        pq.write_table(cards, part, compression="none")
        part.replace(path)
        self._require_cards_taken()
        self._dropped_cards.append(path)

    @property
    def identity(self) -> str:
        """See `PaymentRail.identity`: this very acquirer, wherever its folder is moved to."""
        path = self.folder / "identity"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), path.open("x") as file:
                file.write(f"practice-{uuid.uuid4().hex}")
        return path.read_text()

    def poll(self, file: BatchFile, operations: pa.Table, *, timeout_seconds: float) -> pa.Table:
        """See `PaymentRail.poll`."""
        answers = super().poll(file, operations, timeout_seconds=timeout_seconds)
        self._require_cards_taken()
        return answers

    def _require_cards_taken(self) -> None:
        for path in self._dropped_cards:
            refused = path.with_name(f"{path.name}.refused")
            if refused.exists():
                raise FatalError(f"the acquirer refused the cards: {refused.read_text().strip()}")
        self._dropped_cards = [path for path in self._dropped_cards if path.exists()]

    def inquire(self, merchant_references: pa.Array) -> pa.Table:
        """See `PaymentRail.inquire`: one row for each reference, in the order asked."""
        return self.states(merchant_references=merchant_references).select(OUTCOME_SCHEMA.names)

    def states(self, *, payment_ids: pa.Array | None = None, merchant_references: pa.Array | None = None) -> pa.Table:
        """The live state of payments as `PAYMENT_STATE_SCHEMA`: one row for each id or reference, in the order asked.

        Raises:
            RetriableError: the acquirer is away.
        """
        return self.ask_states(payment_ids=payment_ids, merchant_references=merchant_references)()

    def ask_states(
        self, *, payment_ids: pa.Array | None = None, merchant_references: pa.Array | None = None
    ) -> Callable[[], pa.Table]:
        """As `states`, in two: put the question now, and call what comes back for the answer. The acquirer answers as soon as
        the file in hand is booked, so nobody waits."""
        if (payment_ids is None) == (merchant_references is None):
            raise ValueError("ask by payment_ids or by merchant_references, one of the two")
        name, keys = (
            ("payment_id", payment_ids) if payment_ids is not None else ("merchant_reference", merchant_references)
        )
        keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
        parts = [
            self._put("inquire", table=pa.table({name: keys.slice(start, INQUIRY_ROWS).cast(pa.string())}))
            for start in range(0, len(keys), INQUIRY_ROWS)
        ]
        return lambda: pa.concat_tables(
            [PAYMENT_STATE_SCHEMA.empty_table(), *(_as_states(self._take(*p)) for p in parts)]
        )

    def set_clock(self, as_of: datetime | None) -> None:
        """See `PaymentRail.set_clock`; returns once everything that time brings is booked and settled.

        Raises:
            ValueError: `as_of` has no time zone.
        """
        if as_of is not None and as_of.tzinfo is None:
            raise ValueError("a moment has a time zone")
        self._ask("clock", as_of=None if as_of is None else as_of.astimezone(UTC).isoformat())

    def export_book(self, to: Path) -> int:
        """Have the acquirer write its own book to the Parquet file `to`; answers the number of rows."""
        return self._ask("export", to=str(to.resolve()))["rows"]

    def settle(self) -> list[Path]:
        """Have the files of finished days written; answers all settlement files there are, oldest first."""
        self._ask("settle")
        return sorted(
            (self.folder / "settlement").glob("settlement_*.csv"), key=lambda path: int(path.stem.rpartition("_")[2])
        )

    def adjust(self, **settings: str | float) -> None:
        """Change the acquirer's settings: faults, declines, cut-off; see `python -m pipeline.sandbox fault --help`."""
        self._ask("set", **{name: str(value) for name, value in settings.items()})

    def happen(self, kind: str, table: pa.Table) -> int:
        """Let something happen at the acquirer behind our back (support_refund, dispute, close_card); answers to how many it did."""
        return self._ask("event", table=table, kind=kind)["done"]

    def _ask(self, verb: str, *, table: pa.Table | None = None, **arguments: object) -> pa.Table | dict:
        return self._take(*self._put(verb, table=table, **arguments))

    def _put(self, verb: str, *, table: pa.Table | None = None, **arguments: object) -> tuple[str, str]:
        """Drop a request; returns its id and verb."""
        self._ensure_served()
        request_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:12]}"
        request = self.folder / "request" / f"{request_id}.json"
        if table is not None:
            pq.write_table(table, request.with_suffix(".parquet"), compression="none")
        part = request.with_name(f".{request.name}.part")
        part.write_text(json.dumps({"verb": verb, **arguments}))
        part.replace(request)
        return request_id, verb

    def _take(self, request_id: str, verb: str) -> pa.Table | dict:
        """Wait for the answer to a request."""
        answer = self.folder / "answer" / f"{request_id}.json"
        self._wait(answer.exists, f"the request to {verb}")
        said = json.loads(answer.read_text())
        answer.unlink()
        if "error" in said:
            raise FatalError(f"the practice acquirer cannot {verb}: {said['error']}")
        answered = answer.with_suffix(".parquet")
        if not answered.exists():
            return said
        rows = pq.read_table(answered)
        answered.unlink()
        return rows

    def _wait(self, is_done, what: str) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while not is_done():
            if time.monotonic() > deadline:
                raise RetriableError(
                    f"the practice acquirer has not taken {what} in {ANSWER_SECONDS:.0f} s; see server.log in its folder"
                )
            self._keep_waiting()
            time.sleep(POLL_SECONDS)

    def _keep_waiting(self) -> None:
        if time.monotonic() >= self._next_liveness_look:
            self._ensure_served()

    def _ensure_served(self) -> None:
        """Start the acquirer unless some process serves the folder: ours, another rail's or an operator's."""
        deadline, starts = time.monotonic() + START_SECONDS, 0
        while not self._is_served():
            if self._process is None or self._process.poll() is not None:
                # One that loses a race for the folder ends as well, so a second start is fair; a third is not.
                if starts == 2 or time.monotonic() > deadline:
                    raise RetriableError(f"the practice acquirer does not start; see server.log in {self.folder.name}")
                starts += 1
                self._start()
            time.sleep(POLL_SECONDS)
        self._next_liveness_look = time.monotonic() + LIVENESS_SECONDS

    def _is_served(self) -> bool:
        try:
            with (self.folder / "server.lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pipeline.sandbox", "serve"]
        command += ["--folder", str(self.folder), "--until-parent-exits", str(os.getpid())]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program, no shell
                command,
                cwd=Path(pipeline.__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _as_states(answer: pa.Table) -> pa.Table:
    codes = pa.array(list(REASONS.values())).take(
        pc.index_in(answer["reason"].combine_chunks(), pa.array(list(REASONS)))
    )
    answer = answer.set_column(answer.column_names.index("reason"), "reason", codes)
    return answer.select(PAYMENT_STATE_SCHEMA.names).cast(PAYMENT_STATE_SCHEMA)
