"""What plots share: the plot itself with its legend, sizes, and axes that number rounds or name devices."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from aggregator.report.looks import label_of, shorten
from aggregator.report.page import Html, Key
from aggregator.results import DeviceRound, DeviceSummary, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, HALF = 1040, 510  # pixels: a figure of the whole page, and one of two side by side


class Plot(NamedTuple):
    """A drawing and its legend."""

    svg: Html
    keys: list[Key]


def history_of(result: RunResult) -> dict[str, list[tuple[int, DeviceRound]]]:
    """What each device did: (round index, record), by device name."""
    found: dict[str, list[tuple[int, DeviceRound]]] = defaultdict(list)
    for r in result.rounds:
        for device in r.devices:
            found[device.name].append((r.round_index, device))
    return found


def plain(value: float) -> str:
    """A number at an axis."""
    return f"{value:,.6g}"


def number_rounds(axes: "Axes") -> None:
    """Whole numbers of rounds along the bottom."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.margins(x=0.015)
    axes.set_xlabel("round", loc="right")


def name_slots(axes: "Axes", devices: Sequence[DeviceSummary], width: int) -> None:
    """The names of devices along the bottom, upright where they are many or long."""
    turned = _is_crowded(devices, width)
    names = [label_of(d) if turned else label_of(d).replace(" (noisy)", "\n(noisy)") for d in devices]
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize=9 if len(names) > 30 else 11)
    axes.tick_params(axis="x", length=0)
    air = max(4 - len(names), 0) / 2  # a few devices get slim bars too
    axes.set_xlim(-0.6 - air, len(names) - 0.4 + air)


def _is_crowded(devices: Sequence[DeviceSummary], width: int) -> bool:
    longest = max((len(shorten(d.name)) for d in devices), default=0)
    return longest * 6.5 > 0.9 * width / max(len(devices), 1)


def slot_extra(devices: Sequence[DeviceSummary], width: int) -> int:
    """Pixels of height for names that stand upright."""
    return 5 * max((len(label_of(d)) for d in devices), default=0) if _is_crowded(devices, width) else 0
