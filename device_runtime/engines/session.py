"""Sessions of onnxruntime as the whole project opens them: one builder of options, telemetry off."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from device_runtime.engines.onnxruntime_import import import_onnxruntime

_ERRORS_ONLY = 3
NOTHING_MORE: Mapping[str, str] = MappingProxyType({})


def session_options(threads: int, entries: Mapping[str, str] = NOTHING_MORE) -> Any:
    """Options for `threads` threads within an operator, one operator at a time, that log errors only.

    entries: session configuration entries besides, such as an engine's own.
    """
    ort = import_onnxruntime()
    # Besides the variable of the environment: it is read once, and another program may have loaded the library before.
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def open_session(graph: bytes | str, threads: int, entries: Mapping[str, str] = NOTHING_MORE) -> Any:
    """A session on the processor for a graph, given as its bytes or its path. Raises onnxruntime's own exceptions."""
    ort = import_onnxruntime()
    return ort.InferenceSession(graph, session_options(threads, entries), providers=["CPUExecutionProvider"])
