"""Layer densities against the specification's fixtures, exact counts, and which weights are kept."""

import numpy as np
import pytest

from aggregator.core.pruning import keep_counts, layer_densities, magnitude_masks
from device_runtime.wire.errors import UsageError
from device_runtime.wire.largest import largest

CIFAR = {"conv1": (6, 3, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 6400), "fc2": (84, 120), "fc3": (10, 84)}
MNIST = {"conv1": (10, 1, 5, 5), "conv2": (20, 10, 5, 5), "fc1": (50, 5120), "fc2": (10, 50)}

FIXTURES = [
    (CIFAR, 0.3, "erk", [1, 1, 0.6946, 1, 1]),
    (CIFAR, 0.5, "erk", [1, 0.7723, 0.4917, 1, 1]),
    (CIFAR, 0.8, "erk", [0.9692, 0.3061, 0.1949, 0.4645, 1]),
    (CIFAR, 0.9, "erk", [0.4820, 0.1522, 0.0969, 0.2310, 1]),
    (CIFAR, 0.95, "erk", [0.2403, 0.0759, 0.0483, 0.1152, 0.6368]),
    (MNIST, 0.5, "erk", [1, 0.1998, 0.5044, 1]),
    (MNIST, 0.8, "erk", [0.8326, 0.0793, 0.2002, 1]),
    (MNIST, 0.9, "erk", [0.4156, 0.0396, 0.0999, 0.5936]),
    (CIFAR, 0.3, "erk_sparsity", [0.7101, 0.7014, 0.6999, 0.7035, 0.7312]),
    (CIFAR, 0.5, "erk_sparsity", [0.5169, 0.5023, 0.4999, 0.5058, 0.5520]),
    (CIFAR, 0.8, "erk_sparsity", [0.2270, 0.2037, 0.1998, 0.2092, 0.2832]),
    (CIFAR, 0.9, "erk_sparsity", [0.1304, 0.1041, 0.0997, 0.1104, 0.1936]),
    (CIFAR, 0.95, "erk_sparsity", [0.0820, 0.0544, 0.0497, 0.0610, 0.1488]),
    (MNIST, 0.5, "erk_sparsity", [0.5326, 0.4938, 0.5000, 0.5509]),
    (MNIST, 0.8, "erk_sparsity", [0.2521, 0.1900, 0.2000, 0.2815]),
    (MNIST, 0.9, "erk_sparsity", [0.1586, 0.0888, 0.1000, 0.1917]),
]


@pytest.mark.parametrize(("shapes", "sparsity", "rule", "expected"), FIXTURES)
def test_densities_of_the_specification(shapes, sparsity, rule, expected):
    densities = layer_densities(shapes, sparsity, rule)
    assert list(densities) == list(shapes)
    assert list(densities.values()) == pytest.approx(expected, abs=5.01e-5)


@pytest.mark.parametrize("shapes", [CIFAR, MNIST])
@pytest.mark.parametrize("rule", ["erk", "er", "uniform", "erk_sparsity"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.8, 0.9, 0.99])
def test_the_total_kept_is_exact(shapes, rule, sparsity):
    total = sum(np.prod(s) for s in shapes.values())
    assert sum(keep_counts(shapes, sparsity, rule).values()) == round((1 - sparsity) * total)


def test_zero_sparsity_is_dense_for_every_rule():
    for rule in ("erk", "er", "uniform", "erk_sparsity"):
        assert set(layer_densities(CIFAR, 0.0, rule).values()) == {1.0}


def test_er_ignores_the_kernel_and_erk_does_not():
    shapes = {"conv": (8, 4, 5, 5), "fc": (400, 300)}
    er = layer_densities(shapes, 0.99, "er")
    assert er["conv"] / er["fc"] == pytest.approx((12 / 32) / (700 / 120_000))
    erk = layer_densities(shapes, 0.99, "erk")
    assert erk["conv"] / erk["fc"] == pytest.approx((22 / 800) / (700 / 120_000))


def test_a_grouped_convolution_counts_by_its_own_tensor():
    depthwise = layer_densities({"dw": (32, 1, 3, 3), "fc": (1000, 1000)}, 0.99, "erk")
    assert depthwise["dw"] / depthwise["fc"] == pytest.approx(min(1 / depthwise["fc"], (39 / 288) / (2000 / 10**6)))


def test_a_clipped_layer_still_keeps_a_weight_and_the_total_is_still_exact():
    # At α = 0.9999 the literal formula removes more than all of the widest layer.
    densities = layer_densities(CIFAR, 0.9999, "erk_sparsity")
    assert min(densities.values()) == 0.0
    counts = keep_counts(CIFAR, 0.9999, "erk_sparsity")
    assert min(counts.values()) >= 1
    assert sum(counts.values()) == round(0.0001 * 781_770)


def test_one_weight_per_layer_comes_before_the_budget():
    assert keep_counts({"a": (10, 10), "b": (2, 2), "c": (3, 3)}, 0.999) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_an_impossible_sparsity_is_refused(sparsity):
    with pytest.raises(UsageError, match="sparsity"):
        layer_densities(CIFAR, sparsity)


def test_a_model_without_prunable_weights_is_refused():
    with pytest.raises(UsageError, match="no prunable weight"):
        keep_counts({}, 0.5)


def test_an_unknown_rule_is_refused():
    with pytest.raises(UsageError, match="layer_rule"):
        layer_densities(CIFAR, 0.5, "magic")


def test_the_largest_magnitudes_are_kept_whatever_their_sign():
    weight = np.array([[0.1, -5.0, 0.2], [3.0, -0.3, 0.0]], dtype=np.float32)
    mask = magnitude_masks({"w": weight}, {"w": 2})["w"]
    assert mask.tolist() == [[False, True, False], [True, False, False]]


def test_ties_go_to_the_lower_flat_index():
    weight = np.array([1, -1, 2, 1, 1, 0], dtype=np.float32)
    assert np.flatnonzero(magnitude_masks({"w": weight}, {"w": 3})["w"]).tolist() == [0, 1, 2]
    assert np.flatnonzero(largest(np.zeros(5), 2)).tolist() == [0, 1]


def test_magnitude_masks_agree_with_a_stable_sort():
    rng = np.random.default_rng(0)
    weight = rng.integers(-4, 5, size=(7, 11)).astype(np.float32)
    for count in range(78):
        expected = np.zeros(77, dtype=bool)
        expected[sorted(range(77), key=lambda i: -abs(weight.ravel()[i]))[:count]] = True
        assert np.array_equal(largest(np.abs(weight), count), expected.reshape(7, 11))


def test_bad_scores_and_counts_are_refused():
    with pytest.raises(UsageError, match="not a number"):
        largest(np.array([1.0, np.nan]), 1)
    with pytest.raises(UsageError, match="cannot be kept"):
        largest(np.zeros(3), 4)


def test_arguments_are_not_changed():
    weight = np.array([[3.0, -1.0], [2.0, -4.0]], dtype=np.float32)
    before = weight.copy()
    magnitude_masks({"w": weight}, {"w": 2})
    assert np.array_equal(weight, before)
