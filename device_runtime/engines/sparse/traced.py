"""Traced steps of engine `sparse`: nodes bear the names of their layers, as those of `portable` do."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_runtime.engines.portable.traced import place_of
from device_runtime.engines.sparse.trainer import SparseTrainer
from device_runtime.engines.trace import LayerNames, Node, Place, read_trace, traced
from device_runtime.wire.manifest import Manifest

_REARRANGING = frozenset({"Pack", "Unpack", "Dense"})
_LOWERED = re.compile(r"^(gradient/)?forward/")


class TracedSparse(SparseTrainer):
    """See `TracedTrainer`; the session is asked for its trace."""

    def __init__(self, artifact: Path, manifest: Manifest, *, threads: int, seed: int, folder: Path) -> None:
        self._folder, self._layers = folder, LayerNames(manifest)
        super().__init__(artifact, manifest, threads=threads, seed=seed)

    def _options(self) -> Any:
        return traced(super()._options(), self._folder / "trace")

    def nodes(self) -> list[Node]:
        """See `TracedTrainer`."""
        return read_trace(Path(self._session.end_profiling()).read_text())

    def place(self, node: Node) -> Place:
        """See `TracedTrainer`: into the layout and out of it counts as layout."""
        if node.op in _REARRANGING:
            return Place("", "layout")
        return place_of(replace(node, name=_LOWERED.sub(r"\1", node.name)), self._layers)
