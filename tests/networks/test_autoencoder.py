import pytest
import torch
from torch import nn

import aeot
from aeot.networks import blocks
from aeot.networks.autoencoder import autoencoder_pair, resolve_architecture


@pytest.mark.parametrize(
    ("shape", "generator", "discriminator"),
    [
        ((1, 28, 28), 6.64, 6.56),
        ((3, 32, 32), 8.62, 8.53),
        ((3, 64, 64), 33.86, 33.69),
    ],
)
def test_parameter_counts_are_the_published_ones(shape, generator, discriminator):
    up, down = blocks.UpTrunk(shape, 64), blocks.DownTrunk(shape, 1)
    # Lucic et al. give millions with two decimals.
    assert round(blocks.count_parameters(up) / 1e6, 2) == generator
    assert round(blocks.count_parameters(down) / 1e6, 2) == pytest.approx(discriminator, abs=0.011)


@pytest.mark.parametrize(
    ("shape", "architecture", "kind"),
    [
        ((1, 28, 28), "auto", blocks.ResidualDown),
        ((3, 64, 64), "auto", blocks.ResidualDown),
        ((3, 20, 32), "residual", blocks.ResidualDown),
        ((1, 8, 8), "residual", blocks.ResidualDown),
        ((3, 32, 20), "infogan", blocks.DownTrunk),
        ((3, 64, 64), "dcgan", blocks.DeepDown),
        ((1, 96, 64), "dcgan", blocks.DeepDown),
        ((7,), "auto", nn.Sequential),
    ],
)
@pytest.mark.parametrize("latent_dim", [1, 5])
def test_pairs_mirror_each_other(shape, architecture, kind, latent_dim):
    width = 4 if architecture in ("dcgan", "residual") else None
    encoder, decoder = autoencoder_pair(shape, latent_dim, architecture=architecture, width=width)
    assert isinstance(encoder, kind)
    rows = torch.rand(2, *shape) * 2 - 1
    codes = encoder(rows)
    assert codes.shape == (2, latent_dim)
    restored = decoder(codes)
    assert restored.shape == rows.shape
    if len(shape) == 3:
        assert float(restored.detach().abs().max()) <= 1


def test_every_parameter_gets_a_gradient():
    for shape in ((1, 8, 8), (3, 16, 16), (4,)):
        architecture = "dcgan" if shape[0] == 3 else "auto"
        encoder, decoder = autoencoder_pair(shape, 3, architecture=architecture, width=4)
        rows = torch.rand(6, *shape)
        (decoder(encoder(rows)) - rows).square().mean().backward()
        for name, parameter in [*encoder.named_parameters(), *decoder.named_parameters()]:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name


def test_initial_weights_have_the_published_spread():
    up = blocks.UpTrunk((1, 28, 28), 64)
    weights = up[3].weight
    # 6.4 million draws: the standard error of their deviation is 0.02 / 3600
    assert float(weights.detach().std()) == pytest.approx(0.02, abs=5e-5)
    assert not up[3].bias.detach().any()


@pytest.mark.parametrize(
    ("shape", "architecture", "words"),
    [
        ((1, 30, 28), "infogan", "divisible by 4"),
        ((1, 28, 30), "residual", "divisible by 4"),
        ((5,), "residual", r"be \(C, H, W\)"),
        ((5,), "infogan", r"be \(C, H, W\)"),
        ((3, 30, 30), "dcgan", "halve down"),
        ((3, 28, 28), "mlp", "architecture must fit images"),
        ((3, 28, 28), "resnet", "one of 'auto'"),
    ],
)
def test_what_does_not_fit_is_named(shape, architecture, words):
    with pytest.raises(ValueError, match=words):
        autoencoder_pair(shape, 4, architecture=architecture)


@pytest.mark.parametrize("latent_dim", [0, 2.5, None])
def test_latent_sizes_are_checked(latent_dim):
    with pytest.raises(ValueError, match="latent_dim must be a whole number >= 1"):
        autoencoder_pair((1, 8, 8), latent_dim)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 28, 28), [(32, 14, 14), (64, 7, 7)]),
        ((3, 32, 32), [(32, 16, 16), (64, 8, 8)]),
        ((3, 64, 64), [(32, 32, 32), (64, 16, 16), (128, 8, 8)]),
        ((3, 128, 96), [(32, 64, 48), (64, 32, 24), (128, 16, 12)]),
    ],
)
def test_residual_levels_end_at_seven_to_thirteen_pixels(shape, sizes):
    encoder, decoder = autoencoder_pair(shape, 3)
    found = []
    image = torch.zeros(1, *shape)
    for layer in encoder.levels:
        image = layer(image)
        if isinstance(layer, nn.Conv2d):
            found.append(tuple(image.shape[1:]))
    assert found == sizes
    assert decoder.start == sizes[-1]


def test_a_residual_block_begins_as_the_identity():
    images = torch.randn(5, 6, 4, 4)
    assert torch.equal(blocks.Residual(6)(images), images)


def test_residual_networks_do_not_depend_on_the_layout_of_images():
    encoder, decoder = (part.eval() for part in autoencoder_pair((3, 16, 16), 5, width=4))
    rows = torch.rand(4, 3, 16, 16)
    codes = encoder(rows)
    assert torch.equal(encoder(rows.contiguous(memory_format=torch.channels_last)), codes)
    assert decoder(codes).is_contiguous()
    with torch.no_grad():
        # by another route: as matrices, weights and features flattened in the same order
        features = encoder.levels(rows).permute(0, 2, 3, 1).reshape(4, -1)
        torch.testing.assert_close(features @ encoder.code.weight.T + encoder.code.bias, codes)


def test_published_networks_are_kept_for_what_is_compared_with_studies():
    assert resolve_architecture("auto", (1, 28, 28), published=True) == "infogan"
    assert resolve_architecture("auto", (3, 64, 64), published=True) == "dcgan"
    assert resolve_architecture("auto", (5,), published=True) == "mlp"
    assert resolve_architecture("residual", (1, 28, 28), published=True) == "residual"
    assert (
        aeot.VAE(latent_dim=2).fit(torch.rand(4, 8, 8) - 0.5, steps=1).decoder_[0].out_features
        == 1024
    )
