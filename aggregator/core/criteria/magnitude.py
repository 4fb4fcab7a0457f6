"""Magnitude: a weight is worth its absolute value (Han et al., NeurIPS 2015)."""

from collections.abc import Iterable

import numpy as np

from aggregator.core.criteria.interface import CRITERIA
from aggregator.core.registry import Rule
from device_runtime.wire.support import FloatArray, Params


@CRITERIA.rule
class Magnitude(Rule, frozen=True, tag="magnitude"):
    """|w|. It stays float32: taking it is exact, and only comparisons follow."""

    def scores(self, theta: Params, names: Iterable[str]) -> dict[str, FloatArray]:
        """|θ| by name."""
        return {name: np.abs(theta[name]) for name in names}
