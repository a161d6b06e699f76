"""Networks from noise to vectors."""

import pytest
import torch
from torch import nn

from aeot.networks.generators import MLPGenerator


@pytest.mark.parametrize(("layers", "latent", "count"), [(4, 2, 484_802), (2, 4, 164_002)])
def test_mlp_generator_has_the_published_size(layers, latent, count):
    # The second is the encoder of ALI: 162 402 weights and biases, 1 600 of normalisation.
    net = MLPGenerator(latent, 2, layers=layers)
    assert sum(p.numel() for p in net.parameters()) == count
    linear = [m for m in net if isinstance(m, nn.Linear)]
    assert [m.bias is None for m in linear] == [True] * layers + [False]
    assert float(linear[1].weight.detach().std()) == pytest.approx(0.02, rel=0.02)


def test_plain_mlp_generator_starts_with_unit_activations():
    torch.manual_seed(0)
    net = MLPGenerator(2, 2, hidden=512, layers=3, batch_norm=False)
    inside = nn.Sequential(*list(net)[:-1])(torch.randn(2000, 2))
    # He's law keeps E[x^2] = 1 through ReLU layers, up to the spread of finite widths.
    assert float(inside.detach().square().mean()) == pytest.approx(1, rel=0.35)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in net)
