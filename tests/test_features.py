import subprocess
import sys

import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

import aeot
from aeot import features, metrics
from aeot.data import Dataset
from aeot.features import Classifier, Pixels, describe, extract, fingerprint


@pytest.fixture(scope="module")
def digits():
    return aeot.dataset("digits"), aeot.dataset("digits", split="test")


@pytest.fixture(scope="module")
def fitted(digits):
    return Classifier(channels=8, width=24, epochs=8, batch_size=64, seed=3).fit(*digits)


def test_the_classifier_learns_digits_and_says_how_well(fitted, digits):
    assert fitted.accuracy_ > 0.93
    right = fitted.predict(digits[1]) == digits[1].labels
    assert fitted.accuracy_ == pytest.approx(float(right.double().mean()), abs=1e-12)
    assert fitted.score(digits[0]) > 0.93
    told = describe(fitted)
    assert told == {
        "name": "classifier of digits",
        "hash": fitted.hash_,
        "accuracy": fitted.accuracy_,
    }


def test_the_same_seed_gives_the_same_classifier_and_another_seed_another(digits):
    small = {"channels": 4, "width": 8, "epochs": 1}
    first, again, other = (Classifier(**small, seed=s).fit(*digits) for s in (0, 0, 1))
    assert first.hash_ == again.hash_ != other.hash_


def test_features_do_not_depend_on_the_batch_size(fitted, digits):
    images = digits[1].subset(slice(0, 60))
    every = extract(fitted, images, batch_size=60)
    assert every.dtype == torch.float64
    for size in (1, 7, 59):
        torch.testing.assert_close(
            extract(fitted, images, batch_size=size), every, rtol=0, atol=1e-12
        )


def test_metrics_do_not_depend_on_the_batch_size(fitted, digits):
    one, other = (d.subset(slice(0, 200)) for d in digits)
    values = [
        (metrics.frechet_distance(a, b), metrics.kernel_distance(a, b))
        for size in (200, 13)
        for a, b in [
            (extract(fitted, one, batch_size=size), extract(fitted, other, batch_size=size))
        ]
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_bytes_and_floats_give_the_same_features_and_are_rounded_alike(fitted, digits):
    data = digits[1].subset(slice(0, 20))
    expected = extract(fitted, data)
    assert torch.equal(extract(fitted, data.values), expected)
    assert torch.equal(extract(fitted, data[:]), expected)
    nudged = data[:] + 0.003 * torch.sign(torch.randn(data[:].shape))  # less than half a level
    assert torch.equal(extract(fitted, nudged), expected)


def test_extraction_leaves_a_classifier_and_global_state_alone(fitted, digits):
    before = torch.random.get_rng_state()
    kept = fingerprint(fitted.network_)
    extract(fitted, digits[1].subset(slice(0, 4)))
    assert fingerprint(fitted.network_) == kept
    assert next(fitted.network_.parameters()).dtype == torch.float32
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_saved_classifier_gives_the_same_features_in_a_new_process(fitted, digits, tmp_path):
    fitted.save(tmp_path / "net")
    assert "## Data\n\n- name: digits\n" in (tmp_path / "net" / "README.md").read_text()
    code = (
        "import sys, aeot, torch\n"
        "from aeot.features import Classifier, extract\n"
        f"net = Classifier.load({str(tmp_path / 'net')!r})\n"
        "data = aeot.dataset('digits', split='test').subset(slice(0, 50))\n"
        "print(net.hash_, net.accuracy_, float(extract(net, data).sum()).hex(), net.classes_[3])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    total = float(extract(fitted, digits[1].subset(slice(0, 50))).sum())
    assert done.stdout.split() == [fitted.hash_, str(fitted.accuracy_), total.hex(), "3"]


def test_without_test_images_a_tenth_is_held_out(digits):
    net = Classifier(channels=4, width=8, epochs=1).fit(digits[0])
    assert net.accuracy_ * 144 == pytest.approx(round(net.accuracy_ * 144), abs=1e-9)


def test_colour_and_odd_sizes_train():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = torch.randint(0, 100, (40, 3, 19, 23), generator=draw, dtype=torch.uint8)
    images[labels == 1, 0] += 150  # red
    data = Dataset(images, "red", labels, ("plain", "red"))
    net = Classifier(channels=4, width=8, epochs=20, batch_size=20).fit(data, data)
    assert net.accuracy_ > 0.9
    assert extract(net, data).shape == (40, 8)


def test_any_module_is_an_extractor(digits):
    data = digits[1].subset(slice(0, 9))
    assert torch.equal(extract(nn.Flatten(), data), data[:].flatten(1).double())
    assert describe(nn.Flatten())["name"] == "Flatten"
    pixels = extract(Pixels(4), data)
    blocks = data[:].double().reshape(9, 4, 7, 4, 7).mean(dim=(2, 4)).flatten(1)
    torch.testing.assert_close(pixels, blocks, rtol=0, atol=1e-6)
    assert describe(Pixels(4))["name"] == "pixels 4x4"


def test_a_fingerprint_sees_every_bit_and_no_more():
    net = nn.Linear(3, 2)
    first = fingerprint(net)
    assert fingerprint(net) == first
    with torch.no_grad():
        net.weight[0, 0] = torch.nextafter(net.weight[0, 0], torch.tensor(9.0))
    assert fingerprint(net) != first


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        (nn.Identity(), r"extractor must return one row per image, \(B, width\)"),
        (nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1))), "one row per image"),
    ],
)
def test_an_extractor_of_another_shape_is_refused(extractor, message, digits):
    with pytest.raises(ValueError, match=message):
        extract(extractor, digits[1].subset(slice(0, 4)))


def test_images_that_the_classifier_cannot_read_are_refused(fitted, digits):
    images = digits[1][:4]
    nan = images.clone()
    nan[2, 0, 3, 3] = float("nan")
    for wrong, message in [
        (images[..., :-1], r"images must have the shape .*\(1, 28, 28\), got \(1, 28, 27\)"),
        (images[0], r"images must have shape \(B, C, H, W\), got rows of shape \(28, 28\)"),
        (images[:0], "images must hold at least one image"),
        (images.numpy(), "images must be uint8 or floats.*got ndarray of float32; torch.as_tensor"),
        (nan, r"images must be finite.*index \(2, 0, 3, 3\)"),
        (images.add(1).mul(127.5), r"images must be uint8 or floats in.*0 to 255"),
        (digits[1].values[:4].long(), "got Tensor of torch.int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted.predict(wrong)
    with pytest.raises(ValueError, match="features must have 24 columns, got 23"):
        fitted.predict_from(torch.zeros(3, 23))
    # Generators may overshoot: clipped, as in files.
    assert torch.equal(fitted.predict(images * 3), fitted.predict((images * 3).clamp(-1, 1)))


def test_bad_training_data_is_refused(digits):
    with pytest.raises(ValueError, match="be a Dataset of labelled images, got Tensor; without"):
        Classifier().fit(digits[0][:4])
    unlabelled = Dataset(digits[0].values, "bare")
    with pytest.raises(ValueError, match=r"data must be a Dataset of labelled images.*Pixels"):
        Classifier().fit(unlabelled)
    ones = digits[0].subset(digits[0].labels == 1)
    with pytest.raises(ValueError, match="data must hold at least two classes"):
        Classifier().fit(ones)
    with pytest.raises(ValueError, match=r"test must have images of shape \(1, 28, 28\)"):
        Classifier().fit(digits[0], aeot.dataset("digits", split="test", size=32))
    with pytest.raises(ValueError, match="width must be a whole number >= 1 and <= 128"):
        Classifier(width=129).fit(*digits)
    with pytest.raises(NotFittedError):
        Classifier().extractor()


def test_inception_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "FeatureExtractorInceptionV3", None)
    with pytest.raises(ImportError, match=r"pip install 'aeot\[inception\]'"):
        features.inception(tmp_path / "weights.pth")
    monkeypatch.setattr(features, "FeatureExtractorInceptionV3", object)
    with pytest.raises(ValueError, match=r"weights must be a file.*pass its path"):
        features.inception(tmp_path / "weights.pth")
