"""What a 90 %-sparse int8 file costs in accuracy against dense FedAvg, and which settings close the gap.

    python -m benchmarks.sparse_accuracy choose watch_har.npz --seeds 101-103 --json choice.jsonl
    python -m benchmarks.sparse_accuracy report watch_har.npz --seeds 1-3 --settings "dense;default" --json report.jsonl

`choose` holds out a part of the training data and never opens the test set; `report` trains on all and measures on the
test set, with other seeds, and writes the deployable files. Every run is three devices in one process, equal shares
drawn by seed, no noise, weighted by samples, so that dense and sparse differ by the setting alone. A file's name says
which task of TASKS it is. Needs the extras aggregator, demo and, for `report`, tflite-int8.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

from aggregator.core.dense_model import sparse_params
from aggregator.demo.plan import Options, Plan, device_arrays, make_plan
from aggregator.federation import Federation
from aggregator.run_folder import versions
from aggregator.settings import ModelSection
from aggregator.simulation.in_process import InProcessRun, run_in_process
from device_runtime.data import LocalData
from device_runtime.wire.draws import Draws
from device_runtime.wire.manifest import InputSpec
from export.deploy.deployment import Request, deploy_onnx, deploy_tflite
from export.deploy.provenance import Provenance
from export.deploy.samples import DataFile
from export.deploy.source import Source
from export.forward.model import ForwardModel

DEVICES = 3
Row = dict[str, object]
COLUMNS = (
    "data", "setting", "rounds", "seeds", "accuracy, mean (min to max)", "loss, points (each seed)", "int8 accuracy",
    "int8 loss", "int8 zstd, bytes", "smaller", "upload, of dense",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """A data set with its model: rounds of the dense baseline, training samples used (0: all), who is held out.

    people: an array NAME_train whose values 1 or 2 are held out in `choose`, as whole people; "" draws samples.
    """

    model: str
    rounds: int
    train_count: int = 0
    people: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model is trained: sparsity, rounds as a multiple of the baseline's, the share of them that is dense."""

    sparsity: float = 0.9
    rounds: float = 1.0
    dense_share: float = 0.0
    topology: object = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)

    def options(self, task: Task, data: Path, seed: int) -> Options:
        """The demo's options for a task."""
        rounds = round(task.rounds * self.rounds)
        pruning = {"sparsity": self.sparsity, "dense_rounds": round(rounds * self.dense_share)}
        return Options(
            rounds=rounds,
            devices=DEVICES,
            data=str(data),
            partition="iid",
            noise="none",
            engine="portable",
            seed=seed,
            model=ModelSection(name=task.model),
            tables={
                "training": dict(self.training),
                "pruning": pruning,
                "topology": self.topology,
                "weighting": "samples",
            },
        )


TASKS: Mapping[str, Task] = {
    "fashion_mnist": Task("lenet5", 12, train_count=12_000),
    "mnist": Task("lenet5", 12, train_count=12_000),
    "watch_har": Task("cnn1d", 25, people="subject"),
    "fsdd_logmel": Task("cnn1d", 30),
}
SETTINGS: Mapping[str, Setting] = {
    "dense": Setting(0.0, topology="static"),
    "default": Setting(),
    "dense_rounds 1/6": Setting(dense_share=1 / 6),
    "dense_rounds 1/3": Setting(dense_share=1 / 3),
    "dense_rounds 1/3, static": Setting(dense_share=1 / 3, topology="static"),
    "static": Setting(topology="static"),
    "prune_share 0.3": Setting(topology={"prune_share": 0.3}),
    "rounds x2": Setting(rounds=2),
    "sparsity 0.8, dense_rounds 1/3": Setting(0.8, dense_share=1 / 3),
}


def split(path: Path, task: Task, seed: int, choosing: bool, folder: Path) -> Path:
    """The data file of one run: fewer training samples where the task says so, and no test sample when choosing."""
    arrays = dict(np.load(path, allow_pickle=False))
    x, y = arrays["x_train"], arrays["y_train"]
    out = {name: arrays[name] for name in ("class_names",) if name in arrays}
    order = Draws(0, "subset").permutation(len(x))
    train, held = order, order[:0]
    if choosing and task.people:
        names = arrays[f"{task.people}_train"]
        everyone = np.unique(names)
        left_out = everyone[Draws(seed, "people").permutation(len(everyone))[:2]]
        train, held = (np.flatnonzero(np.isin(names, left_out) == flag) for flag in (False, True))
    elif choosing:
        order = Draws(seed, "validation").permutation(len(x))
        count = min(len(x) // 5, 4000)
        held, train = order[:count], order[count:]
    train = np.sort(train[: task.train_count] if task.train_count else train)
    tests = (x[held], y[held]) if choosing else (arrays["x_test"], arrays["y_test"])
    made = folder / path.name
    np.savez(made, x_train=x[train], y_train=y[train], x_test=tests[0], y_test=tests[1], **out)
    return made


def train(options: Options, folder: Path) -> tuple[bytes, Plan, InProcessRun]:
    """Train in this process; gives the last sparse model as ONNX, the plan and the run."""
    plan = make_plan(options, folder)
    np.savez(folder / "held_out.npz", x_test=plan.dataset.x_test, y_test=plan.dataset.y_test)
    arrays = device_arrays(options, plan)
    devices = {d.name: LocalData(x, y, d.name) for d, (x, y) in zip(plan.devices, arrays, strict=True)}
    run = run_in_process(plan.settings, devices, folder, engine=options.engine)
    return Federation(plan.settings, folder).forward_model(sparse_params(run.state.model)), plan, run


def files(forward: bytes, name: str, input: InputSpec, data: Path, folder: Path) -> Row:
    """Bytes, compressed bytes and accuracy of the deployable forms."""
    model = ForwardModel(onnx.load_from_string(forward))
    source = Source(model, Provenance(model=name, source_sha="", input=input))
    row: Row = {}
    for form, deploy, int8 in (
        ("onnx fp32", deploy_onnx, False),
        ("onnx int8", deploy_onnx, True),
        ("tflite int8", deploy_tflite, True),
    ):
        # The accuracy is what is measured here, so a loss over a point is shown, not refused.
        request = Request(source, folder / "file", int8, DataFile(data), accuracy_loss=1.0, seconds=0)
        side = deploy(request).verification.b
        row[form] = {"bytes": side.file_bytes, "compressed": side.compressed_bytes, "accuracy": side.accuracy}
    return row


def one(path: Path, name: str, seed: int, choosing: bool) -> Row:
    """One setting at one seed."""
    task, began = TASKS[path.stem], time.monotonic()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        data = split(path, task, seed, choosing, folder)
        forward, plan, run = train(SETTINGS[name].options(task, data, seed), folder)
        last = run.outcomes[-1].sparse
        assert last is not None, "the plan names held-out data"
        row: Row = {
            "task": path.stem,
            "setting": name,
            "seed": seed,
            "on": "validation" if choosing else "test",
            "rounds": len(run.outcomes),
            "accuracy": last.accuracy,
            "upload_bytes": run.update_bytes,
            "seconds": round(time.monotonic() - began, 1),
        }
        return row if choosing else row | files(forward, task.model, plan.settings.input, data, folder)


def mean(rows: list[Row], key: str) -> float:
    """The mean of one number of each row; `form/number` looks into a form."""
    values = []
    for row in rows:
        form, _, number = key.rpartition("/")
        place = row[form] if form else row
        assert isinstance(place, dict)
        values.append(float(place[number]))
    return float(np.mean(values))


def table(rows: list[Row]) -> Iterator[str]:
    """A Markdown table: one line per data set and setting, losses against the dense run of the same seeds."""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|" + "---|" * len(COLUMNS)
    for task in dict.fromkeys(str(r["task"]) for r in rows):
        of_task = [r for r in rows if r["task"] == task]
        dense = {r["seed"]: r for r in of_task if r["setting"] == "dense"}
        for setting in dict.fromkeys(str(r["setting"]) for r in of_task):
            chosen = [r for r in of_task if r["setting"] == setting]
            base = [dense[r["seed"]] for r in chosen if r["seed"] in dense]
            yield line(task, setting, chosen, base if len(base) == len(chosen) else [])


def line(task: str, setting: str, rows: list[Row], dense: list[Row]) -> str:
    """One line of the table; what was not measured is left empty."""
    accuracies = np.array([r["accuracy"] for r in rows], dtype=float)
    cells = [task, setting, str(rows[0]["rounds"]), str(len(rows))]
    cells.append(f"{accuracies.mean():.4f} ({accuracies.min():.4f} to {accuracies.max():.4f})")
    losses = [100 * (mean([d], "accuracy") - a) for d, a in zip(dense, accuracies, strict=False)]
    each = ", ".join(f"{loss:+.1f}" for loss in losses)
    cells.append(f"{np.mean(losses):+.2f} ({each})" if losses else "")
    deployed = "tflite int8" in rows[0]
    cells.append(f"{mean(rows, 'tflite int8/accuracy'):.4f}" if deployed else "")
    if deployed and dense:
        whole, small = mean(dense, "onnx fp32/bytes"), mean(rows, "tflite int8/compressed")
        cells.append(f"{100 * (mean(dense, 'accuracy') - mean(rows, 'tflite int8/accuracy')):+.2f}")
        cells += [f"{small:,.0f}", f"{whole / small:.1f}"]
    else:
        cells += ["", "", ""]
    cells.append(f"{100 * mean(rows, 'upload_bytes') / mean(dense, 'upload_bytes'):.0f} %" if dense else "")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Parse arguments, run what is not in the JSON file yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "report"))
    parser.add_argument("data", nargs="+", type=Path, help=".npz files named after a task")
    parser.add_argument("--seeds", default="", help="first-last; default 101-103 to choose, 1-3 to report")
    parser.add_argument("--settings", default="", help="semicolon-separated; default: all")
    parser.add_argument("--json", type=Path, help="raw rows, one a line; runs that stand there are not repeated")
    arguments = parser.parse_args()
    choosing = arguments.what == "choose"
    first, _, last = (arguments.seeds or ("101-103" if choosing else "1-3")).partition("-")
    names = [n.strip() for n in arguments.settings.split(";") if n.strip()] or list(SETTINGS)
    rows: list[Row] = []
    if arguments.json and arguments.json.exists():
        rows = [json.loads(text) for text in arguments.json.read_text().splitlines()]
        rows = [r for r in rows if (r["on"] == "validation") == choosing]
    done = {(r["task"], r["setting"], r["seed"]) for r in rows}
    print("versions:", json.dumps(versions() | {n: version(n) for n in ("onnx", "ai-edge-litert")}), flush=True)
    for name in names:
        for path in arguments.data:
            for seed in range(int(first), int(last or first) + 1):
                if (path.stem, name, seed) not in done:
                    rows.append(one(path, name, seed, choosing))
                    print(json.dumps(rows[-1]), flush=True)
                    if arguments.json:
                        with arguments.json.open("a") as file:
                            file.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
