"""What a stranger wrote into a reason, an issuer's name or a customer's id does nothing to the terminal that shows it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.core.terminal import visible

CLEARS_THE_SCREEN = "\x1b[2J\x1b]0;title\x07"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (CLEARS_THE_SCREEN, "\\x1b[2J\\x1b]0;title\\x07"),
        ("held\rreleased", "held\\rreleased"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("₩52,300\t이월\nnext", "₩52,300\t이월\nnext"),
    ],
)
def test_what_would_act_on_a_terminal_is_written_out(written, shown):
    assert visible(written) == shown


@given(st.text())
def test_whatever_is_shown_can_be_printed_and_has_no_control_character(text):
    shown = visible(text)
    shown.encode()
    assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]


def test_a_command_shows_a_strangers_text_without_obeying_it(settings, monkeypatch, capsys):
    monkeypatch.setenv("MAKEGOOD_HOME", str(settings.home))
    assert main(["stop", "--reason", f"outage{CLEARS_THE_SCREEN}"]) == 0
    assert main(["check"]) == 0
    assert main(["lookup", f"C1{CLEARS_THE_SCREEN}"]) == 0
    assert main(["release", "--run", f"2023-09{CLEARS_THE_SCREEN}"]) == 2
    said = capsys.readouterr()
    assert "outage\\x1b[2J" in said.out and "C1\\x1b[2J" in said.out and "2023-09" in said.err
    assert "\x1b" not in said.out + said.err
