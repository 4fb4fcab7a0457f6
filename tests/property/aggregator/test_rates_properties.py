"""Whatever was measured: sparsities within their bounds, and further pruned masks inside the run's."""

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from aggregator.core.dense_model import adopt_masks, start
from aggregator.core.layers import Er, Erk, ErkSparsity, UniformLayers
from aggregator.core.layers.counts import keep_counts
from aggregator.core.pruning import Pruning
from aggregator.core.rating import ByContribution, Capability
from aggregator.core.rating.interface import GRID
from aggregator.core.rating.round_cost import NOTHING_KNOWN, Known, Point, RoundTime, fit
from aggregator.core.residuals import Trained, Zero
from tests.fakes import QUICK

points = st.lists(st.builds(Point, sparsity=st.floats(0.0, 0.999), seconds=st.floats(0.0, 1e6)), max_size=6).map(tuple)
times = st.lists(
    st.builds(
        RoundTime, sparsity=st.floats(0.0, 0.999), training_s=st.floats(0.0, 1e6), transfer_s=st.floats(0.0, 1e6)
    ),
    max_size=6,
).map(tuple)
known = st.dictionaries(st.sampled_from("abcdef"), st.builds(Known, profiled=points, observed=times), max_size=6)
by_capability = st.builds(Capability, sparsity_max=st.floats(0.0, 0.99), quantile=st.floats(0, 1))
by_contribution = st.builds(ByContribution, sparsity_max=st.floats(0.0, 0.99), kappa=st.floats(0, 1))
dims = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)
models = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), dims, min_size=1)
layer_rules = st.sampled_from([Erk(), Er(), UniformLayers(), ErkSparsity()])


@QUICK
@given(by_capability, st.floats(0.0, 0.99), known)
def test_every_device_gets_a_sparsity_between_the_runs_and_the_most(rule, sparsity, devices):
    assume(rule.sparsity_max >= sparsity)
    chosen = rule.sparsities(sparsity, devices, {})
    assert set(chosen) == set(devices)
    for value in chosen.values():
        assert sparsity <= value <= rule.sparsity_max
        on_grid = math.isclose(value * GRID, round(value * GRID), abs_tol=1e-9)
        assert on_grid or value in (sparsity, rule.sparsity_max)


@QUICK
@given(by_capability, st.floats(0.0, 0.99), known)
def test_only_devices_slower_than_another_are_pruned_further(rule, sparsity, devices):
    assume(rule.sparsity_max >= sparsity)
    chosen = rule.sparsities(sparsity, devices, {})
    times = {d: cost.at(sparsity) for d, k in devices.items() if (cost := fit(k)) is not None}
    for device, value in chosen.items():
        if value > sparsity:
            assert times[device] > min(times.values())


@QUICK
@given(by_contribution, st.floats(0.0, 0.99), st.dictionaries(st.sampled_from("abcdef"), st.floats(0.0, 1.0)))
def test_rates_by_contribution_keep_their_bounds_and_the_order_of_weights(rule, sparsity, weights):
    assume(rule.sparsity_max >= sparsity)
    chosen = rule.sparsities(sparsity, dict.fromkeys("abcdef", NOTHING_KNOWN), weights)
    assert all(sparsity <= value <= rule.sparsity_max for value in chosen.values())
    assert all(chosen[d] == sparsity for d in chosen if d not in weights)
    by_weight = [chosen[d] for d in sorted(weights, key=weights.__getitem__)]
    assert by_weight == sorted(by_weight, reverse=True)


@QUICK
@given(models, st.floats(0.0, 0.95), st.floats(0.0, 0.999), layer_rules, st.integers(0, 5))
def test_further_pruned_masks_lie_inside_the_runs_and_hold_the_largest(shapes, sparsity, further, rule, seed):
    assume(further >= sparsity)
    draws = np.random.default_rng(seed)
    theta = {n: draws.integers(-4, 5, size=s).astype(np.float32) for n, s in shapes.items()}
    pruning = Pruning(sparsity=sparsity, layers=rule)
    run = pruning.masks(theta, shapes, sparsity)
    # What the run keeps is not what is largest, once masks moved: take any mask of these counts.
    run = {n: draws.permutation(m.ravel()).reshape(m.shape) for n, m in run.items()}
    counts = keep_counts(shapes, further, rule)
    nested = pruning.nested(theta, run, further)
    assert list(nested) == list(run)
    for name, mask in nested.items():
        assert not (mask & ~run[name]).any()
        assert np.count_nonzero(mask) == min(counts[name], np.count_nonzero(run[name]))
        left, kept = np.abs(theta[name][run[name] & ~mask]), np.abs(theta[name][mask])
        assert left.size == 0 or left.max() <= kept.min()


def test_at_the_runs_own_sparsity_the_nested_mask_is_the_runs():
    theta = {"a": np.arange(20, dtype=np.float32).reshape(4, 5)}
    pruning = Pruning(sparsity=0.6, layers=Erk())
    masks = pruning.masks(theta, {"a": (4, 5)}, 0.6)
    state = adopt_masks(start(theta, masks, Trained()), masks, Zero(), {})
    assert (pruning.nested(state.theta, masks, 0.6)["a"] == masks["a"]).all()
