"""The messages of protocol 1, one strict record each; all meaning is in the payload, none in topics or MQTT 5 fields.

Up, from a device: Hello, Goodbye, Gone (its last will), Get, Chunk, Offer, Refusal.
Down, to a device: Welcome, Assignment, Get, Chunk, Receipt, Release; to all devices: RollCall.
"""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from device_runtime.wire import limits
from device_runtime.wire.measurement import Measurement
from device_runtime.wire.submodel import ValueType

# \Z and not $, which would let a final newline pass.
Name = Annotated[str, Meta(pattern=rf"^[a-z0-9][a-z0-9-]{{0,{limits.NAME_BYTES_MAX - 1}}}\Z")]
Sha = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Text = Annotated[str, Meta(max_length=limits.TEXT_BYTES_MAX)]
Count = Annotated[int, Meta(ge=0, le=limits.SAMPLE_COUNT_MAX)]
Round = Annotated[int, Meta(ge=0, le=limits.ROUND_COUNT_MAX)]
ChunkIndex = Annotated[int, Meta(ge=0, lt=limits.CHUNK_COUNT_MAX)]
Engines = Annotated[tuple[Annotated[str, Meta(max_length=63)], ...], Meta(max_length=16)]
KeptBack = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=limits.PARAMETER_NAME_BYTES_MAX)], ...],
    Meta(max_length=limits.KEPT_BACK_COUNT_MAX),
]
Extras = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=63)], ...], Meta(max_length=16)]
AssignmentId = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,160}\Z")]

Verdict = Literal["accepted", "rejected", "late"]


class BlobRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A blob that the other end may pull, and its size."""

    sha: Sha
    size_bytes: Annotated[int, Meta(ge=0, le=limits.BLOB_BYTES_MAX)]


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A device is here (also its heartbeat). `session` is new with every start of the process.

    `profile`: the record of a profile run on this board; without one the field does not travel.
    """

    device: Name
    session: Name
    engines: Engines
    sample_count: Count
    version: Annotated[str, Meta(max_length=63)]
    profile: BlobRef | None = None


class Goodbye(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device leaves on purpose."""

    device: Name
    session: Name
    reason: Text = ""


class Gone(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device's last will: its connection broke. It may come back, so it stays a member."""

    device: Name
    session: Name


class RollCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The aggregator (re)started and wants to hear from everyone."""

    session: Name


class Welcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The aggregator knows the device; the next hello is due within `heartbeat_s`.

    unserved: why no artifact can be made for any of its engines, so that it is no member until it names others.
    """

    round_index: Round
    heartbeat_s: Annotated[float, Meta(ge=0.5, le=86400)]
    unserved: Text = ""


class Hyper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train one assignment. Batches and stochastic rounding are drawn from `seed`."""

    seed: int
    epoch_count: Annotated[int, Meta(ge=0, le=10_000)]
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)]
    learning_rate: Annotated[float, Meta(gt=0, le=1e6)]
    update_dtype: ValueType


class MaskAdjustment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Move the masks once, after `after_epochs` local epochs (FedDST: Bibikar et al., AAAI 2022).

    Of every masked weight tensor that keeps k elements, `moved(k)` go and as many come.
    """

    after_epochs: Annotated[int, Meta(ge=0, le=10_000)]
    share: Annotated[float, Meta(gt=0, le=1)]

    def moved(self, kept_count: int) -> int:
        """How many of a tensor's kept elements go: floor(share * kept_count), the product in double precision."""
        return math.floor(self.share * kept_count)


class Assignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Train this submodel: an artifact (graph), its parameters and its supports, as hashes of blobs to pull.

    adjust: the device moves its masks on the way, and its update lies on the supports it ends with.
    """

    id: AssignmentId
    device: Name
    model_version: Round
    graph_sha: Sha
    params_sha: Sha
    support_shas: Annotated[tuple[Sha, ...], Meta(max_length=limits.TENSOR_COUNT_MAX)]
    hyper: Hyper
    ttl_s: Annotated[float, Meta(gt=0, le=31_536_000)]
    adjust: MaskAdjustment | None = None


class Get(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send these chunks of a blob; the asker's window bounds how many are under way."""

    sha: Sha
    indices: Annotated[tuple[ChunkIndex, ...], Meta(max_length=64)]


class Chunk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One chunk of a blob, and the blob's size, from which the number of chunks follows."""

    sha: Sha
    index: ChunkIndex
    size_bytes: Annotated[int, Meta(ge=0, le=limits.BLOB_BYTES_MAX)]
    data: Annotated[bytes, Meta(max_length=limits.CHUNK_BYTES_MAX)]


class Offer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An update is ready to be pulled. Idempotent by (assignment id, device, update sha).

    kept_back: names of the parameters that the update lacks, because the device keeps them for itself.
    extras: kinds of tensors that the update holds beside the differences (wire/update.py).
    """

    assignment_id: AssignmentId
    device: Name
    update_sha: Sha
    size_bytes: Annotated[int, Meta(ge=0, le=limits.BLOB_BYTES_MAX)]
    sample_count: Count
    measurement: Measurement
    kept_back: KeptBack = ()
    extras: Extras = ()


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device cannot carry out an assignment, and says why."""

    assignment_id: AssignmentId
    device: Name
    reason: Text


class Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The aggregator's final word on an update, sent after it is journalled."""

    assignment_id: AssignmentId
    update_sha: Sha
    verdict: Verdict
    reason: Text = ""


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The run is over; a device set to leave at the end may go."""

    reason: Text = ""


Message = Hello | Goodbye | Gone | RollCall | Welcome | Assignment | Get | Chunk | Offer | Refusal | Receipt | Release
MESSAGE_TYPES: dict[str, type[Message]] = {
    t.__name__: t
    for t in (Hello, Goodbye, Gone, RollCall, Welcome, Assignment, Get, Chunk, Offer, Refusal, Receipt, Release)
}
