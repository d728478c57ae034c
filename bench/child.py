"""One contender, once, in a process of its own: what `measure.in_child` starts. Request on standard input, result on output."""

import importlib
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Import, call, and print `measure.Trial` as JSON on the last line."""
    request = json.load(sys.stdin)
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print belongs on standard error
    module, function = request["target"].split(":")
    began = time.perf_counter()
    for name in request["imports"]:
        importlib.import_module(name)
    call = getattr(importlib.import_module(module), function)
    imported = time.perf_counter()
    cpu = time.process_time()
    answer = call(**request["arguments"])
    done = {
        "seconds": time.perf_counter() - imported,
        "cpu_seconds": time.process_time() - cpu,
        "import_seconds": imported - began,
        "peak_bytes": _peak_bytes(),
        "answer": answer,
    }
    with os.fdopen(answers, "w") as out:
        out.write(json.dumps(done, default=str) + "\n")


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
