"""Plan a remediation: one reason-coded action per wrong charge, in windows that the rail can keep, under one digest.

Belongs here: windows, policy, totals, and what a plan says of itself in words. Does not: the rules line by line
(`sql/plan.sql`), storing (`adapters.incidents`), approving (`approve`) or doing any of it (`cancel`, `refund`, `rebill`).
A plan is computed from scratch each time: the same state of the world gives the same plan, the same digest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.money import format_minor
from pipeline.core.window import Window, Windows, default_windows, why_not_meant
from pipeline.errors import GateClosed, UsageError
from pipeline.plan_figures import MOVES, exceptions_in, summary_of, totals_of


@dataclass(frozen=True, slots=True)
class Policy:
    """What a company may decide otherwise, once per incident.

    Attributes:
        leave_equal: leave a charge alone that happens to be right to the won. Off by default: one rule for everybody is easier
            to explain and to prove than a charge that may stay.
        charge_missing: charge bills that are due and that nobody was charged for. Off for imported charges: a list made elsewhere
            says what was charged, not that nothing else was.
    """

    leave_equal: bool = False
    charge_missing: bool = True


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan, computed and not stored.

    Attributes:
        header: what it was made from; part of the digest.
        lines: `PLAN_SCHEMA`, in the order of customer, cycle and occurrence.
        summary: see `plan_figures.summary_of`.
    """

    plan_digest: str
    header: dict[str, Any]
    lines: pa.Table = field(repr=False)
    windows: Windows
    operation_count: int
    total_minor: int
    summary: dict[str, Any]

    @property
    def impact(self) -> str:
        """What approving it does, in one sentence."""
        return stated_impact(self.summary)

    def exceptions(self) -> pa.Table:
        """Lines that are not plainly undone and rebilled, with the reason."""
        return exceptions_in(self.lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "incident_id": self.header["incident_id"],
            "plan_digest": self.plan_digest,
            "successor_of": self.header["successor_of"],
            "windows": {"reversal": str(self.windows.reversal), "rebill": str(self.windows.rebill)},
            "policy": self.header["policy"],
            "operation_count": self.operation_count,
            "total_minor": self.total_minor,
            "currency": self.summary["currency"],
            "actions": self.summary["actions"],
            "reasons": self.summary["reasons"],
            "cells": self.summary["cells"],
            "open": self.summary["open"],
            "impact": self.impact,
        }


class Lines(Protocol):
    """The incident's charges beside the right bills; see `adapters.incident_lines`."""

    def plan(self, **given: Any) -> pa.Table: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true now, beside the lines.

    Attributes:
        live: the acquirer's word on each approved charge.
        undone, rebilled: what this incident has done already.
        clock: payment method and issuer to the days by which a void's and a refund's money is back.
    """

    live: pa.Table
    undone: pa.Table
    rebilled: pa.Table
    clock: Callable[[str, str], tuple[date | None, date | None]]


def choose_windows(day: date, *, reversal: Window | None, rebill: Window | None) -> Windows:
    """The windows of a plan made on `day`: those given, else the month's default ones.

    Raises:
        UsageError: the defaults are past or too far off, only one window was given, or one that was given is past or out of order.
    """
    if (reversal is None) != (rebill is None):
        raise UsageError("give both windows: --reversal-days FIRST..LAST --rebill-days FIRST..LAST")
    try:
        windows = default_windows(day) if reversal is None else Windows(reversal, rebill)
    except ValueError as error:
        raise UsageError(str(error)) from None
    problem = why_not_meant(windows, day) if reversal is None else None
    if problem:
        raise UsageError(
            f"{problem}; say which days are meant: --reversal-days YYYY-MM-DD..YYYY-MM-DD --rebill-days YYYY-MM-DD..YYYY-MM-DD"
        )
    if windows.rebill.last < day:
        raise UsageError(f"both windows are past on {day}; name days that lie ahead")
    return windows


def require_timely(windows: Windows, *, rail: str, answer_days: int) -> None:
    """Refuse windows that the rail's answers would miss: nobody is rebilled before the reversal is certain.

    Raises:
        GateClosed: what goes out on the last reversal day is answered after the rebill window.
    """
    answered = windows.reversal.last + timedelta(days=answer_days)
    if answered > windows.rebill.last:
        raise GateClosed(
            f"the rail {rail} says what became of a reversal {answer_days} days later: one sent on {windows.reversal.last} is certain"
            f" on {answered}, after the rebill window {windows.rebill} has closed. Let --rebill-days end on {answered} or later"
        )


def plan(
    incident: Any, lines: Lines, *, facts: Facts, windows: Windows, policy: Policy, plans: Sequence[Any],
    lines_digest: Callable[[pa.Table], str], digest_of: Callable[[dict[str, Any], str], str], newest_is_true: bool = True,
) -> Draft:  # fmt: skip
    """Compute the plan for what is true now; stores nothing.

    After an approved plan this is its successor: only what is left, with windows and an approval of its own.

    Args:
        incident: what was opened.
        plans: those stored before, newest first.
        lines_digest, digest_of: how lines and header make the digest.
        newest_is_true: whether the newest of `plans` says what its lines come to; one that does not is never taken for the same.
    """
    newest = plans[0] if plans else None
    approved = next((p.plan_digest for p in plans if p.approver), None)
    # Asked again before anything was done, an approved plan is itself and not its own successor.
    forms = [None] if approved is None else [None, approved] if newest.successor_of is None else [approved]
    for successor_of in forms:
        planned = lines.plan(
            live=facts.live, undone=facts.undone, rebilled=facts.rebilled, clock=facts.clock, leave_equal=policy.leave_equal,
            charge_missing=policy.charge_missing, is_successor=successor_of is not None,
        )  # fmt: skip
        sha256 = lines_digest(planned)
        header = _header(incident, windows, policy, successor_of)
        if newest is not None and newest_is_true and _is_same(newest, header, sha256):
            return _draft(newest.summary["header"], planned, windows, sha256, digest_of)
    header["revision"] = len(plans) + 1
    return _draft(header, planned, windows, sha256, digest_of)


def stated_impact(summary: Mapping[str, Any]) -> str:
    """What a plan does, in one sentence with counts and amounts: what an approver reads."""
    currency, actions = summary["currency"], summary["actions"]
    words = {"void": ("voids", "approval"), "refund": ("refunds", "withdrawal"), "rebill": ("rebills", "bill")}
    parts = []
    for action in MOVES:
        verb, noun = words[action]
        count, amount = actions[action]["operations"], format_minor(actions[action]["amount_minor"], currency)
        joined = "for" if action == "rebill" else "of"
        parts.append(f"{verb} {count:,} {noun}{'' if count == 1 else 's'} {joined} {amount}")
    open_lines = summary["open"]
    rest = f"; {open_lines:,} line{' stays' if open_lines == 1 else 's stay'} open by name" if open_lines else ""
    return ", ".join(parts) + rest


def _header(incident: Any, windows: Windows, policy: Policy, successor_of: str | None) -> dict[str, Any]:
    return {
        "incident_id": incident.incident_id,
        "billing_period": incident.billing_period,
        "charge_scope": incident.charge_scope,
        "issuers": list(incident.issuers) if incident.issuers is not None else None,
        "corrected_run": incident.corrected_run,
        "reversal": str(windows.reversal),
        "rebill": str(windows.rebill),
        "policy": asdict(policy),
        "successor_of": successor_of,
    }


def _is_same(newest: Any, header: dict[str, Any], sha256: str) -> bool:
    """Whether the newest plan says the same; one that was rejected is asked for anew, under a new revision."""
    stored = {name: value for name, value in newest.summary["header"].items() if name != "revision"}
    return stored == header and newest.summary["lines_sha256"] == sha256 and newest.rejected_by is None


def _draft(
    header: dict[str, Any],
    lines: pa.Table,
    windows: Windows,
    sha256: str,
    digest_of: Callable[[dict[str, Any], str], str],
) -> Draft:
    currencies = pc.unique(lines["currency"]).to_pylist()
    if len(currencies) > 1:
        raise UsageError(
            f"the charges are in {' and '.join(sorted(currencies))}; open one incident per currency, by --issuer"
        )
    summary = summary_of(header, lines, sha256)
    operation_count, total_minor = totals_of(summary)
    return Draft(
        plan_digest=digest_of(header, sha256),
        header=header,
        lines=lines,
        windows=windows,
        operation_count=operation_count,
        total_minor=total_minor,
        summary=summary,
    )
