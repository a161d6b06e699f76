import math
import time

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

import aeot
from aeot._environment import resolve_precision
from aeot._rng import generator
from aeot.models.autoencoder import Autoencoder, _Plateau
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
        Autoencoder(latent_dim=2, precision="float32", learning_rate=1e6).fit(
            torch.randn(64, 3, generator=generator(0)), steps=50
        )


def test_flips_and_shifts_are_what_they_say(digits):
    images = digits[:40]
    mirrored = Autoencoder(**SMALL, flips=True)._augmented(images, 3)
    same = (mirrored == images).flatten(1).all(1)
    turned = (mirrored == images.flip(-1)).flatten(1).all(1)
    assert bool((same | turned).all())
    assert 8 < int(turned.sum()) < 32  # 20 of 40, four standard deviations
    moved = Autoencoder(**SMALL, shifts=2)._augmented(images, 3)
    padded = torch.nn.functional.pad(images, [2] * 4, mode="replicate")
    places = [(i, j) for i in range(5) for j in range(5)]
    options = torch.stack([padded[..., i : i + 8, j : j + 8] for i, j in places])
    found = (options == moved).flatten(2).all(2)
    assert bool(found.any(0).all())
    assert bool(found.any(1).sum() > 15)  # of 25 places
    assert not torch.equal(moved, Autoencoder(**SMALL, shifts=2)._augmented(images, 4))


def test_augmentation_is_of_images_and_of_the_first_phase(digits, monkeypatch):
    seen = []
    plain = Autoencoder._augmented

    def watched(self, rows, step):
        seen.append(step)
        return plain(self, rows, step)

    monkeypatch.setattr(Autoencoder, "_augmented", watched)
    Autoencoder(**SMALL, flips=True).fit(digits, steps=9)
    assert seen == list(range(6))
    for options in ({"flips": True}, {"shifts": 1}):
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"{name} must be left out for vectors"):
            Autoencoder(**SMALL, **options).fit(torch.rand(9, 3))
    with pytest.raises(ValueError, match="shifts must be below 8 pixels, got 8"):
        Autoencoder(**SMALL, shifts=8).fit(digits)
    with pytest.raises(ValueError, match="flips must be True or False"):
        Autoencoder(**SMALL, flips="yes").fit(digits)


def plateau(losses, window=10):
    """Return the rate of each step, and the step after which training is done."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = _Plateau(optimizer, window)
    rates = []
    for step, loss in enumerate(losses, start=1):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step(loss)
        if schedule.done():
            return rates, step
    return rates, None


def test_the_rate_falls_where_the_loss_stops_falling():
    rates, end = plateau([0.98**k for k in range(2000)])
    assert end is None  # it falls by 18 % a window all the time
    assert rates[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert set(rates[100:]) == {1.0}
    rates, end = plateau([1.0] * 2000)
    # The first window is the best; after three more the rate falls, three times.
    assert end == 10 + 3 * 30
    rates, end = plateau([0.98 ** min(k, 200) for k in range(2000)])
    # The last fall by 1 % is in the window of steps 200 to 209; the next three are the plateau.
    assert [rates[k] for k in (230, 240, 270)] == pytest.approx([1.0, 0.1, 0.01])
    assert end == 300


def test_training_to_a_plateau_resumes_exactly(tmp_path):
    options = {"steps": 900, "stop": "plateau", "held_out": 0}
    few = torch.randn(20, 3, generator=generator(0, "few"))
    settings = SMALL | {"learning_rate": 1e-5, "decoder_rate": 1e-5}  # little is learned
    straight = Autoencoder(**settings).fit(few, **options)
    phases = [[r["step"] for r in straight.history_ if r["phase"] == k] for k in (1, 2)]
    calls = []

    def interrupt(step, record):
        calls.append(step)
        if len(calls) in (150, 700):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            Autoencoder(**settings).fit(few, checkpoint=tmp_path, on_step=interrupt, **options)
    resumed = Autoencoder(**settings).fit(few, checkpoint=tmp_path, **options)
    assert torch.equal(weights(resumed), weights(straight))
    assert phases == [[r["step"] for r in resumed.history_ if r["phase"] == k] for k in (1, 2)]
    with pytest.raises(ValueError, match="stop must be one of 'steps', 'plateau'"):
        Autoencoder(**settings).fit(few, stop="never")


def test_a_forecast_is_near_what_a_fit_takes(digits):
    model = Autoencoder(**SMALL)
    told = model.forecast(digits, steps=150)
    begun = time.perf_counter()
    model.fit(digits, steps=150, held_out=0)
    took = time.perf_counter() - begun
    assert told.keys() == {"autoencoder", "encoding"}
    assert took / 4 < told["autoencoder"] < 4 * took  # the machine has others to serve
    double = model.forecast(digits, steps=300)["autoencoder"]
    assert double > 1.2 * told["autoencoder"] / 2
    assert not hasattr(Autoencoder(**SMALL), "encoder_")


def test_models_saved_without_the_name_of_their_architecture_are_those_of_before(digits):
    old = Autoencoder(**SMALL, architecture="infogan").fit(digits, steps=2)
    state = old.state()
    del state["learned"]["architecture_"]
    state["arguments"]["architecture"] = "auto"  # which was "infogan" then
    again = Autoencoder.from_state(state)
    assert torch.equal(again.encode(digits), old.encode(digits))
    assert Autoencoder.from_state(again.state()).architecture_ == "infogan"
