"""The report's page as values: elements that escape what is not markup, numbers in words, and the style."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from aggregator.plain_text import plain

ABSENT = "\N{EN DASH}"
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Html(str):
    """Markup. Any other string is text and is escaped where it is placed."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: what it is called and how it is drawn (`dash` is a line style of CSS and matplotlib)."""

    label: str
    colour: str
    dash: Literal["solid", "dashed", "dotted"] = "solid"
    width: float = 2.0
    kind: Literal["line", "bar", "outline"] = "line"


# --- markup -------------------------------------------------------------------------------------------------------


def text(value: str) -> Html:
    """A string as markup: escaped, without control characters, unless it is markup already."""
    if isinstance(value, Html):
        return value
    return Html(_escape(value))


def _escape(value: str) -> str:
    return html.escape(plain(value))


def element(tag: str, *children: str, **attributes: str) -> Html:
    """One element; a trailing underscore in an attribute's name is dropped, an inner one is a hyphen.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    named = "".join(f' {k.rstrip("_").replace("_", "-")}="{_escape(v)}"' for k, v in attributes.items())
    return Html(f"<{tag}{named}>{''.join(text(c) for c in children)}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """Parts of a page, one after the other."""
    return Html("\n".join(text(p) for p in parts))


def tile(label: str, value: str, note: str = "") -> Html:
    """A headline figure with its name above and what to hold it against below."""
    return element(
        "div", element("dt", label), element("dd", value), element("dd", note, class_="aside"), class_="tile"
    )


def figure(title: str, svg: Html, caption: str, keys: Iterable[Key] = ()) -> Html:
    """A plot with its title, legend and caption."""
    legend = [element("li", _swatch(k), element("span", k.label)) for k in keys]
    return element(
        "figure",
        element("h3", title),
        element("ul", *legend, class_="keys") if legend else element("div"),
        element("div", svg, class_="canvas"),
        element("figcaption", caption),
    )


def _swatch(key: Key) -> Html:
    if key.kind == "line":
        style = f"border-top: {max(key.width, 1.5):g}px {key.dash} {key.colour}"
    elif key.kind == "bar":
        style = f"background: {key.colour}"
    else:
        style = f"border: 1.5px dashed {key.colour}"
    return element("i", class_=f"swatch {key.kind}", style=style)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> Html:
    """A table whose first `words` columns are words and the others numbers."""

    def cells(tag: str, row: Sequence[str]) -> Html:
        return element("tr", *(element(tag, c, class_="" if i < words else "n") for i, c in enumerate(row)))

    body = element("tbody", *(cells("td", row) for row in rows))
    return element("div", element("table", element("thead", cells("th", head)), body), class_="scroll", tabindex="0")


def details(summary: str, content: str, *, is_open: bool = False) -> Html:
    """Content behind a line that opens it."""
    inner = element("summary", summary), content
    return element("details", *inner, open="open") if is_open else element("details", *inner)


def page(title: str, content: str) -> str:
    """The whole document; its policy lets it load and run nothing."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{text(content)}\n</main>\n"
        "</body>\n</html>\n"
    )


# --- numbers ------------------------------------------------------------------------------------------------------


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number: present and finite."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 1) -> str:
    """A number with so many decimals, or the sign for an absent one."""
    if not is_known(value):
        return ABSENT
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(value: float | None) -> str:
    """A share in percent with one decimal, two digits below one percent.

    >>> percent(0.9437), percent(0.0042), percent(None)
    ('94.4 %', '0.42 %', '\u2013')
    """
    if not is_known(value):
        return ABSENT
    return f"{100 * value:.2g} %" if 0 < abs(value) < 0.00995 else f"{100 * value:.1f} %"


def short_percent(value: float) -> str:
    """A share in percent without a decimal that says nothing.

    >>> short_percent(0.79998), short_percent(0.125)
    ('80 %', '12.5 %')
    """
    return percent(value).replace(".0 %", " %")


def si_scale(value: float) -> tuple[float, str]:
    """The factor and prefix that bring a value below a thousand."""
    return next(((f, p) for f, p in _PREFIXES if abs(value) >= f), (1.0, ""))


def si(value: float | None, unit: str) -> str:
    """A quantity with its decimal prefix and three digits.

    >>> si(12_340_000, "B"), si(950, "B"), si(None, "B")
    ('12.3 MB', '950 B', '\u2013')
    """
    if not is_known(value):
        return ABSENT
    factor, prefix = si_scale(value)
    scaled = value / factor
    digits = 0 if not prefix or scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{digits}f} {prefix}{unit}"


def milliseconds(value: float | None) -> str:
    """A latency with the decimals that tell one step from another.

    >>> milliseconds(0.1012), milliseconds(4.2), milliseconds(12.57)
    ('0.101', '4.20', '12.6')
    """
    return number(value, 1 if not is_known(value) or value >= 9.995 else 2 if value >= 0.9995 else 3)


def duration(seconds: float) -> str:
    """A time span in the unit that fits.

    >>> duration(4.21), duration(75), duration(7325)
    ('4.2 s', '75.0 s', '2.0 h')
    """
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5997 else f"{seconds / 3600:.1f} h"


def flatten(value: object, prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and values in words."""
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: '""' if value == "" else str(value)}


_CSS = """
:root { --ink: #1f2a30; --soft: #5c6970; --line: #dfe4e1; --leaf: #1d6b4f; --ground: #f6f8f6; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
main { max-width: 1100px; margin: 0 auto; padding: 36px 24px 56px; }
header { border-left: 5px solid var(--leaf); padding-left: 20px; margin-bottom: 28px; }
header p { margin: 0; }
.eyebrow { color: var(--leaf); font-weight: 600; font-size: 14px; letter-spacing: .02em; }
h1 { font-size: 32px; line-height: 1.15; margin: 2px 0 10px; letter-spacing: -.01em; overflow-wrap: anywhere; }
header .summary { font-size: 18px; max-width: 76ch; overflow-wrap: anywhere; }
h2 { font-size: 21px; margin: 40px 0 12px; letter-spacing: -.005em; }
h3 { font-size: 15px; margin: 0 0 4px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: 12px; margin: 0; }
.tile, figure, .card { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 13px 16px 12px; }
.tile dt { color: var(--soft); font-size: 13px; }
.tile dd { margin: 0; font-size: 25px; line-height: 1.3; font-weight: 650; letter-spacing: -.015em;
  white-space: nowrap; }
.tile dd.aside { font-size: 13px; line-height: 1.4; font-weight: 400; color: var(--soft); letter-spacing: 0;
  white-space: normal; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 16px; }
.pair > figure { display: grid; grid-template-rows: subgrid; grid-row: span 4; }
.pair > :only-child { grid-column: 1 / -1; }
.stack > * { margin-top: 16px; } .stack > :first-child { margin-top: 0; }
figure { margin: 0; padding: 16px 18px 14px; min-width: 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif
  !important; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.canvas { overflow-x: auto; }
figcaption { color: var(--soft); font-size: 13.5px; line-height: 1.45; margin-top: 8px; max-width: 100ch; }
.keys { list-style: none; margin: 2px 0 6px; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 18px;
  align-content: start; font-size: 13.5px; }
.keys li { display: flex; align-items: center; gap: 7px; min-width: 0; overflow-wrap: anywhere; }
.swatch { display: inline-block; width: 24px; flex: none; }
.swatch.bar, .swatch.outline { width: 13px; height: 13px; border-radius: 2px; }
.card { padding: 16px 18px; }
.scroll { overflow: auto; max-height: 560px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: #fff; text-align: left; vertical-align: bottom; color: var(--soft);
  font-weight: 600; box-shadow: inset 0 -1px var(--line); }
th, td { padding: 5px 10px; }
th:first-child, td:first-child { padding-left: 2px; }
td { border-bottom: 1px solid #edf0ee; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
td:first-child { max-width: 34ch; overflow: hidden; text-overflow: ellipsis; }
.n { text-align: right; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 8px; }
.flag { color: #a03c00; font-weight: 600; }
details { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 10px 18px; }
details[open] { padding-bottom: 16px; }
summary { cursor: pointer; font-weight: 600; font-size: 15px; }
details > .scroll { margin-top: 8px; }
.settings td { white-space: normal; overflow-wrap: anywhere; }
.absent { color: var(--soft); font-size: 14px; margin-bottom: 0; overflow-wrap: anywhere; }
code { font-size: 13px; }
footer { color: var(--soft); font-size: 13.5px; margin-top: 40px; border-top: 1px solid var(--line);
  padding-top: 16px; }
footer ul { margin: 6px 0 0; padding-left: 20px; }
footer li + li { margin-top: 3px; }
@media screen and (max-width: 760px) {
  main { padding: 22px 14px 40px; }
  .pair { grid-template-columns: minmax(0, 1fr); }
  .pair > figure + figure { margin-top: 16px; }
  h1 { font-size: 26px; } header .summary { font-size: 16.5px; }
  .wide svg { min-width: 640px; }
}
@media print {
  @page { margin: 14mm; }
  body { background: #fff; font-size: 11pt; }
  main { max-width: none; padding: 0; }
  .scroll { max-height: none; overflow: visible; }
  .scroll table { font-size: 8pt; } th { position: static; } th, td { padding: 3px 4px; }
  tr, .tile { break-inside: avoid; } h2 { break-after: avoid; }
}
"""
