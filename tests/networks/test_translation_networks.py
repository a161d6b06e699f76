"""ResNet, U-Net and patch discriminators against published counts and hand-computed statistics."""

import pytest
import torch
from torch import nn

from aeot.networks.blocks import count_parameters
from aeot.networks.discriminators import PatchDiscriminator
from aeot.networks.generators import (
    ResNetGenerator,
    UNetGenerator,
    UpscaleGenerator,
    init_translator,
)


def test_parameter_counts_are_the_published_ones():
    assert count_parameters(ResNetGenerator()) == 11_378_179
    assert count_parameters(ResNetGenerator(n_blocks=6)) == 7_837_699
    # Millions as the published code prints them.
    assert round(count_parameters(UNetGenerator()) / 1e6, 3) == 54.414
    assert round(count_parameters(UNetGenerator(size=128)) / 1e6, 3) == 41.829
    assert count_parameters(PatchDiscriminator()) == 2_764_737
    assert count_parameters(PatchDiscriminator(6, norm="batch")) == 2_768_705
    # A learned scale and shift replace the bias of the layer before, whatever the statistics.
    assert count_parameters(PatchDiscriminator(6, norm="instance-affine")) == 2_768_705


@pytest.mark.parametrize(("n_layers", "field"), list(enumerate([1, 16, 34, 70, 142, 286, 574])))
def test_receptive_field_is_where_the_gradient_reaches(n_layers, field):
    net = PatchDiscriminator(1, n_layers, filters=1, norm="none").double()
    assert net.receptive_field == field
    if n_layers > 4:
        return  # an image of that size takes seconds
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    side = max(2 * field, 8)
    x = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    out = net(x)
    middle = out.shape[-1] // 2
    (slope,) = torch.autograd.grad(out[0, 0, middle, middle], x)
    rows = slope[0, 0].abs().sum(1).nonzero()[:, 0]
    assert int(rows.max() - rows.min()) + 1 == field


@pytest.mark.parametrize(("size", "side"), [(256, 30), (128, 14), (64, 6), (32, 2), (28, 1)])
def test_output_maps(size, side):
    net = PatchDiscriminator(1, filters=2)
    assert net(torch.zeros(1, 1, size, size)).shape[-2:] == (side, side)
    assert net.output_size(size) == side


def test_instance_norm_leaves_mean_b_and_variance_a2_v():
    net = ResNetGenerator(1, 1, 1, filters=3, norm="instance-affine")
    layer = net.body[2]
    nn.init.uniform_(layer.weight, 0.5, 2)
    nn.init.uniform_(layer.bias, -1, 1)
    x = 3 + 5 * torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = layer(x)
    entry = x.var(dim=(2, 3), correction=0)
    wanted = layer.weight**2 * entry / (entry + layer.eps)
    torch.testing.assert_close(out.mean(dim=(2, 3)), layer.bias.expand(2, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.var(dim=(2, 3), correction=0), wanted, atol=1e-5, rtol=1e-5)
    assert not any(m.affine for m in ResNetGenerator(filters=1).modules() if hasattr(m, "affine"))


@pytest.mark.parametrize("norm", ["instance", "instance-affine", "batch", "none"])
def test_shapes_for_every_norm(norm):
    x = torch.zeros(2, 3, 32, 64)
    assert ResNetGenerator(3, 1, 1, filters=2, norm=norm)(x).shape == (2, 1, 32, 64)
    assert UNetGenerator(3, 2, 16, filters=2, norm=norm)(x).shape == (2, 2, 32, 64)
    assert PatchDiscriminator(3, 2, filters=2, norm=norm)(x).shape == (2, 1, 6, 14)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
def test_a_generator_that_enlarges(factor, upsampling):
    torch.manual_seed(0)
    how = {"n_blocks": 1, "filters": 2, "norm": "none", "upsampling": upsampling}
    net = UpscaleGenerator(3, 1, factor, **how)
    x = torch.randn(2, 3, 5, 7)
    seen = []
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda _m, _x, y: seen.append(tuple(y.shape[2:])))
    made = net(x)
    assert made.shape == (2, 1, 5 * factor, 7 * factor)
    # Nothing is enlarged before the network: the first layer and the blocks see small images.
    assert seen[:3] == [(5, 7)] * 3
    assert seen[-1] == (5 * factor, 7 * factor)
    made.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_unet_levels_norms_and_dropout_stand_where_published():
    net = UNetGenerator(size=256)
    # 8 levels: no norm on the outermost and the innermost down (6 left), none on the last up (7).
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 6 + 7
    assert sum(isinstance(m, nn.Dropout) for m in net.modules()) == 3
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] == [
        64, 128, 256, 512, 512, 512, 512, 512,
    ]  # fmt: skip
    seen = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _x, y: seen.append(y.shape[-1]))
    UNetGenerator.forward(net.eval(), torch.zeros(1, 3, 256, 256))
    assert seen == [128, 64, 32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize(("size", "places"), [(128, 2), (64, 1), (32, 0)])
def test_where_the_unet_has_dropout(size, places):
    net = UNetGenerator(size=size, filters=1)
    assert sum(isinstance(m, nn.Dropout) for m in net.modules()) == places


def test_batch_norm_of_one_image_is_instance_affine():
    """The reason why Pix2Pix's default norm is the published one at batch size one."""
    torch.manual_seed(0)
    batch = UNetGenerator(1, 1, 32, filters=4, norm="batch", dropout=0.0).train()
    instance = UNetGenerator(1, 1, 32, filters=4, norm="instance-affine", dropout=0.0)
    state = {k: v for k, v in batch.state_dict().items() if k in instance.state_dict()}
    instance.load_state_dict(state)
    x = torch.rand(1, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(batch(x), instance(x), atol=1e-5, rtol=1e-4)


def test_spectral_norm_bounds_every_matrix():
    torch.manual_seed(0)
    net = PatchDiscriminator(1, 2, filters=8, norm="none", spectral_norm=True)
    for _ in range(60):  # one power iteration per forward pass in training
        net(torch.randn(1, 1, 32, 32))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            top = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert top.item() == pytest.approx(1, abs=1e-2)
    assert net.receptive_field == 34


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNetGenerator(norm="layer"), "norm must be one of"),
        (lambda: ResNetGenerator(0), "in_channels must be"),
        (lambda: ResNetGenerator(dropout=1.0), "dropout must be below 1"),
        (lambda: UNetGenerator(size=48), "size must be a power of two"),
        (lambda: PatchDiscriminator(n_layers=-1), "n_layers must be"),
        (lambda: UpscaleGenerator(factor=3), "factor must be a power of two, got 3"),
        (lambda: UpscaleGenerator(factor=1), "factor must be a whole number >= 2"),
        (lambda: UpscaleGenerator(upsampling="cubic"), "upsampling must be one of"),
        (lambda: UpscaleGenerator(1, 1, 2)(torch.zeros(1, 1, 1, 4)), "sides must be at least 2"),
        (lambda: ResNetGenerator(1, 1, 1)(torch.zeros(1, 1, 30, 32)), "multiples of 4"),
        (lambda: UNetGenerator(1, 1, 16)(torch.zeros(1, 1, 40, 32)), "multiples of 16"),
        (lambda: PatchDiscriminator(1, 4)(torch.zeros(1, 1, 32, 32)), "leave an output for 32"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNetGenerator(1, 1, 3, filters=8, norm="none"),
        lambda: ResNetGenerator(1, 1, 3, filters=8, norm="none", upsampling="resize"),
        lambda: UpscaleGenerator(1, 1, 4, n_blocks=3, filters=8, norm="none"),
        lambda: UNetGenerator(1, 1, 16, filters=8, norm="none", dropout=0.0),
        lambda: PatchDiscriminator(1, 2, filters=8, norm="none"),
    ],
)
def test_without_a_norm_what_goes_in_is_not_lost_by_the_first_weights(make):
    """Outputs of different inputs differ, but less than a tanh can hold, at every width."""
    x = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        torch.manual_seed(seed)
        network = make()
        init_translator(network, "none")
        with torch.no_grad():
            assert 0.02 < float(network(x).std(0).mean()) < 0.5
