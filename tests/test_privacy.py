"""Tokens, contacts and card numbers are planted; everything is run, right and wrong; nothing of them may be found outside
the lake, the books and the acquirer's own files."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.core.billing_period import BillingPeriod
from pipeline.generate import generate, with_wrong_month

CARD_NUMBER = "4111111111111111"
MARKUP = "<script>alert(1)</script>"

MAY_HOLD_TOKENS = ("lake", "acquirer", "outgoing", "postgres", "source")
"""Folders below the home directory that have to know the instruments; everything else is read by people or logs."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A source with contacts, one card number as a charge id, and markup as an issuer."""
    folder = tmp_path_factory.mktemp("planted")
    generate(folder / "right", customers=1500, first_period=BillingPeriod(2023, 6), months=4, seed=3, contacts=True)
    with_wrong_month(
        folder / "right", folder / "wrong", period=BillingPeriod(2023, 9), amounts_of=BillingPeriod(2023, 7)
    )
    period = folder / "wrong" / "billing_period=2023-09"
    (period / "manifest.json").unlink()
    path = sorted(period.glob("*.parquet"))[0]
    table = pq.read_table(path)
    for column, value in (("charge_id", CARD_NUMBER), ("issuer", MARKUP)):
        first = pa.array([True] + [False] * (table.num_rows - 1))
        changed = pc.if_else(first, value, table[column])
        table = table.set_column(table.column_names.index(column), column, changed)
    pq.write_table(table, path)
    return folder


@pytest.mark.slow
def test_no_token_contact_or_card_number_leaves_its_place(planted, settings, monkeypatch, capfd):
    monkeypatch.setenv("MAKEGOOD_HOME", str(settings.home))
    said = []
    for source in ("wrong", "right"):
        main(["verify", "--source", str(planted / source), "--period", "2023-09", "--json"])
        output = capfd.readouterr()
        said += [output.out, output.err]
        run_id = json.loads(output.out)["run_id"]
        main(["release", "--run", run_id, "--as-of", "2023-09-11", "--json"])
        output = capfd.readouterr()
        said += [output.out, output.err]
    main(["run", "list", "--json"])
    said.append(capfd.readouterr().out)

    secrets = _secrets(planted / "right")
    readable = {str(path.relative_to(settings.home)): path.read_bytes() for path in _readable_files(settings.home)}
    assert any(name.endswith("report.html") for name in readable), "the scan saw no report"
    assert any(name.endswith("quarantine.parquet") for name in readable), "the scan saw no quarantine"
    for name, content in {**readable, "output": "\n".join(said).encode()}.items():
        text = _text_of(name, content, settings.home)
        found = [secret for secret in secrets if secret in text]
        assert not found, f"{name} shows {found[0][:4]}..."
        assert MARKUP not in text or not name.endswith(".html"), f"{name} carries markup from the data"


def _readable_files(home):
    for path in home.rglob("*"):
        top = path.relative_to(home).parts[0]
        if path.is_file() and (top not in MAY_HOLD_TOKENS or path.name in ("log", "server.log")):
            yield path


def _text_of(name, content, home):
    """What a reader of the file sees; Parquet is compressed, so it is opened."""
    if name.endswith(".parquet"):
        return json.dumps(pq.read_table(home / name).to_pylist(), default=str)
    return content.decode("utf-8", errors="replace")


def _secrets(source):
    tokens = pq.read_table(next((source / "billing_period=2023-09").glob("*.parquet")))["instrument_token"].to_pylist()
    contacts = pq.read_table(source / "contacts.parquet")
    people = contacts["phone"].to_pylist()[:300] + contacts["email"].to_pylist()[:300]
    return [*tokens[:300], *[str(value) for value in people if value], CARD_NUMBER]
