"""Judge: a profile in, a verdict out - by the suites, through Great Expectations.

Belongs here: reading the suites, asking Great Expectations, and the rule that nothing passes unmeasured.
Does not: thresholds (`expectations/suites`), measuring (`sql/`), wording (`core.findings`). This is the only
importer of Great Expectations and of `expectations`, and imports the former inside functions: it takes seconds.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import expectations
from pipeline import limits
from pipeline.bounded_file import read_json
from pipeline.core.billing_period import BillingPeriod
from pipeline.core.calibration import Learned
from pipeline.core.declared import KINDS, PRICES, DeclaredChange, is_within, left_out, lifting
from pipeline.core.diagnosis import causes
from pipeline.core.findings import SEVERITIES, expected_text, findings, told
from pipeline.core.rule import Failure, Rule, cohort_name
from pipeline.core.verdict import WHOLE_RUN, Cause, Decision, Finding, NotJudged, Table
from pipeline.errors import UnreadableInput, UsageError

MEASURING = (
    "tax_basis_points", "moved_percent", "comparable_minimum", "normal_share_ceiling", "amount_limit_minor", "signals", "prior_weight",
    "repeat_slack", "normal_share_default", "normal_share_least", "repeat_prior_weight", "event_share",
)  # fmt: skip
"""What the suites must fix before anything can be measured."""

TABLES = ("profile", "lags", "signals")
"""What suites may be about."""

RULE_KEYS = {"rule", "rank", "severity", "type", "kwargs", "description", "says", "unit", "confidence"}

OPTIONAL_KEYS = {"shows", "blocks", "lifted_by"}

BLOCKS = ("cohort", "all")
"""What a critical failure keeps back: the issuers that have it, or every charge."""

UNITS = ("count", "share", "change", "points", "excess", "nats")

OUTDATED = "its threshold was changed after bounds were learned for it, so they are not used; `makegood calibrate` learns them anew"

COUNTED = {
    "row_count": "charges",
    "positive_count": "positive bills",
    "previous_row_count": "charges last month",
    "previous_positive_count": "positive bills last month",
    "compared_count": "customers billed in both months",
    "previous_compared_count": "customers billed in both months before",
    "account_count": "customers",
    "comparable": "comparable bills",
    "base": "bills to look at",
    "has_normal": "months that say what is normal",
    "components_count": "charges with all components",
    "manifest_file_count": "files that a manifest names",
}
"""What the columns that rules are judged by count, as "not judged" says it."""


TableWithout = Callable[[str, Sequence[str]], Table]
"""Given one of `TABLES`, or `factors`, and cohorts (`plan:LTE-49`): that table, measured without the charges of these cohorts."""


@dataclass(frozen=True, slots=True)
class Suites:
    """All suites of a folder.

    Attributes:
        measuring: parameters of the measurement, by name (`MEASURING`).
        rules: in the order of the files.
        digest: SHA-256 over the canonical JSON of all suites, what was learned, and the versions of the rule classes.
        learned: bounds learned from past months, which `of_period` puts in force; or None.
    """

    measuring: dict[str, Any]
    rules: tuple[Rule, ...]
    digest: str
    learned: Learned | None = None

    def of_period(self, billing_period: str) -> "Suites":
        """These suites with the bounds that were learned for the period's calendar month."""
        if self.learned is None:
            return self
        month = BillingPeriod.parse(billing_period).month
        ranges = {rule.name: self.learned.ranges(rule.name, month) for rule in self.rules if not self.is_outdated(rule)}
        rules = (
            replace(rule, kwargs=rule.kwargs | {"learned": ranges[rule.name]}) if ranges.get(rule.name) else rule
            for rule in self.rules
        )
        return replace(self, measuring=self.measuring | {"learned": self.learned.shares(month)}, rules=tuple(rules))

    def is_outdated(self, rule: Rule) -> bool:
        """Whether the rule's bounds are others than when some were learned for it: then what the analyst wrote counts."""
        known = self.learned.defaults.get(rule.name) if self.learned else None
        return known is not None and known != (rule.kwargs.get("min_value"), rule.kwargs.get("max_value"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the suites say of one profile.

    Attributes:
        decision: `hold` if anything critical failed, could not be measured, or went wrong.
        failures: every failure of every cohort, unfolded.
        causes, findings, not_judged, rules, declared: as in `core.verdict.Verification`.
    """

    decision: Decision
    failures: tuple[Failure, ...]
    causes: list[Cause]
    findings: list[Finding]
    not_judged: list[NotJudged]
    rules: Table
    declared: Table
    _context: Any = field(repr=False, compare=False)

    @property
    def failing_issuers(self) -> list[str]:
        """Issuers with a critical failure of their own."""
        return sorted(
            {f.row["cohort"] for f in self.failures if f.cohort_kind == "issuer" and f.rule.severity == "critical"}
        )

    @property
    def blocks_all(self) -> bool:
        """Whether something critical failed that keeps back every charge, wherever it lies, because its suite says so."""
        return any(f.rule.severity == "critical" and f.rule.blocks == "all" for f in self.failures)

    @property
    def whole_run_only(self) -> bool:
        """Whether something critical failed that no issuer can be blamed for: a rule that is asked of the whole run alone."""
        return any(
            f.rule.severity == "critical" and (f.kind != "failed" or f.rule.kwargs.get("cohorts") == [WHOLE_RUN])
            for f in self.failures
            if f.cohort_kind == WHOLE_RUN
        )


def load_suites(folder: Path, learned_file: Path | None = None) -> Suites:
    """Read every `*.json` below `folder`, and what was learned from past months if `learned_file` is there.

    Raises:
        UsageError: a file, a rule or a parameter is not as it must be; the message names it.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UsageError(f"{folder} has no suite (*.json): nothing would be judged")
    contents = {path.name: _read_suite(path) for path in files}
    measuring: dict[str, Any] = {}
    rules: list[Rule] = []
    for name, content in contents.items():
        measuring |= content.get("measuring", {})
        for entry in content["rules"]:
            rule = _rule(entry, name, content["table"], content.get("blocks", "cohort"))
            if any(rule.name == other.name for other in rules):
                raise UsageError(f"suite {name}, rule {rule.name}: another rule has this name; rename one")
            rules.append(rule)
    if missing := [parameter for parameter in MEASURING if parameter not in measuring]:
        raise UsageError(f'no suite in {folder} sets {", ".join(missing)} under "measuring"')
    if "other" not in measuring["amount_limit_minor"]:
        raise UsageError(f'the suites in {folder} set amount_limit_minor without "other", for currencies not named')
    content = {"suites": contents, "rule_classes": expectations.RULE_CLASS_VERSIONS}
    learned = None
    if learned_file is not None and learned_file.exists():
        learned = read_learned(learned_file)
        content["learned"] = learned.to_json()
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return Suites(measuring, tuple(rules), hashlib.sha256(canonical.encode()).hexdigest(), learned)


def read_learned(path: Path) -> Learned:
    """Read a proposal of learned bounds, or those in force.

    Raises:
        UsageError: it cannot be read, or is not as `makegood calibrate` wrote it.
    """
    try:
        return Learned.from_json(read_json(path, at_most=limits.JSON_BYTES))
    except (OSError, ValueError, RecursionError, UnreadableInput) as error:
        raise UsageError(
            f"{path}: no learned bounds: {error}; `makegood calibrate --out FILE` makes them anew"
        ) from None


def judge(
    profile: Table,
    lags: Table,
    signals: Table,
    factors: Callable[[], Table],
    suites: Suites,
    *,
    billing_period: str,
    history: Sequence[str],
    currency: str,
    declared: Sequence[DeclaredChange] = (),
    without: TableWithout | None = None,
) -> Verdict:
    """Judge a profile and its lags.

    A rule that a declared change lifts is asked of the declared cohort, where its failure is a note, and of all others as
    they are without that cohort: so the change hides nothing beside it. A price change that is not the declared one excuses nothing.

    Args:
        factors: what odd bills are of the bills before them; only asked for where something failed or was declared.
        history: the earlier periods that the run was compared with; empty on the first run ever.
        declared: approved changes; those for another period do nothing.
        without: measures again; needed where a change is declared for part of the run.

    Raises:
        UsageError: a rule's expectation does not exist or does not take its arguments.
    """
    covering = [change for change in declared if change.covers(billing_period)]
    refused = [_contradiction(change, profile, factors, without) for change in covering]
    changes = [change for change, why in zip(covering, refused, strict=True) if not why]
    failures = _incomplete(profile, lags, history)
    not_judged = [NotJudged(rule.name, WHOLE_RUN, OUTDATED) for rule in suites.rules if suites.is_outdated(rule)]
    summary: dict[str, dict[str, Any]] = {}
    seen = {row["signal"]: row for row in signals if row["cohort_kind"] == WHOLE_RUN}
    context = _Judging(suites.rules)
    for name, whole in (("profile", profile), ("lags", lags), ("signals", signals)):
        rules = [rule for rule in suites.rules if rule.table == name]
        if name != "profile" and not history:
            not_judged += [NotJudged(rule.name, WHOLE_RUN, "no earlier month to compare with") for rule in rules]
            summary |= {rule.name: _summary(rule, 0, 0, 1) for rule in rules}
            continue
        for cohorts, group in _by_left_out(rules, changes).items():
            table = whole if not cohorts or without is None else _beside(cohorts, whole, without(name, cohorts))
            for rule, result in context.ask(name, group, table):
                failed, left, judged = _read(rule, result, table, history)
                failures += [_as_declared(failure, changes) for failure in failed]
                not_judged += left
                summary[rule.name] = _summary(rule, judged, len(failed), len(left))
                seen |= {row["signal"]: row for row in table if _is_evidence(row, rule)}
    said = partial(told, billing_period=billing_period, currency=currency)
    held = any(failure.rule.severity == "critical" for failure in failures)
    return Verdict(
        "hold" if held else "release",
        tuple(failures),
        causes(failures, said, list(seen.values()), factors() if failures else [], lags),
        findings(failures, billing_period=billing_period, currency=currency),
        not_judged,
        [summary[rule.name] for name in TABLES for rule in suites.rules if rule.table == name],
        [_applied(change, why, failures) for change, why in zip(covering, refused, strict=True)],
        context,
    )


def build_data_docs(verdict: Verdict, folder: Path) -> Path:
    """Write Great Expectations' own pages on `verdict` below `folder`, replacing what is there; returns the first page.

    They show rules, thresholds and cohorts, never a customer: the profile holds none. They need a network to look right.
    """
    return verdict._context.build_data_docs(folder)


def load_great_expectations() -> None:
    """Import what judging needs: seconds, once per process. Judging does it by itself; this is to know how long it took."""
    import expectations.cohort_metric  # noqa: F401  registers the rule class


class _Judging:
    """One Great Expectations context, in memory, for one profile."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        import great_expectations as gx
        import pandas as pd
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        load_great_expectations()
        self._gx, self._pandas = gx, pd
        # Its default would leave a temporary folder behind for every run judged.
        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
        )
        self._context = gx.get_context(mode="ephemeral", project_config=config)
        self._source = self._context.data_sources.add_pandas("run")
        self._expectations = {rule.name: _expectation(rule) for rule in rules}
        self._asked: Counter[str] = Counter()

    def ask(self, name: str, rules: Sequence[Rule], table: Table) -> list[tuple[Rule, Any]]:
        """Each rule with Great Expectations' result on `table`."""
        if not rules:
            return []
        self._asked[name] += 1
        name = name if self._asked[name] == 1 else f"{name}-{self._asked[name]}"
        # Object columns keep whole numbers whole and NULL None; pandas would make floats and NaN of them.
        columns = list(table[0]) if table else ["cohort_kind", "cohort"]
        frame = self._pandas.DataFrame(
            [[row[column] for column in columns] for row in table], columns=columns, dtype=object
        )
        batch = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        suite = self._context.suites.add(
            self._gx.ExpectationSuite(name, expectations=[self._expectations[rule.name] for rule in rules])
        )
        definition = self._gx.ValidationDefinition(name=name, data=batch, suite=suite)
        definition = self._context.validation_definitions.add(definition)
        outcome = definition.run(
            batch_parameters={"dataframe": frame},
            result_format={"result_format": "BASIC", "exclude_unexpected_values": True},
        )
        results = {result.expectation_config.meta["rule"]: result for result in outcome.results}
        return [(rule, results.get(rule.name)) for rule in rules]

    def build_data_docs(self, folder: Path) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        site = {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
        self._context.add_data_docs_site("profile", site)
        self._context.build_data_docs(site_names=["profile"])
        return folder / "index.html"


def _read_suite(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"suite {path.name} is no JSON: {error}") from None
    if not isinstance(content, dict) or content.get("table") not in TABLES:
        raise UsageError(f'suite {path.name}: "table" must be one of {", ".join(TABLES)}')
    if not isinstance(content.get("rules"), list):
        raise UsageError(f'suite {path.name}: "rules" must be a list')
    if content.get("blocks", "cohort") not in BLOCKS:
        raise UsageError(f'suite {path.name}: "blocks" is one of {", ".join(BLOCKS)}; not {content["blocks"]!r}')
    if not isinstance(content.get("measuring", {}), dict):
        raise UsageError(f'suite {path.name}: "measuring" must be an object')
    return content


def _rule(entry: Any, suite: str, table: str, blocks: str) -> Rule:
    name = entry.get("rule") if isinstance(entry, dict) else entry
    where = f"suite {suite}, rule {name}"
    if not isinstance(entry, dict) or set(entry) - OPTIONAL_KEYS != RULE_KEYS:
        odd = sorted(set(entry) - OPTIONAL_KEYS ^ RULE_KEYS) if isinstance(entry, dict) else entry
        raise UsageError(f"{where}: a rule has exactly {', '.join(sorted(RULE_KEYS))}; look at {odd}")
    if entry["severity"] not in SEVERITIES:
        raise UsageError(f"{where}: severity is one of {', '.join(SEVERITIES)}; not {entry['severity']!r}")
    if entry["unit"] not in UNITS:
        raise UsageError(f"{where}: unit is one of {', '.join(UNITS)}; not {entry['unit']!r}")
    if entry.get("blocks", blocks) not in BLOCKS:
        raise UsageError(f"{where}: blocks is one of {', '.join(BLOCKS)}; not {entry['blocks']!r}")
    lifted_by = entry.get("lifted_by", [])
    if not isinstance(lifted_by, list) or not set(lifted_by) <= set(KINDS):
        raise UsageError(f"{where}: lifted_by lists kinds of declared changes, {', '.join(KINDS)}; not {lifted_by!r}")
    kwargs = entry["kwargs"]
    if not isinstance(kwargs, dict) or not isinstance(entry["rank"], int):
        raise UsageError(f"{where}: kwargs must be an object and rank a whole number")
    if entry["type"] in expectations.RULE_CLASS_VERSIONS:
        bounds = [kwargs[bound] for bound in ("min_value", "max_value") if kwargs.get(bound) is not None]
        if not bounds or any(isinstance(b, bool) or not isinstance(b, (int, float)) for b in bounds):
            raise UsageError(f"{where}: min_value or max_value must be a number: a rule without a bound can never fail")
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise UsageError(f"{where}: min_value {bounds[0]} is above max_value {bounds[1]}")
    texts = {key: entry[key] for key in ("severity", "type", "description", "says", "unit", "confidence")}
    return Rule(
        name=name, suite=suite, table=table, rank=entry["rank"], kwargs=kwargs, shows=entry.get("shows"),
        blocks=entry.get("blocks", blocks), lifted_by=tuple(lifted_by), **texts,
    )  # fmt: skip


def _expectation(rule: Rule) -> Any:
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        implementation = get_expectation_impl(rule.type)
        # Unknown arguments would be ignored, and a threshold misspelt is a threshold gone.
        if unknown := set(rule.kwargs) - set(implementation.__fields__):
            raise ValueError(f"{rule.type} takes no {', '.join(sorted(unknown))}")
        return implementation(
            **rule.kwargs, severity=rule.severity, description=rule.description, meta={"rule": rule.name}
        )
    except (ExpectationNotFoundError, ValueError, TypeError) as error:
        raise UsageError(f"suite {rule.suite}, rule {rule.name}: {error}") from error


def _incomplete(profile: Table, lags: Table, history: Sequence[str]) -> list[Failure]:
    """What must be in the tables before any rule can be believed."""
    runs = sum(row["cohort_kind"] == WHOLE_RUN for row in profile)
    compared = {row["compared_with"] for row in lags if row["cohort_kind"] == WHOLE_RUN}
    problems = []
    if runs != 1:
        problems.append(f"the profile has {runs} rows for the whole run where one is due")
    if missing := sorted(set(history) - compared):
        problems.append(f"the run was not compared with {', '.join(missing)}")
    return [Failure(PROFILE_COMPLETE, "unmeasured", {}, {}, problem) for problem in problems]


def _by_left_out(rules: Iterable[Rule], changes: Sequence[DeclaredChange]) -> dict[tuple[str, ...], list[Rule]]:
    """Rules by the cohorts that they are judged without."""
    groups: dict[tuple[str, ...], list[Rule]] = {}
    for rule in rules:
        groups.setdefault(left_out(lifting(rule, changes)), []).append(rule)
    return groups


def _beside(cohorts: Sequence[str], whole: Table, rest: Table) -> Table:
    """The declared cohorts and their parts as they are in the whole run, everything else as it is without them."""

    def is_declared(row: dict[str, Any]) -> bool:
        return any(is_within(cohort, row["cohort_kind"], row["cohort"]) for cohort in cohorts)

    return [row for row in rest if not is_declared(row)] + [row for row in whole if is_declared(row)]


def _as_declared(failure: Failure, changes: Sequence[DeclaredChange]) -> Failure:
    """A failure that a declared change excuses is a note."""
    for change in changes:
        if change.excuses(failure):
            return replace(failure, rule=replace(failure.rule, severity="info"), declared=change.told)
    return failure


def _contradiction(
    change: DeclaredChange, profile: Table, factors: Callable[[], Table], without: TableWithout | None
) -> str:
    """Why what was measured is not what was declared; empty where it may be."""
    if change.kind == PRICES and change.cohort != WHOLE_RUN:
        kind = change.cohort.partition(":")[0]
        others = {cohort_name(row) for row in profile if row["cohort_kind"] == kind} - {change.cohort}
        table = without("factors", sorted(others)) if without is not None else []
    else:
        table = factors()
    return change.contradicted_by(next((row for row in table if row["kind"] == "base_changed"), None))


def _applied(change: DeclaredChange, refused: str, failures: Sequence[Failure]) -> dict[str, Any]:
    lifted = sorted({failure.rule.name for failure in failures if failure.declared == change.told})
    return asdict(change) | {"lifted": lifted, "refused": refused}


def _is_evidence(row: dict[str, Any], rule: Rule) -> bool:
    return row["cohort_kind"] == WHOLE_RUN and "signal" in row and row["signal"] == rule.kwargs.get("signal")


def _read(rule: Rule, result: Any, table: Table, history: Sequence[str]) -> tuple[list[Failure], list[NotJudged], int]:
    """The failures, what was not judged, and the number of cohorts judged."""
    problem = _error(result)
    if problem:
        held = Failure(_as_critical(rule), "errored", {}, {}, f"could not be judged: {problem}")
        return [held], [], 0
    details = result.result.get("details")
    if not isinstance(details, dict) or "judged" not in details:
        # An expectation of Great Expectations' own, about the table as a whole.
        observed = str(result.result.get("observed_value", "failed"))
        return ([] if result.success else [Failure(rule, "failed", {}, {}, observed)]), [], 1
    by_kind: dict[Any, Counter] = {}
    for position in details["judged"]:
        by_kind.setdefault(table[position].get("lag"), Counter())[table[position]["cohort_kind"]] += 1

    def failure(kind: str, position: int, problem: str = "") -> Failure:
        row = table[position]
        judged = dict(by_kind.get(row.get("lag"), {}))
        return Failure(rule.asked_of(row) if kind == "failed" else _as_critical(rule), kind, row, judged, problem)

    failures = [failure("failed", position) for position in details["failed"]]
    failures += [failure("unmeasured", position, f"{column} is NULL") for position, column in details["unmeasured"]]
    if not result.success and not failures:
        failures = [Failure(_as_critical(rule), "unmeasured", {}, {}, f"no cohort of kind {rule.kwargs['cohorts']}")]
    return failures, _too_small(rule, details["too_small"], table, history), len(details["judged"])


def _error(result: Any) -> str | None:
    if result is None:
        return "Great Expectations returned no result for it"
    info = result.exception_info or {}
    errors = [info] if "raised_exception" in info else list(info.values())
    messages = [str(error.get("exception_message")) for error in errors if error.get("raised_exception")]
    return messages[0] if messages else None


def _too_small(rule: Rule, entries: list, table: Table, history: Sequence[str]) -> list[NotJudged]:
    """One entry per cohort, and only the whole run's where that was too small already."""
    months: dict[str, int] = Counter(cohort_name(table[entry[0]]) for entry in entries)
    found: dict[str, NotJudged] = {}
    for position, column, count, least in entries:
        row = table[position]
        cohort = cohort_name(row)
        if cohort in found:
            continue
        what = COUNTED.get(column, column)
        if not history and column.startswith("previous_"):
            reason = "no earlier month to compare with"
        else:
            reason = f"{count:,} {what}, of at least {least:,} needed"
        if "compared_with" in row:
            reason += f", against {row['compared_with']}"
            reason += f" and {months[cohort] - 1} more" if months[cohort] > 1 else ""
        if column == "comparable" and len(history) == 1:
            reason += "; one earlier month cannot tell a repeat from a flat tariff"
        found[cohort] = NotJudged(rule.name, cohort, reason)
    if WHOLE_RUN in found and months[WHOLE_RUN] == max(months.values()):
        return [found[WHOLE_RUN]]
    return list(found.values())


def _summary(rule: Rule, judged: int, failed: int, not_judged: int) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "severity": rule.severity,
        "description": rule.description,
        "expected": expected_text(rule),
        "judged": judged,
        "failed": failed,
        "not_judged": not_judged,
    }


def _as_critical(rule: Rule) -> Rule:
    """What could not be measured holds, however mild the rule would have been."""
    return replace(rule, severity="critical", rank=0)


PROFILE_COMPLETE = Rule(
    name="profile_complete",
    suite="judge",
    table="profile",
    rank=0,
    severity="critical",
    type="",
    kwargs={},
    description="everything measured",
    says="",
    unit="count",
    confidence="certain",
)
"""Asked before any suite: no suite can be trusted to notice what it was not given."""
