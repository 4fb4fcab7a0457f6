"""Engine `portable` as the registry knows it."""

from device_runtime.engines.kind import EngineKind
from device_runtime.engines.onnxruntime_import import has_runtime
from device_runtime.engines.operators import STANDARD
from device_runtime.wire.cost import masked_dense

PORTABLE = EngineKind(
    name="portable",
    preference=10,
    is_installed=has_runtime,
    needs="onnxruntime",
    engine="device_runtime.engines.portable.trainer:PortableEngine",
    writer="export.artifacts.portable:write_portable_artifact",
    tracer="device_runtime.engines.portable.traced:TracedPortable",
    kernel_cost=masked_dense,
    # Weights that training drives towards zero become subnormal numbers, which are many times slower. This entry is for
    # the pool's threads; the calling thread is set around each call (see `subnormals`).
    session_entries={"session.set_denormal_as_zero": "1"},
    operators={"": STANDARD},
)
