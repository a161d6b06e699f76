"""Figures as part of a page: to scale, themed, escaped, the same bytes each time."""

import re
from importlib import resources

import pytest
from matplotlib.figure import Figure

from aeot.plotting import style
from aeot.plotting.images import training_curves
from aeot.plotting.svg import THEME, svg


def curve(ys=(1, 10, 1000), name="loss"):
    return training_curves({name: (range(len(ys)), ys)}, marks={"mark": 1})


def drawn(figure, key="k"):
    return svg(figure, label="a chart", key=key)


def test_a_line_is_drawn_to_scale():
    text = drawn(curve())
    path = re.search(
        r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: var\(--c0', text
    )
    numbers = [float(number) for number in re.findall(r"[\d.]+", path[1])]
    (x0, x1, x2), (y0, y1, y2) = numbers[::2], numbers[1::2]
    assert x2 - x1 == pytest.approx(x1 - x0, abs=0.02)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(1 / 3, abs=1e-3)
    assert y2 < y0  # up is up


def test_the_same_figure_gives_the_same_bytes_and_another_key_other_ids():
    assert drawn(curve()) == drawn(curve())
    ids = [set(re.findall(r' id="([^"]*)"', drawn(curve(), key))) for key in "kl"]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_every_colour_is_one_of_the_theme():
    text = drawn(curve())
    assert not re.search(r'style="[^"]*#[0-9a-fA-F]{3}', text)
    style = resources.files("aeot.report").joinpath("page.css").read_text()
    for variable in THEME.values():
        assert style.count(f"{variable}: #") == 3  # light, dark by the system, dark by choice


def test_whatever_is_written_is_escaped_and_nothing_is_lost():
    evil = '<script>alert(1)</script>"& id="x" #ffffff $'
    figure = curve(name=evil)
    text = svg(figure, label=evil, key="k")
    assert "<script" not in text
    assert 'aria-label="&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp; id=&quot;x' in text
    assert '&lt;script&gt;alert(1)&lt;/script&gt;"&amp; id="x" #ffffff $<' in text


def test_text_has_the_font_of_the_page_and_no_rule_reaches_out_of_the_figure():
    text = drawn(curve())
    assert ">training step</text>" in text
    assert "font-size: 10px" in text
    assert "font-family" not in text
    assert "<style" not in text


def test_an_empty_figure_is_drawn():
    assert drawn(Figure()).startswith('<svg viewBox="0 0 ')


def test_every_reference_leads_to_an_id_of_its_own_figure():
    text = svg(training_curves({"loss": (range(3), (1, 10, 1000))}), label="a", key="k")
    ids = set(re.findall(r' id="([^"]*)"', text))
    used = set(re.findall(r'(?:href="|url\()#([^")]*)', text))
    assert used
    assert used == ids


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("INK", "ink"),
        ("GRID", "edge"),
        ("GRAY", "soft"),
        ("LINE", "soft"),
        ("ACCENT", "accent"),
        ("SINGULAR", "alarm"),
    ],
)
def test_each_colour_becomes_its_variable(name, variable):
    figure = Figure()
    figure.add_subplot().plot([0, 1], [0, 1], color=getattr(style, name), gid="line")
    text = svg(figure, label="a", key="k")
    strokes = re.findall(r'style="fill: none; stroke: var\(--(\w+)\); stroke-width: 1\.5', text)
    assert strokes == [variable]
