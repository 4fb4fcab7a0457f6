"""From the demo's options to a run folder: settings, one data file and one settings file per device."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from aggregator.demo.dataset import Dataset, load_dataset
from aggregator.demo.partition import Noise, parse_noise, partition, spoil
from aggregator.settings import (
    ModelSection,
    RoundsSection,
    RunSection,
    Section,
    Settings,
    check_settings,
    settings_of,
)
from device_runtime.config import DataSettings, DeviceSettings
from device_runtime.engines import open_engine
from device_runtime.store import write_atomic
from device_runtime.wire.draws import Draws
from device_runtime.wire.errors import UsageError
from device_runtime.wire.limits import DEVICE_COUNT_MAX
from device_runtime.wire.settings import LinkSettings
from device_runtime.wire.toml import to_toml
from export.models.sources import load_model

SITE = "demo"


@dataclass(frozen=True, slots=True)
class Plan:
    """A run laid out in memory: settings of the aggregator and of every device, and who is noisy."""

    folder: Path
    settings: Settings
    devices: tuple[DeviceSettings, ...]
    noise: Noise | None
    dataset: Dataset
    sample_counts: tuple[int, ...]

    @property
    def noisy(self) -> frozenset[str]:
        """Names of the devices with spoiled labels."""
        return frozenset(device_name(n) for n in self.noise.devices) if self.noise else frozenset()


class Options(Section, frozen=True):
    """What a person chose on the command line of the demo. tables: more of the aggregator's settings, as in its file,
    such as [method], [training] and [pruning]."""

    rounds: int = 15
    devices: int = 5
    data: str = "digits"
    layout: str = "auto"
    partition: str = "dirichlet:0.5"
    noise: str = "pair:0.4@2"
    engine: str = "auto"
    seed: int = 1
    deadline_s: float = 120.0
    model: ModelSection = ModelSection()
    tables: Mapping[str, Any] = msgspec.field(default_factory=dict)


def device_name(number: int) -> str:
    """The name of the demo's device `number`, from 1; padded, so that names sort as numbers do."""
    return f"device-{number:03d}" if number > 99 else f"device-{number:02d}"


def make_plan(options: Options, folder: Path) -> Plan:
    """Check the options against one another and the data, before anything is written or started.

    Raises UsageError or EngineError with one sentence for whatever does not fit.
    """
    if not 1 <= options.devices <= DEVICE_COUNT_MAX:
        raise UsageError(f"--devices is {options.devices}; give 1 to {DEVICE_COUNT_MAX}.")
    noise = parse_noise(options.noise, options.devices)
    dataset = load_dataset(options.data, options.layout, options.model.name)
    parts = partition(options.partition, dataset.y_train, dataset.groups, options.devices, options.seed)
    written = {
        "run": RunSection(folder=str(folder), seed=options.seed, held_out=str(folder / "held_out.npz")),
        "input": dataset.input,
        "link": LinkSettings(site=SITE, allow_unsigned=True),
        "model": msgspec.structs.replace(options.model, classes=dataset.class_count),
        "rounds": RoundsSection(
            count=options.rounds, devices_min=options.devices, quorum=options.devices, deadline_s=options.deadline_s
        ),
    }
    tables = {name: msgspec.to_builtins(table) for name, table in written.items()}
    settings = settings_of({**tables, **options.tables}, "the demo's settings")
    check_settings(settings)
    engines = options.engine.split(",")  # several take turns, for a mixed federation
    for engine in engines:
        open_engine(engine)  # one that is unknown or not installed is refused here
    m = settings.model
    load_model(
        zoo=m.name, torch=m.torch, onnx_file=m.onnx, input_shape=settings.input.shape, class_count=m.classes, seed=0
    )  # a model that does not fit the data is refused here, before processes start
    devices = tuple(
        DeviceSettings(
            name=device_name(number),
            folder=str(folder / "devices" / device_name(number)),
            data=DataSettings(source=str(folder / "devices" / device_name(number) / "data.npz")),
            link=settings.link,
            engine=engines[(number - 1) % len(engines)],
        )
        for number in range(1, options.devices + 1)
    )
    return Plan(folder, settings, devices, noise, dataset, tuple(len(p) for p in parts))


def device_arrays(options: Options, plan: Plan) -> list[tuple[np.ndarray, np.ndarray]]:
    """Raw samples and labels of each device, noise included."""
    data = plan.dataset
    parts = partition(options.partition, data.y_train, data.groups, options.devices, options.seed)
    arrays = []
    for number, chosen in enumerate(parts, start=1):
        labels = data.y_train[chosen]
        if plan.noise and number in plan.noise.devices:
            labels = spoil(labels, plan.noise, data.class_count, Draws(options.seed, "noise", number))
        arrays.append((data.x_train[chosen], labels))
    return arrays


def write_plan(options: Options, plan: Plan, host: str, port: int) -> None:
    """Write the run folder: held-out data, every device's data and settings, the aggregator's settings."""
    link = msgspec.structs.replace(plan.settings.link, host=host, port=port)
    _savez(plan.folder / "held_out.npz", x_test=plan.dataset.x_test, y_test=plan.dataset.y_test)
    for device, (x, y) in zip(plan.devices, device_arrays(options, plan), strict=True):
        folder = Path(device.folder)
        _savez(folder / "data.npz", x=x, y=y)
        write_atomic(folder / "device.toml", to_toml(msgspec.to_builtins(msgspec.structs.replace(device, link=link))))
    settings = msgspec.structs.replace(plan.settings, link=link)
    write_atomic(plan.folder / "aggregator.toml", to_toml(msgspec.to_builtins(settings)))


def _savez(path: Path, **arrays: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, allow_pickle=False, **arrays)
