"""The per-layer view of a step: a short profiled run of its own, its nodes gathered into layers, each on the roofline.

Profiled and unprofiled steps alternate in blocks, so that the sum over layers can be held against the same minutes.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.data import Samples
from device_runtime.engines import Trainer, open_engine
from device_runtime.profile.methodology import Told
from device_runtime.profile.profiled import PROFILED, ProfiledTrainer
from device_runtime.profile.record import Layer, Layers, Roof, derived, measured
from device_runtime.profile.roofline import point
from device_runtime.profile.subject import LEARNING_RATE
from device_runtime.profile.trace import PARTS, Node, Place, middle_half, place_of, place_of_official
from device_runtime.wire.cost import Flops, NodeCost
from device_runtime.wire.manifest import Manifest
from device_runtime.wire.support import Kept

BLOCK = 5
_BLOCKS_MIN, _BLOCKS_MAX = 3, 40


@dataclass(frozen=True, slots=True)
class Traced:
    """A trace with the wall times of its steps, and those of the steps without the profiler in between."""

    nodes: list[Node]
    profiled_ns: list[int]
    plain_ns: list[int]

    @property
    def steps(self) -> list[int]:
        """The profiled steps that count: the first block is a warm-up, of the others the middle half."""
        return [BLOCK + i for i in middle_half(self.profiled_ns[BLOCK:])]

    @property
    def plain_us(self) -> float:
        """The mean of the plain steps, chosen in the same way."""
        chosen = [BLOCK + i for i in middle_half(self.plain_ns[BLOCK:])]
        return sum(self.plain_ns[i] for i in chosen) / len(chosen) / 1000

    @property
    def profiled_us(self) -> float:
        """The mean of the profiled steps that count."""
        return sum(self.profiled_ns[i] for i in self.steps) / len(self.steps) / 1000


def run_traced(
    artifact: Path, manifest: Manifest, sent: Mapping[str, Kept], batches: Sequence[Samples],
    *, threads: int, seed: int, seconds: float, told: Told,
) -> Traced:  # fmt: skip
    """Step with and without the profiler in turn, for about so many seconds."""
    with tempfile.TemporaryDirectory(prefix="espalier-trace-") as folder:
        plain = open_engine(manifest.engine).open(artifact, threads=threads, seed=seed)
        profiled = PROFILED[manifest.engine](artifact, manifest, threads=threads, seed=seed, folder=Path(folder))
        times: dict[bool, list[int]] = {False: [], True: []}
        trainers: tuple[tuple[bool, Trainer | ProfiledTrainer], ...] = ((False, plain), (True, profiled))
        for _, trainer in trainers:
            trainer.load(sent, reset_optimizer=True)
        begin, blocks = time.perf_counter(), 0
        while blocks < _BLOCKS_MIN or (time.perf_counter() - begin < seconds and blocks < _BLOCKS_MAX):
            for is_profiled, trainer in trainers:
                for index in range(BLOCK):
                    batch = batches[index % len(batches)]
                    start = time.perf_counter_ns()
                    trainer.step(batch.x, batch.y, LEARNING_RATE)
                    times[is_profiled].append(time.perf_counter_ns() - start)
            blocks += 1
            told(min(1.0, (time.perf_counter() - begin) / seconds))
        return Traced(profiled.nodes(), times[True], times[False])


def layers_of(
    traced: Traced, manifest: Manifest, kept: Mapping[str, int], *, batch: int, timed_p50_ns: int, roof: Roof
) -> Layers:
    """The rows of a trace, costliest first, and how much of the step they explain."""
    profiler_us, steps = profiler_share_us(traced), traced.steps
    groups: dict[Place, list[Node]] = defaultdict(list)
    place = _places(manifest)
    for node in traced.nodes:
        groups[place(node.name, node.op)].append(node)
    rows = [_row(place, nodes, manifest, kept, steps, profiler_us, batch, roof) for place, nodes in groups.items()]
    rows.sort(key=lambda row: (-(row.time.value or 0), PARTS.index(row.step_part), row.layer))
    total = sum(row.time.value or 0 for row in rows)
    interleaved = traced.plain_us * 1000
    return Layers(
        rows=tuple(rows),
        profiled_steps=len(steps),
        node_count=len(traced.nodes),
        profiler_per_node=derived(profiler_us * 1000, "ns", "duration of the cheapest node, taken off every node"),
        total=derived(total, "ns"),
        interleaved_step=measured(interleaved, "ns", "steps without the profiler, in turn with profiled ones"),
        explained=derived(total / timed_p50_ns, "1", "of the timed step's p50"),
        explained_interleaved=derived(total / interleaved, "1", "of the step in turn with profiled ones"),
    )


def profiler_share_us(traced: Traced) -> float:
    """What the profiler adds to a node's own duration, in µs.

    The cheapest node of a train step only renames a tensor, so its duration is the profiler's. That cannot be more
    than the profiled steps are longer, divided among the nodes, which bounds it where no node is so cheap.
    """
    steps = traced.steps
    cheapest = min((n.mean_us(steps) for n in traced.nodes), default=0.0)
    longer = traced.profiled_us - traced.plain_us
    return max(0.0, min(cheapest, longer / max(1, len(traced.nodes))))


def _places(manifest: Manifest) -> Callable[[str, str], Place]:
    """Where a node belongs, by name and operator, in the graphs of the manifest's engine."""
    layers = [row.node for row in manifest.costs]
    by_weight = {row.weight: row.node for row in manifest.costs}
    layer_of = {name: by_weight.get(name, name) for name in manifest.prunable}
    if manifest.engine == "ort_training":
        return lambda name, op: place_of_official(name, op, layers, layer_of)
    return lambda name, op: place_of(name, op, layers, list(layer_of.values()))  # its masks are numbered in this order


def _row(
    place: Place, nodes: Sequence[Node], manifest: Manifest, kept: Mapping[str, int],
    steps: Sequence[int], profiler_us: float, batch: int, roof: Roof,
) -> Layer:  # fmt: skip
    cost = next((row for row in manifest.costs if row.node == place.layer), None)
    flops = step_part_flops(place.part, cost, kept, manifest, batch)
    raw = sum(n.mean_us(steps) for n in nodes)
    relieved = sum(max(0.0, n.mean_us(steps) - profiler_us) for n in nodes)
    moved = sum(n.tensor_bytes for n in nodes)
    is_contraction = place.part in ("forward", "backward")
    spot = point(flops.executed if is_contraction else 0, moved, relieved / 1e6, roof)
    return Layer(
        layer=place.layer,
        step_part=place.part,
        op=cost.op if cost else nodes[0].op,
        weight=cost.weight if cost else "",
        node_count=len(nodes),
        time=derived(relieved * 1000, "ns"),
        time_raw=measured(raw * 1000, "ns", "with what the profiler adds"),
        flops_dense=derived(flops.dense, "FLOP"),
        flops_ideal=derived(flops.ideal, "FLOP"),
        flops_executed=derived(flops.executed, "FLOP"),
        tensor_bytes=derived(moved, "B", "read and written by the nodes, from shapes"),
        intensity=spot.intensity,
        rate=spot.rate,
        share_of_roof=spot.share_of_roof,
        bound=spot.bound,
    )


def step_part_flops(part: str, cost: NodeCost | None, kept: Mapping[str, int], manifest: Manifest, batch: int) -> Flops:
    """The three figures of one layer in one part of one step; summed over all they give `wire.cost.flops`.

    Masking costs two operations per masked weight and step (forward and backward), and is executed only.
    """
    if cost is None or part not in ("forward", "backward", "masking"):
        return Flops(0, 0, 0)
    if part == "masking":
        is_masked = manifest.kernel == "masked-dense" and cost.weight in kept
        return Flops(0, 0, 2 * cost.weight_count if is_masked else 0)
    one = cost.flops_forward if part == "forward" else cost.flops_backward_input + cost.flops_backward_weight
    dense = batch * one
    ideal = dense * kept.get(cost.weight, cost.weight_count) // cost.weight_count if cost.weight_count else dense
    return Flops(dense, ideal, dense)
