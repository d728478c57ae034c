"""What the books say of an incident: its wrong charges, and what was undone and rebilled so far, as Arrow tables.

Belongs here: reading operations and outcomes for assessing and planning. Does not: writing any (`ledger`), or judging them
(`sql/assess.sql`, `sql/plan.sql`).
"""

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from pipeline.adapters import duck
from pipeline.adapters.bulk import fetch
from pipeline.adapters.incidents import Incident
from pipeline.adapters.postgres import Server, conninfo

WRONG_SCHEMA = pa.schema(
    [("operation_id", pa.string()), ("customer_id", pa.string()), ("bill_cycle", pa.int64()), ("occurrence", pa.int64()),
     ("charge_id", pa.string()), ("amount_minor", pa.int64()), ("currency", pa.string()), ("payment_method", pa.string()),
     ("issuer", pa.string()), ("instrument_token", pa.string()), ("state", pa.string()), ("payment_id", pa.string())]
)  # fmt: skip
"""A wrong charge; `state` as in the view `operation_state`: succeeded, declined, unknown, sent, not_sent."""

BILL_SCHEMA = pa.schema([("customer_id", pa.string()), ("bill_cycle", pa.int64()), ("first", pa.int64())])
"""A bill that was charged outside an incident; `first` is the lowest occurrence of its charges there, 0 for a rebill."""

_MEANT_SCHEMA = pa.schema(
    [("operation_id", pa.uuid()), *(WRONG_SCHEMA.field(name) for name in WRONG_SCHEMA.names[1:-1])]
)
_MEANT = sql.SQL(
    "SELECT o.operation_id, o.customer_id, o.bill_cycle, o.occurrence, o.charge_id, o.amount_minor, o.currency, o.payment_method,"
    " o.issuer, o.instrument_token, CASE WHEN u.operation_id IS NOT NULL THEN 'unknown' WHEN w.scope IS NOT NULL THEN 'sent'"
    " ELSE 'not_sent' END FROM operation o LEFT JOIN unanswered u USING (operation_id)"
    " LEFT JOIN (SELECT DISTINCT scope, wave FROM wave_state WHERE handed_over AND NOT rejected) w"
    " ON w.scope = o.scope AND w.wave = o.wave WHERE o.kind = 'charge' AND {cohort}"
)
"""Charges, each with the state that it has while it has no outcome."""

_ANSWERED_SCHEMA = pa.schema([("operation_id", pa.uuid()), ("is_declined", pa.bool_()), ("payment_id", pa.string())])
_ANSWERED = sql.SQL(
    # nothing has an outcome before its file is written; a day's grace for a clock that was set back
    "SELECT operation_id, status = 'declined', payment_id FROM outcome WHERE recorded_at >="
    " coalesce((SELECT min(recorded_at) FROM batch WHERE scope = {scope}) - interval '1 day', '-infinity')"
)
"""Outcomes since the scope's first file: its own, and others'."""

_WRONG = """
SELECT replace(CAST(operation_id AS VARCHAR), '-', '') AS operation_id, m.* EXCLUDE (operation_id, state),
    CASE WHEN a.is_declined IS NULL THEN m.state WHEN a.is_declined THEN 'declined' ELSE 'succeeded' END AS state, a.payment_id
FROM meant m LEFT JOIN answered a USING (operation_id)"""

UNDONE_SCHEMA = pa.schema(
    [("original_id", pa.string()), ("state", pa.string()), ("reason", pa.string()), ("amount_minor", pa.int64())]
)
"""The newest reversal of a charge in an incident."""

REBILLED_SCHEMA = pa.schema(
    [("customer_id", pa.string()), ("bill_cycle", pa.int64()), ("state", pa.string()), ("amount_minor", pa.int64())]
)
"""The newest rebill of a bill in an incident."""

# As the view `operation_state`, but planned for a million rows at once.
_STATE = sql.SQL(
    "CASE WHEN c.status IS NOT NULL THEN c.status WHEN u.operation_id IS NOT NULL THEN 'unknown'"
    " WHEN w.scope IS NOT NULL THEN 'sent' ELSE 'not_sent' END"
)
_WITH_STATE = sql.SQL(
    "operation o LEFT JOIN outcome c USING (operation_id) LEFT JOIN unanswered u USING (operation_id)"
    " LEFT JOIN (SELECT DISTINCT scope, wave FROM wave_state WHERE handed_over AND NOT rejected) w"
    " ON w.scope = o.scope AND w.wave = o.wave"
)


def approved_payments(wrong: pa.Table) -> pa.Array:
    """The acquirer's ids of the charges (`WRONG_SCHEMA`) that were approved."""
    return wrong["payment_id"].filter(pc.equal(wrong["state"], "succeeded")).combine_chunks()


class IncidentBooks:
    """Reads alone."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def has_charges(self, scope: str) -> bool:
        """Whether anything of a run was ever meant to be charged."""
        with self._server.connect() as connection:
            return connection.execute("SELECT EXISTS (SELECT FROM operation WHERE scope = %s)", (scope,)).fetchone()[0]

    def wrong_charges(self, incident: Incident) -> pa.Table:
        """The charges the incident is about (`WRONG_SCHEMA`), sent or not."""
        # Two plain readings, joined here: a million rows of two tables that PostgreSQL would join with half the speed.
        meant = self._fetch(_MEANT.format(cohort=_cohort(incident)), _MEANT_SCHEMA)
        answered = self._fetch(_ANSWERED.format(scope=sql.Literal(incident.charge_scope)), _ANSWERED_SCHEMA)
        with duck.connect() as connection:
            connection.register("meant", meant)
            connection.register("answered", answered)
            return connection.execute(_WRONG).to_arrow_table().cast(WRONG_SCHEMA)

    def charged_elsewhere(self, incident: Incident) -> pa.Table:
        """Bills of the period that were charged outside the incident (`BILL_SCHEMA`): not missing, and perhaps not this one's to rebill."""
        query = sql.SQL(
            "SELECT o.customer_id, o.bill_cycle, min(CASE o.kind WHEN 'rebill' THEN 0 ELSE o.occurrence END) FROM operation o"
            " WHERE o.billing_period = {period} AND o.kind IN ('charge', 'rebill') AND NOT ({cohort})"
            " AND o.incident_id IS DISTINCT FROM {incident} GROUP BY o.customer_id, o.bill_cycle"
        )
        query = query.format(
            period=sql.Literal(incident.billing_period),
            cohort=_cohort(incident),
            incident=sql.Literal(incident.incident_id),
        )
        return self._fetch(query, BILL_SCHEMA)

    def undone(self, incident: Incident, *, nothing_yet: bool = False) -> pa.Table:
        """The newest reversal of each charge in this incident (`UNDONE_SCHEMA`); with `nothing_yet` none, unasked."""
        if nothing_yet:
            return UNDONE_SCHEMA.empty_table()
        query = sql.SQL(
            "SELECT DISTINCT ON (o.original_id) replace(o.original_id::text, '-', ''), {state}, c.reason, o.amount_minor"
            " FROM {operations} WHERE o.incident_id = {incident} AND o.kind IN ('void', 'refund')"
            " ORDER BY o.original_id, (c.status IS NULL) DESC, (c.status = 'succeeded') DESC, o.recorded_at DESC, o.attempt DESC"
        )
        query = query.format(state=_STATE, operations=_WITH_STATE, incident=sql.Literal(incident.incident_id))
        return self._fetch(query, UNDONE_SCHEMA)

    def rebilled(self, incident: Incident, *, nothing_yet: bool = False) -> pa.Table:
        """The newest rebill of each bill in this incident (`REBILLED_SCHEMA`); with `nothing_yet` none, unasked."""
        if nothing_yet:
            return REBILLED_SCHEMA.empty_table()
        query = sql.SQL(
            "SELECT DISTINCT ON (o.customer_id, o.bill_cycle) o.customer_id, o.bill_cycle, {state}, o.amount_minor"
            " FROM {operations} WHERE o.incident_id = {incident} AND o.kind = 'rebill'"
            " ORDER BY o.customer_id, o.bill_cycle, o.attempt DESC"
        )
        query = query.format(state=_STATE, operations=_WITH_STATE, incident=sql.Literal(incident.incident_id))
        return self._fetch(query, REBILLED_SCHEMA)

    def _fetch(self, query: sql.Composable, schema: pa.Schema) -> pa.Table:
        return fetch(conninfo(self._server.pipeline_url), query, schema)


def _cohort(incident: Incident) -> sql.Composable:
    """Which charge operations (as `o`) belong to the incident."""
    scope = sql.SQL("o.scope = {}").format(sql.Literal(incident.charge_scope))
    if incident.issuers is None:
        return scope
    return sql.SQL("{} AND o.issuer = ANY({}::text[])").format(scope, sql.Literal(list(incident.issuers)))
