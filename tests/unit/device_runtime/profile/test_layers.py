"""Layers: counts that sum to the step's, times relieved of tracing, and a real traced step."""

import pytest

from device_runtime.engines import available_engines
from device_runtime.engines.portable.traced import place_of
from device_runtime.engines.registry import engine_kind
from device_runtime.engines.trace import LayerNames, Node
from device_runtime.profile.layers import (
    BLOCK,
    Traced,
    layers_of,
    middle_half,
    run_traced,
    step_part_flops,
    tracing_share_us,
)
from device_runtime.profile.subject import kept_counts, samples, sent, supports, values
from device_runtime.training import Workbench
from device_runtime.wire.cost import flops, masked_dense
from device_runtime.wire.manifest import MANIFEST_FILE, InputSpec, decode_manifest
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.models.sources import load_model
from export.steps.optimizers import choose_optimizer

BATCH = 16


@pytest.fixture
def chosen(manifest):
    return supports(manifest, 0.75, 0)


def test_parts_sum_to_the_cost_of_the_step(manifest, chosen):
    kept = kept_counts(manifest, chosen)
    parts = [
        step_part_flops(part, cost, kept, masked_dense, BATCH)
        for cost in manifest.costs
        for part in ("forward", "backward", "masking")
    ]
    whole = flops(manifest.costs, kept, masked_dense, samples=BATCH, steps=1)
    assert sum(p.dense for p in parts) == whole.dense
    assert sum(p.executed for p in parts) == whole.executed
    assert abs(sum(p.ideal for p in parts) - whole.ideal) <= len(parts)  # each rounds down


def test_what_is_no_contraction_counts_nothing(manifest):
    assert step_part_flops("forward", None, {}, masked_dense, BATCH).executed == 0
    assert step_part_flops("optimizer", manifest.costs[0], {}, masked_dense, BATCH).dense == 0


def traced(durations, traced_ns, plain_ns, place=None):
    nodes = [Node(name, "Op", (*[99] * BLOCK, *[us] * 8), 1000) for name, us in durations.items()]
    return Traced(nodes, place, [10**9] * BLOCK + [traced_ns] * 8, [10**9] * BLOCK + [plain_ns] * 8)


def test_tracing_costs_what_its_cheapest_node_takes():
    assert tracing_share_us(traced({"fc1": 50, "reshape": 2}, 80_000, 50_000)) == 2


def test_but_no_more_than_traced_steps_are_longer():
    assert tracing_share_us(traced({"fc1": 50, "fc2": 40}, 94_000, 90_000)) == 2
    assert tracing_share_us(traced({"fc1": 50, "fc2": 40}, 80_000, 90_000)) == 0


def test_rows_are_relieved_sorted_and_held_against_the_step(manifest, chosen, roof):
    durations = {"fc1": 50, "gradient/fc1/Gemm": 60, "gradient/fc1/Gemm_1": 30, "mask/Where": 5, "flatten": 2}
    found = layers_of(
        traced(durations, 200_000, 140_000, lambda node: place_of(node, LayerNames(manifest))), manifest,
        kept_counts(manifest, chosen), masked_dense,
        batch=BATCH, timed_p50_ns=150_000, roof=roof,
    )  # fmt: skip
    assert [(r.layer, r.step_part, r.node_count) for r in found.rows] == [
        ("fc1", "backward", 2),
        ("fc1", "forward", 1),
        ("fc1", "masking", 1),
        ("flatten", "forward", 1),
    ]
    backward = found.rows[0]
    assert (backward.time.value, backward.time_raw.value) == (86_000, 90_000)
    assert backward.rate.value == pytest.approx(backward.flops_executed.value / 86_000)
    assert backward.tensor_bytes.value == 2000
    assert found.rows[2].flops_executed.value == 2 * manifest.costs[0].weight_count
    assert found.rows[2].rate.source == "absent"
    assert found.total.value == 86_000 + 48_000 + 3_000
    assert found.explained.value == pytest.approx(137 / 150)
    assert found.explained_interleaved.value == pytest.approx(137 / 140)


@pytest.mark.parametrize("engine", available_engines())
@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adamw", 0.0)])
def test_a_real_step_is_joined_to_every_layer(engine, optimizer, momentum, roof, tmp_path):
    folder = tmp_path / engine
    model = load_model(zoo="mlp", torch="", onnx_file="", input_shape=(1, 8, 8), class_count=10, seed=0)
    local = choose_optimizer(optimizer, momentum=momentum, nesterov=False, weight_decay=0.0)
    spec = ArtifactSpec(
        name="mlp", input=InputSpec(shape=(1, 8, 8)), class_count=10, loss="cross_entropy", optimizer=local
    )
    writer_of(engine)(model, spec, folder)
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
    chosen = supports(manifest, 0.75, 0)
    shares = []
    kind, given = engine_kind(engine), sent(values(manifest, chosen, 0), "ab" * 32, BATCH, 0)
    bench = Workbench(kind.load_engine(), folder, samples(manifest, BATCH, 0), threads=1, seed=0)
    found = run_traced(
        bench, kind.load_tracer(), folder, given, list(bench.batches(given.assignment, epoch=0)),
        seed=0, seconds=0.05, progress=shares.append,
    )  # fmt: skip
    kept = kept_counts(manifest, chosen)
    rule = engine_kind(engine).kernel_cost
    layers = layers_of(found, manifest, kept, rule, batch=BATCH, timed_p50_ns=1_000_000, roof=roof)
    joined = {(r.layer, r.step_part) for r in layers.rows}
    parts = ("forward", "backward", *(() if engine == "sparse" else ("masking",)))
    for cost in manifest.costs:
        assert {(cost.node, part) for part in parts} <= joined
    assert {("", "loss"), ("", "optimizer")} <= joined
    named = {layer for layer, part in joined if part in ("forward", "backward")}
    assert named <= {n.name for n in model.graph.node}, "every node has its layer"
    whole = flops(manifest.costs, kept, rule, samples=BATCH, steps=1)
    assert sum(r.flops_executed.value for r in layers.rows) == whole.executed
    assert all(r.tensor_bytes.value > 0 for r in layers.rows if r.step_part == "forward" and r.weight)
    assert len({len(n.durations_us) for n in found.nodes}) == 1  # every node once per step
    assert shares


def test_steps_are_chosen_for_all_nodes_alike():
    steps = middle_half([10, 11, 900, 12, 13, 9, 800, 14])
    assert steps == [1, 3, 4, 7]
    assert Node("a", "Op", (1, 2, 99, 4, 6, 0, 99, 8), 0).mean_us(steps) == 5.0
    assert middle_half([3.0]) == [0]
