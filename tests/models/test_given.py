"""An autoencoder of the caller's own in AE-OT."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import aeot
from aeot.models.given import GivenAutoencoder


@pytest.fixture(scope="module")
def digits():
    return aeot.dataset("digits", size=8).subset(slice(0, 120))


def spatial(seed=0):
    """Modules whose decoder is the encoder's inverse: 2x2 pixels become 4 channels, turned."""
    turn = torch.linalg.qr(torch.randn(4, 4, generator=aeot.generator(seed)))[0]
    encoder, decoder = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(turn[:, :, None, None])
        decoder.weight.copy_(turn.T[:, :, None, None])
    return (
        nn.Sequential(nn.PixelUnshuffle(2), encoder, nn.BatchNorm2d(4, eps=0.0), nn.Dropout(0.5)),
        nn.Sequential(decoder, nn.PixelShuffle(2)),
    )


class Latent:
    """An object as diffusers has them: what its methods return holds the tensor somewhere."""

    def __init__(self, law=True):
        self.net = nn.Linear(1, 1)
        self.law, self.config = law, SimpleNamespace(scaling_factor=0.25, shift_factor=3.0)

    def encode(self, x):
        latent = nn.functional.pixel_unshuffle(x, 4) * 8 + 3
        if self.law:
            return SimpleNamespace(latent_dist=torch.distributions.Normal(latent, 1.0))
        return SimpleNamespace(latents=latent)

    def decode(self, latent):
        return SimpleNamespace(sample=nn.functional.pixel_shuffle((latent - 3) / 8, 4))


def test_spatial_codes_are_flattened_and_restored(digits):
    pair = spatial()
    given = GivenAutoencoder(pair, digits.shape)
    assert (given.latent_shape_, given.latent_dim) == ((4, 4, 4), 64)
    codes = given.encode(digits)
    assert codes.shape == (120, 64)
    torch.testing.assert_close(given.decode(codes), digits[:], atol=1e-5, rtol=0)
    assert given.error(digits) < 1e-10
    # bytes, and rows in other company, give the same
    assert torch.equal(given.encode(digits.values[:7]), codes[:7])
    assert pair[0].training  # left as it was, but used in eval mode: no dropout, no new statistics
    assert not pair[0][2].running_mean.any()


@pytest.mark.parametrize("law", [True, False])
def test_objects_are_looked_into_and_their_scale_is_kept(digits, law):
    given = GivenAutoencoder(Latent(law), digits.shape)
    expected = nn.functional.pixel_unshuffle(digits[:], 4).flatten(1) * 2
    torch.testing.assert_close(given.encode(digits), expected)
    torch.testing.assert_close(given.decode(expected), digits[:])


def test_the_transport_is_then_the_whole_training(digits):
    model = aeot.AEOT(autoencoder=spatial(), tol=0.1).fit_transport(digits)
    assert model.certificate_["converged"]
    assert model.brenier_.sites.shape == (120, 64)
    assert torch.equal(model.brenier_.sites.cpu(), model.encode(digits))
    images = model.sample(5, seed=1)
    assert images.shape == (5, 1, 8, 8)
    assert float(images.abs().max()) <= 1
    path = model.interpolate(digits[0], digits[1], 3)
    torch.testing.assert_close(path[[0, 2]], digits[:2], atol=1e-3, rtol=0)
    fitted = aeot.AEOT(autoencoder=spatial(), tol=0.1).fit(digits, held_out=0.25)
    assert fitted.summary()["reconstruction"].keys() == {"train", "held_out"}
    assert torch.equal(fitted.sample(5, seed=1), images)


def test_masses_and_copies_carry_over(digits):
    few = digits.subset([0, 1, 2, 1])
    with pytest.warns(UserWarning, match="1 of 4 rows are exact copies"):
        model = aeot.AEOT(autoencoder=Latent(), tol=0.1).fit_transport(few, [0.4, 0.1, 0.3, 0.2])
    torch.testing.assert_close(
        model.brenier_.masses.cpu(), torch.tensor([0.4, 0.3, 0.3]).double(), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("saved", ["weights", "reference"])
def test_it_is_saved_by_weights_or_by_reference(digits, tmp_path, saved):
    pair = spatial()
    model = aeot.AEOT(autoencoder=pair, tol=0.1).fit_transport(digits)
    model.save(tmp_path / "m", weights=saved == "weights")
    images, other = model.sample(6, seed=2), spatial(seed=1)
    with pytest.raises(ValueError, match="autoencoder must be passed: the model was fitted with"):
        aeot.AEOT.load(tmp_path / "m")
    if saved == "reference":
        with pytest.raises(ValueError, match="autoencoder must hold the weights of the Sequential"):
            aeot.AEOT.load(tmp_path / "m", autoencoder=other)
        other = spatial()
    again = aeot.AEOT.load(tmp_path / "m", autoencoder=other)
    assert torch.equal(again.sample(6, seed=2), images)
    again.save(tmp_path / "again")
    assert aeot.AEOT.load(tmp_path / "again", autoencoder=other).summary() == again.summary()
    smaller = (nn.Sequential(nn.PixelUnshuffle(2)), nn.Sequential(nn.PixelShuffle(2)))
    with pytest.raises(ValueError, match="autoencoder must "):
        aeot.AEOT.load(tmp_path / "m", autoencoder=smaller)


def test_a_model_that_trained_its_own_takes_none(tmp_path):
    model = aeot.AEOT(latent_dim=2, tol=0.1, precision="float32").fit(torch.rand(40, 3), steps=2)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="autoencoder must be None: the model trained its own"):
        aeot.AEOT.load(tmp_path / "m", autoencoder=spatial())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (nn.Linear(2, 2), "be two modules"),
        ((nn.Linear(2, 2),), "be two modules"),
        ("vae", "be two modules"),
        ((nn.Linear(2, 2), nn.Linear(2, 2)), r"take rows of shape \(1, 8, 8\), got RuntimeError"),
        ((nn.Flatten(), nn.Identity()), r"take codes of shape \(64,\).* back to rows of shape"),
        ((lambda x: {"z": x}, nn.Identity()), "return a tensor, got no tensor in a dict"),
        ((lambda x: (), nn.Identity()), r"take rows .* return a tensor, got no tensor in a tuple"),
        ((lambda x: x.sum(), nn.Identity()), r"a code for each row.*, got shape \(\)"),
        # the mean and the logarithm of a variance, in the wrong order for the decoder
        (
            (lambda x: (x.flatten(1)[:, :3], x.flatten(1)), nn.Unflatten(1, (1, 8, 8))),
            r"take codes of shape \(3,\).* decoded, got RuntimeError.*the first is taken",
        ),
        ((nn.Flatten(), lambda z: {"x": z}), r"take codes .*, got no tensor in a dict"),
        ((lambda x: x.flatten(1) / 0 * 0, lambda z: z.unflatten(1, (1, 8, 8))), "finite codes"),
    ],
)
def test_what_is_no_autoencoder_is_named_before_any_work(digits, parts, words):
    with pytest.raises(ValueError, match=f"autoencoder must .*{words}"):
        aeot.AEOT(autoencoder=parts).fit(digits)


@pytest.mark.parametrize("fitted_by", ["fit", "fit_autoencoder", "fit_transport", "forecast"])
@pytest.mark.parametrize(
    "idle", [{"latent_dim": 8}, {"flips": True}, {"width": 16}, {"batch_size": 5}]
)
def test_arguments_of_a_training_that_does_not_take_place_are_refused(digits, idle, fitted_by):
    model = aeot.AEOT(autoencoder=spatial(), **idle)
    with pytest.raises(ValueError, match=f"{next(iter(idle))} must be (64|left out)"):
        getattr(model, fitted_by)(digits)


def test_the_size_that_given_codes_have_may_be_said(digits):
    aeot.AEOT(autoencoder=spatial(), latent_dim=64, device="cpu", seed=3).fit_autoencoder(digits)


def test_vectors_are_taken_too():
    rows = torch.randn(60, 3, generator=aeot.generator(0))
    pair = (nn.Linear(3, 2), nn.Linear(2, 3))
    model = aeot.AEOT(autoencoder=pair, tol=0.1).fit(rows)
    assert model.gain_ is None
    torch.testing.assert_close(model.encode(rows), pair[0](rows).detach())


diffusers_classes = [
    ("AutoencoderKL", {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 2,
                       "down_block_types": ("DownEncoderBlock2D",) * 2,
                       "up_block_types": ("UpDecoderBlock2D",) * 2}),
    ("AutoencoderTiny", {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8),
                         "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}),
    ("AutoencoderDC", {"in_channels": 3, "latent_channels": 4, "attention_head_dim": 4,
                       "encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock",
                       "encoder_block_out_channels": (8, 16), "decoder_block_out_channels": (8, 16),
                       "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1),
                       "encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ())}),
]  # fmt: skip


@pytest.mark.diffusers
@pytest.mark.parametrize(("name", "options"), diffusers_classes)
def test_autoencoders_of_diffusers(name, options, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = getattr(diffusers, name)(**options)
    colours = torch.rand(40, 3, 16, 16, generator=aeot.generator(0)) * 2 - 1
    model = aeot.AEOT(autoencoder=vae, tol=0.1).fit(colours)
    assert model.certificate_["converged"]
    with torch.no_grad():
        out = vae.eval().encode(colours)
        latent = out.latent_dist.mode() if name == "AutoencoderKL" else out[0]
        scale = vae.config.scaling_factor
        codes = model.encode(colours)
        torch.testing.assert_close(codes, latent.flatten(1) * scale, atol=1e-5, rtol=1e-4)
        images = vae.decode(codes.unflatten(1, latent.shape[1:]) / scale).sample.clamp(-1, 1)
    torch.testing.assert_close(model.autoencoder_.decode(codes), images, atol=1e-4, rtol=1e-3)
    model.save(tmp_path / "m")
    again = aeot.AEOT.load(tmp_path / "m", autoencoder=getattr(diffusers, name)(**options))
    assert torch.equal(again.sample(3, seed=1), model.sample(3, seed=1))


def test_another_size_of_codes_than_the_given_is_no_choice(digits):
    few = digits.subset(slice(0, 8))
    size = aeot.AEOT(autoencoder=spatial(), tol=0.1).fit_transport(few).autoencoder_.latent_dim
    aeot.AEOT(autoencoder=spatial(), latent_dim=size, tol=0.3).fit_transport(few)
    for call in (aeot.AEOT.fit, aeot.AEOT.fit_transport, aeot.AEOT.forecast):
        must = f"latent_dim must be {size}, as codes of .*, got {size + 1}; leave it out"
        with pytest.raises(ValueError, match=must):
            call(aeot.AEOT(autoencoder=spatial(), latent_dim=size + 1), few)
