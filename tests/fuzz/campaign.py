"""Many damaged inputs for one parser, each known by its seed, so that a failure can be tried again alone.

Belongs here: seeds, counting, and what a failure says. Does not: damage (`mutate`), or parsers.

    MAKEGOOD_FUZZ_SEED=417 pytest tests/fuzz -k charge_files      # that one again
    MAKEGOOD_FUZZ_INPUTS=100000 pytest tests/fuzz                 # more of each
"""

import os
from collections import Counter
from collections.abc import Callable
from random import Random

from pipeline.errors import FatalError, OutcomeUnknown
from tests.fuzz.mutate import mutated

SECRETS = ("tok_secret", "010-5555", "secret@example")
"""What no message may show; the valid files have tokens and contacts with these in them."""

MESSAGE_CHARACTERS_MAX = 2_000


def campaign(name: str, inputs: int, valid: list[bytes], parse: Callable[[bytes, Random], str | None]) -> Counter[str]:
    """Have `parse` take `inputs` damaged versions of `valid` files; returns how many were read and how many refused.

    Args:
        parse: returns None if it read the file and what it read is faithful; the message of its refusal else; raises for anything else.
    """
    only = os.environ.get("MAKEGOOD_FUZZ_SEED")
    count = int(os.environ.get("MAKEGOOD_FUZZ_INPUTS", inputs))
    came_of: Counter[str] = Counter()
    for seed in [int(only)] if only else range(count):
        draw = Random(f"{name} {seed}")
        content = mutated(draw.choice(valid), draw)
        try:
            message = parse(content, draw)
            if message is not None:
                _require_harmless(message)
        except Exception as error:
            raise AssertionError(
                f"{name}, seed {seed}: {type(error).__name__}: {str(error)[:600]}\ninput, shortened: {content[:300]!r}\n"
                f"again: MAKEGOOD_FUZZ_SEED={seed} pytest tests/fuzz -k {name}"
            ) from error
        came_of["read" if message is None else "refused"] += 1
    return came_of


def refusal(call: Callable[[], object]) -> str | None:
    """The message of a refusal on purpose; None if there was none. Anything else goes through: it would be a traceback."""
    try:
        call()
    except (FatalError, OutcomeUnknown) as error:
        return str(error)
    return None


def _require_harmless(message: str) -> None:
    assert [secret for secret in SECRETS if secret in message] == [], "the message shows a token or a contact"
    assert message.replace("\n", "").isprintable(), "the message has control characters in it"
    assert 0 < len(message) < MESSAGE_CHARACTERS_MAX, "the message is too long to be read"
