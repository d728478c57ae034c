"""Opening a file that somebody else put there: it may be no file at all, or have no end.

Belongs here: regular files alone, read up to a size, and JSON in them. Does not: what a file says. A FIFO would be waited for, for
ever; a device has no end; a folder or a loop of links has no content: each is refused before a byte is read.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import UnreadableInput

__all__ = ["named", "open_regular", "read_bytes", "read_json", "require_regular"]

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a FIFO"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, unbuffered; links are followed.

    Raises:
        FileNotFoundError: there is nothing.
        UnreadableInput: it is no regular file, or cannot be opened.
    """
    try:
        # without O_NONBLOCK a FIFO that nobody writes to would be waited for, here
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UnreadableInput(f"{named(path)}: cannot be opened ({_reason(error)})") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = next((what for is_kind, what in _KINDS if is_kind(mode)), "is no regular file")
        raise UnreadableInput(f"{named(path)}: {what}, not a file; put the file itself there")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb", buffering=0)


def require_regular(path: Path) -> None:
    """Refuse what `open_regular` refuses, for a reader that opens by name."""
    open_regular(path).close()


def read_bytes(path: Path, *, at_most: int) -> bytes:
    """All of a regular file.

    Raises:
        FileNotFoundError: there is nothing.
        UnreadableInput: it is no regular file, cannot be read, or is longer than `at_most` bytes.
    """
    try:
        with open_regular(path) as file, os.fdopen(os.dup(file.fileno()), "rb") as whole:
            content = whole.read(at_most + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UnreadableInput(f"{named(path)}: cannot be read ({_reason(error)})") from None
    if len(content) > at_most:
        raise UnreadableInput(f"{named(path)}: is longer than {at_most:,} bytes, which nothing of its kind is")
    return content


def read_json(path: Path, *, at_most: int) -> Any:
    """What a JSON file in UTF-8 says; a field that is there twice, NaN and infinity are refused.

    Raises:
        FileNotFoundError: there is nothing.
        UnreadableInput: it is no such file; the message shows none of its values.
    """
    content = read_bytes(path, at_most=at_most)
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_duplicates, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, line {error.lineno}"
    except UnicodeDecodeError as error:
        reason = f"byte {error.start:,} is not UTF-8"
    except RecursionError:
        reason = "nested too deeply"
    except _RefusedError as error:
        reason = str(error)
    except ValueError:
        reason = "a number has too many digits"
    raise UnreadableInput(f"{named(path)} is not valid JSON in UTF-8 ({reason})")


class _RefusedError(Exception):
    """JSON that Python takes and nobody else may."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _RefusedError("a field is there twice")
    return result


def _no_number(name: str) -> Any:
    raise _RefusedError(f"{name} is no number")


def named(path: Path) -> str:
    """A file's name as a message may show it."""
    return path.name if path.name.isprintable() else ascii(path.name)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
