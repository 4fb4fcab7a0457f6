"""The [pruning] table: since when the run is sparse, which weights stay, and what is refused."""

import numpy as np
import pytest

from aggregator.core.layers import UniformLayers
from aggregator.core.pruning import Pruning
from device_runtime.wire.errors import UsageError

THETA = {"w": np.array([4.0, -3.0, 1.0, 9.0], dtype=np.float32)}


def test_the_run_is_dense_in_the_dense_rounds_and_sparse_after():
    pruning = Pruning(sparsity=0.5, dense_rounds=2)
    assert [pruning.sparsity_at(t) for t in (1, 2, 3, 4)] == [0.0, 0.0, 0.5, 0.5]
    assert Pruning(sparsity=0.5).sparsity_at(1) == 0.5


def test_the_masks_hold_the_largest_weights_of_each_layer():
    pruning = Pruning(sparsity=0.5, layers=UniformLayers())
    theta = THETA | {"v": np.array([[0.1, 0.2], [-0.3, 0.0]], np.float32)}
    masks = pruning.masks(theta, {"w": (4,), "v": (2, 2)}, 0.5)
    assert masks["w"].tolist() == [True, False, False, True]
    assert masks["v"].tolist() == [[False, True], [True, False]]


def test_the_narrow_mask_keeps_the_largest_of_the_wide_one():
    # 9 is the largest of all and off the run's mask: it is nobody's.
    run = {"w": np.array([True, True, True, False])}
    pruning = Pruning(layers=UniformLayers())
    assert pruning.nested(THETA, run, 0.5)["w"].tolist() == [True, True, False, False]
    assert pruning.nested(THETA, run, 0.75)["w"].tolist() == [True, False, False, False]


@pytest.mark.parametrize("wrong", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"dense_rounds": -1}], ids=str)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Pruning(**wrong)
