"""What deployment gains: sizes and accuracy of every form of a run's model, and what cutting dead units saves.

    python -m benchmarks.deploy sizes RUN=DATA.npz ...        every form of each run, and of RUN/compare/fedavg if there
    python -m benchmarks.deploy dead RUN ...                  before and after cutting, of the runs' sparse models
    python -m benchmarks.deploy dead lenet5=0.99 ...          the same of zoo models pruned at random
    python -m benchmarks.deploy converters package.module:factory=3,32,32 ...     our TFLite writer beside litert-torch

Needs the extras tflite-int8 and aggregator, `converters` litert-torch too. Every number is printed as JSON too, with
versions.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import cast

import onnx
from onnx import ModelProto, numpy_helper

from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from export.deploy.deployment import Request, Via, deploy_onnx, deploy_tflite
from export.deploy.inference_graph import inference_graph, to_onnx
from export.deploy.inspection import inspect_file
from export.deploy.measure import Cost, measure
from export.deploy.samples import DataFile
from export.deploy.source import Source, open_source
from export.deploy.verification import Side, verify
from export.models.zoo import build_model
from export.tflite.writer import write_tflite

SHAPES = {"mlp": (1, 28, 28), "lenet5": (1, 28, 28), "mnistnet": (1, 28, 28), "cnn1d": (6, 128)}
TURNS = 5
Row = dict[str, object]


def forms(run: Path, data: DataFile, folder: Path) -> Iterator[tuple[str, Side]]:
    """Every deployable form of a run, the dense fp32 ONNX file that all are compared with first."""
    fedavg = run / "compare" / "fedavg"
    if fedavg.is_dir():
        yield (
            "fedavg, dense, onnx fp32",
            deploy_onnx(Request(open_source(str(fedavg)), folder / "f.onnx", data=data)).verification.b,
        )
    dense, sparse = open_source(str(run), which="dense"), open_source(str(run))
    yield "dense, onnx fp32", deploy_onnx(Request(dense, folder / "d.onnx", data=data)).verification.b
    for int8 in (False, True):
        kind = "int8" if int8 else "fp32"
        for name, deploy in (("onnx", deploy_onnx), ("tflite", deploy_tflite)):
            # The accuracy is what is measured here, so a loss over a point is shown, not refused.
            request = Request(sparse, folder / f"{kind}.{name}", int8, data, accuracy_loss=1.0)
            yield f"sparse, {name} {kind}", deploy(request).verification.b
        compact = Request(sparse, folder / f"{kind}.compact", int8, data, accuracy_loss=1.0, compact=True)
        yield f"sparse, tflite {kind} --compact", deploy_tflite(compact).verification.b


def sizes(arguments: list[str]) -> list[Row]:
    """The table of sizes of each RUN=DATA."""
    rows: list[Row] = []
    for argument in arguments:
        run, _, path = argument.partition("=")
        with tempfile.TemporaryDirectory() as folder:
            found = dict(forms(Path(run), DataFile(Path(path)), Path(folder)))
        whole = found["dense, onnx fp32"].file_bytes
        for name, side in found.items():
            assert side.cost is not None
            rows.append(
                {
                    "run": Path(run).name,
                    "form": name,
                    "bytes": side.file_bytes,
                    "compressed": side.compressed_bytes,
                    "smaller": round(whole / side.compressed_bytes, 1),
                    "accuracy": side.accuracy,
                    "p50_us": side.cost.latency_ns_p50 / 1000,
                    "memory_mb": round((side.cost.memory_bytes_peak or 0) / 1e6, 2),
                }
            )
    return rows


def converters(arguments: list[str]) -> list[Row]:
    """Torch models written as TFLite by our writer and by litert-torch; a refusal stands in place of the numbers."""
    rows: list[Row] = []
    for argument in arguments:
        spec, _, shape = argument.partition("=")
        source = open_source(spec, input_shape=tuple(map(int, shape.split(","))))
        with tempfile.TemporaryDirectory() as text:
            paths = {"writer": Path(text) / "a.tflite", "litert-torch": Path(text) / "b.tflite"}
            made: dict[str, Row] = {}
            for via, path in paths.items():
                began = time.monotonic()
                try:
                    found = deploy_tflite(Request(source, path, seconds=0, via=cast("Via", via)))
                except UsageError as error:
                    made[via] = {"refused": str(error)}
                    continue
                made[via] = {
                    "bytes": found.verification.b.file_bytes,
                    "compressed": found.verification.b.compressed_bytes,
                    "max_relative": f"{found.verification.max_relative:.1e}",
                    "operators": len(found.inspection.layers),
                    "seconds": round(time.monotonic() - began, 1),
                }
            written = [via for via in paths if paths[via].exists()]
            costs = _in_turns(paths[written[0]], paths[written[-1]]) if written else ()
            for via, cost in zip(written, costs, strict=False):
                made[via]["p50_us"] = round(cost.latency_ns_p50 / 1000, 1)
        keys = ("bytes", "compressed", "operators", "max_relative", "p50_us", "seconds", "refused")
        rows += [
            {"model": spec.partition(":")[2], "via": via, **{k: made[via].get(k, "") for k in keys}} for via in made
        ]
    return rows


def randomly_pruned(name: str, share: float) -> ModelProto:
    """A zoo model with a random share of its prunable weights zero; biases are drawn, so that constants matter."""
    model = build_model(name, SHAPES.get(name, (3, 32, 32)), 10, seed=1)
    table = {p.name: p for p in model.parameters}
    pruned = ModelProto()
    pruned.CopyFrom(model.proto)
    for tensor in pruned.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        if table[tensor.name].prunable:
            value[Draws(1, "benchmark", tensor.name).uniform(value.size).reshape(value.shape) < share] = 0.0
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return pruned


def dead(arguments: list[str]) -> list[Row]:
    """What cutting dead units saves, of runs or of MODEL=SHARE."""
    rows: list[Row] = []
    for argument in arguments:
        name, _, share = argument.partition("=")
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            source = _source(name, share, folder)
            graph = inference_graph(source.model)
            for side, net in (("before", inference_graph(source.model, cut=False).net), ("after", graph.net)):
                onnx.save(to_onnx(net), folder / f"{side}.onnx")
                (folder / f"{side}.tflite").write_bytes(write_tflite(net, {}))
            found = verify(folder / "before.onnx", folder / "after.onnx", None, seconds=0)
            sides = [inspect_file(folder / f"{side}.onnx") for side in ("before", "after")]
            costs = [_in_turns(folder / f"before.{form}", folder / f"after.{form}") for form in ("onnx", "tflite")]
        rows.append(
            {
                "model": argument if share else Path(name).name,
                "units": f"{sum(c.before for c in graph.cuts)} to {sum(c.after for c in graph.cuts)}",
                "max_relative": found.max_relative,
                "flops": [s.flops_executed for s in sides],
                "bytes": [s.file_bytes for s in sides],
                "p50_us onnx": [round(c.latency_ns_p50 / 1000, 1) for c in costs[0]],
                "p50_us tflite": [round(c.latency_ns_p50 / 1000, 1) for c in costs[1]],
            }
        )
    return rows


def _source(name: str, share: str, folder: Path) -> Source:
    if not share:
        return open_source(name)
    onnx.save(randomly_pruned(name, float(share)), folder / f"{name}.onnx")
    return open_source(str(folder / f"{name}.onnx"))


def _in_turns(first: Path, second: Path) -> tuple[Cost, Cost]:
    """Each file's quickest of several processes, taken in turns: other work on the machine only ever adds."""
    seen = [[measure(path, seconds=0.3) for path in (first, second)] for _ in range(TURNS)]
    a, b = (min((turn[i] for turn in seen), key=lambda cost: cost.latency_ns_p50) for i in (0, 1))
    return a, b


def main() -> None:
    """Print the table and its raw numbers."""
    table = {"sizes": sizes, "dead": dead, "converters": converters}[sys.argv[1]](sys.argv[2:])
    names = list(table[0])
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in table:
        print("| " + " | ".join(str(row[name]) for name in names) + " |")
    libraries = ("onnx", "onnxruntime", "ai-edge-litert", "ai-edge-quantizer", "numpy", "torch", "litert-torch")
    print(json.dumps({"rows": table, "versions": {n: _version(n) for n in libraries}, "machine": platform.machine()}))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


if __name__ == "__main__":
    main()
