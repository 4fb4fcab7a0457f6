"""A world run to its end, and what then must hold, whatever went wrong on the way."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from aggregator.results import RoundResult
from device_runtime.wire.submodel import decode_supports
from export.forward.parameters import initial_params
from export.models.sources import load_model
from tests.sim import engine
from tests.sim.plan import Plan
from tests.sim.world import World

PATIENCE_S = 4 * 3600.0


@dataclass(frozen=True)
class Ended:
    """What is left of a run: (round, device, update) of every update that counts, the model, and how it went."""

    committed: list[tuple[int, str, str]]
    params: bytes
    seconds: float
    crashes: int
    lives: dict[str, int]


Simulate = Callable[[int, Plan], Ended]


def to_the_end(seed: int, world: World) -> Ended:
    """Let the world go on until everybody has left."""
    aggregator = world.aggregator
    devices = [d for d in world.devices.values() if d.settings.engine == "fake"]  # nobody waits for the others to leave
    try:
        finished = world.run(lambda: aggregator.finished, PATIENCE_S)
        assert finished, f"no end; {where(world)}"
        assert world.run(lambda: aggregator.left, 1000.0), f"the aggregator stays; {where(world)}"
        staying = {hello.device for hello, member, _, _ in aggregator.ledger.devices() if member}
        held = [d.name for d in devices if d.name in staying and not (d.left or d.gone_for_good)]
        assert not held, f"{held} were not released; {where(world)}"
        return accounted(world)
    except AssertionError as error:
        raise type(error)(f"seed {seed}: {error}") from error


def where(world: World) -> str:
    """How far everybody is."""
    shells = {p.client: p.shell and p.shell._state for p in world.processes.values()}
    states = {c: s and (getattr(s, "activity", "") or (s.stage, s.round_index)) for c, s in shells.items()}
    tasks = getattr(shells[world.aggregator.client], "tasks", {})
    return f"{states}, tasks { ({d: t.status for d, t in tasks.items()}) }"


def accounted(world: World) -> Ended:
    """What the run left, checked against what was accepted."""
    ledger, plan = world.aggregator.ledger, world.plan
    committed = [(index, offer.device, offer.update_sha) for index, offer in ledger.accepted_offers(first=1)]
    counted = Counter((index, device) for index, device, _ in committed)
    assert set(counted.values()) == {1}, "an update was counted twice"
    results = ledger.results(RoundResult)
    assert [r.round_index for r in results] == list(range(1, plan.rounds + 1))
    for result in results:
        accepted = [device for index, device, _ in committed if index == result.round_index]
        assert [d.name for d in result.devices] == accepted, f"round {result.round_index} counts {accepted}"
        assert len(accepted) >= plan.quorum, f"round {result.round_index} lacks its quorum"
    model = world.aggregator.folder / "models" / str(plan.rounds)
    params = (model / "params.safetensors").read_bytes()
    wanted = recomputed(world, committed, (model / "supports").read_bytes())
    for name, value in safetensors.numpy.load(params).items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-5, err_msg=f"{name} is not the mean of what counts")
    lives = {p.client: p.life for p in world.processes.values()}
    return Ended(committed, params, world.timeline.monotonic_ns() / 1e9, world.crashes, lives)


def recomputed(world: World, committed: list[tuple[int, str, str]], supports: bytes) -> dict[str, np.ndarray]:
    """The final model from the accepted updates, without any code of the aggregator."""
    model = load_model(
        zoo=engine.MODEL, torch="", onnx_file="", input_shape=engine.INPUT, class_count=engine.CLASSES, seed=0
    )
    theta = {name: value.astype(np.float64) for name, value in initial_params(model).items()}
    kept = {n: s.dense_mask() for n, s in decode_supports(supports, {n: v.shape for n, v in theta.items()}).items()}
    for index in range(1, world.plan.rounds + 1):
        means = [world.devices[device].mean for i, device, _ in committed if i == index]
        for name, mask in kept.items():
            before = theta[name][mask].astype(np.float32)
            theta[name][mask] += np.mean([engine.moved(before, mean) - before for mean in means], axis=0)
    return theta
