"""Lengths and cosines of vectors given in parts, with the same bits on every machine."""

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NORM_MIN: Final = 1e-12
"""Below this length an update or a direction is no direction: its score is 0."""


def dot(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Σ a_i b_i in float64, of two arrays of one shape.

    Not np.dot: BLAS splits long sums by its thread count, and the bits would depend on the machine.
    """
    return float(np.sum(a.astype(np.float64, copy=False) * b.astype(np.float64, copy=False)))


def norm(parts: Iterable[NDArray[np.floating[Any]]]) -> float:
    """The Euclidean length of a vector given in parts."""
    return math.sqrt(sum(dot(part, part) for part in parts))


def cosine(pairs: Iterable[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]]) -> float:
    """cos(a, b) of two vectors given in matching parts, in [-1, 1]; 0 when either is shorter than NORM_MIN.

    Given an update's kept values and the direction gathered on the same support, this is the masked cosine
    <u_n, m_n U> / (‖u_n‖ ‖m_n U‖): a device is not marked down for the coordinates it does not hold.
    """
    products = squares_a = squares_b = 0.0
    for a, b in pairs:
        products += dot(a, b)
        squares_a += dot(a, a)
        squares_b += dot(b, b)
    if min(squares_a, squares_b) < NORM_MIN**2:
        return 0.0
    return min(max(products / (math.sqrt(squares_a) * math.sqrt(squares_b)), -1.0), 1.0)
