import io

import numpy as np
import pytest
import torch
from matplotlib.path import Path
from PIL import Image

from aeot.data import tensors
from aeot.plotting import images as pictures


def drawn(figure):
    """The pixels of a figure, as the file shows them."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return np.asarray(Image.open(stream).convert("RGB"))


def tiles_of(figure):
    """The arrays handed to imshow, one a block."""
    return [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]


def random_images(count, channels=1, size=6, seed=0):
    values = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    return 2 * values - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_lies_where_reading_order_puts_it(channels):
    images = random_images(7, channels)
    (mosaic,) = tiles_of(pictures.image_grid(images, columns=3))
    assert mosaic.shape == (3 * 7 - 1, 3 * 7 - 1, 3)
    for k, image in enumerate(images):
        top, left = 7 * (k // 3), 7 * (k % 3)
        expected = np.rint((image.numpy() + 1) * 127.5).transpose(1, 2, 0)
        shown = mosaic[top : top + 6, left : left + 6]
        assert np.array_equal(shown, np.broadcast_to(expected, shown.shape))
    assert (mosaic[14:, 7:] == 255).all(), "places without an image stay white"


def test_image_pixels_fall_on_whole_screen_pixels():
    images = random_images(4)
    shown = drawn(pictures.image_grid(images, columns=2, title="a caption"))
    scale = round(56 / 6)
    (mosaic,) = tiles_of(pictures.image_grid(images, columns=2))
    enlarged = mosaic.repeat(scale, axis=0).repeat(scale, axis=1)
    below = shown[-12 - len(enlarged) : -12, 12 : 12 + enlarged.shape[1]]
    assert np.array_equal(below, enlarged)
    assert (shown[:30] < 128).any(), "the caption is drawn"


def test_groups_wrap_into_rows():
    groups = {f"g{k}": torch.full((4, 1, 6, 6), k / 4) for k in range(5)}
    figure = pictures.side_by_side(groups, across=2)
    boxes = [axes.get_position() for axes in figure.axes]
    assert len({round(box.x0, 6) for box in boxes}) == 2
    assert len({round(box.y0, 6) for box in boxes}) == 3
    assert not any(
        a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
        for k, a in enumerate(boxes)
        for b in boxes[:k]
    )


def test_groups_stand_side_by_side_and_do_not_overlap():
    groups = {"real": random_images(9), "reconstructed": random_images(9, seed=1)}
    figure = pictures.side_by_side(groups)
    left, right = (axes.get_position() for axes in figure.axes)
    assert left.x1 < right.x0
    assert left.y0 == right.y0
    assert [text.get_text() for text in figure.texts] == ["real", "reconstructed"]


def test_the_nearest_image_stands_under_its_own():
    generated, nearest = random_images(5), random_images(5, seed=1)
    figure = pictures.nearest_images(generated, nearest, distances=[0.1, 0.4], columns=3)
    (mosaic,) = tiles_of(figure)
    gap, pair = 3, 6 + 1 + 6
    for k in range(5):
        top, left = (pair + gap) * (k // 3), (6 + gap) * (k % 3)
        cell = mosaic[top : top + pair, left : left + 6, 0]
        assert np.array_equal(cell[:6], np.rint((generated[k, 0].numpy() + 1) * 127.5))
        assert np.array_equal(cell[7:], np.rint((nearest[k, 0].numpy() + 1) * 127.5))
    assert "0.100 to 0.400" in figure.texts[0].get_text()


def test_curves_show_the_numbers_they_were_given():
    curves = {"training": ([0, 1, 2], [0.4, 0.2, 0.1]), "held out": ([1, 2], [0.3, 0.0])}
    figure = pictures.training_curves(curves, marks={"encoder frozen": 1})
    (axes,) = figure.axes
    assert axes.lines[0].get_ydata().tolist() == [0.4, 0.2, 0.1]
    assert axes.lines[1].get_xdata().tolist() == [1], "a logarithm shows no zero"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(curves)


def test_an_empty_curve_is_no_error():
    assert pictures.training_curves({"training": ([], [])}).axes


def test_points_are_drawn_on_common_axes():
    cloud = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    figure = pictures.point_clouds({"data": cloud, "generated": cloud + 1})
    first, second = figure.axes
    assert first.collections[0].get_offsets().tolist() == cloud.tolist()
    assert first.get_xlim() == second.get_xlim()


def test_the_figure_is_written(tmp_path):
    path = tmp_path / "grid.png"
    figure = pictures.image_grid(random_images(4), path=path)
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), drawn(figure))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pictures.image_grid(torch.zeros(4, 8, 8)), "images must have shape"),
        (lambda: pictures.image_grid(torch.zeros(0, 1, 8, 8)), "images must have shape"),
        (lambda: pictures.image_grid(torch.zeros(2, 2, 8, 8)), "1 or 3 channels"),
        (lambda: pictures.side_by_side({}), "groups must hold"),
        (lambda: pictures.point_clouds({}), "groups must hold"),
        (
            lambda: pictures.point_clouds({"codes": torch.zeros(3, 1)}),
            r"groups\['codes'\] must have at least",
        ),
        (
            lambda: pictures.nearest_images(torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8)),
            "nearest must have the shape",
        ),
    ],
)
def test_wrong_shapes_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_embedding_keeps_clusters_apart_and_outlines_modes():
    g = torch.Generator().manual_seed(0)
    kinds = torch.arange(60) % 3
    codes = torch.randn(60, 5, generator=g) + 30 * torch.eye(5)[kinds]
    figure = pictures.embedding(codes, kinds, modes=kinds, names=("a", "b", "c"))
    (axes,) = figure.axes
    places = [dots.get_offsets().data for dots in axes.collections]
    assert [len(p) for p in places] == [20, 20, 20]
    middles = np.stack([p.mean(0) for p in places])
    for k, p in enumerate(places):  # each point is nearest to the middle of its own
        assert (np.linalg.norm(p[:, None] - middles, axis=2).argmin(1) == k).all()
    assert len(axes.patches) == 3
    # Each outline has its corners among its mode's points, all of them inside, and no others.
    for k, outline in enumerate(axes.patches):
        corners = outline.get_xy()
        assert {*map(tuple, corners.tolist())} <= {*map(tuple, places[k].tolist())}
        for other, p in enumerate(places):
            wide = middles[k] + 1.001 * (corners - middles[k])  # corners themselves are inside
            assert Path(wide).contains_points(p).all() == (other == k)
            assert Path(wide).contains_points(p).any() == (other == k)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b", "c"]
    # Modes are not classes: here one has two classes, and one two rows, which is not outlined.
    modes = kinds.clamp(max=1)
    modes[[0, 3]] = 2
    (axes,) = pictures.embedding(codes, kinds, modes=modes).axes
    first, second = (Path(outline.get_xy()) for outline in axes.patches)
    a, b, c = (dots.get_offsets().data.mean(0) for dots in axes.collections)
    assert [first.contains_point(middle) for middle in (a, b, c)] == [True, False, False]
    assert second.contains_point((b + c) / 2)
    assert not second.contains_point(a)
    some = pictures.embedding(codes, kinds, most=30)
    assert sum(len(dots.get_offsets()) for dots in some.axes[0].collections) == 30


def test_images_and_data_sets_lie_where_their_pixels_as_vectors_do():
    images = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kinds = torch.arange(24) % 2
    data = tensors(images, kinds, classes=("even", "odd"))
    flat, stacked, named = (
        pictures.embedding(*given)
        for given in ((images.flatten(1), kinds), (images, kinds), (data,))
    )
    wanted = [dots.get_offsets().data for dots in flat.axes[0].collections]
    for figure in (stacked, named):
        for dots, places in zip(figure.axes[0].collections, wanted, strict=True):
            np.testing.assert_array_equal(dots.get_offsets().data, places)
    assert [text.get_text() for text in named.legends[0].get_texts()] == ["even", "odd"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"labels": [0] * 9}, "labels must be 10 whole numbers"),
        ({"modes": [0.5] * 10}, "modes must be 10 whole numbers"),
        ({"labels": [3] * 10, "names": ("a",)}, "names must name every class from 0 to 3"),
        ({"most": 2}, "most must be a whole number >= 4"),
    ],
)
def test_an_embedding_refuses_what_does_not_fit(options, told):
    with pytest.raises(ValueError, match=told):
        pictures.embedding(torch.randn(10, 3), **options)


@pytest.mark.parametrize(
    "names", [tuple("0123456789"), tuple(f"a longer name {k}" for k in range(10))]
)
def test_the_legend_of_an_embedding_stays_inside_the_figure(names):
    figure = pictures.embedding(torch.randn(40, 2), torch.arange(40) % 10, names=names)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
