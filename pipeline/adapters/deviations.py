"""Deviations in PostgreSQL: where the acquirer's state made us do other than planned, and the entries of what came back without us.

Belongs here: keeping a deviation once, to the won, whoever notices it - a step of a plan (`remedies`) or a reconciliation that meets
a difference. Does not: what a step does about one (`sql/reversals_wave.sql`), or what explains a settlement line (`sql/match.sql`).
"""

from datetime import date
from typing import Any

import pyarrow as pa
from psycopg import sql

from pipeline.adapters.bulk import copy_in, fetch
from pipeline.adapters.incidents import Incident
from pipeline.adapters.postgres import Server, conninfo, take_mutex
from pipeline.core.ledger import posting_without_operation

SETTLED_OTHERWISE = ("expired", "already_returned", "shrunk", "charge_was_declined")
"""Deviations after which the acquirer no longer keeps the wrong charge's money, or that part of it: they have an entry."""

DEVIATION_SCHEMA = pa.schema(
    [("original_id", pa.string()), ("kind", pa.string()), ("amount_minor", pa.int64()), ("detail", pa.string())]
)
"""What a deviation is told as. Of a kind in `SETTLED_OTHERWISE`, the amount is all that went without us so far."""

LOCK_WAIT = "60s"
"""How long keeping deviations waits for somebody who keeps some: each takes a second or two, also of a million charges."""

VOIDED = "voided"
"""Detail of an approval that somebody else voided: it is in no settlement file, like one that expired."""

STANDING_SCHEMA = pa.schema([("original_id", pa.string()), ("payment_id", pa.string())])

SAID_COLUMNS = ["original_id", "state", "refunded_minor"]


class CameBack:
    """The wrong charges that the books still call charged, and the acquirer perhaps does not.

    Steps of a plan see to the charges that they touch. What went without us while no plan had anything left to do is nobody's
    to notice but the reconciliation's.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def standing(self, incident: Incident) -> pa.Table:
        """Wrong charges (`STANDING_SCHEMA`) that by the books are not wholly undone, nor about to be."""
        query = sql.SQL(
            "SELECT replace(o.operation_id::text, '-', ''), c.payment_id FROM operation o JOIN outcome c USING (operation_id)"
            " LEFT JOIN (SELECT r.original_id, sum(r.amount_minor) FILTER (WHERE d.status = 'succeeded') AS amount_minor,"
            "   bool_or(d.status IS NULL) AS is_under_way FROM operation r LEFT JOIN outcome d USING (operation_id)"
            "   WHERE r.original_id IS NOT NULL GROUP BY r.original_id) ours ON ours.original_id = o.operation_id"
            " LEFT JOIN (SELECT original_id, sum(amount_minor) AS amount_minor FROM deviation WHERE kind = ANY({settled})"
            "   GROUP BY original_id) theirs ON theirs.original_id = o.operation_id"
            " WHERE o.kind = 'charge' AND o.scope = {scope} AND ({issuers}::text[] IS NULL OR o.issuer = ANY({issuers}::text[]))"
            " AND c.status = 'succeeded' AND ours.is_under_way IS NOT TRUE"
            " AND coalesce(ours.amount_minor, 0) + coalesce(theirs.amount_minor, 0) < o.amount_minor"
        ).format(
            settled=sql.Literal(list(SETTLED_OTHERWISE)),
            scope=sql.Literal(incident.charge_scope),
            issuers=sql.Literal(None if incident.issuers is None else list(incident.issuers)),
        )
        return fetch(conninfo(self._server.pipeline_url), query, STANDING_SCHEMA)

    def keep(self, incident_id: str, said: pa.Table, *, day: date) -> int:
        """Keep what the acquirer's word on charges (`SAID_COLUMNS`) shows to have gone without us; returns how many deviations are new.

        What we returned ourselves is looked at after the acquirer was asked, so ours is never taken for somebody else's.
        """
        with self._server.connect() as connection:
            stage_deviations(connection)
            connection.execute(
                "CREATE TEMP TABLE said (original_id uuid, state text, refunded_minor bigint) ON COMMIT DROP"
            )
            copy_in(connection, "said", said.select(SAID_COLUMNS).to_batches(), SAID_COLUMNS)
            connection.execute(
                "WITH judged AS (SELECT s.*, o.amount_minor, coalesce(ours.amount_minor, 0)::bigint AS ours_minor"
                "  FROM said s JOIN operation o ON o.operation_id = s.original_id CROSS JOIN LATERAL"
                "  (SELECT sum(r.amount_minor) FILTER (WHERE c.status = 'succeeded') AS amount_minor,"
                "    coalesce(bool_or(c.status IS NULL), false) AS is_under_way"
                "   FROM operation r LEFT JOIN outcome c USING (operation_id) WHERE r.original_id = s.original_id) ours"
                "  WHERE NOT ours.is_under_way)"
                " INSERT INTO fresh_deviation SELECT original_id, CASE state WHEN 'expired' THEN 'expired'"
                "   WHEN 'declined' THEN 'charge_was_declined' WHEN 'voided' THEN 'already_returned'"
                "   ELSE CASE WHEN ours_minor = 0 AND refunded_minor = amount_minor THEN 'already_returned' ELSE 'shrunk' END END,"
                "  CASE WHEN state IN ('expired', 'declined', 'voided') THEN amount_minor ELSE refunded_minor END - ours_minor,"
                "  CASE state WHEN 'voided' THEN %s ELSE '' END FROM judged"
                " WHERE state IN ('expired', 'declined', 'voided') OR refunded_minor > ours_minor",
                (VOIDED,),
            )
            return keep_deviations(connection, incident_id, day)


def stage_deviations(connection: Any) -> None:
    """Make room for deviations about to be kept by this transaction: the table `fresh_deviation` (`DEVIATION_SCHEMA`)."""
    connection.execute(
        "CREATE TEMP TABLE fresh_deviation (original_id uuid, kind text, amount_minor bigint, detail text) ON COMMIT DROP"
    )


def keep_deviations(connection: Any, incident_id: str, day: date) -> int:
    """Move staged deviations into the books, each once, with the entries of those that settle a wrong charge without us.

    Of what went without us, only what had not been kept before is new: a second part gets a row and an entry of its own.
    Returns the number of new rows.
    """
    owing, plain = (posting_without_operation("expired", after_decline=flag) for flag in (True, False))
    take_mutex(connection, "deviation", wait=LOCK_WAIT, busy="deviations are being kept already; try again")
    return connection.execute(
        "WITH fresh AS ("
        "  INSERT INTO makegood.deviation (incident_id, original_id, kind, nth, amount_minor, detail)"
        "  SELECT %(incident)s, f.original_id, f.kind, k.times + 1, f.amount_minor - k.gone_minor, f.detail"
        "  FROM fresh_deviation f CROSS JOIN LATERAL ("
        "    SELECT count(*) FILTER (WHERE d.kind = f.kind) AS times,"
        "      CASE WHEN f.kind = ANY(%(settling)s) THEN coalesce(sum(d.amount_minor) FILTER (WHERE d.kind = ANY(%(settling)s)), 0)"
        "        ELSE 0 END::bigint AS gone_minor"
        "    FROM makegood.deviation d WHERE d.original_id = f.original_id) k"
        "  WHERE CASE WHEN f.kind = ANY(%(settling)s) THEN f.amount_minor > k.gone_minor ELSE k.times = 0 END"
        "  ON CONFLICT DO NOTHING RETURNING original_id, kind, nth, amount_minor),"
        # what refused attempts have left owing is settled first, but for what is still ours to return; the rest had never been
        # taken out of revenue
        " settling AS (SELECT f.*, o.currency, least(f.amount_minor, greatest(0, owed.amount_minor - greatest(0, o.amount_minor"
        "    - f.amount_minor - gone.amount_minor - ours.amount_minor)))::bigint AS owed_minor"
        "  FROM fresh f JOIN makegood.operation o ON o.operation_id = f.original_id CROSS JOIN LATERAL"
        "   (SELECT coalesce(sum(CASE WHEN e.credit = %(owing)s THEN e.amount_minor WHEN e.debit = %(owing)s THEN -e.amount_minor END), 0)"
        "      AS amount_minor FROM makegood.entry e JOIN (SELECT f.original_id AS operation_id UNION ALL"
        "      SELECT p.operation_id FROM makegood.operation p WHERE p.original_id = f.original_id) touched USING (operation_id)) owed"
        "  CROSS JOIN LATERAL"
        "   (SELECT coalesce(sum(d.amount_minor), 0) AS amount_minor FROM makegood.deviation d"
        "     WHERE d.original_id = f.original_id AND d.kind = ANY(%(settling)s)) gone CROSS JOIN LATERAL"  # as it was before
        "   (SELECT coalesce(sum(p.amount_minor), 0) AS amount_minor FROM makegood.operation p JOIN makegood.outcome c USING (operation_id)"
        "     WHERE p.original_id = f.original_id AND c.status = 'succeeded') ours"
        "  WHERE f.kind = ANY(%(settling)s)),"
        " entered AS (INSERT INTO makegood.further_entry (operation_id, step, debit, credit, amount_minor, currency, effective_on)"
        "  SELECT original_id, step || CASE nth WHEN 1 THEN '' ELSE ' ' || nth END, debit::makegood.account, %(credit)s, moved_minor,"
        "    currency, %(day)s FROM settling CROSS JOIN LATERAL"
        "   (VALUES (kind, %(plain)s, amount_minor - owed_minor), (kind || '_owed', %(owing)s, owed_minor)) v(step, debit, moved_minor)"
        "  WHERE moved_minor > 0)"
        " SELECT count(*) FROM fresh",
        {"incident": incident_id, "owing": owing.debit, "plain": plain.debit, "credit": plain.credit, "day": day,
         "settling": list(SETTLED_OTHERWISE)},
    ).fetchone()[0]  # fmt: skip
