"""One finding of the doctor, and the patient it is found on."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from device_runtime.config import DeviceSettings
from firmware_profiles.detect import Detection

Status = Literal["ok", "warning", "failed", "not checked"]
PROGRAM_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and the command or step that mends it ("" where nothing needs mending)."""

    check: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said: its exit status (negative: the signal that ended it) and its output."""

    status: int
    out: str


def run_program(command: Sequence[str]) -> Answer | None:
    """Run a program with a time limit; None where it is not installed or does not end."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PROGRAM_TIMEOUT_S, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return None
    return Answer(done.returncode, done.stdout + done.stderr)


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined: the tree below `root`, the settings if any, and how to run programs and read the clock.

    `live` is False for a captured tree: whatever asks the running machine is then not checked.
    """

    detection: Detection
    root: Path = Path("/")
    settings: DeviceSettings | None = None
    live: bool = True
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    run: Callable[[Sequence[str]], Answer | None] = run_program
    now: Callable[[], float] = time.time


Check = Callable[[Patient], list[Finding]]


def not_checked(check: str, why: str, remedy: str = "") -> list[Finding]:
    """The answer of a check that could not look."""
    return [Finding(check, "not checked", why, remedy)]


def without_settings(check: str) -> list[Finding]:
    """The answer of a check that needs the device's settings."""
    return not_checked(check, "no settings file was given", "espalier device doctor --config device.toml")
