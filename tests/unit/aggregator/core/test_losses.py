"""Every loss by hand: two samples of two outputs each, and logits that would overflow."""

from math import exp, log

import numpy as np
import pytest

from aggregator.core.losses import sample_losses
from device_runtime.wire.manifest import Loss

OUTPUT = np.array([[1.0, -2.0], [0.5, 3.0]], dtype=np.float32)
TARGET = np.array([[0.0, 1.0], [0.5, 1.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", [(1 + 9) / 2, (0 + 4) / 2]),
        ("l1", [(1 + 3) / 2, (0 + 2) / 2]),
        # -ln(1 - s(1)), -ln s(-2); -(ln s(.5) + ln(1 - s(.5))) / 2, -ln s(3), with s(z) = 1 / (1 + e^-z)
        (
            "bce_with_logits",
            [
                (log(1 + exp(1)) + log(1 + exp(2))) / 2,
                ((log(1 + exp(-0.5)) + log(1 + exp(0.5))) / 2 + log(1 + exp(-3))) / 2,
            ],
        ),
    ],
)
def test_losses_of_outputs_and_targets(loss: Loss, expected: list[float]) -> None:
    assert sample_losses(loss, OUTPUT, TARGET) == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_is_minus_the_log_of_the_labels_share() -> None:
    labels = np.array([1, 1])
    expected = [-log(exp(-2) / (exp(1) + exp(-2))), -log(exp(3) / (exp(0.5) + exp(3)))]
    assert sample_losses("cross_entropy", OUTPUT, labels) == pytest.approx(expected, rel=1e-12)


def test_large_logits_neither_overflow_nor_lose_their_loss() -> None:
    far = np.array([[1000.0, -1000.0]], dtype=np.float32)
    assert sample_losses("cross_entropy", far, np.array([1])) == pytest.approx([2000.0])
    assert sample_losses("bce_with_logits", far, np.array([[0.0, 1.0]], np.float32)) == pytest.approx([1000.0])


def test_what_is_given_stays_as_it_is() -> None:
    output = OUTPUT.astype(np.float64)
    sample_losses("cross_entropy", output, np.array([0, 1]))
    np.testing.assert_array_equal(output, OUTPUT)
