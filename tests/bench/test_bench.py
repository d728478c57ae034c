"""The benchmark measures like with like: a floor that computes something else, or copies other rows, is found out."""

import json
import shutil
from copy import deepcopy
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import gate, months
from bench.__main__ import PARTS, main
from bench.measure import Unequal
from pipeline.generate import generate
from pipeline.ports import no_progress
from pipeline.schema import CHARGE_SCHEMA

CUSTOMERS = 3_000


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_part_runs_and_its_floor_computes_what_we_compute(part: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["--only", part, "--customers", str(CUSTOMERS), "--rounds", "1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["parts"]
    assert found["name"] == part
    assert found["rows"] or "not there yet" in found["notes"][0]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> months.Case:
    """A month with one defect of every kind, and three good months before it."""
    home = tmp_path_factory.mktemp("bench")
    source = home / f"source-{CUSTOMERS}x{gate.MONTHS}"
    first = months.PERIOD.plus(1 - gate.MONTHS)
    generate(source, customers=CUSTOMERS, first_period=first, months=gate.MONTHS)
    folder = source / f"billing_period={months.PERIOD}"
    (folder / "manifest.json").unlink()
    path = max(folder.glob("*.parquet"), key=lambda file: file.stat().st_size)
    rows = pq.ParquetFile(path).read().to_pylist()
    changes = [
        {"charge_id": ""}, {"customer_id": None}, {"amount_minor": None}, {"currency": ""},
        {"payment_method": ""}, {"issuer": ""}, {"instrument_token": None}, {"charge_id": rows[40]["charge_id"]},
        {"customer_id": rows[41]["customer_id"], "plan_code": rows[41]["plan_code"], "payment_method": rows[41]["payment_method"]},
        {"service_end": rows[0]["service_end"] + timedelta(days=1)}, {"payment_method": "cheque"},
        {"currency": "USD"}, {"plan_code": "NEW-PLAN"}, {"amount_minor": 10_000_001}, {"tax_minor": rows[15]["tax_minor"] + 1},
        {"instrument_token": "tok 4111 1111 1111 1111"}, {"charge_id": "5555555555554444"}, {"instrument_token": "tok 4111 1111 1111 1112"},
        {"tax_minor": None}, {"billing_period": "2023-07"}, {"billing_period": " "},
    ]  # fmt: skip
    for row, change in zip(rows, changes, strict=False):
        row |= change
    pq.write_table(pa.Table.from_pylist(rows, schema=CHARGE_SCHEMA), path)
    return months.make_case(home, CUSTOMERS, gate.MONTHS, no_progress)


def answers(case: months.Case, out: Path) -> tuple[dict, dict]:
    shutil.rmtree(out, ignore_errors=True)
    arguments = {"source": str(case.source), "lake": str(case.lake), "run": case.run, "history": list(case.history)}
    return tuple(contender(**arguments, out=str(out / contender.__name__)) for contender in (gate.ours, gate.floor))


@pytest.mark.slow
def test_the_floor_finds_the_same_broken_rows_as_the_gate(broken: months.Case, tmp_path: Path) -> None:
    ours, floor = answers(broken, tmp_path / "out")
    gate.require_equal(ours, floor)
    assert ours["decision"] == "hold"
    kinds = {reason for reason, *_ in ours["quarantine"]}
    assert len(kinds) == 19, f"the case has lost some of its defects: {sorted(kinds)}"


@pytest.mark.slow
def test_a_floor_with_one_other_figure_is_refused(broken: months.Case, tmp_path: Path) -> None:
    ours, floor = answers(broken, tmp_path / "out")
    for table, column in (("profile", "moved_count"), ("profile", "total_minor"), ("lags", "repeated")):
        wrong = deepcopy(floor)
        wrong[table][0][column] += 1
        with pytest.raises(Unequal, match=column):
            gate.require_equal(ours, wrong)
    with pytest.raises(Unequal, match="quarantine"):
        gate.require_equal(ours, floor | {"quarantine": floor["quarantine"][1:]})
