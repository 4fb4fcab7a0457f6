"""Plots by device: FLOPs, memory and latency side by side. The same bytes for the same values."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from aggregator.report.drawing import HALF, WIDE, Plot, history_of, name_slots, plain, slot_extra
from aggregator.report.looks import BLUE, GREEN, PALE, Fleet, draw
from aggregator.report.page import Key, is_known, si_scale
from aggregator.results import DeviceRound, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF_DEVICES_MAX = 10  # more than this need the whole width, and no number at each bar
_POINT_ROUNDS_MAX = 60  # latency: beyond these, medians over the rounds
_Step = tuple[float, float, float | None, float | None]  # place in the slot; p50, p90, p99 in ms


def flops_plot(result: RunResult) -> Plot | None:
    """Dense, ideal and executed FLOPs of each device over the run, side by side; None when nobody counted."""
    devices = result.devices
    peak = max((max(d.flops_dense, d.flops_ideal, d.flops_executed) for d in devices), default=0)
    if not peak:
        return None
    factor, prefix = si_scale(peak)
    kinds = [
        (Key("dense", PALE, kind="bar"), [d.flops_dense / factor for d in devices]),
        (Key("ideal (possible)", GREEN, kind="outline"), [d.flops_ideal / factor for d in devices]),
        (Key("executed", BLUE, kind="bar"), [d.flops_executed / factor for d in devices]),
    ]

    def paint(axes: "Axes") -> None:
        for offset, (key, heights) in zip((-0.27, 0, 0.27), kinds, strict=True):
            is_outline = key.kind == "outline"
            bars = axes.bar(
                [i + offset for i in range(len(devices))],
                heights,
                0.24,
                color="none" if is_outline else key.colour,
                edgecolor=key.colour,
                linewidth=1.3 if is_outline else 0,
                linestyle=(0, (3, 2)) if is_outline else "solid",
            )
            if len(devices) <= HALF_DEVICES_MAX:
                labels = [f"{h:.3g}" if h else "" for h in heights]
                axes.bar_label(bars, labels, padding=2, fontsize=10, color="#5c6970")
        axes.margins(y=0.09)
        name_slots(axes, devices, WIDE)
        axes.set_title(f"{prefix}FLOP over the run")

    svg = draw("flops", "FLOPs by device: dense, ideal and executed", paint, WIDE, 290 + slot_extra(devices, WIDE))
    return Plot(svg, [key for key, _ in kinds])


def memory_plot(result: RunResult, fleet: Fleet) -> Plot | None:
    """Highest resident memory of each device's process; None when nobody measured it."""
    devices = result.devices
    peaks = [d.rss_mb_peak if is_known(d.rss_mb_peak) else 0.0 for d in devices]
    if not any(peaks):
        return None
    width = HALF if len(devices) <= HALF_DEVICES_MAX else WIDE

    def paint(axes: "Axes") -> None:
        bars = axes.bar(range(len(devices)), peaks, 0.55, color=[fleet.looks[d.name].colour for d in devices])
        if len(devices) <= HALF_DEVICES_MAX:
            axes.bar_label(bars, [f"{p:.0f}" if p else "" for p in peaks], padding=2, fontsize=10, color="#5c6970")
        name_slots(axes, devices, width)
        axes.set_title("peak RSS, MB")

    return Plot(draw("memory", "Peak memory by device", paint, width, 290 + slot_extra(devices, width)), [])


def latency_is_by_round(result: RunResult) -> bool:
    """Whether the latency plot shows every round, or medians over the rounds."""
    return len(result.devices) <= HALF_DEVICES_MAX and len(result.rounds) <= _POINT_ROUNDS_MAX


def latency_plot(result: RunResult, fleet: Fleet) -> Plot | None:
    """Step latency of each device: p50 as a point, thick to p90, thin to p99; by round, or the median over rounds."""
    history, devices = history_of(result), result.devices
    by_round = latency_is_by_round(result)
    indices = [r.round_index for r in result.rounds] or [0]
    middle, span = (indices[0] + indices[-1]) / 2, max(indices[-1] - indices[0], 1)
    slots = {d.name: _steps(history[d.name], lambda i: 0.7 * (i - middle) / span, by_round=by_round) for d in devices}
    known = [v for points in slots.values() for _, *steps in points for v in steps if is_known(v)]
    if not known:
        return None
    width = HALF if len(devices) <= HALF_DEVICES_MAX else WIDE

    def paint(axes: "Axes") -> None:
        for slot, device in enumerate(devices):
            for x, p50, p90, p99 in slots[device.name]:
                colour = fleet.looks[device.name].colour
                for top, thickness in ((p99, 0.9), (p90, 2.6 if by_round else 4.0)):
                    if is_known(top):
                        axes.plot([slot + x] * 2, [p50, top], color=colour, lw=thickness, alpha=0.55, zorder=2)
                axes.plot([slot + x], [p50], "o", color=colour, ms=3.2 if by_round else 5, mew=0, zorder=3)
        name_slots(axes, devices, width)
        axes.set_title("ms per training step")
        _fit_times(axes, known)

    return Plot(draw("latency", "Step latency by device", paint, width, 290 + slot_extra(devices, width)), [])


def _steps(seen: Sequence[tuple[int, DeviceRound]], place: Callable[[int], float], *, by_round: bool) -> list[_Step]:
    if by_round:
        found = [(place(i), d.step_ms_p50, d) for i, d in seen]
        return [(x, p50, d.step_ms_p90, d.step_ms_p99) for x, p50, d in found if is_known(p50)]
    p50 = _median(d.step_ms_p50 for _, d in seen)
    if p50 is None:
        return []
    return [(0.0, p50, _median(d.step_ms_p90 for _, d in seen), _median(d.step_ms_p99 for _, d in seen))]


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if is_known(v)]
    return statistics.median(known) if known else None


def _fit_times(axes: "Axes", known: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    if min(known) > 0 and max(known) / min(known) > 30:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title("ms per training step, logarithmic")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda v, _: plain(v))
