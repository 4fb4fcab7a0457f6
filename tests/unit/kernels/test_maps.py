"""Fully connected layers, normalisation, pooling and packing against numpy in double precision."""

import numpy as np
import pytest

from tests.unit.kernels.layout import Map, assert_near, run, spread, stamp, windows

BATCHES = (1, 7, 16, 33)


def _draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("where", [Map(12, 1, 1), Map(3, 2, 4, 1, 2)], ids=["features", "map"])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_fully_connected_layer_and_its_gradients(batch: int, transposed: int, where: Map, density: float) -> None:
    draws, outputs, features = _draws(), 5, where.channels * where.height * where.width
    x = draws.standard_normal((batch, where.channels, where.height, where.width)).astype(np.float32)
    mask = draws.random((outputs, features)) < density
    w = np.where(mask, draws.standard_normal(mask.shape), 0).astype(np.float32)
    bias, dy = (draws.standard_normal(s).astype(np.float32) for s in (outputs, (batch, outputs)))
    stored = (lambda a: a.T) if transposed else (lambda a: a)
    kept = np.flatnonzero(stored(mask)).astype(np.int32)
    weights = {"values": stored(w).ravel()[kept], "kept": kept, "stamp": stamp(1)}
    attributes = {"x": where.attribute, "outputs": outputs, "transposed": transposed}
    flat, of_y = x.reshape(batch, -1).astype(float), Map(outputs, 1, 1)
    (y,) = run("Linear", {"x": where.pack(x), **weights, "bias": bias}, **attributes, relu=1)
    expected = np.maximum(flat @ w.T.astype(float) + bias, 0)
    assert_near(of_y.unpack(y, batch).reshape(batch, -1), expected)
    to, packed = Map(where.channels, where.height, where.width, 0, 1), of_y.pack(dy.reshape(batch, -1, 1, 1))
    feed = {"dy": packed, **weights, "x": where.pack(x)}
    (dx,) = run("LinearInputGradient", feed, **attributes, dx=to.attribute)
    assert_near(to.unpack(dx, batch), (dy.astype(float) @ w).reshape(x.shape) * (x > 0))
    (dv,) = run("LinearValueGradient", feed, **attributes)
    assert_near(dv, stored(dy.T.astype(float) @ flat).ravel()[kept], 1e-4)


@pytest.mark.parametrize("batch", BATCHES)
def test_pack_and_unpack_are_inverse_and_dead_lanes_are_zero(batch: int) -> None:
    where = Map(3, 5, 6, 1, 2)
    x = _draws().standard_normal((batch, 3, 5, 6)).astype(np.float32)
    (packed,) = run("Pack", {"x": x}, y=where.attribute)
    np.testing.assert_array_equal(packed, where.pack(x))
    (back,) = run("Unpack", {"x": packed, "batch": x}, x=where.attribute, sample=[3, 30])
    np.testing.assert_array_equal(back, x.reshape(batch, 3, 30))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("relu", [0, 1])
def test_batch_normalisation_with_branch_and_relu(batch: int, branch: bool, relu: int) -> None:
    draws, of_x, of_y, of_b = _draws(), Map(3, 4, 5), Map(3, 4, 5, 1, 1), Map(3, 4, 5, 0, 2)
    x, added, dy = (draws.standard_normal((batch, 3, 4, 5)).astype(np.float32) for _ in range(3))
    x = (3 * x + 10).astype(np.float32)
    scale, shift = (draws.standard_normal(3).astype(np.float32) for _ in range(2))
    dirty = of_x.pack(x)
    dirty.reshape(-1, dirty.shape[-1])[-of_x.channels * 20 :, (batch - 1) % dirty.shape[-1] + 1 :] = 1e3
    feed = {"x": dirty, "scale": scale, "shift": shift, "batch": x, "branch": of_b.pack(added) if branch else None}
    maps = {"x": of_x.attribute, "y": of_y.attribute, "branch": of_b.attribute}
    y, mean, variance = run("BatchNorm", feed, 3, **maps, epsilon=1e-3, relu=relu)
    wide = x.astype(float)
    m, v = wide.mean((0, 2, 3)), wide.var((0, 2, 3))
    unit = (wide - m[:, None, None]) / np.sqrt(v + 1e-3)[:, None, None]
    before = unit * scale[:, None, None] + shift[:, None, None] + (added if branch else 0)
    expected = np.maximum(before, 0) if relu else before
    assert_near(mean, m)
    assert_near(variance, v, 1e-4)
    assert_near(of_y._all(y)[:batch], expected)
    g = dy * (before > 0) if relu else dy.astype(float)
    h = g * scale[:, None, None]
    centred = h - h.mean((0, 2, 3), keepdims=True) - unit * (h * unit).mean((0, 2, 3), keepdims=True)
    names = {"dy": of_y.attribute, "dx": of_y.attribute, "dbranch": of_x.attribute}
    feed = {"dy": of_y.pack(dy), "x": dirty, "scale": scale, "mean": mean, "variance": variance, "batch": x}
    found = run("BatchNormGradient", {**feed, "y": y if relu else None}, 3 + branch, **maps, **names, epsilon=1e-3)
    assert_near(of_y.unpack(found[0], batch), centred / np.sqrt(v + 1e-3)[:, None, None], 1e-4)
    assert_near(found[1], (g * unit).sum((0, 2, 3)), 1e-4)
    assert_near(found[2], g.sum((0, 2, 3)), 1e-4)
    if branch:
        assert_near(of_x.unpack(found[3], batch), g)


POOLINGS = {
    "2 by 2": ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    "overlapping": ((3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    "padded": ((3, 2), (2, 2), (1, 0, 1, 1), (1, 1)),
    "dilated": ((2, 2), (1, 2), (1, 1, 0, 1), (2, 3)),
    "whole": ((6, 7), (1, 1), (0, 0, 0, 0), (1, 1)),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("pooling", POOLINGS.values(), ids=POOLINGS)
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool", "counting padding"])
def test_pooling_and_its_gradient(batch: int, pooling: tuple, kind: str) -> None:
    kernel, stride, pads, dilation = pooling
    draws, of_x = _draws(), Map(2, 6, 7, 1, 1)
    places = [
        (n + p + q - (k - 1) * d - 1) // s + 1
        for n, p, q, k, d, s in zip((6, 7), pads[:2], pads[2:], kernel, dilation, stride, strict=True)
    ]
    of_y = Map(2, *places, 0, 1)
    x = draws.integers(-3, 4, (batch, 2, 6, 7)).astype(np.float32)  # with ties
    dy = draws.standard_normal((batch, 2, *places)).astype(np.float32)
    where = (kernel, stride, pads[:2], dilation, places)
    valid = windows(np.ones((1, 1, 6, 7)), *where)[0, 0]
    seen = np.where(valid, windows(x.astype(float), *where), -np.inf).reshape(batch, 2, *places, -1)
    counting = kind == "counting padding"
    if kind == "MaxPool":
        expected = seen.max(-1)
        share = np.eye(seen.shape[-1])[seen.argmax(-1)] * (expected > 0)[..., None]
    else:
        full = np.ones((6 + pads[0] + pads[2], 7 + pads[1] + pads[3]))[None, None]
        inside = windows(full, kernel, stride, (0, 0), dilation, places)[0, 0] if counting else valid
        part = valid.reshape(*places, -1) / inside.reshape(*places, -1).sum(-1, keepdims=True)
        expected = (np.where(np.isfinite(seen), seen, 0) * part).sum(-1)
        share = np.broadcast_to(part, seen.shape)
    spec = {"x": of_x.attribute, "y": of_y.attribute, "kernel": kernel, "strides": stride, "before": pads[:2]}
    spec |= {"behind": pads[2:], "dilations": dilation, "count_padding": int(counting)}
    operator = "MaxPool" if kind == "MaxPool" else "AveragePool"
    (y,) = run(operator, {"x": of_x.pack(x)}, **spec)
    assert_near(of_y._all(y)[:batch], expected)
    feed = {"dy": of_y.pack(dy), "x": of_x.pack(x) if kind == "MaxPool" else None}
    (dx,) = run(operator + "Gradient", feed, **spec, dy=of_y.attribute, dx=of_x.attribute, masked=1)
    g = (share * dy[..., None]).reshape(batch, 2, *places, *kernel)
    assert_near(of_x.unpack(dx, batch), spread(g, x.shape, *where))


def test_relu_its_gradient_and_sums_by_channel() -> None:
    draws, first, second = _draws(), Map(3, 4, 5, 1, 1), Map(3, 4, 5, 0, 2)
    x, dy = (draws.standard_normal((7, 3, 4, 5)).astype(np.float32) for _ in range(2))
    (y,) = run("Relu", {"x": first.pack(x)}, x=first.attribute, y=second.attribute)
    np.testing.assert_array_equal(second.unpack(y, 7), np.maximum(x, 0))
    spec = {"y": second.attribute, "dy": first.attribute, "dx": first.attribute}
    (dx,) = run("ReluGradient", {"dy": first.pack(dy), "y": y}, **spec)
    np.testing.assert_array_equal(first.unpack(dx, 7), np.where(x > 0, dy, 0))
    (sums,) = run("ChannelSum", {"x": first.pack(x)}, x=first.attribute)
    assert_near(sums, x.astype(float).sum((0, 2, 3)))


def test_dense_tensor_of_kept_values() -> None:
    feed = {"values": np.array([1, 2], np.float32), "kept": np.array([1, 5], np.int32), "stamp": stamp(1)}
    (dense,) = run("Dense", feed, shape=[2, 3])
    np.testing.assert_array_equal(dense, [[0, 1, 0], [0, 0, 2]])
