"""Whether a TFLite model fits a microcontroller: bytes of flash, and of RAM for its tensors."""

import math
import re
from typing import Any

import msgspec

from device_runtime.wire.errors import UsageError

_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
# TFLite Micro starts every tensor at a multiple of 16.
_ALIGNMENT = 16
_BYTES = {"FLOAT32": 4, "FLOAT16": 2, "INT32": 4, "INT64": 8, "INT16": 2, "INT8": 1, "UINT8": 1, "BOOL": 1}


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes. ram_bytes is an estimate from below: the greatest sum of tensors alive at once.

    TFLite Micro's arena also holds its own records and the kernels' scratch memory; `MicroInterpreter`
    reports the exact size on the device (arena_used_bytes).
    """

    flash_bytes: int
    ram_bytes: int
    flash_limit: int | None
    ram_limit: int | None

    def over(self) -> tuple[str, ...]:
        """What does not fit, in words."""
        found = []
        for name, need, limit in (
            ("flash", self.flash_bytes, self.flash_limit),
            ("RAM", self.ram_bytes, self.ram_limit),
        ):
            if limit is not None and need > limit:
                found.append(f"it takes {need:,} bytes of {name} and {limit:,} are given")
        return tuple(found)


def parse_bytes(text: str, option: str) -> int | None:
    """A number of bytes with k or M behind it, None for "".

    >>> parse_bytes("256k", "--flash")
    262144

    Raises UsageError for anything else.
    """
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,12})([kKmM]?)", text, re.ASCII)
    if match is None:
        raise UsageError(f"{option} {text!r} is no number of bytes: write e.g. 262144, 256k or 1M")
    return int(match[1]) * _UNITS[match[2].lower()]


def tensor_bytes(model: Any, type_names: dict[int, str]) -> int:
    """The greatest sum of computed tensors alive at once, in the order of the operators.

    model: the schema object of a TFLite file. A tensor lives from the operator that writes it (inputs: from the
    first) to the last that reads it (outputs: to the end).
    """
    graph = model.subgraphs[0]
    last = len(graph.operators)
    begin, end = dict.fromkeys(map(int, graph.inputs), 0), dict.fromkeys(map(int, graph.outputs), last)
    for i, operator in enumerate(graph.operators):
        for index in map(int, operator.outputs):
            begin.setdefault(index, i)
        for index in map(int, operator.inputs):
            end[index] = max(end.get(index, i), i)
    alive = [0] * (last + 1)
    for index, first in begin.items():
        tensor = graph.tensors[index]
        size = math.prod(map(int, tensor.shape)) * _BYTES.get(type_names.get(tensor.type, ""), 4)
        for i in range(first, end.get(index, first) + 1):
            alive[i] += -(-size // _ALIGNMENT) * _ALIGNMENT
    return max(alive)
