"""SGD on the host follows torch's rule, written out by hand for two steps, and leaves pruned places at +0."""

import numpy as np
import pytest

from device_runtime.engines.ort_training.host_optimizer import HostSgd
from device_runtime.wire.manifest import Optimizer

W, G1, G2, LR = 2.0, 0.5, -0.25, 0.1


def _two_steps(**rule: float | bool) -> list[float]:
    weights = {"w": np.array([W, 0.0], np.float32)}
    optimizer = HostSgd(Optimizer(where="host", **rule), weights)  # type: ignore[arg-type]
    seen = []
    for gradient in (G1, G2):
        optimizer.step(weights, {"w": np.array([gradient, 0.0], np.float32)}, LR)
        seen.append(float(weights["w"][0]))
        assert weights["w"][1:].tobytes() == b"\0\0\0\0", "a pruned place stays +0"
    return seen


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [2.0 - 0.1 * 0.5, 1.95 + 0.1 * 0.25]),
        # v = 0.5, then 0.9 * 0.5 - 0.25 = 0.2
        ({"momentum": 0.9}, [1.95, 1.95 - 0.1 * 0.2]),
        # steps 0.5 + 0.9 * 0.5 = 0.95, then -0.25 + 0.9 * 0.2 = -0.07
        ({"momentum": 0.9, "nesterov": True}, [2.0 - 0.095, 1.905 + 0.007]),
        # g = 0.5 + 0.1 * 2 = 0.7, then -0.25 + 0.1 * 1.93 = -0.057
        ({"weight_decay": 0.1}, [2.0 - 0.07, 1.93 + 0.0057]),
        # g = 0.7, v = 0.7; g = -0.25 + 0.193 = -0.057, v = 0.63 - 0.057 = 0.573
        ({"momentum": 0.9, "weight_decay": 0.1}, [1.93, 1.93 - 0.0573]),
    ],
    ids=lambda value: "+".join(value) or "plain" if isinstance(value, dict) else "",
)
def test_steps_follow_the_rule(rule: dict[str, float | bool], expected: list[float]) -> None:
    assert _two_steps(**rule) == pytest.approx(expected, rel=1e-6)


def test_reset_forgets_the_velocity() -> None:
    weights = {"w": np.array([W], np.float32)}
    optimizer = HostSgd(Optimizer(where="host", momentum=0.9), weights)
    gradient = {"w": np.array([G1], np.float32)}
    optimizer.step(weights, gradient, LR)
    optimizer.reset()
    weights["w"][...] = W
    optimizer.step(weights, gradient, LR)
    assert weights["w"][0] == np.float32(W - LR * G1)
