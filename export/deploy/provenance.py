"""What a deployed file says of itself: where it comes from, how raw data becomes its input, what its outputs mean.

One JSON text under the key `espalier`, in an ONNX file's metadata properties and in a TFLite file's metadata.
"""

from pathlib import Path
from typing import Literal

import msgspec
import onnx

from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.version import VERSION

METADATA_KEY = "espalier"
TFLITE_IDENTIFIER = b"TFL3"

Kind = Literal["onnx", "tflite"]
Layout = Literal["channels_first", "channels_last"]


class Provenance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Where a deployed file comes from.

    which: the run's sparse or dense model, "" for a model that is of no run. source_sha is the SHA-256 of the forward
    model it was made from, params_sha that of a run's params.safetensors. source_flops and source_parameters count the
    forward model before anything was cut. replaced: parameters that came from a file of their own, of SHA-256
    replaced_sha. layout: how the file itself keeps images; `input` always describes
    channels first, and a channels-last file wants the normalised sample transposed. converter: the program that wrote
    the operators, with its version, "" for our own writers.
    """

    format: Literal[1] = 1
    espalier: str = VERSION
    model: str
    run: str = ""
    round_index: int | None = None
    which: Literal["sparse", "dense", ""] = ""
    source_sha: str
    params_sha: str = ""
    replaced: tuple[str, ...] = ()
    replaced_sha: str = ""
    input: InputSpec | None = None
    labels: tuple[str, ...] = ()
    dtype: Literal["fp32", "int8"] = "fp32"
    layout: Layout = "channels_first"
    source_flops: int | None = None
    source_parameters: int | None = None
    converter: str = ""


def encode_provenance(provenance: Provenance) -> bytes:
    """The JSON text."""
    return msgspec.json.encode(provenance)


def decode_provenance(data: bytes | None) -> Provenance | None:
    """The provenance in a JSON text; None where there is none or another program's."""
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Provenance)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def file_kind(path: Path) -> Kind:
    """Whether a file is ONNX or TFLite, by its content.

    Raises UsageError for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give an ONNX or TFLite file") from error
    return "tflite" if head[4:8] == TFLITE_IDENTIFIER else "onnx"


def load_onnx(path: Path) -> onnx.ModelProto:
    """An ONNX file as it is.

    Raises UsageError for a missing or malformed file.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}): give an ONNX or TFLite file") from error
    except Exception as error:  # protobuf's and the checker's own families, which have no common base
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{path} is neither a valid ONNX nor a TFLite file ({reason}): export it again") from error
    return model


def onnx_provenance(model: onnx.ModelProto) -> Provenance | None:
    """The provenance in an ONNX model's metadata."""
    return decode_provenance(next((p.value.encode() for p in model.metadata_props if p.key == METADATA_KEY), None))
