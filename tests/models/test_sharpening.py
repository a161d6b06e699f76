import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch

import aeot
from aeot.models.sharpening import LIMIT, choose_floor, sharpen, spectral_gain


def noise(n, channels=1, height=10, width=6, seed=0):
    return torch.randn(n, channels, height, width, generator=aeot.generator(seed))


def by_cosines(images, gain):
    """The same filter by scipy: mirrored images are sums of cosines."""
    height, width = images.shape[2:]
    found = scipy.fft.dctn(images.double().numpy(), axes=(2, 3), norm="ortho")
    found = found * gain[:, :height, :width].double().numpy()
    return np.clip(scipy.fft.idctn(found, axes=(2, 3), norm="ortho"), -1, 1)


@pytest.mark.parametrize("shape", [(1, 10, 6), (3, 5, 7)])
def test_the_gain_is_the_root_of_the_ratio_of_cosine_powers(shape):
    images, decoded = noise(40, *shape), 0.7 * noise(40, *shape, seed=1)
    gain = spectral_gain(images, decoded)
    power = [
        np.square(scipy.fft.dctn(x.double().numpy(), axes=(2, 3), norm="ortho")).mean(0)
        for x in (images, decoded)
    ]
    expected = np.clip(np.sqrt(power[0] / power[1]), 1, LIMIT)
    assert gain.shape == (shape[0], 2 * shape[1], shape[2] + 1)
    assert gain.dtype == torch.float32
    np.testing.assert_allclose(gain[:, : shape[1], : shape[2]], expected, rtol=1e-5)
    assert float(gain.min()) == 1
    assert torch.isfinite(gain).all()


def test_sharpening_filters_mirrored_images():
    images = 0.3 * noise(7, 3, 8, 12)
    gain = spectral_gain(images, 0.2 * noise(7, 3, 8, 12, seed=1))
    sharp = sharpen(images, gain)
    assert sharp.dtype == torch.float32
    np.testing.assert_allclose(sharp.numpy(), by_cosines(images, gain), atol=1e-5)
    assert float(sharp.abs().max()) <= 1


def test_blurred_images_get_their_spectrum_back():
    images = 0.2 * noise(2000, height=8, width=8)
    blur = torch.tensor([0.05, 0.9, 0.05])
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    kernel = torch.outer(blur, blur)[None, None]
    blurred = torch.nn.functional.conv2d(padded, kernel)
    gain = spectral_gain(images, blurred)
    # a symmetric blur of mirrored images is a filter; within the limit it is undone
    assert float(gain.max()) < LIMIT + 1e-6
    before, after = (float((x - images).square().mean()) for x in (blurred, sharpen(blurred, gain)))
    assert after < 0.02 * before


def test_images_do_not_depend_on_those_beside_them():
    images = 0.3 * noise(1003)
    gain = spectral_gain(images, 0.6 * images)
    whole = sharpen(images, gain)
    assert torch.equal(sharpen(images[500:530], gain), whole[500:530])


def half_flat(n=60, seed=0):
    """Return colour images, flat on the left and textured on the right, and blurred ones."""
    images = 0.3 * noise(n, 3, 12, 16, seed)
    images[..., :8] = noise(n, 3, 1, 1, seed + 1).clamp(-0.5, 0.5)
    decoded = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    return images, decoded + 0.02 * noise(n, 3, 12, 16, seed + 2)  # errors of the decoder


def local_variance(images):
    """By another route: windows of 5x5 pixels, mirrored at the border, one by one."""
    found = np.pad(images.double().numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(found, (5, 5), axis=(2, 3))
    return windows.var(axis=(-2, -1)).mean(axis=1)


def test_flat_areas_stay_flat_and_textured_ones_are_sharpened():
    images, decoded = half_flat()
    gain = spectral_gain(images, decoded)
    flat = local_variance(images)
    flat = torch.from_numpy(flat <= np.quantile(flat, 0.25))[:, None].expand(images.shape)

    def errors(x):
        square = (x - images).double().square() / 4
        return float(square.mean()), float(square[flat].mean())

    everywhere = sharpen(decoded, gain)
    assert errors(everywhere)[1] > 1.5 * errors(decoded)[1]  # speckle: what it is about
    chosen = choose_floor(images, decoded, gain)
    sharp = sharpen(decoded, gain, chosen.floor)
    assert errors(sharp)[1] < 1.05 * errors(decoded)[1]
    assert chosen.error == pytest.approx((errors(decoded)[0], errors(sharp)[0]), rel=1e-3)
    assert chosen.flat_error == pytest.approx((errors(decoded)[1], errors(sharp)[1]), rel=0.02)
    # most of what sharpening does is done where there is texture
    right = (sharp - decoded)[..., 11:], (everywhere - decoded)[..., 11:]
    assert float((right[0] * right[1]).sum()) > 0.6 * float(right[1].square().sum())
    # on other images of the kind the promise holds, too, but for the noise of so few
    images, decoded = half_flat(seed=9)
    before, after = errors(decoded)[1], errors(sharpen(decoded, gain, chosen.floor))[1]
    assert after < 1.1 * before


def test_the_share_that_is_taken_follows_the_local_variance():
    images = 0.2 * noise(5, 3, 12, 12)
    gain = spectral_gain(images, 0.6 * images)
    square = scipy.ndimage.minimum_filter(local_variance(images), (1, 3, 3)) ** 2
    share = square / (square + 0.03**2)
    expected = images + (sharpen(images, gain) - images) * torch.from_numpy(share)[:, None]
    torch.testing.assert_close(sharpen(images, gain, 0.03), expected.float(), atol=1e-5, rtol=0)
    assert torch.equal(sharpen(images, gain, 0.0), sharpen(images, gain))


def test_what_cannot_be_sharpened_is_left_alone_and_said():
    images = torch.zeros(20, 1, 8, 8) + 0.2 * noise(20, 1, 1, 1)  # flat everywhere
    decoded = images + 0.05 * noise(20, 1, 8, 8, 1)
    gain = torch.full((1, 16, 9), LIMIT)
    chosen = choose_floor(images, decoded, gain)
    assert chosen.flat_error[1] <= 1.05 * chosen.flat_error[0]
    assert chosen.limited == 1
    assert float((sharpen(decoded, gain, chosen.floor) - decoded).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("images", "decoded", "message"),
    [
        ((3, 4), (3, 4), "images must have shape"),
        ((3, 1, 4, 4), (3, 1, 4), "decoded must have shape"),
        ((3, 1, 4, 4), (2, 1, 4, 4), r"decoded must have shape \(3, 1, 4, 4\), got"),
        ((0, 1, 4, 4), (0, 1, 4, 4), "images must have shape"),
    ],
)
def test_wrong_shapes_are_named(images, decoded, message):
    with pytest.raises(ValueError, match=message):
        spectral_gain(torch.zeros(images), torch.zeros(decoded))


@pytest.fixture(scope="module")
def fitted():
    digits = aeot.dataset("digits", size=8).subset(slice(0, 300))
    model = aeot.AEOT(latent_dim=4, tol=0.1, precision="float32").fit(digits, steps=120)
    return model, digits


def test_generated_images_are_as_sharp_as_the_data(fitted):
    model, digits = fitted
    codes = model.encode(digits)
    plain, sharp = model.autoencoder_.decode(codes), model.decode(codes)

    def detail(images):
        return float((images - torch.nn.functional.avg_pool2d(images, 3, 1, 1)).square().mean())

    lost = detail(digits[:]) - detail(plain)
    assert lost > 0.1 * detail(digits[:])
    assert abs(detail(sharp) - detail(digits[:])) < 0.5 * lost
    model.sharpen = False
    assert torch.equal(model.decode(codes), plain)
    model.sharpen = True


def test_a_stored_model_stays_sharp_and_vectors_have_no_spectrum(fitted, tmp_path):
    model, _ = fitted
    model.save(tmp_path / "model")
    again = aeot.AEOT.load(tmp_path / "model")
    assert torch.equal(again.gain_, model.gain_)
    assert torch.equal(again.sample(5, seed=1), model.sample(5, seed=1))
    plane = aeot.AEOT(latent_dim=2, tol=0.1, precision="float32").fit(torch.rand(60, 3), steps=10)
    assert plane.gain_ is None
    plane.save(tmp_path / "plane")
    assert aeot.AEOT.load(tmp_path / "plane").gain_ is None


def test_sharpen_must_be_a_bool():
    with pytest.raises(ValueError, match="sharpen must be True or False, got 'yes'"):
        aeot.AEOT(sharpen="yes").fit(torch.rand(10, 3))


def test_the_floor_comes_from_images_that_were_held_out(fitted, monkeypatch):
    model, digits = fitted
    assert model.sharpening_["flat_error"][1] <= 1.05 * model.sharpening_["flat_error"][0]
    assert model.summary()["sharpening"] == model.sharpening_
    seen = []
    monkeypatch.setattr(
        "aeot.models.aeot.choose_floor",
        lambda images, *rest: seen.append(images) or choose_floor(images, *rest),
    )
    apart = aeot.dataset("digits", size=8, split="test").subset(slice(0, 20))
    other = aeot.AEOT(latent_dim=4, tol=0.1, precision="float32")
    other.fit(digits.subset(slice(0, 50)), steps=2, held_out=apart)
    assert len(seen[0]) == 20
    assert {tuple(r.flatten().tolist()) for r in seen[0]} == {
        tuple(r.flatten().tolist()) for r in apart[:]
    }


def test_a_model_saved_without_a_floor_sharpens_everywhere(fitted):
    model, digits = fitted
    state = model.state()
    del state["learned"]["sharpening_"]
    again = aeot.AEOT.from_state(state)
    codes = model.encode(digits)
    expected = sharpen(model.autoencoder_.decode(codes), model.gain_)
    assert torch.equal(again.decode(codes), expected)
