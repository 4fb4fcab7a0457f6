"""Layers: counts that sum to the step's, times relieved of the profiler, and a real profiled step."""

import pytest

from aggregator.artifacts import WRITERS
from device_runtime.engines import available_engines
from device_runtime.profile.layers import BLOCK, Traced, layers_of, profiler_share_us, run_traced, step_part_flops
from device_runtime.profile.subject import batches, kept_counts, supports, values
from device_runtime.profile.trace import Node
from device_runtime.wire.cost import flops
from device_runtime.wire.manifest import MANIFEST_FILE, InputSpec, decode_manifest
from export.models.sources import load_model
from export.steps.optimizers import choose_optimizer

BATCH = 16


@pytest.fixture
def chosen(manifest):
    return supports(manifest, 0.75, 0)


def test_parts_sum_to_the_cost_of_the_step(manifest, chosen):
    kept = kept_counts(manifest, chosen)
    parts = [
        step_part_flops(part, cost, kept, manifest, BATCH)
        for cost in manifest.costs
        for part in ("forward", "backward", "masking")
    ]
    whole = flops(manifest.costs, kept, manifest.kernel, samples=BATCH, steps=1)
    assert sum(p.dense for p in parts) == whole.dense
    assert sum(p.executed for p in parts) == whole.executed
    assert abs(sum(p.ideal for p in parts) - whole.ideal) <= len(parts)  # each rounds down


def test_what_is_no_contraction_counts_nothing(manifest):
    assert step_part_flops("forward", None, {}, manifest, BATCH).executed == 0
    assert step_part_flops("optimizer", manifest.costs[0], {}, manifest, BATCH).dense == 0


def traced(durations, profiled_ns, plain_ns):
    nodes = [Node(name, "Op", (*[99] * BLOCK, *[us] * 8), 1000) for name, us in durations.items()]
    return Traced(nodes, [10**9] * BLOCK + [profiled_ns] * 8, [10**9] * BLOCK + [plain_ns] * 8)


def test_the_profiler_costs_what_its_cheapest_node_takes():
    assert profiler_share_us(traced({"fc1": 50, "reshape": 2}, 80_000, 50_000)) == 2


def test_but_no_more_than_profiled_steps_are_longer():
    assert profiler_share_us(traced({"fc1": 50, "fc2": 40}, 94_000, 90_000)) == 2
    assert profiler_share_us(traced({"fc1": 50, "fc2": 40}, 80_000, 90_000)) == 0


def test_rows_are_relieved_sorted_and_held_against_the_step(manifest, chosen, roof):
    durations = {"fc1": 50, "gradient/fc1/Gemm": 60, "gradient/fc1/Gemm_1": 30, "mask/Where": 5, "flatten": 2}
    found = layers_of(
        traced(durations, 200_000, 140_000), manifest, kept_counts(manifest, chosen),
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
    rule = choose_optimizer(optimizer, momentum=momentum, nesterov=False, weight_decay=0.0)
    shape = InputSpec(shape=(1, 8, 8))
    WRITERS[engine](model, folder, name="mlp", input=shape, class_count=10, loss="cross_entropy", optimizer=rule)
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
    chosen = supports(manifest, 0.75, 0)
    shares = []
    found = run_traced(
        folder, manifest, values(manifest, chosen, 0), batches(manifest, BATCH, 0),
        threads=1, seed=0, seconds=0.05, told=shares.append,
    )  # fmt: skip
    kept = kept_counts(manifest, chosen)
    layers = layers_of(found, manifest, kept, batch=BATCH, timed_p50_ns=1_000_000, roof=roof)
    joined = {(r.layer, r.step_part) for r in layers.rows}
    for cost in manifest.costs:
        assert {(cost.node, part) for part in ("forward", "backward", "masking")} <= joined
    assert {("", "loss"), ("", "optimizer")} <= joined
    named = {layer for layer, part in joined if part in ("forward", "backward")}
    assert named <= {n.name for n in model.graph.node}, "every node has its layer"
    whole = flops(manifest.costs, kept, manifest.kernel, samples=BATCH, steps=1)
    assert sum(r.flops_executed.value for r in layers.rows) == whole.executed
    assert all(r.tensor_bytes.value > 0 for r in layers.rows if r.step_part == "forward" and r.weight)
    assert len({len(n.durations_us) for n in found.nodes}) == 1  # every node once per step
    assert shares
