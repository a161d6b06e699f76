"""Figures as SVG text for an HTML page, in the colours of its light or dark theme."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from aeot.plotting.style import ACCENT, COLOURS, GRAY, GRID, INK, LINE, SINGULAR

# colour of a figure -> the variable of the page's style sheet that stands for it
THEME = {
    "#000000": "--soft",
    "#ffffff": "--card",
    INK: "--ink",
    GRAY: "--soft",
    LINE: "--soft",
    GRID: "--edge",
    ACCENT: "--accent",
    SINGULAR: "--alarm",
    **{colour: f"--c{k}" for k, colour in enumerate(COLOURS)},
}


def svg(figure: Figure, *, label: str, key: str) -> str:
    """Write a figure as an ``<svg>`` element.

    The same figure gives the same bytes. Text stays text, in the page's font.

    Args:
        figure: Any; colours that are not in `THEME` stay as they are.
        label: What a screen reader says.
        key: Another one for every figure of a page: the ids in it begin with it.

    Returns:
        The element; whatever is written in the figure is escaped.

    Example:
        >>> from aeot.plotting.images import training_curves
        >>> svg(training_curves({"loss": ([1, 2], [0.2, 0.1])}), label="Loss", key="a")[:28]
        '<svg viewBox="0 0 345.6 230.'
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "aeot"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    used = set(re.findall(r'(?:href="|url\()#(\w+)', text.getvalue()))
    root = ElementTree.fromstring(text.getvalue())
    for child in list(root)[:2]:  # metadata and a style sheet, which would be the whole page's
        root.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        if "style" in attributes:
            attributes["style"] = _themed(attributes["style"])
        for name in ("id", "href", "clip-path"):
            if name in attributes:
                attributes[name] = re.sub(r"^(url\()?(#?)", rf"\1\2{key}-", attributes[name])
        for name in ("d", "x", "y", "transform"):
            if name in attributes:  # a hundredth of a point is finer than any screen
                value = re.sub(r"\d+\.\d{3,}", lambda x: f"{float(x[0]):.2f}", attributes[name])
                attributes[name] = " ".join(value.split())
        element.attrib = attributes
        if not (element.text or "").strip():
            element.text = None
        element.tail = None
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """Drop the namespace, which HTML does without."""
    return name.rpartition("}")[2]


def _themed(style: str) -> str:
    style = re.sub(r"font-family: [^;]*(; )?", "", style)
    return re.sub(
        r"#[0-9a-f]{6}", lambda c: f"var({THEME[c[0]]})" if c[0] in THEME else c[0], style
    )
