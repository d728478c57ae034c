"""The command line as others rely on it: what --json holds, and the exit codes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core.billing_period import BillingPeriod
from pipeline.generate import Behaviour, generate, with_wrong_month

FIRST = BillingPeriod(2023, 6)
SEPTEMBER = BillingPeriod(2023, 9)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A right source of four months, and the same with July's amounts in September."""
    folder = tmp_path_factory.mktemp("sources")
    generate(
        folder / "right", customers=4000, first_period=FIRST, months=4, seed=7, behaviour=Behaviour(flat_share=0.1)
    )
    with_wrong_month(folder / "right", folder / "wrong", period=SEPTEMBER, amounts_of=BillingPeriod(2023, 7))
    return folder


@pytest.fixture
def cli(settings, monkeypatch, capsys):
    """Run a command in one home; returns (exit code, its JSON object)."""
    monkeypatch.setenv("MAKEGOOD_HOME", str(settings.home))

    def run(*arguments, login=None):
        if login:
            monkeypatch.setenv("MAKEGOOD_LOGIN", login)
        else:
            monkeypatch.delenv("MAKEGOOD_LOGIN", raising=False)
        code = main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.mark.slow
def test_a_month_from_file_to_charge(cli, sources, settings):
    code, held = cli("verify", "--source", str(sources / "wrong"), "--period", "2023-09")
    assert (code, held["decision"]) == (3, "hold")
    first = held["findings"][0]
    assert set(first) == {"rule", "severity", "cohort", "observed", "expected", "explanation"}
    assert "July's charges in September's run" in first["explanation"]
    told = {"run_id", "decision", "releasable", "causes", "findings", "not_judged", "declared", "report", "seconds"}
    assert set(held) == told
    assert Path(held["report"]).is_file()

    code, refused = cli("release", "--run", held["run_id"], "--as-of", "2023-09-11")
    assert code == 3 and "is held" in refused["error"]
    assert not any((settings.home / "acquirer").rglob("*Authorisation*")), "a held run sends nothing"

    code, right = cli("verify", "--source", str(sources / "right"), "--period", "2023-09")
    assert (code, right["decision"], right["releasable"]) == (0, "release", ["run"])

    code, preview = cli("release", "--run", right["run_id"], "--dry-run")
    code, early = cli("release", "--run", right["run_id"], "--as-of", "2023-08-11")
    assert code == 3 and "billing calendar expects 2023-08" in early["error"]

    code, once = cli("release", "--run", right["run_id"], "--as-of", "2023-09-11")
    assert code == 0 and once["charged"] == preview["due"]["rows"] > 3000 and once["unknown"] == 0
    code, twice = cli("release", "--run", right["run_id"], "--as-of", "2023-09-11")
    assert code == 0 and {**twice, "not_charged": None} == {**once, "not_charged": None}

    code, late = cli("run", "decide", held["run_id"], "--release", "--reason", "looks right to me", login="operator")
    assert code == 0 and late["state"] == "waiting for another person"
    code, again = cli("run", "decide", held["run_id"], "--release", "--reason", "still", login="operator")
    assert code == 3 and "different person" in again["error"]
    code, _ = cli("run", "decide", held["run_id"], "--release", "--reason", "agreed", login="approver")
    code, superseded = cli("release", "--run", held["run_id"], "--as-of", "2023-09-11")
    assert code == 3 and "superseded" in superseded["error"], "two people cannot charge a month that was charged"

    code, check = cli("check")
    assert code == 0 and check["audit"] == "whole" and check["left"] == []
    assert sum(balance["balance_minor"] for balance in check["balances"]) == 0


@pytest.mark.slow
def test_two_different_people_release_a_held_run_and_it_says_so(cli, sources, tmp_path):
    with_wrong_month(sources / "right", tmp_path / "odd", period=BillingPeriod(2023, 8), amounts_of=FIRST)
    code, held = cli("verify", "--source", str(tmp_path / "odd"), "--period", "2023-08")
    assert code == 3
    assert cli("run", "decide", held["run_id"], "--release", "--reason", "a test tariff")[0] == 2, "nobody is logged in"
    assert cli("run", "decide", held["run_id"], "--release", "--reason", "a test tariff", login="operator")[0] == 0
    assert cli("release", "--run", held["run_id"], "--as-of", "2023-08-11")[0] == 3, "one person is not enough"
    code, decided = cli("run", "decide", held["run_id"], "--release", "--reason", "agreed", login="approver")
    assert decided["state"] == "released" and decided["released_by"] == ["operator", "approver"]
    code, released = cli("release", "--run", held["run_id"], "--as-of", "2023-08-11")
    assert code == 0 and released["charged"] > 3000
    code, reviewed = cli("run", "report", held["run_id"], "--reviewed", "seen <b>twice</b>", login="approver")
    page = Path(reviewed["report"]).read_text(encoding="utf-8")
    assert "seen &lt;b&gt;twice&lt;/b&gt;" in page and "agreed" in page


@pytest.mark.slow
def test_a_label_of_another_month_in_the_rows_is_seen_through_the_lakes_own_folders(cli, sources, tmp_path):
    """The lake's path says 2023-09; what counts is what the rows say."""
    period = tmp_path / "billing_period=2023-09"
    shutil.copytree(sources / "right", tmp_path, dirs_exist_ok=True)
    (period / "manifest.json").unlink()
    for path in period.glob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        label = pa.array(["2023-07"] * table.num_rows)
        pq.write_table(table.set_column(table.column_names.index("billing_period"), "billing_period", label), path)
    code, held = cli("verify", "--source", str(tmp_path), "--period", "2023-09")
    assert code == 3
    assert any("2023-07" in finding["explanation"] or "period" in finding["rule"] for finding in held["findings"])


def test_sending_stops_until_it_is_resumed(cli):
    assert cli("stop", "--reason", "outage")[1]["sending"] == "stopped"
    assert cli("resume")[0] == 2, "resuming is a person's act"
    assert cli("resume", login="operator")[1]["sending"] == "allowed"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "--source", "{none}", "--period", "2023-09"], "{none}"),
        (["verify", "--source", "{right}", "--period", "2023-9"], "YYYY-MM"),
        (["verify", "--source", "{right}", "--period", "2031-01"], "2031-01"),
        (["release", "--run", "2023-09-000000000000"], "no run"),
        (["release", "--run", "2023-09-000000000000", "--as-of", "tomorrow"], "--as-of"),
    ],
)
def test_what_cannot_be_meant_exits_with_2_and_says_why(cli, sources, tmp_path, arguments, says):
    names = {"right": str(sources / "right"), "none": str(tmp_path / "none")}
    code, result = cli(*[a.format(**names) for a in arguments])
    assert code == 2 and says.format(**names) in result["error"]


def test_unreadable_input_exits_with_2_and_lands_nothing(cli, tmp_path, settings):
    folder = tmp_path / "billing_period=2023-09"
    folder.mkdir()
    (folder / "charges.csv").write_text("charge_id,customer_id\n1,2\n")
    before = sorted((settings.home / "lake").rglob("charges.parquet"))
    code, result = cli("verify", "--source", str(tmp_path), "--period", "2023-09")
    assert code == 2 and "charges.csv" in result["error"]
    assert sorted((settings.home / "lake").rglob("charges.parquet")) == before


@pytest.mark.slow
def test_help_needs_no_heavy_import_and_shows_examples():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline", "verify", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "examples:" in done.stdout and "exit codes:" in done.stdout
    assert not {"duckdb", "pyarrow", "pandas", "great_expectations"} & {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
    }
