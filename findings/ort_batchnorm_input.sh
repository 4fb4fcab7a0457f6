#!/usr/bin/env bash
# onnxruntime: BatchNormalization in training mode writes over the caller's running statistics.
#
# Where the new statistics are read by another node instead of being graph outputs, they are written in place of the old
# ones, even when those are graph inputs: the caller's own numpy arrays. Seen with onnxruntime 1.22.0 on x86-64 (1.19.2
# too): after one run the array that was fed as input_mean holds the new mean; a second run of the same feeds gives other
# results. With the new statistics as graph outputs nothing is written over.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.22.0 numpy==2.2.6 onnx==1.18.0
ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

names = ["x", "scale", "bias", "mean", "var"]
graph = helper.make_graph(
    [
        helper.make_node("BatchNormalization", names, ["y", "new_mean", "new_var"], training_mode=1, momentum=0.5),
        helper.make_node("Mul", ["new_mean", "scale"], ["mean.next"]),
        helper.make_node("Mul", ["new_var", "scale"], ["var.next"]),
    ],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2])]
    + [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in names[1:]],
    [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "mean.next", "var.next")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
feeds = {
    "x": np.arange(8, dtype=np.float32).reshape(4, 2),
    "scale": np.ones(2, np.float32), "bias": np.zeros(2, np.float32),
    "mean": np.zeros(2, np.float32), "var": np.ones(2, np.float32),
}
_, mean_next, _ = session.run(None, feeds)
first = feeds["mean"].copy()
_, again, _ = session.run(None, feeds)
print(f"onnxruntime {ort.__version__}: mean fed [0 0], mean.next {mean_next}, the fed array afterwards {first}; "
      f"the same run once more gives {again}")
assert mean_next.tolist() == [1.5, 2.0], "the behaviour has changed"
assert first.tolist() == mean_next.tolist(), "the behaviour has changed"
assert again.tolist() == [2.25, 3.0], "the behaviour has changed"
PY
