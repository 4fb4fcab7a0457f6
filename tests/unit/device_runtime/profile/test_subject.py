"""What is trained: exact masks, values and batches from the seed alone."""

import math

import numpy as np
import pytest

from device_runtime.profile.subject import batches, kept_counts, supports, values
from device_runtime.wire.errors import UsageError


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.999])
def test_masks_keep_an_exact_share_of_every_prunable_tensor(manifest, sparsity):
    chosen = supports(manifest, sparsity, 0)
    for parameter in manifest.parameters:
        count = math.prod(parameter.shape)
        kept = max(1, count - round(sparsity * count)) if parameter.prunable else count
        assert chosen[parameter.name].count == kept
    assert list(kept_counts(manifest, chosen)) == list(manifest.prunable)


def test_a_higher_sparsity_removes_from_the_lower_ones_mask(manifest):
    half, tenth = supports(manifest, 0.5, 0), supports(manifest, 0.9, 0)
    for name in manifest.prunable:
        assert not (tenth[name].dense_mask() & ~half[name].dense_mask()).any()


def test_the_seed_decides_everything(manifest):
    def drawn(seed):
        chosen = supports(manifest, 0.5, seed)
        kept = values(manifest, chosen, seed)
        return [k.values.tobytes() for k in kept.values()] + [b.x.tobytes() for b in batches(manifest, 4, seed)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_batches_fit_the_model(manifest):
    for batch in batches(manifest, 4, 0):
        assert batch.x.shape == (4, *manifest.input.shape)
        assert batch.x.dtype == np.float32
        assert batch.y.dtype == np.int64
        assert batch.y.max() < manifest.class_count


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0])
def test_a_sparsity_out_of_range_is_refused(manifest, sparsity):
    with pytest.raises(UsageError, match="out of range"):
        supports(manifest, sparsity, 0)
