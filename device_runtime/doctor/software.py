"""Is what is installed able to train here: Python, packages, one onnxruntime, instructions of the processor."""

import importlib
import importlib.metadata
import re
import sys

from device_runtime.doctor.finding import Answer, Finding, Patient, not_checked
from device_runtime.engines.registry import engine_kinds
from device_runtime.wire.errors import EngineError, UsageError
from firmware_profiles.base_install import base_install

PYTHON_MIN = (3, 11)
# All of these own the folder `onnxruntime`.
RUNTIMES = (
    "onnxruntime",
    "onnxruntime-training-cpu",
    "onnxruntime-training",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)
RUNTIME = "device_runtime.runner"
REINSTALL = "pip install --force-reinstall espalier-fl"
# Runs in a process of its own: an illegal instruction ends that process and not the doctor.
PROBE = """
from device_runtime.boards.tiny_graphs import matmul_graph
from device_runtime.engines.session import open_session
import numpy
one = numpy.ones((64, 64), numpy.float32)
session = open_session(matmul_graph(64), threads=1)
print("product", float(session.run(None, {"a": one, "b": one})[0][0, 0]))
"""
SIGILL = -4
NOT_STARTED = (126, 127)


def check_python(patient: Patient) -> list[Finding]:
    """Python is new enough and of 64 bits."""
    version = ".".join(str(v) for v in sys.version_info[:3])
    if sys.version_info < PYTHON_MIN:
        return [Finding("python", "failed", f"Python {version} is older than 3.11", "sudo apt install python3.11-venv")]
    if sys.maxsize < 2**32:
        remedy = "flash a 64-bit image: espalier flash image"
        return [
            Finding("python", "failed", f"Python {version} is a 32-bit one; onnxruntime has no wheel for it", remedy)
        ]
    return [Finding("python", "ok", f"Python {version}, 64 bits")]


def check_packages(patient: Patient) -> list[Finding]:
    """Every package of the base install is there, in a version that will do; runtimes have a check of their own."""
    try:
        wanted = [r for r in base_install() if r.name not in RUNTIMES]
    except UsageError as error:
        return not_checked("packages", str(error), REINSTALL)
    findings = []
    for requirement in wanted:
        version = installed(requirement.name)
        remedy = f"pip install '{requirement.name}{requirement.specifier}'"
        if version is None:
            findings.append(Finding("packages", "failed", f"{requirement.name} is not installed", remedy))
        elif not requirement.specifier.contains(version, prereleases=True):
            found = f"{requirement.name} is {version}, and {requirement.specifier} is needed"
            findings.append(Finding("packages", "failed", found, remedy))
    words = ", ".join(f"{r.name} {installed(r.name)}" for r in wanted)
    return findings or [Finding("packages", "ok", words)]


def check_runtime(patient: Patient) -> list[Finding]:
    """Exactly one onnxruntime is installed, and it is none that this processor cannot run."""
    present = {name: version for name in RUNTIMES if (version := installed(name))}
    return judge_runtime(present, patient)


def judge_runtime(present: dict[str, str], patient: Patient) -> list[Finding]:
    """The judgement on a set of onnxruntime distributions and their versions."""
    words = ", ".join(f"{name} {version}" for name, version in present.items())
    if not present:
        return [Finding("onnxruntime", "failed", "no onnxruntime is installed: nothing can train", REINSTALL)]
    if len(present) > 1:
        remedy = f"pip uninstall --yes {' '.join(present)} && {REINSTALL}"
        return [Finding("onnxruntime", "failed", f"{words} overwrite one another's files", remedy)]
    facts = patient.detection.facts
    arm = facts.architecture in ("aarch64", "arm64")
    if (
        arm
        and numbers(next(iter(present.values())))[:2] == (1, 21)
        and facts.features
        and "asimddp" not in facts.features
    ):
        found = f"{words} uses instructions that this processor lacks (no asimddp): it dies of SIGILL"
        return [Finding("onnxruntime", "failed", found, "pip install 'onnxruntime>=1.22'")]
    return [Finding("onnxruntime", "ok", words)]


def check_imports(patient: Patient) -> list[Finding]:
    """All that `espalier device run` loads can be loaded."""
    if not patient.live:
        return not_checked("imports", "this is a captured tree")
    try:
        importlib.import_module(RUNTIME)
    except ImportError as error:
        return [Finding("imports", "failed", f"the runtime cannot be loaded: {error}", REINSTALL)]
    return [Finding("imports", "ok", "the runtime can be loaded")]


def check_engine(patient: Patient) -> list[Finding]:
    """onnxruntime really computes here, tried in a process of its own."""
    if not patient.live:
        return not_checked("engine", "this is a captured tree")
    return judge_engine(patient.run([sys.executable, "-c", PROBE]))


def judge_engine(answer: Answer | None) -> list[Finding]:
    """The judgement on the probe's answer."""
    if answer is None:
        return [Finding("engine", "failed", "a product of two small matrices does not end in time", REINSTALL)]
    if answer.status in NOT_STARTED:
        return not_checked("engine", f"{sys.executable} cannot start itself as a program here (an emulator?)")
    if answer.status == SIGILL:
        found = "onnxruntime dies of an illegal instruction: this wheel is not made for this processor"
        return [Finding("engine", "failed", found, "pip install --upgrade 'onnxruntime>=1.22'")]
    if answer.status != 0 or "product 64.0" not in answer.out:
        last = next(
            (line for line in reversed(answer.out.splitlines()) if line.strip()), f"exit status {answer.status}"
        )
        return [Finding("engine", "failed", f"onnxruntime does not compute: {last.strip()[:200]}", REINSTALL)]
    return [Finding("engine", "ok", "onnxruntime loads and computes")]


def check_engines(patient: Patient) -> list[Finding]:
    """Some engine has all that it needs; what the others need is said."""
    try:
        kinds = engine_kinds().values()
    except EngineError as error:
        return [Finding("engines", "failed", str(error), REINSTALL)]
    lacking = "; ".join(f"{kind.name} needs {kind.needs}" for kind in kinds if not kind.is_installed())
    here = ", ".join(kind.name for kind in kinds if kind.is_installed())
    if not here:
        return [Finding("engines", "failed", f"none can run here: {lacking}", REINSTALL)]
    return [Finding("engines", "ok", f"{here}; {lacking}" if lacking else here)]


def check_features(patient: Patient) -> list[Finding]:
    """The processor has the instructions that its board is known for."""
    facts, board = patient.detection.facts, patient.detection.board
    if not facts.features:
        return not_checked("cpu features", "/proc/cpuinfo tells none")
    expected = board.clusters[0].features if board and board.clusters else ()
    missing = [f for f in expected if f not in facts.features]
    if missing:
        found = f"the system hides {', '.join(missing)}, which this board has; kernels that use it will not run"
        return [Finding("cpu features", "warning", found, "boot the board's own 64-bit kernel")]
    known = [
        f
        for f in ("asimd", "asimdhp", "asimddp", "atomics", "i8mm", "bf16", "sve", "avx2", "avx512f")
        if f in facts.features
    ]
    return [Finding("cpu features", "ok", ", ".join(known) or "none that kernels use")]


def check_telemetry(patient: Patient) -> list[Finding]:
    """Official wheels from 1.29 send telemetry unless a variable forbids it; the runtime sets it by itself."""
    value = patient.environ.get("ORT_DISABLE_TELEMETRY")
    if value == "1":
        return [Finding("telemetry", "ok", "ORT_DISABLE_TELEMETRY is 1")]
    version = installed("onnxruntime")
    if version is None or numbers(version) < (1, 29):
        return [Finding("telemetry", "ok", "this onnxruntime has none")]
    found = "the runtime turns it off for itself; other programs that load this onnxruntime would send"
    return [Finding("telemetry", "warning", found, "export ORT_DISABLE_TELEMETRY=1")]


def check_board(patient: Patient) -> list[Finding]:
    """Which board this is."""
    detection = patient.detection
    if detection.board is None:
        return [Finding("board", "warning", "; ".join(detection.reasons), "espalier boards detect")]
    words = f"{detection.board.id}: {'; '.join(detection.reasons)}"
    if detection.doubts:
        return [Finding("board", "warning", f"{words}; but {'; '.join(detection.doubts)}", "espalier boards detect")]
    return [Finding("board", "ok", words)]


def installed(name: str) -> str | None:
    """The version of an installed distribution, None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "1.22.0rc1" is (1, 22, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
