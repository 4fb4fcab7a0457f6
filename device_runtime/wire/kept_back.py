"""Which tensors of an update a device may keep back, and which of its submodel's it then sends."""

from collections.abc import Iterable, Mapping, Sequence

from device_runtime.wire.limits import KEPT_BACK_COUNT_MAX
from device_runtime.wire.manifest import Parameter
from device_runtime.wire.support import Support


def fault(names: Sequence[str], parameters: Iterable[Parameter]) -> str:
    """Why an update of a model with these parameters must not lack `names`; "" where it may.

    Every name must be a parameter's and stand once. A weight or a bias must remain: updates are compared by those, and
    one without any has no direction.
    """
    roles = {p.name: p.role for p in parameters}
    for name in names:
        if name not in roles:
            return f"the model has no parameter {name[:60]!r}"
    if len(set(names)) != len(names):
        return "a parameter is named twice"
    if len(names) > KEPT_BACK_COUNT_MAX:
        return f"{len(names)} parameters are more than the {KEPT_BACK_COUNT_MAX} that may be kept back"
    if names and not any(role in ("weight", "bias") for name, role in roles.items() if name not in names):
        return "no weight or bias would be left to send"
    return ""


def sent(supports: Mapping[str, Support], kept_back: Sequence[str]) -> dict[str, Support]:
    """The supports of the tensors that an update holds, in their order."""
    return {name: support for name, support in supports.items() if name not in kept_back}
