"""All cases of a scorecard, in processes, going on where a stopped run was.

Belongs here: which sources are tried, who tries which case, and the file that keeps what was found. Does not: one case (`trial`), or
what the rows add up to (`tally`).
"""

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline.adapters.sources import open_source
from pipeline.errors import UsageError
from pipeline.extract import periods_available
from pipeline.generate import CATALOGUE
from pipeline.generate.bills import ISSUERS
from pipeline.generate.month import Month
from pipeline.judge import load_suites
from pipeline.ports import Progress
from pipeline.scorecard.bases import BASES_PER_HALF, Base, Half, bases
from pipeline.scorecard.cases import Case, Tried, clean, faults, halves_seed
from pipeline.scorecard.trial import CONTENDERS, GATE, Row, Trials
from pipeline.settings import PROJECT_ROOT

FAULTED_BASES = 3
"""Of a half's bases, so many get every fault; one for each share of flat bills."""

LAGS = (2, 1, 3)
"""How many months back earlier amounts are taken from: the incident's, then others."""

RESULTS_NAME = "results.jsonl"

PACKAGE = Path(__file__).resolve().parent.parent

MAKING = ("generate/*.py", "scorecard/bases.py", "scorecard/cases.py", "scorecard/baselines.py")
"""Code below `pipeline/` that settles what a case is and what baselines say of it."""

JUDGING = ("sql/*.sql", "core/*.py", "judge.py", "schema.py", "adapters/engine.py", "scorecard/trial.py")
"""What settles besides what the gate says of it; the suites have a digest of their own."""

QUICK_CUSTOMERS, QUICK_MONTHS, QUICK_SIZE = 3_000, 5, 0.01
QUICK_FAULTS = (
    "earlier_month", "earlier_file", "capped", "sent_twice", "new_customer_ids", "file_missing", "times_100", "over_10",
    "date_as_amount", "rows_shifted", "zeroed", "label_wrong",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What a scorecard is to be about.

    Attributes:
        half: whose seeds and settings.
        source: charge files to try instead of the sample and made-up months.
        only: faults; none named: all, and all right months too, not those of the last month alone.
        sizes: shares of customers instead of each fault's own.
        quick: a dozen faults on the sample and few clean months.
        right_months: right months alone, no fault.
        base_count: made-up sources.
        baselines: whether others are asked too.
    """

    half: Half = "tuning"
    source: Path | None = None
    only: tuple[str, ...] = ()
    sizes: tuple[float, ...] = ()
    quick: bool = False
    right_months: bool = False
    base_count: int = BASES_PER_HALF
    baselines: bool = True

    def __post_init__(self) -> None:
        if self.only and self.right_months:
            raise UsageError("some faults only, or right months only: not both")
        if unknown := [name for name in self.only if name not in CATALOGUE]:
            raise UsageError(f"no fault is called {unknown[0]!r}; makegood mischarge --list names all")
        if wrong := [size for size in self.sizes if not 0 < size <= 1]:
            raise UsageError(f"a size is a share of customers, more than 0 and at most 1; not {wrong[0]}")

    @property
    def contenders(self) -> tuple[str, ...]:
        return CONTENDERS if self.baselines else (GATE,)


def cases(asked: Asked, sample: Path) -> list[Case]:
    """Every case that is asked for, those of a source together."""
    only = asked.only or (QUICK_FAULTS if asked.quick else ())
    sizes = asked.sizes or ((QUICK_SIZE,) if asked.quick else ())
    found: list[Case] = []
    for source in _sources(asked, sample):
        if source.faulted and not asked.right_months:
            found += faults(source, only, sizes)
        # A hold proves something only where the right month is released.
        found += [case for case in clean(source) if not asked.only or case.period == source.periods[-1]]
    return found


def _sources(asked: Asked, sample: Path) -> Iterator[Tried]:
    if asked.source:
        yield _given(asked.source, "own", asked.half)
        return
    yield _given(sample, "sample", asked.half)
    if asked.quick:
        (one,) = bases(asked.half, 1)
        small = Base("small", one.seed, one.behaviour, one.first_period, customers=QUICK_CUSTOMERS, months=QUICK_MONTHS)
        yield made_up(small, faulted=False)
        return
    for place, base in enumerate(bases(asked.half, asked.base_count)):
        faulted = place < FAULTED_BASES
        if faulted or not asked.only:
            yield made_up(base, lag=LAGS[place % len(LAGS)], faulted=faulted)


def made_up(base: Base, *, lag: int = LAGS[0], faulted: bool = True) -> Tried:
    """A base as a source to try."""
    periods = tuple(base.first_period.plus(month) for month in range(base.months))
    smallest = min(ISSUERS, key=ISSUERS.__getitem__)
    return Tried(base.name, "generated", None, base, periods, smallest, base.seed, lag, faulted)


def _given(folder: Path, kind: str, half: Half) -> Tried:
    """Charge files that are there; results are about the months it holds, so its name says which."""
    periods = tuple(periods_available(open_source(folder)))
    if len(periods) < 2:
        raise UsageError(f"{folder} has {len(periods)} months; the scorecard needs one and a month before it")
    issuers = pc.value_counts(Month.read(folder, periods[-1]).charges["issuer"]).to_pylist()
    smallest = min(issuers, key=lambda issuer: (issuer["counts"], issuer["values"]))["values"]
    name = kind if kind == "sample" else f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    return Tried(f"{name}-{half}", kind, folder, None, periods, smallest, halves_seed(half))


def run_scorecard(
    asked: Asked,
    *,
    home: Path,
    sample: Path,
    suites: Path,
    processes: int,
    fresh: bool = False,
    so_far: bool = False,
    progress: Progress,
) -> list[Row]:
    """Try every case that was not tried before with this very code; rows in the order of the cases.

    Args:
        home: bases, landed months and results are kept there.
        suites: folder of the suites judged by.
        fresh: forget what was found before.
        so_far: try nothing; only what this very code has found already.

    Raises:
        UsageError: what is asked for makes no sense.
    """
    home.mkdir(parents=True, exist_ok=True)
    store = Store(home / RESULTS_NAME, suites)
    if fresh:
        store.path.unlink(missing_ok=True)
    wanted = cases(asked, sample)
    known = store.known()
    if so_far:
        keys = (store.key(case, name) for case in wanted for name in asked.contenders)
        return [known[key] for key in keys if key in known]
    open_ = {}
    for case in wanted:
        missing = tuple(name for name in asked.contenders if store.key(case, name) not in known)
        if missing:
            open_[case] = missing
    progress("scorecard", len(wanted) - len(open_), len(wanted))
    for done, (case, rows) in enumerate(_tried(open_, home, suites, processes), start=len(wanted) - len(open_) + 1):
        known |= store.keep(case, rows)
        progress("scorecard", done, len(wanted))
    return [known[store.key(case, name)] for case in wanted for name in asked.contenders]


def _tried(
    open_: dict[Case, tuple[str, ...]], home: Path, suites: Path, processes: int
) -> Iterator[tuple[Case, list[Row]]]:
    if processes == 1 or len(open_) < 2:
        _begin(home, suites)
        for case, contenders in open_.items():
            yield case, _try(case, contenders)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy DuckDB's and Arrow's threads half
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(home, suites)) as pool:
        try:
            # A source is made and landed by one process before others judge its months.
            for future in as_completed(
                [pool.submit(_prepare, source) for source in dict.fromkeys(c.source for c in open_)]
            ):
                future.result()
            futures = {pool.submit(_try, case, contenders): case for case, contenders in open_.items()}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_trials: Trials
"""A process's own: what it has imported and landed is used for all its cases."""


def _begin(home: Path, suites: Path) -> None:
    global _trials
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _trials = Trials(home, load_suites(suites))


def _end_with(parent: Any) -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent.join()
    os._exit(1)


def _prepare(source: Tried) -> None:
    _trials.landed(source)


def _try(case: Case, contenders: Sequence[str]) -> list[Row]:
    return _trials.row(case, contenders)


class Store:
    """What was found, a line of JSON each: a stopped run goes on, and other code tries again.

    Args:
        path: the file; only ever appended to.
        suites: the folder judged by.
    """

    def __init__(self, path: Path, suites: Path) -> None:
        self.path = path
        making = _digest([*_files(PACKAGE, MAKING), PROJECT_ROOT / "expectations" / "plain_suite.py"])
        judging = _digest([*_files(PACKAGE, JUDGING), PROJECT_ROOT / "expectations" / "cohort_metric.py"])
        self._digests = {GATE: making + judging + load_suites(suites).digest[:8]}
        self._making = making

    def key(self, case: Case, contender: str) -> str:
        """Names a row: who says what of which case, by which code."""
        return f"{self._digests.get(contender, self._making)}/{contender}/{case.key}"

    def known(self) -> dict[str, Row]:
        """Every row that was kept, by key."""
        if not self.path.exists():
            return {}
        found = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                kept = json.loads(line)
                found[kept["key"]] = Row(**kept["row"])
            except (ValueError, KeyError, TypeError):
                continue  # a line cut off when a run was stopped, or of other code
        return found

    def keep(self, case: Case, rows: Iterable[Row]) -> dict[str, Row]:
        """Append the rows; returns them by key."""
        kept = {self.key(case, row.contender): row for row in rows}
        with self.path.open("a", encoding="utf-8") as file:
            for key, row in kept.items():
                file.write(json.dumps({"key": key, "row": row.to_json()}, ensure_ascii=False) + "\n")
        return kept


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def _digest(paths: Iterable[Path]) -> str:
    content = hashlib.sha256()
    for path in paths:
        content.update(path.name.encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:8]
