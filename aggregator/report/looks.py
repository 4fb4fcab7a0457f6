"""How the report draws: colours, the look of each device in every plot, and an SVG element from a painting."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from aggregator.plain_text import plain
from aggregator.report.page import Html, Key
from aggregator.results import DeviceSummary, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without its yellow, which white paper swallows, and Tol's wine.
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
WINE, DARK, GREY, PALE, PALE_SKY = "#882255", "#4D4D4D", "#9AA5AB", "#C3CBCF", "#9CCDEE"
DEVICE_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, WINE, DARK)
_MARKERS = "osD^vPX*"
_NAMED_NOISY_MAX = 4

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: the page's font, searchable
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 12,
    "text.color": "#1f2a30",
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlecolor": "#5c6970",
    "axes.titlepad": 8,
    "axes.labelcolor": "#5c6970",
    "axes.edgecolor": "#b9c2c6",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6eaec",
    "grid.linewidth": 0.8,
    "xtick.color": "#b9c2c6",
    "xtick.labelcolor": "#5c6970",
    "ytick.color": "#5c6970",
    "ytick.left": False,
    "figure.constrained_layout.h_pad": 0.05,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, slots=True)
class Look:
    """How one device is drawn in every plot; an emphasised one stands before the grey of a large fleet."""

    name: str
    label: str
    colour: str
    dash: Literal["solid", "dashed"]
    marker: str
    is_emphasised: bool = True

    @property
    def width(self) -> float:
        """Of its line, in pixels."""
        return 2.0 if self.is_emphasised else 0.8

    @property
    def key(self) -> Key:
        """Its entry in a legend."""
        return Key(self.label, self.colour, self.dash, self.width)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The looks of a run's devices by name, and the legend they share."""

    looks: dict[str, Look] = field(default_factory=dict)
    keys: list[Key] = field(default_factory=list)


# --- who is drawn how ---------------------------------------------------------------------------------------------


def fleet_of(result: RunResult) -> Fleet:
    """Looks for every device: a colour each for a few, focus and grey context for many."""
    devices = result.devices
    if len(devices) <= len(DEVICE_COLOURS):
        looks = {
            d.name: Look(d.name, label_of(d), colour, "dashed" if d.noisy else "solid", marker)
            for d, colour, marker in zip(devices, DEVICE_COLOURS, _MARKERS, strict=False)
        }
        return Fleet(looks, [look.key for look in looks.values()])
    ranked = sorted((d for d in devices if not d.noisy), key=lambda d: d.weight)
    special = {ranked[-1].name: ("highest", BLUE), ranked[0].name: ("lowest", GREEN)} if len(ranked) > 1 else {}
    return _large_fleet(devices, special)


def _large_fleet(devices: Sequence[DeviceSummary], special: Mapping[str, tuple[str, str]]) -> Fleet:
    any_noisy = any(d.noisy for d in devices)
    looks, keys = {}, []
    for d in devices:
        if d.noisy:
            looks[d.name] = Look(d.name, label_of(d), VERMILION, "dashed", "o")
        elif d.name in special:
            word, colour = special[d.name]
            label = f"{shorten(d.name)} ({word}{' clean' if any_noisy else ''} weight)"
            looks[d.name] = Look(d.name, label, colour, "solid", "o")
            keys.append(looks[d.name].key)
        else:
            looks[d.name] = Look(d.name, d.name, GREY, "solid", "o", is_emphasised=False)
    noisy = [look.key for look in looks.values() if look.dash == "dashed"]
    if len(noisy) > _NAMED_NOISY_MAX:
        noisy = [Key(f"{len(noisy)} noisy devices", VERMILION, "dashed")]
    rest = sum(not look.is_emphasised for look in looks.values())
    return Fleet(looks, [*noisy, *keys, *([Key(f"{rest} other devices", GREY, width=1.5)] if rest else [])])


def label_of(device: DeviceSummary) -> str:
    """What a legend or an axis calls it."""
    return f"{shorten(device.name)} (noisy)" if device.noisy else shorten(device.name)


def shorten(name: str, length: int = 24) -> str:
    """A name that fits beside a plot, its middle left out: names of a fleet differ at the end.

    >>> shorten("raspberry-pi-4-in-the-kitchen-03", 16)
    'raspber…tchen-03'
    """
    clean = plain(name)
    return clean if len(clean) <= length else clean[: length // 2 - 1] + "…" + clean[-(length // 2) :]


# --- drawing ------------------------------------------------------------------------------------------------------


def draw(name: str, label: str, paint: Callable[["Axes"], None], width: int, height: int) -> Html:
    """An SVG of `width` x `height` pixels; matplotlib is loaded here and never by the aggregator's loop."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast("Any", _STYLE | {"svg.hashsalt": name}))
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), label)


def _inline(svg: str, label: str) -> Html:
    """An SVG file as an element of a page: no prolog, size, metadata or style of its own; named lines get a title."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="title:([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group()), svg)  # a hundredth of a pixel
    root = re.match(r"<svg[^>]*>", svg)
    box = re.search(r'viewBox="[^"]*"', root.group()) if root else None
    if root is None or box is None:
        raise ValueError("matplotlib wrote no SVG")
    head = (
        f'<svg class="plot" role="img" aria-label="{label}" {box.group()} xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Html(head + svg[root.end() :].strip())
