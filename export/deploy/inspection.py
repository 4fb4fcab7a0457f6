"""Any deployed file looked into, by the reader of its format."""

from pathlib import Path

from export.deploy.facts import Inspection
from export.deploy.inspection_onnx import inspect_onnx
from export.deploy.provenance import file_kind
from export.tflite.inspection import inspect_tflite


def inspect_file(path: Path) -> Inspection:
    """What is in an ONNX or TFLite file.

    Raises UsageError for a file that is neither.
    """
    return inspect_tflite(path) if file_kind(path) == "tflite" else inspect_onnx(path)
