import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from aeot.gan_diagnostics import steganography
from aeot.plotting import translation as pictures


class Negative:
    def translate(self, x, *, to):
        return -x


def test_rows_show_the_pixels_as_they_are(tmp_path):
    x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).expand(3, -1, -1, -1)
    pictures.image_rows({"x": x, "y": -x}, path=tmp_path / "x.png")
    drawn = np.array(Image.open(tmp_path / "x.png").convert("L"))
    zoom = 7  # 56 // 8
    for top, image in ((10, x[0, 0]), (10 + 8 * zoom + 2 * zoom, -x[0, 0])):
        block = drawn[top : top + 8 * zoom, 27 : 27 + 8 * zoom]  # one letter of label
        wanted = ((image + 1) * 127.5).round().numpy().repeat(zoom, 0).repeat(zoom, 1)
        assert np.abs(block - wanted).max() <= 1


@pytest.mark.parametrize("size", [8, 256])
def test_labels_stay_on_the_paper(size):
    x = torch.zeros(8, 1, size, size)
    figure = pictures.image_rows({"real A": x, "and back": x})
    canvas = FigureCanvasAgg(figure)
    for text in figure.texts:
        assert text.get_window_extent(canvas.get_renderer()).x0 >= 0, text.get_text()


def test_translations_and_snapshots(tmp_path):
    x = torch.rand(4, 3, 8, 8) * 2 - 1
    figure = pictures.translations(Negative(), x, x, names=("day", "night"))
    words = {text.get_text() for text in figure.texts}
    assert {"real day", "to night", "and back", "real night", "to day"} <= words
    step = pictures.snapshots(Negative(), x, None, tmp_path / "p", every=2)
    for k in range(1, 5):
        step(k, {})
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"step-000002.png", "step-000004.png"}


def test_hiding_draws_every_instrument():
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64) - 0.5
    report = steganography.examine(*steganography.cheating_pair(), x)
    figure = pictures.hiding({"cheat": report, "again": report})
    assert len(figure.axes) == 3
    assert len(figure.axes[0].patches) == 8


def test_bad_rows():
    with pytest.raises(ValueError, match="rows must hold batches"):
        pictures.image_rows({})
    with pytest.raises(ValueError, match="of one size"):
        pictures.image_rows({"a": torch.zeros(1, 1, 8, 8), "b": torch.zeros(2, 1, 8, 8)})
