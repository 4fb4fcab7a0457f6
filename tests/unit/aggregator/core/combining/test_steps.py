"""Steps by direction, by hand: of unit length, and as long as the updates are."""

import numpy as np
import pytest

from aggregator.core.combining import RescaledStep, UnitStep
from tests.aggregation import aggregate, make_update


def test_unit_and_rescaled_steps_by_hand():
    theta = {"w": np.zeros(2, np.float32)}
    a, b = make_update("a", {"w": np.array([3.0, 4.0])}), make_update("b", {"w": np.array([0.0, 2.0])})

    def step(rule):
        return aggregate(theta, {"a": 0.5, "b": 0.5}, lambda: iter([a, b]), {"w": "weight"}, rule).theta["w"]

    u = np.array([0.3, 0.9])
    assert step(UnitStep(unit_length=0.5)) == pytest.approx(0.5 * u)
    assert step(RescaledStep()) == pytest.approx(3.5 * u)
