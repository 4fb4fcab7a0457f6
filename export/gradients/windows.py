"""Windows over the axes behind the channels: what Conv, ConvTranspose and the poolings have in common."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.gradients.registry import Applied
from export.gradients.tape import Dim, Tape


@dataclass(frozen=True, slots=True)
class Windows:
    """How windows lie over a large map (the side that is padded), one number per axis.

    large, small: lengths of the map and count of the windows. before: zeros in front of the map; what lies behind it
    follows from the rest, and may be negative where the last elements are in no window.
    """

    large: tuple[int, ...]
    small: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]

    @property
    def behind(self) -> tuple[int, ...]:
        """Zeros behind the map that the last windows reach; negative: elements that none reaches."""
        reach = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in self._steps()]
        return tuple(r - p - n for r, p, n in zip(reach, self.before, self.large, strict=True))

    def positions(self) -> Iterator[tuple[int, ...]]:
        """Every position in a window, in row-major order."""
        return itertools.product(*(range(k) for k in self.kernel))

    def padded(self, tape: Tape, x: ir.Value, value: float = 0.0, *, channels_last: bool = False) -> ir.Value:
        """The map with what the windows reach beyond it."""
        pads = np.array([list(self.before), [max(p, 0) for p in self.behind]], dtype=np.int64)
        if not pads.any():
            return x
        outer = np.zeros((2, 1), dtype=np.int64)
        columns = [outer, pads, outer] if channels_last else [outer, outer, pads]
        return tape.op("Pad", x, np.concatenate(columns, axis=1).ravel(), *([value] if value else []))

    def shifted(self, tape: Tape, padded: ir.Value, position: tuple[int, ...], *, first_axis: int) -> ir.Value:
        """For every window the element at `position`: a slice of the padded map, of the windows' count."""
        starts = [i * d for i, d in zip(position, self.dilation, strict=True)]
        ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, self.small, self.stride, strict=True)]
        axes = [first_axis + i for i in range(len(starts))]
        steps = [list(self.stride)] if any(s != 1 for s in self.stride) else []
        if not steps and starts == [0] * len(starts) and ends == self._padded_length():
            return padded
        return tape.op("Slice", padded, starts, ends, axes, *steps)

    def _padded_length(self) -> list[int]:
        return [p + n + max(q, 0) for p, n, q in zip(self.before, self.large, self.behind, strict=True)]

    def _steps(self) -> list[tuple[int, int, int, int]]:
        return list(zip(self.small, self.stride, self.kernel, self.dilation, strict=True))


def windows_of(node: Applied, kernel: tuple[int, ...], large: tuple[Dim, ...], small: tuple[Dim, ...]) -> Windows:
    """The windows of a node whose attributes are those of Conv, for maps of these lengths.

    Raises GradientError where a length is open.
    """
    rank = len(kernel)
    lengths = [_fixed(node, n) for n in large]
    counts = [_fixed(node, n) for n in small]
    stride = tuple(node.integers("strides") or [1] * rank)
    dilation = tuple(node.integers("dilations") or [1] * rank)
    pads = node.integers("pads") or [0] * (2 * rank)
    before = pads[:rank]
    auto = node.text("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        total = [
            max((c - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, c, s, k, d in zip(lengths, counts, stride, kernel, dilation, strict=True)
        ]
        before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    return Windows(tuple(lengths), tuple(counts), kernel, stride, dilation, tuple(before))


def _fixed(node: Applied, length: Dim) -> int:
    if isinstance(length, str):
        raise node.refuse(f"has windows over an axis of open length {length}", "fix every axis but the batch")
    return length
