"""Has a file read by a process of its own, so that neither a hang nor a crash nor lost memory is the test's.

Belongs here: starting `reader` and waiting for it. Does not: what is read.
"""

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.settings import PROJECT_ROOT, inherited_environment


class Reading:
    """A reader process, started when needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def read(self, reader: str, path: Path, *, within_seconds: float = 60.0) -> dict[str, Any]:
        """What came of it: `result`, `refused` with `kind`, `traceback`, `crashed` or `hung`; with `seconds` and `mib`."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.reader"], cwd=PROJECT_ROOT, env=inherited_environment(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        self._process.stdin.write(json.dumps({"reader": reader, "path": str(path)}) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], within_seconds)[0]:
            self.close()
            return {"hung": within_seconds}
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read()[-500:]
            return {"crashed": self._process.wait(), "said": said}
        return json.loads(line)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
