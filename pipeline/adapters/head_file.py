"""Heads of the audit log in a file outside the database, signed, and in a second place where the operator has named one.

Belongs here: the signing key, appending a head durably, reading the file back, and what is wrong with the file itself. Does not: what
a head says (`core.heads`). One line is one head. The key lies below the home directory and never in the database; whoever may write
there can make heads anew, which is what the second place is for: a disk, a machine or a medium that others look after.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pipeline.core.heads import Head, line_digest
from pipeline.errors import FatalError

FILE_NAME = "heads.jsonl"
PUBLIC_KEY = "heads.pub"
"""Beside the file, for an auditor to check signatures with; what is checked here goes by the private key's own."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A line of the file: its head, and its digest as the next head and the audit log name it."""

    head: Head
    digest: str


class HeadFile:
    """The file of heads.

    Args:
        folder: where it lies.
        key: the private signing key (PEM), made with the first head; readable by its owner alone.
        second: the folder of the second place; None without one.
    """

    def __init__(self, folder: Path, *, key: Path, second: Path | None) -> None:
        self._file = folder / FILE_NAME
        self._key = key
        self._second = second / FILE_NAME if second else None

    # -- appending ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one to append."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._file.parent / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def append(self, make: Callable[[Kept | None], Head]) -> Kept:
        """Append the head that `make` makes after the last one, on disk when this returns; to be called `alone`.

        Raises:
            FatalError: a line is not one of ours; nothing was appended.
        """
        kept, broken = self.read(second_may_lag=True)
        if broken:
            raise FatalError(f"{broken[0]}; `makegood audit verify` says more. No head is put on top of that")
        head = make(kept[-1] if kept else None)
        line = self._signed(head)
        if not kept:
            self._publish_key(self._file.parent)
        _append(self._file, self._whole_lines(self._file), [line])
        return Kept(head, line_digest(line))

    def copy(self) -> str | None:
        """Bring the second place up to date; returns what keeps it from being so, None if nothing does."""
        if self._second is None:
            return None
        try:
            lines, copied = self._whole_lines(self._file), self._whole_lines(self._second)
            if lines[: len(copied)] != copied:
                return f"{self._second} is not the beginning of {self._file}: nothing was written to it"
            self._second.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._publish_key(self._second.parent)
            _append(self._second, copied, lines[len(copied) :])
        except OSError as error:
            return f"{self._second} cannot be written ({error.strerror}): the heads stand at home alone"
        return None

    def _signed(self, head: Head) -> str:
        signature = self._signing_key().sign(head.text().encode()).hex()
        return json.dumps({"head": head.text(), "signature": signature}, separators=(",", ":"))

    def _signing_key(self) -> Ed25519PrivateKey:
        if not self._key.exists():
            self._key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            descriptor = os.open(self._key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
        return load_pem_private_key(self._key.read_bytes(), password=None)

    def _publish_key(self, folder: Path) -> None:
        public = self._signing_key().public_key()
        (folder / PUBLIC_KEY).write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    # -- reading ------------------------------------------------------------------------------------------------

    def read(self, *, second_may_lag: bool = False) -> tuple[list[Kept], list[str]]:
        """The heads up to the first line that is not one of ours, and what is wrong with the file or its second place.

        Args:
            second_may_lag: whether it is all right for the second place to lack the newest heads.
        """
        kept: list[Kept] = []
        broken = []
        if self._key.exists() and not self._file.exists():
            broken.append(f"{self._file} is gone: heads were signed here, and none is left")
        for number, line in enumerate(self._whole_lines(self._file), start=1):
            head = self._verified(line)
            if head is None:
                broken.append(f"line {number} of {self._file} was changed: its signature is not ours")
                break
            if (head.number, head.previous) != (number, kept[-1].digest if kept else ""):
                broken.append(
                    f"line {number} of {self._file} does not follow the one before: a line was removed or moved"
                )
                break
            kept.append(Kept(head, line_digest(line)))
        return kept, broken + self._second_place(len(kept), may_lag=second_may_lag)

    def _second_place(self, count: int, *, may_lag: bool) -> list[str]:
        if self._second is None:
            return []
        lines, copied = self._whole_lines(self._file), self._whole_lines(self._second)
        shared = next((n for n, (a, b) in enumerate(zip(lines, copied, strict=False)) if a != b), None)
        if shared is not None:
            return [f"line {shared + 1} of {self._file} is not that of {self._second}: one of them was changed"]
        if len(copied) > len(lines):
            return [f"{self._file} ends with head {len(lines)}, {self._second} has {len(copied)}: its end was cut off"]
        if len(copied) < count and not may_lag:
            return [
                f"{self._second} ends with head {len(copied)}, there are {count}: `makegood audit anchor` copies what is missing"
            ]
        return []

    def _verified(self, line: str) -> Head | None:
        try:
            said = json.loads(line)
            public = self._signing_key().public_key() if self._key.exists() else None
            if public is None:
                return None
            public.verify(bytes.fromhex(said["signature"]), said["head"].encode())
            return Head.from_json(json.loads(said["head"]))
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature):
            return None

    @staticmethod
    def _whole_lines(file: Path) -> list[str]:
        """The lines of a file; what follows the last line end was being written when the machine stopped, and is nothing."""
        try:
            return file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        except FileNotFoundError:
            return []


def _append(file: Path, present: list[str], lines: list[str]) -> None:
    """Append `lines` to the file whose whole lines are `present`, and have them on the disk."""
    is_new = not file.exists()
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        end = sum(len(line.encode()) + 1 for line in present)
        out.truncate(end)
        out.seek(end)
        out.write("".join(f"{line}\n" for line in lines).encode())
        out.flush()
        os.fsync(out.fileno())
    if is_new:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
