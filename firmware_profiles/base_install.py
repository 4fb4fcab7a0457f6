"""What the base install needs, on this machine or on a board, as the package's own metadata says: the one list."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from types import MappingProxyType

from packaging.requirements import Requirement

from device_runtime.wire.errors import UsageError

DISTRIBUTION = "espalier-fl"


def board_environment(python: str) -> dict[str, str]:
    """A 64-bit ARM board with that Python ("3.13"), in the words that requirements use for a machine (PEP 508)."""
    return {
        "platform_machine": "aarch64",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "python_version": python,
        "python_full_version": f"{python}.0",
    }


def base_install(environment: Mapping[str, str] = MappingProxyType({})) -> tuple[Requirement, ...]:
    """The requirements without any extra, in their order. `environment`: what differs from this machine.

    Raises UsageError where Espalier runs without being installed, so that there is no metadata.
    """
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError as error:
        raise UsageError(f"{DISTRIBUTION} is not installed here, so nothing says what it needs: install it.") from error
    found = [Requirement(line) for line in lines]
    return tuple(r for r in found if r.marker is None or r.marker.evaluate({**environment, "extra": ""}))
