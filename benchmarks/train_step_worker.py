"""One engine of `benchmarks.train_step` in an environment of its own: opens a model, steps when told, tells times.

    python -m benchmarks.train_step_worker ENGINE FOLDER THREADS BATCH [MASKS.npz]
Reads lines "N" from standard input: N steps; answers each with a line of JSON. FOLDER holds forward.onnx (torch) or the
engine's artifact, and batch.npz.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATE = 1e-3


def peak_mb() -> float:
    """Peak resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def open_torch(folder: Path, threads: int, x: Any, y: Any) -> tuple[Callable[[], float], dict[str, Any]]:
    """torch, eager, plain SGD."""
    import onnx
    import torch

    from tests.torch_twin import TorchTwin, as_batch

    torch.set_num_threads(threads)
    twin = TorchTwin(onnx.load(folder / "forward.onnx")).train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=LEARNING_RATE)
    tx, ty = as_batch(x, y)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(tx), ty)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step, {"onnxruntime_version": ""}


def open_ours(
    engine: str, folder: Path, threads: int, x: Any, y: Any, masks: Any
) -> tuple[Callable[[], float], dict[str, Any]]:
    """One of the project's engines on its artifact; prunable weights that `masks` does not name are kept whole."""
    from device_runtime.engines import open_engine
    from device_runtime.engines.onnxruntime_import import import_onnxruntime
    from device_runtime.engines.registry import engine_kind
    from device_runtime.wire.cost import flops
    from device_runtime.wire.support import Kept, Support

    trainer: Any = open_engine(engine).open(folder / engine, threads=threads, seed=0)
    with np.load(folder / "params.npz") as params:
        kept = {}
        for parameter in trainer.manifest.parameters:
            mask = masks.get(parameter.name, np.ones(parameter.shape, dtype=np.bool_))
            support = Support.from_mask(mask) if parameter.prunable else Support.everything(parameter.shape)
            kept[parameter.name] = Kept.of(params[parameter.name], support)
    trainer.load(kept, reset_optimizer=True)
    counts = {name: kept[name].support.count for name in trainer.manifest.prunable}
    cost = flops(trainer.manifest.costs, counts, engine_kind(engine).kernel_cost, samples=len(x), steps=1)
    told = {"onnxruntime_version": str(import_onnxruntime().__version__), "flops_executed": cost.executed}
    return lambda: float(trainer.step(x, y, LEARNING_RATE).loss), told


def main() -> None:
    """Serve steps until standard input ends."""
    engine, folder, threads, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    with np.load(folder / "batch.npz") as data:
        x, y = data["x"][:batch], data["y"][:batch]
    masks = dict(np.load(sys.argv[5])) if len(sys.argv) > 5 else {}
    if engine == "torch":
        step, told = open_torch(folder, threads, x, y)
    else:
        step, told = open_ours(engine, folder, threads, x, y, masks)
    first = step()
    print(json.dumps({**told, "loss_first": first}), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter_ns()
            loss = step()
            times.append(time.perf_counter_ns() - start)
        print(json.dumps({"step_ns": times, "loss": loss, "rss_mb_peak": peak_mb()}), flush=True)


if __name__ == "__main__":
    main()
