"""One export from beginning to end: source, inference graph, int8 if asked, the file's bytes, proof, report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from device_runtime.wire.errors import UsageError
from export.deploy.dead_units import Cut
from export.deploy.facts import Inspection
from export.deploy.inference_graph import InferenceGraph, inference_graph, to_onnx
from export.deploy.inspection import inspect_file
from export.deploy.int8_onnx import quantise_onnx
from export.deploy.provenance import METADATA_KEY, Provenance, encode_provenance
from export.deploy.publish import publish
from export.deploy.samples import DataFile, Samples, calibration_samples, class_names
from export.deploy.source import Source
from export.deploy.verification import ACCURACY_LOSS_MAX, INT8_TOLERANCE, Tolerance, Verification

Via = Literal["writer", "litert-torch"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: the source, where to write, and how to prove it.

    data: samples for verification and, with int8, calibration; default the run's own held-out data. compact: keep
    pruned weights as sparse tensors (TFLite). via: who writes the operators of a TFLite file: our writer or, for a
    torch model, litert-torch.
    """

    source: Source
    out: Path
    int8: bool = False
    data: DataFile | None = None
    labels: tuple[str, ...] = ()
    accuracy_loss: float = ACCURACY_LOSS_MAX
    seconds: float = 0.5
    compact: bool = False
    via: Via = "writer"

    def samples(self) -> DataFile | None:
        """The data file to use, if there is any."""
        return self.data or (None if self.source.held_out is None else DataFile(self.source.held_out))

    def calibration(self) -> Samples:
        """Samples for the ranges of int8. Raises UsageError when there is no data."""
        data = self.samples()
        if data is None:
            raise UsageError("int8 needs real samples to find the ranges of activations: give --data FILE.npz")
        return calibration_samples(data, self.source.provenance.input, self.source.input_shape)

    def tolerance(self) -> Tolerance | None:
        """What int8 may lose; None stands for fp32's own."""
        if not self.int8:
            return None
        return Tolerance(kind="int8", relative=INT8_TOLERANCE, accuracy_loss=self.accuracy_loss)

    def provenance(self) -> Provenance:
        """What the file will say of itself."""
        data = self.samples()
        labels = self.labels or (() if data is None else class_names(data.path))
        return msgspec.structs.replace(self.source.provenance, labels=labels, dtype="int8" if self.int8 else "fp32")


class CutRow(msgspec.Struct, frozen=True, kw_only=True):
    """Units of one layer before and after dead ones were cut."""

    layer: str
    before: int
    after: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an export did: the file, what was cut, the proof (a: source, b: file), what calibrated int8."""

    file: str
    cuts: tuple[CutRow, ...]
    verification: Verification
    inspection: Inspection
    calibration: str = ""


def deploy_onnx(request: Request) -> Report:
    """Write the inference graph of a source as an ONNX file, proven.

    Raises UsageError for what cannot be deployed and for a file that failed its proof; then none is left.
    """
    graph = inference_graph(request.source.model)
    model, calibrated = to_onnx(graph.net), ""
    if request.int8:
        samples = request.calibration()
        model, calibrated = quantise_onnx(model, samples.x), samples.origin
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, encode_provenance(request.provenance()).decode()
    return finish(request, graph.cuts, model.SerializeToString(deterministic=True), calibrated)


def deploy_tflite(request: Request) -> Report:
    """Write the inference graph of a source, or with `via` its torch model, as a TFLite file, proven.

    Raises UsageError as `deploy_onnx` does, for an operator that cannot be written, by name, and where litert-torch is
    asked for and is not installed, fails, or has no torch model to convert.
    """
    cuts: tuple[Cut, ...] = ()
    if request.via == "litert-torch":
        data, calibrated = _bytes_via_litert_torch(request)
    else:
        graph = inference_graph(request.source.model)
        cuts = graph.cuts
        data, calibrated = tflite_bytes(request, graph)
    if request.compact:
        from export.tflite.sparse_tensors import encode_sparse

        data = encode_sparse(data)
    return finish(request, cuts, data, calibrated)


def tflite_bytes(request: Request, graph: InferenceGraph) -> tuple[bytes, str]:
    """The TFLite file of an inference graph, and what calibrated it."""
    from export.tflite.writer import write_tflite

    return _described(request, lambda metadata: write_tflite(graph.net, metadata))


def _bytes_via_litert_torch(request: Request) -> tuple[bytes, str]:
    """The same of the source's torch model, by litert-torch."""
    from export.tflite.via_litert_torch import convert_torch, converter

    source = request.source
    if not source.torch:
        raise UsageError(
            f"{source.provenance.model} is no torch model, and litert-torch converts nothing else: leave out --via"
        )
    return _described(request, lambda m: convert_torch(source.torch, source.model, source.input_shape, m), converter())


def _described(
    request: Request, write: Callable[[Mapping[str, bytes]], bytes], converter: str = ""
) -> tuple[bytes, str]:
    """What `write` makes with the metadata given to it, quantised if asked for, and what calibrated it."""
    provenance = msgspec.structs.replace(request.provenance(), layout="channels_last", converter=converter)
    metadata = {METADATA_KEY: encode_provenance(provenance)}
    if not request.int8:
        return write(metadata), ""
    from export.tflite.int8 import quantise_tflite

    samples = request.calibration()
    return quantise_tflite(write({}), samples.x, metadata), samples.origin


def finish(request: Request, cuts: tuple[Cut, ...], data: bytes, calibrated: str) -> Report:
    """Prove and name the file, and report."""
    found = publish(
        data,
        request.out,
        request.source,
        samples=request.samples(),
        tolerance=request.tolerance(),
        seconds=request.seconds,
    )
    return Report(
        file=str(request.out),
        cuts=tuple(CutRow(layer=c.layer, before=c.before, after=c.after) for c in cuts),
        verification=found,
        inspection=inspect_file(request.out),
        calibration=calibrated,
    )
