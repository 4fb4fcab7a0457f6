"""The choice of the local optimizer: which rule, checked, and who applies it."""

import math

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import Optimizer, OptimizerName


def choose_optimizer(
    name: str,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    clip_norm: float = 0.0,
    proximal_mu: float = 0.0,
) -> Optimizer:
    """The optimizer with `where` set: "graph" for plain SGD and AdamW, "host" for SGD with momentum or weight decay.

    The official optimizer graph of SGD knows neither momentum nor weight decay, so the engine applies those itself.

    Raises UsageError for an unknown name, a value out of range and a combination without meaning.
    """
    if name not in ("sgd", "adamw"):
        raise UsageError(f"there is no optimizer {name!r}: choose sgd or adamw")
    chosen: OptimizerName = "adamw" if name == "adamw" else "sgd"
    optimizer = Optimizer(
        name=chosen,
        where="host" if momentum or (chosen == "sgd" and weight_decay) else "graph",
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        clip_norm=clip_norm,
        proximal_mu=proximal_mu,
    )
    _check_ranges(optimizer)
    _check_together(optimizer)
    return optimizer


def _check_ranges(o: Optimizer) -> None:
    """Every number by itself."""
    for label, value, bound in (
        ("momentum", o.momentum, 1.0),
        ("weight decay", o.weight_decay, math.inf),
        ("clip_norm", o.clip_norm, math.inf),
        ("proximal_mu", o.proximal_mu, math.inf),
        ("beta1", o.beta1, 1.0),
        ("beta2", o.beta2, 1.0),
    ):
        if not 0.0 <= value < bound:
            limit = "at least 0" if bound == math.inf else f"at least 0 and below {bound:g}"
            raise UsageError(f"{label} is {value:g}: give a value of {limit}")
    if not 0.0 < o.epsilon < math.inf:
        raise UsageError(f"epsilon is {o.epsilon:g}: give a value above 0")


def _check_together(o: Optimizer) -> None:
    """What has a meaning only beside something else."""
    if o.nesterov and o.momentum == 0.0:
        raise UsageError("nesterov without momentum has no effect: give a momentum above 0, e.g. 0.9")
    if o.name == "adamw" and (o.momentum or o.nesterov):
        raise UsageError("momentum belongs to sgd, and adamw has betas instead: leave momentum out or choose sgd")
