"""What a person wants to know of an artifact at a glance, taken from its manifest."""

import math

import msgspec

from device_runtime.wire.manifest import ArtifactFile, Manifest


class ArtifactSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of an artifact. Statistics are no parameters here; FLOPs are dense, of one sample."""

    model: str
    files: tuple[ArtifactFile, ...]
    parameter_count: int
    prunable_count: int
    prunable_share: float
    flops_forward: int
    flops_backward: int


def summarise(manifest: Manifest) -> ArtifactSummary:
    """The summary of a manifest."""
    trained = [p for p in manifest.parameters if p.role != "statistic"]
    parameters = sum(math.prod(p.shape) for p in trained)
    prunable = sum(math.prod(p.shape) for p in trained if p.prunable)
    return ArtifactSummary(
        model=manifest.model,
        files=manifest.files,
        parameter_count=parameters,
        prunable_count=prunable,
        prunable_share=prunable / parameters,
        flops_forward=sum(row.flops_forward for row in manifest.costs),
        flops_backward=sum(row.flops_backward_input + row.flops_backward_weight for row in manifest.costs),
    )
