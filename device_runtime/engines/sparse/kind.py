"""Engine `sparse` as the registry knows it."""

from device_runtime.engines.kind import EngineKind
from device_runtime.engines.onnxruntime_import import has_runtime
from device_runtime.engines.sparse.library import DISTRIBUTION, find_library
from device_runtime.engines.sparse.operators import OPERATORS
from device_runtime.wire.cost import sparse

SPARSE = EngineKind(
    name="sparse",
    preference=5,
    is_installed=lambda: has_runtime() and find_library() is not None,
    needs=f"onnxruntime and {DISTRIBUTION}",
    engine="device_runtime.engines.sparse.trainer:SparseEngine",
    writer="export.artifacts.sparse:write_sparse_artifact",
    tracer="device_runtime.engines.sparse.traced:TracedSparse",
    kernel_cost=sparse,
    session_entries={"session.set_denormal_as_zero": "1"},  # as for `portable`
    operators=OPERATORS,
)
