"""Contacts at rest: messages to customers sealed under a key of their billing period, and the keys themselves.

Belongs here: sealing and opening, keys below `<home>/keys` - made, rotated, put into escrow, destroyed - and the keyed hashes by which a
phone number or an address is looked for. Does not: which messages there are (`messages`), or who may purge them (`remediation`).
A period's contacts are gone when its key is: so a key is on the disk before anything is sealed with it, and no backup of the database
or of the messages holds one.
"""

import contextlib
import hmac
import json
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pipeline.adapters.durable import sync
from pipeline.core.billing_period import BillingPeriod
from pipeline.errors import FatalError, GateClosed, UsageError

SEALED = b"makegood sealed contacts 1\n"
ESCROW = b"makegood escrow 1\n"
"""The first line of what is sealed: the form it has."""

KEY_BYTES, NONCE_BYTES, ID_BYTES, SALT_BYTES = 32, 12, 8, 16

SCRYPT = {"length": KEY_BYTES, "n": 2**17, "r": 8, "p": 1}
"""A passphrase is tried in a quarter of a second and 128 MB: OWASP's recommendation for scrypt."""

PASSPHRASE_CHARACTERS_MIN = 20


class ContactVault:
    """The keys of one installation.

    Args:
        folder: `<home>/keys`: `<period>.json` is a period's key, `<period>.purged` says that it was destroyed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # -- sealing ------------------------------------------------------------------------------------------------

    def seal(self, billing_period: str, content: bytes) -> bytes:
        """`content` as only the period's key opens it; the first call of a period makes the key.

        Raises:
            GateClosed: the period's contacts were purged.
        """
        newest = (self._keys(billing_period) or self._make(billing_period))["keys"][-1]
        head, nonce = SEALED + bytes.fromhex(newest["id"]), secrets.token_bytes(NONCE_BYTES)
        return head + nonce + AESGCM(b64decode(newest["key"])).encrypt(nonce, content, _bound(head, billing_period))

    def open(self, billing_period: str, sealed: bytes) -> bytes:
        """What `seal` was given.

        Raises:
            GateClosed: the period's contacts were purged.
            FatalError: the key is lost, or the content was changed.
        """
        head, rest = sealed[: len(SEALED) + ID_BYTES], sealed[len(SEALED) + ID_BYTES :]
        kept = self._keys(billing_period) or {"keys": []}
        for key in kept["keys"]:
            if head == SEALED + bytes.fromhex(key["id"]):
                with contextlib.suppress(InvalidTag):
                    cipher = AESGCM(b64decode(key["key"]))
                    return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], _bound(head, billing_period))
                raise FatalError(f"sealed contacts of {billing_period} were changed; restore the file from a backup")
        raise FatalError(
            f"the key to contacts of {billing_period} is lost: `makegood contacts restore --from FILE` brings it back from escrow"
        )

    def hasher(self, billing_period: str) -> Callable[[str], str]:
        """What turns a phone number or address into the hash by which it is looked for: the same contact, the same hash, and no way back
        without the period's key.

        Raises:
            GateClosed: the period's contacts were purged.
        """
        kept = self._keys(billing_period) or self._make(billing_period)
        key = b64decode(kept["lookup"])
        return lambda contact: hmac.digest(key, _plain(contact).encode(), "sha256").hex()

    # -- keys ---------------------------------------------------------------------------------------------------

    def periods(self) -> list[str]:
        """Billing periods with a key, earliest first."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def is_purged(self, billing_period: str) -> bool:
        return self._tombstone(billing_period).exists()

    @contextlib.contextmanager
    def rotating(self, billing_period: str) -> Iterator[None]:
        """Within the block a new key seals and the old ones still open; afterwards the new one is alone.

        Raises:
            GateClosed: the period's contacts were purged.
        """
        kept = self._keys(billing_period) or self._make(billing_period)
        kept["keys"].append(_key())
        self._write(billing_period, kept)
        yield
        self._write(billing_period, kept | {"keys": kept["keys"][-1:]})

    def destroy(self, billing_period: str) -> None:
        """Destroy a period's key; what it sealed is noise from then on. Repeating it changes nothing."""
        write_private(self._tombstone(billing_period), b"purged\n")
        self._path(billing_period).unlink(missing_ok=True)
        sync(self._folder)

    def escrow(self, passphrase: str) -> tuple[bytes, list[str]]:
        """All keys, sealed under a passphrase, to be kept elsewhere; and their periods."""
        keys = {period: self._required(period) for period in self.periods()}
        salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
        sealed = AESGCM(_stretched(passphrase, salt)).encrypt(nonce, json.dumps(keys).encode(), ESCROW)
        return ESCROW + salt + nonce + sealed, sorted(keys)

    def restore(self, escrowed: bytes, passphrase: str) -> list[str]:
        """Bring back keys that are missing here; those that are here stay, and purged ones stay purged. Returns the periods.

        Raises:
            UsageError: it is no escrow of ours, or the passphrase is wrong.
        """
        rest = escrowed.removeprefix(ESCROW)
        salt, nonce, sealed = (
            rest[:SALT_BYTES],
            rest[SALT_BYTES : SALT_BYTES + NONCE_BYTES],
            rest[SALT_BYTES + NONCE_BYTES :],
        )
        try:
            keys = json.loads(AESGCM(_stretched(passphrase, salt)).decrypt(nonce, sealed, ESCROW))
        except (InvalidTag, ValueError):
            raise UsageError("this is no escrow of contact keys, or the passphrase is another one") from None
        missing = [period for period in sorted(keys) if not (self._path(period).exists() or self.is_purged(period))]
        for period in missing:
            self._write(period, keys[period])
        return missing

    def _make(self, billing_period: str) -> dict[str, Any]:
        """A period's first key; of several processes that make one, the first has made it for all."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = {"keys": [_key()], "lookup": b64encode(secrets.token_bytes(KEY_BYTES)).decode()}
        fresh = self._path(billing_period).with_suffix(f".{secrets.token_hex(4)}")
        write_private(fresh, json.dumps(made).encode())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, self._path(billing_period))
        fresh.unlink()
        sync(self._folder)
        return self._required(billing_period)

    def _keys(self, billing_period: str) -> dict[str, Any] | None:
        if self.is_purged(billing_period):
            raise GateClosed(f"the contacts of {billing_period} were purged; nothing brings them back")
        try:
            return json.loads(self._path(billing_period).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise FatalError(
                f"the key to contacts of {billing_period} is damaged: move {self._path(billing_period)} away and bring it back with"
                " `makegood contacts restore --from FILE`"
            ) from None

    def _required(self, billing_period: str) -> dict[str, Any]:
        kept = self._keys(billing_period)
        if kept is None:
            raise UsageError(
                f"no contacts of {billing_period} are kept here; `makegood contacts list` says of which months there are"
            )
        return kept

    def _write(self, billing_period: str, kept: dict[str, Any]) -> None:
        fresh = self._path(billing_period).with_suffix(".partial")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(fresh, json.dumps(kept).encode())
        fresh.replace(self._path(billing_period))
        sync(self._folder)

    def _path(self, billing_period: str) -> Path:
        return self._folder / f"{BillingPeriod.parse(billing_period)}.json"

    def _tombstone(self, billing_period: str) -> Path:
        return self._path(billing_period).with_suffix(".purged")


def require_passphrase(text: str) -> str:
    """A passphrase as it is used, without the line break of the file it came from.

    Raises:
        UsageError: it is too short to keep keys with.
    """
    passphrase = text.strip("\r\n")
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        raise UsageError(f"the passphrase has {len(passphrase)} characters; {PASSPHRASE_CHARACTERS_MIN} are needed")
    return passphrase


def _bound(head: bytes, billing_period: str) -> bytes:
    """What a sealed content is bound to: moved to another period, it does not open."""
    return head + billing_period.encode()


def _key() -> dict[str, str]:
    return {"id": secrets.token_hex(ID_BYTES), "key": b64encode(secrets.token_bytes(KEY_BYTES)).decode()}


def _plain(contact: str) -> str:
    """A contact without what people write differently: case in an address, blanks and hyphens in a number."""
    text = contact.strip().lower()
    return (
        text if "@" in text else "".join(character for character in text if character.isdecimal() or character == "+")
    )


def _stretched(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, **SCRYPT).derive(passphrase.encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file for its owner alone, and have it on the disk."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
