#!/usr/bin/env bash
# onnxruntime: session.set_denormal_as_zero changes the arithmetic of the thread that opens the first session, for good.
#
# Seen with onnxruntime 1.22.0 and numpy 2.2.6 on x86-64 Linux, CPython 3.11: before the session numpy on this thread
# multiplies 1e-39 by 0.5 to a subnormal number; after it the product is 0, with the session gone too. Threads that this
# thread starts afterwards inherit it; a thread that was there before keeps its subnormals, and so does not train in the
# mode. Documented is that the option is for the process' first session; that the caller's own arithmetic changes is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.22.0 numpy==2.2.6 onnx==1.18.0
ORT_DISABLE_TELEMETRY=1 "$folder/venv/bin/python" - <<'PY'
import gc, platform, threading
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

graph = helper.make_graph(
    [helper.make_node("Relu", ["x"], ["y"])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

def product():
    return float((np.full(64, 1e-39, np.float32) * np.float32(0.5))[0])

older, go = [], threading.Event()

def older_thread():
    go.wait(60)
    older.append(product())

waiting = threading.Thread(target=older_thread)
waiting.start()
before = product()
options = ort.SessionOptions()
options.add_session_config_entry("session.set_denormal_as_zero", "1")
options.intra_op_num_threads = 1
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
after = product()
del session
gc.collect()
later, younger = product(), []
go.set()
waiting.join()
thread = threading.Thread(target=lambda: younger.append(product()))
thread.start()
thread.join()
print(f"onnxruntime {ort.__version__}, {platform.machine()}: before {before:.3g}, with the session {after:.3g}, after it is "
      f"gone {later:.3g}; a thread from before {older[0]:.3g}, one started after {younger[0]:.3g}")
assert (before > 0, after, later, older[0] > 0, younger[0]) == (True, 0, 0, True, 0), "the behaviour has changed"
PY
