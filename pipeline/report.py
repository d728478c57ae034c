"""Report a verification: one page an analyst can read at 02:10, built from `verification.json` alone.

Belongs here: what the page says, in which order, and what it must never show. Does not: judging (`judge`), drawing
(`charts`) or storing who said what (the caller passes it in). The page is one file without script or outside
asset; all values are escaped, and what looks like a card number is masked wherever it stands.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline import charts
from pipeline.core.incident_words import CLASSES, REBILL_REASONS, REVERSAL_REASONS
from pipeline.core.money import format_minor
from pipeline.core.rule import cohort_name
from pipeline.core.settlement import BREAK_KINDS
from pipeline.core.verdict import PEOPLE_NEEDED, WHOLE_RUN, Verification

__all__ = ["FILE_NAME", "render", "write", "write_incident", "write_index"]

FILE_NAME = "report.html"
"""Beside `verification.json` and the quarantine file, so that the page's relative links hold."""


CARD_NUMBER = re.compile(
    r"(?<![^\W_])(?:[2-69]\d{12,18}|[2-69]\d{3}(?:[ -]\d{4}){2}[ -]\d{1,7}|[2-69]\d{3}(?:[ -]\d{4}){3}[ -]\d{3}"
    r"|3\d{3}[ -]\d{6}[ -]\d{4,5})(?![^\W_])"
)
"""Thirteen to nineteen digits that begin as on a card, in one piece or grouped; Luhn's check decides."""

STAKES = ("positive_count", "account_count", "positive_minor")
"""Columns of the profile that add up over issuers: what is charged, to how many, how much."""

REPEATS, DRIFT = "repeat", "drift"
"""What the names of rules about repeated amounts and about drift contain: their findings mark the charts."""


def render(
    verification: Verification,
    *,
    reviews: Iterable[Any] = (),
    decisions: Iterable[Any] = (),
    finding_decisions: Iterable[Any] = (),
    held_before: bool = False,
    outcome: Mapping[str, Any] | None = None,
) -> str:
    """The page as HTML; the same arguments give the same bytes.

    Args:
        verification: what the gate said.
        reviews: who has read it: mappings or dataclasses with `person`, `at`, `comment`.
        decisions: each person's word on the run: `kind` (`release` or `reject`), `person`, `at`, `reason`.
        finding_decisions: each person's word on a finding: `rule`, `cohort` (None: all), `kind` (`accept` or `reject`), `person`,
            `at`, `reason`, oldest first.
        held_before: whether some verification of the run held it: then two people are needed, whatever this one says.
        outcome: what became of its charges, as `release --json` prints it (`charged, declined, unknown, amount_minor`,
            and where known `not_sent`); None while nothing was sent.
    """
    seen = _masked(verification.content())
    said = _masked([_mapping(decision) for decision in decisions])
    repeats = _repeat_cohorts(seen)
    about_repeats = bool(seen["findings"]) and REPEATS in seen["findings"][0]["rule"]
    releasers = sorted({decision["person"] for decision in said if decision["kind"] == "release"})
    rejecters = sorted({decision["person"] for decision in said if decision["kind"] == "reject"})
    return _environment().get_template("report.html.j2").render(
        v=seen,
        state=_state("hold" if held_before else seen["decision"], len(releasers), len(rejecters), outcome),
        waits=held_before or seen["decision"] == "hold",
        lead=_lead(seen),
        figures=_figures(seen),
        findings=_by_rule(seen["findings"], _masked([_mapping(said) for said in finding_decisions])),
        failed_rules=len({finding["rule"] for finding in _failures(seen)}),
        not_judged=_by_reason(seen["not_judged"]),
        unjudged_rules=len({item["rule"] for item in seen["not_judged"]}),
        proof=repeats[:1] if about_repeats else [],
        repeats=repeats[1:] if about_repeats else repeats,
        repeat_grid=_repeat_grid(seen["charts"]["repeats"]),
        drift_flagged=_flagged(seen, DRIFT),
        shape_periods=sorted({row["billing_period"] for row in seen["charts"]["amounts"]}),
        shape_bands=_shape_bands(seen["charts"]["amounts"]),
        run_command=_commands(seen),
        reviews=_masked([_mapping(review) for review in reviews]),
        decisions=said,
        rejected=bool(rejecters),
        missing=max(0, PEOPLE_NEEDED - len(releasers)),
        outcome=outcome,
    )  # fmt: skip


def write(
    verification: Verification,
    path: Path,
    *,
    reviews: Iterable[Any] = (),
    decisions: Iterable[Any] = (),
    finding_decisions: Iterable[Any] = (),
    held_before: bool = False,
    outcome: Mapping[str, Any] | None = None,
) -> Path:
    """`render` into `path`, whole or not at all, over an earlier page; returns `path`."""
    page = render(
        verification, reviews=reviews, decisions=decisions, finding_decisions=finding_decisions, held_before=held_before,
        outcome=outcome,
    )  # fmt: skip
    return _replace(path, page)


def write_index(reports: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """Write `reports/index.html`: every run's verdict, newest first, each a link to its report; returns its path.

    Args:
        reports: the folder of reports, inside the home directory.
        entries: `run_id, billing_period, decision, report, verified_at, row_count, releasers, charged, reviewed`,
            and where known `headline`; `report` is relative to the home directory, as the register keeps it.
    """
    rows = [
        {
            "headline": None,
            **_masked(dict(entry)),
            "href": os.path.relpath(reports.parent / entry["report"], reports),
            "state": _state(entry["decision"], entry["releasers"] or 0, 0, {} if entry["charged"] else None),
        }
        for entry in sorted(entries, key=lambda entry: entry["verified_at"], reverse=True)
    ]
    return _replace(reports / "index.html", _environment().get_template("index.html.j2").render(entries=rows))


def write_incident(
    path: Path,
    *,
    incident: Mapping[str, Any],
    assessment: Mapping[str, Any],
    plans: Sequence[Mapping[str, Any]] = (),
    reconciliation: Mapping[str, Any] | None = None,
    proof: Mapping[str, Any] | None = None,
) -> Path:
    """Write an incident's page, whole or not at all, over an earlier one; returns `path`.

    Args:
        incident: as the register keeps it: `incident_id, billing_period, charge_scope, issuers, corrected_run, reason, ...`.
        assessment: `assess.Assessment` as a mapping.
        plans: stored plans, newest first, each with its `impact` in words.
        reconciliation: `reconcile.Reconciled.to_json` of the newest one; None while there was none.
        proof: `proof.Proof.to_json`, likewise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    later = {
        "reconciliation": reconciliation and _reconciliation_tables(reconciliation),
        "proof": proof and _proof_tables(proof),
    }
    page = (
        _environment()
        .get_template("incident.html.j2")
        .render(
            i=_masked(dict(incident)),
            a=_masked(dict(assessment)),
            plans=_masked([dict(plan) for plan in plans]),
            later=_masked({name: section for name, section in later.items() if section is not None}),
            classes=CLASSES,
            reasons={"reversal": REVERSAL_REASONS, "rebill": REBILL_REASONS},
            state=_incident_state(incident, plans),
        )
    )
    return _replace(path, page)


def _reconciliation_tables(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What a reconciliation found, as headed tables."""

    def row(name: str, figures: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "what": name, "lines": figures["count"], "amount": format_minor(figures["amount_minor"], found["currency"])
        } | more  # fmt: skip

    matched = [row(kind, figures) for kind, figures in found["matched"].items()]
    others = {"refunded by others": found["returned_elsewhere"], "not due yet": found["not_due"]}
    breaks = found["breaks"].items()
    files = [{"file": name, "why": why} for name, why in found["exceptions"]["refused"].items()]
    return {
        f"Matched by {found['day']}": matched + [row(name, f) for name, f in others.items() if f["count"]],
        "Breaks": [row(kind, figures, meaning=BREAK_KINDS[kind]) for kind, figures in breaks],
        **({"Files that cannot be read": files} if files else {}),
    }


def _proof_tables(proof: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """A proof as headed tables: the two equations, and what is not right, by name."""

    def money(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                name.removesuffix("_minor"): format_minor(value, proof["currency"])
                if name.endswith("_minor")
                else value
                for name, value in row.items()
            }
            for row in rows
        ]

    names = ("verdict", "wrong_held_minor", "unbilled_minor", "why")
    items = [
        {"who": item["customer_id"] or f"payment {item['payment_id']}"} | {name: item[name] for name in names}
        for item in proof["items"]
    ]
    whole = {name: proof[name] for name in ("residual_minor", "bills", "right", "open", "unexplained")}
    return {
        "To the last unit": money([whole]),
        "What was charged wrongly": money(proof["charged"]),
        "What is right": money(proof["rebilled"]),
        "Not right, by name": money(items),
    }


def _incident_state(incident: Mapping[str, Any], plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Where an incident stands, as `_state`."""
    if incident["closed_at"]:
        return {"look": "good", "badge": "Closed", "said": "closed with proof"}
    if not plans:
        return {"look": "bad", "badge": "Open", "said": "assessed, no plan yet"}
    looks = {
        "requested": ("warn", "plan awaits approval"),
        "approved": ("warn", "plan approved"),
        "rejected": ("bad", "plan rejected"),
    }
    look, said = looks[plans[0]["state"]]
    return {"look": look, "badge": "Open", "said": said}


def _state(decision: str, releasers: int, rejecters: int, outcome: Mapping[str, Any] | None) -> dict[str, str]:
    """Where the run stands: `look` for the style sheet, `badge` in a word or two, `said` as the heading ends."""
    if outcome is not None:
        return {"look": "good", "badge": "Charged", "said": "charged"}
    if rejecters:
        return {"look": "bad", "badge": "Rejected", "said": "rejected"}
    if releasers >= PEOPLE_NEEDED:
        return {"look": "warn", "badge": "Released by decision", "said": "released by two people"}
    if decision == "release":
        return {"look": "good", "badge": "May be charged", "said": "every charge may go"}
    return {"look": "bad", "badge": "Held, one of two agreed" if releasers else "Held", "said": "held"}


def _lead(seen: dict[str, Any]) -> str:
    """The likeliest cause in plain words, with the sentence that tells it; without one, the most important failure's own."""
    failures = _failures(seen)
    if not failures:
        judged = sum(rule["judged"] > 0 for rule in seen["rules"])
        return f"All {judged:,} rules that could be judged hold."
    if seen["decision"] == "release":
        return f"No critical rule failed. Worth a look: {failures[0]['explanation']}"
    if seen["causes"]:
        cause = seen["causes"][0]
        return f"{_sentence(cause['title'])}. {_sentence(cause['evidence'][0])}"
    return _sentence(failures[0]["explanation"])


def _failures(seen: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings but for those that are notes only."""
    return [finding for finding in seen["findings"] if finding["severity"] != "info"]


def _figures(seen: dict[str, Any]) -> list[dict[str, str]]:
    """The few numbers below the verdict: `name`, `value`, `aside`."""
    severities = {finding["rule"]: finding["severity"] for finding in reversed(_failures(seen))}
    critical = sum(severity == "critical" for severity in severities.values())
    warnings = len(severities) - critical
    aside = f"{warnings:,} warning{'' if warnings == 1 else 's'}; {len(seen['rules']):,} rules asked"
    return [*_stakes(seen), {"name": "Failed rules", "value": f"{critical:,} critical", "aside": aside}]


def _stakes(seen: dict[str, Any]) -> list[dict[str, str]]:
    """How many charges, customers and how much money the verdict is about: of a held run, what may not go."""
    profile = {cohort_name(row): row for row in seen["profile"]}
    if WHOLE_RUN not in profile:
        return [{"name": "Rows", "value": f"{seen['row_count']:,}", "aside": "landed; nothing was measured"}]
    run = profile[WHOLE_RUN]
    held = seen["decision"] == "hold"
    may_go = [profile[cohort] for cohort in seen["releasable"] if held and cohort in profile]
    charges, customers, money = (run[name] - sum(row[name] for row in may_go) for name in STAKES)
    if may_go:
        others = f"of {run['positive_count']:,}; the rest may go"
    else:
        others = f"and {run['zero_count']:,} zero, {run['negative_count']:,} negative bills"
    change = f"{run['new_count']:,} new, {run['missing_count']:,} missing against last month"
    figures = {
        "Charges": (f"{charges:,}", others),
        "Customers": (f"{customers:,}", change if seen["history"] else "no month before to compare with"),
        "Money": (charts.compact_minor(money, seen["currency"]), format_minor(money, seen["currency"])),
    }
    which = " held" if held else ""
    return [{"name": name + which, "value": value, "aside": aside} for name, (value, aside) in figures.items()]


def _by_rule(findings: list[dict[str, Any]], said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per rule in the order of its most important finding: the other cohorts below it, and what people said of them."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        grouped.setdefault(finding["rule"], []).append(finding)
    return [
        {"first": group[0], "others": group[1:], "said": [word for word in said if word["rule"] == rule]}
        for rule, group in grouped.items()
    ]


def _by_reason(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What could not be judged: rules that say the same of the same cohorts together."""
    cohorts: dict[tuple[str, str], list[str]] = {}
    for item in items:
        cohorts.setdefault((item["reason"], item["rule"]), []).append(item["cohort"])
    rules: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, rule), where in cohorts.items():
        rules.setdefault((reason, tuple(where)), []).append(rule)
    return [{"reason": reason, "cohorts": where, "rules": names} for (reason, where), names in rules.items()]


def _flagged(seen: dict[str, Any], about: str) -> list[str]:
    """Cohorts with a finding of a rule about `about`, the most important first."""
    return list(dict.fromkeys(finding["cohort"] for finding in seen["findings"] if about in finding["rule"]))


def _repeat_cohorts(seen: dict[str, Any]) -> list[dict[str, Any]]:
    """The cohorts whose repeats are drawn: up to two at fault, the worst first, and the whole run."""
    flagged = _flagged(seen, REPEATS)
    drawn = [WHOLE_RUN] if WHOLE_RUN in flagged else [*flagged[:2], WHOLE_RUN]
    rows = {cohort: sorted(group, key=lambda row: row["lag"]) for cohort, group in _cohorts(seen["charts"]["repeats"])}
    return [
        {"cohort": cohort, "rows": rows[cohort], "flagged": cohort in flagged} for cohort in drawn if cohort in rows
    ]


def _repeat_grid(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Every cohort's share per earlier month: `periods`, and `rows` of `cohort` and `cells`."""
    periods = sorted({row["compared_with"] for row in repeats}, reverse=True)
    rows = []
    for cohort, group in _cohorts(repeats):
        cells = {row["compared_with"]: row for row in group}
        rows.append({"cohort": cohort, "cells": [cells.get(period) for period in periods]})
    return {"periods": periods, "rows": rows}


def _cohorts(rows: list[dict[str, Any]]) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["cohort"], []).append(row)
    return grouped.items()


def _shape_bands(amounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bills per band of amounts, with a count for each month in `shape_periods`' order."""
    counts: dict[tuple[int, int], dict[str, int]] = {}
    for row in amounts:
        counts.setdefault((row["low_minor"], row["high_minor"]), {})[row["billing_period"]] = row["count"]
    periods = sorted({row["billing_period"] for row in amounts})
    return [
        {"low_minor": low, "high_minor": high, "counts": [months.get(period, 0) for period in periods]}
        for (low, high), months in sorted(counts.items())
    ]


def _commands(seen: dict[str, Any]) -> dict[str, str]:
    """What to type next, ready to copy."""
    run_id, period, source = (shlex.quote(seen[name]) for name in ("run_id", "billing_period", "source"))
    return {
        "verify": f"makegood verify --source {source} --period {period}",
        "decide": f'makegood run decide {run_id} --release --reason "why these amounts are right"',
        "release": f"makegood release --run {run_id}",
        "review": f'makegood run report {run_id} --reviewed "what you saw and did"',
    }


def _mapping(item: Any) -> dict[str, Any]:
    return asdict(item) if is_dataclass(item) else dict(item)


def _masked(value: Any) -> Any:
    """`value`, all the way down, with every card number reduced to its last four digits."""
    if isinstance(value, str):
        return CARD_NUMBER.sub(lambda match: _last_four(match.group()), value)
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value


def _last_four(text: str) -> str:
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(reversed(digits))]
    return f"•••• {text[-4:]}" if sum(doubled) % 10 == 0 else text


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _instant(value: str | datetime) -> str:
    """An instant to the minute, in the time zone it came in."""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    zone = at.strftime("%z")
    return f"{at:%Y-%m-%d %H:%M} UTC" + (f"{zone[:3]}:{zone[3:5]}" if at.utcoffset() else "")


def _replace(path: Path, text: str) -> Path:
    """Two renderings at once each write their own partial file; the last one whole stays."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        money=format_minor,
        compact=charts.compact_minor,
        share=charts.share_text,
        month=charts.month_name,
        cohort=charts.cohort_name,
        instant=_instant,
        sentence=_sentence,
        href=quote,
    )
    environment.globals.update(charts=charts)
    return environment
