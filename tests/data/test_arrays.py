from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import aeot
from aeot import data as data_module
from aeot.data import distinct, gray_colour, indices, low_high, resize, tensors, toy


def take(batches, count):
    return list(islice(batches, count))


# -- Dataset and tensors


def test_indexing_gives_floats_between_minus_one_and_one():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    data = aeot.tensors(pixels, labels=[3])
    assert data.shape == (1, 16, 16)
    row = data[0]
    assert row.dtype == torch.float32
    np.testing.assert_allclose(row.flatten().numpy(), np.arange(256) / 127.5 - 1, atol=1e-6)
    assert torch.equal(aeot.to_uint8(data[torch.tensor([0])]), pixels)
    assert torch.equal(data.values, pixels)  # indexing must not write into the store


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 9), (9,)), ((5, 8, 6), (1, 8, 6)), ((5, 3, 8, 6), (3, 8, 6)), ((5, 8, 6, 3), (3, 8, 6))],
)
def test_shapes_become_channels_first(shape, expected):
    array = np.random.default_rng(0).uniform(-1, 1, shape)
    data = aeot.tensors(array)
    assert data.shape == expected
    if len(shape) == 4 and shape[-1] == 3:
        np.testing.assert_allclose(data[2].numpy(), array[2].transpose(2, 0, 1), atol=1e-6)


def test_value_range_maps_black_and_white():
    array = torch.tensor([0.0, 0.5, 1.0, 1.0]).reshape(1, 2, 2)
    assert aeot.tensors(array, value_range=(0, 1))[0].flatten().tolist() == [-1, 0, 1, 1]
    with pytest.warns(UserWarning, match="value_range"):
        aeot.tensors(array)
    with pytest.raises(ValueError, match=r"array must lie in .* value_range"):
        aeot.tensors(array * 255)


@pytest.mark.parametrize(
    "value_range",
    [
        (0, 1e-320),  # 2 / width overflows
        (0, 1e-310),
        (-1e308, 1e308),  # the width does
        (0, 0),
        (1, -1),
        (0, np.nan),
        (-np.inf, 0),
        (0, np.inf),
        (0, 0.5, 1),
        (0,),
        1,
        None,
        "01",
        ("0", "1"),
        np.zeros((2, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.uint8, bool])
def test_a_value_range_without_a_width_is_refused(value_range, dtype):
    message = "^value_range must be two finite numbers, black below white, got .*; pass"
    with pytest.raises(ValueError, match=message):
        aeot.tensors(np.zeros((2, 4, 4), dtype), value_range=value_range)


@pytest.mark.parametrize(
    ("black", "white"),
    [(0, 1e-300), (0, 1e-40), (1e9, 1e9 + 1), (-3e38, 3e38), (-8e307, 8e307), (0, 65535), (7, 9)],
)
def test_any_other_range_brings_values_to_unit_size(black, white):
    array = np.array([[[black, black / 2 + white / 2, white]]])
    np.testing.assert_allclose(
        aeot.tensors(array, value_range=(black, white))[0].flatten(), [-1, 0, 1], atol=1e-6
    )


def test_values_a_rounding_unit_outside_are_white_or_black():
    above = np.nextafter(np.float32(1), np.float32(2))
    array = np.array([[[-1e-7, above, 1.0004]]], np.float32)
    assert aeot.tensors(array, value_range=(0, 1))[0].flatten().tolist() == [-1, 1, 1]
    assert aeot.tensors(-array)[0].flatten().tolist()[1:] == [-1, -1]
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got values from 0 to 1.002; say"):
        aeot.tensors(array * 0 + np.float32(1.002) * (array > 1), value_range=(0, 1))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.int64])
def test_integers_need_their_white(dtype):
    array = np.array([[[0, 16448, 32767]]], dtype)
    with pytest.raises(
        ValueError, match=r"array must lie in \[-1, 1\], .* to 32767; .*value_range="
    ):
        aeot.tensors(array)
    wanted = [-1, 2 * 16448 / 32767 - 1, 1]
    found = aeot.tensors(array, value_range=(0, 32767))[0].flatten()
    np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_truth_values_are_black_and_white():
    mask = np.array([[[False, True], [True, False]]])
    for array in (mask, torch.as_tensor(mask), list(mask)):
        assert aeot.tensors(array)[0].flatten().tolist() == [-1, 1, 1, -1]
    assert aeot.tensors(mask[0]).values.tolist() == [[0, 1], [1, 0]]  # vectors stay numbers


def test_bytes_in_a_list_are_bytes():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    for array in (list(images), tuple(images), list(torch.as_tensor(images))):
        assert torch.equal(aeot.tensors(array).values[:, 0], torch.as_tensor(images))


def test_bytes_have_another_white_if_told():
    mask = np.array([[[0, 1]]], np.uint8)
    assert aeot.tensors(mask, value_range=(0, 1))[0].flatten().tolist() == [-1, 1]
    assert aeot.tensors(mask, value_range=(0, 255)).values.flatten().tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"array must lie in \[0, 1\], got values from 0 to 200"):
        aeot.tensors(mask * 200, value_range=(0, 1))


def test_bytes_with_masked_or_missing_entries_are_refused():
    masked = np.ma.array(np.zeros((2, 4, 4), np.uint8), mask=np.eye(4)[None].repeat(2, 0) > 0)
    with pytest.raises(ValueError, match="array must have no masked entries, got 8"):
        aeot.tensors(masked)
    with pytest.raises(ValueError, match="array must be a dense array"):
        aeot.tensors(torch.zeros(2, 4, 4, dtype=torch.uint8).to_sparse())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_named(value):
    array = np.zeros((2, 4, 4))
    array[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"array must be finite, got 1 .* index \(1, 2, 3\)"):
        aeot.tensors(array)


def test_one_coloured_image_alone_is_doubted():
    with pytest.warns(UserWarning, match=r"\(8, 9, 3\) is read as 8 gray images of 9 x 3"):
        assert aeot.tensors(np.zeros((8, 9, 3), np.uint8)).shape == (1, 9, 3)
    assert aeot.tensors(np.zeros((8, 9, 3), np.uint8)[None]).shape == (3, 8, 9)


def test_classes_name_every_label():
    with pytest.raises(ValueError, match="classes must name every label from 0 to 2, got 2 names"):
        aeot.tensors(torch.zeros(2, 3), [0, 2], classes=("a", "b"))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (torch.zeros(4), "shape"),
        (torch.zeros(4, 2, 8, 8), "channels"),
        (torch.zeros(0, 8, 8), "shape"),
        (torch.full((2, 3), torch.nan), "NaN"),
        ("text", "rows, not where they lie"),
    ],
)
def test_bad_arrays_are_named(array, words):
    with pytest.raises(ValueError, match=f"^array must.*{words}"):
        aeot.tensors(array)
    with pytest.raises(ValueError, match=f"^data must.*{words}"):
        aeot.GAN().fit(array, steps=1)


def test_a_list_of_images_is_stacked():
    images = 2 * torch.rand(3, 8, 8) - 1
    assert torch.equal(aeot.tensors(list(images)).values, aeot.tensors(images).values)
    assert torch.equal(aeot.tensors(list(images.numpy())).values, aeot.tensors(images).values)
    with pytest.raises(ValueError, match="array must be a numeric array, got list .*equal size"):
        aeot.tensors([torch.zeros(8, 8), torch.zeros(9, 9)])


def test_arrays_of_every_make_are_taken():
    array = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8)
    labels = np.array([0, 1, 2, 3], np.uint16)
    data = aeot.tensors(array[..., ::-1], labels[::-1])  # blue first, and the last label first
    assert torch.equal(data.values[:, 0], torch.from_numpy(array[..., 2].copy()))
    assert data.labels.tolist() == [3, 2, 1, 0]
    grown = aeot.tensors(torch.randn(3, 2, requires_grad=True))
    assert aeot.GAN(latent_dim=2, hidden=4, batch_size=2).fit(grown, steps=1).history_
    with pytest.raises(ValueError, match=r"array must hold values below 3.4e38 .* got 1e\+300"):
        aeot.tensors(np.array([[1e300, 0.0], [1.0, 2.0]]))


@pytest.mark.parametrize("labels", [[0.5, 1.0], [0], [0, -1], ["a", None], [[0], [1]]])
def test_bad_labels_are_named(labels):
    with pytest.raises(ValueError, match="labels must be (2 )?whole numbers"):
        aeot.tensors(torch.zeros(2, 3), labels)


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, pd.Series, partial(np.array, dtype=object)]
)
def test_classes_may_be_named_where_the_rows_are(kind):
    named = kind(["dog", "cat", "dog"])
    data = aeot.tensors(torch.zeros(3, 2), named)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [1, 0, 1]
    ordered = aeot.tensors(torch.zeros(3, 2), named, classes=["dog", "fox", "cat"])
    assert ordered.classes == ("dog", "fox", "cat")
    assert ordered.labels.tolist() == [0, 2, 0]
    must = r"labels must be names of classes=\['dog', 'cats'\], got 'cat'; did you mean 'cats'"
    with pytest.raises(ValueError, match=must.replace(r"\[", r"[\[(]").replace(r"\]", r"[\])]")):
        aeot.tensors(torch.zeros(3, 2), named, classes=["dog", "cats"])


def test_subset_keeps_labels_together():
    data = aeot.tensors(torch.arange(6.0)[:, None], [0, 1, 2, 0, 1, 2])
    part = data.subset(torch.tensor([5, 1]))
    assert part.values.flatten().tolist() == [5, 1]
    assert part.labels.tolist() == [2, 1]


# -- batches


def test_every_row_comes_once_an_epoch_even_when_batches_straddle():
    drawn = torch.cat(take(indices(7, 3, seed=4), 14))  # 42 = 6 epochs
    for epoch in drawn.reshape(6, 7):
        assert sorted(epoch.tolist()) == list(range(7))
    assert not torch.equal(drawn[:7], drawn[7:14])


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_a_batch_depends_on_its_number_alone(batch_size):
    straight = take(indices(10, batch_size, seed=1), 9)
    for k in range(9):
        assert torch.equal(next(indices(10, batch_size, seed=1, start=k)), straight[k])
    assert not torch.equal(torch.cat(straight), torch.cat(take(indices(10, batch_size, seed=2), 9)))


def test_paired_rows_stay_together_and_unpaired_ones_do_not():
    a, b = torch.arange(20.0)[:, None], torch.arange(20.0)[:, None] + 100
    for x, y in take(aeot.loader(aeot.paired(a, b), 6), 5):
        assert torch.equal(y, x + 100)
    batches = take(aeot.loader(aeot.unpaired(a, b[:7]), 7), 2)
    assert sorted(batches[0][1].flatten().tolist()) == [100 + i for i in range(7)]
    assert any(not torch.equal(x + 100, y) for x, y in batches)


def test_domains_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"b must have rows of shape \(3,\)"):
        aeot.unpaired(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="b must have 2 rows"):
        aeot.paired(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(TypeError, match="unpaired"):
        aeot.unpaired(torch.zeros(2, 3), torch.zeros(2, 3))[0]
    with pytest.raises(ValueError, match="b must be given"):
        aeot.paired(torch.zeros(2, 3))


def test_kinds_agree_with_a_brute_force_comparison():
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.float32, np.int64):
        rows = torch.from_numpy(rng.integers(0, 3, (60, 2, 2)).astype(dtype))
        first, kind = distinct(rows)
        equal = (rows[:, None] == rows[None]).flatten(2).all(2)
        assert torch.equal(kind[:, None] == kind[None], equal)
        assert first.tolist() == sorted({int(row.nonzero()[0]) for row in equal})
        assert torch.equal(rows[first][kind], rows)


def test_one_row_and_all_equal_rows():
    assert distinct(torch.zeros(1, 3))[0].tolist() == [0]
    first, kind = distinct(torch.zeros(5, 3))
    assert (first.tolist(), kind.tolist()) == ([0], [0] * 5)


# -- resizing


def test_resize_is_antialiased_and_crops_the_centre():
    stripes = torch.zeros(1, 1, 64, 96, dtype=torch.uint8)
    stripes[..., ::2] = 255  # one pixel wide: only an antialiased reduction gives gray
    small = resize(stripes, 16).float()[..., 2:-2]  # the kernel is cut off at the border
    assert small.sub(127.5).abs().max() < 1
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60), np.uint8))
    expected = np.asarray(picture.resize((20, 20), Image.Resampling.BICUBIC)).astype(float)
    ours = resize(torch.from_numpy(np.array(picture))[None, None], 20)[0, 0].numpy()
    assert np.abs(ours - expected).max() <= 1.01  # Pillow rounds between its two passes
    wide = torch.zeros(1, 1, 10, 30, dtype=torch.uint8)
    wide[..., 10:20] = 200
    assert bool((resize(wide, 10) == 200).all())


# -- named sets


def test_digits_split_is_stratified_and_complete():
    train, test = aeot.dataset("digits"), aeot.dataset("digits", split="test", size=32)
    assert len(train) + len(test) == 1797
    assert test.shape == (1, 32, 32)
    share = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert bool((share.sub(0.2).abs() < 0.01).all())
    seen = {row.numpy().tobytes() for row in aeot.dataset("digits", size=8).values}
    assert not any(
        row.numpy().tobytes() in seen for row in aeot.dataset("digits", split="test", size=8).values
    )
    assert train.values[:, :, :2].max() == 0  # the margin


def test_bad_names_are_answered_with_the_options(tmp_path):
    with pytest.raises(ValueError, match="'digits', 'mnist'"):
        aeot.dataset("imagenet")
    with pytest.raises(ValueError, match="split must be one of 'train', 'test'"):
        aeot.dataset("digits", split="validation")
    with pytest.raises(ValueError, match="root must be a folder"):
        aeot.dataset("mnist", tmp_path / "nowhere")


# -- toy sets


@pytest.mark.parametrize(
    ("name", "scaling", "modes", "reach", "std"),
    [
        ("grid", "raw", 25, 4 * 2**0.5, 0.05),
        ("grid", "wgan-gp", 25, 4 * 2**0.5 / 2.828, 0.05 / 2.828),
        ("ring", "raw", 8, 1.0, 0.01),
        ("ring", "wgan-gp", 8, 2 / 1.414, 0.02 / 1.414),
    ],
)
def test_toys_have_the_published_moments(name, scaling, modes, reach, std):
    data = toy(name, 40_000, scaling=scaling, seed=1)
    centres = data.info["modes"]
    assert len(centres) == modes
    assert float(centres.norm(dim=1).max()) == pytest.approx(reach)
    assert data.info["std"] == pytest.approx(std)
    residual = data.values.double() - centres[data.labels]
    # 80 000 normal numbers: the relative standard error of their deviation is 1 / 400
    assert float(residual.std()) == pytest.approx(std, rel=0.01)
    assert float(residual.mean()) == pytest.approx(0, abs=5 * std / 280)
    assert data.labels.bincount().tolist() == [40_000 // modes] * modes
    assert torch.cdist(data.values.double()[:500], centres).argmin(1).equal(data.labels[:500])


def test_toys_are_balanced_only_when_asked_and_repeat_with_the_seed():
    for name in ("ring", "lines"):
        assert len(set(toy(name, 1000, balanced=False).labels.bincount().tolist())) > 1
    for name in ("grid", "islands"):
        assert torch.equal(toy(name, 100, seed=3).values, toy(name, 100, seed=3).values)
        assert not torch.equal(toy(name, 100, seed=3).values, toy(name, 100, seed=4).values)


@pytest.mark.parametrize(
    ("name", "middle", "sides", "variance"),
    [("lines", 1.0, (0.0, 2.0), 2 / 3), ("islands", 1.5, (1.0, 1.0), 29 / 24)],
)
@pytest.mark.parametrize("scaling", ["raw", "wgan-gp"])
def test_lines_and_islands_fill_their_supports_evenly(name, middle, sides, variance, scaling):
    data = toy(name, 20_000, scaling=scaling, seed=1)
    scale = 1.0 if scaling == "raw" else variance**-0.5
    assert data.info["scale"] == pytest.approx(scale)
    assert data.labels.bincount().tolist() == [10_000, 10_000]
    assert data.classes == ("left", "right")
    values = data.values.double() / scale
    for label, sign in ((0, -1), (1, 1)):
        part = values[data.labels == label].numpy()
        centre, half = np.array([sign * middle, 0.0]), np.array(sides) / 2
        np.testing.assert_allclose(data.info["low"][label] / scale, centre - half)
        np.testing.assert_allclose(data.info["high"][label] / scale, centre + half)
        # 10 000 uniform points leave at most a thousandth of a side free, and never leave it.
        np.testing.assert_allclose(part.min(0), centre - half, atol=2e-3)
        np.testing.assert_allclose(part.max(0), centre + half, atol=2e-3)
        assert (np.abs(part - centre) <= half + 1e-6).all()
        # Uniform: the variance of an axis is side^2 / 12.
        np.testing.assert_allclose(part.var(0), np.array(sides) ** 2 / 12, rtol=0.03, atol=1e-12)
        if all(sides):
            assert abs(np.corrcoef(part.T)[0, 1]) < 0.04  # four standard errors
    if scaling == "wgan-gp":
        assert float(data.values.var(0).mean()) == pytest.approx(1, rel=0.02)


def test_letters_are_filled_evenly_and_keep_their_holes():
    data = toy("letters", 40_000, seed=1)
    assert data.classes == tuple("aeot")
    assert data.labels.bincount().tolist() == [10_000] * 4
    place = data.values.double() - torch.tensor([1.45, 0.0]) * data.labels[:, None]
    o = place[data.labels == 2] - 0.5
    radius = o.norm(dim=1)
    assert 0.3 <= float(radius.min()) < 0.305
    assert 0.495 < float(radius.max()) <= 0.5
    # Uniform in a ring: the mean of the squared radius is that of the two squared radii.
    assert float(radius.square().mean()) == pytest.approx((0.3**2 + 0.5**2) / 2, rel=0.01)
    x, y = place[data.labels == 1].T
    assert not ((x > 0.5) & (y > 0.23) & (y < 0.4)).any()  # the mouth of the e
    assert float(place[data.labels == 3].max()) == pytest.approx(1.25, abs=0.01)
    with pytest.raises(ValueError, match="scaling must be one of 'raw'"):
        toy("letters", 10, scaling="wgan-gp")


def test_the_roll_has_scikit_learns_shape():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.make_swiss_roll(20_000, noise=0.25, random_state=0)[0][:, [0, 2]] / 7.5
    ours = toy("swissroll", 20_000, scaling="wgan-gp").values.numpy()
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), atol=0.05)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.05)
    radius = np.linalg.norm(ours, axis=1)
    assert 1.5 * np.pi / 7.5 * 0.8 < radius.min() < radius.max() < 4.5 * np.pi / 7.5 * 1.1


def test_the_module_offers_what_it_lists():
    for name in data_module.__all__:
        assert callable(getattr(data_module, name))


def test_printed_data_says_what_it_is():
    images = torch.zeros(3, 1, 4, 5, dtype=torch.uint8)
    images[1, 0, 2, 2] = 200
    told = "images of shape (1, 4, 5), uint8 from 0 to 200"
    plain = aeot.tensors(images, name="dots")
    assert repr(plain) == f"Dataset('dots': 3 {told})"
    named = aeot.tensors(images, [0, 2, 0], classes=("a", "b", "c"), name="dots")
    assert repr(named) == f"Dataset('dots': 3 {told}, 3 classes)"
    assert repr(named.subset([])).startswith("Dataset('dots': 0 images of shape")
    both = aeot.unpaired(plain, named)
    assert repr(both) == f"Domains(a={plain!r}, b={named!r}, paired=False)"


@pytest.mark.parametrize("offset", [1_700_000_000, 1_700_000_000.0])
def test_vectors_that_float32_would_merge_are_refused(offset):
    times = [[offset], [offset + 7], [offset + 21]]
    with pytest.raises(ValueError, match=r"array must keep its differences in float32.*mean\(0\)"):
        aeot.tensors(times)
    kept = aeot.tensors(np.array(times) - np.mean(times, 0))
    assert torch.allclose(kept.values.diff(dim=0)[:, 0], torch.tensor([7.0, 14.0]))


@pytest.mark.parametrize(
    "rows", [[[0.1], [0.1]], [[2**24], [2**24 - 1]], [[1e9, 0], [0, 1e9]], [[0.1, 1], [0.1, 2]]]
)
def test_vectors_that_float32_keeps_apart_are_taken(rows):
    values = aeot.tensors(rows).values
    assert torch.equal(values, torch.tensor(rows, dtype=torch.float64).float())


def test_low_resolution_is_the_mean_of_blocks_and_interpolates_them():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 16, 16, generator=g) * 2 - 1
    both = low_high(tensors(x, labels=[0, 1, 1]), 4)
    assert both.paired
    assert torch.equal(both.b[:], x)
    low = both.a[:]
    assert both.a.labels.tolist() == [0, 1, 1]
    small = x.view(3, 1, 4, 4, 4, 4).mean((3, 5))
    wanted = torch.nn.functional.interpolate(small, (16, 16), mode="bicubic").clamp(-1, 1)
    torch.testing.assert_close(low, wanted)
    assert float((low - x).square().mean()) > 0.1  # the detail is gone
    tiny = low_high(x, 4, enlarge=False)
    torch.testing.assert_close(tiny.a[:], small)
    assert torch.equal(tiny.b[:], x)
    for data, factor, told in [
        (x, 3, "factor must divide the sides of the images, 16 x 16"),
        (torch.zeros(2, 5), 2, "data must hold images"),
        (x, 1, "factor must be a whole number >= 2"),
    ]:
        with pytest.raises(ValueError, match=told):
            low_high(data, factor)


def test_gray_images_are_those_of_pillow_and_their_pairs_keep_the_colour():
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 3, 4, 6), generator=g, dtype=torch.uint8)
    both = gray_colour(tensors(pixels, labels=[0, 1, 2, 0, 1]))
    assert both.paired
    assert torch.equal(both.b.values, pixels)
    assert both.a.labels.tolist() == [0, 1, 2, 0, 1]
    for image, gray in zip(pixels, both.a[:], strict=True):
        wanted = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        np.testing.assert_allclose((gray[0] + 1) * 127.5, wanted, atol=0.51)  # Pillow rounds
    edges = gray_colour(torch.ones(2, 3, 4, 4) * torch.tensor([-1, 1])[:, None, None, None]).a[:]
    assert edges.aminmax() == (-1, 1)  # the three weights add to one, up to rounding
    for data in (torch.zeros(2, 1, 4, 4), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="data must hold images in colour"):
            gray_colour(data)


@pytest.mark.parametrize("place", ["faces/", Path("faces")])
def test_a_path_in_place_of_rows_is_told_what_reads_it(place):
    for call in (aeot.tensors, aeot.AEOT().fit):
        with pytest.raises(ValueError, match=r"rows, not where they lie, .*aeot\.images\(folder\)"):
            call(place)
