"""All that the project must know of one engine, in one value: a new engine is one such value and what it names.

Heavy parts are named as "package.module:name" and imported when they are used. So a board imports only what it runs,
the device never imports the graph libraries that an artifact's writer needs, and a writer need not be installed on it.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from device_runtime.engines.interface import Engine
from device_runtime.engines.trace import TracedTrainer
from device_runtime.wire.cost import KernelCost
from device_runtime.wire.errors import EngineError
from device_runtime.wire.manifest import Manifest


class Tracer(Protocol):
    """What opens an artifact for steps that are traced node by node; traces are written into `folder`."""

    def __call__(
        self, artifact: Path, manifest: Manifest, *, threads: int, seed: int, folder: Path
    ) -> TracedTrainer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One engine, as its entry point in the group `espalier.engines` gives it.

    name: the entry point's, the artifact manifest's and the hello's. preference: "auto" takes the installed engine with
    the highest. is_installed: whether what it needs is installed here, found out without importing it. needs: what to
    install, as it follows "it needs". engine: names a function that gives the `Engine`. writer: names the function
    that writes artifacts, `export.artifacts.spec.Writer`. tracer: names a `Tracer`, "" where steps cannot be traced.
    kernel_cost: counts what its kernels execute. session_entries: its own among onnxruntime's session options.
    operators: what the ONNX graphs of its artifacts may hold, by domain, "" the standard one; others are refused before
    a runtime sees them. An engine whose artifacts hold no ONNX graph has none.
    """

    name: str
    preference: int
    is_installed: Callable[[], bool]
    needs: str
    engine: str
    writer: str
    tracer: str
    kernel_cost: KernelCost
    session_entries: Mapping[str, str]
    operators: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def load_engine(self) -> Engine:
        """The engine. Raises EngineError where what it needs is not installed here."""
        if not self.is_installed():
            raise EngineError(
                f"engine {self.name!r} cannot run here: it needs {self.needs}, which is not installed in this "
                "environment."
            )
        engine: Engine = self._load(self.engine)()
        return engine

    def load_writer(self) -> Any:
        """The writer of its artifacts. Raises EngineError where the graph libraries are not installed."""
        return self._load(self.writer)

    def load_tracer(self) -> Tracer:
        """What opens an artifact for traced steps, to be asked for only where `tracer` names it."""
        tracer: Tracer = self._load(self.tracer)
        return tracer

    def _load(self, place: str) -> Any:
        try:
            return pkgutil.resolve_name(place)
        except (ImportError, AttributeError) as error:
            raise EngineError(f"{place} of engine {self.name!r} cannot be loaded: {error}.") from error
