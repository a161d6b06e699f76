import math
import re
from pathlib import Path

import pytest

from aeot.report import charts
from aeot.report.charts import Series, chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (3e5, 7e5, [3e5, 4e5, 5e5, 6e5, 7e5]),
        (0.0123, 0.0127, [0.0123, 0.0124, 0.0125, 0.0126, 0.0127]),
    ],
)
def test_ticks_are_round_and_inside(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def points(svg):
    text = re.search(r'<polyline class="line k0 d0" points="([^"]*)"', svg)[1]
    return [tuple(float(v) for v in pair.split(",")) for pair in text.split()]


def test_a_line_is_drawn_to_scale():
    svg = chart([Series("", [0, 1, 4], [0, 5, 10])], title="t", x_label="x", y_label="y")
    (x0, y0), (x1, y1), (x2, y2) = points(svg)
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 4, abs=1e-3)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(1 / 2, abs=1e-3)
    assert y2 < y0  # up is up


def test_a_logarithmic_line_is_drawn_to_scale_and_leaves_out_what_has_no_logarithm():
    series = Series("", [0, 1, 2, 3, 4], [1, 10, 1000, 0, math.nan])
    svg = chart([series], title="t", x_label="x", y_label="y", log_y=True)
    (_, y0), (_, y1), (_, y2) = points(svg)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(1 / 3, abs=1e-3)


def test_bars_stand_on_zero_and_are_proportional():
    svg = chart([Series("", [1, 2], [3, 6], "bars")], title="t", x_label="x", y_label="y")
    bars = re.findall(r'<rect [^>]* y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg)
    (y1, h1), (y2, h2) = [(float(a), float(b)) for a, b in bars]
    assert h2 == pytest.approx(2 * h1, abs=0.3)
    assert y1 + h1 == pytest.approx(y2 + h2, abs=0.2)


def test_every_text_is_escaped():
    evil = '<script>"&'
    series = Series(evil, [0, 1], [0, 1], "points")
    svg = chart([series], title=evil, x_label=evil, y_label=evil)
    assert "<script" not in svg
    assert svg.count("&lt;script&gt;&quot;&amp;") >= 5


def test_forty_lines_look_different_and_the_legend_shows_how():
    series = [Series(f"s{k}", [0, 1], [k, k]) for k in range(40)]
    svg = chart(series, title="t", x_label="x", y_label="y", log_y=False)
    drawn = re.findall(r'<polyline class="line ([^"]*)"', svg)
    assert len(set(drawn)) == 40
    keys = re.findall(r'<line class="line ([^"]*)"[^>]*/></svg>(s\d+)<', svg)
    assert keys == [(look, f"s{k}") for k, look in enumerate(drawn)]
    css = (Path(charts.__file__).parent / "page.css").read_text()
    for name in {part for look in drawn for part in look.split()} - {"d0", "r1"}:
        assert f".line.{name} {{" in css


def test_a_logarithmic_axis_says_so():
    series = [Series("", [0, 1], [1, 100])]
    assert ">mass, log scale<" in chart(series, title="t", x_label="x", y_label="mass", log_y=True)
    assert ">mass<" in chart(series, title="t", x_label="x", y_label="mass")


@pytest.mark.parametrize("values", [([], []), ([1], [2]), ([1, 1], [2, 2]), ([1], [math.inf])])
def test_little_data_draws_without_failing(values):
    svg = chart([Series("a", *values)], title="t", x_label="x", y_label="y")
    assert svg.startswith('<figure class="chart">')
    assert "nan" not in svg
    assert "inf" not in svg
