import numpy as np
import ot
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch.nn import functional as F

import aeot
from aeot import generator
from aeot.autoencoder import Autoencoder
from aeot.sharpening import patch_distance, patch_filters

SMALL = {"latent_dim": 6, "batch_size": 64, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def digits():
    return aeot.dataset("digits", size=8).subset(slice(0, 300))


@pytest.fixture(scope="module")
def blurred(digits):
    return Autoencoder(**SMALL).fit(digits, steps=120, held_out=0)


def weights(part):
    return torch.cat([value.double().flatten() for value in part.state_dict().values()])


def test_the_patch_distance_is_that_of_sorted_samples_per_filter():
    a, b = (torch.randn(3, 2, 9, 8, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    filters = patch_filters(4, 2, 3, generator=generator(2)).double()
    expected = []
    for kernel in filters:
        one, two = (
            (F.unfold(x, 3) * kernel.flatten()[None, :, None]).sum(1).flatten().numpy()
            for x in (a, b)
        )
        expected.append(ot.wasserstein_1d(one, two, p=2))  # the squared distance
    assert float(patch_distance(a, b, filters)) == pytest.approx(np.mean(expected), rel=1e-10)


def test_filters_see_no_brightness_and_have_norm_one():
    filters = patch_filters(7, 3, 5, generator=generator(0))
    assert torch.allclose(filters.flatten(1).norm(dim=1), torch.ones(7))
    assert float(filters.sum((2, 3)).abs().max()) < 1e-5
    a = torch.rand(2, 3, 8, 8, generator=generator(1))
    assert float(patch_distance(a + 0.3, a, filters)) < 1e-9


def test_its_gradient_is_that_of_finite_differences():
    a, b = (torch.randn(2, 1, 6, 6, generator=generator(s), dtype=torch.float64) for s in (3, 4))
    filters = patch_filters(3, 1, 3, generator=generator(5)).double()
    assert torch.autograd.gradcheck(lambda x: patch_distance(x, b, filters), a.requires_grad_(True))


def test_decoded_images_get_the_patches_of_the_data(blurred, digits):
    before = {name: value.clone() for name, value in blurred.state()[0].items()}
    sharp = aeot.sharpen(blurred, digits, steps=150)
    for name, value in blurred.state()[0].items():
        assert torch.equal(value, before[name]), name  # the one given is left alone
    assert torch.equal(weights(sharp.encoder_), weights(blurred.encoder_))
    codes = blurred.encode(digits)
    assert torch.equal(sharp.encode(digits), codes)

    def detail(images):  # what is left of an image without its local mean, another measure
        return float((images - F.avg_pool2d(images, 3, 1, 1)).square().mean())

    real = detail(digits[:])
    assert detail(blurred.decode(codes)) < 0.9 * real
    assert abs(detail(sharp.decode(codes)) / real - 1) < 0.5 * (
        1 - detail(blurred.decode(codes)) / real
    )
    assert sharp.losses_["train"] == blurred.losses_["train"]
    assert sharp.losses_["train_sharp"] == pytest.approx(sharp.error(digits))
    assert sharp.history_[-1]["phase"] == 3


def test_the_same_seed_and_a_resumed_run_give_the_same_decoder(blurred, digits, tmp_path):
    straight = aeot.sharpen(blurred, digits, steps=12)
    again = aeot.sharpen(blurred, digits, steps=12)
    assert torch.equal(weights(straight.decoder_), weights(again.decoder_))

    def interrupt(step, record):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aeot.sharpen(blurred, digits, steps=12, checkpoint=tmp_path, on_step=interrupt)
    resumed = aeot.sharpen(blurred, digits, steps=12, checkpoint=tmp_path)
    assert torch.equal(weights(straight.decoder_), weights(resumed.decoder_))


def test_it_is_saved_like_any_autoencoder(blurred, digits, tmp_path):
    sharp = aeot.sharpen(blurred, digits, steps=3)
    sharp.save(tmp_path / "sharp")
    loaded = Autoencoder.load(tmp_path / "sharp", device="cpu")
    codes = blurred.encode(digits)[:5]
    assert torch.equal(loaded.decode(codes), sharp.decode(codes))
    assert loaded.losses_ == sharp.losses_


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": -1.0}, "weight"),
        ({"spread": -1.0}, "spread"),
        ({"patch": 9}, "patch"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_arguments_are_named(blurred, digits, options, words):
    with pytest.raises(ValueError, match=words):
        aeot.sharpen(blurred, digits, **options)


def test_it_wants_a_fitted_autoencoder_of_images(digits):
    with pytest.raises(NotFittedError):
        aeot.sharpen(Autoencoder(), digits)
    plane = torch.randn(40, 5)
    model = Autoencoder(latent_dim=2, precision="float32", device="cpu").fit(plane, steps=4)
    with pytest.raises(ValueError, match="images"):
        aeot.sharpen(model, plane)
