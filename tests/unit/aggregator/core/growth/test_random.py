"""Random growth: off the mask only, as many as asked or as there are, uniformly."""

import numpy as np

from aggregator.core.growth import RandomGrowth
from device_runtime.wire.draws import Draws

MASK = np.array([[True, False, True], [False, False, True]])


def test_what_grows_was_off_the_mask_and_is_as_many_as_asked_or_as_there_are():
    for count, expected in ((0, 0), (2, 2), (3, 3), (9, 3)):
        grown = RandomGrowth().grow(MASK, count, Draws(1, "grow", 1, "w"))
        assert len(set(grown.tolist())) == len(grown) == expected
        assert not MASK.ravel()[grown].any()


def test_growth_is_uniform_and_the_same_for_the_same_draws():
    hits = np.zeros(6)
    for round_index in range(900):
        grown = RandomGrowth().grow(MASK, 1, Draws(1, "grow", round_index, "w"))
        assert np.array_equal(grown, RandomGrowth().grow(MASK, 1, Draws(1, "grow", round_index, "w")))
        hits[grown] += 1
    assert np.all(np.abs(hits[[1, 3, 4]] - 300) < 60)  # sd about 14
