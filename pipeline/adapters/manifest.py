"""`manifest.json`: what the issuer says it sent, so that a missing, cut or changed file is noticed.

Belongs here: reading the manifest and refusing one that makes no sense. Does not: comparing it with
files, which happens where they are read (`sources`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline import limits
from pipeline.adapters.strict_columns import shown
from pipeline.bounded_file import read_json
from pipeline.errors import UnreadableInput

MANIFEST_NAME = "manifest.json"

_FIELDS = {"name": (str, "a text"), "sha256": (str, "a text"), "row_count": (int, "a whole number"),
           "control_total_minor": (int, "a whole number")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PromisedFile:
    """One file as the manifest describes it.

    Attributes:
        name: plain file name in the period's folder.
        sha256: of its bytes, 64 lower-case hexadecimal digits.
        row_count: data rows.
        control_total_minor: sum of `amount_minor`.
    """

    name: str
    sha256: str
    row_count: int
    control_total_minor: int


def read_manifest(folder: Path) -> dict[str, PromisedFile] | None:
    """What the manifest in `folder` promises, by file name; None where there is no manifest.

    Raises:
        UnreadableInput: it is no manifest; the message names the entry and the field.
    """
    try:
        content = read_json(folder / MANIFEST_NAME, at_most=limits.MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("files"), list) or not content["files"]:
        raise _refusal('must be an object with a non-empty list "files"')
    promised: dict[str, PromisedFile] = {}
    for index, entry in enumerate(content["files"], start=1):
        file = _promised_file(entry, f"files entry {index}")
        if file.name in promised:
            raise _refusal(f"names {shown(file.name)} twice")
        promised[file.name] = file
    return promised


def _promised_file(entry: object, where: str) -> PromisedFile:
    if not isinstance(entry, dict):
        raise _refusal(f"{where} must be an object with {', '.join(_FIELDS)}")
    for field, (kind, meaning) in _FIELDS.items():
        if field not in entry:
            raise _refusal(f"{where} lacks {field}")
        if type(entry[field]) is not kind:  # true is an int to isinstance
            raise _refusal(f"{where}: {field} must be {meaning}, not {type(entry[field]).__name__}")
    if (why := _why_no_plain_name(entry["name"])) is not None:
        raise _refusal(f"{where}: name {shown(entry['name'])} {why}")
    sha256 = entry["sha256"].lower()
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise _refusal(f"{where}: sha256 must be 64 hexadecimal digits")
    if entry["row_count"] < 0:
        raise _refusal(f"{where}: row_count must not be negative")
    return PromisedFile(entry["name"], sha256, entry["row_count"], entry["control_total_minor"])


def _why_no_plain_name(name: str) -> str | None:
    if "/" in name or "\\" in name:
        return "leads out of the period's folder or into another; write a plain file name"
    if name in ("", ".", "..", MANIFEST_NAME) or not name.isprintable() or len(name.encode("utf-8", "replace")) > 255:
        return "is no name of a charge file"
    return None


def _refusal(reason: str) -> UnreadableInput:
    return UnreadableInput(f"{MANIFEST_NAME} {reason}")
