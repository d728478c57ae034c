"""Nothing changes until a person applies a proposal; then the gate judges by the months that were right, and says so."""

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.adapters.engine import DuckDBEngine
from pipeline.adapters.lake import ParquetLake
from pipeline.adapters.sources import open_source
from pipeline.bootstrap import Makegood
from pipeline.calibrate import AcceptedMonth, install, propose, require_fitting, write
from pipeline.core.billing_period import BillingPeriod
from pipeline.core.calibration import Learned
from pipeline.core.verdict import Verification
from pipeline.errors import UsageError
from pipeline.extract import extract, periods_available
from pipeline.generate import generate
from pipeline.judge import load_suites, read_learned
from pipeline.ports import HistoryPeriod, LandedRun
from pipeline.settings import Settings
from pipeline.verify import verify
from tests.landed_runs import SUITES

NOW = dt.datetime(2023, 3, 2, tzinfo=dt.UTC)
LEARNED_MONTHS = 13


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A year of clean months to learn from, and two more."""
    out = tmp_path_factory.mktemp("charges") / "source"
    generate(out, customers=3000, first_period=BillingPeriod(2022, 1), months=LEARNED_MONTHS + 2, seed=41)
    return out


@pytest.fixture(scope="module")
def runs(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[LandedRun]:
    lake = ParquetLake(tmp_path_factory.mktemp("lake"))
    return [extract(open_source(source), period, lake=lake).run for period in periods_available(open_source(source))]


@pytest.fixture(scope="module")
def proposal(runs: list[LandedRun]) -> Learned:
    months = [AcceptedMonth(run, "released") for run in runs[:LEARNED_MONTHS]]
    return propose(months, engine=DuckDBEngine(), suites=load_suites(SUITES), made_at=NOW)


def judged(runs: list[LandedRun], place: int, learned: Path, folder: Path) -> Verification:
    history = [HistoryPeriod(run.billing_period, run.run_id, run.path, "released") for run in runs[:place]]
    suites = load_suites(SUITES, learned)
    return verify(runs[place], history, engine=DuckDBEngine(), suites=suites, report_dir=folder, as_of=NOW)


def test_clean_months_stay_released_by_what_was_learned_and_the_report_shows_the_bounds(runs, proposal, tmp_path):
    target = install(proposal, tmp_path / "learned.json", by="jiwoo", at=NOW)
    learned = [judged(runs, place, target, tmp_path / str(place)) for place in (LEARNED_MONTHS, LEARNED_MONTHS + 1)]
    assert [each.decision for each in learned] == ["release"] * 2
    drift = next(rule for rule in learned[0].rules if rule["rule"] == "total_drift")
    assert "cohorts as learned from past months" in drift["expected"]
    # The gate takes a signal's normal share from what was learned, no more from the two latest months.
    joined = next(row for row in learned[0].signals if (row["cohort_kind"], row["signal"]) == ("run", "joined"))
    taught = next(b for b in proposal.bounds if (b.subject, b.name, b.cohort) == ("signal", "joined", "run"))
    assert joined["normal_share"] == taught.high


def test_the_months_measured_are_those_named_and_the_left_out_are_not(runs, proposal):
    months = [AcceptedMonth(run, "released") for run in runs[:5]]
    found = propose(
        months, engine=DuckDBEngine(), suites=load_suites(SUITES), made_at=NOW, left_out={runs[2].billing_period}
    )
    named = [month["billing_period"] for month in found.provenance["months"]]
    assert named == [run.billing_period for run in (*runs[:2], *runs[3:5])]
    assert found.bounds == () and all("months, of at least" in row["reason"] for row in found.not_learned)
    assert {bound.months for bound in proposal.bounds if bound.subject == "rule"} == {
        LEARNED_MONTHS - 1,
        LEARNED_MONTHS - 2,
    }


def test_one_month_alone_teaches_nothing(runs):
    with pytest.raises(UsageError, match="at least two are needed"):
        propose([AcceptedMonth(runs[0], "released")], engine=DuckDBEngine(), suites=load_suites(SUITES), made_at=NOW)


def test_a_proposal_is_refused_once_the_suites_have_changed(proposal, tmp_path):
    file = write(proposal, tmp_path / "proposal.json")
    assert require_fitting(file, load_suites(SUITES)) == proposal
    shutil.copytree(SUITES, tmp_path / "suites")
    path = tmp_path / "suites" / "charges.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"rank": 2', '"rank": 3'), encoding="utf-8")
    with pytest.raises(UsageError, match="made for other suites"):
        require_fitting(file, load_suites(tmp_path / "suites"))


def test_a_damaged_proposal_is_refused(proposal, tmp_path):
    file = write(proposal, tmp_path / "proposal.json")
    whole = file.read_text(encoding="utf-8")
    for damaged in (whole[: len(whole) // 2], whole.replace('"high": 0.0', '"high": 0.9', 1)):
        assert damaged != whole
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(UsageError, match="no learned bounds"):
            require_fitting(file, load_suites(SUITES))


@pytest.fixture
def app(settings: Settings) -> Iterator[Makegood]:
    return Makegood(replace(settings, login="operator"), as_of=NOW)


def test_nothing_changes_until_a_person_applies_the_proposal(app, source, tmp_path):
    for folder in sorted(source.glob("billing_period=*"))[:8]:
        shutil.copytree(folder, tmp_path / "source" / folder.name)
    before = load_suites(app.settings.suites, app.settings.learned)
    made = app.calibrate(str(tmp_path / "source"), out=tmp_path / "proposal.json")
    assert made["bounds"] and {month["standing"] for month in made["provenance"]["months"]} == {"unverified"}
    assert load_suites(app.settings.suites, app.settings.learned) == before
    with pytest.raises(UsageError, match="who does it"):
        Makegood(replace(app.settings, login=None), as_of=NOW).apply_calibration(tmp_path / "proposal.json")
    with pytest.raises(UsageError, match=r"no password|refused"):
        Makegood(replace(app.settings, login="nobody"), as_of=NOW).apply_calibration(tmp_path / "proposal.json")
    assert not app.settings.learned.exists()
    applied = app.apply_calibration(tmp_path / "proposal.json")
    after = load_suites(app.settings.suites, app.settings.learned)
    assert applied["applied"] == {"by": "operator", "at": NOW.isoformat()}
    assert after.digest == applied["suite_digest"] != before.digest
    assert json.loads(app.settings.learned.read_text(encoding="utf-8"))["provenance"]["suites"] == before.digest
    with pytest.raises(UsageError, match="in force already, applied by operator"):
        app.apply_calibration(tmp_path / "proposal.json")


@pytest.mark.parametrize(("said", "left_out"), [("accept", ["2022-02"]), ("reject", [])])
def test_a_month_with_a_real_fault_teaches_nothing_and_one_with_a_false_alarm_does(
    app, source, tmp_path, said, left_out
):
    for folder in sorted(source.glob("billing_period=*"))[:3]:
        shutil.copytree(folder, tmp_path / "source" / folder.name)
    run_id = app.extract(str(tmp_path / "source"), BillingPeriod(2022, 2)).run.run_id
    finding = {"rule": "joined", "cohort": "run", "severity": "critical"}
    app.register.record_verification(
        run_id, suite_digest=said, history_digest="none", decision="release", findings=[finding], not_judged=[], report="r"
    )  # fmt: skip
    app.finding_decisions.decide(
        run_id, kind=said, rule="joined", cohort="run", reason="looked at it", login="operator", password=None
    )
    assert app.calibrate(str(tmp_path / "source"))["provenance"]["left_out"] == left_out


@pytest.fixture
def in_force(app, source, tmp_path) -> Iterator[Path]:
    """A proposal that a person has put in force; nothing is in force afterwards."""
    for folder in sorted(source.glob("billing_period=*"))[:8]:
        shutil.copytree(folder, tmp_path / "source" / folder.name)
    app.remove_calibration()
    app.calibrate(str(tmp_path / "source"), out=tmp_path / "proposal.json")
    app.apply_calibration(tmp_path / "proposal.json")
    yield tmp_path / "proposal.json"
    app.remove_calibration()


def edited(learned: Path) -> None:
    """Widen every bound by hand, with the digest that this content has."""
    found = read_learned(learned)
    write(replace(found, bounds=tuple(replace(bound, high=9.0) for bound in found.bounds)), learned)


def test_learned_bounds_edited_by_hand_judge_nothing_until_a_person_applies_bounds_again(app, in_force):
    before = app.suites().digest
    edited(app.settings.learned)
    for judging in (app.suites, lambda: app.calibrate(None)):
        with pytest.raises(UsageError, match=r"that nobody put in force.*calibrate --apply"):
            judging()
    app.apply_calibration(in_force)
    assert load_suites(app.settings.suites, app.settings.learned).learned.bounds == read_learned(in_force).bounds
    assert app.suites().digest == before
    with app.server.connect() as connection:
        said = connection.execute(
            "SELECT person, digest FROM learned_bounds ORDER BY bounds_id DESC LIMIT 1"
        ).fetchone()
    assert said == ("operator", read_learned(in_force).digest)


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_bounds_in_force_that_are_gone_are_missed_and_a_person_can_go_on_without(app, in_force, how):
    app.settings.learned.unlink() if how == "deleted" else app.settings.learned.write_text("{")
    with pytest.raises(UsageError, match=r"is gone, and the bounds|no learned bounds"):
        app.suites()
    with pytest.raises(UsageError, match="who does it"):
        Makegood(replace(app.settings, login=None), as_of=NOW).remove_calibration()
    app.remove_calibration()
    assert app.suites() == load_suites(app.settings.suites)


def test_bounds_applied_before_anybody_recorded_it_are_put_in_force_as_they_lie_there(app, in_force):
    lying_there = app.settings.learned.read_bytes()
    app.remove_calibration()
    app.settings.learned.write_bytes(lying_there)  # as a home of an earlier version has it
    with pytest.raises(UsageError, match=r"that nobody put in force.*the file itself"):
        app.suites()
    app.apply_calibration(app.settings.learned)
    assert app.suites().learned.bounds
