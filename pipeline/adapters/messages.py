"""Messages to customers: what is due by the books, worded from templates, handed to a channel, receipted.

Belongs here: the outbox (`notice_due` and `notice` in the database), wording in bulk (`sql/notices.sql`), and the channel used
by default: sealed files in a folder. Does not: when anybody may be written to (`notify`), or keys (`contact_vault`). Contacts are read
from the source's own file into memory and go nowhere else but into a message: not into the database, a log, a report or an exception.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.json as pa_json
import pyarrow.parquet as pq
from psycopg import sql

from pipeline import limits
from pipeline.adapters import duck
from pipeline.adapters.bounded_parquet import BoundedParquet
from pipeline.adapters.bulk import copy_in, fetch
from pipeline.adapters.contact_vault import ContactVault, write_private
from pipeline.adapters.durable import sync
from pipeline.adapters.postgres import Server, conninfo
from pipeline.bounded_file import require_regular
from pipeline.core.money import MINOR_UNIT_EXPONENT
from pipeline.core.retry import FINAL_REASONS, RETRY_AFTER_DAYS
from pipeline.errors import FatalError, UnreadableInput

SMS_BYTES_MAX = 90
"""EUC-KR bytes of a short message in Korea; longer ones go as LMS."""

LMS_BYTES_MAX = 2_000
"""EUC-KR bytes of a long message; a template that could exceed it is a mistake."""

LOCK_WAIT = "100ms"
"""Whoever finds somebody else at it does not wait: the messages are going out."""

CONTACTS = "contacts.parquet"

LANGUAGES = ("ko", "en")

CONTACT_SCHEMA = pa.schema([(name, pa.string()) for name in ("customer_id", "phone", "email", "language")])

KEY_SCHEMA = pa.schema([("customer_id", pa.string()), ("operation_id", pa.string()), ("channel", pa.string())])
"""What a receipt is written from; no contact among it."""

DUE_SCHEMA = pa.schema([
    ("customer_id", pa.string()), ("operation_id", pa.string()), ("amount_minor", pa.int64()), ("currency", pa.string()),
    ("reason", pa.string()), ("effective_on", pa.date32()),
])  # fmt: skip

MESSAGE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "customer_id", "operation_id", "channel", "to", "language", "text")]
    + [("bytes", pa.int32())]
)
"""A message, as a batch has it."""

SEALED_SUFFIX, LOOKUP_SUFFIX, CLEAR_SUFFIX = ".sealed", ".lookup.parquet", ".jsonl"

RECEIPT_COLUMNS = ["incident_id", "customer_id", "step", "operation_id", "channel", "receipt"]

KIND_OF_STEP = {
    "void": "void",
    "refund": "refund",
    "returned": "refund",
    "rebill": "rebill",
    "rebill_declined": "rebill",
}


PROMISED_COLUMNS = ["customer_id", "reversal", "money_back_by", "rebill", "rebill_reason"]
"""What a plan's lines say that a customer is told of."""


def read_contacts(path: Path | None) -> pa.Table:
    """The source's contacts (`CONTACT_SCHEMA`); nobody's where there is no file.

    Raises:
        UnreadableInput: it is no such file; the message shows no value.
    """
    held = []
    if path is not None and _is_there(path):
        with BoundedParquet(path) as file:
            needed = CONTACT_SCHEMA.names
            if any(
                file.schema.names.count(name) != 1 or not _is_plain(file.schema.field(name).type) for name in needed
            ):
                raise UnreadableInput(f"{path.name}: it is a Parquet file with the text columns {', '.join(needed)}")
            for batch in file.batches(needed, at_most=limits.IMPORT_BYTES):
                try:
                    held.append(batch.select(needed).cast(CONTACT_SCHEMA))
                    held[-1].validate(full=True)  # a Parquet reader takes the writer's word for UTF-8
                except pa.ArrowInvalid:
                    raise UnreadableInput(f"{path.name}: a value is not UTF-8") from None
    return pa.Table.from_batches(held, CONTACT_SCHEMA)


def _is_there(path: Path) -> bool:
    try:
        require_regular(path)
    except FileNotFoundError:
        return False
    return True


def _is_plain(found: pa.DataType) -> bool:
    value = found.value_type if pa.types.is_dictionary(found) else found
    return any(
        is_kind(value)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)
    )


@contextlib.contextmanager
def alone_with(server: Server, incident_id: str) -> Iterator[None]:
    """Be the only one to touch an incident's messages.

    Raises:
        RetriableError: somebody else does.
    """
    busy = f"{incident_id}: messages are being sent already; try again when that has finished"
    with server.alone(f"notify {incident_id}", wait=LOCK_WAIT, busy=busy):
        yield


class Outbox:
    """What an incident's customers have not been told yet.

    Args:
        plans: `PROMISED_COLUMNS` of the incident's approved plans, newest first.
        contacts: the source's contact file; None, or a path where there is none, reaches nobody.
    """

    def __init__(self, server: Server, incident_id: str, *, plans: list[pa.Table], contacts: Path | None) -> None:
        self._server, self.incident_id = server, incident_id
        self._database = duck.connect()
        self._give_contacts(contacts)
        self._give_promises(plans)
        currencies = {"currency": list(MINOR_UNIT_EXPONENT), "exponent": list(MINOR_UNIT_EXPONENT.values())}
        self._database.register("exponent", pa.table(currencies))
        self._database.register("template", templates())

    def close(self) -> None:
        self._database.close()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one to write to this incident's customers.

        Raises:
            RetriableError: somebody else is.
        """
        with alone_with(self._server, self.incident_id):
            yield

    def _give_contacts(self, path: Path | None) -> None:
        self._database.register("given", read_contacts(path))
        self._database.execute("CREATE TABLE contact AS SELECT DISTINCT ON (customer_id) * FROM given")
        self._database.unregister("given")

    def _give_promises(self, plans: list[pa.Table]) -> None:
        """What the plans said to a customer; the newest one that says anything rules."""
        nothing = pa.table(
            {name: pa.array([], pa.date32() if name == "money_back_by" else pa.string()) for name in PROMISED_COLUMNS}
        )
        ages = [
            plan.select(PROMISED_COLUMNS).append_column("age", pa.repeat(pa.scalar(age, pa.int64()), plan.num_rows))
            for age, plan in enumerate(plans or [nothing])
        ]
        self._database.register("planned", pa.concat_tables(ages))
        self._database.execute(
            "CREATE TABLE promise AS SELECT customer_id, max(money_back_by) AS money_back_by,"
            " bool_or(reversal IN ('void', 'refund')) AS is_undone,"
            " bool_and(rebill = 'no_rebill') AND bool_or(rebill_reason IN ('zero_bill', 'credit_carried')) AS nothing_due"
            " FROM (SELECT *, min(age) OVER (PARTITION BY customer_id) AS newest FROM planned) WHERE age = newest GROUP BY customer_id"
        )
        self._database.unregister("planned")

    # -- what is due --------------------------------------------------------------------------------------------

    def word(self, step: str) -> dict[str, int]:
        """Find and word everything due of a step; returns `due`, `messages`, `without_contact`, `not_final_yet` (customers)."""
        self._database.register("outcome_due", self._due(step))
        self._database.register("still_open", self._still_open(step))
        given = {"incident_id": self.incident_id, "step": step, "final_reasons": list(FINAL_REASONS), "sms_bytes": SMS_BYTES_MAX,
                 "retry_days": RETRY_AFTER_DAYS[0]}  # fmt: skip
        text = (resources.files("pipeline") / "sql" / "notices.sql").read_text(encoding="utf-8")
        for statement in duckdb.extract_statements(text):
            self._database.execute(statement, {key: given[key] for key in statement.named_parameters})
        due, told, messages = self._database.execute(
            "SELECT (SELECT count(DISTINCT customer_id) FROM outcome_due), (SELECT count(*) FROM told), (SELECT count(*) FROM message)"
        ).fetchone()
        return {"due": due, "messages": messages, "without_contact": told - messages, "not_final_yet": due - told}

    def messages(self, start: int, count: int) -> pa.Table:
        """Some of the messages worded last, in the order of customers."""
        return self._database.execute(
            "SELECT * EXCLUDE (place) FROM message WHERE place >= ? AND place < ? ORDER BY place",
            [start, start + count],
        ).to_arrow_table()

    def _due(self, step: str) -> pa.Table:
        query = sql.SQL(
            "SELECT customer_id, replace(operation_id::text, '-', ''), amount_minor, currency, reason, effective_on"
            " FROM notice_due WHERE incident_id = {} AND step = {}"
        ).format(sql.Literal(self.incident_id), sql.Literal(step))
        return fetch(conninfo(self._server.pipeline_url), query, DUE_SCHEMA)

    def _still_open(self, step: str) -> pa.Table:
        """Customers with an operation that is not final. A wave that was answered has left none but the unanswered."""
        query = sql.SQL(
            "WITH answered AS (SELECT scope, wave FROM wave_state"
            "  WHERE starts_with(scope, {incident} || '/') AND answered AND NOT rejected)"
            " SELECT o.customer_id FROM operation o WHERE o.incident_id = {incident} AND o.kind = {kind}"
            " AND (o.scope, o.wave) NOT IN (SELECT scope, wave FROM answered)"
            " AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = o.operation_id)"
            " UNION SELECT o.customer_id FROM unanswered u JOIN operation o USING (operation_id)"
            " WHERE o.incident_id = {incident} AND o.kind = {kind}"
            " AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = u.operation_id)"
        ).format(incident=sql.Literal(self.incident_id), kind=sql.Literal(KIND_OF_STEP[step]))
        return fetch(conninfo(self._server.pipeline_url), query, pa.schema([("customer_id", pa.string())]))

    # -- receipts -----------------------------------------------------------------------------------------------

    def receipts(self, step: str) -> set[str]:
        """The receipts recorded for a step."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT DISTINCT receipt FROM notice WHERE incident_id = %s AND step = %s", (self.incident_id, step)
            ).fetchall()
        return {row[0] for row in rows}

    def record(self, step: str, keys: pa.Table, receipt: str) -> None:
        """Keep that the customers of `keys` (`KEY_SCHEMA`) were told of a step, once each.

        Raises:
            FatalError: one of them had been told before; nothing was written.
        """
        table = keys.select(KEY_SCHEMA.names)
        for name, value in (("incident_id", self.incident_id), ("step", step), ("receipt", receipt)):
            table = table.append_column(name, pa.repeat(value, table.num_rows))
        with self._server.connect() as connection:
            copy_in(connection, "notice", table.to_batches(), RECEIPT_COLUMNS)

    def told(self) -> dict[str, int]:
        """Customers told, by step."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT step, count(*) FROM notice WHERE incident_id = %s GROUP BY step ORDER BY step",
                (self.incident_id,),
            ).fetchall()
        return dict(rows)


@dataclass(frozen=True, slots=True)
class LocalSink:
    """A `notify.Channel` into files: `<folder>/<incident>/<batch>.sealed`, one JSON message a line under the period's key.

    A file appears whole or not at all, so its presence is the proof of delivery that a crash may have left unrecorded. Beside it
    `<batch>.lookup.parquet` says by keyed hash whom a contact belongs to.
    """

    folder: Path
    vault: ContactVault
    name: str = "local"

    def batches(self, incident_id: str) -> list[str]:
        """Names of the batches delivered for an incident, in order; those of an earlier version lie there in the clear."""
        files = (self.folder / incident_id).glob("[!.]*")
        return sorted({path.stem for path in files if path.suffix in (SEALED_SUFFIX, CLEAR_SUFFIX)})

    def deliver(self, incident_id: str, batch: str, messages: pa.Table) -> None:
        """Seal a batch of messages; the same batch twice is refused.

        Raises:
            FatalError: it was delivered before.
            GateClosed: the period's contacts were purged.
        """
        if batch in self.batches(incident_id):
            raise FatalError(f"{incident_id}: batch {batch} was delivered before; its receipts come first")
        self._put(incident_id, batch, messages)

    def open(self, incident_id: str, batch: str) -> bytes:
        """A delivered batch, one JSON message a line.

        Raises:
            GateClosed: the period's contacts were purged.
            FatalError: the period's key is lost, or the batch was changed.
        """
        sealed, clear = (self._file(incident_id, batch, suffix) for suffix in (SEALED_SUFFIX, CLEAR_SUFFIX))
        if sealed.exists():
            return self.vault.open(period_of_incident(incident_id), sealed.read_bytes())
        return clear.read_bytes()

    def keys(self, incident_id: str, batch: str) -> pa.Table:
        """Whom a delivered batch has told (`KEY_SCHEMA`), read from the file."""
        return _read_messages(self.open(incident_id, batch), KEY_SCHEMA)

    def seal_anew(self, incident_id: str) -> int:
        """Seal an incident's batches by the newest key, also what an earlier version left in the clear; returns how many."""
        for batch in self.batches(incident_id):
            self._put(incident_id, batch, _read_messages(self.open(incident_id, batch), MESSAGE_SCHEMA))
            self._file(incident_id, batch, CLEAR_SUFFIX).unlink(missing_ok=True)
        return len(self.batches(incident_id))

    def forget(self, incident_id: str) -> int:
        """Remove what could be read without a key; returns how many batches there were."""
        for path in (self.folder / incident_id).glob("*"):
            if path.suffix != SEALED_SUFFIX:
                path.unlink()
        return len(self.batches(incident_id))

    def found(self, incident_id: str, contact: str) -> list[str]:
        """Customers that messages of an incident to a phone number or address were about."""
        hashed = self.vault.hasher(period_of_incident(incident_id))(contact)
        tables = [pq.read_table(path, filters=[("hash", "=", hashed)])["customer_id"].to_pylist()
                  for path in sorted((self.folder / incident_id).glob("[!.]*" + LOOKUP_SUFFIX))]  # fmt: skip
        return sorted({customer for customers in tables for customer in customers})

    def _put(self, incident_id: str, batch: str, messages: pa.Table) -> None:
        period = period_of_incident(incident_id)
        with duck.connect() as database:
            database.register("messages", messages)
            lines = database.execute("SELECT CAST(to_json(m) AS VARCHAR) FROM messages m").fetchall()
        content = "".join(f"{line}\n" for (line,) in lines).encode()
        hashes = list(map(self.vault.hasher(period), messages["to"].to_pylist()))
        lookup = pa.BufferOutputStream()
        pq.write_table(pa.table({"hash": hashes, "customer_id": messages["customer_id"]}), lookup)
        for suffix, kept in (
            (LOOKUP_SUFFIX, lookup.getvalue().to_pybytes()),
            (SEALED_SUFFIX, self.vault.seal(period, content)),
        ):
            path = self._file(incident_id, batch, suffix)
            part = path.with_name(f".{path.name}.part")
            write_private(part, kept)
            part.replace(path)
            sync(path.parent)

    def _file(self, incident_id: str, batch: str, suffix: str) -> Path:
        return self.folder / incident_id / f"{batch}{suffix}"


def period_of_incident(incident_id: str) -> str:
    """The billing period that an incident is about: part of its name."""
    return incident_id.removeprefix("inc-")[: len("YYYY-MM")]


def _read_messages(content: bytes, schema: pa.Schema) -> pa.Table:
    if not content:
        return schema.empty_table()
    options = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return pa_json.read_json(io.BytesIO(content), parse_options=options).select(schema.names)


def templates() -> pa.Table:
    """All templates as language, variant, text.

    Raises:
        FatalError: one holds a character that a Korean text message cannot, or is too long for one.
    """
    rows: list[dict[str, Any]] = []
    for language in LANGUAGES:
        folder = resources.files("pipeline") / "templates" / "notices" / language
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            text = file.read_text(encoding="utf-8")
            try:
                too_long = (
                    len(text.encode("euc-kr")) > LMS_BYTES_MAX // 2
                )  # amounts, dates and a closing sentence come on top
            except UnicodeEncodeError as error:
                raise FatalError(
                    f"notice {language}/{file.name}: {text[error.start]!r} cannot be sent as a text message"
                ) from None
            if too_long:
                raise FatalError(f"notice {language}/{file.name} is too long for a text message")
            rows.append({"language": language, "variant": file.name.removesuffix(".txt"), "text": text})
    return pa.Table.from_pylist(rows)
