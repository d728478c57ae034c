"""A migration that has landed is never edited, renamed or removed: a home somewhere has it, and would open no more.

`tests/golden/migrations.sha256` has a line for each (as `sha256sum` writes it). Landing a migration appends its line; no line is ever
changed.
"""

from hashlib import sha256
from importlib import resources
from pathlib import Path

import pytest

LANDED = Path(__file__).resolve().parents[1] / "golden" / "migrations.sha256"
MIGRATIONS = Path(str(resources.files("pipeline.adapters") / "migrations"))


def faults(listed: str, folder: Path) -> list[str]:
    """What is wrong with the migrations in `folder`, held against the list of those that have landed."""
    landed = {name: digest for digest, name in (line.split() for line in listed.splitlines())}
    there = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.sql")}
    numbers = sorted(name.partition("_")[0] for name in there)
    return [
        *(f"{name} was removed or renamed" for name in sorted(landed.keys() - there.keys())),
        *(f"{name} was edited" for name in sorted(landed.keys() & there.keys()) if landed[name] != there[name]),
        *(f"{name} is not in {LANDED.name}: append its line" for name in sorted(there.keys() - landed.keys())),
        *(f"the number {number} is used twice" for number in sorted(set(numbers)) if numbers.count(number) > 1),
    ]


def test_no_migration_that_landed_is_edited_renamed_or_removed_and_every_new_one_is_listed():
    assert faults(LANDED.read_text(encoding="utf-8"), MIGRATIONS) == []


@pytest.mark.parametrize(("change", "fault"), [
    (lambda first, folder: first.write_text(first.read_text() + "-- a word\n"), "0001_runs.sql was edited"),
    (lambda first, folder: first.unlink(), "0001_runs.sql was removed or renamed"),
    (lambda first, folder: first.rename(folder / "0001_the_runs.sql"), "0001_runs.sql was removed or renamed"),
    (lambda first, folder: (folder / "0003_more.sql").write_text("SELECT 1;"), "0003_more.sql is not in migrations.sha256"),
    (lambda first, folder: (folder / "0001_more.sql").write_text("SELECT 1;"), "the number 0001 is used twice"),
])  # fmt: skip
def test_each_kind_of_change_is_noticed(tmp_path, change, fault):
    for name in ("0001_runs.sql", "0002_money.sql"):
        (tmp_path / name).write_text(f"CREATE TABLE {name[:4]} ();")
    listed = "".join(f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(tmp_path.iterdir()))
    assert faults(listed, tmp_path) == []
    change(tmp_path / "0001_runs.sql", tmp_path)
    assert any(said.startswith(fault) for said in faults(listed, tmp_path))
