"""Every set of instructions that the library holds gives the same answers; and the library says what it is."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.sparse.layout import OPERATORS_VERSION
from tests.unit.kernels.layout import LIBRARY

ROOT = Path(__file__).parents[3]
WIDTHS = {"avx512": 16, "avx2": 8, "baseline": 4}
_SAY = "import ctypes, sys; l = ctypes.CDLL(sys.argv[1]); l.espalier_kernels_instructions.restype = ctypes.c_char_p; "
_SAY += "print(l.espalier_kernels_instructions().decode(), l.espalier_kernels_lanes())"


def _asked_for(name: str) -> tuple[str, int]:
    """Instructions and lanes of a process that asks for these."""
    environment = {**os.environ, "ESPALIER_KERNELS": name}
    done = subprocess.run(
        [sys.executable, "-c", _SAY, str(LIBRARY)], env=environment, capture_output=True, text=True, check=True
    )
    instructions, lanes = done.stdout.split()
    return instructions, int(lanes)


@pytest.mark.parametrize("name", WIDTHS)
def test_operators_are_right_in_every_width_that_this_machine_has(name: str) -> None:
    if _asked_for(name) != (name, WIDTHS[name]):
        pytest.skip(f"this machine does not run {name}")
    files = [ROOT / "tests" / "unit" / "kernels" / f"test_{kind}.py" for kind in ("convolution", "maps", "hostile")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)],
        env={**os.environ, "ESPALIER_KERNELS": name}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def test_instructions_that_do_not_exist_fall_back_to_those_that_always_run() -> None:
    assert _asked_for("neon2048") == ("baseline", 4)


def test_library_has_the_version_that_its_distribution_says() -> None:
    project = (ROOT / "device_runtime" / "kernels" / "pyproject.toml").read_text()
    version = ctypes.CDLL(str(LIBRARY)).espalier_kernels_version()
    assert version == OPERATORS_VERSION
    assert f'version = "{version}.' in project
    assert f'"espalier-kernels>={version},<{version + 1}"' in (ROOT / "pyproject.toml").read_text()
