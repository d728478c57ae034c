"""What a plan comes to: counts and amounts by action, reason, issuer and payment method, and the lines that are exceptions.

Belongs here: the one computation of a plan's figures from its lines. It is made when a plan is drafted, and made again from the
proven lines of its file whenever somebody is asked to approve it or something is about to execute it; what a database row says of a
plan is only ever compared with it. Does not: what becomes of a line (`sql/plan.sql`), or the plan in words (`plan`).
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MOVES = ("void", "refund", "rebill")
"""The actions that move money: what an approver agrees to."""

EXCEPTION_KEY = ("customer_id", "billing_period", "bill_cycle", "occurrence")

EXCEPTION_FIELDS = (*EXCEPTION_KEY, "reversal", "rebill", "wrong_minor", "correct_minor")

SUMMARY_COLUMNS = (
    "currency", "issuer", "payment_method", "reversal", "reversal_reason", "reversal_minor", "rebill", "rebill_reason",
    "rebill_issuer", "rebill_method", "wrong_minor", "correct_minor",
)  # fmt: skip
"""Columns of `PLAN_SCHEMA` that a summary is made of."""

NO_CURRENCY = "XXX"
"""ISO 4217 for "no currency": a plan without lines."""


def summary_of(header: dict[str, Any], lines: pa.Table, lines_sha256: str) -> dict[str, Any]:
    """What `lines` come to; no customer.

    Args:
        header: what the plan was made from.
        lines: `SUMMARY_COLUMNS` at least, of one currency.
        lines_sha256: their digest.

    Returns:
        `currency`, `actions` (by action: operations, amount_minor), `cells` (by action, issuer and payment method), `reasons` (by
        side, action and reason: lines, amount_minor), `open` (lines that wait for something), `lines`, and what the digest was made
        of: `header`, `lines_sha256`.
    """
    cells = _cells(lines)
    actions = {
        action: {
            "operations": sum(cell["operations"] for cell in cells if cell["action"] == action),
            "amount_minor": sum(cell["amount_minor"] for cell in cells if cell["action"] == action),
        }
        for action in MOVES
    }
    waiting = pc.or_(pc.is_in(lines["reversal"], pa.array(["wait", "manual"])), pc.equal(lines["rebill"], "hold"))
    return {
        "currency": lines["currency"][0].as_py() if lines.num_rows else NO_CURRENCY,
        "actions": actions,
        "cells": cells,
        "reasons": _reasons(lines),
        "open": pc.sum(waiting).as_py() or 0,
        "lines": lines.num_rows,
        "header": header,
        "lines_sha256": lines_sha256,
    }


def unsound(lines: pa.Table) -> str | None:
    """Why no sum of these lines says what they move; None if sums do. A plan that was drafted is sound; a file may hold anything."""
    if len(pc.unique(lines["currency"])) > 1:
        return "its lines are in more than one currency"
    for side, named in (("reversal", ("issuer", "payment_method")), ("rebill", ("rebill_issuer", "rebill_method"))):
        if lines[side].null_count or lines[f"{side}_reason"].null_count:
            return f"a line has no {side}, or none with a reason"
        moved = lines.filter(pc.is_in(lines[side], pa.array(MOVES)))
        amounts = moved["reversal_minor" if side == "reversal" else "correct_minor"]
        if (
            amounts.null_count
            or pc.any(pc.less_equal(amounts, 0)).as_py()
            or any(moved[name].null_count for name in named)
        ):
            return f"a {side} has no positive amount, no issuer or no payment method"
    return None


def totals_of(summary: dict[str, Any]) -> tuple[int, int]:
    """Number and amount (minor units) of all operations of a summary: every reversal and every rebill."""
    figures = summary["actions"].values()
    return sum(each["operations"] for each in figures), sum(each["amount_minor"] for each in figures)


def exceptions_in(lines: pa.Table) -> pa.Table:
    """Lines that are not plainly undone and rebilled: `EXCEPTION_FIELDS`, and `reason`.

    Args:
        lines: `PLAN_SCHEMA`.
    """
    plain = pc.and_(pc.is_in(lines["reversal"], pa.array(MOVES)), pc.equal(lines["rebill"], "rebill"))
    named = lines.filter(pc.invert(plain))
    undone = pc.is_in(named["reversal"], pa.array(MOVES))
    reason = pc.if_else(undone, named["rebill_reason"], named["reversal_reason"])
    return named.select(EXCEPTION_FIELDS).append_column("reason", reason)


def _cells(lines: pa.Table) -> list[dict[str, Any]]:
    """Operations and amount by action, issuer and payment method."""
    cells = []
    for action, issuer, method, amount in (
        ("reversal", "issuer", "payment_method", "reversal_minor"),
        ("rebill", "rebill_issuer", "rebill_method", "correct_minor"),
    ):
        moved = lines.select([action, issuer, method, amount]).filter(pc.is_in(lines[action], pa.array(MOVES)))
        grouped = moved.group_by([action, issuer, method]).aggregate([(amount, "sum"), (amount, "count")])
        cells += [
            {"action": row[action], "issuer": row[issuer], "payment_method": row[method], "operations": row[f"{amount}_count"],
             "amount_minor": row[f"{amount}_sum"]}
            for row in grouped.to_pylist()
        ]  # fmt: skip
    return sorted(cells, key=lambda cell: (MOVES.index(cell["action"]), cell["issuer"], cell["payment_method"]))


def _reasons(lines: pa.Table) -> list[dict[str, Any]]:
    """Lines by side (reversal, rebill), action and reason, with what was charged or is due on them."""
    found = []
    for side, amount in (("reversal", "wrong_minor"), ("rebill", "correct_minor")):
        grouped = lines.group_by([side, f"{side}_reason"]).aggregate([(amount, "sum"), ([], "count_all")])
        found += [
            {"side": side, "action": row[side], "reason": row[f"{side}_reason"], "lines": row["count_all"],
             "amount_minor": row[f"{amount}_sum"] or 0}
            for row in grouped.to_pylist()
        ]  # fmt: skip
    return sorted(found, key=lambda row: (row["side"] != "reversal", row["action"], row["reason"]))
