"""Whatever the model and the rule: exact counts, exact masks, and a topology that conserves them."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.core.layers import Er, Erk, ErkSparsity, UniformLayers
from aggregator.core.layers.counts import keep_counts, layer_densities
from aggregator.core.pruning import Pruning
from aggregator.core.topologies import Dynamic, Turn
from device_runtime.wire.draws import Draws
from device_runtime.wire.largest import largest

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
dims = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)
models = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), dims, min_size=1)
sparsities = st.floats(0.0, 0.999)
layer_rules = st.sampled_from([Erk(), Er(), UniformLayers(), ErkSparsity()])
topologies = st.builds(
    Dynamic,
    end_round=st.integers(0, 60),
    prune_share=st.floats(0.0, 0.99),
    every_rounds=st.integers(1, 7),
    grow_value=st.sampled_from(["residual", "zero", "init"]),
    between=st.sampled_from(["keep", "reprune"]),
)


def _weights(shapes, seed, levels=4):
    """Weights with many ties and zeros, the hard case for exact counts."""
    rng = np.random.default_rng(seed)
    return {n: rng.integers(-levels, levels + 1, size=s).astype(np.float32) for n, s in shapes.items()}


def _turn(pruning, theta, masks, round_index, seed, initial=None):
    return Turn(round_index, pruning, theta, masks, masks, initial or {}, lambda n: Draws(seed, "grow", round_index, n))


@QUICK
@given(models, sparsities, layer_rules)
def test_counts_are_exact_and_within_each_layer(shapes, sparsity, rule):
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    counts = keep_counts(shapes, sparsity, rule)
    assert list(counts) == list(shapes)
    assert sum(counts.values()) == max(round((1 - sparsity) * sum(sizes.values())), len(sizes))
    assert all(1 <= counts[n] <= sizes[n] for n in sizes)


@QUICK
@given(models, sparsities, st.sampled_from([Erk(), Er(), UniformLayers()]))
def test_densities_meet_the_budget(shapes, sparsity, rule):
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    densities = layer_densities(shapes, sparsity, rule)
    assert all(0.0 < d <= 1.0 for d in densities.values())
    kept = sum(densities[n] * sizes[n] for n in sizes)
    assert math.isclose(kept, (1 - sparsity) * sum(sizes.values()), rel_tol=1e-9)


@QUICK
@given(models, sparsities, st.integers(0, 9))
def test_nothing_dropped_is_larger_than_anything_kept(shapes, sparsity, seed):
    weights, counts = _weights(shapes, seed), keep_counts(shapes, sparsity, Erk())
    for name, mask in Pruning(layers=Erk()).masks(weights, shapes, sparsity).items():
        size = np.abs(weights[name])
        assert np.count_nonzero(mask) == counts[name]
        if not mask.all():
            assert size[mask].min() >= size[~mask].max()


@QUICK
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_more_kept_means_a_superset(values, data):
    scores = np.array(values, dtype=np.float64)
    few = data.draw(st.integers(0, len(values)))
    many = data.draw(st.integers(few, len(values)))
    assert not np.any(largest(scores, few) & ~largest(scores, many))


@QUICK
@given(models, sparsities, topologies, layer_rules, st.integers(1, 60), st.integers(0, 9))
def test_a_topology_step_conserves_the_counts_of_every_layer(shapes, sparsity, rule, layers, round_index, seed):
    theta = _weights(shapes, seed)
    counts = keep_counts(shapes, sparsity, layers)
    pruning = Pruning(sparsity=sparsity, layers=layers)
    masks = pruning.masks(_weights(shapes, seed + 100), shapes, sparsity)
    new = rule.next_masks(_turn(pruning, theta, masks, round_index, seed))
    assert list(new) == list(masks)
    for name, mask in new.items():
        assert mask.dtype == np.bool_
        assert mask.shape == masks[name].shape
        assert np.count_nonzero(mask) == counts[name]
    if not rule.adjusts(round_index) and rule.between == "keep":
        assert all(np.array_equal(new[n], masks[n]) for n in masks)


@QUICK
@given(models, sparsities, topologies, layer_rules, st.integers(1, 60), st.integers(0, 9))
def test_an_adjustment_drops_no_more_than_its_share_and_the_smallest_only(
    shapes, sparsity, rule, layers, round_index, seed
):
    if not rule.adjusts(round_index):
        return
    theta = _weights(shapes, seed)
    counts = keep_counts(shapes, sparsity, layers)
    pruning = Pruning(sparsity=sparsity, layers=layers)
    masks = pruning.masks(_weights(shapes, seed + 100), shapes, sparsity)
    new = rule.next_masks(_turn(pruning, theta, masks, round_index, seed))
    enlarged = sparsity + (1 - sparsity) * rule.prune_share_at(round_index)
    low = keep_counts(shapes, enlarged, layers)
    for name, mask in masks.items():
        stayed, dropped = mask & new[name], mask & ~new[name]
        assert np.count_nonzero(stayed) >= min(low[name], counts[name])
        above = np.abs(theta[name][mask])
        if dropped.any():
            # Everything above the low-th largest active weight stays.
            threshold = np.sort(above)[::-1][min(low[name], counts[name]) - 1]
            assert np.abs(theta[name][dropped]).max() <= threshold


@QUICK
@given(topologies, st.integers(1, 60), st.integers(0, 9))
def test_only_grown_coordinates_get_a_new_value(rule, round_index, seed):
    rng = np.random.default_rng(seed)
    theta, initial = {"w": rng.normal(size=30).astype(np.float32)}, {"w": rng.normal(size=30).astype(np.float32)}
    old, new = {"w": rng.random(30) < 0.5}, {"w": rng.random(30) < 0.5}
    values = (theta | rule.grown_values(_turn(Pruning(), theta, old, round_index, seed, initial), new))["w"]
    grown = new["w"] & ~old["w"]
    assert values[~grown].tobytes() == theta["w"][~grown].tobytes()
    if rule.grow_value == "residual" or not rule.adjusts(round_index):
        assert values.tobytes() == theta["w"].tobytes()


@QUICK
@given(topologies)
def test_the_prune_share_never_rises_and_ends_at_zero(rule):
    shares = [rule.prune_share_at(t) for t in range(1, rule.end_round + 3)]
    assert all(a >= b for a, b in itertools.pairwise(shares))
    assert all(0.0 <= s <= rule.prune_share for s in shares)
    assert shares[-1] == 0.0
