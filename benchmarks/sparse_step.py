"""The time of one training step against sparsity: engine `sparse` beside the dense engines, every one in turns.

    python -m benchmarks.sparse_step --models cnn,resnet20,resnet18 --sparsity 0,0.5,0.8,0.9,0.95 --layout uniform,erk \
        --engines ort_training,portable,torch,sparse --threads 1,2 --json FILE

Dense engines take the same time at any sparsity and are measured once. As in published comparisons the first
convolution and the last layer stay whole; all others have random masks by the layout's densities.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np

from aggregator.core.layers.erk import Erk
from aggregator.core.layers.uniform import UniformLayers
from benchmarks.train_step import SHAPES, Row, Worker, prepare
from export.models.zoo import build_model

LAYOUTS = {"uniform": UniformLayers(), "erk": Erk()}
SMALL = ("lenet5", "mlp", "mnistnet", "cnn1d")


def write_masks(model: str, layout: str, sparsity: float, path: Path) -> None:
    """Random masks of all prunable weights but the first and the last, by name."""
    graph = build_model(model, SHAPES.get(model, (3, 32, 32)), 10, seed=0)
    shapes = {p.name: p.shape for p in graph.parameters if p.prunable}
    inner = dict(list(shapes.items())[1:-1])
    densities = LAYOUTS[layout].densities(inner, sparsity) if inner and sparsity else dict.fromkeys(inner, 1.0)
    draws = np.random.default_rng(1)
    masks = {}
    for name, density in densities.items():
        size = int(np.prod(inner[name]))
        flat = np.zeros(size, dtype=np.bool_)
        flat[draws.choice(size, max(1, round(size * density)), replace=False)] = True
        masks[name] = flat.reshape(inner[name])
    np.savez(path, **masks)


def measure(model: str, arguments: argparse.Namespace, threads: int, folder: Path) -> list[Row]:
    """Rows of one model at one thread count."""
    engines = arguments.engines.split(",")
    prepare(model, engines, arguments.batch, folder)
    cases: list[tuple[str, str, float, Path | None]] = [(e, "dense", 0.0, None) for e in engines if e != "sparse"]
    if "sparse" in engines:
        grid = itertools.product(arguments.layout.split(","), map(float, arguments.sparsity.split(",")))
        for layout, sparsity in grid:
            masks = folder / f"masks-{layout}-{sparsity}.npz"
            write_masks(model, layout, sparsity, masks)
            cases.append(("sparse", layout, sparsity, masks))
    workers = [Worker(engine, folder, threads, arguments.batch, masks) for engine, _, _, masks in cases]
    per_turn = 20 if model in SMALL else 4
    try:
        for turn in range(arguments.turns + 1):
            for worker in workers:
                worker.run(per_turn, count=turn > 0)
    finally:
        for worker in workers:
            worker.stop()
    return [
        {
            "model": model, "engine": engine, "layout": layout, "sparsity": sparsity, "threads": threads,
            "batch": arguments.batch, "steps": len(worker.times), "rss_mb_peak": worker.rss_mb_peak,
            "step_ms_p50": float(np.percentile(worker.times, 50)) / 1e6,
            "step_ms_p90": float(np.percentile(worker.times, 90)) / 1e6, **worker.opened,
        }
        for (engine, layout, sparsity, _), worker in zip(cases, workers, strict=True)
    ]  # fmt: skip


def main() -> None:
    """Parse arguments, measure, print a Markdown table with speed-ups over the first engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="cnn,resnet20,resnet18")
    parser.add_argument("--sparsity", default="0,0.5,0.8,0.9,0.95")
    parser.add_argument("--layout", default="uniform")
    parser.add_argument("--engines", default="ort_training,portable,sparse")
    parser.add_argument("--threads", default="1", help="comma-separated")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", help="write the rows to this file")
    arguments = parser.parse_args()
    print("| model | threads | engine | layout | sparsity | step ms p50 | p90 | faster | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for model, threads in itertools.product(arguments.models.split(","), map(int, arguments.threads.split(","))):
            found = measure(model, arguments, threads, Path(name) / f"{model}-{threads}")
            rows += found
            for r in found:
                faster = found[0]["step_ms_p50"] / r["step_ms_p50"]  # type: ignore[operator]
                print(
                    f"| {model} | {threads} | {r['engine']} | {r['layout']} | {r['sparsity']} "
                    f"| {r['step_ms_p50']:.3f} | {r['step_ms_p90']:.3f} | {faster:.2f} | {r['rss_mb_peak']:.0f} |",
                    flush=True,
                )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
