"""Magnitude by hand."""

import numpy as np

from aggregator.core.criteria import Magnitude


def test_a_weight_is_worth_its_absolute_value_as_float32():
    theta = {"w": np.array([[1.5, -2.0], [-0.0, 3e-42]], np.float32), "b": np.ones(2, np.float32)}
    scores = Magnitude().scores(theta, ["w"])
    assert list(scores) == ["w"]
    assert scores["w"].dtype == np.float32
    assert scores["w"].tobytes() == np.array([[1.5, 2.0], [0.0, 3e-42]], np.float32).tobytes()
    assert theta["w"][0, 1] == -2.0
