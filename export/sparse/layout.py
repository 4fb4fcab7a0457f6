"""How an activation lies in memory for the compiled operators: its map, the zeros around it, and its shape as a tensor.

[tiles, cells, lanes]: a cell is one pixel of several images side by side. How many lie side by side is the library's
affair, decided where it is loaded, so both outer axes are open in a graph (device_runtime/kernels/source/geometry.h).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from export.forward.form import BATCH
from export.gradients.tape import Dim

DOMAIN = "espalier"
# What the graphs are written for: device_runtime/kernels/source/operator.h.
OPERATORS_VERSION = 1
TILES, LANES = "tiles", "lanes"
NO_HALO = (0, 0)

Halo = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Map:
    """Channels, height and width of one sample; a vector of features is a map of one pixel."""

    channels: int
    height: int
    width: int

    def with_halo(self, halo: Halo) -> list[int]:
        """As operators are told it: the map, and rows and columns of zeros on each side."""
        return [self.channels, self.height, self.width, *halo]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def map_of(shape: Sequence[Dim]) -> Map | None:
    """The map of [batch, C], [batch, C, L] or [batch, C, H, W]; None for any other shape."""
    if not 2 <= len(shape) <= 4 or shape[0] != BATCH or any(isinstance(n, str) or n < 1 for n in shape[1:]):
        return None
    channels, *size = (int(n) for n in shape[1:])
    return Map(channels, *[1] * (2 - len(size)), *size)


def packed_shape(geometry: Sequence[int]) -> tuple[Dim, ...]:
    """The shape of an activation of this geometry."""
    channels, height, width, rows, columns = geometry
    return TILES, channels * (height + 2 * rows) * (width + columns) + columns, LANES


def geometry(node: ir.Node, name: str) -> list[int]:
    """A geometry that was given to a node."""
    return list(node.attributes[name].as_ints())


@dataclass(frozen=True, slots=True)
class Windows:
    """A convolution's windows, each number for rows and columns; with one axis, rows are one."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    before: tuple[int, int]
    dilations: tuple[int, int]

    def halo_of_input(self, x: Map, y: Map) -> Halo:
        """The zeros around x that the forward pass and the gradient of the weights read."""
        rows, columns = (
            max(p, (m - 1) * s - p + (k - 1) * d - (n - 1), 0)
            for n, m, k, s, p, d in zip(x.size, y.size, *self._axes(), strict=True)
        )
        return rows, columns

    def halo_of_gradient(self, x: Map, y: Map) -> Halo:
        """The zeros around the gradient of y that the gradient of x reads."""
        rows, columns = (
            self._reach(n, m, *axis) for n, m, axis in zip(x.size, y.size, zip(*self._axes(), strict=True), strict=True)
        )
        return rows, columns

    @staticmethod
    def _reach(length: int, places: int, kernel: int, stride: int, before: int, dilation: int) -> int:
        """Cells of x at `phase` modulo the stride read the gradient of y at their place in the class plus a shift."""
        reach = 0
        for tap in range(kernel):
            away = tap * dilation - before
            phase = away % stride
            count = -(-(length - phase) // stride)
            shift = (phase - away) // stride
            if count > 0:
                reach = max(reach, -shift, shift + count - places)
        return reach

    def _axes(self) -> tuple[tuple[int, int], ...]:
        return self.kernel, self.strides, self.before, self.dilations
