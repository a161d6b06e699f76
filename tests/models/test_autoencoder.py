import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

import aeot
from aeot._environment import resolve_precision
from aeot._rng import generator
from aeot.models.autoencoder import Autoencoder
from aeot.training import Diverged

SMALL = {"latent_dim": 6, "batch_size": 32, "precision": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def digits():
    data = aeot.dataset("digits", size=8)
    return data.subset(slice(0, 300))


@pytest.fixture(scope="module")
def held_out():
    return aeot.dataset("digits", size=8, split="test").subset(slice(0, 100))


@pytest.fixture(scope="module")
def fitted(digits, held_out):
    return Autoencoder(**SMALL).fit(digits, steps=240, held_out=held_out)


def weights(model):
    parts = (model.encoder_, model.decoder_)
    return torch.cat([v.double().flatten() for part in parts for v in part.state_dict().values()])


def test_it_beats_the_best_linear_code_on_what_it_was_trained_on(fitted, digits):
    # An encoder of six numbers is worth having only if it does better than six principal
    # components, the best that linear maps can do. [0, 1] units: bytes / 255.
    pixels = digits.values.flatten(1).numpy() / 255
    pca = PCA(6).fit(pixels)
    linear = np.mean((pca.inverse_transform(pca.transform(pixels)) - pixels) ** 2)
    assert fitted.losses_["train"] < linear
    own = fitted.decode(fitted.encode(digits)).add(1).div(2).flatten(1).numpy()
    assert np.mean((own - pixels) ** 2) == pytest.approx(fitted.losses_["train"], rel=1e-4)


def test_the_decoder_phase_lowers_the_loss(fitted):
    assert fitted.losses_.keys() == {"train_joint", "held_out_joint", "train", "held_out"}
    assert fitted.losses_["train"] < fitted.losses_["train_joint"]
    phases = [record["phase"] for record in fitted.history_]
    assert phases == sorted(phases)
    assert {1, 2} == set(phases)
    assert [r["step"] for r in fitted.history_ if r["phase"] == 2][-1] == 80


def test_the_decoder_phase_leaves_the_encoder_alone(digits, monkeypatch):
    """Its batch statistics too: codes must be the same before and after phase 2."""
    seen = {}
    plain = Autoencoder._train

    def watched(self, data, name, *args, **options):
        if name == "decoder":
            seen["before"] = {k: v.clone() for k, v in self.encoder_.state_dict().items()}
            seen["codes"] = self.encode(digits)
            assert not self.encoder_.training
            assert not any(p.requires_grad for p in self.encoder_.parameters())
        return plain(self, data, name, *args, **options)

    monkeypatch.setattr(Autoencoder, "_train", watched)
    model = Autoencoder(**SMALL).fit(digits, steps=12, held_out=0)
    for name, value in model.encoder_.state_dict().items():
        assert torch.equal(value, seen["before"][name]), name
    assert torch.equal(model.encode(digits), seen["codes"])
    assert model.losses_.keys() == {"train_joint", "train"}


def test_the_same_seed_gives_the_same_model(digits):
    first = Autoencoder(**SMALL, seed=3).fit(digits, steps=9)
    torch.rand(7)  # what happens to the global generator does not matter
    again = Autoencoder(**SMALL, seed=3).fit(digits, steps=9)
    other = Autoencoder(**SMALL, seed=4).fit(digits, steps=9)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("stop", [5, 13])  # in the first and in the second phase
def test_a_resumed_fit_equals_an_uninterrupted_one(digits, tmp_path, stop):
    straight = Autoencoder(**SMALL).fit(digits, steps=15)
    calls = []

    def interrupt(step, record):
        calls.append(step)
        if len(calls) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Autoencoder(**SMALL).fit(digits, steps=15, checkpoint=tmp_path, on_step=interrupt)
    resumed = Autoencoder(**SMALL).fit(digits, steps=15, checkpoint=tmp_path)
    assert torch.equal(weights(resumed), weights(straight))
    assert resumed.losses_ == straight.losses_


def test_results_do_not_depend_on_what_else_is_encoded(fitted, digits):
    everything = fitted.encode(digits)
    assert torch.equal(fitted.encode(digits[torch.arange(7)]), everything[:7])
    assert torch.equal(fitted.encode(digits[260:]), everything[260:])
    codes = torch.randn(300, 6, generator=generator(0, "codes"))
    assert torch.equal(fitted.decode(codes)[:3], fitted.decode(codes[:3]))


def test_saved_is_loaded(fitted, digits, tmp_path):
    fitted.save(tmp_path / "model")
    back = Autoencoder.load(tmp_path / "model")
    assert torch.equal(back.encode(digits), fitted.encode(digits))
    assert back.losses_ == fitted.losses_
    assert back.history_ == fitted.history_
    assert back.arguments() | {"device": "cpu"} == fitted.arguments()
    with pytest.raises(ValueError, match="holds a 'Autoencoder', not a 'AEOT'"):
        aeot.AEOT.load(tmp_path / "model")


def test_vectors_of_any_unit(tmp_path):
    draw = generator(0, "vectors")
    plane = torch.randn(400, 2, generator=draw) @ torch.randn(2, 6, generator=draw)
    small = Autoencoder(latent_dim=2, precision="float32").fit(plane, steps=300)
    large = Autoencoder(latent_dim=2, precision="float32").fit(1000 * plane + 5e3, steps=300)
    variance = float(plane.var())
    assert small.losses_["held_out"] < 0.02 * variance
    assert large.losses_["held_out"] < 0.02 * variance * 1e6
    rows = 1000 * plane[:5] + 5e3
    restored = large.decode(large.encode(rows))
    assert float((restored - rows).square().mean()) < 0.05 * variance * 1e6
    large.save(tmp_path / "m")
    assert torch.equal(Autoencoder.load(tmp_path / "m").decode(large.encode(rows)), restored)


def test_bfloat16_trains_about_as_well(digits, held_out, fitted):
    rough = Autoencoder(**SMALL | {"precision": "bfloat16"}).fit(
        digits, steps=240, held_out=held_out
    )
    assert rough.precision_ == "bfloat16"
    assert rough.encode(digits).dtype == torch.float32
    assert rough.losses_["held_out"] == pytest.approx(fitted.losses_["held_out"], rel=0.25)


def test_precision_is_resolved():
    cpu = torch.device("cpu")
    assert resolve_precision("float32", cpu) == "float32"
    assert resolve_precision("bfloat16", cpu) == "bfloat16"
    assert resolve_precision("auto", cpu) in ("float32", "bfloat16")
    with pytest.raises(ValueError, match="precision must be one of"):
        resolve_precision("float16", cpu)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent_dim": 0}, "latent_dim must be a whole number >= 1"),
        ({"batch_size": 1}, "batch_size must be a whole number >= 2"),
        ({"learning_rate": 0.0}, "learning_rate must be"),
        ({"decoder_rate": math.nan}, "decoder_rate must be"),
        ({"architecture": "vgg"}, "architecture must be one of"),
        ({"precision": "half"}, "precision must be one of"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
    ],
)
def test_bad_arguments_are_named_before_any_work(digits, options, words):
    with pytest.raises(ValueError, match=words):
        Autoencoder(**SMALL | options).fit(digits)


def test_bytes_are_read_as_images(digits, fitted):
    assert torch.equal(fitted.encode(digits.values[:5]), fitted.encode(digits.subset(slice(0, 5))))
    assert torch.equal(fitted.encode(digits.values[:5].numpy()), fitted.encode(digits[:5]))
    with pytest.raises(ValueError, match=r"data must lie in \[-1, 1\], got values from 0 to 2"):
        fitted.encode(digits.values[:5].float())


def test_bad_data_is_named(digits, fitted):
    with pytest.raises(ValueError, match="data must hold at least 2 rows"):
        Autoencoder(**SMALL).fit(digits.subset([0]))
    with pytest.raises(ValueError, match="steps must be a whole number >= 2"):
        Autoencoder(**SMALL).fit(digits, steps=1)
    with pytest.raises(ValueError, match="held_out must have rows of shape"):
        Autoencoder(**SMALL).fit(digits, held_out=aeot.dataset("digits", split="test"))
    with pytest.raises(ValueError, match="held_out must be"):
        Autoencoder(**SMALL).fit(digits, held_out=0.9)
    with pytest.raises(ValueError, match=r"data must hold rows of shape \(1, 8, 8\)"):
        fitted.encode(torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="codes must have 6 columns"):
        fitted.decode(torch.zeros(2, 5))
    with pytest.raises(NotFittedError, match="call fit"):
        Autoencoder().encode(digits)


def test_a_diverging_fit_says_so(digits):
    with pytest.raises(Diverged, match="lower the learning rate"):
        Autoencoder(latent_dim=2, precision="float32", learning_rate=1e30).fit(
            torch.randn(64, 3, generator=generator(0)), steps=50
        )
