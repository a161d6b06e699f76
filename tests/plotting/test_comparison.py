import io

import numpy as np
import pytest
import torch

from aeot.comparison.result import Comparison
from aeot.plotting import comparison as pictures


def row(model, kind, f8, f1_8, error=None):
    values = {"f8": f8, "f1_8": f1_8}
    table = {k: {"mean": v, "error": error, "values": [v]} for k, v in values.items()}
    curve = {"precision": [0, f1_8, 1], "recall": [1, f8, 0]}
    return {"model": model, "kind": kind, "metrics": table, "facts": {}, "curve": curve}


@pytest.fixture
def found():
    rows = [
        row("real", "real", 0.98, 0.97),
        row("a", "GAN", 0.8, 0.9, 0.01),
        row("b", "VAE", 0.6, 0.7),
    ]
    shown = {"a": torch.full((64, 1, 6, 6), 200, dtype=torch.uint8)}
    return Comparison(rows, {"features": {}}, {}, shown, shown)


def test_points_lie_at_recall_and_precision(found, tmp_path):
    axes = pictures.precision_recall(found, path=tmp_path / "p.png").axes[0]
    places = {c.get_label(): c.lines[0].get_xydata()[0] for c in axes.containers}
    np.testing.assert_allclose(places["a"], [0.8, 0.9])
    np.testing.assert_allclose(places["b"], [0.6, 0.7])
    assert axes.containers[0].lines[0].get_marker() == "s"  # the baseline
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_curves_are_those_of_the_rows(found):
    axes = pictures.prd_curves(found).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(lines["b"], [[1, 0], [0.6, 0.7], [0, 1]])


def test_forty_rows_look_different_and_alike_in_both_figures_and_are_named(found):
    names = ["real", "_hidden", "a$b$", *(f"m{k}" for k in range(38))]
    rows = [row(name, "real" if name == "real" else "GAN", 0.5, 0.5) for name in names]
    many = Comparison(rows, {"features": {}}, {})
    curves, dots = pictures.prd_curves(many), pictures.precision_recall(many)
    lines = curves.axes[0].lines
    looks = {line.get_label(): (line.get_color(), str(line._dash_pattern)) for line in lines}
    assert len(set(looks.values())) == 41
    marks = {c.get_label(): c.lines[0] for c in dots.axes[0].containers}
    assert {n: m.get_color() for n, m in marks.items()} == {n: look[0] for n, look in looks.items()}
    assert len({(m.get_color(), m.get_marker()) for m in marks.values()}) == 41
    for figure in (curves, dots):
        assert [text.get_text() for text in figure.legends[0].get_texts()] == names
        figure.savefig(io.BytesIO())  # dollars are no mathematics
        assert figure.axes[0].get_position().height > 0.2  # the names leave room


def test_samples_are_drawn_with_their_very_pixels(found):
    figure = pictures.sample_rows(found, columns=4, rows=2)
    block = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert 200 in block
    assert set(np.unique(block)) <= {200, 255}  # and the gaps


def test_what_is_missing_is_said(found):
    bare = Comparison([{**found.rows[0], "metrics": {}, "curve": {}}], {"features": {}}, {})
    with pytest.raises(ValueError, match="found must hold f8 and f1_8"):
        pictures.precision_recall(bare)
    with pytest.raises(ValueError, match="found must hold PRD curves"):
        pictures.prd_curves(bare)
    with pytest.raises(ValueError, match="models must be one of 'a'"):
        pictures.sample_rows(found, models=["nobody"])
