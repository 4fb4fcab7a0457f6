"""Whether a runtime may open an artifact: its files are those of the manifest, and its graphs hold what is expected.

A graph is a program. Whoever sends one chooses what the device computes, so it is read before a runtime reads it.
"""

import math
from collections.abc import Mapping

from device_runtime.guard.onnx_graph import Graph, read_graph
from device_runtime.wire.errors import RemoteWireError
from device_runtime.wire.manifest import MANIFEST_FILE, Manifest
from device_runtime.wire.support import sha256_hex

Operators = Mapping[str, frozenset[str]]  # by domain, "" the standard one


def check_artifact(manifest: Manifest, files: Mapping[str, bytes], operators: Operators) -> None:
    """Raise RemoteWireError, naming file and reason, for an artifact that is not as an honest writer makes it.

    operators: what the graphs of its engine may hold. A graph is every file whose name ends in .onnx.
    """
    _check_files(manifest, files)
    for name, data in files.items():
        if name.endswith(".onnx"):
            try:
                graph = read_graph(data)
                _check_operators(graph, operators)
                _check_sizes(graph, manifest)
            except RemoteWireError as error:
                raise RemoteWireError(f"the artifact's {name} is refused: {error}") from error


def _check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    listed = {file.name: file for file in manifest.files}
    if foreign := sorted({*files} ^ {*listed, MANIFEST_FILE}):
        raise RemoteWireError(f"the artifact's files are not those of its manifest: {', '.join(foreign)[:200]}")
    for name, file in listed.items():
        if len(files[name]) != file.size_bytes or sha256_hex(files[name]) != file.sha:
            raise RemoteWireError(f"the artifact's {name} is not the file that its manifest names")


def _check_operators(graph: Graph, operators: Operators) -> None:
    for domain, operator in sorted(graph.operators):
        if operator not in operators.get(domain, ()):
            whose = f"of domain {domain!r}" if domain else "of the standard domain"
            raise RemoteWireError(
                f"it holds operator {operator!r} {whose}, which no train step of its engine has; where the aggregator "
                "is newer than the device, upgrade the device"
            )


def _check_sizes(graph: Graph, manifest: Manifest) -> None:
    """A tensor with the name of a parameter is not larger than in the manifest, by whose table memory is judged."""
    counts = {name: math.prod(shape) for name, shape in manifest.shapes().items()}
    for name, shape in graph.declared:
        count = math.prod(size for size in shape if size is not None)
        if count > counts.get(name, count):
            raise RemoteWireError(f"it gives parameter {name!r} the shape {shape}, which is not the manifest's")
