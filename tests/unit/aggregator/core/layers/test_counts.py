"""How many weights a layer keeps: exact totals, and no layer empty."""

import numpy as np
import pytest

from aggregator.core.layers import Er, Erk, ErkSparsity, UniformLayers
from aggregator.core.layers.counts import keep_counts, layer_densities
from device_runtime.wire.errors import UsageError

CIFAR = {"conv1": (6, 3, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 6400), "fc2": (84, 120), "fc3": (10, 84)}
MNIST = {"conv1": (10, 1, 5, 5), "conv2": (20, 10, 5, 5), "fc1": (50, 5120), "fc2": (10, 50)}
RULES = (Erk(), Er(), UniformLayers(), ErkSparsity())


@pytest.mark.parametrize("shapes", [CIFAR, MNIST])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.8, 0.9, 0.99])
def test_the_total_kept_is_exact(shapes, rule, sparsity):
    total = sum(np.prod(s) for s in shapes.values())
    assert sum(keep_counts(shapes, sparsity, rule).values()) == round((1 - sparsity) * total)


def test_a_clipped_layer_still_keeps_a_weight_and_the_total_is_still_exact():
    # At α = 0.9999 the literal formula removes more than all of the widest layer.
    densities = layer_densities(CIFAR, 0.9999, ErkSparsity())
    assert min(densities.values()) == 0.0
    counts = keep_counts(CIFAR, 0.9999, ErkSparsity())
    assert min(counts.values()) >= 1
    assert sum(counts.values()) == round(0.0001 * 781_770)


def test_one_weight_per_layer_comes_before_the_budget():
    assert keep_counts({"a": (10, 10), "b": (2, 2), "c": (3, 3)}, 0.999, Erk()) == {"a": 1, "b": 1, "c": 1}


def test_a_model_without_prunable_weights_is_refused():
    with pytest.raises(UsageError, match="no prunable weight"):
        keep_counts({}, 0.5, Erk())
