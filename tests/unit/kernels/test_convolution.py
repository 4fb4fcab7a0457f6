"""The sparse convolution and its two gradients against windows written out in double precision."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.kernels.layout import Map, assert_near, run, session, spread, stamp, windows


@dataclass(frozen=True)
class Case:
    """A convolution: batch, channels in and out, map, kernel, stride, padding (top, left, bottom, right), ..."""

    batch: int = 5
    channels: tuple[int, int] = (3, 4)
    size: tuple[int, int] = (6, 7)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    group: int = 1
    density: float = 0.4
    extra: int = 0
    seed: int = 0

    @property
    def places(self) -> tuple[int, int]:
        """Height and width of the result."""
        found = [
            (n + p + q - (k - 1) * d - 1) // s + 1
            for n, p, q, k, d, s in zip(
                self.size, self.pads[:2], self.pads[2:], self.kernel, self.dilation, self.stride, strict=True
            )
        ]
        return found[0], found[1]

    def halo(self, *, of_gradient: bool) -> tuple[int, int]:
        """The least halo that x, or the gradient of y, needs."""
        result = []
        for axis in range(2):
            n, m, s = self.size[axis], self.places[axis], self.stride[axis]
            p, d, k = self.pads[axis], self.dilation[axis], self.kernel[axis]
            if not of_gradient:
                result.append(max(p, (m - 1) * s - p + (k - 1) * d - (n - 1), 0))
                continue
            need = 0
            for tap in range(k):
                away = tap * d - p
                phase = away % s
                count = -(-(n - phase) // s)
                shift = (phase - away) // s
                if count > 0:
                    need = max(need, -shift, shift + count - m)
            result.append(need)
        return result[0], result[1]


class Tensors:
    """Random tensors of a case, and what the operators are told."""

    def __init__(self, case: Case) -> None:
        self.case = case
        draws = np.random.default_rng(case.seed)
        c, o = case.channels
        self.x = draws.standard_normal((case.batch, c, *case.size)).astype(np.float32)
        self.dy = draws.standard_normal((case.batch, o, *case.places)).astype(np.float32)
        self.bias = draws.standard_normal(o).astype(np.float32)
        shape = (o, c // case.group, *case.kernel)
        mask = draws.random(shape) < case.density
        self.w = np.where(mask, draws.standard_normal(shape), 0).astype(np.float32)
        self.kept = np.flatnonzero(mask).astype(np.int32)
        self.values = self.w.ravel()[self.kept]
        self.map_x, self.map_y = self._maps(case.halo(of_gradient=False), (0, case.extra))
        self.map_dx, self.map_dy = self._maps((case.extra, 0), case.halo(of_gradient=True))
        self.windows = {"kernel": list(case.kernel), "strides": list(case.stride), "before": list(case.pads[:2])}
        self.windows |= {"dilations": list(case.dilation)}
        self.attributes = {"x": self.map_x.attribute, "y": self.map_y.attribute, "group": case.group, **self.windows}
        self.weights = {"values": self.values, "kept": self.kept, "stamp": stamp(1)}

    def _maps(self, of_x: tuple[int, int], of_y: tuple[int, int]) -> tuple[Map, Map]:
        case = self.case
        return Map(case.channels[0], *case.size, *of_x), Map(case.channels[1], *case.places, *of_y)

    def _taps(self) -> np.ndarray:
        """[N, group, C / group, places..., kernel...]"""
        case = self.case
        seen = windows(self.x.astype(float), case.kernel, case.stride, case.pads[:2], case.dilation, case.places)
        return seen.reshape(case.batch, case.group, -1, *seen.shape[2:])

    def _by_group(self, array: np.ndarray, axis: int) -> np.ndarray:
        return array.astype(float).reshape(*array.shape[:axis], self.case.group, -1, *array.shape[axis + 1 :])

    def forward(self) -> np.ndarray:
        """y before the ReLU."""
        y = np.einsum("ngchwij,gocij->ngohw", self._taps(), self._by_group(self.w, 0))
        return y.reshape(self.dy.shape) + self.bias.astype(float)[:, None, None]

    def input_gradient(self) -> np.ndarray:
        """dx."""
        g = np.einsum("ngohw,gocij->ngchwij", self._by_group(self.dy, 1), self._by_group(self.w, 0))
        g = g.reshape(self.case.batch, self.case.channels[0], *g.shape[3:])
        case = self.case
        return spread(g, self.x.shape, case.kernel, case.stride, case.pads[:2], case.dilation, case.places)

    def value_gradient(self) -> np.ndarray:
        """The gradient of the kept values."""
        dw = np.einsum("ngohw,ngchwij->gocij", self._by_group(self.dy, 1), self._taps())
        found: np.ndarray = dw.ravel()[self.kept]
        return found


CASES = {
    "plain": Case(),
    "no padding": Case(pads=(0, 0, 0, 0), kernel=(5, 5)),
    "stride 2": Case(stride=(2, 2), size=(8, 7)),
    "stride 3 by 1": Case(stride=(3, 1), size=(9, 5)),
    "1 by 1, stride 2": Case(kernel=(1, 1), stride=(2, 2), pads=(0, 0, 0, 0)),
    "pads that differ": Case(pads=(0, 2, 1, 0)),
    "dilated": Case(dilation=(2, 3), size=(9, 11)),
    "dilated, stride 2": Case(dilation=(3, 2), stride=(2, 2), size=(11, 9)),
    "grouped": Case(channels=(6, 4), group=2),
    "depthwise": Case(channels=(5, 10), group=5),
    "one axis": Case(size=(1, 17), kernel=(1, 5), pads=(0, 2, 0, 2)),
    "larger padding than kernel": Case(kernel=(2, 2), pads=(2, 2, 2, 2)),
    "one image": Case(batch=1),
    "a full tile": Case(batch=16),
    "33 images": Case(batch=33),
    "everything kept": Case(density=1.0),
    "nothing kept": Case(density=0.0),
    "many channels in blocks": Case(channels=(150, 12), size=(12, 12), density=0.1, batch=2),
    "many outputs in blocks": Case(channels=(8, 200), size=(12, 12), density=0.1, batch=2),
    "wider halos than needed": Case(extra=2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward_and_both_gradients_are_those_of_the_masked_dense_convolution(case: Case) -> None:
    check(case)


def check(case: Case) -> None:
    """Forward, input gradient and value gradient of one case."""
    t = Tensors(case)
    x, dy = t.map_x.pack(t.x), t.map_dy.pack(t.dy)
    (y,) = run("Conv", {"x": x, **t.weights, "bias": t.bias}, **t.attributes)
    assert_near(t.map_y.unpack(y, case.batch), t.forward())
    gradient = {"dy": t.map_dy.attribute, **t.attributes}
    (dx,) = run("ConvInputGradient", {"dy": dy, **t.weights}, **gradient, dx=t.map_dx.attribute)
    assert_near(t.map_dx.unpack(dx, case.batch), t.input_gradient())
    (dv,) = run("ConvValueGradient", {"dy": dy, **t.weights, "x": x}, **gradient)
    assert_near(dv, t.value_gradient(), 1e-4)


sizes = st.tuples(st.integers(1, 9), st.integers(1, 20))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any convolution that has a result."""
    group = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    least = [max((k - 1) * d + 1 - p - q, 1) for k, d, p, q in zip(kernel, dilation, pads[:2], pads[2:], strict=True)]
    more = draw(sizes)
    return Case(
        batch=draw(st.sampled_from([1, 2, 7, 16, 17, 33])),
        channels=(group * draw(st.integers(1, 4)), group * draw(st.integers(1, 4))),
        size=(least[0] + more[0] - 1, least[1] + more[1] - 1),
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 4))),
        pads=pads,
        dilation=dilation,
        group=group,
        density=draw(st.sampled_from([0.0, 0.05, 0.3, 0.8, 1.0])),
        extra=draw(st.integers(0, 2)),
        seed=draw(st.integers(0, 1000)),
    )


@given(cases())
@settings(max_examples=60, deadline=None)
def test_any_convolution_is_the_masked_dense_one(case: Case) -> None:
    check(case)


def test_relu_of_the_forward_pass_and_mask_of_the_input_gradient() -> None:
    t = Tensors(Case(channels=(3, 4), extra=1))
    x, dy = t.map_x.pack(np.maximum(t.x, 0)), t.map_dy.pack(t.dy)
    (y,) = run("Conv", {"x": t.map_x.pack(t.x), **t.weights, "bias": t.bias}, **t.attributes, relu=1)
    assert_near(t.map_y.unpack(y, 5), np.maximum(t.forward(), 0))
    gradient = {"dy": t.map_dy.attribute, "dx": t.map_dx.attribute, **t.attributes}
    (dx,) = run("ConvInputGradient", {"dy": dy, **t.weights, "x": x}, **gradient)
    assert_near(t.map_dx.unpack(dx, 5), t.input_gradient() * (t.x > 0))


def test_lists_are_made_anew_when_the_stamp_changes_and_only_then() -> None:
    first, second = Tensors(Case(seed=1)), Tensors(Case(seed=2))
    x = {"x": first.map_x.pack(first.x)}
    made = session("Conv", {**x, **first.weights}, 1, **first.attributes)
    feed = {"values": second.values, "kept": second.kept}
    (before,) = made.run(None, {**x, **first.weights})
    (after,) = made.run(None, {**x, **feed, "stamp": stamp(2)})
    (fresh,) = run("Conv", {**x, **feed, "stamp": stamp(7)}, **first.attributes)
    np.testing.assert_array_equal(after, fresh)
    assert not np.array_equal(before, after)
    reversed_indices = {"kept": second.kept[::-1].copy(), "values": second.values, "stamp": stamp(2)}
    (same,) = made.run(None, {**x, **reversed_indices})  # of the same stamp: not looked at
    np.testing.assert_array_equal(same, after)
