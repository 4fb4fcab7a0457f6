"""Does a last layer of its own help a device? Accuracy of each on its own held-out part, with and without one.

    python -m benchmarks.personal                                   digits, 8 devices, Dirichlet 0.1, seeds 1-5
    python -m benchmarks.personal --data watch_har.npz --model cnn1d --rounds 25 --json F

Every device's part of the data is split, three quarters to train on and one quarter held out. Three runs at every seed:
"shared", in which every device uploads everything and is given the aggregator's sparse model; "own", the same but
every device keeps its last layer; and "alone", every device a federation of itself, as many rounds and epochs. Same
core, engine and training as over a broker; one process per core.

The split is by sample, at random: samples that overlap or repeat stand on both sides of it.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from aggregator.core.dense_model import sparse_params
from aggregator.demo.plan import Options, Plan, device_arrays, make_plan
from aggregator.evaluation import Evaluator
from aggregator.run_folder import versions
from aggregator.settings import ModelSection, Settings
from aggregator.simulation.in_process import run_in_process
from device_runtime.data import LocalData, prepare
from device_runtime.personal import LAST, Choice
from device_runtime.wire.draws import Draws
from device_runtime.wire.support import FloatArray
from export.forward.values import parameterised_forward
from export.models.sources import load_model

HELD_OUT_SHARE = 0.25
KINDS = ("shared", "own", "alone")
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Parts:
    """Each device's samples: those it trains on, and those it is asked about."""

    train: dict[str, LocalData]
    held_out: dict[str, LocalData]


def split(options: Options, plan: Plan) -> Parts:
    """Every device's part of the data, split by the seed."""
    train, held_out = {}, {}
    for device, (x, y) in zip(plan.devices, device_arrays(options, plan), strict=True):
        order = Draws(options.seed, "held out", device.name).permutation(len(x))
        cut = max(1, round(HELD_OUT_SHARE * len(x)))
        held_out[device.name] = LocalData(x[order[:cut]], y[order[:cut]], device.name)
        train[device.name] = LocalData(x[order[cut:]], y[order[cut:]], device.name)
    return Parts(train, held_out)


def models_of(
    settings: Settings, train: Mapping[str, LocalData], folder: Path, personal: Choice = ()
) -> dict[str, dict[str, FloatArray]]:
    """The sparse model that each device has after the last round: the aggregator's, with its own layer where it has
    one."""
    run = run_in_process(settings, train, folder, personal=dict.fromkeys(train, personal))
    shared = sparse_params(run.state.model)
    return {name: {**shared, **own} for name, own in run.personal.items()}


def one(task: tuple[Options, str]) -> Row:
    """One seed: the three runs, and every device's accuracy after each."""
    options, weighting = task
    with tempfile.TemporaryDirectory() as name:
        plan = make_plan(options, Path(name) / "plan")
        run_section = msgspec.structs.replace(plan.settings.run, held_out="")
        settings = msgspec.structs.replace(plan.settings, run=run_section)
        parts = split(options, plan)
        found = {
            "shared": models_of(settings, parts.train, Path(name) / "shared"),
            "own": models_of(settings, parts.train, Path(name) / "own", LAST),
            "alone": {
                n: models_of(settings, {n: data}, Path(name) / "alone" / n)[n] for n, data in parts.train.items()
            },
        }
        accuracy = {kind: _accuracies(settings, parts, models) for kind, models in found.items()}
    classes = {n: len(np.unique(d.y)) for n, d in parts.train.items()}
    return {
        "seed": options.seed,
        "partition": options.partition,
        "weighting": weighting,
        "samples": {n: len(d) for n, d in parts.train.items()},
        "classes": classes,
        "accuracy": accuracy,
    }


def _accuracies(
    settings: Settings, parts: Parts, models: Mapping[str, Mapping[str, FloatArray]]
) -> dict[str, float | None]:
    """Each device's share of its own held-out part that its model classifies right."""
    m = settings.model
    graph = parameterised_forward(
        load_model(
            zoo=m.name, torch=m.torch, onnx_file=m.onnx, input_shape=settings.input.shape, class_count=m.classes, seed=0
        )
    )
    return {
        name: Evaluator(graph, prepare(data, settings.input, m.loss, m.classes), m.loss, threads=1)
        .score(models[name])
        .accuracy
        for name, data in parts.held_out.items()
    }


def summarise(partition: str, weighting: str, rows: list[Row]) -> list[str]:
    """Lines of the table: over seeds, the mean over devices, the worst device, and who gains by a layer of its own."""
    every = {kind: [np.array(list(r["accuracy"][kind].values())) for r in rows] for kind in KINDS}  # type: ignore[index]  # our own rows
    lines = []
    for kind in KINDS:
        means = np.array([a.mean() for a in every[kind]])
        worst = np.array([a.min() for a in every[kind]])
        gain = np.concatenate(every[kind]) - np.concatenate(every["shared"])
        moved = "-" if kind == "shared" else f"{np.sum(gain > 0)} / {np.sum(gain == 0)} / {np.sum(gain < 0)}"
        seeds = ", ".join(f"{m:.3f}" for m in means)
        lines.append(
            f"| {partition} | {weighting} | {kind} | {means.mean():.4f} | {seeds} | {worst.mean():.4f} | {moved} |"
        )
    return lines


def main() -> None:
    """Parse arguments, run, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, or an .npz file")
    parser.add_argument("--layout", default="auto", help="as the demo's")
    parser.add_argument("--model", default="mlp", help="of the zoo")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--partitions", default="dirichlet:0.1", help="comma-separated")
    parser.add_argument("--weightings", default="cgsv,samples", help="comma-separated")
    parser.add_argument("--seeds", default="1-5", help="first-last")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--json", help="write raw rows to this file")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    print("versions:", json.dumps(versions()))
    print(
        f"{Path(arguments.data).name}, {arguments.model}, {arguments.devices} devices, {arguments.rounds} rounds, "
        f"sparsity {arguments.sparsity}, seeds {arguments.seeds}\n"
    )
    print("| partition | weighting | run | mean over devices | by seed | worst device | gain / same / lose |")
    print("|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for partition in arguments.partitions.split(","):
            for weighting in arguments.weightings.split(","):
                options = [
                    Options(
                        rounds=arguments.rounds, devices=arguments.devices, data=arguments.data,
                        layout=arguments.layout, partition=partition, noise="none", seed=seed,
                        model=ModelSection(name=arguments.model),
                        tables={"pruning": {"sparsity": arguments.sparsity}, "weighting": weighting},
                    )
                    for seed in seeds
                ]  # fmt: skip
                found = pool.map(one, [(o, weighting) for o in options], chunksize=1)
                rows += found
                print("\n".join(summarise(partition, weighting, found)), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
