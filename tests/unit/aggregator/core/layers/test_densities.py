"""Layer densities against the specification's fixtures."""

import pytest

from aggregator.core.layers import Er, Erk, ErkSparsity, UniformLayers
from aggregator.core.layers.counts import layer_densities
from device_runtime.wire.errors import UsageError

CIFAR = {"conv1": (6, 3, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 6400), "fc2": (84, 120), "fc3": (10, 84)}
MNIST = {"conv1": (10, 1, 5, 5), "conv2": (20, 10, 5, 5), "fc1": (50, 5120), "fc2": (10, 50)}
RULES = (Erk(), Er(), UniformLayers(), ErkSparsity())

FIXTURES = [
    (CIFAR, 0.3, Erk(), [1, 1, 0.6946, 1, 1]),
    (CIFAR, 0.5, Erk(), [1, 0.7723, 0.4917, 1, 1]),
    (CIFAR, 0.8, Erk(), [0.9692, 0.3061, 0.1949, 0.4645, 1]),
    (CIFAR, 0.9, Erk(), [0.4820, 0.1522, 0.0969, 0.2310, 1]),
    (CIFAR, 0.95, Erk(), [0.2403, 0.0759, 0.0483, 0.1152, 0.6368]),
    (MNIST, 0.5, Erk(), [1, 0.1998, 0.5044, 1]),
    (MNIST, 0.8, Erk(), [0.8326, 0.0793, 0.2002, 1]),
    (MNIST, 0.9, Erk(), [0.4156, 0.0396, 0.0999, 0.5936]),
    (CIFAR, 0.3, ErkSparsity(), [0.7101, 0.7014, 0.6999, 0.7035, 0.7312]),
    (CIFAR, 0.5, ErkSparsity(), [0.5169, 0.5023, 0.4999, 0.5058, 0.5520]),
    (CIFAR, 0.8, ErkSparsity(), [0.2270, 0.2037, 0.1998, 0.2092, 0.2832]),
    (CIFAR, 0.9, ErkSparsity(), [0.1304, 0.1041, 0.0997, 0.1104, 0.1936]),
    (CIFAR, 0.95, ErkSparsity(), [0.0820, 0.0544, 0.0497, 0.0610, 0.1488]),
    (MNIST, 0.5, ErkSparsity(), [0.5326, 0.4938, 0.5000, 0.5509]),
    (MNIST, 0.8, ErkSparsity(), [0.2521, 0.1900, 0.2000, 0.2815]),
    (MNIST, 0.9, ErkSparsity(), [0.1586, 0.0888, 0.1000, 0.1917]),
]


@pytest.mark.parametrize(("shapes", "sparsity", "rule", "expected"), FIXTURES)
def test_densities_of_the_specification(shapes, sparsity, rule, expected):
    densities = layer_densities(shapes, sparsity, rule)
    assert list(densities) == list(shapes)
    assert list(densities.values()) == pytest.approx(expected, abs=5.01e-5)


def test_zero_sparsity_is_dense_for_every_rule():
    for rule in RULES:
        assert set(layer_densities(CIFAR, 0.0, rule).values()) == {1.0}


def test_er_ignores_the_kernel_and_erk_does_not():
    shapes = {"conv": (8, 4, 5, 5), "fc": (400, 300)}
    er = layer_densities(shapes, 0.99, Er())
    assert er["conv"] / er["fc"] == pytest.approx((12 / 32) / (700 / 120_000))
    erk = layer_densities(shapes, 0.99, Erk())
    assert erk["conv"] / erk["fc"] == pytest.approx((22 / 800) / (700 / 120_000))


def test_a_grouped_convolution_counts_by_its_own_tensor():
    depthwise = layer_densities({"dw": (32, 1, 3, 3), "fc": (1000, 1000)}, 0.99, Erk())
    assert depthwise["dw"] / depthwise["fc"] == pytest.approx(min(1 / depthwise["fc"], (39 / 288) / (2000 / 10**6)))


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_an_impossible_sparsity_is_refused(sparsity):
    with pytest.raises(UsageError, match="sparsity"):
        layer_densities(CIFAR, sparsity, Erk())
