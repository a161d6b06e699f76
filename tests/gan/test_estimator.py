"""What a fit leaves behind when it is refused, interrupted or diverges, and what saving keeps."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from aeot import (
    ALI,
    BEGAN,
    DRAGAN,
    GAN,
    GLANN,
    GLO,
    IMLE,
    LSGAN,
    VAE,
    WGAN,
    WGANGP,
    ConditionalWGANGP,
    CycleGAN,
    FlowMatching,
    PacGAN,
    _io,
)
from aeot.data import tensors, toy, unpaired
from aeot.training import Diverged

SMALL = {"latent_dim": 2, "hidden": 8, "batch_size": 10}
NARROW = {"latent_dim": 2, "width": 8, "batch_size": 10}
FAMILY = [
    GAN(**SMALL),
    GAN(**SMALL, kernels=3),
    GAN(**SMALL, spectral=True, loss="minimax"),
    LSGAN(**SMALL, packing=2),
    DRAGAN(**SMALL),
    BEGAN(**SMALL),
    PacGAN(**SMALL, packing=3),
    ALI(**SMALL),
    WGAN(**SMALL, warm_up_steps=7),
    WGANGP(**SMALL),
    WGANGP(**SMALL, grouped=True, one_sided=True, where="real"),
    ConditionalWGANGP(**SMALL),
    VAE(**NARROW, likelihood="gaussian", std=0.1),
    GLO(**NARROW),
    GLANN(**NARROW, noise_dim=3, mapping_share=0.5),
    IMLE(batch_size=50, noise_dim=3),
    FlowMatching(hidden=8, batch_size=10),
]


@pytest.fixture(scope="module")
def ring():
    return toy("ring", 200, seed=1)


def weights(model):
    return {name: tensor.clone() for name, tensor in _io.pack(model.state())[0].items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("model", FAMILY, ids=repr)
def test_resume_equals_never_stopping(model, ring, tmp_path):
    stop = lambda step, record: step == 7  # noqa: E731 - a run that was cut short
    straight = dataclasses.replace(model).fit(ring, steps=10)
    cut = dataclasses.replace(model).fit(ring, steps=10, checkpoint=tmp_path / "run", on_step=stop)
    assert not same(weights(straight), weights(cut))
    resumed = dataclasses.replace(model).fit(ring, steps=10, checkpoint=tmp_path / "run")
    assert same(weights(straight), weights(resumed))
    again = dataclasses.replace(model, seed=1).fit(ring, steps=10)
    assert not same(weights(straight), weights(again))


@pytest.mark.parametrize("model", FAMILY, ids=repr)
def test_what_is_saved_samples_the_same(model, ring, tmp_path):
    model = dataclasses.replace(model).fit(ring, steps=2)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    assert torch.equal(loaded.sample(600, seed=3), model.sample(600, seed=3))
    assert loaded.arguments() == model.arguments() | {"device": "cpu"}  # where it was asked to be
    assert repr(type(model).load(tmp_path / "model")) == repr(model)
    assert loaded.history_ == model.history_
    assert loaded.sample(4).shape == (4, 2)
    assert not torch.equal(model.sample(5, seed=3), model.sample(5, seed=4))


def test_sampling_inside_a_hook_changes_nothing(ring):
    quiet = GAN(**SMALL).fit(ring, steps=4)
    watched = GAN(**SMALL)
    watched.fit(ring, steps=4, on_step=lambda step, record: watched.sample(5) is None)
    assert same(weights(quiet), weights(watched))


def test_another_fit_forgets_the_networks_of_the_one_before():
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    model = CycleGAN(filters=4, n_layers=1, n_blocks=0, batch_size=2)
    assert "critic_a" in model.fit(unpaired(images, -images), steps=1).count_parameters()
    model.adversary = "sinkhorn"
    assert "critic_a" not in model.fit(unpaired(images, -images), steps=1).count_parameters()


def test_a_refused_fit_leaves_the_model_that_was_there(tmp_path):
    ring = toy("ring", 100)
    GAN(**SMALL, seed=5).fit(ring, steps=2, checkpoint=tmp_path / "other")
    gan = GAN(**SMALL)
    for model in (gan, gan.fit(ring, steps=3)):
        fitted = hasattr(model, "history_")
        before = model.sample(4) if fitted else None
        with pytest.raises(ValueError, match="seed must be 5 as when .* began"):
            model.fit(ring, steps=5, checkpoint=tmp_path / "other")
        if fitted:
            assert torch.equal(model.sample(4), before)
            assert model.history_[-1]["step"] == 3
    fresh = dataclasses.replace(gan, batch_size=1)
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        fresh.fit(ring, steps=1)
    with pytest.raises(NotFittedError):
        fresh.sample(2)


def test_what_a_diverged_or_stopped_fit_restored_can_be_saved(tmp_path, monkeypatch):
    ring, gan = toy("ring", 100), GAN(**SMALL)
    update = GAN._update

    def broken(self, step, rows, real):
        record = update(self, step, rows, real)
        if step == 120:
            record["critic_loss"] = float("nan")
        return record

    monkeypatch.setattr(GAN, "_update", broken)
    with pytest.raises(Diverged, match="the state of step 100 was restored"):
        gan.fit(ring, steps=130)
    assert [record["step"] for record in gan.history_] == [100]
    gan.save(tmp_path / "kept")
    monkeypatch.undo()
    straight = GAN(**SMALL).fit(ring, steps=100)
    assert torch.equal(GAN.load(tmp_path / "kept").sample(5), straight.sample(5))

    def stop(step, record):
        gan.save(tmp_path / "kept", overwrite=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gan.fit(ring, steps=130, on_step=stop)
    assert torch.equal(GAN.load(tmp_path / "kept").sample(5), gan.sample(5))


@pytest.mark.parametrize("kind", [GAN, WGANGP, BEGAN])
def test_in_bfloat16_no_step_sees_the_weights_of_the_one_before(kind, monkeypatch):
    extra = {} if kind is BEGAN else {"critic_steps": 3}
    model = kind(**SMALL, **extra, precision="bfloat16", learning_rate=0.05)
    points, seen = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), []
    critic_step, generator_step = kind._critic_step, kind._generator_step

    def look(self):
        with torch.no_grad():
            seen.append(float(self._score(points).float().abs().sum()))

    def watched(self, *given):
        look(self)
        return critic_step(self, *given)

    def last(self, *given):
        look(self)
        return generator_step(self, *given)

    monkeypatch.setattr(kind, "_critic_step", watched)
    monkeypatch.setattr(kind, "_generator_step", last)
    model.fit(toy("ring", 300), steps=1)
    assert len(set(seen)) == len(seen) > 1


def test_numpy_numbers_are_saved_and_resumed(tmp_path):
    ring = toy("ring", 100)
    given = SMALL | {"learning_rate": np.float32(1e-3), "latent_dim": np.int64(2)}
    gan = GAN(**given, seed=np.int64(3)).fit(ring, steps=2, checkpoint=tmp_path / "run")
    gan.save(tmp_path / "model")
    assert torch.equal(GAN.load(tmp_path / "model").sample(3), gan.sample(3))
    given = SMALL | {"learning_rate": float(np.float32(1e-3))}
    GAN(**given, seed=3).fit(ring, steps=3, checkpoint=tmp_path / "run")
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    small = {"filters": 4, "n_layers": 1, "n_blocks": 0}
    cycle = CycleGAN(**small, device=torch.device("cpu")).fit(unpaired(images, -images), steps=1)
    cycle.save(tmp_path / "cycle")
    assert CycleGAN.load(tmp_path / "cycle", device="cpu").device == "cpu"


def test_a_save_replaces_neither_files_of_others_nor_a_checkpoint(tmp_path):
    ring, path = toy("ring", 100), tmp_path / "run"
    gan = GAN(**SMALL).fit(ring, steps=1, checkpoint=path)
    with pytest.raises(ValueError, match="an earlier save of a 'GAN', got .* with a 'checkpoint'"):
        gan.save(path)
    gan.fit(ring, steps=2, checkpoint=path)
    gan.save(tmp_path / "model")
    gan.save(tmp_path / "model", overwrite=True)
    (tmp_path / "model" / "samples.png").write_text("mine")
    with pytest.raises(ValueError, match="other files in it, such as samples.png"):
        gan.save(tmp_path / "model", overwrite=True)
    assert (tmp_path / "model" / "samples.png").read_text() == "mine"


def test_a_discriminator_of_began_fits_whatever_its_generator_fits():
    images = torch.rand(4, 1, 40, 40) * 2 - 1
    assert BEGAN(latent_dim=4, batch_size=2).fit(images, steps=1).sample(2).shape == (2, 1, 40, 40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CycleGAN(flip="no"), "flip must be True or False, got 'no'"),
        (lambda: CycleGAN(betas=0.5), r"betas must be two numbers in \[0, 1\), got 0.5"),
    ],
)
def test_arguments_of_all_families_are_checked(make, message):
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    model = make()
    with pytest.raises(ValueError, match=message):
        model.fit(unpaired(images, -images) if isinstance(model, CycleGAN) else images, steps=1)


def test_data_without_rows_and_labels_without_bound_are_named():
    ring = toy("ring", 100)
    with pytest.raises(ValueError, match="data must hold at least one row, got none"):
        GAN(**SMALL).fit(ring.subset([]), steps=1)
    huge = tensors(torch.randn(4, 2), labels=[0, 1, 10**12, 1])
    with pytest.raises(ValueError, match="to 1000000000000, got none of label 2"):
        ConditionalWGANGP(**SMALL).fit(huge, steps=1)
    listed = GAN(**SMALL, betas=[0.0, 0.999])  # the default, as a list
    assert listed.fit(ring, steps=1).history_


def test_loaded_networks_are_in_eval_mode(tmp_path):
    model = GAN(latent_dim=2, hidden=8, batch_size=10).fit(toy("ring", 100), steps=1)
    model.save(tmp_path / "m")
    back = GAN.load(tmp_path / "m", device="cpu")
    assert not any(m.training for m in [*back.generator_.modules(), *back.critic_.modules()])
