"""The plots of a profile: rooflines, layers, step times and memory, in the run report's looks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aggregator.profiles.comparison import Entry
from aggregator.report.drawing import HALF, WIDE, Plot
from aggregator.report.looks import (
    BLUE,
    DARK,
    DEVICE_COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PINK,
    SKY,
    WINE,
    draw,
    shorten,
)
from aggregator.report.page import Key, si, si_scale
from device_runtime.profile.record import Layer, Soak
from device_runtime.profile.values import Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAYERS_MAX = 14
_PART_COLOURS = {
    "forward": BLUE,
    "backward": ORANGE,
    "masking": GREEN,
    "optimizer": PINK,
    "loss": WINE,
    "accumulation": DARK,
    "statistics": SKY,
    "layout": GREY,
}
_NAMED_POINTS = 5


def label_of(entry: Entry, *, is_alone: bool) -> str:
    """What an axis calls a case."""
    name = f"{entry.case.engine} {entry.case.sparsity:g}"
    if entry.case.verdict.kind == "emulated":
        name += "\nemulated"
    return name if is_alone else f"{shorten(entry.name, 18)}\n{name}"


def roofline_plot(name: str, entry: Entry) -> Plot | None:
    """Every contraction of a step against the limits of compute and bandwidth; None without layers or limits."""
    roof, layers = entry.profile.roof, entry.case.layers
    points = [row for row in layers.rows if row.rate.value and row.intensity.value] if layers else []
    if not points or roof.compute.value is None or roof.bandwidth.value is None:
        return None
    compute, bandwidth = float(roof.compute.value), float(roof.bandwidth.value)
    low = min(compute / bandwidth, *(_number(p.intensity) for p in points)) / 2
    high = max(compute / bandwidth, *(_number(p.intensity) for p in points)) * 2

    def paint(axes: "Axes") -> None:
        ridge = compute / bandwidth
        axes.plot([low, ridge, high], [low * bandwidth, compute, compute], color=DARK, lw=1.6, zorder=2)
        for part, marker in (("forward", "o"), ("backward", "s")):
            chosen = [p for p in points if p.step_part == part]
            xs, ys = [_number(p.intensity) for p in chosen], [_number(p.rate) for p in chosen]
            axes.scatter(xs, ys, s=42, marker=marker, color=_PART_COLOURS[part], linewidths=0, alpha=0.85, zorder=3)
        for p in points[:_NAMED_POINTS]:
            place = (_number(p.intensity), _number(p.rate))
            offset = (6, -3)
            axes.annotate(shorten(p.layer, 22), place, offset, textcoords="offset points", fontsize=9, color=DARK)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes)
        axes.set_title("GFLOP/s, executed")
        axes.set_xlabel("FLOP per byte of the tensors read and written", loc="right")

    keys = [
        Key(f"limits: {compute:.3g} GFLOP/s, {bandwidth:.3g} GB/s ({roof.compute.source})", DARK, width=1.6),
        Key("forward", BLUE, kind="bar"),
        Key("backward", ORANGE, kind="bar"),
    ]
    return Plot(draw(f"roofline {name}", "Roofline of the layers of a step", paint, HALF, 360), keys)


def layers_plot(name: str, entry: Entry) -> Plot | None:
    """Where the time of a step goes: the costliest layers, forward and backward apart; None without layers."""
    if entry.case.layers is None:
        return None
    rows = list(entry.case.layers.rows)
    shown, rest = rows[:LAYERS_MAX], rows[LAYERS_MAX:]
    times = [_number(r.time) / 1e6 for r in shown]
    names = [_layer_name(r) for r in shown]
    colours = [_PART_COLOURS.get(r.step_part, GREY) for r in shown]
    if rest:
        times.append(sum(_number(r.time) for r in rest) / 1e6)
        names.append(f"{len(rest)} more")
        colours.append(PALE)

    def paint(axes: "Axes") -> None:
        places = range(len(times))
        bars = axes.barh(places, times, 0.66, color=colours)
        axes.bar_label(bars, [f"{t:.3g}" for t in times], padding=3, fontsize=10, color="#5c6970")
        axes.set_yticks(places, names, fontsize=10)
        axes.invert_yaxis()
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        axes.set_title("ms of a step")

    parts = dict.fromkeys(r.step_part for r in shown)
    keys = [Key(part, _PART_COLOURS.get(part, GREY), kind="bar") for part in parts]
    return Plot(draw(f"layers {name}", "Time of a step by layer", paint, HALF, 360), keys)


def step_plot(found: Sequence[Entry]) -> Plot:
    """Step time of every case: its repeats' medians as points, a thick line from p50 to p90, a thin one to p99."""
    engines = list(dict.fromkeys(e.case.engine for e in found))

    def paint(axes: "Axes") -> None:
        for slot, e in enumerate(found):
            colour, step = _engine_colour(engines, e), e.case.step
            for top, width in ((step.p99, 1.0), (step.p90, 4.0)):
                axes.plot([slot] * 2, [step.p50 / 1e6, top / 1e6], color=colour, lw=width, alpha=0.55, zorder=2)
            middle = [sorted(r.step_ns)[(len(r.step_ns) - 1) // 2] / 1e6 for r in e.case.repeats]
            places = [slot + 0.16 * (i / max(len(middle) - 1, 1) - 0.5) for i in range(len(middle))]
            fill = colour if e.case.verdict.may_aggregate else "white"
            axes.scatter(places, middle, s=24, facecolor=fill, edgecolor=colour, linewidths=1.1, zorder=3)
        _name_slots(axes, found)
        axes.set_ylim(bottom=0)
        axes.set_title("ms per training step")

    keys = [Key(name, DEVICE_COLOURS[i % len(DEVICE_COLOURS)], kind="bar") for i, name in enumerate(engines)]
    keys.append(Key("hollow: not valid, in no median", GREY, kind="outline"))
    return Plot(draw("steps", "Step time by engine and sparsity", paint, WIDE, 330 + _slot_extra(found)), keys)


def soak_plot(name: str, soak: Soak) -> Plot:
    """Steps per second, minute by minute; a hollow point where something was throttled or the supply was low."""
    rates = [m.step_count / m.seconds for m in soak.minutes]

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        minutes = range(1, len(rates) + 1)
        axes.plot(minutes, rates, color=BLUE, lw=1.6, zorder=2)
        fills = ["white" if m.events else BLUE for m in soak.minutes]
        axes.scatter(minutes, rates, s=28, facecolor=fills, edgecolor=BLUE, linewidths=1.3, zorder=3)
        axes.set_ylim(0, 1.15 * max(rates))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
        axes.set_title("steps per second")
        axes.set_xlabel("minute", loc="right")

    keys = [Key("hollow: throttled, or under-voltage", BLUE, kind="outline")]
    return Plot(draw(f"soak {name}", "Steps per second by minute", paint, WIDE, 290), keys)


def flops_plot(found: Sequence[Entry]) -> Plot:
    """Dense, ideal and executed FLOPs of a step, side by side."""
    kinds: list[tuple[Key, Callable[[Entry], Value]]] = [
        (Key("dense", PALE, kind="bar"), lambda e: e.case.flops.dense),
        (Key("ideal (possible)", GREEN, kind="outline"), lambda e: e.case.flops.ideal),
        (Key("executed", BLUE, kind="bar"), lambda e: e.case.flops.executed),
    ]
    factor, prefix = si_scale(max(_number(get(e)) for e in found for _, get in kinds))

    def paint(axes: "Axes") -> None:
        for offset, (key, get) in zip((-0.27, 0.0, 0.27), kinds, strict=True):
            is_outline = key.kind == "outline"
            axes.bar(
                [i + offset for i in range(len(found))],
                [_number(get(e)) / factor for e in found],
                0.24,
                color="none" if is_outline else key.colour,
                edgecolor=key.colour,
                linewidth=1.3 if is_outline else 0,
                linestyle=(0, (3, 2)) if is_outline else "solid",
            )
        _name_slots(axes, found)
        axes.set_title(f"{prefix}FLOP per step")

    return Plot(draw("flops", "FLOPs of a step", paint, WIDE, 290 + _slot_extra(found)), [key for key, _ in kinds])


def memory_plot(found: Sequence[Entry]) -> Plot | None:
    """Proportional memory of each case's process; None where no kernel gave it."""
    known = [e for e in found if e.case.memory.pss.value is not None]
    if not known:
        return None

    def paint(axes: "Axes") -> None:
        sizes = [_number(e.case.memory.pss) for e in known]
        bars = axes.bar(range(len(known)), [s / 1e6 for s in sizes], 0.5, color=BLUE)
        axes.bar_label(bars, [si(s, "B") for s in sizes], padding=2, fontsize=10, color="#5c6970")
        _name_slots(axes, known)
        axes.set_title("PSS, MB")

    return Plot(draw("memory", "Memory of each case", paint, WIDE, 290 + _slot_extra(known)), [])


def _number(value: Value) -> float:
    return float(value.value or 0)


def _layer_name(row: Layer) -> str:
    return f"{shorten(row.layer, 22)} {row.step_part}" if row.layer else row.step_part


def _engine_colour(engines: Sequence[str], entry: Entry) -> str:
    return DEVICE_COLOURS[engines.index(entry.case.engine) % len(DEVICE_COLOURS)]


def _is_alone(found: Sequence[Entry]) -> bool:
    return len({e.name for e in found}) == 1


def _name_slots(axes: "Axes", found: Sequence[Entry]) -> None:
    names = [label_of(e, is_alone=_is_alone(found)) for e in found]
    turned = bool(_slot_extra(found))
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize=9 if turned else 11)
    axes.tick_params(axis="x", length=0)
    air = max(4 - len(names), 0) / 2
    axes.set_xlim(-0.6 - air, len(names) - 0.4 + air)


def _slot_extra(found: Sequence[Entry]) -> int:
    """Pixels of height for names that must stand upright."""
    longest = max(len(part) for e in found for part in label_of(e, is_alone=_is_alone(found)).split("\n"))
    return 6 * longest if longest * 6.5 > 0.9 * WIDE / len(found) else 0


def _plain_ticks(axes: "Axes") -> None:
    """1, 10, 100 instead of powers of ten."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda v, _: f"{v:g}")
        axis.set_minor_formatter(lambda _v, _: "")
