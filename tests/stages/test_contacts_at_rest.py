"""Contacts are kept as noise: one key a month opens them, a lost key comes back from escrow, a destroyed one never does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.adapters.contact_vault import ContactVault
from pipeline.bootstrap import Makegood
from pipeline.cli import main
from pipeline.errors import FatalError, GateClosed, UsageError
from tests.remediation_world import ELEVENTH, World, charged_and_approved, people
from tests.stages.test_notify import EMAIL, PHONE, Sent, contact

PERIOD, WORDS = "2023-09", "correct horse battery staple"


@pytest.fixture(scope="module")
def told(settings) -> Sent:
    """Five customers of a month who were told of their voids."""
    world = World(settings, settings.home, "contacts at rest")
    customers = people(world, 5)
    charged_and_approved(world, customers)
    sent = Sent(world, [contact(customers[0], phone="010-1111-2222"), *map(contact, customers[1:])])
    world.step("cancel", ELEVENTH)
    assert sent.notify()["sent"] == {"void": 5}
    return sent


@pytest.fixture
def app(settings, told) -> Makegood:
    return Makegood(replace(settings, login="operator"), as_of=ELEVENTH)


@pytest.fixture
def words(tmp_path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text(WORDS + "\n")
    return file


def below(home: Path) -> bytes:
    """All that is kept below a home, but what the source holds."""
    files = [path for name in ("outbox", "keys") for path in (home / name).rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


def test_a_message_is_noise_to_whoever_has_no_key_and_is_read_with_it(app, told):
    kept = below(app.settings.home)
    assert kept and not any(said.encode() in kept for said in (PHONE, EMAIL, told.messages()[0]["text"]))
    messages = [json.loads(line) for line in app.read_messages(told.world.incident).splitlines()]
    assert {message["to"] for message in messages} == {PHONE, "010-1111-2222"}


def test_a_contact_is_found_by_its_keyed_hash_however_it_is_written(app, told):
    found = [app.find_contact(written) for written in ("010-1111-2222", "01011112222\n", "010 1111 2222")]
    assert [[row["customer_id"] for row in rows] for rows in found] == [[told.messages()[0]["customer_id"]]] * 3
    assert len(app.find_contact(PHONE)) == 4
    assert app.find_contact("010-0000-0000") == []


def test_a_rotated_key_opens_everything_and_the_old_one_nothing(app, told):
    before, [sealed] = told.messages(), (told.sink.folder / told.world.incident).glob("*.sealed")
    old_key, old_bytes = (app.settings.keys / f"{PERIOD}.json").read_bytes(), sealed.read_bytes()
    assert app.rotate_contact_key(PERIOD) == {"billing_period": PERIOD, "batches": 1}
    assert told.messages() == before and sealed.read_bytes() != old_bytes
    assert len(app.find_contact(PHONE)) == 4
    elsewhere = app.settings.home / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{PERIOD}.json").write_bytes(old_key)
    with pytest.raises(FatalError, match="is lost"):
        ContactVault(elsewhere).open(PERIOD, sealed.read_bytes())


def test_messages_of_an_earlier_version_are_sealed_by_rotating(app, told):
    folder = told.sink.folder / told.world.incident
    content, before = told.sink.open(told.world.incident, "void-0001"), told.messages()
    (folder / "void-0001.sealed").unlink()
    (folder / "void-0001.jsonl").write_bytes(content)
    assert told.messages() == before
    app.rotate_contact_key(PERIOD)
    assert told.messages() == before and PHONE.encode() not in below(app.settings.home)


def test_lost_keys_come_back_from_escrow_and_from_nothing_else(app, told, words, tmp_path):
    before = told.messages()
    made = app.escrow_contact_keys(tmp_path / "keys.escrow", words)
    assert made["periods"] == [PERIOD] and PERIOD.encode() not in (tmp_path / "keys.escrow").read_bytes()
    (app.settings.keys / f"{PERIOD}.json").unlink()
    with pytest.raises(FatalError, match=r"is lost: `makegood contacts restore"):
        app.read_messages(told.world.incident)
    (tmp_path / "other.txt").write_text("another passphrase, long enough")
    with pytest.raises(UsageError, match="the passphrase is another one"):
        app.restore_contact_keys(tmp_path / "keys.escrow", tmp_path / "other.txt")
    assert app.restore_contact_keys(tmp_path / "keys.escrow", words) == {"periods": [PERIOD]}
    assert told.messages() == before
    assert app.restore_contact_keys(tmp_path / "keys.escrow", words) == {"periods": []}


def test_a_changed_message_and_one_moved_to_another_month_do_not_open(app, told):
    vault, [sealed] = told.sink.vault, (told.sink.folder / told.world.incident).glob("*.sealed")
    content = bytearray(sealed.read_bytes())
    content[-1] ^= 1
    with pytest.raises(FatalError, match="were changed"):
        vault.open(PERIOD, bytes(content))
    with pytest.raises(FatalError, match="is lost"):
        vault.open("2023-10", sealed.read_bytes())


def test_a_short_passphrase_and_an_act_of_nobody_are_refused(app, told, tmp_path):
    (tmp_path / "short.txt").write_text("secret")
    with pytest.raises(UsageError, match="20 are needed"):
        app.escrow_contact_keys(tmp_path / "keys.escrow", tmp_path / "short.txt")
    nobody = Makegood(replace(app.settings, login=None), as_of=ELEVENTH)
    with pytest.raises(UsageError, match="who does it"):
        nobody.rotate_contact_key(PERIOD)


def test_a_purged_month_is_gone_for_ever_and_two_outputs_say_so(app, told, words, tmp_path, monkeypatch, capsys):
    with pytest.raises(GateClosed, match="close it first"):
        app.purge_contacts(PERIOD)
    app.escrow_contact_keys(tmp_path / "keys.escrow", words)
    told.world.plant("INSERT INTO incident_closing (incident_id, proof) VALUES (%s, '{}')", (told.world.incident,))

    monkeypatch.setenv("MAKEGOOD_HOME", str(app.settings.home))
    monkeypatch.setenv("MAKEGOOD_LOGIN", "operator")
    assert main(["contacts", "purge", "--period", PERIOD, "--json", "--quiet"]) == 0
    purged = json.loads(capsys.readouterr().out)
    assert main(["contacts", "list", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == {"months": [purged]}
    assert (purged["state"], purged["batches"], purged["purged_by"]) == ("purged", 1, "operator")

    with pytest.raises(GateClosed, match="were purged"):
        app.read_messages(told.world.incident)
    assert app.find_contact(PHONE) == []
    assert app.restore_contact_keys(tmp_path / "keys.escrow", words) == {"periods": []}
    with pytest.raises(GateClosed, match="were purged"):
        told.sink.vault.seal(PERIOD, b"again")
    assert app.purge_contacts(PERIOD)["purged_at"].isoformat()[:19] == purged["purged_at"].replace(" ", "T")[:19]
