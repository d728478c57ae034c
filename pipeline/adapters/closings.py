"""What closing an incident looks at and leaves behind, in PostgreSQL.

Belongs here: what of an incident is unfinished, its balances, what people have named as open, write-offs, what was proven, the
closing itself and the regression case. Does not: proving (`pipeline.proof`, which reads none of this), or whether closing is
allowed (`close`).
"""

import json
from datetime import date
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import dict_row

from pipeline.adapters.audit import append_audit
from pipeline.adapters.bulk import expect_millions, fetch
from pipeline.adapters.incidents import Incident
from pipeline.adapters.postgres import Server, conninfo, insert_row
from pipeline.errors import GateClosed, UsageError

NAMED_SCHEMA = pa.schema(
    [("customer_id", pa.string()), ("billing_period", pa.string()), ("bill_cycle", pa.int64()), ("reason", pa.string()),
     ("is_written_off", pa.bool_())]
)  # fmt: skip

_COHORT = (
    "(o.incident_id = %(incident)s OR (o.kind = 'charge' AND o.scope = %(scope)s"
    " AND (%(issuers)s::text[] IS NULL OR o.issuer = ANY(%(issuers)s::text[]))))"
)
_SCOPES = "(b.scope = %(scope)s OR b.scope = %(incident)s OR starts_with(b.scope, %(incident)s || '/'))"


class Closings:
    """Reads, and appends what closing leaves."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def unfinished(self, incident: Incident) -> dict[str, int]:
        """Operations of the incident, wrong charges included, by state, where it is not final."""
        # As the view `operation_state`, but for a million rows at once; one that was handed over is sent.
        return self._counts(
            "SELECT CASE WHEN u.operation_id IS NOT NULL THEN 'unknown' ELSE 'not_answered' END AS state, count(*)"
            " FROM operation o LEFT JOIN unanswered u USING (operation_id)"
            f" WHERE {_COHORT} AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = o.operation_id) GROUP BY 1",
            incident,
        )

    def unknown_scopes(self, incident: Incident) -> list[str]:
        """Scopes of the incident, wrong charges included, with operations whose outcome nobody knows."""
        with self._server.connect() as connection:
            rows = connection.execute(
                "SELECT DISTINCT o.scope FROM unanswered u JOIN operation o USING (operation_id)"
                f" WHERE {_COHORT} AND NOT EXISTS (SELECT FROM outcome c WHERE c.operation_id = u.operation_id) ORDER BY 1",
                _named(incident),
            ).fetchall()
        return [row[0] for row in rows]

    def open_breaks(self, incident: Incident) -> dict[str, int]:
        """Breaks of the incident that are not resolved, by kind."""
        return self._counts(
            f"SELECT b.kind, count(*) FROM open_break b WHERE {_SCOPES} GROUP BY b.kind ORDER BY 1", incident
        )

    def untold(self, incident: Incident) -> int:
        """Messages that are due and not sent."""
        return sum(
            self._counts(
                "SELECT n.step, count(*) FROM notice_due n WHERE n.incident_id = %(incident)s GROUP BY 1", incident
            ).values()
        )

    def balances(self, incident: Incident) -> dict[str, int]:
        """What the incident's operations left on every account; the sum over accounts is zero by construction."""
        return self._counts(
            # summed by both accounts at once: millions of entries are joined to their operations a single time
            "SELECT account::text, sum(moved)::bigint FROM"
            " (SELECT e.debit, e.credit, sum(e.amount_minor) AS amount_minor FROM entry e JOIN operation o USING (operation_id)"
            f"  WHERE {_COHORT} GROUP BY 1, 2) pairs"
            " CROSS JOIN LATERAL (VALUES (debit, amount_minor), (credit, -amount_minor)) sides(account, moved)"
            " GROUP BY account ORDER BY account",
            incident,
        )

    def named(self, incident: Incident) -> pa.Table:
        """Bills that the newest plan leaves open on purpose, and why (`NAMED_SCHEMA`)."""
        query = sql.SQL(
            "SELECT x.customer_id, x.billing_period, x.bill_cycle, min(x.reason), false FROM plan_exception x"
            " WHERE x.plan_digest = (SELECT p.plan_digest FROM plan p JOIN approval a USING (plan_digest)"
            "  WHERE p.incident_id = {} ORDER BY p.plan_number DESC LIMIT 1)"
            " AND (x.reversal IN ('wait', 'manual') OR x.rebill = 'hold') GROUP BY 1, 2, 3"
        ).format(sql.Literal(incident.incident_id))
        return fetch(conninfo(self._server.pipeline_url), query, NAMED_SCHEMA)

    def write_off(self, incident: Incident, *, effective_on: date) -> None:
        """Take what nobody will collect or return out of receivable and refund payable; repeating it changes nothing."""
        with self._server.connect() as connection:
            expect_millions(connection)
            for debit, credit, side, taken in (
                ("write_off", "accounts_receivable", "debit = 'accounts_receivable'", "credit = 'accounts_receivable'"),
                ("refund_payable", "write_off", "credit = 'refund_payable'", "debit = 'refund_payable'"),
            ):
                connection.execute(
                    "INSERT INTO further_entry (operation_id, step, debit, credit, amount_minor, currency, effective_on)"
                    f" SELECT o.operation_id, 'written_off', '{debit}', '{credit}', e.amount_minor, e.currency, %(day)s"
                    " FROM operation o JOIN entry e USING (operation_id)"
                    f" WHERE o.incident_id = %(incident)s AND e.step = 'final' AND e.{side}"
                    " AND NOT EXISTS (SELECT FROM operation p JOIN entry f USING (operation_id)"  # a later attempt took it
                    "  WHERE p.customer_id = o.customer_id AND p.billing_period = o.billing_period AND p.bill_cycle = o.bill_cycle"
                    "  AND p.incident_id = o.incident_id AND p.occurrence = o.occurrence AND p.attempt > o.attempt"
                    f"  AND f.step = 'final' AND f.{taken})"
                    " ON CONFLICT DO NOTHING",
                    {"incident": incident.incident_id, "day": effective_on},
                )

    def record_proof(self, incident: Incident, proof: dict[str, Any]) -> int:
        """Keep what was proven of an incident, as the pipeline: no person can write a proof; returns its number."""
        with self._server.connect() as connection:
            row = connection.execute(
                "INSERT INTO incident_proof (incident_id, proof) VALUES (%s, %s) RETURNING proof_id",
                (incident.incident_id, json.dumps(proof, ensure_ascii=False, default=str)),
            ).fetchone()
            return row[0]

    def close(
        self, incident: Incident, proof: dict[str, Any], *, login: str | None, password: str | None, user: str | None = None
    ) -> None:  # fmt: skip
        """Record the closing by whoever `login` authenticates (the service without one); from now on history is the corrected run.

        The database refuses what the proof or its own books do not allow.

        Args:
            user: whom Airflow authenticated, where it passes that person's word on.

        Raises:
            GateClosed: it is closed already, or something of it is open, unsettled or unproven after all.
            UsageError: the login may not close incidents.
        """
        said = {"incident_id": incident.incident_id, "proof_id": self.record_proof(incident, proof)}
        with self._server.connect("makegood_airflow" if user else login, None if user else password) as connection:
            try:
                if not insert_row(connection, "incident_closing", said, passed_on={"person": user}):
                    raise GateClosed(f"{incident.incident_id} is closed already; its proof stands")
            except psycopg.errors.CheckViolation as error:
                raise GateClosed(f"{incident.incident_id} cannot close: {error.diag.message_primary}") from None
            except psycopg.errors.InsufficientPrivilege as error:
                raise UsageError(f"{login} may not close an incident: {error.diag.message_primary}") from None
            detail = {"residual_minor": proof["residual_minor"], "proof": said["proof_id"]} | (
                {"user": user} if user else {}
            )
            append_audit(connection, "close_incident", incident.incident_id, detail)

    def keep_case(self, incident_id: str, wrong_run: str, history: list[dict[str, str]]) -> None:
        """Keep the wrong run and the history it was charged against as a case that the gate must hold from now on."""
        with self._server.connect() as connection:
            connection.execute(
                "INSERT INTO regression_case (incident_id, wrong_run, history) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (incident_id, wrong_run, json.dumps(history)),
            )

    def cases(self) -> list[dict[str, Any]]:
        """All regression cases, oldest first: incident_id, wrong_run, history (`billing_period, run_id, standing` each)."""
        with self._server.connect() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(
                "SELECT incident_id, wrong_run, history FROM regression_case ORDER BY recorded_at"
            ).fetchall()

    def _counts(self, query: str, incident: Incident) -> dict[str, int]:
        with self._server.connect() as connection:
            expect_millions(connection)
            return dict(connection.execute(query, _named(incident)).fetchall())


def _named(incident: Incident) -> dict[str, Any]:
    """The parameters of `_COHORT` and `_SCOPES`."""
    issuers = list(incident.issuers) if incident.issuers is not None else None
    return {"incident": incident.incident_id, "scope": incident.charge_scope, "issuers": issuers}
