"""Plots over the rounds of a run: accuracy, loss, weights, contributions, bytes. The same bytes for the same values."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from aggregator.report.drawing import HALF, WIDE, Plot, history_of, number_rounds, plain
from aggregator.report.looks import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    ORANGE,
    PALE_SKY,
    PINK,
    VERMILION,
    WINE,
    Fleet,
    draw,
    shorten,
)
from aggregator.report.page import Html, Key, is_known, percent, si, si_scale
from aggregator.results import RoundResult, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[int, float]]
_COMPARISON_COLOURS = (VERMILION, GREEN, ORANGE, PINK, DARK, WINE)
_MARKED_ROUNDS_MAX = 30  # more points than this are drawn as a line only
_THICK_ROUNDS_MAX = 100  # more than this are drawn with thinner lines


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
    svg = _lines(f"bytes {how}", f"Payload bytes, {how}", f"{prefix}B, {how}", lines, plain, HALF, floor=0)
    return Plot(svg, keys)


def _points(rounds: Iterable[RoundResult], value: Callable[[RoundResult], float | None]) -> Points:
    found = ((r.round_index, value(r)) for r in rounds)
    return [(i, v) for i, v in found if is_known(v)]


def _running(values: Iterable[float]) -> list[float]:
    total, sums = 0.0, []
    for value in values:
        total += value
        sums.append(total)
    return sums


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
        number_rounds(axes)

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
        number_rounds(axes)

    return draw(value, label, paint, HALF, 290)
