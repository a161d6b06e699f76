"""Filters and spectra against sines, Parseval's identity and other libraries."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from aeot.data import filters
from aeot.gan_diagnostics import frequency
from aeot.networks.generators import ResNetGenerator


def sine(rows, columns, size=(24, 32)):
    """A wave of so many cycles down and across."""
    i = torch.arange(size[0], dtype=torch.float64)[:, None] / size[0]
    j = torch.arange(size[1], dtype=torch.float64)[None, :] / size[1]
    return torch.cos(2 * math.pi * (rows * i + columns * j))[None, None]


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (6, 0), (3, 5), (-3, 5), (12, 16)])
def test_low_pass_cuts_at_the_radius(rows, columns):
    wave = sine(rows, columns)
    radius = math.hypot(rows / 24, columns / 32)
    kept = filters.low_pass(wave, radius)
    torch.testing.assert_close(kept, wave, atol=1e-12, rtol=0)
    assert float(filters.low_pass(wave, 0.99 * radius).abs().max()) < 1e-12


@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (2, 1, 16, 16), (1, 1, 15, 7)])
def test_bands_sum_to_the_mean_square(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    centres, bands = frequency.spectrum(x, n_bands=7)
    assert len(centres) == 7
    assert float(bands.sum()) == pytest.approx(float(x.square().mean()), rel=1e-12)
    parts = frequency.error_split(x, torch.zeros_like(x), cutoff=0.2)
    low = filters.low_pass(x, 0.2)
    assert parts["structure"] == pytest.approx(float(low.square().mean()), rel=1e-9)
    assert parts["texture"] == pytest.approx(float((x - low).square().mean()), rel=1e-9)
    # The projection is orthogonal.
    assert float((low * (x - low)).sum()) == pytest.approx(0, abs=1e-9)


def test_white_noise_has_a_flat_spectrum():
    x = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    _, bands = frequency.spectrum(x, n_bands=6)
    radius = filters.radial_frequency(32, 32)
    full = torch.cat([radius, radius[:, 1:-1]], dim=1).flatten()
    edges = torch.linspace(0, 0.5**0.5, 7, dtype=torch.float64)
    counts = torch.histc(full, 6, 0, float(edges[-1])) / full.numel()
    torch.testing.assert_close(bands, counts, atol=0.01, rtol=0.05)


def test_blurred_output_loses_texture_and_keeps_structure():
    x = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    parts = frequency.error_split(filters.low_pass(x, 0.125), x, cutoff=0.125)
    assert parts["structure"] < 1e-12
    assert parts["texture_power"] < 1e-12
    shuffled = torch.fft.irfft2(torch.fft.rfft2(x.roll(1, 0)), s=(32, 32))
    assert frequency.error_split(shuffled, x)["texture_power"] == pytest.approx(1, rel=1e-6)


def test_quantise_is_what_saving_does(tmp_path):
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(levels[0, 0].numpy()).save(tmp_path / "x.png")
    back = torch.from_numpy(np.array(Image.open(tmp_path / "x.png"))).float() / 127.5 - 1
    torch.testing.assert_close(filters.quantise(x)[0, 0], back, atol=1e-6, rtol=0)
    assert len(filters.quantise(x, 2).unique()) == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_smooth_images_and_harms_noise(channels):
    ramp = torch.linspace(-0.8, 0.8, 32).expand(2, channels, 32, 32)
    assert float((filters.jpeg(ramp, 95) - ramp).abs().max()) < 0.03
    noise = torch.rand(2, channels, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    assert float((filters.jpeg(noise, 20) - noise).square().mean()) > 0.01
    with pytest.raises(ValueError, match="1 or 3 channels"):
        filters.jpeg(torch.zeros(1, 2, 8, 8))


def test_blur_has_the_variance_of_its_gaussian():
    point = torch.zeros(1, 1, 33, 33)
    point[0, 0, 16, 16] = 1
    spread = filters.blur(point, 2.0)[0, 0]
    grid = torch.arange(33.0) - 16
    assert float((spread.sum(1) * grid**2).sum()) == pytest.approx(4, rel=0.05)  # cut at 3 sigma


def test_edges_of_a_step_are_two_pixels_wide():
    flat = torch.full((1, 3, 8, 10), -0.3)
    assert filters.edges(flat).unique().tolist() == [-1]  # the border is no edge
    step = flat.clone()
    step[..., 4:] += 0.4  # a gradient of 4 * 0.4 = 1.6
    for images, axis in ((step, 3), (step.transpose(2, 3), 2)):
        lines = filters.edges(images, 1.59).movedim(axis, -1)
        assert lines.shape[1] == 1
        assert (lines == 1).all(dim=(0, 1, 2)).nonzero()[:, 0].tolist() == [3, 4]
        assert int((lines == 1).sum()) == 16
        assert filters.edges(images, 1.61).unique().tolist() == [-1]
    with pytest.raises(ValueError, match="threshold must"):
        filters.edges(flat, 0)


def test_contrast_response():
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert frequency.contrast_response(lambda v: v, x) == pytest.approx(1)
    norm = torch.nn.InstanceNorm2d(1, eps=0.0)
    assert frequency.contrast_response(norm, x) < 1e-5
    assert frequency.contrast_response(lambda v: 3 * v, x) == pytest.approx(3)


def test_checkerboards_are_told_from_images_and_noise():
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 1, 32, 32, generator=g)
    assert frequency.checkerboard(noise) < 3 / 30
    board = torch.ones(1, 1, 2, 2)
    board[..., 0, 1] = board[..., 1, 0] = -1
    pattern = board.repeat(1, 1, 16, 16)
    assert frequency.checkerboard(pattern) == pytest.approx(1)
    # Of independent noise the differences have variance 1 + 1/4, of the pattern 2^2 amplitude^2.
    wanted = (4 * 0.25 / (1.25 + 4 * 0.25)) ** 0.5
    assert frequency.checkerboard(noise + 0.5 * pattern) == pytest.approx(wanted, rel=0.02)
    ramp = torch.linspace(-1, 1, 32).double().expand(1, 1, 32, 32)
    wave = (ramp * 7).sin() * (ramp.mT * 5).cos()  # what images are made of is no pattern
    assert frequency.checkerboard(wave) < 0.05
    with pytest.raises(ValueError, match="sides >= 10 for stride 4"):
        frequency.checkerboard(noise[..., :6], stride=4)


def test_transposed_convolutions_leave_a_checkerboard_and_resizing_none():
    x = torch.zeros(8, 1, 32, 32)  # flat: all that can be seen is the network's own
    found = {}
    for how in ("transposed", "resize"):
        torch.manual_seed(0)
        network = ResNetGenerator(1, 1, n_blocks=0, filters=8, norm="none", upsampling=how)
        for parameter in network.parameters():
            torch.nn.init.uniform_(parameter, 0, 0.05)
        with torch.no_grad():
            y = network(x)[..., 8:-8, 8:-8]  # borders have an edge of their own
        found[how] = float(y.std())
    assert found["resize"] < 1e-6 < 1e-4 < found["transposed"]
