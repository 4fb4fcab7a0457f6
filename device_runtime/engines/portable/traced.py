"""Traced steps of engine `portable`: one session, whose nodes carry the names that `export` gave them."""

import re
from pathlib import Path
from typing import Any

from device_runtime.engines.portable.trainer import PortableTrainer
from device_runtime.engines.trace import LayerNames, Node, Place, is_layout, plain_name, read_trace, traced
from device_runtime.wire.manifest import Manifest


class TracedPortable(PortableTrainer):
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
        """See `TracedTrainer`."""
        return place_of(node, self._layers)


def place_of(node: Node, layers: LayerNames) -> Place:
    """The place of a node of a portable train step: masks are numbered in the order of the manifest."""
    name = plain_name(node.name)
    if is_layout(node.op):
        return Place("", "layout")
    if mask := re.match(r"(?:gradient/)?mask/Where(?:_(\d+))?(?:/|$)", name):
        masked, index = tuple(layers.of_mask.values()), int(mask[1] or 0)
        return Place(masked[index] if index < len(masked) else "", "masking")
    for part in ("loss", "optimizer", "statistics"):
        if name.startswith(f"{part}/"):
            return Place("", part)
    if name.startswith("gradient/"):
        inner = name.removeprefix("gradient/")
        return Place(layers.longest(inner) or inner.rpartition("/")[0], "backward")
    return Place(layers.longest(name) or name, "forward")
