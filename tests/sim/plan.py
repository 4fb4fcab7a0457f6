"""What a simulation runs: so many rounds with so many devices, under which rules and faults."""

from dataclasses import dataclass, field
from pathlib import Path

from aggregator.core.layers import UniformLayers
from aggregator.core.pruning import Pruning
from aggregator.core.residuals import Keep
from aggregator.core.topologies import Static
from aggregator.core.weighting import UniformWeights
from aggregator.settings import (
    ModelSection,
    RoundsSection,
    RunSection,
    Settings,
    TrainingSection,
)
from device_runtime.wire.manifest import InputSpec
from device_runtime.wire.settings import LinkSettings
from tests.sim.engine import CLASSES, INPUT, MODEL
from tests.sim.faults import TROUBLE, Faults

SITE = "site"


@dataclass(frozen=True)
class Plan:
    """`devices` honest ones; `exotic` ones train with an engine for which no artifact can be made; and perhaps one that
    keeps to no rule."""

    rounds: int = 3
    devices: int = 3
    exotic: int = 0
    mischief: bool = False
    quorum: int = 3
    deadline_s: float = 60.0
    faults: Faults = field(default_factory=Faults)


TROUBLED = Plan(devices=4, exotic=1, quorum=2, deadline_s=20.0, faults=TROUBLE)


def run_settings(plan: Plan, folder: Path) -> Settings:
    """A run whose model can be recomputed by hand: half of every layer kept, always the same half; a plain mean."""
    return Settings(
        run=RunSection(folder=str(folder), leave_after_s=500.0),
        input=InputSpec(shape=INPUT),
        link=LinkSettings(site=SITE, allow_unsigned=True),
        model=ModelSection(name=MODEL, classes=CLASSES),
        training=TrainingSection(batch_size=8, local_epochs=1, update_dtype="fp32"),
        pruning=Pruning(sparsity=0.5, layers=UniformLayers()),
        topology=Static(),
        residual=Keep(),
        weighting=UniformWeights(),
        rounds=RoundsSection(
            count=plan.rounds, devices_min=plan.devices, quorum=plan.quorum, deadline_s=plan.deadline_s, heartbeat_s=5.0
        ),
    )
