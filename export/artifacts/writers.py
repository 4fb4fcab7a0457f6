"""The writer of an engine's artifacts, found by the engine's name and imported when it is asked for."""

from device_runtime.engines.registry import engine_kind
from export.artifacts.spec import Writer


def writer_of(engine: str) -> Writer:
    """The writer of that engine's artifacts. Raises EngineError for an engine that is not registered."""
    writer: Writer = engine_kind(engine).load_writer()
    return writer
