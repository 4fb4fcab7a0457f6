"""The tensors a device keeps for itself: which those are, and their values before and after an assignment."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from device_runtime.wire.errors import LocalWireError, UsageError
from device_runtime.wire.kept_back import fault
from device_runtime.wire.manifest import Manifest
from device_runtime.wire.messages import Assignment
from device_runtime.wire.support import FloatArray, Kept, sha256_hex

LAST: Final = "last"
Choice = str | tuple[str, ...]  # LAST, or names


def check_choice(choice: Choice, source: str) -> None:
    """Raise UsageError, naming `source`, for a text other than "last"."""
    if isinstance(choice, str) and choice != LAST:
        raise UsageError(f'{source}: personal is {choice!r}; use "last", or a list of names such as ["{choice}"].')


def personal_names(choice: Choice, manifest: Manifest) -> tuple[str, ...]:
    """The names of the personal tensors, sorted; none for ().

    Raises UsageError for a name that the model does not have, naming the nearest, for one named twice, when no weight
    or bias would be left to send, and as `last_layer`.
    """
    names = last_layer(manifest) if isinstance(choice, str) else choice
    known = list(manifest.shapes())
    for name in names:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known) or known[-2:])
            raise UsageError(f"personal: the model has no parameter {name!r}; the nearest are: {near}.")
    if why := fault(names, manifest.parameters):
        shown = choice if isinstance(choice, str) else list(choice)
        raise UsageError(f"personal = {shown!r} cannot be kept back: {why}.")
    return tuple(sorted(names))


def last_layer(manifest: Manifest) -> tuple[str, ...]:
    """The weight and the bias of the last layer.

    The weight is that of the last contraction with a parameter, in the order of the graph (the cost table). The bias is
    the parameter of that role with the weight's name up to its last dot: fc2.weight, fc2.bias. Where there is none by
    that name, yet a bias of some other name could be it, nothing is guessed.
    Raises UsageError then, and for a model without contractions.
    """
    weights = [row.weight for row in manifest.costs if row.weight]
    if not weights:
        raise UsageError('personal = "last": the model has no layer with a weight; name the tensors instead.')
    weight = weights[-1]
    stems = {_stem(w) for w in weights}
    biases = {p.name: p.shape for p in manifest.parameters if p.role == "bias"}
    own = [name for name in biases if _stem(name) and _stem(name) == _stem(weight)]
    if own:
        return (weight, *own)
    outputs = set(manifest.shapes()[weight])
    for name, shape in biases.items():
        if math.prod(shape) in outputs and _stem(name) not in stems - {""}:
            raise UsageError(
                f'personal = "last": whether {name!r} is the bias of the last weight {weight!r} cannot be told from '
                f'their names; name the tensors instead, e.g. personal = ["{weight}", "{name}"].'
            )
    return (weight,)


def _stem(name: str) -> str:
    """The layer in a parameter's name: what stands before the last dot."""
    return name.rpartition(".")[0]


def work_of(assignment: Assignment) -> str:
    """A SHA-256 that names what is to be trained: equal for the same assignment and for further attempts of its round.

    All fields but the id and the time to live count.
    """
    return sha256_hex(msgspec.json.encode(msgspec.structs.replace(assignment, id="-", ttl_s=1.0)))


@dataclass(frozen=True, slots=True, eq=False)
class Personal:
    """Personal tensors: their names, and the device's own values, float32, dense; a name may have none yet."""

    names: tuple[str, ...] = ()
    values: Mapping[str, FloatArray] = field(default_factory=dict)

    def completed(self, received: Mapping[str, Kept]) -> "Personal":
        """With the received values, zero off their support, for every name that has none of its own."""
        return Personal(
            self.names, {n: self.values[n] if n in self.values else received[n].dense() for n in self.names}
        )

    def in_place(self, received: Mapping[str, Kept]) -> dict[str, Kept]:
        """`received` with the own values, on the support, in place of those of the personal tensors."""
        return {n: Kept.of(self.values[n], k.support) if n in self.values else k for n, k in received.items()}

    def trained(self, local: Mapping[str, Kept]) -> "Personal":
        """With the trained values, zero off the support: the layer as the device computes with it.

        So a weight that leaves the mask is forgotten, and one that comes to it begins at 0. Raises LocalWireError for a
        value that is not finite.
        """
        for name in self.names:
            if not np.isfinite(local[name].values).all():
                raise LocalWireError(f"parameter {name!r} has values that are not finite: the training diverged")
        return Personal(self.names, {n: local[n].dense() for n in self.names})
