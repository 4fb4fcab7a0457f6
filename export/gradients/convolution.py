"""Rules of Conv and ConvTranspose, each gradient in the form that onnxruntime computes fastest.

Measured on onnxruntime 1.19.2, 1.22.1 and 1.31.1 (benchmarks/README.md): the weight gradient is one matrix product per
position of the kernel on shifted channels-last maps, unless the channels are few; then it is one batched product with
all shifted maps side by side. For a depthwise convolution it is products and sums. The input gradient is a transposed
convolution; or, where the stride is 1, a convolution with the flipped kernel if that is depthwise, of one element, or
has many channels. Between 12 and 96 channels the latter wins by a quarter on 1.22 and loses by a seventh on 1.31.
"""

import math

import onnx_ir as ir

from export.gradients.registry import Applied, Gradients, rule
from export.gradients.tape import Tape
from export.gradients.windows import Windows, windows_of

# From this many input channels on, products per kernel position beat one product of all positions together.
_CHANNELS_MANY = 12
# From this many input channels on, a convolution with the flipped kernel beats a transposed convolution.
_CHANNELS_WIDE = 96
# From this many windows per sample on, one product per sample is as fast on one thread and up to twice on two.
_WINDOWS_MANY = 512


@rule("Conv")
def conv(tape: Tape, node: Applied) -> Gradients:
    """y = x * W + b over windows: x' = g * W flipped and transposed, W' = x * g, b' = the sum of g."""
    shape_x, shape_w, shape_y = (tape.shape(v) for v in (node.x, node.input(1), node.y))
    kernel = tuple(int(n) for n in shape_w[2:])
    windows = windows_of(node, kernel, shape_x[2:], shape_y[2:])
    group = node.integer("group", 1)
    g, w = node.gradient, node.input(1)
    left = right = bias = None
    if node.needed[0]:
        left = _input_gradient(tape, g, w, windows, group, tuple(int(n) for n in shape_w))
    if node.needed[1]:
        right = _weight_gradient(tape, node.x, g, windows, group, tuple(int(n) for n in shape_w))
    if len(node.needed) > 2 and node.needed[2]:
        bias = tape.reduce("ReduceSum", g, [0, *range(2, len(shape_y))], keepdims=False)
    return [left, right, bias]


@rule("ConvTranspose")
def conv_transpose(tape: Tape, node: Applied) -> Gradients:
    """The input gradient of a convolution as an operator: its gradient is that convolution of g."""
    shape_x, shape_w, shape_y = (tape.shape(v) for v in (node.x, node.input(1), node.y))
    if node.text("auto_pad", "NOTSET").startswith("SAME") or node.integers("output_shape"):
        raise node.refuse("computes its padding from an output shape", "give pads and output_padding")
    kernel = tuple(int(n) for n in shape_w[2:])
    windows = windows_of(node, kernel, shape_y[2:], shape_x[2:])
    group = node.integer("group", 1)
    g = node.gradient
    left = right = bias = None
    if node.needed[0]:
        left = _conv(tape, g, node.input(1), windows, group)
    if node.needed[1]:
        right = _weight_gradient(tape, g, node.x, windows, group, tuple(int(n) for n in shape_w))
    if len(node.needed) > 2 and node.needed[2]:
        bias = tape.reduce("ReduceSum", g, [0, *range(2, len(shape_y))], keepdims=False)
    return [left, right, bias]


def _conv(tape: Tape, x: ir.Value, w: ir.Value, windows: Windows, group: int) -> ir.Value:
    """The convolution over `windows`, with elements that no window reaches cut off first."""
    if any(p < 0 for p in windows.behind):
        rank = len(windows.large)
        x = tape.op(
            "Slice",
            x,
            [0] * rank,
            [n + min(p, 0) for n, p in zip(windows.large, windows.behind, strict=True)],
            list(range(2, 2 + rank)),
        )
    pads = [*windows.before, *(max(p, 0) for p in windows.behind)]
    return tape.op(
        "Conv",
        x,
        w,
        group=group,
        pads=pads,
        strides=list(windows.stride),
        dilations=list(windows.dilation),
        kernel_shape=list(windows.kernel),
    )


def _input_gradient(
    tape: Tape, g: ir.Value, w: ir.Value, windows: Windows, group: int, shape_w: tuple[int, ...]
) -> ir.Value:
    """The gradient of the map: every g times the kernel, added where its window lay."""
    out_channels, channels = shape_w[0], shape_w[1] * group
    ends = [(k - 1) * d for k, d in zip(windows.kernel, windows.dilation, strict=True)]
    fits = all(e >= p for e, p in zip(ends, windows.before, strict=True)) and all(
        e - q >= 0 for e, q in zip(ends, windows.behind, strict=True)
    )
    depthwise = group == channels == out_channels
    wide = channels >= _CHANNELS_WIDE and channels >= out_channels
    shrinking = channels >= max(_CHANNELS_MANY, 2 * out_channels)
    single = group == 1 and all(k == 1 for k in windows.kernel)
    if fits and all(s == 1 for s in windows.stride) and (depthwise or wide or shrinking or single):
        pads = [e - p for e, p in zip(ends, windows.before, strict=True)]
        pads += [e - q for e, q in zip(ends, windows.behind, strict=True)]
        return tape.op(
            "Conv",
            g,
            _flipped(tape, w, group, shape_w),
            group=group,
            pads=pads,
            dilations=list(windows.dilation),
            kernel_shape=list(windows.kernel),
        )
    behind = windows.behind
    return tape.op(
        "ConvTranspose",
        g,
        w,
        group=group,
        strides=list(windows.stride),
        dilations=list(windows.dilation),
        kernel_shape=list(windows.kernel),
        pads=[*windows.before, *(max(p, 0) for p in behind)],
        output_padding=[max(-p, 0) for p in behind],
    )


def _flipped(tape: Tape, w: ir.Value, group: int, shape: tuple[int, ...]) -> ir.Value:
    """The kernel with input and output channels exchanged and every axis behind them reversed."""
    rank = len(shape) - 2
    if group == 1:
        w = tape.op("Transpose", w, perm=[1, 0, *range(2, rank + 2)])
    else:
        grouped = tape.op("Reshape", w, [group, shape[0] // group, *shape[1:]])
        w = tape.op("Transpose", grouped, perm=[0, 2, 1, *range(3, rank + 3)])
        w = tape.op("Reshape", w, [shape[1] * group, shape[0] // group, *shape[2:]])
    if all(k == 1 for k in shape[2:]):
        return w
    axes = list(range(2, rank + 2))
    return tape.op("Slice", w, [-1] * rank, [-(k + 1) for k in shape[2:]], axes, [-1] * rank)


def _weight_gradient(
    tape: Tape, x: ir.Value, g: ir.Value, windows: Windows, group: int, shape: tuple[int, ...]
) -> ir.Value:
    """The gradient of the kernel [O, C/group, ...]: for every position in it, g times the map shifted by it."""
    if group == 1 and shape[1] >= _CHANNELS_MANY:
        return _by_position(tape, x, g, windows, shape)
    if group > 1 and shape[0] == group and shape[1] == 1:
        return _by_channel(tape, x, g, windows, shape)
    return _by_group(tape, x, g, windows, group, shape)


def _by_position(tape: Tape, x: ir.Value, g: ir.Value, windows: Windows, shape: tuple[int, ...]) -> ir.Value:
    """Many channels: g times the shifted map for every position, channels last, where shifted rows are contiguous.

    One product [O, windows of all samples] x [.., C], or one per sample, which threads share out better, and their sum.
    """
    rank = len(windows.kernel)
    per_sample = math.prod(windows.small) >= _WINDOWS_MANY
    if per_sample:
        rows = tape.op("Reshape", g, [0, shape[0], -1])
    else:
        rows = tape.op("Reshape", tape.op("Transpose", g, perm=[1, 0, *range(2, rank + 2)]), [shape[0], -1])
    last = tape.op("Transpose", x, perm=[0, *range(2, rank + 2), 1])
    padded = windows.padded(tape, last, channels_last=True)
    parts = []
    for position in windows.positions():
        columns = windows.shifted(tape, padded, position, first_axis=1)
        columns = tape.op("Reshape", columns, [0, -1, shape[1]] if per_sample else [-1, shape[1]])
        product = tape.op("MatMul", rows, columns)
        parts.append(tape.reduce("ReduceSum", product, [0], keepdims=False) if per_sample else product)
    if len(parts) == 1:
        return tape.op("Reshape", parts[0], list(shape))
    joined = tape.op("Reshape", tape.op("Concat", *parts, axis=1), [shape[0], *windows.kernel, shape[1]])
    return tape.op("Transpose", joined, perm=[0, rank + 1, *range(1, rank + 1)])


def _by_channel(tape: Tape, x: ir.Value, g: ir.Value, windows: Windows, shape: tuple[int, ...]) -> ir.Value:
    """Depthwise: the sum of g times the shifted map, channel by channel; channels last where slices take steps."""
    rank = len(windows.kernel)
    last = any(s != 1 for s in windows.stride)
    if last:
        perm = [0, *range(2, rank + 2), 1]
        x, g = tape.op("Transpose", x, perm=perm), tape.op("Transpose", g, perm=perm)
    padded = windows.padded(tape, x, channels_last=last)
    axes = list(range(rank + 1)) if last else [0, *range(2, rank + 2)]
    parts = []
    for position in windows.positions():
        shifted = windows.shifted(tape, padded, position, first_axis=1 if last else 2)
        total = tape.reduce("ReduceSum", tape.op("Mul", shifted, g), axes, keepdims=False)
        parts.append(tape.op("Unsqueeze", total, [1]))
    joined = parts[0] if len(parts) == 1 else tape.op("Concat", *parts, axis=1)
    return tape.op("Reshape", joined, list(shape))


def _by_group(tape: Tape, x: ir.Value, g: ir.Value, windows: Windows, group: int, shape: tuple[int, ...]) -> ir.Value:
    """Few channels, or groups: all shifted maps side by side, times g, per sample and group; summed over samples."""
    padded = windows.padded(tape, x)
    parts = []
    for position in windows.positions():
        shifted = windows.shifted(tape, padded, position, first_axis=2)
        parts.append(tape.op("Reshape", shifted, [0, group, shape[1], -1]))
    columns = parts[0] if len(parts) == 1 else tape.op("Concat", *parts, axis=2)
    rows = tape.op("Transpose", tape.op("Reshape", g, [0, group, shape[0] // group, -1]), perm=[0, 1, 3, 2])
    product = tape.reduce("ReduceSum", tape.op("MatMul", columns, rows), [0], keepdims=False)
    rank = len(windows.kernel)
    product = tape.op("Reshape", product, [group, *windows.kernel, shape[1], shape[0] // group])
    ordered = tape.op("Transpose", product, perm=[0, rank + 2, rank + 1, *range(1, rank + 1)])
    return tape.op("Reshape", ordered, list(shape))
