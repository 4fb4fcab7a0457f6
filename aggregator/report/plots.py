"""The report's plots: values in, one SVG each with its legend out, the same bytes for the same values."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from aggregator.report.looks import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PALE_SKY,
    PINK,
    VERMILION,
    WINE,
    Fleet,
    draw,
    label_of,
    shorten,
)
from aggregator.report.page import Html, Key, is_known, percent, si, si_scale
from aggregator.results import DeviceRound, DeviceSummary, RoundResult, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, HALF = 1040, 510  # pixels: a figure of the whole page, and one of two side by side
_COMPARISON_COLOURS = (VERMILION, GREEN, ORANGE, PINK, DARK, WINE)
_MARKED_ROUNDS_MAX = 30  # more points than this are drawn as a line only
HALF_DEVICES_MAX = 10  # more than this need the whole width, and no number at each bar
_THICK_ROUNDS_MAX = 100  # more than this are drawn with thinner lines
_POINT_ROUNDS_MAX = 60  # latency: beyond these, medians over the rounds


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


# --- the plots ----------------------------------------------------------------------------------------------------


def accuracy_plot(result: RunResult, comparisons: Mapping[str, RunResult]) -> Plot | None:
    """Accuracy on the held-out set by round, sparse upon a wide dense line; None when no round has one."""
    lines = [
        (Key("sparse model", BLUE, width=2.0), _points(result.rounds, lambda r: r.accuracy_sparse)),
        (Key("dense model", PALE_SKY, width=4.5), _points(result.rounds, lambda r: r.accuracy_dense)),
    ]
    for i, (name, run) in enumerate(comparisons.items()):
        sparse = _points(run.rounds, lambda r: r.accuracy_sparse)
        points = sparse or _points(run.rounds, lambda r: r.accuracy_dense)
        dash: Literal["solid", "dotted"] = "solid" if i < len(_COMPARISON_COLOURS) else "dotted"
        which = "" if sparse or "dense" in name.lower() else " (dense model)"
        key = Key(f"{shorten(name, 40)}{which}", _COMPARISON_COLOURS[i % len(_COMPARISON_COLOURS)], dash, width=1.3)
        lines.append((key, points))
    lines = [(key, points) for key, points in lines if points]
    if not lines:
        return None
    keys = [Key(f"{k.label}: {percent(p[-1][1])}", k.colour, k.dash, k.width) for k, p in lines]
    svg = _lines("accuracy", "Accuracy by round", "share classified right", lines, lambda v: f"{100 * v:.6g} %", WIDE)
    return Plot(svg, keys)


def loss_plot(result: RunResult) -> Plot | None:
    """Loss of the sparse model on the held-out set by round, for runs without an accuracy."""
    points = _points(result.rounds, lambda r: r.loss_sparse)
    if not points:
        return None
    key = Key("sparse model", BLUE, width=2.6)
    svg = _lines("loss", "Held-out loss by round", "mean loss", [(key, points)], lambda v: f"{v:g}", WIDE)
    return Plot(svg, [Key(f"sparse model: {points[-1][1]:.4g}", BLUE, width=2.6)])


def weight_plot(result: RunResult, fleet: Fleet) -> Plot | None:
    """Aggregation weight r by device over the rounds, with the equal share as a reference."""
    share = 1 / len(fleet.looks) if fleet.looks else 0.0
    svg = _device_lines("weight", "Aggregation weight by device and round", "weight r", result, fleet, share)
    return None if svg is None else Plot(svg, [*fleet.keys, Key("equal share", GREY, "dotted", 1.5)])


def contribution_plot(result: RunResult, fleet: Fleet) -> Plot | None:
    """Contribution ψ by device over the rounds, with zero as a reference."""
    svg = _device_lines("contribution", "Contribution by device and round", "contribution ψ (cosine)", result, fleet, 0)
    return None if svg is None else Plot(svg, fleet.keys)


def bytes_plots(result: RunResult) -> tuple[Plot, Plot] | None:
    """Payload bytes by round and summed, uploads against what dense fp32 updates would have been."""
    rounds = result.rounds
    if not rounds:
        return None
    updates = sum(len(r.devices) for r in rounds)
    dense = [result.totals.bytes_up_dense_fp32 * len(r.devices) / updates if updates else 0 for r in rounds]
    series: list[tuple[Key, list[float]]] = [
        (Key("uploaded", BLUE, width=2.6), [r.bytes_up for r in rounds]),
        (Key("downloaded", ORANGE, width=1.8), [r.bytes_down for r in rounds]),
    ]
    if any(dense):
        series.insert(0, (Key("uploads if dense fp32", GREY, "dashed", 1.8), dense))
    return _bytes_plot("by round", rounds, series), _bytes_plot("summed", rounds, [(k, _running(v)) for k, v in series])


def _bytes_plot(how: str, rounds: Sequence[RoundResult], series: Sequence[tuple[Key, list[float]]]) -> Plot:
    factor, prefix = si_scale(max(v for _, values in series for v in values))
    lines = [
        (key, [(r.round_index, v / factor) for r, v in zip(rounds, values, strict=True)]) for key, values in series
    ]
    keys = [Key(f"{k.label}: {si(v[-1], 'B')}", k.colour, k.dash, k.width) if how == "summed" else k for k, v in series]
    svg = _lines(f"bytes {how}", f"Payload bytes, {how}", f"{prefix}B, {how}", lines, _plain, HALF, floor=0)
    return Plot(svg, keys)


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
        _name_slots(axes, devices, WIDE)
        axes.set_title(f"{prefix}FLOP over the run")

    svg = draw("flops", "FLOPs by device: dense, ideal and executed", paint, WIDE, 290 + _slot_extra(devices, WIDE))
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
        _name_slots(axes, devices, width)
        axes.set_title("peak RSS, MB")

    return Plot(draw("memory", "Peak memory by device", paint, width, 290 + _slot_extra(devices, width)), [])


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
        _name_slots(axes, devices, width)
        axes.set_title("ms per training step")
        _fit_times(axes, known)

    return Plot(draw("latency", "Step latency by device", paint, width, 290 + _slot_extra(devices, width)), [])


# --- data for them ------------------------------------------------------------------------------------------------

Points = list[tuple[int, float]]
_Step = tuple[float, float, float | None, float | None]  # place in the slot; p50, p90, p99 in ms


def _points(rounds: Iterable[RoundResult], value: Callable[[RoundResult], float | None]) -> Points:
    found = ((r.round_index, value(r)) for r in rounds)
    return [(i, v) for i, v in found if is_known(v)]


def _running(values: Iterable[float]) -> list[float]:
    total, sums = 0.0, []
    for value in values:
        total += value
        sums.append(total)
    return sums


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


# --- drawing ------------------------------------------------------------------------------------------------------


def _plain(value: float) -> str:
    return f"{value:,.6g}"


def _lines(
    name: str,
    label: str,
    unit: str,
    lines: Sequence[tuple[Key, Points]],
    tick: Callable[[float], str],
    width: int,
    floor: float | None = None,
) -> Html:
    """A plot of lines over rounds, the thinnest on top."""

    def paint(axes: "Axes") -> None:
        for key, points in lines:
            marker = "o" if len(points) <= _MARKED_ROUNDS_MAX else ""
            xs, ys = zip(*points, strict=True)
            line = axes.plot(xs, ys, ls=key.dash, color=key.colour, lw=key.width, marker=marker, zorder=20 - key.width)[
                0
            ]
            line.set_markersize(2 + 1.3 * min(key.width, 3))
            line.set_gid(f"title:{key.label}")
        axes.yaxis.set_major_formatter(lambda v, _: tick(v))
        axes.set_title(unit)
        if floor is not None:
            axes.set_ylim(bottom=floor)
        _number_rounds(axes)

    return draw(name, label, paint, width, 330 if width == WIDE else 270)


def _device_lines(
    value: Literal["weight", "contribution"], label: str, unit: str, result: RunResult, fleet: Fleet, reference: float
) -> Html | None:
    history = history_of(result)
    if not any(history.values()):
        return None
    width_max = 2.0 if len(result.rounds) <= _THICK_ROUNDS_MAX else 1.1

    def paint(axes: "Axes") -> None:
        axes.axhline(reference, color=GREY, lw=1.2, ls="dotted", zorder=1.5)
        for look in fleet.looks.values():
            points = [(i, getattr(d, value)) for i, d in history[look.name] if is_known(getattr(d, value))]
            if not points:
                continue
            marker = look.marker if look.is_emphasised and len(points) <= _MARKED_ROUNDS_MAX else ""
            xs, ys = zip(*points, strict=True)
            line = axes.plot(xs, ys, color=look.colour, ls=look.dash, marker=marker, ms=4)[0]
            line.set_linewidth(min(look.width, width_max))
            line.set(zorder=3 if look.is_emphasised else 2, alpha=1 if look.is_emphasised else 0.6)
            line.set_gid(f"title:{look.label}")
        axes.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}".replace("-", "\N{MINUS SIGN}"))
        axes.set_title(unit)
        if value == "weight":
            axes.set_ylim(bottom=0)
        _number_rounds(axes)

    return draw(value, label, paint, HALF, 290)


def _number_rounds(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.margins(x=0.015)
    axes.set_xlabel("round", loc="right")


def _name_slots(axes: "Axes", devices: Sequence[DeviceSummary], width: int) -> None:
    turned = _is_crowded(devices, width)
    names = [label_of(d) if turned else label_of(d).replace(" (noisy)", "\n(noisy)") for d in devices]
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize=9 if len(names) > 30 else 11)
    axes.tick_params(axis="x", length=0)
    air = max(4 - len(names), 0) / 2  # a few devices get slim bars too
    axes.set_xlim(-0.6 - air, len(names) - 0.4 + air)


def _is_crowded(devices: Sequence[DeviceSummary], width: int) -> bool:
    longest = max((len(shorten(d.name)) for d in devices), default=0)
    return longest * 6.5 > 0.9 * width / max(len(devices), 1)


def _slot_extra(devices: Sequence[DeviceSummary], width: int) -> int:
    """Pixels of height for names that stand upright."""
    return 5 * max((len(label_of(d)) for d in devices), default=0) if _is_crowded(devices, width) else 0


def _fit_times(axes: "Axes", known: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    if min(known) > 0 and max(known) / min(known) > 30:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title("ms per training step, logarithmic")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda v, _: _plain(v))
