"""Cosines of vectors given in parts."""

import numpy as np
import pytest

from aggregator.core.vectors import cosine


def test_cosine_of_parts_is_the_cosine_of_the_whole():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=100).astype(np.float32), rng.normal(size=100)
    whole = float(a.astype(float) @ b / (np.linalg.norm(a.astype(float)) * np.linalg.norm(b)))
    assert cosine([(a[:30], b[:30]), (a[30:], b[30:])]) == pytest.approx(whole, abs=1e-12)
    assert cosine([(a, a)]) == pytest.approx(1.0)
    assert cosine([(a, np.zeros(100))]) == 0.0
    assert cosine([]) == 0.0
