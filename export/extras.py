"""Modules of optional extras: imported where they are installed, else refused with the command that installs them."""

import importlib
import importlib.util
from typing import Any

from device_runtime.wire.errors import UsageError


def require(module: str, extra: str) -> Any:
    """A module of an optional extra.

    Raises UsageError naming the extra when it is not installed.
    """
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        name = module.partition(".")[0]
        raise UsageError(f"{name} is not installed here: install it with pip install 'espalier-fl[{extra}]'")
    return importlib.import_module(module)
