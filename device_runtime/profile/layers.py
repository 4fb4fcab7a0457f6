"""The per-layer view of a step: a short traced run of its own, its nodes gathered into layers, each on the roofline.

Traced and plain steps alternate in blocks, so that the sum over layers can be held against the same minutes.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_runtime.data import Samples
from device_runtime.engines.kind import Tracer
from device_runtime.engines.trace import PARTS, Node, Place
from device_runtime.profile.methodology import ShareDone
from device_runtime.profile.record import Layer, Layers, Roof
from device_runtime.profile.roofline import point
from device_runtime.profile.subject import Sent
from device_runtime.profile.values import derived, measured
from device_runtime.training import Workbench
from device_runtime.wire.cost import Flops, KernelCost, NodeCost
from device_runtime.wire.manifest import Manifest

BLOCK = 5
_BLOCKS_MIN, _BLOCKS_MAX = 3, 40


@dataclass(frozen=True, slots=True)
class Traced:
    """A trace, where its nodes belong, the wall times of its steps, and those of the plain steps in between."""

    nodes: list[Node]
    place: Callable[[Node], Place]
    traced_ns: list[int]
    plain_ns: list[int]

    @property
    def steps(self) -> list[int]:
        """The traced steps that count: the first block is a warm-up, of the others the middle half."""
        return [BLOCK + i for i in middle_half(self.traced_ns[BLOCK:])]

    @property
    def plain_us(self) -> float:
        """The mean of the plain steps, chosen in the same way."""
        chosen = [BLOCK + i for i in middle_half(self.plain_ns[BLOCK:])]
        return sum(self.plain_ns[i] for i in chosen) / len(chosen) / 1000

    @property
    def traced_us(self) -> float:
        """The mean of the traced steps that count."""
        return sum(self.traced_ns[i] for i in self.steps) / len(self.steps) / 1000


def run_traced(
    bench: Workbench, tracer: Tracer, artifact: Path, sent: Sent, batches: Sequence[Samples],
    *, seed: int, seconds: float, progress: ShareDone,
) -> Traced:  # fmt: skip
    """Step on the workbench and with a trace in turn, for about so many seconds, both from what was sent."""
    rate = sent.assignment.hyper.learning_rate
    with tempfile.TemporaryDirectory(prefix="espalier-trace-") as folder:
        traced = tracer(artifact, bench.manifest, threads=bench.threads, seed=seed, folder=Path(folder))
        traced.load(bench.load(sent.params, sent.supports).received, reset_optimizer=True)
        traced_ns, plain_ns = list[int](), list[int]()
        turns: tuple[tuple[list[int], Callable[[Samples], object]], ...] = (
            (plain_ns, lambda batch: bench.step(batch, rate)),
            (traced_ns, lambda batch: traced.step(batch.x, batch.y, rate)),
        )
        begin, blocks = time.perf_counter(), 0
        while blocks < _BLOCKS_MIN or (time.perf_counter() - begin < seconds and blocks < _BLOCKS_MAX):
            for times, step in turns:
                for index in range(BLOCK):
                    batch = batches[index % len(batches)]
                    start = time.perf_counter_ns()
                    step(batch)
                    times.append(time.perf_counter_ns() - start)
            blocks += 1
            progress(min(1.0, (time.perf_counter() - begin) / seconds))
        return Traced(traced.nodes(), traced.place, traced_ns, plain_ns)


def middle_half(values: Sequence[float]) -> list[int]:
    """The indices of the middle half of the values: of steps chosen so, the means of the nodes sum to the mean step.

    >>> middle_half([50, 10, 900, 20])
    [0, 3]
    """
    ordered = sorted(range(len(values)), key=lambda i: values[i])
    cut = len(ordered) // 4
    return sorted(ordered[cut : len(ordered) - cut])


def layers_of(
    traced: Traced, manifest: Manifest, kept: Mapping[str, int], kernel_cost: KernelCost,
    *, batch: int, timed_p50_ns: int, roof: Roof,
) -> Layers:  # fmt: skip
    """The rows of a trace, costliest first, and how much of the step they explain."""
    tracing_us, steps = tracing_share_us(traced), traced.steps
    groups: dict[Place, list[Node]] = defaultdict(list)
    for node in traced.nodes:
        groups[traced.place(node)].append(node)
    rows = []
    for place, nodes in groups.items():
        cost = next((row for row in manifest.costs if row.node == place.layer), None)
        counted = step_part_flops(place.part, cost, kept, kernel_cost, batch)
        rows.append(_row(place, nodes, cost, counted, steps, tracing_us, roof))
    rows.sort(key=lambda row: (-(row.time.value or 0), PARTS.index(row.step_part), row.layer))
    total = sum(row.time.value or 0 for row in rows)
    interleaved = traced.plain_us * 1000
    return Layers(
        rows=tuple(rows),
        profiled_steps=len(steps),
        node_count=len(traced.nodes),
        profiler_per_node=derived(tracing_us * 1000, "ns", "duration of the cheapest node, taken off every node"),
        total=derived(total, "ns"),
        interleaved_step=measured(interleaved, "ns", "steps without a trace, in turn with traced ones"),
        explained=derived(total / timed_p50_ns, "1", "of the timed step's p50"),
        explained_interleaved=derived(total / interleaved, "1", "of the step in turn with traced ones"),
    )


def tracing_share_us(traced: Traced) -> float:
    """What tracing adds to a node's own duration, in µs.

    The cheapest node of a train step only renames a tensor, so its duration is the trace's. That cannot be more than
    the traced steps are longer, divided among the nodes, which bounds it where no node is so cheap.
    """
    steps = traced.steps
    cheapest = min((n.mean_us(steps) for n in traced.nodes), default=0.0)
    longer = traced.traced_us - traced.plain_us
    return max(0.0, min(cheapest, longer / max(1, len(traced.nodes))))


def _row(
    place: Place, nodes: Sequence[Node], cost: NodeCost | None, flops: Flops, steps: Sequence[int], tracing_us: float,
    roof: Roof,
) -> Layer:  # fmt: skip
    raw = sum(n.mean_us(steps) for n in nodes)
    relieved = sum(max(0.0, n.mean_us(steps) - tracing_us) for n in nodes)
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
        time_raw=measured(raw * 1000, "ns", "with what tracing adds"),
        flops_dense=derived(flops.dense, "FLOP"),
        flops_ideal=derived(flops.ideal, "FLOP"),
        flops_executed=derived(flops.executed, "FLOP"),
        tensor_bytes=derived(moved, "B", "read and written by the nodes, from shapes"),
        intensity=spot.intensity,
        rate=spot.rate,
        share_of_roof=spot.share_of_roof,
        bound=spot.bound,
    )


def step_part_flops(
    part: str, cost: NodeCost | None, kept: Mapping[str, int], kernel_cost: KernelCost, batch: int
) -> Flops:
    """The three figures of one layer in one part of one step; summed over all they give `wire.cost.flops`.

    Masking is executed only.
    """
    if cost is None or part not in ("forward", "backward", "masking"):
        return Flops(0, 0, 0)
    executed = kernel_cost(cost, kept.get(cost.weight), samples=batch, steps=1)
    if part == "masking":
        return Flops(0, 0, executed.masking)
    one = cost.flops_forward if part == "forward" else cost.flops_backward_input + cost.flops_backward_weight
    dense = batch * one
    ideal = dense * kept.get(cost.weight, cost.weight_count) // cost.weight_count if cost.weight_count else dense
    return Flops(dense, ideal, executed.forward if part == "forward" else executed.backward)
