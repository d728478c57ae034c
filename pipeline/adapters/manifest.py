"""`manifest.json`: what the issuer says it sent, so that a missing, cut or changed file is noticed.

Belongs here: reading the manifest and refusing one that makes no sense. Does not: comparing it with
files, which happens where they are read (`sources`).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.adapters.strict_columns import shown
from pipeline.errors import UnreadableInput

MANIFEST_NAME = "manifest.json"

LARGEST_MANIFEST_BYTES = 16 * 1024 * 1024
"""Some 80,000 files; anything larger is not a manifest."""

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
    path = folder / MANIFEST_NAME
    try:
        size = path.stat().st_size
        if size > LARGEST_MANIFEST_BYTES:
            raise _refusal(f"is {size:,} bytes long, which no manifest is")
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_object_without_duplicates)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise _refusal(f"is not valid JSON in UTF-8 ({_reason(error)})") from None
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


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a field is there twice")
    return result


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, line {error.lineno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]


def _refusal(reason: str) -> UnreadableInput:
    return UnreadableInput(f"{MANIFEST_NAME} {reason}")
