"""Masks from scores: the largest stay, ties in flat order; and masks inside masks."""

import numpy as np
import pytest

from aggregator.core.criteria import Magnitude
from aggregator.core.masks import nested_masks, score_masks, supports_of
from device_runtime.wire.errors import UsageError
from device_runtime.wire.largest import largest


def magnitude_masks(theta, counts):
    return score_masks(Magnitude().scores(theta, counts), counts)


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


def test_a_nested_mask_holds_the_best_of_what_is_kept_and_no_more_than_that():
    scores = {"w": np.array([[3.0, 9.0], [-1.0, 2.0]])}
    masks = {"w": np.array([[True, False], [True, True]])}
    assert nested_masks(scores, masks, {"w": 2})["w"].tolist() == [[True, False], [False, True]]
    assert nested_masks(scores, masks, {"w": 4})["w"].tolist() == masks["w"].tolist()


def test_a_submodel_sits_on_its_masks_and_on_all_of_every_other_tensor():
    supports = supports_of({"w": (2, 2), "b": (3,)}, {"w": np.array([[True, False], [False, True]])})
    assert list(supports) == ["w", "b"]
    assert supports["w"].dense_mask().tolist() == [[True, False], [False, True]]
    assert supports["b"].dense_mask().all()
