"""Every check in the order in which a person would look, and the sum of what they found."""

from collections.abc import Callable, Sequence
from typing import Any

from device_runtime.doctor.connection import check_broker, check_broker_limits, check_tls_files
from device_runtime.doctor.finding import Check, Finding, Patient
from device_runtime.doctor.hardware import (
    check_clock,
    check_memory,
    check_memory_cgroup,
    check_temperature,
    check_throttling,
)
from device_runtime.doctor.software import (
    check_board,
    check_engine,
    check_engines,
    check_features,
    check_imports,
    check_packages,
    check_python,
    check_runtime,
    check_telemetry,
)
from device_runtime.doctor.storage import check_card_wear, check_data, check_folder, check_profile
from device_runtime.wire.errors import UsageError

CHECKS: tuple[tuple[str, Check], ...] = (
    ("board", check_board),
    ("python", check_python),
    ("packages", check_packages),
    ("onnxruntime", check_runtime),
    ("cpu features", check_features),
    ("imports", check_imports),
    ("engine", check_engine),
    ("engines", check_engines),
    ("telemetry", check_telemetry),
    ("clock", check_clock),
    ("memory", check_memory),
    ("memory cgroup", check_memory_cgroup),
    ("temperature", check_temperature),
    ("throttling", check_throttling),
    ("folder", check_folder),
    ("data", check_data),
    ("profile", check_profile),
    ("card wear", check_card_wear),
    ("tls files", check_tls_files),
    ("broker", check_broker),
    ("broker limits", check_broker_limits),
)


def examine(patient: Patient, progress: Callable[[str], None], only: Sequence[str] = ()) -> list[Finding]:
    """Run every check, or those named `only`; `progress` hears the name of each before it begins.

    Raises UsageError for a name that is no check's.
    """
    names = [name for name, _ in CHECKS]
    if unknown := [name for name in only if name not in names]:
        raise UsageError(f"the doctor has no check {unknown[0]!r}; it has: {', '.join(names)}.")
    findings: list[Finding] = []
    for name, check in CHECKS:
        if not only or name in only:
            progress(name)
            findings += check(patient)
    return findings


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as JSON values, with how many there are of each status."""
    statuses = ("ok", "warning", "failed", "not checked")
    return {
        "healthy": not any(f.status == "failed" for f in findings),
        "counts": {s: sum(f.status == s for f in findings) for s in statuses},
        "findings": [{"check": f.check, "status": f.status, "found": f.found, "remedy": f.remedy} for f in findings],
    }
