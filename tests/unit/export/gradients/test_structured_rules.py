"""Rules of products, windows, normalisations, reductions and moves of elements, against central differences."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.unit.export.gradients.finite_differences import check, runtime_gradients

FEW = settings(max_examples=12, deadline=None)


def _values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@FEW
@given(ta=st.booleans(), tb=st.booleans(), bias=st.sampled_from([None, (), (4,), (1, 4), (3, 1), (3, 4)]))
def test_gemm(ta: bool, tb: bool, bias: tuple[int, ...] | None) -> None:
    inputs = {"a": _values(*((5, 3) if ta else (3, 5))), "b": _values(*((4, 5) if tb else (5, 4)))}
    if bias is not None:
        inputs["c"] = _values(*bias)
    node = helper.make_node("Gemm", list(inputs), ["y"], alpha=0.7, beta=1.3, transA=int(ta), transB=int(tb))
    # A bias with as many rows as the batch could be broadcast or not: that wants a fixed batch.
    check(node, inputs, batched=() if ta or (bias or (0,))[0] == 3 else None)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 2)),
        ((2, 3, 4), (4, 2)),
        ((2, 3, 4), (2, 4, 2)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((3, 4), (2, 4, 5)),
        ((2, 3, 4), (4,)),
        ((4,), (2, 4, 3)),
        ((4,), (4,)),
        ((4,), (4, 3)),
        ((3, 4), (4,)),
    ],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    inputs = {"a": _values(*a), "b": _values(*b, seed=1)}
    batched = [name for name, shape in (("a", a), ("b", b)) if len(shape) == max(len(a), len(b)) > 2]
    check(helper.make_node("MatMul", ["a", "b"], ["y"]), inputs, batched=batched)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, object]:
    """Attributes and sizes of a convolution of one or two axes; each kind of group, and few or many channels."""
    rank = draw(st.integers(1, 2))
    group, channels, out = draw(
        st.sampled_from([(1, 2, 3), (1, 13, 2), (1, 13, 14), (2, 4, 6), (3, 3, 3), (3, 3, 6), (1, 1, 2)])
    )
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    stride = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilation = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    pads = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    size = draw(st.lists(st.integers(5, 7), min_size=rank, max_size=rank))
    return {
        "group": group,
        "channels": channels,
        "out": out,
        "kernel": kernel,
        "strides": stride,
        "dilations": dilation,
        "pads": pads,
        "size": size,
        "bias": draw(st.booleans()),
    }


@settings(max_examples=40, deadline=None)
@given(c=convolutions())
def test_conv(c: dict) -> None:
    inputs = {
        "x": _values(2, c["channels"], *c["size"]),
        "w": _values(c["out"], c["channels"] // c["group"], *c["kernel"]),
    }
    if c["bias"]:
        inputs["b"] = _values(c["out"])
    kept = {k: c[k] for k in ("group", "strides", "dilations", "pads")}
    check(helper.make_node("Conv", list(inputs), ["y"], kernel_shape=c["kernel"], **kept), inputs)


@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_over_a_large_map(kernel: int) -> None:
    inputs = {"x": _values(2, 13, 24, 25), "w": _values(4, 13, kernel, kernel)}
    check(helper.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4), inputs)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_conv_with_automatic_padding(auto_pad: str, stride: int) -> None:
    inputs = {"x": _values(2, 3, 6, 7), "w": _values(4, 3, 3, 2)}
    check(helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=auto_pad, strides=[stride] * 2), inputs)


@settings(max_examples=25, deadline=None)
@given(
    group=st.sampled_from([(1, 2, 3), (1, 13, 14), (2, 4, 6), (1, 3, 1)]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pad=st.integers(0, 1),
    extra=st.integers(0, 1),
    bias=st.booleans(),
)
def test_conv_transpose(
    group: tuple[int, int, int], kernel: int, stride: int, dilation: int, pad: int, extra: int, bias: bool
) -> None:
    count, channels, out = group
    inputs = {"x": _values(2, channels, 4, 5), "w": _values(channels, out // count, kernel, kernel)}
    if bias:
        inputs["b"] = _values(out)
    node = helper.make_node(
        "ConvTranspose",
        list(inputs),
        ["y"],
        group=count,
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        dilations=[dilation] * 2,
        pads=[pad] * 4,
        output_padding=[extra if stride > 1 else 0] * 2,
    )
    check(node, inputs)


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    pads=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    size=st.tuples(st.integers(5, 7), st.integers(5, 7)),
    ceil=st.booleans(),
    seed=st.integers(0, 99),
)
def test_max_pool(kernel: int, stride: int, pads: list[int], size: tuple[int, int], ceil: bool, seed: int) -> None:
    pads = [min(p, kernel - 1) for p in pads]
    if ceil:
        # onnxruntime 1.19.2 counts a window that starts behind the map; torch and the standard do not.
        for n, p, q in zip(size, pads[:2], pads[2:], strict=True):
            assume(-((kernel - n - p - q) // stride) * stride < n + p)
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, ceil_mode=int(ceil)
    )
    check(node, {"x": _values(2, 3, *size, seed=seed)})


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pool_of_tiles_takes_the_first_of_equals(rank: int) -> None:
    x = np.round(_values(2, 3, *[5] * rank))
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2] * rank, strides=[2] * rank)
    weights, found = runtime_gradients(node, {"x": x})
    expected = np.zeros_like(x)
    for window in np.ndindex(2, 3, *[2] * rank):
        cells = tuple(slice(2 * i, 2 * i + 2) for i in window[2:])
        block = x[window[0], window[1]][cells]
        first = np.unravel_index(int(block.argmax()), block.shape)
        expected[window[0], window[1]][cells][first] += weights[window]
    np.testing.assert_allclose(found["x"], expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    pads=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    size=st.tuples(st.integers(5, 7), st.integers(5, 7)),
    include=st.booleans(),
    seed=st.integers(0, 99),
)
def test_average_pool(
    kernel: int, stride: int, pads: list[int], size: tuple[int, int], include: bool, seed: int
) -> None:
    pads = [min(p, kernel - 1) for p in pads]
    node = helper.make_node(
        "AveragePool",
        ["x"],
        ["y"],
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        pads=pads,
        count_include_pad=int(include),
    )
    check(node, {"x": _values(2, 3, *size, seed=seed)})


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(op: str) -> None:
    check(helper.make_node(op, ["x"], ["y"]), {"x": _values(2, 3, 4, 5)})


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_normalization(shape: tuple[int, ...], training: bool) -> None:
    inputs = {"x": _values(*shape), "s": _values(3), "b": _values(3, seed=1)}
    moments = {"m": _values(3, seed=2), "v": np.abs(_values(3, seed=3)) + 0.5}
    outputs = ["y", "batch_mean", "batch_var"] if training else ["y"]
    options = {"training_mode": 1, "momentum": 0.0} if training else {}
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], outputs, epsilon=1e-3, **options)
    check(node, inputs, moments, tolerance=2e-5)


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_layer_normalization(axis: int, bias: bool) -> None:
    x = _values(3, 4, 5)
    inputs = {"x": x, "s": _values(*x.shape[axis:])} | ({"b": _values(*x.shape[axis:], seed=1)} if bias else {})
    check(helper.make_node("LayerNormalization", list(inputs), ["y"], axis=axis), inputs)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5)])
def test_instance_normalization(shape: tuple[int, ...]) -> None:
    inputs = {"x": _values(*shape), "s": _values(3), "b": _values(3, seed=1)}
    check(helper.make_node("InstanceNormalization", list(inputs), ["y"], epsilon=1e-3), inputs)


@pytest.mark.parametrize(("version", "scales"), [(18, 2), (21, 6)])
def test_group_normalization(version: int, scales: int) -> None:
    inputs = {"x": _values(2, 6, 4, 3), "s": _values(scales), "b": _values(scales, seed=1)}
    node = helper.make_node("GroupNormalization", list(inputs), ["y"], num_groups=2, epsilon=1e-3)
    check(node, inputs, version=version)


REDUCTIONS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMin",
    "ReduceLogSumExp",
]


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("version", [17, 18])
@pytest.mark.parametrize("axes", [[0], [1, -1], None])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(op: str, version: int, axes: list[int] | None, keepdims: int) -> None:
    x = {"x": _values(3, 4, 2)}
    if axes is None:
        check(helper.make_node(op, ["x"], ["y"], keepdims=keepdims), x, version=version)
    elif op == "ReduceSum" or version >= 18:
        check(helper.make_node(op, ["x", "a"], ["y"], keepdims=keepdims), x, {"a": _ints(*axes)}, version=version)
    else:
        check(helper.make_node(op, ["x"], ["y"], axes=axes, keepdims=keepdims), x, version=version)


def _move(
    op: str, constants: dict[str, np.ndarray] | None = None, shape: tuple[int, ...] = (3, 4, 5), **attributes: object
) -> None:
    constants = constants or {}
    node = helper.make_node(op, ["x", *constants], ["y"], **attributes)
    check(node, {"x": _values(*shape)}, constants)


def test_moves() -> None:
    _move("Reshape", {"s": _ints(0, -1)})
    _move("Reshape", {"s": _ints(-1, 2, 2, 5)})
    _move("Flatten", axis=2)
    _move("Transpose", perm=[2, 0, 1])
    _move("Transpose")
    _move("Squeeze", {"a": _ints(1)}, (3, 1, 4))
    _move("Squeeze", None, (3, 1, 4))
    _move("Unsqueeze", {"a": _ints(0, -1)})
    _move("Expand", {"s": _ints(2, 1, 4, 1)}, (3, 1, 5))
    _move("Gather", {"i": np.array([[0, 2], [2, 3], [-1, 0]])}, axis=1)
    _move("Gather", {"i": np.array(2)}, axis=1)
    _move("Gather", {"i": np.array([1, 1])}, axis=-1)
    _move("Dropout", {"r": np.array(0.4)})


@FEW
@given(data=st.data())
def test_slice(data: st.DataObject) -> None:
    axes = data.draw(st.lists(st.sampled_from([1, 2, -1]), min_size=1, max_size=2, unique_by=lambda a: a % 3))
    bounds = [data.draw(st.integers(-7, 7)) for _ in axes], [data.draw(st.integers(-7, 9)) for _ in axes]
    steps = [data.draw(st.sampled_from([1, 2, -1, -2])) for _ in axes]
    x = _values(2, 6, 6)
    box = [slice(None)] * 3
    for axis, low, high, step in zip(axes, *bounds, steps, strict=True):
        box[axis] = slice(*_clamped(low, high, step, 6))
    if x[tuple(box)].size:
        constants = {"s": _ints(*bounds[0]), "e": _ints(*bounds[1]), "a": _ints(*axes), "t": _ints(*steps)}
        check(helper.make_node("Slice", ["x", *constants], ["y"]), {"x": x}, constants)


def _clamped(low: int, high: int, step: int, length: int) -> tuple[int, int | None, int]:
    stop: int | None = high
    if step < 0 and high < -length:
        stop = None
    return low, stop, step


@FEW
@given(pads=st.lists(st.integers(-1, 2), min_size=6, max_size=6))
def test_pad(pads: list[int]) -> None:
    check(helper.make_node("Pad", ["x", "p"], ["y"]), {"x": _values(3, 4, 4)}, {"p": _ints(*pads)})


def test_pad_of_some_axes() -> None:
    constants = {"p": _ints(1, 0, 2, 1), "v": np.array(0.5), "a": _ints(2, 1)}
    check(helper.make_node("Pad", ["x", "p", "v", "a"], ["y"]), {"x": _values(3, 4, 4)}, constants, version=18)


def test_concat_and_split() -> None:
    inputs = {"a": _values(3, 2, 4), "b": _values(3, 1, 4, seed=1)}
    nodes = [
        helper.make_node("Concat", ["a", "b", "a"], ["c"], axis=1),
        helper.make_node("Split", ["c", "sizes"], ["p", "q", "r"], axis=-2),
        helper.make_node("Concat", ["r", "p"], ["y"], axis=1),
    ]
    check(nodes, inputs, {"sizes": _ints(1, 2, 2)}, batched=["a", "b"])


def test_a_reshape_to_a_computed_shape_resolves() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "zero"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Add", ["flat", "b"], ["y"]),
    ]
    constants = {"first": np.array(0), "zero": _ints(0), "rest": _ints(-1)}
    check(nodes, {"x": _values(3, 2, 4), "b": _values(8)}, constants)
