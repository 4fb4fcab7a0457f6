"""What is told of a deployed file: one record whatever the format, layer by layer and in all."""

from pathlib import Path

import msgspec

from export.deploy.compressed import compressed_size
from export.deploy.provenance import Provenance


class LayerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One operator. shape is its first output's for one sample, None where it cannot be inferred.

    parameters counts the constants of numbers it reads, zeros how many of them are zero. flops_dense counts every
    weight, flops_ideal the non-zero ones (what a perfect sparse kernel would do).
    """

    name: str
    op: str
    shape: tuple[int, ...] | None
    dtype: str
    parameters: int
    zeros: int
    flops_dense: int | None
    flops_ideal: int | None

    @property
    def sparsity(self) -> float | None:
        """The share of zeros among the parameters, None without parameters."""
        return self.zeros / self.parameters if self.parameters else None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A file. version is the opset of an ONNX file, the schema version of a TFLite file.

    flops_executed is what a runtime does: its kernels are dense, so it is this graph's dense count, and less than
    the source's only where units were cut out. dtypes counts the bytes of constants by type.
    """

    file: str
    kind: str
    version: int
    ir_version: int | None
    producer: str
    file_bytes: int
    compressed_bytes: int
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    parameters: int
    zeros: int
    flops_dense: int
    flops_ideal: int
    flops_executed: int
    flops_unknown: tuple[str, ...]
    dtypes: dict[str, int]
    layers: tuple[LayerFacts, ...]
    provenance: Provenance | None

    @property
    def sparsity(self) -> float:
        """The share of zeros among all parameters."""
        return self.zeros / self.parameters if self.parameters else 0.0

    @property
    def weight_dtype(self) -> str:
        """The type of most weights of contractions: "fp32", "int8", or numpy's name of another; "" without weights."""
        counts: dict[str, int] = {}
        for layer in self.layers:
            if layer.dtype and layer.flops_dense is not None:
                counts[layer.dtype] = counts.get(layer.dtype, 0) + layer.parameters
        found = max(counts, key=lambda name: counts[name], default="")
        return {"float32": "fp32"}.get(found, found)


def sizes(path: Path) -> tuple[int, int]:
    """(bytes of a file, bytes of it compressed)."""
    data = path.read_bytes()
    return len(data), compressed_size(data)


def ideal_flops(dense: int | None, weights: int, zeros: int) -> int | None:
    """FLOPs that remain of `dense` when the zeros of its weight are skipped.

    >>> ideal_flops(1000, 10, 9)
    100
    """
    if dense is None:
        return None
    return dense * (weights - zeros) // weights if weights else dense
