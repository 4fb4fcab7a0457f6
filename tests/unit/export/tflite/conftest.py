"""Small ONNX models written as TFLite and run by LiteRT beside ONNX's reference."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from export.deploy.inference_graph import inference_graph
from export.forward.model import ForwardModel
from export.models.onnx_import import as_forward


def parsed(text: str, tensors: Mapping[str, np.ndarray]) -> ForwardModel:
    """A forward model from onnx's text form: `text` is the body of a graph from `input` to `output`."""
    head, _, body = text.partition("|")
    source = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,{head.strip()}] input) => (float[] output) {{{body}}}'
    )
    model = parser.parse_model(source)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    return as_forward(model, "text")


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """both(text, **constants): outputs by ONNX's reference and by LiteRT of the file we write."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT, the extra tflite, is not installed")
    from export.deploy.runners import TfliteRunner
    from export.tflite.writer import write_tflite

    def run(text: str, **tensors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = parsed(text, tensors)
        net = inference_graph(model).net
        path = tmp_path / "model.tflite"
        path.write_bytes(write_tflite(net, {"espalier": DESCRIBED}))
        x = np.random.default_rng(1).standard_normal((3, *net.input_shape)).astype(np.float32)
        (expected,) = ReferenceEvaluator(model.proto).run(None, {"input": x})
        return expected, TfliteRunner(path, 1).run(x)

    return run


DESCRIBED = b'{"model":"text","source_sha":"0","layout":"channels_last"}'
