"""The time of one training step by engine, side by side: every engine in its own environment, in turns.

    python -m benchmarks.train_step --models lenet5,cnn,resnet20 --engines ort_training,portable,torch --threads 1,2

Environments: this one for ort_training, $ESPALIER_STOCK_PYTHON or .venv-stock for portable (newest stock onnxruntime),
$ESPALIER_TORCH_PYTHON or .venv-torch for torch; `portable@ort_training` runs portable in this environment too.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from device_runtime.wire.manifest import InputSpec
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer

ROOT = Path(__file__).parents[1]
SHAPES = {"lenet5": (1, 28, 28), "mlp": (1, 8, 8), "mnistnet": (1, 28, 28), "cnn1d": (6, 128)}
Row = dict[str, object]


def interpreter(engine: str) -> str:
    """The Python of the environment that the engine runs in."""
    if engine in ("ort_training", "sparse") or engine.endswith("@ort_training"):
        return sys.executable
    name, folder = {"portable": ("ESPALIER_STOCK_PYTHON", ".venv-stock")}.get(
        engine, ("ESPALIER_TORCH_PYTHON", ".venv-torch")
    )
    return os.environ.get(name) or str(ROOT / folder / "bin" / "python")


class Worker:
    """An engine with an open model, in a process of its own."""

    def __init__(self, engine: str, folder: Path, threads: int, batch: int, masks: Path | None = None) -> None:
        self.engine = engine
        self.times: list[int] = []
        self.rss_mb_peak = 0.0
        name = engine.partition("@")[0]
        command = [
            interpreter(engine),
            "-m",
            "benchmarks.train_step_worker",
            name,
            str(folder),
            str(threads),
            str(batch),
            *([str(masks)] if masks else []),
        ]
        limits = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | limits
        )
        self.opened = self._read()

    def _read(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"engine {self.engine} failed in {interpreter(self.engine)}; see above")
        row: Row = json.loads(line)
        return row

    def run(self, steps: int, *, count: bool) -> None:
        """`steps` steps; the times are kept when `count`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        row = self._read()
        if count:
            self.times += row["step_ns"]  # type: ignore[arg-type]
        self.rss_mb_peak = float(row["rss_mb_peak"])  # type: ignore[arg-type]

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def prepare(model_name: str, engines: list[str], batch: int, folder: Path) -> None:
    """Everything a worker opens: forward graph, artifacts, parameters, one batch."""
    shape = SHAPES.get(model_name, (3, 32, 32))
    model = build_model(model_name, shape, 10, seed=0)
    folder.mkdir()
    (folder / "forward.onnx").write_bytes(model.to_bytes())
    for engine in {e.partition("@")[0] for e in engines} - {"torch"}:
        spec = ArtifactSpec(
            name=model_name, input=InputSpec(shape=shape), class_count=10, loss="cross_entropy",
            optimizer=choose_optimizer("sgd"),
        )  # fmt: skip
        writer_of(engine)(model, spec, folder / engine)
    np.savez(folder / "params.npz", **model.initial)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *shape)).astype(np.float32)
    np.savez(folder / "batch.npz", x=x, y=rng.integers(0, 10, batch))


def measure(model: str, engines: list[str], threads: int, batch: int, turns: int, folder: Path) -> list[Row]:
    """Rows of one model at one thread count: workers take turns, so that the machine's drift hits all alike."""
    prepare(model, engines, batch, folder)
    workers = [Worker(engine, folder, threads, batch) for engine in engines]
    try:
        for worker in workers:
            worker.run(5, count=False)
        per_turn = 20 if model in ("lenet5", "mlp", "mnistnet", "cnn1d") else 4
        for _ in range(turns):
            for worker in workers:
                worker.run(per_turn, count=True)
    finally:
        for worker in workers:
            worker.stop()
    return [
        {
            "model": model,
            "engine": worker.engine,
            "threads": threads,
            "batch": batch,
            "step_ms_p50": float(np.percentile(worker.times, 50)) / 1e6,
            "step_ms_p90": float(np.percentile(worker.times, 90)) / 1e6,
            "rss_mb_peak": worker.rss_mb_peak,
            "steps": len(worker.times),
            **worker.opened,
        }
        for worker in workers
    ]


def main() -> None:
    """Parse arguments, measure, print a Markdown table with ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="lenet5,cnn,resnet20")
    parser.add_argument("--engines", default="ort_training,portable,torch")
    parser.add_argument("--threads", default="1", help="comma-separated")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", help="write the rows to this file")
    arguments = parser.parse_args()
    engines = arguments.engines.split(",")
    print("| model | threads | engine | onnxruntime | step ms p50 | p90 | of the first engine | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for model, threads in itertools.product(arguments.models.split(","), map(int, arguments.threads.split(","))):
            found = measure(
                model, engines, threads, arguments.batch, arguments.turns, Path(name) / f"{model}-{threads}"
            )
            rows += found
            for r in found:
                version = r["onnxruntime_version"] or "-"
                ratio = r["step_ms_p50"] / found[0]["step_ms_p50"]  # type: ignore[operator]
                print(
                    f"| {model} | {threads} | {r['engine']} | {version} | {r['step_ms_p50']:.3f} "
                    f"| {r['step_ms_p90']:.3f} | {ratio:.2f} | {r['rss_mb_peak']:.0f} |",
                    flush=True,
                )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
