"""SGD with momentum, Nesterov and weight decay, in numpy, in place, on the mask only.

torch's rule: g <- g + weight_decay w; v <- momentum v + g (v = g in the first step); w <- w - lr v, or, with Nesterov,
w <- w - lr (g + momentum v). Gradient and weight are +0 on pruned coordinates, so velocity and step are too.
"""

import numpy as np
from numpy.typing import NDArray

from device_runtime.wire.manifest import Optimizer
from device_runtime.wire.support import FloatArray


class HostSgd:
    """The velocity of each parameter, and the step."""

    def __init__(self, optimizer: Optimizer, parameters: dict[str, FloatArray]) -> None:
        self._rule = optimizer
        self._velocity = {n: np.zeros_like(p) for n, p in parameters.items()} if optimizer.momentum else {}
        self._scratch = {n: np.empty_like(p) for n, p in parameters.items()}

    def reset(self) -> None:
        """Forget the velocity: the next step is a first step."""
        for velocity in self._velocity.values():
            velocity[...] = 0.0

    def forget(self, name: str, where: NDArray[np.bool_]) -> None:
        """Forget the velocity of these elements of a parameter."""
        if name in self._velocity:
            self._velocity[name][where] = 0.0

    def step(self, parameters: dict[str, FloatArray], gradients: dict[str, FloatArray], lr: float) -> None:
        """Update `parameters` in place from `gradients`, without allocating."""
        rule, rate = self._rule, np.float32(lr)
        for name, weight in parameters.items():
            step = self._scratch[name]
            if rule.weight_decay:
                np.multiply(weight, np.float32(rule.weight_decay), out=step)
                step += gradients[name]
            else:
                step[...] = gradients[name]
            if rule.momentum:
                velocity = self._velocity[name]
                velocity *= np.float32(rule.momentum)
                velocity += step
                if rule.nesterov:
                    step += np.float32(rule.momentum) * velocity
                else:
                    step[...] = velocity
            step *= rate
            weight -= step
