"""Who may import whom: the table of docs/explanation/architecture.md, held by walking every import of the source."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("device_runtime", "aggregator", "export", "firmware_profiles")
KERNELS = ROOT / "device_runtime" / "kernels"  # a distribution of its own, which its build alone imports
STANDARD = set(sys.stdlib_module_names) | {"compression"}  # of 3.14
IMPURE = {"time", "random", "os", "socket", "logging", "asyncio", "threading", "subprocess", "sqlite3", "pathlib"}


@dataclass(frozen=True)
class Row:
    """A part of the source, what it may import of ours, and what it must never import."""

    part: str
    ours: tuple[str, ...]
    never: frozenset[str] = frozenset()
    why: str = ""


# The first row whose part matches decides.
TABLE = (
    Row("device_runtime.wire", ("device_runtime.wire",), frozenset(IMPURE | {"paho"}), "pure, and imports nobody"),
    Row("device_runtime.agent_events", ("device_runtime.wire",), frozenset(IMPURE | {"paho", "onnx"}), "plain values"),
    Row(
        "device_runtime.agent",
        ("device_runtime.wire", "device_runtime.agent_events"),
        frozenset(IMPURE | {"paho", "onnx"}),
        "pure decisions",
    ),
    Row("device_runtime", ("device_runtime", "firmware_profiles"), frozenset({"torch", "onnx"}), "a board is small"),
    Row(
        "aggregator.core",
        ("aggregator.core", "device_runtime.wire"),
        frozenset(IMPURE | {"paho", "onnx", "onnxruntime", "torch"}),
        "pure decisions and maths",
    ),
    Row(
        "aggregator.simulation",
        ("aggregator", "device_runtime", "export"),
        frozenset({"paho", "torch"}),
        "fleets without MQTT",
    ),
    Row(
        "aggregator",
        # link and store are the one MQTT client and the one blob store; data and engines serve evaluation; the record
        # of a profile is what its report draws.
        (
            "aggregator",
            "export",
            "device_runtime.wire",
            "device_runtime.link",
            "device_runtime.surroundings",
            "device_runtime.store",
            "device_runtime.data",
            "device_runtime.config",
            "device_runtime.profile.record",
            "device_runtime.profile.values",
            "device_runtime.profile.words",
            "device_runtime.engines",
        ),
        frozenset({"torch", "paho"}),
        "the shell uses core, export's functions and the shared shell pieces",
    ),
    Row(
        "export",
        (
            "export",
            "device_runtime.wire",
            "device_runtime.engines.registry",
            "device_runtime.engines.session",
            "device_runtime.guard.artifact",
        ),
        frozenset({"paho"}),
        "models in, artifacts out; the registry names each engine's writer, the guard what no device would open",
    ),
    Row("firmware_profiles", ("firmware_profiles", "device_runtime.wire"), frozenset({"torch"}), "data"),
)

ONE_OWNER = {
    # The link, and the doctor's one question in MQTT 5, which the link does not speak.
    "paho": {"device_runtime.link", "device_runtime.doctor.mqtt_limits"},
    "torch": {"export.models.torch_import"},
    "sqlite3": {"aggregator.ledger", "aggregator.ledger_faults"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted(set((ROOT / package).rglob("*.py")) - set(KERNELS.rglob("*.py"))):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(p for p in parts if p != "__init__"), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def row_of(module: str) -> Row:
    return next(row for row in TABLE if within(module, row.part))


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else "")
def test_every_module_imports_only_what_its_room_allows(module: str, path: Path) -> None:
    row = row_of(module)
    for name in imports(path):
        top = name.partition(".")[0]
        assert top not in row.never, f"{module} imports {name}: {row.part} never does ({row.why})"
        if top in OURS:
            assert any(within(name, allowed) for allowed in row.ours), f"{module} imports {name} ({row.why})"
        if top in ONE_OWNER:
            assert module in ONE_OWNER[top], f"{module} imports {name}, which {ONE_OWNER[top]} owns"


def test_importing_a_part_of_the_device_package_runs_nothing_else() -> None:
    tree = ast.parse((ROOT / "device_runtime" / "__init__.py").read_text())
    assert len(tree.body) == 1, "device_runtime/__init__.py is a docstring"
    assert isinstance(tree.body[0], ast.Expr)


def test_only_declared_libraries_are_imported() -> None:
    declared = {
        "numpy", "paho", "msgspec", "safetensors", "backports", "typer", "rich", "onnxruntime",  # the device
        "tomli_w", "packaging",
        "onnx", "onnx_ir", "matplotlib", "torch",  # extras
        "ai_edge_litert", "ai_edge_quantizer", "flatbuffers",  # extras for TFLite
        "google",  # protobuf's errors, which onnx raises
    }  # fmt: skip
    for module, path in modules():
        for name in imports(path):
            top = name.partition(".")[0]
            assert top in STANDARD or top in OURS or top in declared, f"{module} imports {name}"
