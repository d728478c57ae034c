"""What was verified is what is charged: the files of an installation are edited, and nothing moves by them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from edited_lake import EDITS, edit
from incident_story import CHARGED_AT, PLANNED_AT, SEPTEMBER, Story, pass_gate, tell

from pipeline.adapters.plan_file import write_plan
from pipeline.bootstrap import Makegood
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import FatalError, GateClosed
from pipeline.generate import generate

SHOWS_OR_MOVES_A_RUN = ("release", "prepare_release", "preview_release")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "charges"
    generate(folder, customers=200, first_period=BillingPeriod(2023, 6), months=1, seed=3)
    return folder


@pytest.fixture(scope="module")
def app(settings) -> Makegood:
    return Makegood(settings, as_of=CHARGED_AT.replace(month=6))


@pytest.fixture(scope="module")
def story(settings, tmp_path_factory) -> Story:
    return tell(settings, tmp_path_factory.mktemp("story"), customers=100)


@pytest.fixture
def landed(app, source):
    """A released run of June, intact again afterwards."""
    run = app.extract(str(source), BillingPeriod(2023, 6)).run
    pass_gate(app, run.run_id)
    kept = run.path.parent.with_name("kept")
    shutil.copytree(run.path.parent, kept)
    yield run
    shutil.rmtree(run.path.parent)
    kept.rename(run.path.parent)


@pytest.mark.parametrize("what", EDITS)
def test_a_run_whose_files_were_edited_together_charges_nobody(app, landed, what):
    edit(landed.path, what)
    for step in SHOWS_OR_MOVES_A_RUN:
        with pytest.raises(FatalError, match=r"is not what landed: .* recorded was .*makegood verify --source"):
            getattr(app, step)(landed.run_id)
    assert app.ledger.waves(landed.run_id) == []


def test_verifying_again_leads_out_and_charges_what_was_verified(app, source, landed):
    edit(landed.path, "amounts")
    outcome = app.extract(str(source), BillingPeriod(2023, 6))
    assert outcome.run.run_id == landed.run_id and outcome.set_aside.is_dir()
    with app.server.connect() as connection:
        (kept,) = connection.execute(
            "SELECT detail ->> 'partition' FROM audit WHERE action = 'set_aside' AND subject = %s", (landed.run_id,)
        ).fetchone()
    assert kept == outcome.set_aside.name
    released = app.release(landed.run_id)
    with app.server.connect() as connection:
        (meant,) = connection.execute(
            "SELECT sum(amount_minor) FROM operation WHERE scope = %s", (landed.run_id,)
        ).fetchone()
    assert 0 < released.amount_minor <= meant <= landed.control_total_minor


def test_the_period_charged_is_the_databases(app, landed):
    run = app.proven(landed.run_id)
    assert (run.billing_period, run.row_count, run.control_total_minor) == (
        "2023-06", landed.row_count, landed.control_total_minor
    )  # fmt: skip


def test_an_edited_month_is_no_history_and_is_landed_again_where_the_source_has_it(story, settings, source):
    app = Makegood(settings, as_of=CHARGED_AT)
    july = app.extract(str(story.right_source), BillingPeriod(2023, 7)).run
    edit(july.path, "amounts")
    with pytest.raises(FatalError, match=f"{july.run_id} is not what landed"):
        app.history("2023-09", str(source))
    assert july.run_id in [month.run_id for month in app.history("2023-09", str(story.right_source))]
    assert app.proven(july.run_id) == july


@pytest.mark.parametrize("which", ["right_run", "wrong_run"])
def test_no_step_of_an_incident_goes_by_an_edited_run(story, tmp_path, which):
    app = story.at(PLANNED_AT, login="operator")
    incident = app.open_incident(wrong=story.wrong_run, corrected=story.right_run)["incident_id"]
    path = app.lake.path_of(getattr(story, which))
    shutil.copytree(path.parent, tmp_path / "kept")
    edit(path, "amounts")
    steps = ("assess", "plan", "prove") if which == "right_run" else ("prove",)
    try:
        for step in steps:
            with pytest.raises(FatalError, match="is not what landed"):
                getattr(app, step)(incident)
    finally:
        shutil.copytree(tmp_path / "kept", path.parent, dirs_exist_ok=True)
    assert app.prove(incident).bills > 0


def test_a_run_that_the_database_knows_as_another_content_is_not_landed(app, story):
    run = app.proven(story.right_run)
    with pytest.raises(FatalError, match="the database knows"):
        app.register.record_run(replace(run, content_sha256="f" * 64))


def test_landing_september_again_is_no_new_run(story, settings):
    app = Makegood(settings, as_of=CHARGED_AT)
    again = app.extract(str(story.right_source), SEPTEMBER)
    assert (again.run.run_id, again.already_landed, again.set_aside) == (story.right_run, True, None)


def test_a_false_plan_stored_by_sql_is_not_shown_or_approved_and_planning_anew_leads_out(story):
    operator, approver = story.at(PLANNED_AT, login="operator"), story.at(PLANNED_AT, login="approver")
    incident = operator.open_incident(wrong=story.wrong_run, corrected=story.right_run)["incident_id"]
    draft = operator.plan(incident)
    folder = operator.settings.home / "incidents" / incident
    file = write_plan(folder, draft.header, draft.lines, draft.plan_digest)
    harmless = {"void": 0, "refund": 0, "rebill": 3}
    summary = draft.summary | {
        "actions": {name: {"operations": n, "amount_minor": 3_000 * n} for name, n in harmless.items()}
    }
    with operator.server.connect("operator") as connection:
        connection.execute(
            "INSERT INTO plan (plan_digest, incident_id, corrected_run, file, reversal_first, reversal_last, rebill_first,"
            " rebill_last, operation_count, total_minor, summary) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 3, 9000, %s)",
            (draft.plan_digest, incident, story.right_run, str(file.relative_to(operator.settings.home)),
             draft.windows.reversal.first, draft.windows.reversal.last, draft.windows.rebill.first, draft.windows.rebill.last,
             json.dumps(summary)),
        )  # fmt: skip
    false = approver.plan_to_decide(incident)
    for asked in (lambda: approver.plan_to_show(incident), lambda: approver.approve(false)):
        with pytest.raises(
            GateClosed, match=rf"operation_count: 3 stored, {draft.operation_count} in its lines.*--store"
        ):
            asked()
    [told] = approver.plans_told(incident)
    assert (told["operation_count"], told["summary"]) == (None, None)
    assert "3 bills" not in approver.render_incident(incident).read_text()

    anew = operator.request_approval(operator.plan(incident))
    assert anew.plan_digest != draft.plan_digest
    approved = approver.approve(approver.plan_to_show(incident))
    assert (approved.plan_digest, approved.operation_count) == (anew.plan_digest, draft.operation_count)
    assert operator.incidents.require_approved(incident, PLANNED_AT).total_minor == draft.total_minor
