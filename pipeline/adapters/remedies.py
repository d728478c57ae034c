"""What an approved plan still asks for, from its lines, the operations there are and the acquirer's live state - in tables.

Belongs here: classing every line of a step (`sql/reversals_due.sql`, `sql/rebills_due.sql`), turning the due ones of a wave
into operations, and keeping what came otherwise. Does not: sending (`execution`), or when anything may be sent (`remedy`).
"""

from datetime import date
from importlib import resources
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from pipeline.adapters import duck
from pipeline.adapters.bulk import copy_in, fetch
from pipeline.adapters.deviations import DEVIATION_SCHEMA, SETTLED_OTHERWISE, VOIDED, keep_deviations, stage_deviations
from pipeline.adapters.incidents import ApprovedPlan, plan_scope
from pipeline.adapters.ledger import OPERATION_COLUMNS, PostgresLedger, Turn
from pipeline.adapters.postgres import Server, conninfo
from pipeline.core.retry import FINAL_REASONS, RETRY_AFTER_DAYS
from pipeline.errors import FatalError
from pipeline.failpoints import failpoint
from pipeline.schema import CARD_SCHEMA

KINDS = {"cancel": "void", "refund": "refund", "rebill": "rebill"}
"""Step of a plan, and the kind of operation it carries out."""

TAKEN_BACK = {
    "already_acquired": "void_became_refund",
    "already_voided": "already_returned",
    "payment_expired": "expired",
    "disputed": "disputed",
    "never_authorised": "charge_was_declined",
    "payment_not_found": "still_unknown",
}
"""Refusal of a void or refund, and the deviation that it means."""

GONE_BEFORE = {
    "approval_expired": "expired",
    "already_voided": "already_returned",
    "already_returned": "already_returned",
}
"""Reason why a plan leaves a charge alone, and the deviation that it means - unless it was we who returned the money."""

WAVE_VERDICTS_LEFT = ("other_amount", "not_acquired")
"""Verdicts of `sql/reversals_wave.sql` that leave a line as it is, for a later call or a person."""

_OF_A_BILL = ["customer_id", "billing_period", "bill_cycle", "currency"]
_TO_UNDO = [
    *_OF_A_BILL, "occurrence", "charge_id", "original_id", "payment_id", "wrong_minor", "payment_method", "issuer", "instrument_token",
]  # fmt: skip
_TO_REBILL = [*_OF_A_BILL, "rebill_charge_id", "rebill_method", "rebill_issuer", "rebill_token"]

WAVE_COLUMNS = {"cancel": _TO_UNDO, "refund": _TO_UNDO, "rebill": _TO_REBILL}
"""What a wave of each step needs of a plan's lines."""

_TO_CLASS_REVERSALS = ["reversal", "reversal_reason", "reversal_minor", "rebill"]
_TO_CLASS_REBILLS = [
    "original_id", "wrong_minor", "reversal", "reversal_reason", "payment_method", "money_back_by", "correct_minor", "rebill",
]  # fmt: skip

STEP_COLUMNS = {
    "cancel": [*_TO_UNDO, *_TO_CLASS_REVERSALS],
    "refund": [*_TO_UNDO, *_TO_CLASS_REVERSALS],
    "rebill": [*_TO_REBILL, *_TO_CLASS_REBILLS],
}
"""All that each step needs of a plan's lines."""

RENAMED = {
    "charge_id": "rebill_charge_id",
    "payment_method": "rebill_method",
    "issuer": "rebill_issuer",
    "instrument_token": "rebill_token",
}
"""Columns of a rebill, and where its line has them: the right charge, on the customer's present instrument."""

MOVED_SCHEMA = pa.schema([
    ("original", pa.uuid()), ("kind", pa.string()), ("attempt", pa.int32()), ("amount_minor", pa.int64()), ("state", pa.string()),
    ("reason", pa.string()),
])  # fmt: skip

REBILLED_SCHEMA = pa.schema([
    ("operation_id", pa.uuid()), ("customer_id", pa.string()), ("billing_period", pa.string()), ("bill_cycle", pa.int64()),
    ("attempt", pa.int32()), ("instrument_token", pa.string()), ("amount_minor", pa.int64()), ("state", pa.string()),
    ("reason", pa.string()), ("declined_on", pa.date32()),
])  # fmt: skip

BILL_SCHEMA = pa.schema([("customer_id", pa.string()), ("billing_period", pa.string()), ("bill_cycle", pa.int64())])

CHARGED_SINCE_SCHEMA = pa.schema([("operation_id", pa.uuid()), *BILL_SCHEMA])

_STATES = sql.SQL(
    "SELECT o.*, d.reason, d.declined_on,"
    " CASE WHEN d.operation_id IS NOT NULL THEN 'declined' WHEN u.operation_id IS NOT NULL THEN 'unknown'"
    " WHEN w.answered THEN 'succeeded' WHEN w.handed_over THEN 'sent' ELSE 'not_sent' END AS state"
    " FROM operation o"
    " LEFT JOIN (SELECT operation_id, reason, effective_on AS declined_on FROM outcome WHERE status = 'declined') d USING (operation_id)"
    " LEFT JOIN (SELECT operation_id FROM unanswered n WHERE NOT EXISTS"
    "   (SELECT FROM outcome c WHERE c.operation_id = n.operation_id)) u USING (operation_id)"
    " LEFT JOIN (SELECT scope, wave, answered, handed_over FROM wave_state WHERE scope = ANY({scopes}) AND NOT rejected) w"
    "   ON w.scope = o.scope AND w.wave = o.wave"
    " WHERE o.scope = ANY({scopes}) AND o.wave >= {since}"
)


class PlanInProgress:
    """One step of an approved plan, on a given business day.

    Args:
        plan: approved, its lines proven: `STEP_COLUMNS` of the step at least.
        step: cancel, refund or rebill.
        day: the business day; entries carry it, and credit and retries are judged by it.
    """

    def __init__(self, server: Server, plan: ApprovedPlan, step: str, day: date) -> None:
        self._server, self._plan, self._day = server, plan, day
        self._ledger = PostgresLedger(server)
        self.step, self.kind, self.scope = step, KINDS[step], plan.scope(step)
        self.incident_id = plan.incident.incident_id
        self._due = pa.table({})
        self._first_wave: int | None = None
        self._database = duck.connect()
        numbered = plan.lines.append_column("line", pa.array(range(plan.lines.num_rows), pa.int64()))
        self._database.register("numbered", numbered)
        self._run("plan_line.sql", {"incident_id": self.incident_id, "step": step})

    def close(self) -> None:
        self._database.close()

    # -- where the step stands ----------------------------------------------------------------------------------

    def scopes(self, *steps: str) -> list[str]:
        """Scopes of these steps in every plan the incident ever had: what an older plan began counts."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT plan_digest FROM plan WHERE incident_id = %s", (self.incident_id,)
            ).fetchall()
        return [plan_scope(self.incident_id, row[0], step) for row in rows for step in steps]

    def unknown_scopes(self) -> list[str]:
        """Scopes of the incident with operations whose outcome nobody knows."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT DISTINCT o.scope FROM unanswered u JOIN operation o USING (operation_id)"
                " WHERE o.incident_id = %s AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = u.operation_id)",
                (self.incident_id,),
            ).fetchall()
        return sorted(row[0] for row in rows)

    def begin(self, turn: Turn) -> int:
        """Put right what earlier calls and plans left behind, and find what is due; returns the number of lines due."""
        # what was committed and never sent is ended: what is due is decided now, by what is true now
        self._ledger.end_unsent(turn, self.scopes(self.step), "decided anew")
        self._note_gone_before()
        self.note_deviations()
        self._class_lines()
        self._due = self._database.execute(
            "SELECT line, attempt, amount_minor FROM classed WHERE class = 'due' ORDER BY line"
        ).to_arrow_table()
        self._first_wave = self.next_wave()
        return self._due.num_rows

    def _note_gone_before(self) -> None:
        """Keep, once, what the plan found gone when it was made, not by our doing: it was nobody's to undo any more."""
        lines = self._plan.lines
        gone = lines.filter(pc.is_in(lines["reversal_reason"], pa.array(list(GONE_BEFORE)))).combine_chunks()
        if not gone.num_rows:
            return
        reasons = gone["reversal_reason"].to_pylist()
        kinds = [GONE_BEFORE[reason] for reason in reasons]
        details = [VOIDED if reason == "already_voided" else "" for reason in reasons]
        found = pa.table([gone["original_id"], kinds, gone["wrong_minor"], details], schema=DEVIATION_SCHEMA)
        with self._server.connect() as connection:
            stage_deviations(connection)
            copy_in(connection, "fresh_deviation", found.to_batches(), DEVIATION_SCHEMA.names)
            connection.execute(
                "DELETE FROM fresh_deviation f USING operation o JOIN outcome c USING (operation_id)"
                " WHERE o.original_id = f.original_id AND c.status = 'succeeded'"
            )
            keep_deviations(connection, self.incident_id, self._day)

    def note_deviations(self) -> None:
        """Keep, once, what answers have shown to be otherwise than planned: refused because the payment had moved on, or refunded
        for less than was charged because somebody else had given back the rest."""
        if self.step == "rebill":
            return
        shrunk = self._given_back_in_part() if self.step == "refund" else DEVIATION_SCHEMA.empty_table()
        with self._server.connect() as connection:
            stage_deviations(connection)
            connection.execute(
                "INSERT INTO fresh_deviation SELECT DISTINCT ON (o.original_id, m.deviation) o.original_id,"
                " m.deviation, CASE WHEN m.deviation = ANY(%s) THEN charged.amount_minor ELSE o.amount_minor END,"
                " CASE c.reason WHEN 'already_voided' THEN %s ELSE '' END"
                " FROM operation o JOIN outcome c USING (operation_id) JOIN operation charged ON charged.operation_id = o.original_id"
                " JOIN unnest(%s::text[], %s::text[]) m(reason, deviation) ON m.reason = c.reason"
                " WHERE o.scope = ANY(%s) AND c.status = 'declined'"
                " AND (m.deviation <> 'void_became_refund' OR o.kind = 'void')",
                (
                    list(SETTLED_OTHERWISE),
                    VOIDED,
                    list(TAKEN_BACK),
                    list(TAKEN_BACK.values()),
                    self.scopes("cancel", "refund"),
                ),
            )
            copy_in(connection, "fresh_deviation", shrunk.to_batches(), DEVIATION_SCHEMA.names)
            keep_deviations(connection, self.incident_id, self._day)

    def _given_back_in_part(self) -> pa.Table:
        """Charges that we have refunded for less than was charged, with what was not ours to give back (`DEVIATION_SCHEMA`)."""
        refunds = sql.SQL(
            "SELECT original_id, kind, attempt, amount_minor, state, reason FROM ({}) s WHERE state = 'succeeded'"
        )
        self._give("refunded", self._fetch(refunds.format(self._states("refund")), MOVED_SCHEMA))
        return self._database.execute(
            "SELECT l.original_id, 'shrunk' AS kind, l.wrong_minor - r.amount_minor AS amount_minor, '' AS detail"
            " FROM refunded r JOIN plan_line l USING (original) WHERE r.amount_minor < l.wrong_minor"
        ).to_arrow_table()

    def _class_lines(self) -> None:
        """Find out where every line of the step stands (`classed`)."""
        if self.step == "rebill":
            self._give("rebilled", self._rebilled())
            self._know_reversals()
        else:
            self._give("moved", self._moved())
        self._class("plan_line", "classed")

    def _class_what_was_due(self) -> None:
        """Find out where the lines stand that were due when this call began: sending changes nothing of the others."""
        name, read = ("rebilled", self._rebilled) if self.step == "rebill" else ("moved", self._moved)
        self._give(f"newly_{name}", read(self._first_wave))
        self._database.execute(f"INSERT INTO {name} FROM newly_{name}")
        self._class("plan_line SEMI JOIN (FROM classed WHERE class = 'due') USING (line)", "newly_classed")
        self._database.execute("DELETE FROM classed WHERE class = 'due'; INSERT INTO classed FROM newly_classed")

    def _class(self, lines: str, name: str) -> None:
        """Class `lines` (SQL) and leave the result in the table `name`."""
        self._database.execute(f"CREATE OR REPLACE TEMP VIEW step_line AS FROM {lines}")
        if self.step == "rebill":
            query, given = "rebills_due.sql", {"day": self._day, "final_reasons": list(FINAL_REASONS)}
        else:
            self._give("deviated", self._deviated())
            query, given = "reversals_due.sql", {"step": self.step, "kind": self.kind}
        self._give(name, self._answer(query, given))

    def _know_reversals(self) -> None:
        """Find out whose wrong charges are undone: sending rebills changes nothing of that."""
        for name, read in (("moved", self._moved), ("deviated", self._deviated), ("settled", self._settled)):
            self._give(name, read())
        self._give("charged_since", self._charged_since())
        self._give("billed_elsewhere", self._billed_elsewhere())
        days = {"declines": range(1, len(RETRY_AFTER_DAYS) + 1), "days": RETRY_AFTER_DAYS}
        self._give("retry_day", pa.table({name: pa.array(list(values), pa.int32()) for name, values in days.items()}))
        self._run("rebills_unclear.sql", {"day": self._day})

    def _give(self, name: str, table: pa.Table) -> None:
        self._database.register("given", table)  # copied: a join cannot filter Arrow's numbers of 128 bits by others
        self._database.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM given")
        self._database.unregister("given")

    def _run(self, name: str, given: dict[str, Any]) -> None:
        """Run the statements of a file, each with the parameters it names."""
        for statement in duckdb.extract_statements(_sql(name)):
            self._database.execute(statement, {key: given[key] for key in statement.named_parameters})

    def _fetch(self, query: sql.Composable, schema: pa.Schema) -> pa.Table:
        return fetch(conninfo(self._server.pipeline_url), query, schema)

    def _moved(self, since: int | None = None) -> pa.Table:
        """Void and refund operations that bear on this step, with their state. Where refunds are due, voids that succeeded do not.

        Args:
            since: of the step's own scope alone, from this wave on.
        """
        steps = ("cancel",) if self.step == "cancel" else ("cancel", "refund")
        wanted = "NOT (kind = 'void' AND state = 'succeeded')" if self.step == "refund" else "true"
        query = sql.SQL("SELECT original_id, kind, attempt, amount_minor, state, reason FROM ({}) s WHERE {}")
        return self._fetch(query.format(self._states(*steps, since=since), sql.SQL(wanted)), MOVED_SCHEMA)

    def _states(self, *steps: str, since: int | None = None) -> sql.Composable:
        """The incident's operations of these steps with state and reason: what the view `operation_state` says, a million at a time.

        A wave that was answered left every operation with an outcome, or among the unanswered; so only the few that
        did not succeed have to be joined."""
        scopes = self.scopes(*steps) if since is None else [self.scope]
        return _STATES.format(scopes=sql.Literal(scopes), since=sql.Literal(since or 0))

    def _deviated(self) -> pa.Table:
        query = sql.SQL("SELECT original_id, kind FROM deviation WHERE incident_id = {}")
        schema = pa.schema([("original", pa.uuid()), ("kind", pa.string())])
        return self._fetch(query.format(sql.Literal(self.incident_id)), schema)

    def _rebilled(self, since: int | None = None) -> pa.Table:
        """The incident's rebills with their state, as `_moved` has reversals; a first attempt that succeeded is known by its key alone."""
        query = sql.SQL(
            "SELECT operation_id, {named}, attempt, {token}, amount_minor, state, reason, declined_on FROM ({states}) s"
        )
        columns = [
            sql.SQL("CASE WHEN attempt > 1 OR state <> 'succeeded' THEN {} END").format(sql.Identifier(name))
            for name in ("customer_id", "billing_period", "bill_cycle", "instrument_token")
        ]
        named, token = sql.SQL(", ").join(columns[:-1]), columns[-1]
        return self._fetch(
            query.format(named=named, token=token, states=self._states("rebill", since=since)), REBILLED_SCHEMA
        )

    def _settled(self) -> pa.Table:
        query = sql.SQL(
            "SELECT o.original_id FROM operation o"
            " JOIN further_entry e ON e.operation_id = o.operation_id AND e.step = 'settled'"
            " WHERE o.kind = 'refund' AND o.payment_method <> 'credit_card' AND o.scope = ANY({})"
        ).format(sql.Literal(self.scopes("refund")))
        return self._fetch(query, pa.schema([("original", pa.uuid())]))

    def _charged_since(self) -> pa.Table:
        """Charges of the period that went out, or of which something was heard, since the plan was made (`CHARGED_SINCE_SCHEMA`), and
        that may have succeeded: the plan knows nothing of them."""
        query = sql.SQL(
            "SELECT o.operation_id, o.customer_id, o.billing_period, o.bill_cycle FROM operation o LEFT JOIN outcome c USING (operation_id)"
            " WHERE o.kind = 'charge' AND o.billing_period = {period} AND c.status IS DISTINCT FROM 'declined'"
            " AND (o.operation_id IN (SELECT operation_id FROM unanswered) OR (o.scope, o.wave) IN"
            "  (SELECT b.scope, b.wave FROM live_batch b JOIN batch_event e USING (batch_id) WHERE e.event IN ('handed_over', 'answered')"
            "   AND e.recorded_at > (SELECT recorded_at FROM plan WHERE plan_digest = {plan})))"
        ).format(period=sql.Literal(self._plan.incident.billing_period), plan=sql.Literal(self._plan.plan_digest))
        return self._fetch(query, CHARGED_SINCE_SCHEMA)

    def _billed_elsewhere(self) -> pa.Table:
        """Bills that another incident of the period has rebilled, or may have (`BILL_SCHEMA`): nobody is charged the right amount twice."""
        with self._server.connect() as connection:
            others = connection.execute(
                "SELECT incident_id FROM incident WHERE billing_period = %s AND incident_id <> %s",
                (self._plan.incident.billing_period, self.incident_id),
            ).fetchall()
        if not others:
            return BILL_SCHEMA.empty_table()
        query = sql.SQL(
            "SELECT DISTINCT o.customer_id, o.billing_period, o.bill_cycle FROM operation o LEFT JOIN outcome c USING (operation_id)"
            " WHERE o.kind = 'rebill' AND o.incident_id = ANY({}) AND c.status IS DISTINCT FROM 'declined'"
        ).format(sql.Literal([row[0] for row in others]))
        return self._fetch(query, BILL_SCHEMA)

    # -- waves --------------------------------------------------------------------------------------------------

    def due(self, start: int, count: int) -> pa.Table:
        """`count` of the due lines, from `start`: `WAVE_COLUMNS` of the step, with line, attempt and amount_minor."""
        chosen = self._due.slice(start, count)
        first, last = (chosen["line"][place].as_py() for place in (0, -1))
        near = self._plan.lines.select(WAVE_COLUMNS[self.step]).slice(first, last - first + 1).combine_chunks()
        lines = near.take(pc.subtract(chosen["line"].combine_chunks(), first))
        for name in chosen.column_names:
            lines = lines.append_column(name, chosen[name])
        return lines

    def cards(self) -> pa.Table:
        """The cards that the due lines charge (`CARD_SCHEMA`); none where they undo."""
        if self.step != "rebill":
            return CARD_SCHEMA.empty_table()
        charged = self._plan.lines.select([RENAMED[name] for name in CARD_SCHEMA.names]).take(self._due["line"])
        return charged.rename_columns(CARD_SCHEMA.names)

    def next_wave(self) -> int:
        """The number of the scope's next wave."""
        return self._ledger.next_wave(self.scope)

    def decide(self, lines: pa.Table, states: pa.Table | None, wave: int) -> tuple[pa.Table, pa.Table]:
        """What to do about due `lines`, now: the wave's intents, and the deviations (`DEVIATION_SCHEMA`) to keep with them.

        Args:
            states: the acquirer's word on the payments of `lines`, row for row; None for rebills.

        Raises:
            FatalError: `states` is about other payments.
        """
        self._database.register("wave_line", lines)
        given = {"step": self.step, "kind": self.kind, "incident_id": self.incident_id}
        if states is None:
            keys = self._answer("rebills_wave.sql", given)["operation_id"]
            nothing = pa.nulls(lines.num_rows, pa.string())
            own = {name: lines[of_line] for name, of_line in RENAMED.items()}
            own |= {"occurrence": pa.repeat(pa.scalar(1, pa.int32()), lines.num_rows)}
            own |= {"original_id": nothing, "original_payment_id": nothing}
            return self._intents(lines, keys, wave, own), DEVIATION_SCHEMA.empty_table()
        if not states["payment_id"].combine_chunks().equals(lines["payment_id"].combine_chunks()):
            raise FatalError(
                f"{self.scope}: the acquirer answered about other payments than those asked for; nothing was sent"
            )
        self._database.register("payment_state", states)
        judged = self._answer("reversals_wave.sql", given)
        is_sent = pc.equal(judged["verdict"], "send")
        sent, moved = lines, judged
        if not pc.all(is_sent, min_count=0).as_py():
            sent, moved = lines.filter(is_sent), judged.filter(is_sent)
        sent = sent.set_column(sent.column_names.index("amount_minor"), "amount_minor", moved["moved_minor"])
        own = {"original_payment_id": sent["payment_id"]}
        return self._intents(sent, moved["operation_id"], wave, own), _deviations(lines, judged)

    def _answer(self, name: str, given: dict[str, Any]) -> pa.Table:
        """The rows of a file's one query, with the parameters it names."""
        (statement,) = duckdb.extract_statements(_sql(name))
        return self._database.execute(statement, {k: given[k] for k in statement.named_parameters}).to_arrow_table()

    def _intents(self, lines: pa.Table, keys: pa.ChunkedArray, wave: int, own: dict[str, Any]) -> pa.Table:
        """`lines` as operations (`OPERATION_COLUMNS`, original_payment_id): their columns, their keys, and what a whole wave shares."""
        shared = {"kind": self.kind, "scope": self.scope, "incident_id": self.incident_id}
        columns = {name: pa.repeat(value, lines.num_rows) for name, value in shared.items()}
        columns |= {"operation_id": keys, "wave": pa.repeat(pa.scalar(wave, pa.int32()), lines.num_rows)} | own
        names = [*OPERATION_COLUMNS, "original_payment_id"]
        return pa.table({name: columns[name] if name in columns else lines[name] for name in names})

    def commit(self, intended: pa.Table, deviations: pa.Table) -> None:
        """Commit a wave's intents and what came otherwise, whole or not at all.

        Raises:
            FatalError: an operation exists already, or more would be undone than was charged; nothing was written.
        """
        with self._server.connect() as connection:
            if deviations.num_rows:
                stage_deviations(connection)
                copy_in(connection, "fresh_deviation", deviations.to_batches(), DEVIATION_SCHEMA.names)
                keep_deviations(connection, self.incident_id, self._day)
            copy_in(connection, "operation", intended.select(OPERATION_COLUMNS).to_batches(), OPERATION_COLUMNS)
            failpoint("intents.commit")
        failpoint("intents.committed")

    # -- what has become of it ----------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Counts and amounts of the step, derived from rows: done, declined, unknown, left by reason, deviations by kind."""
        if self._first_wave is None:
            self._class_lines()
        elif self._due.num_rows:
            self._class_what_was_due()
        moved = "rebilled" if self.step == "rebill" else f"(FROM moved WHERE kind = '{self.kind}')"
        done = self._figures(f"SELECT 'done', count(*), sum(amount_minor) FROM {moved} WHERE state = 'succeeded'")
        lines = self._figures("SELECT class, count(*), sum(amount_minor) FROM classed GROUP BY class")
        settled = ("done", "became_refund", "settled_otherwise", "refused", "declined_for_good", "declined_until_retry")
        declined = _sum(lines, "refused", "declined_for_good", "declined_until_retry")
        left = {name: figures for name, figures in lines.items() if name not in (*settled, "unknown", "sent")}
        report = {
            "done": done.get("done", _sum({})),
            "declined": declined,
            "unknown": _sum(lines, "unknown", "sent"),
            "left": _renamed(left, _LEFT_NAMES),
            "deviations": self._deviation_figures(),
        }
        if self.step == "rebill":
            retry = self._database.execute(
                "SELECT min(retry_on) FROM classed WHERE class = 'declined_until_retry'"
            ).fetchone()[0]
            report["declined_by"] = {n: lines[n] for n in ("declined_until_retry", "declined_for_good") if n in lines}
            report["retry_on"] = str(retry) if retry else None
        return report

    def _figures(self, query: str) -> dict[str, dict[str, int]]:
        rows = self._database.execute(query).fetchall()
        return {name: {"count": count, "amount_minor": int(total or 0)} for name, count, total in rows if count}

    def _deviation_figures(self) -> dict[str, dict[str, int]]:
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT kind, count(DISTINCT original_id), sum(amount_minor)::bigint FROM deviation WHERE incident_id = %s"
                " GROUP BY kind ORDER BY kind",
                (self.incident_id,),
            ).fetchall()
        return {kind: {"count": count, "amount_minor": total} for kind, count, total in rows}


_LEFT_NAMES = {"due": "not_sent"}
"""A due line is called not sent once a call has ended; intents that a stop kept back are called so too."""


def _renamed(figures: dict[str, dict[str, int]], names: dict[str, str]) -> dict[str, dict[str, int]]:
    """`figures` under other names; what comes to one name is added up."""
    found: dict[str, list[str]] = {}
    for name in figures:
        found.setdefault(names.get(name, name), []).append(name)
    return {name: _sum(figures, *together) for name, together in found.items()}


def _deviations(lines: pa.Table, judged: pa.Table) -> pa.Table:
    """What of a wave came otherwise, and is no matter of waiting (`DEVIATION_SCHEMA`)."""
    is_odd = pc.invert(pc.is_in(judged["verdict"], pa.array(["send", *WAVE_VERDICTS_LEFT])))
    if not pc.any(is_odd, min_count=0).as_py():
        return DEVIATION_SCHEMA.empty_table()
    lines, judged = lines.filter(is_odd), judged.filter(is_odd)
    is_whole = pc.is_in(judged["verdict"], pa.array(SETTLED_OTHERWISE))
    amounts = pc.if_else(is_whole, lines["wrong_minor"], lines["amount_minor"])
    details = pc.if_else(judged["is_voided"], VOIDED, "")
    return pa.table([lines["original_id"], judged["verdict"], amounts, details], schema=DEVIATION_SCHEMA)


def _sql(name: str) -> str:
    return (resources.files("pipeline") / "sql" / name).read_text(encoding="utf-8")


def _sum(figures: dict[str, dict[str, int]], *names: str) -> dict[str, int]:
    chosen = [figures[name] for name in names if name in figures]
    return {"count": sum(f["count"] for f in chosen), "amount_minor": sum(f["amount_minor"] for f in chosen)}
