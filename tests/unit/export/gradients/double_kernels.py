"""Operators in plain numpy and double precision, where onnx's reference evaluator rounds, or does not know the case."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import helper
from onnx.reference.op_run import OpRun


def given(op: OpRun) -> dict[str, Any]:
    """The attributes that the node has; the evaluator hands over only those it knows from a signature."""
    return {a.name: helper.get_attribute_value(a) for a in op.onnx_node.attribute}


class Erf(OpRun):
    """onnx's own rounds to single precision."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (_erf(x),)


class Gelu(OpRun):
    """Both forms; onnx's own rounds to single precision."""

    op_domain = ""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + _erf(x / math.sqrt(2))),)


class Pad(OpRun):
    """Constant padding, negative amounts too."""

    op_domain = ""

    def _run(
        self, x: np.ndarray, pads: np.ndarray, value: Any = None, axes: Any = None, mode: str = "constant"
    ) -> tuple:
        assert mode == "constant"
        amounts = np.zeros((2, x.ndim), dtype=np.int64)
        amounts[:, range(x.ndim) if axes is None else axes] = pads.reshape(2, -1)
        fill = 0 if value is None else np.asarray(value).item()
        grown = np.pad(x, np.maximum(amounts, 0).T, constant_values=fill)
        box = (slice(max(-a, 0), n - max(-b, 0)) for a, b, n in zip(*amounts, grown.shape, strict=True))
        return (grown[tuple(box)].astype(x.dtype),)


class Conv(OpRun):
    """Convolution by one product per position in the kernel, for any number of axes, groups and dilations."""

    op_domain = ""

    def _run(self, x: np.ndarray, w: np.ndarray, b: Any = None, **_: Any) -> tuple[np.ndarray]:
        attributes = given(self)
        window = Window(attributes, w.shape[2:], x.shape[2:])
        group = attributes.get("group") or 1
        padded = window.pad(x, 0.0)
        y = np.zeros((len(x), group, w.shape[0] // group, *window.count), dtype=x.dtype)
        weights = w.reshape(group, -1, *w.shape[1:])
        for position, box in window.boxes():
            part = padded[(..., *box)].reshape(len(x), group, w.shape[1], *window.count)
            y += np.einsum("bgc...,goc->bgo...", part, weights[(..., *position)])
        y = y.reshape(len(x), w.shape[0], *window.count)
        return (y if b is None else y + b.reshape(-1, *[1] * len(window.count)),)


class ConvTranspose(OpRun):
    """The adjoint of `Conv`, with output padding."""

    op_domain = ""

    def _run(self, x: np.ndarray, w: np.ndarray, b: Any = None, **_: Any) -> tuple[np.ndarray]:
        attributes = given(self)
        rank, group = x.ndim - 2, attributes.get("group") or 1
        stride, dilation = (attributes.get(k) or [1] * rank for k in ("strides", "dilations"))
        pads, extra = attributes.get("pads") or [0] * 2 * rank, attributes.get("output_padding") or [0] * rank
        reach = [
            (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], stride, w.shape[2:], dilation, strict=True)
        ]
        full = np.zeros((len(x), group, w.shape[1], *(r + e for r, e in zip(reach, extra, strict=True))), dtype=x.dtype)
        grouped, weights = x.reshape(len(x), group, -1, *x.shape[2:]), w.reshape(group, -1, *w.shape[1:])
        for position in itertools.product(*(range(k) for k in w.shape[2:])):
            starts = [p * d for p, d in zip(position, dilation, strict=True)]
            box = tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, x.shape[2:], stride, strict=True))
            full[(..., *box)] += np.einsum("bgc...,gco->bgo...", grouped, weights[(..., *position)])
        cut = tuple(slice(p, n - q) for p, q, n in zip(pads[:rank], pads[rank:], full.shape[3:], strict=True))
        y = full.reshape(len(x), group * w.shape[1], *full.shape[3:])[(..., *cut)]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class MaxPool(OpRun):
    """The largest of each window and its position over the whole tensor."""

    op_domain = ""

    def _run(self, x: np.ndarray, **_: Any) -> tuple[np.ndarray, ...]:
        attributes = given(self)
        window = Window(attributes, attributes["kernel_shape"], x.shape[2:])
        places = window.pad(np.arange(x.size, dtype=np.int64).reshape(x.shape), -1)
        padded = window.pad(x, -np.inf)
        values = np.stack([padded[(..., *box)] for _, box in window.boxes()])
        found = np.stack([places[(..., *box)] for _, box in window.boxes()])
        best = values.argmax(axis=0)[None]
        outputs = (np.take_along_axis(values, best, 0)[0], np.take_along_axis(found, best, 0)[0])
        return outputs[: len(self.onnx_node.output)]


class AveragePool(OpRun):
    """The mean of each window, with or without the padding counted; what lies behind the padding never counts."""

    op_domain = ""

    def _run(self, x: np.ndarray, **_: Any) -> tuple[np.ndarray]:
        attributes = given(self)
        window = Window(attributes, attributes["kernel_shape"], x.shape[2:])
        inside = np.ones(x.shape)
        if attributes.get("count_include_pad"):
            rank = x.ndim - 2
            pads = attributes.get("pads") or [0] * 2 * rank
            inside = np.pad(inside, [(0, 0)] * 2 + list(zip(pads[:rank], pads[rank:], strict=True)), constant_values=1)
            cells = window.pad(x, 0.0)
            counted = np.zeros(cells.shape)
            counted[tuple(slice(0, min(n, m)) for n, m in zip(inside.shape, cells.shape, strict=True))] = 1
        else:
            cells, counted = window.pad(x, 0.0), window.pad(inside, 0.0)
        total = sum(cells[(..., *box)] for _, box in window.boxes())
        count = sum(counted[(..., *box)] for _, box in window.boxes())
        return ((total / count).astype(x.dtype),)


class LayerNormalization(OpRun):
    """All three outputs in the precision of the input."""

    op_domain = ""

    def _run(
        self, x: np.ndarray, s: np.ndarray, b: Any = None, axis: int = -1, epsilon: float = 1e-5, **_: Any
    ) -> tuple:
        axes = tuple(range(axis % x.ndim, x.ndim))
        mean = x.mean(axes, keepdims=True)
        inverse = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + (epsilon or 1e-5))
        y = (x - mean) * inverse * s + (0 if b is None else b)
        return (y, mean, inverse)[: len(self.onnx_node.output)]


class GroupNormalization(OpRun):
    """Scale and bias per channel (opset 21), or per group (opset 18)."""

    op_domain = ""

    def _run(self, x: np.ndarray, s: np.ndarray, b: np.ndarray, **_: Any) -> tuple[np.ndarray]:
        groups, epsilon = given(self)["num_groups"], given(self).get("epsilon", 1e-5)
        flat = x.reshape(len(x), groups, -1)
        unit = (flat - flat.mean(2, keepdims=True)) / np.sqrt(flat.var(2, keepdims=True) + epsilon)
        if len(s) == groups:
            return ((unit * s[:, None] + b[:, None]).reshape(x.shape),)
        unit = unit.reshape(len(x), x.shape[1], -1)
        return ((unit * s[:, None] + b[:, None]).reshape(x.shape),)


class Resize(OpRun):
    """Elements repeated a whole number of times."""

    op_domain = ""

    def _run(
        self, x: np.ndarray, _roi: Any = None, scales: Any = None, _sizes: Any = None, **_: Any
    ) -> tuple[np.ndarray]:
        for axis, scale in enumerate(scales.tolist()):
            assert scale == int(scale)
            x = x.repeat(int(scale), axis)
        return (x,)


class Window:
    """Where the windows of an operator lie, from its attributes."""

    def __init__(self, attributes: dict[str, Any], kernel: Any, size: tuple[int, ...]) -> None:
        rank = len(size)
        self.kernel = list(kernel)
        self.stride, self.dilation = (list(attributes.get(k) or [1] * rank) for k in ("strides", "dilations"))
        pads = list(attributes.get("pads") or [0] * 2 * rank)
        self.before, behind = pads[:rank], pads[rank:]
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        auto = (attributes.get("auto_pad") or b"NOTSET").decode()
        if auto.startswith("SAME"):
            counts = [-(-n // s) for n, s in zip(size, self.stride, strict=True)]
            total = [max((c - 1) * s + k - n, 0) for c, s, k, n in zip(counts, self.stride, spans, size, strict=True)]
            self.before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
            behind = [t - b for t, b in zip(total, self.before, strict=True)]
        self.count = []
        for n, p, q, k, s in zip(size, self.before, behind, spans, self.stride, strict=True):
            rest = n + p + q - k
            count = rest // s + 1
            # Rounding up, a window that would start behind the map and its front padding does not exist.
            if attributes.get("ceil_mode") and rest % s and count * s < n + p:
                count += 1
            self.count.append(count)
        reach = [(c - 1) * s + k for c, s, k in zip(self.count, self.stride, spans, strict=True)]
        self.behind = [max(r - p - n, 0) for r, p, n in zip(reach, self.before, size, strict=True)]

    def pad(self, x: np.ndarray, value: float) -> np.ndarray:
        return np.pad(x, [(0, 0)] * 2 + list(zip(self.before, self.behind, strict=True)), constant_values=value)

    def boxes(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        for position in itertools.product(*(range(k) for k in self.kernel)):
            starts = [p * d for p, d in zip(position, self.dilation, strict=True)]
            yield (
                position,
                tuple(
                    slice(a, a + (c - 1) * s + 1, s) for a, c, s in zip(starts, self.count, self.stride, strict=True)
                ),
            )


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)


KERNELS = [Erf, Gelu, Pad, Conv, ConvTranspose, MaxPool, AveragePool, LayerNormalization, GroupNormalization, Resize]
