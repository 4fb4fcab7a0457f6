"""What pages are put together from: sections, figures with their captions, and the sentence where there is none."""

from aggregator.report.drawing import Plot
from aggregator.report.page import Html, element, figure


def section(title: str, *content: str) -> Html:
    """A heading, and what stands below it."""
    return element("section", element("h2", title), element("div", *content, class_="stack"))


def missing(sentence: str) -> Html:
    """Why something is not there."""
    return element("p", sentence, class_="absent")


def show(title: str, plot: Plot, caption: str, *, is_wide: bool = False) -> Html:
    """A plot with title, caption and legend, over the whole width or in half of it."""
    shown = figure(title, plot.svg, caption, plot.keys)
    return element("div", shown, class_="wide") if is_wide else shown
