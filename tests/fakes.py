"""Values for tests: valid messages, measurements and manifests, each with one call."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hypothesis import settings

from aggregator.core.rating.round_cost import Known
from device_runtime.wire import limits
from device_runtime.wire.manifest import ArtifactFile, InputSpec, Manifest, Optimizer, Parameter
from device_runtime.wire.measurement import ABSENT, NO_PHASE, Measurement, Phase, derived, measured
from device_runtime.wire.messages import Assignment, Chunk, Hello, Hyper, MaskAdjustment, Offer
from device_runtime.wire.transfer import chunk_count

# For properties: the same examples every time, and no clock, for the machine may be busy.
QUICK = settings(max_examples=100, deadline=None, derandomize=True)

HYPER = Hyper(seed=7, epoch_count=1, batch_size=4, learning_rate=0.1, update_dtype="fp32")


def sha(text: str) -> str:
    """A valid SHA-256 to stand for `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def hello(device: str = "pi-1", session: str = "s1", sample_count: int = 20) -> Hello:
    """A device that says hello."""
    return Hello(device=device, session=session, engines=("fake",), sample_count=sample_count, version="0")


def assignment(
    device: str = "pi-1",
    round_index: int = 1,
    attempt: int = 0,
    ttl_s: float = 600.0,
    adjust: MaskAdjustment | None = None,
) -> Assignment:
    """The assignment of a device in a round."""
    return Assignment(
        id=f"run-{round_index}-{attempt}-{device}",
        device=device,
        model_version=round_index,
        graph_sha=sha("graph"),
        params_sha=sha(f"params {round_index}"),
        support_shas=(sha("supports"),),
        hyper=HYPER,
        ttl_s=ttl_s,
        adjust=adjust,
    )


def measurement() -> Measurement:
    """A measurement with measured, derived and absent readings in it."""
    return Measurement(
        engine="fake", engine_version="1", threads=1, step_count=5, sample_count=20,
        loss_first=measured(2.5), loss_last=measured(1.25),
        download=NO_PHASE, load=NO_PHASE, train=Phase(measured(10_000), measured(9_000)), serialise=NO_PHASE,
        upload_previous=NO_PHASE,
        step_ns_p50=measured(2_000), step_ns_p90=measured(3_000), step_ns_p99=ABSENT,
        rss_bytes=measured(1 << 20), rss_peak_bytes=ABSENT, pss_bytes=ABSENT, bytes_down=measured(0),
        bytes_up=measured(12), flops_dense=derived(120), flops_ideal=derived(60), flops_executed=derived(140),
        gflops_per_s=derived(0.014), temperature_c=ABSENT, frequency_hz=ABSENT,
    )  # fmt: skip


def offer(
    of: Assignment | None = None,
    data: bytes = b"update",
    size_bytes: int | None = None,
    kept_back: tuple[str, ...] = (),
    extras: tuple[str, ...] = (),
) -> Offer:
    """The offer of an update with these bytes."""
    of = of or assignment()
    return Offer(
        assignment_id=of.id,
        device=of.device,
        update_sha=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data) if size_bytes is None else size_bytes,
        sample_count=20,
        measurement=measurement(),
        kept_back=kept_back,
        extras=extras,
    )


def manifest() -> Manifest:
    """A manifest of one weight and one bias."""
    return Manifest(
        model="tiny", engine="fake", input=InputSpec(shape=(4,)), class_count=2, loss="cross_entropy",
        optimizer=Optimizer(),
        parameters=(
            Parameter(name="fc.weight", shape=(2, 4), role="weight", prunable=True),
            Parameter(name="fc.bias", shape=(2,), role="bias", prunable=False),
        ),
        costs=(), files=(ArtifactFile(name="train.onnx", sha=sha("train"), size_bytes=10),), opset=17, ir_version=8,
    )  # fmt: skip


def cut_chunk(data: bytes, sha: str, index: int) -> Chunk | None:
    """Chunk `index` of a blob in memory, None beyond its end: the dumb twin of `BlobStore.chunk`."""
    if index >= chunk_count(len(data)):
        return None
    start = index * limits.CHUNK_BYTES_MAX
    return Chunk(sha=sha, index=index, size_bytes=len(data), data=data[start : start + limits.CHUNK_BYTES_MAX])


class MemoryArrivals:
    """Blobs under way in memory: the dumb twin of `ArrivingBlobs`."""

    def __init__(self) -> None:
        self.written: dict[tuple[str, str], dict[int, bytes]] = {}

    def write(self, owner: str, chunk: Chunk) -> None:
        self.written.setdefault((owner, chunk.sha), {})[chunk.index] = chunk.data

    def take(self, owner: str, sha: str) -> bytes | None:
        chunks = self.written.pop((owner, sha), {})
        data = b"".join(chunks[index] for index in sorted(chunks))
        return data if hashlib.sha256(data).hexdigest() == sha else None

    def drop(self, owner: str, sha: str) -> None:
        self.written.pop((owner, sha), None)


@dataclass
class Given:
    """A rating that gives what the test says; for a name it lacks, the run's sparsity."""

    needs_times: ClassVar[bool] = False
    by_device: Mapping[str, float]

    def sparsities(self, sparsity: float, known: Mapping[str, Known], weights: Mapping[str, float]) -> dict[str, float]:
        return {device: max(self.by_device.get(device, sparsity), sparsity) for device in known}
