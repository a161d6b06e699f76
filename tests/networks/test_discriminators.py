"""Discriminators of the GAN family."""

import pytest
import torch

from aeot.networks.blocks import count_parameters
from aeot.networks.discriminators import (
    ImageDiscriminator,
    Maxout,
    MaxoutDiscriminator,
    MinibatchDiscrimination,
    MLPCritic,
)


def test_packing_widens_the_first_layer_alone():
    sizes = [count_parameters(MaxoutDiscriminator(2 * m)) for m in (1, 2, 4)]
    assert sizes == [405_201, 407_201, 411_201]
    images = [
        [tuple(p.shape) for p in ImageDiscriminator((1, 28, 28), m).parameters()] for m in (1, 3)
    ]
    assert images[0][0][1] == 1
    assert images[1][0][1] == 3
    assert images[0][1:] == images[1][1:]


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 28, 28), 6.56e6), ((3, 32, 32), 8.53e6), ((3, 64, 64), 33.69e6)]
)
def test_image_discriminator_has_the_published_size(shape, size):
    assert count_parameters(ImageDiscriminator(shape)) == pytest.approx(size, rel=1e-3)


def test_maxout_is_the_largest_of_its_pieces():
    torch.manual_seed(0)
    layer = Maxout(3, 4, pieces=2)
    x = torch.randn(5, 3)
    weight, bias = layer.linear.weight, layer.linear.bias
    first, second = x @ weight[:4].T + bias[:4], x @ weight[4:].T + bias[4:]
    torch.testing.assert_close(layer(x), torch.maximum(first, second))


def test_maxout_has_the_slopes_of_a_maximum():
    torch.manual_seed(0)
    layer = Maxout(3, 4, pieces=2)
    with torch.no_grad():  # of the third unit both pieces are equal, and share its slope
        layer.linear.weight[2], layer.linear.bias[2] = layer.linear.weight[6], layer.linear.bias[6]
    x = torch.randn(5, 3, requires_grad=True)

    def slopes(y):  # of the length of a slope, as in a gradient penalty
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.norm(dim=1).sum(), list(layer.parameters()))

    largest = layer.linear(x).unflatten(1, (2, 4)).amax(1)
    torch.testing.assert_close(slopes(layer(x)), slopes(largest))


def test_minibatch_discrimination_by_hand():
    layer = MinibatchDiscrimination(2, kernels=2, kernel_dim=1)
    with torch.no_grad():
        layer.linear.weight[:] = torch.eye(2)
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 2.0]])
    e = torch.exp(torch.tensor([-1.0, -3.0, -2.0]))
    near = [[e[0] + e[1], 1 + e[2]], [e[0] + e[2], 1 + e[2]], [e[1] + e[2], 2 * e[2]]]
    torch.testing.assert_close(layer(x), torch.cat([x, torch.tensor(near)], dim=1))
    # A single sample has no others, identical ones all count.
    assert layer(x[:1])[0, 2:].tolist() == [0, 0]
    torch.testing.assert_close(layer(x[:1].expand(4, 2))[:, 2:], torch.full((4, 2), 3.0))


def test_critics_judge_samples_one_by_one():
    torch.manual_seed(0)
    for critic, x in (
        (MLPCritic(3, hidden=8), torch.randn(6, 3)),
        (MaxoutDiscriminator(3, hidden=8), torch.randn(6, 3)),
        (ImageDiscriminator((1, 8, 8), batch_norm=False), torch.randn(6, 1, 8, 8)),
    ):
        assert critic(x).shape == (6,)
        torch.testing.assert_close(critic(x)[2:4], critic(x[2:4]), rtol=1e-4, atol=1e-5)


def test_what_stands_beside_a_sample_matters():
    torch.manual_seed(0)
    critic = ImageDiscriminator((1, 8, 8), batch_norm=False, beside=5)
    x, z = torch.randn(2, 1, 8, 8), torch.randn(2, 5)
    assert not torch.allclose(critic(x, z), critic(x, z + 1))
    assert critic.trunk(x).shape == (2, 1024)
