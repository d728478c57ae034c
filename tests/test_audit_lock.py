"""Silence of an advisory service is no all-clear."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BAD = {"name": "django", "version": "3.0", "vulns": [{"id": "PYSEC-1"}]}


@pytest.fixture
def tool(monkeypatch, tmp_path):
    specification = importlib.util.spec_from_file_location("audit_lock", ROOT / "tools" / "audit_lock.py")
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "arrow[x]==1.0 ; python_version < '3.12' \\\n    --hash=sha256:00\narrow==2.0 ; python_version >= '3.12'\nduck==3\n"
    )
    monkeypatch.setattr(tool, "LOCK", lock)
    return tool


def asked(tool, monkeypatch, capsys, answers: dict[str, dict]) -> tuple[int, str]:
    def run(service, pins):
        return [{"name": name} | answers.get(name, {"vulns": []}) for name, _ in pins], None

    monkeypatch.setattr(tool, "_run", run)
    return tool.main(), capsys.readouterr().out


def test_a_lock_without_advisories_is_said_to_be_so(tool, monkeypatch, capsys):
    code, said = asked(tool, monkeypatch, capsys, {"django": BAD})
    assert (code, "about 3 packages of the lock: 0 have advisories" in said, "SKIPPED" in said) == (0, True, False)


def test_an_advisory_fails_and_names_package_and_version(tool, monkeypatch, capsys):
    code, said = asked(tool, monkeypatch, capsys, {"django": BAD, "duck": {"vulns": [{"id": "GHSA-7"}]}})
    assert (code, "duck==3: GHSA-7" in said) == (1, True)


def test_a_service_that_knows_nothing_of_a_package_known_to_be_bad_was_not_asked(tool, monkeypatch, capsys):
    code, said = asked(tool, monkeypatch, capsys, {"django": {"skip_reason": "not found"}})
    assert (code, "SKIPPED" in said) == (0, True)


def test_packages_that_the_service_does_not_know_are_named(tool, monkeypatch, capsys):
    code, said = asked(tool, monkeypatch, capsys, {"django": BAD, "duck": {"skip_reason": "not found"}})
    assert (code, "NOT ASKED ABOUT: 1 of 3 packages: duck==3" in said) == (0, True)
