"""A file's bytes, read once before anything believes them: their SHA-256, and for text its encoding.

Belongs here: hashing, decompressing and decoding, to see whether it can be done without loss. Does not:
columns and values. Memory holds one block, whatever the size of the file.
"""

import codecs
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pipeline import limits
from pipeline.bounded_file import open_regular
from pipeline.ports import Progress

BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ByteCheck:
    """What the bytes of a file say.

    Attributes:
        sha256: of the bytes as they arrived, compressed or not.
        encoding: `utf-8` or `cp949` (which covers EUC-KR); None for a file that is not text.
        problem: why it cannot be read without loss; None if it can.
        ends_with_newline: whether the last line of a text is known to be complete.
    """

    sha256: str
    encoding: str | None = None
    problem: str | None = None
    ends_with_newline: bool = True


class _Readable(Protocol):
    def read(self, size: int) -> bytes: ...


class _NoTextError(Exception):
    """The bytes cannot be read as text; the message says why."""


class _BadByteError(Exception):
    """Byte `offset` (from 0) of the text is not valid in the encoding."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class _HashingReader:
    """Reads a file once from start to end and hashes what passes."""

    def __init__(self, raw: BinaryIO, path: Path, progress: Progress) -> None:
        self._raw, self._digest, self._done = raw, hashlib.sha256(), 0
        self._what, self._total, self._progress = f"checking {path.name}", path.stat().st_size, progress

    def read(self, size: int) -> bytes:
        block = self._raw.read(size)
        self._digest.update(block)
        self._done += len(block)
        self._progress(self._what, self._done, self._total)
        return block

    def sha256_of_all(self) -> str:
        while self.read(BLOCK_BYTES):
            pass
        return self._digest.hexdigest()


def check_binary(path: Path, progress: Progress) -> ByteCheck:
    """The SHA-256 of a file that is not text."""
    with open_regular(path) as raw:
        sha256 = _HashingReader(raw, path, progress).sha256_of_all()
    return ByteCheck(sha256, problem=None if path.stat().st_size else "is empty")


def check_text(path: Path, progress: Progress, *, compressed: bool) -> ByteCheck:
    """The SHA-256 of a text file and the encoding in which it reads without loss.

    UTF-8 is tried before CP949: text with Hangul in one is hardly ever valid in the other. A file that cannot
    be read still gets its SHA-256, since "not what was sent" says more than what is wrong with it.
    """
    encoding, problem, last = "utf-8", None, b""
    with open_regular(path) as raw:
        reader = _HashingReader(raw, path, progress)
        text = gzip.GzipFile(fileobj=reader) if compressed else reader
        try:
            last = _decode(text, encoding, path)
        except _BadByteError as bad:
            problem = bad
        except _NoTextError as no_text:
            problem = str(no_text)
        sha256 = reader.sha256_of_all()
    if isinstance(problem, _BadByteError):
        encoding, problem, last = _as_cp949(path, compressed, not_utf8=problem)
    return ByteCheck(sha256, encoding, problem, ends_with_newline=last in (b"\n", b"\r"))


@contextmanager
def open_text(path: Path, *, compressed: bool) -> Iterator[BinaryIO]:
    """The bytes of a text file, decompressed."""
    with open_regular(path) as raw, io.BufferedReader(raw) as whole:
        if not compressed:
            yield whole
            return
        with gzip.GzipFile(fileobj=whole) as text:
            yield text


def _as_cp949(path: Path, compressed: bool, not_utf8: _BadByteError) -> tuple[str | None, str | None, bytes]:
    try:
        with open_text(path, compressed=compressed) as text:
            return "cp949", None, _decode(text, "cp949", path)
    except _NoTextError as no_text:
        return None, str(no_text), b""
    except _BadByteError as not_cp949:
        wrong = [f"{name} ({_position(path, compressed, bad)})" for name, bad in
                 (("UTF-8", not_utf8), ("CP949", not_cp949))]  # fmt: skip
        return None, f"is neither {wrong[0]} nor {wrong[1]}: save it as UTF-8", b""


def _decode(text: _Readable, encoding: str, path: Path) -> bytes:
    """Decode strictly to the end, keeping nothing but the last byte, which is returned."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    most = min(limits.CONTENT_BYTES, max(limits.FREE_EXPANSION_BYTES, path.stat().st_size * limits.TEXT_EXPANSION))
    done, last, pending = 0, b"", b""
    while block := _next_block(text, done):
        if b"\0" in block:
            where = done + block.index(b"\0")
            raise _NoTextError(f"has a NUL byte at offset {where:,}: it is UTF-16 or no text; save it as UTF-8")
        if pending or not block.isascii():
            _decode_block(decoder, block, done - len(pending))
            pending = decoder.getstate()[0]
        done, last = done + len(block), block[-1:]
        if done > most:
            raise _NoTextError(
                f"expands to more than {most:,} bytes, {limits.TEXT_EXPANSION} times its size or more, which charges do not"
            )
    if done == 0:
        raise _NoTextError("is empty")
    _decode_block(decoder, b"", done - len(pending), final=True)
    return last


def _next_block(text: _Readable, done: int) -> bytes:
    try:
        return text.read(BLOCK_BYTES)
    except EOFError:
        raise _NoTextError(f"is a truncated gzip file: it breaks off after {done:,} bytes of text") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _NoTextError(f"is a damaged gzip file ({error})") from None


def _decode_block(decoder: codecs.IncrementalDecoder, block: bytes, start: int, *, final: bool = False) -> None:
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError as error:
        raise _BadByteError(start + error.start) from None


def _position(path: Path, compressed: bool, bad: _BadByteError) -> str:
    left, line = bad.offset, 1
    with open_text(path, compressed=compressed) as text:
        while left and (block := text.read(min(BLOCK_BYTES, left))):
            line += block.count(b"\n")
            left -= len(block)
    return f"byte {bad.offset:,}, line {line:,}"
