"""What is to be deployed: the model of a run folder, an ONNX file, or a torch model, with where it comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from onnx import ModelProto, helper, numpy_helper

from device_runtime.wire.errors import RemoteWireError, UsageError
from device_runtime.wire.manifest import MANIFEST_FILE, Manifest, decode_manifest
from device_runtime.wire.submodel import decode_supports
from device_runtime.wire.support import sha256_hex
from export.deploy.net import Shape
from export.deploy.provenance import METADATA_KEY, Provenance, encode_provenance
from export.forward.form import INPUT
from export.forward.model import ForwardModel
from export.forward.values import forward_with
from export.models.onnx_import import import_onnx

Which = Literal["sparse", "dense"]


@dataclass(frozen=True, slots=True)
class Source:
    """A forward model, what there is to say of it, and the run's held-out data if it kept any.

    torch: the torch model that it was traced from, as package.module:factory, or "".
    """

    model: ForwardModel
    provenance: Provenance
    held_out: Path | None = None
    torch: str = ""

    def as_onnx(self) -> bytes:
        """The forward model as a file that says where it comes from: the one every export is compared with."""
        copy = ModelProto()
        copy.CopyFrom(self.model.proto)
        helper.set_model_props(copy, {METADATA_KEY: encode_provenance(self.provenance).decode()})
        data: bytes = copy.SerializeToString(deterministic=True)
        return data

    def with_parameters(self, path: Path) -> "Source":
        """The same model with the tensors of a safetensors file in place of its own: a layer that a device kept.

        Raises UsageError for a file that cannot be read, a name the model does not have and a shape that differs.
        """
        data = _read(path)
        try:
            tensors = safetensors.numpy.load(data)
        except safetensors.SafetensorError as error:
            raise UsageError(f"{path} is malformed ({error}): give a safetensors file") from error
        model = forward_with(self.model, tensors)
        provenance = msgspec.structs.replace(
            self.provenance,
            replaced=tuple(sorted(tensors)),
            replaced_sha=sha256_hex(data),
            source_sha=sha256_hex(model.to_bytes()),
        )
        return Source(model, provenance, self.held_out, self.torch)

    @property
    def input_shape(self) -> Shape:
        """The shape of one sample."""
        return self.model.inputs[INPUT]


def open_source(
    text: str, *, round_index: int | None = None, which: Which = "sparse", input_shape: Shape | None = None
) -> Source:
    """The source that `text` names: a run folder, an ONNX file, or a torch model as package.module:factory.

    round_index (default: the last) and which are for a run; input_shape is for a torch model.

    Raises UsageError for a source that is not there or not whole, and where its import does.
    """
    path = Path(text)
    if path.is_dir():
        return _of_run(path, round_index, which)
    if not path.exists() and ":" in text:
        if input_shape is None:
            raise UsageError(f"{text} is a torch model: give --input, the shape of one sample, e.g. 3,32,32")
        from export.models.torch_import import import_torch

        model = import_torch(text, input_shape)
        return Source(model, _provenance(model, text.partition(":")[2]), torch=text)
    model = import_onnx(path)
    return Source(model, _provenance(model, path.stem))


def _provenance(model: ForwardModel, name: str) -> Provenance:
    parameters = [p for p in model.parameters if p.role != "statistic"]
    return Provenance(
        model=name,
        source_sha=sha256_hex(model.to_bytes()),
        source_flops=sum(row.flops_forward for row in model.costs),
        source_parameters=sum(int(np.prod(p.shape)) for p in parameters),
    )


def _of_run(run: Path, round_index: int | None, which: Which) -> Source:
    folder = _round_folder(run, round_index)
    manifest = _manifest(folder)
    model = import_onnx(folder / "forward.onnx")
    stored = _read(folder / "params.safetensors")
    if which == "dense":
        try:
            model = forward_with(model, safetensors.numpy.load(stored))
        except safetensors.SafetensorError as error:
            raise UsageError(f"{folder / 'params.safetensors'} is malformed ({error}): copy the run again") from error
    else:
        _check_sparse(model, manifest, folder)
    provenance = msgspec.structs.replace(
        _provenance(model, manifest.model),
        run=run.resolve().name,
        round_index=int(folder.name),
        which=which,
        params_sha=sha256_hex(stored),
        input=manifest.input,
    )
    settings = _settings(run)
    return Source(model, provenance, _held_out(run, settings), settings.model.torch)


def _round_folder(run: Path, round_index: int | None) -> Path:
    folders = {int(p.name): p for p in (run / "models").glob("*") if p.name.isdecimal()}
    if not folders:
        raise UsageError(
            f"{run} is a folder without models/<round>: give the folder of a finished run, or a model file"
        )
    chosen = max(folders) if round_index is None else round_index
    if chosen not in folders:
        kept = ", ".join(str(i) for i in sorted(folders))
        raise UsageError(f"{run} has no model of round {chosen}: choose one of {kept}")
    return folders[chosen]


def _manifest(folder: Path) -> Manifest:
    try:
        return decode_manifest(_read(folder / MANIFEST_FILE))
    except RemoteWireError as error:
        raise UsageError(f"{folder / MANIFEST_FILE} is malformed ({error}): copy the run again") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): is it there, and whole?") from error


def _check_sparse(model: ForwardModel, manifest: Manifest, folder: Path) -> None:
    """A sparse model is zero wherever its supports say so; a folder put together from two rounds is not."""
    try:
        supports = decode_supports(_read(folder / "supports"), manifest.shapes())
    except RemoteWireError as error:
        raise UsageError(f"{folder / 'supports'} does not fit the manifest ({error}): copy the run again") from error
    for tensor in model.graph.initializer:
        support = supports.get(tensor.name)
        if support is not None and np.any(numpy_helper.to_array(tensor)[~support.dense_mask()]):
            raise UsageError(
                f"{folder / 'forward.onnx'}: {tensor.name} has pruned weights that are not zero: copy it again"
            )


class _RunSection(msgspec.Struct):
    held_out: str = ""


class _ModelSection(msgspec.Struct):
    torch: str = ""


class _Settings(msgspec.Struct):
    """What deployment reads of a run's settings."""

    run: _RunSection = msgspec.field(default_factory=_RunSection)
    model: _ModelSection = msgspec.field(default_factory=_ModelSection)


def _settings(run: Path) -> _Settings:
    """The run's settings; a copied run may lack them, and is deployed without."""
    try:
        return msgspec.json.decode((run / "settings.json").read_bytes(), type=_Settings)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return _Settings()


def _held_out(run: Path, settings: _Settings) -> Path | None:
    """The held-out data that lies in the folder, or that the settings name."""
    return next((p for p in (run / "held_out.npz", Path(settings.run.held_out)) if p.is_file()), None)
