"""The manifest of a training artifact: files with hashes, parameters, input, hyperparameters and the cost table."""

import math
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from device_runtime.wire.cost import NodeCost
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.limits import (
    DECODED_BYTES_MAX,
    PARAMETER_NAME_BYTES_MAX,
    STATE_COUNT_MAX,
    TENSOR_COUNT_MAX,
    TENSOR_DIMS_MAX,
)
from device_runtime.wire.support import FloatArray

MANIFEST_FILE = "manifest.json"
SCORES_FILE = "scores.onnx"  # of engine portable, only where a device may be asked to move its masks

Role = Literal["weight", "bias", "norm", "statistic"]
Loss = Literal["cross_entropy", "mse", "bce_with_logits", "l1"]
OptimizerName = Literal["sgd", "adamw"]


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One named tensor of the model.

    role: "weight" and "bias" are trained and contribute to psi; "norm" (scale and shift of a normalisation) is trained,
    "statistic" (running mean and variance) is updated by the forward pass; both travel as fp32 and are averaged by
    samples. Only a "weight" of a convolution or fully connected layer is prunable.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    prunable: bool


class ArtifactFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the artifact folder, by a plain name, with its SHA-256 and size."""

    name: Annotated[str, Meta(pattern=r"^[^./\\\0][^/\\\0]*\Z", max_length=PARAMETER_NAME_BYTES_MAX)]
    sha: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size_bytes: Annotated[int, Meta(ge=0, le=DECODED_BYTES_MAX)]


class Optimizer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The local optimizer and every hyperparameter but the learning rate, which is given per round.

    `where` says who applies the step: "graph" (the official optimizer graph) or "host" (the engine, in numpy).
    sgd: v <- momentum v + (g + weight_decay w); w <- w - lr (v, or g + momentum v with nesterov), torch's rule.
    adamw: decoupled weight decay and bias correction, torch's rule (Loshchilov and Hutter, arXiv 1711.05101).
    clip_norm: global norm to which gradients are clipped, 0 = never. proximal_mu: FedProx's mu (Li et al., MLSys 2020):
    the gradient of mu/2 |w - w_received|^2 is added, 0 = never. An engine that applies neither is given
    no artifact for them.
    """

    name: OptimizerName = "sgd"
    where: Literal["graph", "host"] = "graph"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 0.0
    proximal_mu: float = 0.0


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor that a portable train step carries from step to step besides the parameters, zero at the start."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"] = "float32"


class InputSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How raw data becomes model input: transpose by `axes`, multiply by `scale`, subtract `mean`, divide by `std`.

    shape: the model's input shape without batch. axes: the permutation of the raw sample's axes (after a missing
    channel axis was added in front) that gives `shape`. mean, std: one value, or one per channel (axis 0 of `shape`).
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...] = ()
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def apply(self, raw: np.ndarray) -> FloatArray:
        """Raw samples [N, ...] as float32 [N, *shape].

        Raises ValueError when the raw sample cannot have `shape`, or mean and std have another number of channels.
        """
        x = raw
        if self.axes:
            if x.ndim == len(self.axes):
                x = x[:, None]
            x = x.transpose(0, *(a + 1 for a in self.axes))
        if x.shape[1:] not in (self.shape, self.shape[1:] if self.shape[:1] == (1,) else self.shape):
            raise ValueError(f"samples of shape {raw.shape[1:]} are not {self.shape}")
        x = x.reshape(len(raw), *self.shape)
        per_channel = (-1,) + (1,) * (len(self.shape) - 1)
        if {len(self.mean), len(self.std)} - {1, *self.shape[:1]}:
            raise ValueError(f"mean and std need one value, or one per channel of {self.shape}")
        mean = np.asarray(self.mean, dtype=np.float32).reshape(per_channel)
        std = np.asarray(self.std, dtype=np.float32).reshape(per_channel)
        result: FloatArray = np.ascontiguousarray((x.astype(np.float32) * np.float32(self.scale) - mean) / std)
        return result


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All a device needs to know about an artifact before it opens a file of it.

    kernel: a word for a reader on what the engine's kernels make of masks; how they count is the engine's own rule.
    """

    format: Literal[1] = 1
    model: str
    engine: str
    input: InputSpec
    class_count: int
    loss: Loss
    optimizer: Optimizer
    parameters: tuple[Parameter, ...]
    costs: tuple[NodeCost, ...]
    files: tuple[ArtifactFile, ...]
    opset: int
    ir_version: int
    kernel: Annotated[str, Meta(min_length=1, max_length=63)] = "masked-dense"
    states: tuple[State, ...] = ()

    @property
    def prunable(self) -> tuple[str, ...]:
        """Names of the parameters that may be masked, in table order."""
        return tuple(p.name for p in self.parameters if p.prunable)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter shapes by name, in table order."""
        return {p.name: p.shape for p in self.parameters}


def mask_name(weight: str) -> str:
    """The name of the graph input that carries the mask of `weight`."""
    return f"{weight}.mask"


# The graph input that says when the kept weights of a sparse train step have changed.
STAMP = "kept.stamp"


def kept_name(weight: str) -> str:
    """The name of the graph input that carries the flat indices of the kept elements of `weight`."""
    return f"{weight}.kept"


def count_name(weight: str) -> str:
    """The name of an axis as long as the kept elements of `weight`."""
    return f"{weight}.count"


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON, the bytes that are hashed."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def decode_manifest(data: bytes) -> Manifest:
    """Read and check a manifest.

    Raises RemoteWireError for malformed JSON, unknown fields, files that are paths, duplicate or over-long names and
    impossible shapes.
    """
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteWireError(f"the artifact manifest is malformed: {error}") from error
    names = [p.name for p in manifest.parameters]
    if len(set(names)) != len(names) or len(names) > TENSOR_COUNT_MAX:
        raise RemoteWireError("the artifact manifest names a parameter twice, or too many of them")
    for parameter in manifest.parameters:
        if not 0 < len(parameter.name.encode()) <= PARAMETER_NAME_BYTES_MAX:
            raise RemoteWireError(f"the artifact manifest has a parameter name of bad length: {parameter.name[:40]!r}")
        if len(parameter.shape) > TENSOR_DIMS_MAX or any(d < 1 for d in parameter.shape):
            raise RemoteWireError(f"parameter {parameter.name!r} has the impossible shape {parameter.shape}")
    if 4 * sum(math.prod(shape) for shape in manifest.shapes().values()) > DECODED_BYTES_MAX:
        raise RemoteWireError(f"the artifact manifest describes a model of more than {DECODED_BYTES_MAX} bytes")
    _check_states(manifest)
    return manifest


def _check_states(manifest: Manifest) -> None:
    """States are of single parameters or of the whole step, so none is larger than the largest parameter."""
    largest = max((math.prod(shape) for shape in manifest.shapes().values()), default=1)
    names = [state.name for state in manifest.states]
    if len({*names}) != len(names) or len(names) > STATE_COUNT_MAX:
        raise RemoteWireError("the artifact manifest names a state twice, or too many of them")
    for state in manifest.states:
        if any(d < 1 for d in state.shape) or math.prod(state.shape) > largest:
            raise RemoteWireError(f"state {state.name[:40]!r} has the impossible shape {state.shape}"[:300])
