"""The one form of a forward graph: its names, and the versions that every runtime in use accepts.

Evaluation mode, one float32 `input` and one `output` with the symbolic batch axis `batch`, weights as initializers.
`export.models` brings whatever comes in into this form; the rest of `export` reads no other.
"""

INPUT = "input"
OUTPUT = "output"
BATCH = "batch"
OPSET = 17
OPSET_MAX = 21
IR_VERSION = 8
# onnxruntime-training 1.19.2 refuses an IR version above 10.
IR_VERSION_MAX = 10
# torch's default: the running statistics move by a tenth of the way per batch (ONNX counts the share that stays).
BATCH_NORM_MOMENTUM = 0.9
