"""Everything the books hold about one customer, by key, in one connection and a few milliseconds.

Belongs here: the look-ups by customer. Does not: putting them into words (`lookup`). No token leaves this module.
"""

from typing import Any

import psycopg
from psycopg.rows import dict_row

from pipeline.adapters.postgres import Server

OPERATIONS = """
SELECT o.operation_id, o.kind, o.scope, o.incident_id, o.billing_period, o.bill_cycle, o.occurrence, o.attempt, o.amount_minor, o.currency,
    o.payment_method, o.issuer, o.original_id, c.status, c.reason, c.recorded_at AS answered_at, o.recorded_at,
    u.operation_id IS NOT NULL AS was_unknown,
    (SELECT e.effective_on FROM entry e WHERE e.operation_id = o.operation_id AND e.step IN ('final', 'suspended')
     ORDER BY e.step LIMIT 1) AS day,
    (SELECT e.effective_on FROM entry e WHERE e.operation_id = o.operation_id AND e.step = 'settled') AS settled_on,
    EXISTS (SELECT FROM entry e WHERE e.operation_id = o.operation_id AND e.step = 'written_off') AS is_written_off
FROM operation o LEFT JOIN outcome c USING (operation_id) LEFT JOIN unanswered u USING (operation_id)
WHERE o.customer_id = %(customer)s
ORDER BY o.billing_period, o.bill_cycle, o.recorded_at, o.kind"""

_INCIDENTS = """
SELECT i.incident_id, i.billing_period, i.charge_scope, i.issuers, i.opened_at, c.recorded_at AS closed_at,
    p.reversal_first, p.reversal_last, p.rebill_first, p.rebill_last, p.plan_digest, p.approved
FROM incident i LEFT JOIN incident_closing c USING (incident_id)
LEFT JOIN LATERAL (SELECT p.*, a.plan_digest IS NOT NULL AND j.plan_digest IS NULL AS approved FROM plan p
                   LEFT JOIN approval a USING (plan_digest) LEFT JOIN plan_rejection j USING (plan_digest)
                   WHERE p.incident_id = i.incident_id ORDER BY p.plan_number DESC LIMIT 1) p ON true
WHERE i.charge_scope = ANY(%(scopes)s) OR i.incident_id = ANY(%(incidents)s)"""

_EXCEPTIONS = """
SELECT billing_period, bill_cycle, occurrence, reversal, rebill, reason, plan_digest FROM plan_exception
WHERE customer_id = %(customer)s"""

_DEVIATIONS = "SELECT original_id, kind, amount_minor, detail FROM deviation WHERE original_id = ANY(%(operations)s)"

_NOTICES = """
SELECT incident_id, step, channel, recorded_at FROM notice
WHERE customer_id = %(customer)s AND incident_id = ANY(%(incidents)s) ORDER BY recorded_at"""


def facts_about(server: Server, customer_id: str) -> dict[str, list[dict[str, Any]]]:
    """Rows about one billing account: `operations`, `incidents` that cover them, `exceptions`, `deviations`, `notices`."""
    with server.connect() as connection:
        connection.execute("SET LOCAL enable_seqscan = off")  # also before the tables have statistics
        cursor = connection.cursor(row_factory=dict_row)
        operations = _rows(cursor, OPERATIONS, customer=customer_id)
        covering = [
            i for i in _rows(cursor, _INCIDENTS, scopes=[o["scope"] for o in operations if o["kind"] == "charge"],
                             incidents=[o["incident_id"] for o in operations if o["incident_id"]])
            if any(_covers(i, o) for o in operations)
        ]  # fmt: skip
        newest = {incident["plan_digest"] for incident in covering}
        return {
            "operations": operations,
            "incidents": covering,
            "exceptions": [x for x in _rows(cursor, _EXCEPTIONS, customer=customer_id) if x["plan_digest"] in newest],
            "deviations": _rows(cursor, _DEVIATIONS, operations=[o["operation_id"] for o in operations]),
            "notices": _rows(cursor, _NOTICES, customer=customer_id, incidents=[i["incident_id"] for i in covering]),
        }


def _covers(incident: dict[str, Any], operation: dict[str, Any]) -> bool:
    if operation["kind"] != "charge":
        return operation["incident_id"] == incident["incident_id"]
    is_sent_there = incident["issuers"] is None or operation["issuer"] in incident["issuers"]
    return operation["scope"] == incident["charge_scope"] and is_sent_there


def _rows(cursor: psycopg.Cursor, query: str, **values: Any) -> list[dict[str, Any]]:
    return cursor.execute(query, values).fetchall()
