"""int8 for ONNX: onnxruntime's static quantiser, QDQ form, one scale per output channel of a weight."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto

from device_runtime.wire.support import FloatArray
from export.extras import require
from export.forward.form import INPUT, IR_VERSION_MAX

_BATCH = 32


def quantise_onnx(model: ModelProto, calibration: FloatArray) -> ModelProto:
    """The model with int8 weights and activations; ranges are the least and greatest values on `calibration`.

    calibration: float32 [N, *input shape], normalised. Weights are symmetric, so a pruned zero stays zero.

    Raises UsageError when onnxruntime's quantiser is not installed.
    """
    tools = require("onnxruntime.quantization", "aggregator")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        tools.quantize_static(
            str(source),
            str(target),
            _Batches(calibration),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            activation_type=tools.QuantType.QInt8,
            weight_type=tools.QuantType.QInt8,
            calibrate_method=tools.CalibrationMethod.MinMax,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        )
        quantised = onnx.load(target)
    # The quantiser stamps the IR version of the installed onnx, which may be newer than the runtime takes.
    quantised.ir_version = min(quantised.ir_version, IR_VERSION_MAX)
    del quantised.metadata_props[:]
    return quantised


class _Batches:
    """What the quantiser asks for samples: one feed after the other, then None."""

    def __init__(self, samples: FloatArray) -> None:
        self._feeds = iter([{INPUT: samples[i : i + _BATCH]} for i in range(0, len(samples), _BATCH)])

    def get_next(self) -> dict[str, FloatArray] | None:
        """The next batch."""
        return next(self._feeds, None)

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> dict[str, FloatArray]:
        return next(self._feeds)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises on the root logger to do what `simplify` has done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
