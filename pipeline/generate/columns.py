"""Columns of made-up values, built whole from whole numbers - never one customer at a time.

Belongs here: ids, tokens, and a repeatable spread of customers over labels. Does not: what a column means.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

TOKEN_LETTERS = np.frombuffer(b"abcdefghijklmnop", dtype=np.uint8)
"""The 16 digits of a token: letters, so that no token can be mistaken for a card number."""


def scatter(numbers: np.ndarray, *, salt: int) -> np.ndarray:
    """A 64-bit hash of each number (splitmix64): the same on every machine, and no two numbers share one."""
    x = numbers.astype(np.uint64) + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def spread(hashes: np.ndarray, weights: Sequence[int]) -> np.ndarray:
    """For each hash, the index of a weight: index `i` comes up in about `weights[i] / sum(weights)` of them."""
    bounds = np.cumsum(weights)
    return np.searchsorted(bounds, (hashes % np.uint64(bounds[-1])).astype(np.int64), side="right").astype(np.int32)


def labels(names: Sequence[str], index: np.ndarray) -> pa.Array:
    """`names[i]` for each `i` in `index`."""
    return pa.array(names, pa.string()).take(pa.array(index))


def numbered(prefix: str, numbers: np.ndarray, *, digits: int) -> pa.Array:
    """`prefix` and the number in exactly `digits` digits, zeros leading; numbers must fit."""
    assert numbers.size == 0 or (numbers.min() >= 0 and numbers.max() < 10**digits), f"{digits} digits are too few"
    text = _prefixed(prefix, len(numbers), digits)
    rest = numbers.astype(np.int64)
    for place in range(text.shape[1] - 1, len(prefix) - 1, -1):
        rest, digit = np.divmod(rest, 10)
        text[:, place] = digit + ord("0")
    return _fixed_width(text)


def tokens(hashes: np.ndarray) -> pa.Array:
    """`tok_` and 16 letters; different hashes give different tokens."""
    text = _prefixed("tok_", len(hashes), 16)
    for place in range(16):
        text[:, 4 + place] = TOKEN_LETTERS[((hashes >> np.uint64(4 * place)) & np.uint64(15)).astype(np.int64)]
    return _fixed_width(text)


def _prefixed(prefix: str, count: int, width: int) -> np.ndarray:
    text = np.empty((count, len(prefix) + width), dtype=np.uint8)
    text[:, : len(prefix)] = np.frombuffer(prefix.encode("ascii"), dtype=np.uint8)
    return text


def _fixed_width(text: np.ndarray) -> pa.Array:
    """A row of bytes per value becomes an Arrow string column without touching a value."""
    count, width = text.shape
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))
