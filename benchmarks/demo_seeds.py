"""The demo's outcome over many seeds, and beside it the same with other weightings, noise, skew and fleet sizes.

    python -m benchmarks.demo_seeds                 seeds 1-20, every variant
    python -m benchmarks.demo_seeds --seeds 100-119 --variants default,samples --json F

Runs in one process per core, with the same core, engine and training as the demo (a test compares the bits).
"""

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from aggregator.demo.plan import Options, device_arrays, make_plan
from aggregator.run_folder import versions
from aggregator.simulation.in_process import run_in_process
from device_runtime.data import LocalData

Row = dict[str, object]
VARIANTS: Mapping[str, dict[str, object]] = {
    "default": {},
    "samples": {"weighting": "samples"},
    "uniform": {"weighting": "uniform"},
    "noisy device left out": {"leave_out": True},
    "no noise": {"noise": "none"},
    "beta 0.1": {"partition": "dirichlet:0.1"},
    "beta 0.1 and samples": {"partition": "dirichlet:0.1", "weighting": "samples"},
    "2 devices": {"devices": 2},
    "2 devices and samples": {"devices": 2, "weighting": "samples"},
    "3 devices": {"devices": 3},
    "3 devices and samples": {"devices": 3, "weighting": "samples"},
    "residual keep": {"residual": "keep"},
    "residual zero": {"residual": "zero"},
    "topology static": {"topology": "static"},
    "rates by contribution": {"rates": {"kind": "contribution", "kappa": 0.15}},
    "dense": {"pruning": {"sparsity": 0.0}, "topology": "static"},
}


def options_of(variant: str, seed: int) -> tuple[Options, bool]:
    """The demo's options for a variant, and whether the noisy device is left out."""
    changes = dict(VARIANTS[variant])
    leave_out = bool(changes.pop("leave_out", False))
    own = {key: changes.pop(key) for key in tuple(changes) if key in Options.__struct_fields__}
    return msgspec.convert({"seed": seed, "tables": changes, **own}, Options), leave_out


def one(task: tuple[str, int]) -> Row:
    """One run of a variant at a seed."""
    variant, seed = task
    options, leave_out = options_of(variant, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = make_plan(options, folder)
        np.savez(folder / "held_out.npz", x_test=plan.dataset.x_test, y_test=plan.dataset.y_test)
        names = [d.name for d in plan.devices]
        data = {n: LocalData(x, y, n) for n, (x, y) in zip(names, device_arrays(options, plan), strict=True)}
        if leave_out:
            data = {n: d for n, d in data.items() if n not in plan.noisy}
        run = run_in_process(plan.settings, data, folder)
    last = run.outcomes[-1]
    weights = last.weights
    noisy_last = None if leave_out or not plan.noisy else min(weights, key=lambda n: weights[n]) in plan.noisy
    return {
        "variant": variant,
        "seed": seed,
        "accuracy_sparse": last.evaluation.sparse and last.evaluation.sparse.accuracy,
        "accuracy_dense": last.evaluation.dense and last.evaluation.dense.accuracy,
        "noisy_last": noisy_last,
        "weights": weights,
    }


def summarise(variant: str, rows: list[Row]) -> str:
    """A line of the table."""
    sparse = np.array([r["accuracy_sparse"] for r in rows], dtype=float)
    dense = np.array([r["accuracy_dense"] for r in rows], dtype=float)
    known = [r["noisy_last"] for r in rows if r["noisy_last"] is not None]
    last = f"{sum(bool(k) for k in known)} of {len(known)}" if known else "-"
    return (
        f"| {variant} | {np.median(sparse):.4f} | {np.percentile(sparse, 10):.4f} | {sparse.min():.4f} "
        f"| {np.median(dense):.4f} | {last} |"
    )


def main() -> None:
    """Parse arguments, run, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1-20", help="first-last")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    parser.add_argument("--json", help="write raw rows to this file")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    print("versions:", json.dumps(versions()))
    print(f"seeds {arguments.seeds}, {Options().rounds} rounds\n")
    print("| variant | sparse, median | 10th percentile | min | dense, median | noisy device last in weight |")
    print("|---|---|---|---|---|---|")
    every: list[Row] = []
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for variant in map(str.strip, arguments.variants.split(",")):
            rows = pool.map(one, [(variant, seed) for seed in seeds], chunksize=1)
            every += rows
            print(summarise(variant, rows), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
