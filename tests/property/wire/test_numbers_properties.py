"""Draws, input specifications, FLOPs and percentiles against what they are said to be."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.wire.cost import Flops, NodeCost, flops, masked_dense
from device_runtime.wire.draws import Draws
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.measurement import percentile
from tests.fakes import QUICK

RAW = [10578384455273554965, 1426097887256232775, 8303596965381453429]
PERMUTATION = [1, 7, 3, 6, 2, 0, 5, 4]
UNIFORM = [0.039492248104279204, 0.7396234257396971]
NORMAL = [-0.10327491269774057, -1.1738570628145382, 0.26442531014196813]
BELOW = [0, 7, 3, 6, 1, 3]

KEYS = st.lists(st.one_of(st.integers(-5, 10**6), st.text(max_size=8)), max_size=4)


def test_the_stream_is_the_recorded_one():
    """Recorded once: a change here changes every run ever made."""
    draws = Draws(1, "batches", 3, "device-2", 0)
    assert draws.raw(3).tolist() == RAW
    assert Draws(1, "batches", 3, "device-2", 0).permutation(8).tolist() == PERMUTATION
    assert Draws(0, "x").uniform(2).tolist() == UNIFORM
    assert Draws(0, "x").normal(3) == pytest.approx(NORMAL, rel=1e-12)
    assert Draws(0, "x").below(6, 10).tolist() == BELOW


@QUICK
@given(st.integers(), KEYS)
def test_the_same_key_gives_the_same_bits(seed, keys):
    assert Draws(seed, "p", *keys).raw(4).tolist() == Draws(seed, "p", *keys).raw(4).tolist()


@QUICK
@given(st.integers(0, 50), KEYS, st.integers(0, 50), KEYS)
def test_different_keys_give_different_bits(seed, keys, other_seed, other_keys):
    same = (seed, keys) == (other_seed, other_keys)
    assert (Draws(seed, "p", *keys).raw(2).tolist() == Draws(other_seed, "p", *other_keys).raw(2).tolist()) == same


@pytest.mark.parametrize(
    ("one", "other"), [((1,), ("1",)), (("a", "b"), ("ab",)), (("ab", ""), ("a", "b")), ((12,), (1, 2))]
)
def test_keys_that_look_alike_are_different(one, other):
    assert Draws(0, "p", *one).raw(2).tolist() != Draws(0, "p", *other).raw(2).tolist()


@QUICK
@given(st.integers(), st.integers(0, 300))
def test_uniform_draws_lie_in_the_half_open_unit_interval(seed, count):
    values = Draws(seed, "u").uniform(count)
    assert values.shape == (count,)
    assert ((values >= 0) & (values < 1)).all()


def test_draws_are_uniform_normal_and_independent():
    n = 20_000
    uniform, normal = Draws(5, "u").uniform(n), Draws(5, "n").normal(n)
    counts = np.bincount((uniform * 20).astype(int), minlength=20)
    assert ((counts - n / 20) ** 2 / (n / 20)).sum() < 43.8  # chi-square with 19 degrees of freedom at 0.1 %
    assert abs(normal.mean()) < 4 / math.sqrt(n)
    assert abs(normal.std() - 1) < 4 / math.sqrt(2 * n)
    a, b = (Draws(5, "device", name).uniform(n) for name in ("d0", "d1"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(n)


@QUICK
@given(st.integers(), st.integers(0, 300))
def test_a_permutation_has_everything_once(seed, count):
    assert sorted(Draws(seed, "p").permutation(count)) == list(range(count))


@QUICK
@given(st.integers(), st.integers(0, 100), st.integers(1, 1000))
def test_integers_stay_below_their_bound(seed, count, bound):
    values = Draws(seed, "b").below(count, bound)
    assert values.shape == (count,)
    assert ((values >= 0) & (values < bound)).all()


@QUICK
@given(st.integers(0, 5), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_an_input_specification_gives_the_models_shape(count, sides, chance):
    axes = list(range(len(sides)))
    chance.shuffle(axes)
    raw = np.arange(count * math.prod(sides), dtype=np.uint8).reshape(count, *sides)
    shape = tuple(sides[a] for a in axes)
    channels = shape[0]
    spec = InputSpec(shape=shape, axes=tuple(axes), scale=0.5, mean=tuple(range(channels)), std=(2.0,) * channels)
    got = spec.apply(raw)
    assert (got.shape, got.dtype) == ((count, *shape), np.float32)
    assert got.flags.c_contiguous
    for index in np.ndindex(got.shape):
        place = [0] * len(sides)
        for axis, position in zip(axes, index[1:], strict=True):
            place[axis] = position
        assert got[index] == np.float32((raw[(index[0], *place)] * 0.5 - index[1]) / 2.0)


def test_a_missing_channel_axis_is_added_in_front():
    images = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    got = InputSpec(shape=(1, 3, 4), axes=(0, 2, 1)).apply(images)
    assert np.array_equal(got[:, 0], images.transpose(0, 2, 1))


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (InputSpec(shape=(5,)), (2, 4)),
        (InputSpec(shape=(4,), axes=(0, 1)), (2, 2, 2, 2)),
        (InputSpec(shape=(1, 4), mean=(0.0, 0.0, 0.0)), (2, 4)),
        (InputSpec(shape=(1, 4), std=(1.0, 1.0, 1.0)), (2, 4)),
        (InputSpec(shape=(4,), mean=()), (2, 4)),
    ],
)
def test_an_input_that_cannot_fit_is_refused(spec, shape):
    with pytest.raises(ValueError):  # noqa: PT011 - numpy's words, told anew by `data.prepare`
        spec.apply(np.zeros(shape, dtype=np.uint8))


@st.composite
def cost_tables(draw) -> tuple[list[NodeCost], dict[str, int]]:
    sizes = draw(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 1000)))
    counts = st.integers(0, 10**9)
    rows = [
        NodeCost(
            node=f"n{i}", op="Gemm", weight=weight, weight_count=sizes.get(weight, 0), flops_forward=draw(counts),
            flops_backward_input=draw(counts), flops_backward_weight=draw(counts),
        )
        for i, weight in enumerate(draw(st.lists(st.sampled_from(["", *sorted(sizes)]), max_size=5)))
    ]  # fmt: skip
    kept = {w: draw(st.integers(0, n)) for w, n in sizes.items() if draw(st.booleans())}
    return rows, kept


@QUICK
@given(cost_tables(), st.integers(0, 1000), st.integers(0, 100))
def test_flops_are_those_of_a_plain_loop(table, samples, steps):
    rows, kept = table
    dense = ideal = 0
    for row in rows:
        whole = samples * (row.flops_forward + row.flops_backward_input + row.flops_backward_weight)
        dense += whole
        ideal += whole * kept[row.weight] // row.weight_count if row.weight in kept else whole
    executed = dense
    for weight in {row.weight for row in rows} & set(kept):  # once per weight and pass, however many nodes share it
        executed += 2 * steps * next(row.weight_count for row in rows if row.weight == weight)
    assert flops(rows, kept, masked_dense, samples=samples, steps=steps) == Flops(dense, ideal, executed)


@QUICK
@given(cost_tables(), st.integers(0, 100), st.integers(0, 100))
def test_flops_of_two_trainings_add_up(table, one, other):
    rows, _ = table
    whole = {row.weight: row.weight_count for row in rows if row.weight}
    first, second, both = (flops(rows, whole, masked_dense, samples=n, steps=n) for n in (one, other, one + other))
    assert first + second == both
    assert both.ideal == both.dense


@QUICK
@given(st.lists(st.integers(0, 10**12), max_size=200), st.integers(1, 1000))
def test_a_percentile_is_the_nearest_rank_in_the_sorted_list(values, thousandths):
    got = percentile(values, thousandths / 1000)
    if not values:
        assert got is None
        return
    rank = -(-thousandths * len(values) // 1000)
    assert got == sorted(values)[rank - 1]
