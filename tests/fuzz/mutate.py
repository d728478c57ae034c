"""Small damage to a valid file, drawn from a seed: what happens to files on their way, and what somebody does to them on purpose.

Belongs here: the kinds of damage. Does not: what a parser has to say to it.
"""

from collections.abc import Callable
from random import Random

NUMBERS = (
    b"0",
    b"-1",
    b"1e9",
    b"NaN",
    b"9" * 19,
    b"9" * 40,
    b"9" * 5_000,
    b"1,234",
    b"0x1F",
    b"-0",
    b"1.0",
    "１２".encode(),
    b"+5",
    b" 7",
)
PIECES = (
    b"\0", b'"', b'""', b"'", b",", b";", b"\r", b"\r\n", b"\n", b"\xff", b"\xef\xbb\xbf", b"\\", b"{", b"[", b"null", b"\x1b[31m",
    b"\x1a", "뷁".encode(), "뷁".encode("cp949"), b"\xed\xa0\x80", b"=cmd()", b"%s%n", b"\t", b"x" * 5_000,
)  # fmt: skip


def _cut(content: bytes, draw: Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _drop(content: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(content))
    return content[:start] + content[start + draw.choice((1, 2, 8, 64)) :]


def _flip(content: bytes, draw: Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def _set(content: bytes, draw: Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]


def _insert(content: bytes, draw: Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + draw.choice(PIECES) + content[place:]


def _repeat(content: bytes, draw: Random) -> bytes:
    start = draw.randrange(len(content))
    part = content[start : start + draw.choice((1, 10, 200))]
    return content[:start] + part * draw.choice((2, 3, 50)) + content[start + len(part) :]


def _zeros(content: bytes, draw: Random) -> bytes:
    start, size = draw.randrange(len(content)), draw.choice((1, 4, 32))
    return content[:start] + bytes(size) + content[start + size :]


def _lines(content: bytes, draw: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    a, b = draw.randrange(len(lines)), draw.randrange(len(lines))
    change = draw.randrange(4)
    if change == 0:
        lines[a], lines[b] = lines[b], lines[a]
    elif change == 1:
        lines.insert(a, lines[b])
    elif change == 2:
        del lines[a]
    else:
        lines[a] = b",".join(reversed(lines[a].rstrip(b"\n").split(b","))) + b"\n"
    return b"".join(lines)


def _number(content: bytes, draw: Random) -> bytes:
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if not digits:
        return _set(content, draw)
    start = draw.choice(digits)
    end = start
    while end < len(content) and 48 <= content[end] <= 57:
        end += 1
    fresh = (
        draw.choice(NUMBERS) if draw.random() < 0.7 else str(draw.getrandbits(draw.choice((8, 31, 63, 64)))).encode()
    )
    return content[:start] + fresh + content[end:]


def _encoding(content: bytes, draw: Random) -> bytes:
    try:
        return content.decode("utf-8").encode(draw.choice(("cp949", "utf-16", "utf-8-sig", "latin-1", "utf-7")))
    except UnicodeError:
        return _set(content, draw)


KINDS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _cut, _drop, _flip, _flip, _set, _insert, _insert, _repeat, _zeros, _lines, _number, _number, _encoding,
)  # fmt: skip


def mutated(content: bytes, draw: Random) -> bytes:
    """`content` with one to three kinds of damage."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        if content:
            content = draw.choice(KINDS)(content, draw)
    return content
