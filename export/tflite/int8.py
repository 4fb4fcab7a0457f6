"""int8 for TFLite by ai-edge-quantizer: integers from input to output, true ranges of activations.

The quantiser's own calibration keeps a moving average of each batch's least and greatest value, which makes ranges
too narrow: on a CIFAR-10 network 3.8 points of accuracy were lost that true ranges keep. So every sample is calibrated
alone on a fresh quantiser, and the least and greatest of all are given back.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from device_runtime.wire.errors import UsageError
from device_runtime.wire.support import FloatArray
from export.extras import require
from export.forward.form import INPUT
from export.tflite.flatbuffer import SIGNATURE, load_schema, pack, set_metadata
from export.tflite.quiet import quiet
from export.tflite.reading import read_model

Ranges = dict[str, dict[str, Any]]


def quantise_tflite(model: bytes, calibration: FloatArray, metadata: Mapping[str, bytes]) -> bytes:
    """A fp32 file by `write_tflite` with int8 weights (one scale per output channel) and activations.

    calibration: float32 [N, *input], normalised, channels first. metadata is added to the result.

    Raises UsageError when ai-edge-quantizer is not installed or refuses the model.
    """
    recipe = require("ai_edge_quantizer.recipe", "tflite-int8").static_wi8_ai8()
    samples = np.moveaxis(calibration, 1, -1) if calibration.ndim > 2 else calibration
    try:
        ranges = _true_ranges(model, recipe, np.ascontiguousarray(samples))
        quantiser = _quantiser(model, recipe)
        with quiet():
            quantised = bytes(quantiser.quantize(ranges, enable_progress_report=False).quantized_model)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"ai-edge-quantizer refuses the model ({reason}): export it as fp32") from error
    described = read_model(quantised)
    set_metadata(load_schema(), described, metadata)
    for buffer in described.buffers:
        if buffer.data is not None:
            buffer.data = np.asarray(buffer.data, dtype=np.uint8)
    return pack(described)


def _quantiser(model: bytes, recipe: list[dict[str, Any]]) -> Any:
    return require("ai_edge_quantizer.quantizer", "tflite-int8").Quantizer(bytearray(model), recipe)


def _true_ranges(model: bytes, recipe: list[dict[str, Any]], samples: FloatArray) -> Ranges:
    """The least and greatest value of every tensor over all samples."""
    found: Ranges = {}
    for i in range(len(samples)):
        with quiet():
            seen = _quantiser(model, recipe).calibrate({SIGNATURE: [{INPUT: samples[i : i + 1]}]}, num_threads=1)
        for name, entry in seen.items():
            known = found.setdefault(name, dict(entry))
            known["min"] = np.minimum(known["min"], entry["min"])
            known["max"] = np.maximum(known["max"], entry["max"])
    return found
