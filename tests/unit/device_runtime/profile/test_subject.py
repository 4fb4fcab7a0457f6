"""What is trained: exact masks, values and batches from the seed alone."""

import math

import numpy as np
import pytest

from device_runtime.profile.subject import BATCHES, kept_counts, samples, sent, supports, values
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.errors import UsageError
from device_runtime.wire.submodel import decode_kept, decode_supports
from device_runtime.wire.support import sha256_hex


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
        return [k.values.tobytes() for k in kept.values()] + [samples(manifest, 4, seed).x.tobytes()]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_samples_fit_the_model_and_make_whole_batches(manifest):
    found = samples(manifest, 4, 0)
    assert found.x.shape == (4 * BATCHES, *manifest.input.shape)
    assert found.x.dtype == np.float32
    assert found.y.dtype == np.int64
    assert found.y.max() < manifest.class_count


def test_what_is_sent_is_an_assignment_of_one_epoch_with_the_blobs_that_it_names(manifest):
    kept = values(manifest, supports(manifest, 0.5, 0), 0)
    one = sent(kept, "ab" * 32, 8, 3)
    assignment = one.assignment
    assert (assignment.params_sha, assignment.support_shas) == (sha256_hex(one.params), (sha256_hex(one.supports),))
    assert (assignment.hyper.epoch_count, assignment.hyper.batch_size, assignment.hyper.seed) == (1, 8, 3)
    known = decode_supports(one.supports, manifest.shapes())
    assert {name: s.sha for name, s in known.items()} == {name: k.support.sha for name, k in kept.items()}
    received = decode_kept(one.params, known)
    assert all(np.array_equal(received[name].values, k.values) for name, k in kept.items())
    assert decode_message(encode_message(assignment), allow_unsigned=True) == assignment


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 2.0])
def test_a_sparsity_out_of_range_is_refused(manifest, sparsity):
    with pytest.raises(UsageError, match="out of range"):
        supports(manifest, sparsity, 0)
