"""Random graphs, masks and batches through the rewriter and the compiled operators, for sanitizers to watch.

    python -m benchmarks.sparse_fuzz --seconds 600 --seed 1

Every case builds a forward graph of random layers, takes one step with engine portable's graph and with the sparse one,
and compares them; then it spoils one input of the sparse step at random, which must end in an error or a result, never
in a wrong read. `scripts/kernel-fuzz` runs this with operators built with AddressSanitizer and UBSan.
"""

import argparse
import time
from typing import Any

import numpy as np
import onnxruntime
from espalier_kernels import LIBRARY

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import STAMP, kept_name, mask_name
from export.forward.model import ForwardModel
from export.models.graph import GraphBuilder, ShapeMismatchError
from export.steps.optimizers import choose_optimizer
from export.train_step import TrainStep, train_step

# Far above rounding, below what a wrong operator does; a ReLU whose input lies within rounding of 0 may differ.
TOLERANCE = 0.05
CLASSES = 4


def random_model(draws: np.random.Generator) -> tuple[ForwardModel, tuple[int, ...]]:
    """A small network of random layers that fits its input."""
    while True:
        axes = int(draws.integers(1, 3))
        shape = (int(draws.integers(1, 5)), *(int(n) for n in draws.integers(3, 14, axes)))
        builder = GraphBuilder(shape, int(draws.integers(1 << 30)))
        try:
            x = builder.input
            for layer in range(int(draws.integers(1, 6))):
                x = _random_layer(builder, x, f"l{layer}", draws)
            if draws.random() < 0.5:
                x = builder.global_average_pool(x, "average")
            x = builder.flatten(x)
            if draws.random() < 0.5:
                x = builder.relu(builder.linear(x, "hidden", int(draws.integers(1, 9))), "hidden_relu")
            return ForwardModel.of(builder.model(builder.logits(x, "out", CLASSES), "fuzz")), shape
        except ShapeMismatchError:
            continue


def _random_layer(b: GraphBuilder, x: str, name: str, draws: np.random.Generator) -> str:
    kind = draws.choice(["conv", "conv", "conv", "pool", "norm", "relu", "residual"])
    if kind == "pool":
        return b.max_pool(x, name, int(draws.integers(1, 4)), stride=int(draws.integers(1, 4)))
    if kind == "norm":
        return b.batch_norm(x, name)
    if kind == "relu":
        return b.relu(x, name)
    if kind == "residual":
        y = b.batch_norm(b.conv(x, f"{name}.conv", b.shape(x)[0], 3, padding=1, bias=False), f"{name}.norm")
        return b.relu(b.add(y, x, f"{name}.add"), f"{name}.relu")
    options = {"stride": int(draws.integers(1, 4)), "padding": int(draws.integers(0, 4))}
    y = b.conv(x, name, int(draws.integers(1, 9)), int(draws.integers(1, 6)), **options)
    return b.relu(y, f"{name}.relu") if draws.random() < 0.5 else y


def open_session(step: TrainStep) -> Any:
    """The step with the compiled operators at hand."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    options.enable_cpu_mem_arena = False  # every tensor an allocation of its own, with a border that is watched
    options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(step.train.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feeds(
    model: ForwardModel, shape: tuple[int, ...], draws: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same step for portable and for sparse."""
    batch = int(draws.choice([1, 2, 7, 16, 17, 33]))
    shared = {
        "input": draws.normal(size=(batch, *shape)).astype(np.float32),
        "labels": draws.integers(0, CLASSES, batch),
        "learning_rate": np.array(1e6, np.float32),
    }
    dense, sparse = dict(shared), {**shared, STAMP: np.array(int(draws.integers(1 << 40)))}
    for p in model.parameters:
        value = model.initial[p.name]
        dense[p.name] = sparse[p.name] = value
        if p.prunable:
            mask = draws.random(p.shape) < draws.choice([0.0, 0.05, 0.3, 0.7, 1.0])
            dense[mask_name(p.name)] = mask
            sparse[p.name], sparse[kept_name(p.name)] = value[mask], np.flatnonzero(mask).astype(np.int32)
    return dense, sparse


def difference(model: ForwardModel, dense: dict[str, Any], sparse: dict[str, Any], given: dict[str, Any]) -> float:
    """The largest difference of a parameter's next value, relative to it.

    A gradient that is little but rounding (of what precedes a normalisation, or of a channel that nothing varies) is
    measured by the largest one instead.
    """
    pairs = []
    for p in model.parameters:
        expected, found = dense[f"{p.name}.next"], sparse[f"{p.name}.next"]
        if p.prunable:
            expected = expected.ravel()[given[kept_name(p.name)]]
        pairs.append((float(np.linalg.norm(found - expected)), float(np.linalg.norm(expected))))
    least = 1e-2 * max(size for _, size in pairs) or 1.0
    return max(apart / max(size, least) for apart, size in pairs)


def spoil(given: dict[str, Any], draws: np.random.Generator) -> dict[str, Any]:
    """The feed with one tensor changed: shorter, longer, other numbers, another rank."""
    name = str(draws.choice(sorted(given)))
    value = np.asarray(given[name])
    kind = draws.choice(["shorter", "longer", "numbers", "rank"])
    if kind == "shorter" and value.size:
        changed = value.ravel()[: int(draws.integers(value.size))]
    elif kind == "longer":
        changed = np.concatenate([value.ravel(), value.ravel(), np.zeros(1, value.dtype)])
    elif kind == "rank":
        changed = value.reshape(1, *value.shape)
    else:
        changed = draws.integers(-(2**31), 2**31, value.shape).astype(value.dtype)
    return {**given, name: changed, STAMP: np.array(int(draws.integers(1 << 40)))}


def one_case(draws: np.random.Generator) -> tuple[float, bool]:
    """The difference of one case, and whether its spoilt twin was refused."""
    model, shape = random_model(draws)
    rule = choose_optimizer("sgd")
    steps = [train_step(model, loss="cross_entropy", optimizer=rule, sparse=sparse) for sparse in (False, True)]
    given = feeds(model, shape, draws)
    sessions = [open_session(step) for step in steps]
    found = []
    for session, feed in zip(sessions, given, strict=True):
        names = [o.name for o in session.get_outputs()]
        found.append(dict(zip(names, session.run(names, feed), strict=True)))
    try:
        sessions[1].run(None, spoil(given[1], draws))
    except Exception:  # noqa: BLE001  # onnxruntime's exceptions have no common base but Exception
        return difference(model, *found, given[1]), True
    return difference(model, *found, given[1]), False


def main() -> None:
    """Run cases until the time is over; say how many there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    end, cases, refused, apart, beyond = time.monotonic() + arguments.seconds, 0, 0, [], 0
    while time.monotonic() < end:
        number = cases + beyond
        try:
            far, was_refused = one_case(np.random.default_rng([arguments.seed, number]))
        except UsageError:
            beyond += 1  # a graph that no engine trains
            continue
        except Exception:
            print(f"case {number} of seed {arguments.seed} failed", flush=True)
            raise
        cases += 1
        refused += was_refused
        if not far <= TOLERANCE:
            apart.append((number, far))
    print(f"{cases} cases, {len(apart)} apart {apart[:5]}; of as many spoilt inputs {refused} refused", flush=True)


if __name__ == "__main__":
    main()
