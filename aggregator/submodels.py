"""Submodels on their way out and updates on their way in: cut, stored, assigned, checked, read back one by one."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from aggregator.core.combining.partial import Answers, Update
from aggregator.core.method import Facts, Work
from device_runtime.store import BlobStore
from device_runtime.wire import limits
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import RemoteWireError, UsageError
from device_runtime.wire.manifest import Parameter
from device_runtime.wire.messages import Assignment, Hyper, Offer
from device_runtime.wire.submodel import decode_supports, encode_kept, encode_supports
from device_runtime.wire.support import Kept, Params, Support, cut
from device_runtime.wire.update import MASK, decode_update, extras_of, update_bytes_max

_SUPPORTS_HELD_MAX = 8  # a round has few different ones; the others are read again from their blobs

Supports = Mapping[str, Support]


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Decoded supports, and the share of the prunable weights that they lack, counted once for all who share them."""

    supports: Supports
    sparsity: float


class Submodels:
    """Between the method's supports and the blobs that devices pull; `parameters` is the model's table."""

    def __init__(self, facts: Facts, parameters: tuple[Parameter, ...], blobs: BlobStore) -> None:
        self._facts = facts
        self._parameters = parameters
        self._blobs = blobs
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def assign(
        self,
        theta: Params,
        works: Mapping[str, Work],
        graphs: Mapping[str, str],
        stamp: tuple[str, int, int],
        hyper: Hyper,
        ttl_s: float,
        earlier: Mapping[str, Assignment] = MappingProxyType({}),
    ) -> tuple[tuple[Assignment, ...], int]:
        """The assignments of the devices of `graphs`, their blobs stored, and the most bytes an update can have.

        graphs: by device, the hash of its artifact. stamp: run id, round and attempt. Devices of one work share their
        blobs. `earlier` are the assignments of the round's attempts before: a device in them gets the same submodel
        again, whatever the rates say by now, so that it begins from the same values (a personal layer's too).
        """
        run_id, round_index, attempt = stamp
        stored: dict[int, tuple[str, tuple[str, ...]]] = {}
        assignments = []
        for device, graph_sha in graphs.items():
            work = works[device]
            if device in earlier:
                params_sha, support_shas = earlier[device].params_sha, earlier[device].support_shas
            else:
                if id(work) not in stored:
                    stored[id(work)] = self._store(theta, work.supports)
                params_sha, support_shas = stored[id(work)]
            assignments.append(
                Assignment(
                    id=f"{run_id}-{round_index}-{attempt}-{device}",
                    device=device,
                    model_version=round_index,
                    graph_sha=graph_sha,
                    params_sha=params_sha,
                    support_shas=support_shas,
                    hyper=hyper,
                    ttl_s=ttl_s,
                    adjust=work.adjust,
                )
            )
        return tuple(assignments), self._update_bytes_max(works.values(), earlier.values())

    def _store(self, theta: Params, supports: Supports) -> tuple[str, tuple[str, ...]]:
        """A submodel as two stored blobs: the names of the parameters and of the supports."""
        kept = cut({n: theta[n] for n in supports}, supports)
        params_sha = self._blobs.put(encode_kept(kept, lambda _: "fp32", lambda n: Draws(0, "unused", n)))
        support_sha = self._blobs.put(encode_supports(supports))
        self._hold(support_sha, supports)
        return params_sha, (support_sha,)

    def _update_bytes_max(self, works: Iterable[Work], earlier: Iterable[Assignment]) -> int:
        """What an update of the largest submodel of the round can need as fp32."""
        sizes = [
            update_bytes_max(work.supports, (MASK,) if work.adjust else ())
            for work in {id(w): w for w in works}.values()
        ]
        by_sha = {a.support_shas[0]: a for a in earlier}
        return max(sizes + [update_bytes_max(self.supports_of(a), extras_of(a)) for a in by_sha.values()])

    def supports_of(self, assignment: Assignment) -> Supports:
        """Where the submodel of an assignment sits, by its own blob, so that a restart changes nothing.

        Raises UsageError when the blob is missing from the run folder.
        """
        return self._find(assignment).supports

    def sparsity_of(self, assignment: Assignment) -> float:
        """The share of the prunable weights that the submodel of an assignment lacks. Errors as `supports_of`."""
        return self._find(assignment).sparsity

    def _find(self, assignment: Assignment) -> _Held:
        sha = assignment.support_shas[0]
        if sha not in self._held:
            data = self._blobs.get(sha)
            if data is None:
                raise UsageError(f"the masks {sha[:12]} of {assignment.device} are missing from the run folder.")
            self._hold(sha, decode_supports(data, dict(self._facts.shapes)))
        self._held.move_to_end(sha)
        return self._held[sha]

    def _hold(self, sha: str, supports: Supports) -> None:
        """Keep the latest few: they are named by their content, so it does not matter who asked first."""
        shapes = self._facts.prunable_shapes
        kept = sum(supports[name].count for name in shapes)
        sparsity = 1 - kept / sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
        self._held[sha] = _Held(supports, sparsity)
        if len(self._held) > _SUPPORTS_HELD_MAX:
            self._held.popitem(last=False)

    def check(self, assignment: Assignment, offer: Offer, data: bytes) -> None:
        """Raise RemoteWireError when an update does not fit the submodel assigned, is not finite, or moves a value by
        more than any training does.

        It holds every tensor but those that its offer keeps back, and those must be ones that it may lack.
        """
        for name, kept in self._decoded(assignment, offer, data).items():
            furthest = float(np.abs(kept.values).max(initial=0.0))
            if furthest > limits.UPDATE_VALUE_MAX:
                raise RemoteWireError(
                    f"tensor {name!r} moves a value by {furthest:.3g}; an update may move none by more than "
                    f"{limits.UPDATE_VALUE_MAX:.0e}"
                )
        if offer.sample_count < 1:
            raise RemoteWireError("the update was trained on no samples")

    def answers(self, accepted: Mapping[str, Offer], assigned: Mapping[str, Assignment]) -> Answers:
        """The accepted updates, in order of device names, each read from its blob when its turn comes.

        `assigned` has the assignment that each of them answers. Raises UsageError, while they are gone through, when
        one is missing from the run folder.
        """
        devices = sorted(accepted)

        def updates() -> Iterator[Update]:
            for device in devices:
                offer = accepted[device]
                data = self._blobs.get(offer.update_sha)
                if data is None:
                    raise UsageError(
                        f"the accepted update {offer.update_sha[:12]} of {device} is missing from the run folder."
                    )
                yield Update(device, self._decoded(assigned[device], offer, data), offer.sample_count)

        return Answers({device: accepted[device].sample_count for device in devices}, updates)

    def _decoded(self, assignment: Assignment, offer: Offer, data: bytes) -> dict[str, Kept]:
        """An update on its supports, without what its offer keeps back."""
        return decode_update(data, offer, assignment, dict(self.supports_of(assignment)), self._parameters)
