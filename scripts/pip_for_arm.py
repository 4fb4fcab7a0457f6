#!/usr/bin/env python3
"""pip that installs for a Raspberry Pi with Python 3.13, from any machine.

    python scripts/pip_for_arm.py FOLDER REQUIREMENT...     options of `pip install` may follow

pip's own --platform chooses wheels for another machine, but evaluates requirement markers for this one; here they are
evaluated for the board too.
"""

import sys

from pip._internal.cli.main import main
from pip._vendor.packaging import markers

PYTHON = "3.13"
PLATFORMS = (*(f"manylinux_2_{minor}" for minor in range(36, 16, -1)), "manylinux2014")  # Debian 12 has glibc 2.36
ENVIRONMENT = {
    "implementation_name": "cpython",
    "implementation_version": f"{PYTHON}.0",
    "os_name": "posix",
    "platform_machine": "aarch64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": f"{PYTHON}.0",
    "python_version": PYTHON,
    "sys_platform": "linux",
}


def arguments(folder: str, *requirements: str) -> list[str]:
    """The arguments of pip that fill `folder`."""
    chosen = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    chosen += [f"--abi={abi}" for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none")]
    chosen += [f"--platform={platform}_aarch64" for platform in PLATFORMS]
    quiet = ["--quiet", "--quiet", "--no-compile", "--disable-pip-version-check"]
    return ["install", *quiet, *chosen, "--target", folder, *requirements]


if __name__ == "__main__":
    here = markers.default_environment
    markers.default_environment = lambda: {**here(), **ENVIRONMENT}
    sys.exit(main(arguments(*sys.argv[1:])))
