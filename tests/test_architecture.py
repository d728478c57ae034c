"""Imports point one way, and this file proves that it looked.

The rule is data; the checker is tried on a known violation first, and must have seen real imports.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

VERBS = {
    "extract", "verify", "release", "report", "assess", "plan", "approve", "cancel", "refund", "rebill", "reconcile", "notify",
    "incident", "close", "lookup", "calibrate", "audit",
}  # fmt: skip

MAY_IMPORT = {
    "core": {"core"},
    "schema": set(),
    "errors": {"core"},
    "ports": {"core", "schema", "errors"},
    "settings": {"core", "errors"},
    "verb": {"core", "schema", "errors", "ports", "execution", "remedy", "judge", "charts"},
    "judge": {"core", "schema", "errors", "ports", "expectations"},
    "failpoints": {"errors"},
    "execution": {"core", "schema", "errors", "ports", "failpoints"},
    "remedy": {"core", "errors", "ports", "execution", "failpoints"},
    "repair": {"core", "errors", "ports", "execution"},
    "adapters": {"core", "schema", "errors", "ports", "settings", "adapters", "failpoints", "pipeline"},
    "generate": {"core", "schema", "errors", "ports", "generate"},
    "sandbox": {"sandbox"},
    "charts": {"core"},
    "proof": {"core"},  # an oracle: it may not know anything that planned or executed
    "progress": {"ports"},
    "expectations": {"expectations", "core"},
}
"""Layer -> layers it may import. `bootstrap`, the command line and `__main__` may import everything; `dags` has its own rule."""

EVERYTHING = {
    "installation",
    "oversight",
    "remediation",
    "sending",
    "declarations",
    "bootstrap",
    "replay",
    "cli",
    "cli_incident",
    "cli_control",
    "cli_sending",
    "cli_gate",
    "cli_generate",
    "cli_calibrate",
    "cli_scorecard",
    "cli_audit",
    "scorecard",
    "__main__",
}


def layer_of(module: str) -> str:
    """The layer a dotted module name belongs to."""
    parts = module.split(".")
    if parts[0] in ("expectations", "dags"):
        return parts[0]
    name = parts[1] if len(parts) > 1 else "pipeline"
    return "verb" if name in VERBS else name


def imports_of(source: str) -> set[str]:
    """Every module a source imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "pipeline" else {node.module}
            )
            found |= names
    return found


def violations(module: str, source: str) -> list[str]:
    """What `module` imports and may not."""
    layer = layer_of(module)
    bad = []
    for target in sorted(imports_of(source)):
        top = target.split(".")[0]
        if top == "airflow" and layer != "dags":
            bad.append(f"{module} imports Airflow")
        if top == "great_expectations" and layer not in ("expectations", "judge"):
            bad.append(f"{module} imports Great Expectations")
        if top not in ("pipeline", "expectations", "dags") or layer in EVERYTHING:
            continue
        other = layer_of(target)
        if layer == "dags":
            if other not in {"bootstrap", "errors", "verb", "dags", "settings", "core", "ports"}:
                bad.append(f"{module} imports {target}")
        elif other == layer == "verb":
            bad.append(f"{module} imports another verb, {target}")
        elif other not in MAY_IMPORT[layer]:
            bad.append(f"{module} imports {target}")
    return bad


def modules() -> list[tuple[str, str]]:
    found = []
    for top in ("pipeline", "expectations", "dags"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if name != "pipeline":
                found.append((name, path.read_text(encoding="utf-8")))
    return found


def test_imports_point_one_way():
    everything = modules()
    seen = sum(len([t for t in imports_of(source) if t.startswith("pipeline")]) for _, source in everything)
    assert len(everything) > 30 and seen > 80, "the checker saw too little to be believed"
    assert [v for name, source in everything for v in violations(name, source)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.core.money", "import pipeline.adapters.lake"),
        ("pipeline.release", "from pipeline.verify import verify"),
        ("pipeline.release", "from pipeline import verify"),
        ("pipeline.adapters.lake", "def f():\n    import great_expectations"),
        ("pipeline.sandbox.server", "from pipeline.core import money"),
        ("pipeline.execution", "from airflow.sdk import dag"),
        ("pipeline.proof", "from pipeline.plan import plan"),
        ("pipeline.proof", "from pipeline.execution import Sender"),
        ("pipeline.proof", "from pipeline.adapters import ledger"),
    ],
)
def test_the_checker_sees_a_violation(module, source):
    assert violations(module, source)


def test_core_needs_the_standard_library_alone():
    import sys

    for name, source in modules():
        if layer_of(name) == "core":
            outside = {t.split(".")[0] for t in imports_of(source)} - sys.stdlib_module_names - {"pipeline"}
            assert not outside, f"{name} imports {outside}"


def test_only_settings_reads_the_environment():
    readers = [name for name, source in modules() if "os.environ" in source or "getenv" in source]
    assert readers == ["pipeline.settings"]


def test_the_package_under_test_is_this_one():
    import expectations
    import pipeline

    assert Path(pipeline.__file__).is_relative_to(ROOT)
    assert Path(expectations.__file__).is_relative_to(ROOT)
