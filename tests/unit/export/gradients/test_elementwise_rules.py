"""Elementwise rules: arithmetic with broadcasting, and activations, against central differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.unit.export.gradients.finite_differences import check

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def _values(shape: tuple[int, ...], seed: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape)


@st.composite
def broadcast_pairs(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast, either perhaps with fewer axes; a batch axis in front of the first."""
    full = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    first = (3, *(n if draw(st.booleans()) else 1 for n in full))
    kept = draw(st.integers(0, len(full)))
    second = tuple(n if draw(st.booleans()) else 1 for n in full[len(full) - kept :])
    return first, second


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"])
@settings(max_examples=12, deadline=None)
@given(pair=broadcast_pairs(), seed=st.integers(0, 1000))
def test_binary(op: str, pair: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    a, b = _values(pair[0], seed), _values(pair[1], seed + 1, 0.5, 2.0)
    check(helper.make_node(op, ["a", "b"], ["y"]), {"a": a, "b": b})


@settings(max_examples=12, deadline=None)
@given(pair=broadcast_pairs(), seed=st.integers(0, 1000))
def test_pow(pair: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    a, b = _values(pair[0], seed, 0.3, 2.0), _values(pair[1], seed + 1, -2.0, 3.0)
    check(helper.make_node("Pow", ["a", "b"], ["y"]), {"a": a, "b": b})


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, 1.0])
def test_pow_of_a_constant(exponent: float) -> None:
    node = helper.make_node("Pow", ["a", "b"], ["y"])
    low = 0.2 if exponent == 0.5 else -2.0
    check(node, {"a": _values((3, 4), 0, low)}, {"b": np.array(exponent)})


UNARY = {
    "Neg": {},
    "Abs": {},
    "Exp": {},
    "Erf": {},
    "Sin": {},
    "Cos": {},
    "Relu": {},
    "LeakyRelu": {"alpha": 0.2},
    "Sigmoid": {},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "HardSwish": {},
    "Tanh": {},
    "Elu": {"alpha": 1.5},
    "Selu": {},
    "Softplus": {},
    "Softsign": {},
    "Identity": {},
    "ThresholdedRelu": {"alpha": 0.5},
}


@pytest.mark.parametrize("op", UNARY)
@settings(max_examples=6, deadline=None)
@given(shape=shapes, seed=st.integers(0, 1000))
def test_unary(op: str, shape: tuple[int, ...], seed: int) -> None:
    check(helper.make_node(op, ["x"], ["y"], **UNARY[op]), {"x": _values(shape, seed, -4.0, 4.0)})


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Reciprocal"])
@settings(max_examples=6, deadline=None)
@given(shape=shapes, seed=st.integers(0, 1000))
def test_unary_of_positive(op: str, shape: tuple[int, ...], seed: int) -> None:
    check(helper.make_node(op, ["x"], ["y"]), {"x": _values(shape, seed, 0.3, 3.0)})


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (None, 1.0), (-1.0, None), (None, None)])
def test_clip(low: float | None, high: float | None) -> None:
    bounds = {name: np.array(v) for name, v in (("low", low), ("high", high)) if v is not None}
    inputs = ["x", "low" if low is not None else "", "high" if high is not None else ""]
    check(helper.make_node("Clip", inputs, ["y"]), {"x": _values((4, 5), 1, -8.0, 8.0)}, bounds)


@pytest.mark.parametrize("slope", [(1,), (3, 1, 1)])
def test_prelu(slope: tuple[int, ...]) -> None:
    check(helper.make_node("PRelu", ["x", "s"], ["y"]), {"x": _values((2, 3, 4, 4), 0), "s": _values(slope, 1)})


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_opset_20(approximate: str) -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)
    check(node, {"x": _values((3, 5), 2, -3.0, 3.0)}, version=20)


def test_mish_of_opset_18() -> None:
    check(helper.make_node("Mish", ["x"], ["y"]), {"x": _values((3, 5), 2, -3.0, 3.0)}, version=18)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@settings(max_examples=8, deadline=None)
@given(shape=shapes, seed=st.integers(0, 1000), data=st.data())
def test_softmax(op: str, shape: tuple[int, ...], seed: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(helper.make_node(op, ["x"], ["y"], axis=axis), {"x": _values(shape, seed)})


@settings(max_examples=10, deadline=None)
@given(pair=broadcast_pairs(), seed=st.integers(0, 1000))
def test_where(pair: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> None:
    a, b = _values(pair[0], seed), _values(pair[1], seed + 1)
    chosen = np.random.default_rng(seed).random(pair[0][1:]) < 0.5
    check(helper.make_node("Where", ["c", "a", "b"], ["y"]), {"a": a, "b": b, "c": chosen}, wanted=["a", "b"])


def test_cast_to_another_float_type() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["d", "d"], ["q"]),
        helper.make_node("CastLike", ["q", "x"], ["y"]),
    ]
    check(nodes, {"x": _values((3, 2), 5)})


def test_a_value_read_several_times_gets_the_sum() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["q"]),
        helper.make_node("Add", ["q", "x"], ["p"]),
        helper.make_node("Mul", ["p", "q"], ["y"]),
    ]
    check(nodes, {"x": _values((4, 3), 3)})
