"""Engine `ort_training` as the registry knows it: preferred where its wheel exists."""

from device_runtime.engines.kind import EngineKind
from device_runtime.engines.onnxruntime_import import has_training
from device_runtime.engines.ort_training.operators import OPERATORS
from device_runtime.wire.cost import masked_dense

ORT_TRAINING = EngineKind(
    name="ort_training",
    preference=20,
    is_installed=has_training,
    needs="onnxruntime-training-cpu (Linux x86-64, Python 3.11 or 3.12)",
    engine="device_runtime.engines.ort_training.trainer:OrtTrainingEngine",
    writer="export.artifacts.ort_training:write_training_artifact",
    tracer="device_runtime.engines.ort_training.traced:TracedOrtTraining",
    kernel_cost=masked_dense,
    session_entries={},
    operators=OPERATORS,
)
