import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch.nn import functional as F

import aeot
from aeot import generator
from aeot.autoencoder import Autoencoder
from aeot.data import indices
from aeot.metrics import frechet_distance
from aeot.sharpening import displacement
from aeot.transport.extension import nearest

SMALL = {"latent_dim": 6, "batch_size": 64, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def digits():
    return aeot.dataset("digits", size=8).subset(slice(0, 300))


@pytest.fixture(scope="module")
def blurred(digits):
    return Autoencoder(**SMALL).fit(digits, steps=120, held_out=0)


def weights(part):
    return torch.cat([value.double().flatten() for value in part.state_dict().values()])


def test_displacements_have_the_covariance_of_the_codes_around():
    codes = torch.randn(30, 3, generator=generator(0), dtype=torch.float64)
    codes = codes * torch.tensor([3.0, 1.0, 0.2])
    around = torch.randperm(30, generator=generator(1))[:12]
    moved = displacement(codes, around.expand(40_000, -1), generator(2))
    expected = np.cov(codes[around].numpy().T)
    # entries of a covariance from 40 000 draws: sqrt(2 / 40 000) = 0.7 % of the variances
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(np.cov(moved.numpy().T) - expected).max() < 0.04 * scale.max()
    assert float(moved.mean(0).abs().max()) < 0.05


def test_decoded_new_codes_come_nearer_to_the_data(blurred, digits):
    before = {name: value.clone() for name, value in blurred.state()[0].items()}
    sharp = aeot.sharpen(blurred, digits, steps=200)
    for name, value in blurred.state()[0].items():
        assert torch.equal(value, before[name]), name  # the one given is left alone
    assert torch.equal(weights(sharp.encoder_), weights(blurred.encoder_))
    codes = blurred.encode(digits)
    assert torch.equal(sharp.encode(digits), codes)
    around = nearest(codes, codes, 21)[1]
    new = codes + 1.2 * displacement(codes, around, generator(9))
    real = digits[:].flatten(1)
    # Not what is trained on: a Gaussian distance of pixels, and the sharpness of edges
    distance = [frechet_distance(m.decode(new).flatten(1), real) for m in (blurred, sharp)]
    assert distance[1] < 0.9 * distance[0]
    detail = [
        (x - F.avg_pool2d(x, 3, 1, 1)).square().mean()
        for x in (blurred.decode(new), sharp.decode(new), digits[:])
    ]
    assert detail[0] < detail[1] < 1.1 * detail[2]
    assert sharp.losses_["train"] == blurred.losses_["train"]
    assert sharp.losses_["train_sharp"] == pytest.approx(sharp.error(digits))
    assert sharp.history_[-1]["phase"] == 3
    assert all(record["phase"] < 3 for record in blurred.history_)


def test_without_the_critic_it_is_the_squared_error_alone(blurred, digits):
    """One step at spread 0 and weight 0: Adam's first step moves each weight by its rate."""
    sharp = aeot.sharpen(blurred, digits, steps=1, weight=0.0, spread=0.0, learning_rate=1e-3)
    rows = next(iter(indices(len(digits), 64, seed=0, key="sharpen")))
    twin = Autoencoder.from_state(*blurred.state(), device="cpu").decoder_.train()
    twin.requires_grad_(True)
    codes = blurred.encode(digits)[rows]
    F.mse_loss(twin(torch.cat([codes, codes]))[:64], digits[rows]).backward()
    pairs = zip(sharp.decoder_.parameters(), twin.parameters(), strict=True)
    for ours, theirs in pairs:
        step = theirs.grad / (theirs.grad.abs() + 1e-8)
        assert torch.allclose(ours, theirs - 1e-3 * step, atol=1e-5)


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
        ({"batch_size": 1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
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
