import pytest
import torch
from torch import nn

from aeot.networks import blocks
from aeot.networks.autoencoder import autoencoder_pair


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
        ((1, 28, 28), "auto", blocks.DownTrunk),
        ((3, 32, 20), "infogan", blocks.DownTrunk),
        ((3, 64, 64), "auto", blocks.DeepDown),
        ((1, 96, 64), "dcgan", blocks.DeepDown),
        ((7,), "auto", nn.Sequential),
    ],
)
@pytest.mark.parametrize("latent_dim", [1, 5])
def test_pairs_mirror_each_other(shape, architecture, kind, latent_dim):
    width = 4 if architecture == "dcgan" else None
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
