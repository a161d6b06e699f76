"""Small charts as SVG text: no script, colours from the page's own light and dark themes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

_WIDTH, _HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 46
GRAY = "kx"  # look of what is no contestant; "kx d1" and "kx d2" are dashed


@dataclass(frozen=True)
class Series:
    """One thing drawn: a "line", "bars" that stand on zero, or labelled "points"."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str = "line"
    look: str = ""  # by its place among the others


def look(k: int) -> str:
    """Return the look of the k-th of many: ten colours, four kinds of lines, points with rims."""
    return f"k{k % 10} d{(k + k // 10) % 4}" + " r1" * (k // 10 % 2)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers in [low, high], about `count` of them.

    Example:
        >>> ticks(0, 1)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= min((m for m in (1, 2, 5, 10) if m * step >= span / count), default=10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    log_y: bool = False,
) -> str:
    """Draw a chart with axes and a legend.

    Args:
        series: What to draw; values that are not finite (or, on a log axis, not positive) are
            left out.
        title: Heading, and what a screen reader says.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        x_range: Ends of the axis; None: those of the data.
        y_range: The same.
        log_y: Draw the vertical axis in powers of ten.

    Returns:
        A ``<figure>`` element. Every text in it is escaped.
    """
    kept = [_finite(s, log_y) for s in series]
    xs = [x for s in kept for x in s.x]
    ys = [math.log10(y) if log_y else y for s in kept for y in s.y]
    if not xs:
        return f'<figure class="chart"><figcaption>{escape(title)}: no data</figcaption></figure>'
    low_x, high_x = x_range or (min(xs), max(xs))
    if any(s.kind == "bars" for s in kept) and x_range is None:
        half = _bar_width(kept) / 2
        low_x, high_x = low_x - half, high_x + half
    low_y, high_y = y_range or (min(ys), max(ys))
    if y_range is None:
        low_y = 0.0 if not log_y and low_y >= 0 else low_y
        high_y += 0.05 * ((high_y - low_y) or 1.0)
    high_x = high_x if high_x > low_x else low_x + 1
    high_y = high_y if high_y > low_y else low_y + 1

    def across(x: float) -> float:
        return _LEFT + (x - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        y = math.log10(y) if log_y else y
        return _HEIGHT - _BOTTOM - (y - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_axes((low_x, high_x), (low_y, high_y), log_y, across, down),
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" class="mid">'
        f"{escape(x_label)}</text>",
        f'<text transform="translate(14 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'class="mid">{escape(y_label)}{", log scale" * log_y}</text>',
    ]
    looks = [one.look or look(k) for k, one in enumerate(kept)]
    for one, style in zip(kept, looks, strict=True):
        parts += _drawn(one, style, across, down, _bar_width(kept))
    legend = "".join(
        f"<span>{_key(one.kind, style)}{escape(one.name)}</span>"
        for one, style in zip(kept, looks, strict=True)
        if one.name
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _finite(series: Series, log_y: bool) -> Series:
    pairs = [
        (float(x), float(y))
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)
    ]
    xs, ys = ([p[k] for p in pairs] for k in range(2))
    return replace(series, x=xs, y=ys)


def _key(kind: str, style: str) -> str:
    if kind == "line":
        line = f'<line class="line {style}" x1="0" x2="26" y1="5" y2="5"/>'
        return f'<svg class="key-line" viewBox="0 0 26 10" aria-hidden="true">{line}</svg>'
    return f'<i class="key {style}"></i>'


def _bar_width(series: Sequence[Series]) -> float:
    xs = sorted({x for s in series if s.kind == "bars" for x in s.x})
    return min((b - a for a, b in zip(xs, xs[1:], strict=False)), default=1.0)


def _axes(x_range, y_range, log_y, across, down) -> list[str]:  # noqa: ANN001 - local closures
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    if log_y:
        powers = range(math.ceil(y_range[0] - 1e-9), math.floor(y_range[1] + 1e-9) + 1)
        marks = [10.0**p for p in powers]
        if len(marks) < 2:  # less than a decade: round numbers instead
            ends = [10.0**y for y in y_range]
            marks = [y for y in ticks(*ends) if ends[0] <= y <= ends[1]]
    else:
        marks = ticks(*y_range)
    for y in marks:
        at = f"{down(y):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at}" dy="4" class="end">{_text(y)}</text>')
    for x in ticks(*x_range):
        at = f"{across(x):.1f}"
        parts.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 17}" class="mid">{_text(x)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    return parts


def _drawn(one: Series, style: str, across, down, width) -> list[str]:  # noqa: ANN001
    places = [(across(x), down(y)) for x, y in zip(one.x, one.y, strict=True)]
    if one.kind == "bars":
        wide = 0.9 * (across(width) - across(0))
        bottom = _HEIGHT - _BOTTOM
        return [
            f'<rect class="bar {style}" x="{x - wide / 2:.1f}" y="{y:.1f}" width="{wide:.1f}" '
            f'height="{max(0.0, bottom - y):.1f}"><title>{_text(a)}: {_text(b)}</title></rect>'
            for (x, y), a, b in zip(places, one.x, one.y, strict=True)
        ]
    if one.kind == "points":
        return [
            f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="6">'
            f"<title>{escape(one.name)}: {_text(a)}, {_text(b)}</title></circle>"
            for (x, y), a, b in zip(places, one.x, one.y, strict=True)
        ]
    if len(places) == 1:
        (x, y) = places[0]
        return [f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>']
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return [f'<polyline class="line {style}" points="{path}"/>']


def _text(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, power = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else ("", "")
        if power:
            mantissa = "" if mantissa == "1" else f"{mantissa}·"
            return f"{mantissa}10{_raised(int(power))}"
    return f"{value:.6g}"


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
