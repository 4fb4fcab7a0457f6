"""Sliding windows: the geometry of convolutions and pools, always in two dimensions, and their padding."""

from dataclasses import dataclass

import numpy as np

from export.deploy.net import Layer, Shape
from export.tflite.layouts import stored_shape
from export.tflite.writing import Pen, refuse

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel, strides, dilations and padding (before, after) along height and width."""

    kernel: Pair
    strides: Pair
    dilations: Pair
    before: Pair
    after: Pair

    @property
    def padded(self) -> bool:
        """Is there any padding?"""
        return any((*self.before, *self.after))

    def is_same(self, size: Pair) -> bool:
        """Is the padding what TFLite calls SAME: outputs = ceil(size / stride), the odd element behind?"""
        for n, k, s, d, p, q in zip(
            size, self.kernel, self.strides, self.dilations, self.before, self.after, strict=True
        ):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            if (p, q) != (total // 2, total - total // 2):
                return False
        return True

    def outputs(self, size: Pair) -> Pair:
        """How many windows fit, rounding down."""
        h, w = (
            (n + p + q - (k - 1) * d - 1) // s + 1
            for n, k, s, d, p, q in zip(
                size, self.kernel, self.strides, self.dilations, self.before, self.after, strict=True
            )
        )
        return h, w


def window_of(layer: Layer, kernel: tuple[int, ...], rank: int) -> Window:
    """The window of a layer whose data has `rank` axes; one dimension becomes two of height 1."""
    count = rank - 2
    if count not in (1, 2):
        refuse(layer, f"it works on {count} dimensions, and only 1 and 2 can be written")
    if layer.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        refuse(layer, "its padding is automatic")
    pads = layer.integers("pads", [0] * (2 * count))
    if min(pads) < 0:
        refuse(layer, "its padding is negative")

    def pair(values: list[int], fill: int) -> Pair:
        return (fill, values[0]) if count == 1 else (values[0], values[1])

    return Window(
        kernel=pair(list(kernel), 1),
        strides=pair(layer.integers("strides", [1] * count), 1),
        dilations=pair(layer.integers("dilations", [1] * count), 1),
        before=pair(pads[:count], 0),
        after=pair(pads[count:], 0),
    )


def size_of(shape: Shape) -> Pair:
    """Height and width of a value [N, C, H, W] or [N, C, L]."""
    kept = stored_shape(shape)
    return kept[1], kept[2]


def pad_data(pen: Pen, layer: Layer, window: Window, *, fill: float | None = 0.0) -> tuple[int, str, Pair]:
    """The data as TFLite wants it: (tensor, SAME or VALID, its height and width).

    Padding that SAME does not mean is written as an operator of its own; fill is its value, None where the
    implicit padding of SAME must not be replaced by any value.
    """
    shape = pen.shape(layer, layer.inputs[0])
    size = size_of(shape)
    tensor = pen.tensor(layer)
    if not window.padded:
        return tensor, "VALID", size
    if window.is_same(size):
        return tensor, "SAME", size
    if fill is None:
        refuse(layer, f"its padding {window.before}, {window.after} has no equal there")
    amounts = [(0, 0), *zip(window.before, window.after, strict=True), (0, 0)]
    kept = tuple(n + p + q for n, (p, q) in zip(stored_shape(shape), amounts, strict=True))
    table = pen.integers(f"{layer.name}/pads", np.array(amounts))
    if fill == 0.0:
        padded = pen.emit("PAD", [tensor, table], kept, layer, ("PadOptions", {}))
    else:
        value = pen.constant(f"{layer.name}/fill", np.array([fill], np.float32))
        padded = pen.emit("PADV2", [tensor, table, value], kept, layer, ("PadV2Options", {}))
    return padded, "VALID", (kept[1], kept[2])
