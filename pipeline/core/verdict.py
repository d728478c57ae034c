"""What the gate says of a run: release or hold, why, how sure, and what it could not judge.

Belongs here: the shapes that judge, verify, report and the command line hand to each other, and their
JSON. Does not: any threshold (`expectations/suites`), measuring (`sql/`) or judging (`judge`). Tables
are lists of dicts, so that this stays in the standard library; none holds a token or a contact.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Decision = Literal["release", "hold"]
Severity = Literal["critical", "warning", "info"]
Table = list[dict[str, Any]]
"""Rows of plain values: text, whole numbers (amounts in minor units), shares as float (0.05 is 5 %), None."""

WHOLE_RUN = "run"
"""Name of the cohort that holds every row; the others are `<kind>:<value>`, such as `issuer:HANBIT`."""


PEOPLE_NEEDED = 2
"""Different authenticated people who must agree to charge a run that the gate or the calendar holds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that failed for one cohort.

    Attributes:
        rule: its name in the suite.
        severity: `critical` holds the run, `warning` is released with it, `info` is a note.
        cohort: `run` or `<kind>:<value>`; kinds are issuer, payment_method and plan.
        observed, expected: as a person reads them: "99.6 %", "at most 10 %".
        explanation: one sentence in plain words, with counts.
        confidence: how sure, in words: "certain", "near certain", "likely" or "worth a look".
    """

    rule: str
    severity: Severity
    cohort: str
    observed: str
    expected: str
    explanation: str
    confidence: str


@dataclass(frozen=True, slots=True)
class NotJudged:
    """A rule that could say nothing about a cohort, and why that is legitimate."""

    rule: str
    cohort: str
    reason: str


@dataclass(frozen=True, slots=True)
class HistoryUsed:
    """An earlier month that the run was compared with; `standing` as in `ports.HistoryPeriod`."""

    billing_period: str
    run_id: str
    standing: str


@dataclass(frozen=True, slots=True)
class Charts:
    """What the report draws; every table is small and sorted for drawing.

    Attributes:
        amounts: `billing_period, low_minor, high_minor, count` - bills by amount, low included and high
            not, in bins at 1, 2, 5 x powers of ten (negative ones mirrored, zero alone in [0, 1));
            up to three earlier months first, this run last.
        totals: `billing_period, charges, total_minor, standing`; this run last, standing `this run`.
        drift: `cohort, total_minor, previous_total_minor, total_drift` of the positive bills per cohort against the
            month before; `total_drift` is a share (None where it cannot be said).
        repeats: `cohort, compared_with, lag, comparable, repeated, repeat_share, normal_share` per cohort and
            earlier month; shares None where there is nothing to compare.
    """

    amounts: Table
    totals: Table
    drift: Table
    repeats: Table


@dataclass(frozen=True, slots=True)
class Cause:
    """What went wrong, most likely.

    Attributes:
        name: of the cause, stable (`core.diagnosis`); where nothing explains a failure, the rule's.
        title: the same in words.
        confidence: how sure, in words.
        severity: the most severe of what it explains.
        cohorts: where its first evidence shows.
        affected: bills that show it; None where only a total speaks.
        amount_minor: what they are billed, minor units; None where that was not added up.
        evidence: sentences, the telling one first.
        rules: whose failures it explains.
        check: what a person looks at next.
    """

    name: str
    title: str
    confidence: str
    severity: Severity
    cohorts: list[str]
    affected: int | None
    amount_minor: int | None
    evidence: list[str]
    rules: list[str]
    check: str


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Rows that break a rule by themselves.

    Attributes:
        file: name of the Parquet file beside the report.
        rows: rows in it; a row with two reasons is there twice.
        counts: `reason, rows`, most frequent first.
        sample: `reason, source_file, source_row, charge_id, customer_id, column, detail`, a few per reason.
    """

    file: str
    rows: int
    counts: Table
    sample: Table


@dataclass(frozen=True, slots=True)
class Verification:
    """One run judged under one set of suites.

    Attributes:
        run_id, billing_period, source: of the landed run.
        currency: of its amounts; `XXX` when it has none.
        row_count, control_total_minor: as landed.
        files: `name, sha256, row_count, control_total_minor, manifest_row_count, manifest_control_total_minor`.
        as_of: ISO 8601 instant it was verified at.
        decision: `release` only if every charge may go.
        releasable: cohorts that may go: `["run"]`, some `issuer:<name>`, or nothing.
        causes: what went wrong, most likely, in few words; the findings below say it rule by rule.
        findings: the most important first.
        not_judged: what could not be judged, and why.
        rules: every rule asked: `rule, severity, description, expected, judged, failed, not_judged`, the last
            three counting cohorts.
        suite_digest: SHA-256 over all suites and the versions of their rule classes.
        history: the earlier months used, latest first.
        profile: one row per cohort, one column per metric.
        lags: one row per cohort and earlier month.
        signals: one row per cohort and signal.
        charts, quarantine: for the report.
        data_docs: path of Great Expectations' page relative to the report's folder; None if not built.
        seconds: by stage: profile, judge, quarantine, ...
        declared: the changes declared for this period: `core.declared.DeclaredChange`, with `lifted`: the rules whose failures it
            excused, and `refused`: why it excuses nothing, or empty.
    """

    run_id: str
    billing_period: str
    source: str
    currency: str
    row_count: int
    control_total_minor: int
    files: Table
    as_of: str
    decision: Decision
    releasable: list[str]
    causes: list[Cause]
    findings: list[Finding]
    not_judged: list[NotJudged]
    rules: Table
    suite_digest: str
    history: list[HistoryUsed]
    profile: Table
    lags: Table
    signals: Table
    charts: Charts
    quarantine: Quarantine
    data_docs: str | None
    seconds: dict[str, float]
    declared: Table = field(default_factory=list)

    def to_json(self, report: str | None = None) -> dict[str, Any]:
        """What `verify --json` prints; `report` is the path of the page people read."""
        public = ("rule", "severity", "cohort", "observed", "expected", "explanation")
        return {
            "run_id": self.run_id,
            "decision": self.decision,
            "releasable": self.releasable,
            "causes": [asdict(cause) for cause in self.causes],
            "findings": [{name: getattr(finding, name) for name in public} for finding in self.findings],
            "not_judged": [asdict(item) for item in self.not_judged],
            "declared": self.declared,
            "report": report,
            "seconds": self.seconds,
        }

    def content(self) -> dict[str, Any]:
        """Everything, as `dataclasses.asdict` has it; only that its tables, some thousand rows, are not copied."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        content |= {name: [asdict(item) for item in content[name]] for name in _NESTED}
        return content | {name: asdict(content[name]) for name in ("charts", "quarantine")}

    def save(self, folder: Path) -> Path:
        """Write `<folder>/verification.json`, whole or not at all; returns its path."""
        path = folder / FILE_NAME
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content(), ensure_ascii=False, allow_nan=False), encoding="utf-8")
        partial.replace(path)
        return path

    @classmethod
    def load(cls, folder: Path) -> "Verification":
        """Read back what `save` wrote into `folder`.

        Raises:
            FileNotFoundError: nothing was saved there.
        """
        stored = {"declared": []} | json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        for name, kind in _NESTED.items():
            stored[name] = [kind(**item) for item in stored[name]]
        stored["charts"] = Charts(**stored["charts"])
        stored["quarantine"] = Quarantine(**stored["quarantine"])
        return cls(**{each.name: stored[each.name] for each in fields(cls)})


_NESTED = {"causes": Cause, "findings": Finding, "not_judged": NotJudged, "history": HistoryUsed}
"""What is a list of one of these."""

FILE_NAME = "verification.json"
"""Beside the report, so that the page can be built again from it."""
