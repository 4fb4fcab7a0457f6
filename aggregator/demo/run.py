"""One run of the demo from plan to result: broker, processes, events; and the runs it is compared with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from aggregator.demo.broker import start_broker
from aggregator.demo.interruption import Interruption
from aggregator.demo.plan import Options, Plan, make_plan, write_plan
from aggregator.demo.processes import Event, Processes
from aggregator.results import RunResult
from aggregator.run_events import DeviceLeft, RoundOpened
from aggregator.run_folder import read_result, write_result
from device_runtime.wire.errors import UsageError

COMPARISONS = ("fedavg", "samples")
Show = Callable[[Event | None], None]


def run_demo(options: Options, plan: Plan, broker_choice: str, show: Show) -> RunResult:
    """Run the whole federation in processes of its own and return its result, written into the run folder.

    Raises UsageError, ProcessFailedError or KeyboardInterrupt; whatever happens, nothing is left running.
    """
    with Interruption() as interruption:
        broker = start_broker(broker_choice, plan.folder / "broker")
        try:
            write_plan(options, plan, broker.host, broker.port)
            with Processes(plan.folder, interruption.check) as processes:
                processes.start_aggregator()
                for device in plan.devices:
                    processes.start_device(device.name, Path(device.folder) / "device.toml")
                for event in _until_one_is_missing(processes.follow()):
                    show(event)
        finally:
            broker.stop()
    result = _with_noise(read_result(plan.folder), plan)
    write_result(plan.folder, result)
    return result


def _until_one_is_missing(events: Iterator[Event | None]) -> Iterator[Event | None]:
    """The events, as long as round 1 can open: it waits for every device of the demo.

    Raises UsageError with the reason of one that leaves before: no artifact can be made for its engine.
    """
    opened = False
    for event in events:
        opened = opened or isinstance(event, RoundOpened)
        if isinstance(event, DeviceLeft) and not opened:
            raise UsageError(f"{event.device} cannot take part: {event.reason}")
        yield event


def _with_noise(result: RunResult, plan: Plan) -> RunResult:
    """The result with what only the demo knows: whose labels it spoiled."""
    devices = [msgspec.structs.replace(d, noisy=d.name in plan.noisy) for d in result.devices]
    return msgspec.structs.replace(result, devices=devices)


def comparison_options(name: str, options: Options) -> Options:
    """The options of a comparison run at the same seed.

    fedavg: the dense model, weighted by samples (McMahan et al., AISTATS 2017). samples: the same sparse submodels,
    weighted by samples instead of contribution.
    """
    if name not in COMPARISONS:
        raise UsageError(f"--compare {name!r} is unknown; use {' or '.join(COMPARISONS)}.")
    tables = {**options.tables, "weighting": "samples"}
    if name == "fedavg":
        kept = {table: keys for table, keys in options.tables.items() if table in ("training", "residual")}
        tables = {**kept, "method": "fedavg"}
    return msgspec.structs.replace(options, tables=tables)


def comparison_plan(name: str, options: Options, folder: Path) -> tuple[Options, Plan]:
    """The options and plan of a comparison run, in a folder of its own inside the main run's."""
    changed = comparison_options(name, options)
    return changed, make_plan(changed, folder / "compare" / name)
