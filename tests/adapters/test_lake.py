"""What the lake promises: partitions appear whole, never change, and say so when somebody changed them."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from charge_files import charges, land, landed, left_in, write
from edited_lake import EDITS, edit

from pipeline.adapters import lake as lake_module
from pipeline.adapters.content_hash import HASHED_ROWS, ContentHash
from pipeline.adapters.lake import ROW_GROUP_ROWS, ParquetLake
from pipeline.errors import FatalError, RetriableError
from pipeline.ports import LandedRun


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def run(source: Path, lake: Path) -> LandedRun:
    write(source, "a.csv", charges(1000))
    return land(source, lake).run


def test_a_partition_is_where_its_name_says_and_duckdb_reads_it(run: LandedRun, lake: Path) -> None:
    assert run.path == lake / "billing_period=2023-09" / f"run_id={run.run_id}" / "charges.parquet"
    found = duckdb.sql(
        f"SELECT count(*), sum(amount_minor)::BIGINT, min(customer_id) FROM read_parquet('{lake}/*/*/*.parquet')"
    )
    assert found.fetchall() == [(1000, run.control_total_minor, "0000001")]


def test_the_record_names_the_source_and_no_place_that_may_change(run: LandedRun, source: Path, lake: Path) -> None:
    record = json.loads((run.path.parent / "run.json").read_text())
    assert record["source"] == str(source)
    assert str(lake) not in json.dumps(record)
    moved = lake.rename(lake.with_name("moved"))
    found = ParquetLake(moved).find(run.run_id)
    ParquetLake(moved).prove([found])
    assert found.path.is_relative_to(moved)


@pytest.mark.parametrize("damaged", ["charges.parquet", "run.json"])
@pytest.mark.parametrize("how", ["cut", "gone", "garbage"])
def test_a_damaged_partition_is_reported_with_what_to_do(
    run: LandedRun, source: Path, lake: Path, damaged: str, how: str
) -> None:
    path = run.path.parent / damaged
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(content[:-9] if how == "cut" else b"x" * len(content))
    with pytest.raises(FatalError, match=r"damaged.*(?s:.*)backup.*land the source again"):
        ParquetLake(lake).find(run.run_id)
    with pytest.raises(FatalError, match=r"is not what landed.*backup.*makegood verify --source"):
        ParquetLake(lake).prove([run])


def test_one_flipped_bit_in_a_partition_is_found_when_it_is_proven(run: LandedRun, lake: Path) -> None:
    raw = bytearray(run.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    run.path.write_bytes(raw)
    with pytest.raises(FatalError, match="is not what landed"):
        ParquetLake(lake).prove([run])


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("amounts", "content hash.*control total of its rows"),
        ("tokens", "content hash"),
        ("period", "billing period of run.json"),
    ],
)
def test_charges_and_record_edited_together_are_not_what_was_recorded_elsewhere(
    run: LandedRun, lake: Path, what: str, named: str
) -> None:
    edit(run.path, what)
    with pytest.raises(FatalError, match=f"is not what landed: the {named}"):
        ParquetLake(lake).prove([run])


@pytest.mark.parametrize("what", ["amounts", "period", "gone", "garbage"])
def test_landing_again_sets_a_changed_partition_aside_and_keeps_it(
    run: LandedRun, source: Path, lake: Path, what: str
) -> None:
    if what in EDITS:
        edit(run.path, what)
    elif what == "gone":
        run.path.unlink()
    else:
        run.path.write_bytes(b"x" * 99)
    left = sorted(file.read_bytes() for file in run.path.parent.iterdir())
    outcome = land(source, lake)
    assert (outcome.run.run_id, outcome.already_landed) == (run.run_id, False)
    assert sorted(file.read_bytes() for file in outcome.set_aside.iterdir()) == left
    ParquetLake(lake).prove([run])
    assert land(source, lake).set_aside is None


def test_a_partition_with_columns_that_a_run_does_not_have_is_not_read(run: LandedRun, lake: Path) -> None:
    table = pq.ParquetFile(run.path).read()
    pq.write_table(table.append_column("AMOUNT_MINOR", pa.repeat(1, table.num_rows)), run.path)
    with pytest.raises(FatalError, match="cannot be read"):
        ParquetLake(lake).prove([run])


def test_of_concurrent_landings_of_one_content_one_wins_and_the_others_see_it(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges(2000))
    start = threading.Barrier(8)

    def landing(_: int) -> tuple[LandedRun, bool]:
        start.wait()
        outcome = land(source, lake)
        return outcome.run, outcome.already_landed

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(landing, range(8)))
    assert [was_there for _, was_there in outcomes].count(False) == 1
    assert len({run.landed_at for run, _ in outcomes}) == 1
    assert [name for name in left_in(lake) if "_landing" in name] == []


def test_a_landing_that_loses_the_race_at_the_last_moment_returns_the_winner(
    source: Path, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, "a.csv", charges())
    winners: list[LandedRun] = []
    write_record = lake_module._write_record

    def overtaken(folder: Path, run: LandedRun) -> None:
        write_record(folder, run)
        monkeypatch.setattr(lake_module, "_write_record", write_record)
        winners.append(land(source, lake).run)

    monkeypatch.setattr(lake_module, "_write_record", overtaken)
    outcome = land(source, lake)
    assert (outcome.run, outcome.already_landed) == (winners[0], True)


def test_a_full_disk_lands_nothing_and_may_be_retried(source: Path, lake: Path) -> None:
    write(source, "a.parquet", charges(20_000))
    script = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
from pathlib import Path
from charge_files import land
from pipeline.errors import RetriableError
try:
    land(Path({str(source)!r}), Path({str(lake)!r}))
except RetriableError as error:
    print("RETRIABLE", error)
"""
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.stdout.startswith("RETRIABLE the lake cannot be written"), done.stderr
    assert left_in(lake) == []
    assert land(source, lake).run.row_count == 20_000


def test_a_lake_that_cannot_be_made_is_a_failure_of_the_world(source: Path, tmp_path: Path) -> None:
    write(source, "a.csv", charges())
    (tmp_path / "file").write_text("")
    with pytest.raises(RetriableError, match="cannot be written"):
        land(source, tmp_path / "file" / "lake")


def test_what_a_killed_landing_left_is_cleared_a_day_later(source: Path, lake: Path) -> None:
    write(source, "a.csv", charges())
    abandoned, running = lake / "_landing-old", lake / "_landing-new"
    for folder in (abandoned, running):
        folder.mkdir(parents=True)
        (folder / "charges.parquet").write_text("half")
    os.utime(abandoned, (0, 0))
    land(source, lake)
    assert (abandoned.exists(), running.exists()) == (False, True)


def test_rows_are_grouped_alike_whatever_the_batches(source: Path, lake: Path) -> None:
    table = charges(3)
    many = pa.concat_tables([table] * ((ROW_GROUP_ROWS + 10_000) // 3))
    write(source, "a.csv", many.slice(0, 7_001))
    write(source, "b.parquet", many.slice(7_001))
    metadata = pq.read_metadata(land(source, lake).run.path)
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    assert groups == [ROW_GROUP_ROWS, many.num_rows - ROW_GROUP_ROWS]


def test_a_content_hash_ignores_batches_and_sees_every_value(source: Path, lake: Path) -> None:
    table = charges(5).slice(1)
    many = pa.concat_tables([table] * 5000).combine_chunks()

    def hashed(content: pa.Table, batch_rows: int) -> str:
        content_hash = ContentHash()
        for batch in content.to_batches(max_chunksize=batch_rows):
            content_hash.update(batch)
        return content_hash.hexdigest()

    whole = hashed(many, many.num_rows)
    assert {hashed(many, rows) for rows in (7, 1000, HASHED_ROWS, HASHED_ROWS + 1)} == {whole}
    assert hashed(many.slice(1), 1000) != whole
    for place, field in enumerate(many.schema):
        values = many[field.name].to_pylist()
        for changed in {None, values[0]} - {values[-1]}:
            other = many.set_column(place, field, pa.array([*values[:-1], changed], field.type))
            assert hashed(other, 1000) != whole, field.name
    # Null is not the empty text or zero, and what moves from one value into the next is seen.
    assert hashed(charges(1, plan_code=None), 9) != hashed(charges(1, plan_code=""), 9)
    assert hashed(charges(1, tax_minor=None), 9) != hashed(charges(1, tax_minor=0), 9)
    assert hashed(charges(1, issuer="AB", instrument_token="C"), 9) != hashed(
        charges(1, issuer="A", instrument_token="BC"), 9
    )


def test_a_lost_note_costs_a_reading_and_nothing_else(run: LandedRun, source: Path, lake: Path) -> None:
    note = next(lake.glob("_seen/*.json"))
    for content in ("", "{", None):
        note.unlink() if content is None else note.write_text(content)
        assert land(source, lake, trust_unchanged_files=True).run == run


def test_a_note_of_a_run_that_was_taken_away_is_not_believed(run: LandedRun, source: Path, lake: Path) -> None:
    run.path.parent.rename(lake / "elsewhere")
    outcome = land(source, lake, trust_unchanged_files=True)
    assert (outcome.already_landed, outcome.run.run_id) == (False, run.run_id)
    assert landed(outcome).num_rows == 1000


def test_an_unknown_source_has_no_note(run: LandedRun, lake: Path) -> None:
    assert ParquetLake(lake).recall(source="elsewhere", billing_period="2023-09", fingerprint=()) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_memory_does_not_grow_with_the_file(source: Path, lake: Path, name: str) -> None:
    block, blocks = charges(100_000), 30  # 360 MB as CSV, and as Parquet one row group of 3M rows
    if name == "a.csv":
        path = write(source, name, block)
        header, rows = path.read_bytes().split(b"\n", 1)
        with path.open("wb") as file:
            file.write(header + b"\n")
            for _ in range(blocks):
                file.write(rows)
    else:
        write(source, name, pa.concat_tables([block] * blocks))
    script = f"""
import resource
from pathlib import Path
from charge_files import land
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run = land(Path({str(source)!r}), Path({str(lake)!r})).run
print(run.row_count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    row_count, megabytes = map(int, done.stdout.split())
    assert row_count == 3_000_000
    assert megabytes < 400  # 250 as it is; holding it all takes 450 for the Arrow table alone
