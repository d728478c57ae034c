"""Asks an advisory service about every package of the lock, and says loudly when it could not ask.

Belongs here: the pins of `requirements.txt`, one run of `pip-audit` over them, and what its silence is worth. Does not: fixing anything.
`pip-audit` calls packages that the service does not know "skipped" and is content; behind a package mirror that is all of them. So a
package with known advisories is asked about along with the others: if nothing is said of it, nobody was asked.

    python tools/audit_lock.py      # 0: asked, nothing known; or could not ask (SKIPPED is printed). 1: there are advisories
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.txt"
TOOL = ("tool", "run", "--from", "pip-audit==2.10.1", "pip-audit")
SERVICES = ("pypi", "osv")
TIMEOUT_SECONDS = 300

KNOWN_BAD = ("django", "3.0")
"""Has dozens of published advisories, and is in no lock of ours."""

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)

Found = dict[str, list[str]]


def main() -> int:
    """Ask; returns the exit code."""
    pins = _PIN.findall(LOCK.read_text(encoding="utf-8"))
    for service in SERVICES:
        advisories, skipped, problem = ask(service, pins)
        if problem:
            _say(f"{service}: {problem}")
            continue
        for package, ids in advisories.items():
            _say(f"{package}: {', '.join(ids)}")
        if skipped:
            _say(f"NOT ASKED ABOUT: {len(skipped)} of {len(pins)} packages: {', '.join(skipped)}")
        _say(
            f"asked {service} about {len(pins) - len(skipped)} packages of the lock: {len(advisories)} have advisories"
        )
        return 1 if advisories else 0
    _say(
        f"SKIPPED: no advisory service could be asked about the {len(pins)} packages of the lock; nothing is known about them"
    )
    return 0


def ask(service: str, pins: list[tuple[str, str]]) -> tuple[Found, list[str], str | None]:
    """Advisories by package, packages that were not asked about, and why nothing of that counts (None if it does)."""
    advisories: Found = {}
    skipped: list[str] = []
    for batch in _without_repeats(pins):
        said, problem = _run(service, [*batch, KNOWN_BAD])
        if problem:
            return {}, [], problem
        by_name = {item["name"].lower(): item for item in said}
        if not by_name.get(KNOWN_BAD[0], {}).get("vulns"):
            return {}, [], f"says nothing of {'=='.join(KNOWN_BAD)}, which has known advisories: it did not answer"
        for name, version in batch:
            item = by_name.get(name.lower(), {})
            if "vulns" not in item:
                skipped.append(f"{name}=={version}")
            elif item["vulns"]:
                advisories[f"{name}=={version}"] = [found["id"] for found in item["vulns"]]
    return advisories, skipped, None


def _without_repeats(pins: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The pins in lists that name each package once: the lock has some in several versions, for several Pythons."""
    batches: list[dict[str, str]] = []
    for name, version in pins:
        batch = next((known for known in batches if name not in known), None)
        if batch is None:
            batches.append(batch := {})
        batch[name] = version
    return [list(batch.items()) for batch in batches]


def _run(service: str, pins: list[tuple[str, str]]) -> tuple[list[dict], str | None]:
    with tempfile.TemporaryDirectory() as folder:
        wanted, answer = Path(folder) / "pins.txt", Path(folder) / "answer.json"
        wanted.write_text("".join(f"{name}=={version}\n" for name, version in pins), encoding="utf-8")
        command = [Path(sys.executable).with_name("uv"), *TOOL, "--vulnerability-service", service, "--disable-pip", "--no-deps",
                   "--progress-spinner", "off", "--format", "json", "--output", answer, "--requirement", wanted]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)  # noqa: S603 - our own words
        except (OSError, subprocess.TimeoutExpired) as error:
            return [], f"could not be asked ({type(error).__name__})"
        if not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            return [], f"could not be asked: {last[:200]}"
        return json.loads(answer.read_text(encoding="utf-8"))["dependencies"], None


def _say(line: str) -> None:
    sys.stdout.write(f"audit-lock: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
