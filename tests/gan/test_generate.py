"""The GAN family as estimators: updates by hand, resume, divergence, storage."""

import dataclasses

import pytest
import torch
from sklearn.exceptions import NotFittedError

import aeot
from aeot import ALI, BEGAN, DRAGAN, GAN, LSGAN, WGAN, WGANGP, ConditionalWGANGP, PacGAN
from aeot._rng import generator
from aeot.data import tensors, toy
from aeot.gan import losses
from aeot.training import Diverged

SMALL = {"latent_dim": 2, "hidden": 8, "batch_size": 10}
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
]
NAMES = [f"{type(m).__name__}-{i}" for i, m in enumerate(FAMILY)]


@pytest.fixture(scope="module")
def ring():
    return toy("ring", 300, seed=1)


def weights(model):
    return {
        f"{n}.{k}": v.clone() for n, m in model._modules.items() for k, v in m.state_dict().items()
    }


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("model", FAMILY, ids=NAMES)
def test_resume_equals_never_stopping(model, ring, tmp_path):
    straight = dataclasses.replace(model).fit(ring, steps=6)
    dataclasses.replace(model).fit(ring, steps=4, checkpoint=tmp_path / "run")
    resumed = dataclasses.replace(model).fit(ring, steps=6, checkpoint=tmp_path / "run")
    assert same(weights(straight), weights(resumed))
    again = dataclasses.replace(model, seed=1).fit(ring, steps=6)
    assert not same(weights(straight), weights(again))


@pytest.mark.parametrize("model", FAMILY, ids=NAMES)
def test_what_is_saved_samples_the_same(model, ring, tmp_path):
    model = dataclasses.replace(model).fit(ring, steps=2)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    torch.testing.assert_close(
        loaded.sample(600, seed=3), model.sample(600, seed=3), rtol=0, atol=0
    )
    assert dataclasses.asdict(loaded) == dataclasses.asdict(model)
    assert loaded.history_ == model.history_
    assert not torch.equal(model.sample(5, seed=3), model.sample(5, seed=4))


def test_every_architecture_takes_images(tmp_path):
    images = tensors(torch.rand(60, 1, 8, 8) * 2 - 1, labels=torch.arange(60) % 3)
    for kind in (GAN, LSGAN, DRAGAN, BEGAN, PacGAN, ALI, WGANGP, ConditionalWGANGP):
        model = kind(latent_dim=4, batch_size=6).fit(images, steps=1)
        assert model.sample(3).shape == (3, 1, 8, 8)
    mixed = WGANGP(latent_dim=4, batch_size=6, precision="bfloat16").fit(images, steps=1)
    assert mixed.history_[0]["gradient_norm"] > 0


def test_simultaneous_update_takes_both_gradients_at_the_same_point(ring):
    start = GAN(**SMALL, simultaneous=True, learning_rate=0.01, betas=(0.5, 0.9))
    begun, ended = (dataclasses.replace(start).fit(ring, steps=s) for s in (0, 1))
    rows = next(aeot.loader(ring, 10, seed=0))
    latent = torch.rand(10, 2, generator=generator(0, "noise", 0)) * 2 - 1
    g, d = begun.generator_.train(), begun.critic_
    fake = g(latent)
    movers = [torch.optim.Adam(m.parameters(), lr=0.01, betas=(0.5, 0.9)) for m in (g, d)]
    slopes = [
        torch.autograd.grad(loss, list(m.parameters()), retain_graph=True)
        for loss, m in (
            (losses.nonsaturating_generator_loss(d(fake)), g),
            (losses.logistic_critic_loss(d(rows), d(fake)), d),
        )
    ]
    for mover, network, slope in zip(movers, (g, d), slopes, strict=True):
        for parameter, value in zip(network.parameters(), slope, strict=True):
            parameter.grad = value
        mover.step()
    for mine, theirs in ((ended.generator_, g), (ended.critic_, d)):
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q)


def test_alternating_update_moves_the_discriminator_first(ring):
    # With a discriminator that the first half-step has moved, the generator's slope differs.
    models = [GAN(**SMALL, simultaneous=s, learning_rate=0.1).fit(ring, steps=1) for s in (0, 1)]
    critics = [list(m.critic_.parameters()) for m in models]
    for p, q in zip(*critics, strict=True):
        torch.testing.assert_close(p, q)
    assert not same(weights(models[0]), weights(models[1]))


def test_critic_steps_and_warm_up_are_counted(ring, monkeypatch):
    calls = []
    step = WGAN._critic_step

    def counted(self, real, stream, rows):
        calls.append(len(real))
        return step(self, real, stream, rows)

    monkeypatch.setattr(WGAN, "_critic_step", counted)
    WGAN(**SMALL, critic_steps=3, warm_up_steps=5).fit(ring, steps=27)
    assert calls == [10] * (25 * 5 + 2 * 3)


def test_clipped_critic_obeys_its_bound_up_to_one_step(ring):
    model = WGAN(**SMALL, clip=0.01, warm_up_steps=5).fit(ring, steps=3)
    largest = max(float(p.abs().max()) for p in model.critic_.parameters())
    # RMSprop moves a weight by at most rate / sqrt(1 - 0.99) after clipping.
    assert largest <= 0.01 + 5e-5 * 10 + 1e-6


def test_pack_members_are_normalised_apart(ring):
    model = PacGAN(**SMALL, packing=3).fit(ring, steps=0)
    model.generator_.train()
    packed = model._fakes(10, generator(0, "x"))
    stream = generator(0, "x")
    parts = [model.generator_(torch.randn(10, 2, generator=stream)) for _ in range(3)]
    torch.testing.assert_close(packed, torch.cat(parts, dim=1))


def test_ali_moves_encoder_and_generator_by_their_common_loss(ring):
    start = ALI(**SMALL).fit(ring, steps=0)
    end = ALI(**SMALL).fit(ring, steps=1)
    for m in start._modules.values():
        m.train()
    rows = next(aeot.loader(ring, 10, seed=0))
    stream = generator(0, "noise", 0)
    latent = torch.randn(10, 2, generator=stream)
    blur = torch.randn(10, 2, generator=stream)
    fake = start.generator_(latent)
    code = start.encoder_(torch.cat([rows, blur], 1))
    good = start.critic_(torch.cat([rows, code], 1))
    bad = start.critic_(torch.cat([fake, latent], 1))
    soft = torch.nn.functional.softplus
    parameters = [*start.generator_.parameters(), *start.encoder_.parameters()]
    slopes = torch.autograd.grad((soft(good) + soft(-bad)).mean(), parameters)
    moved = [*end.generator_.parameters(), *end.encoder_.parameters()]
    for before, after, slope in zip(parameters, moved, slopes, strict=True):
        # Adam's first step is the rate times the sign of the slope.
        clear = slope.abs() > 1e-6
        step = (before - after)[clear]
        torch.testing.assert_close(step, 1e-4 * slope[clear].sign(), rtol=0.05, atol=1e-7)


def test_began_balance_follows_its_equation(ring):
    model = BEGAN(**SMALL, rate=0.5, ratio=0.9).fit(ring, steps=2)
    start = BEGAN(**SMALL, rate=0.5, ratio=0.9).fit(ring, steps=0)
    start.generator_.train()
    rows = next(aeot.loader(ring, 10, seed=0))
    with torch.no_grad():
        fake = start.generator_(torch.rand(10, 2, generator=generator(0, "noise", 0)) * 2 - 1)
        good, bad = ((start.critic_(x) - x).abs().mean().item() for x in (rows, fake))
    first = BEGAN(**SMALL, rate=0.5, ratio=0.9).fit(ring, steps=1)
    wanted = min(max(0.5 * (0.9 * good - bad), 0), 1)
    assert float(first.critic_.balance) == pytest.approx(wanted, rel=1e-4)
    assert float(model.critic_.balance) != float(first.critic_.balance)


def test_labels_steer_the_conditional_generator():
    stream = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 2
    points = torch.randn(2000, 1, generator=stream) * 0.3 + 4 * labels[:, None] - 2
    model = ConditionalWGANGP(
        latent_dim=1, hidden=32, batch_size=64, penalty=1.0, learning_rate=2e-3
    ).fit(tensors(points, labels=labels), steps=150)
    low, high = (model.sample(200, labels=[k] * 200).mean() for k in (0, 1))
    assert float(low) == pytest.approx(-2, abs=0.7)
    assert float(high) == pytest.approx(2, abs=0.7)
    record = model.history_[-1]
    assert {"gradient_norm_0", "gradient_norm_1", "score_gap"} <= record.keys()
    with pytest.raises(ValueError, match="labels must be 2 whole numbers below 2"):
        model.sample(2, labels=[0, 2])


def test_divergence_stops_within_a_step_and_keeps_the_last_good_state(ring, tmp_path):
    model = LSGAN(**SMALL)
    kept = {}

    def poison(step, record):
        if step == 100:
            kept.update(weights(model))
        if step == 120:
            with torch.no_grad():
                model.generator_[0].weight[0, 0] = float("nan")

    with pytest.raises(Diverged, match=r"_(loss|gap)' became nan at step 121.*step 100"):
        model.fit(ring, steps=200, checkpoint=tmp_path / "run", on_step=poison)
    assert same(weights(model), kept)
    resumed = LSGAN(**SMALL).fit(ring, steps=100, checkpoint=tmp_path / "run")
    assert same(weights(resumed), kept)


def test_sampling_inside_a_hook_changes_nothing(ring):
    quiet = GAN(**SMALL).fit(ring, steps=4)
    watched = GAN(**SMALL)
    watched.fit(ring, steps=4, on_step=lambda step, record: watched.sample(5) is None)
    assert same(weights(quiet), weights(watched))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (GAN(latent_dim=0), "latent_dim must be a whole number >= 1, got 0"),
        (GAN(loss="hinge"), "loss must be one of"),
        (GAN(architecture="infogan"), "architecture must fit the data"),
        (GAN(simultaneous=True, critic_steps=2), "critic_steps must be 1"),
        (WGANGP(simultaneous=True), "critic_steps must be 1 if simultaneous, got 5"),
        (WGANGP(penalty=-1.0), "penalty must be a finite number >= 0"),
        (BEGAN(packing=2), "packing must keep its default"),
        (WGANGP(grouped=True), "data must have labels"),
    ],
)
def test_bad_arguments_are_named_before_any_work(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(torch.zeros(20, 2), steps=10**9)


def test_critic_with_penalty_refuses_batch_normalisation():
    with pytest.raises(ValueError, match="critic_batch_norm must be False"):
        WGANGP(critic_batch_norm=True).fit(torch.zeros(20, 1, 8, 8), steps=10**9)


def test_unfitted_models_say_so(tmp_path):
    for call in (lambda: GAN().sample(1), lambda: GAN().save(tmp_path), GAN().count_parameters):
        with pytest.raises(NotFittedError, match="GAN is not fitted"):
            call()


def test_default_networks_have_the_published_sizes():
    points = torch.zeros(10, 2)
    counts = GAN(latent_dim=2).fit(points, steps=0).count_parameters()
    assert counts == {"generator": 484_802, "critic": 405_201}
    counts = ALI(latent_dim=2).fit(points, steps=0).count_parameters()
    assert counts["encoder"] == 164_002
    counts = WGANGP(latent_dim=2).fit(points, steps=0).count_parameters()
    assert counts == {"generator": 527_874, "critic": 527_361}
    counts = GAN().fit(torch.zeros(4, 1, 28, 28), steps=0).count_parameters()
    assert counts == {"generator": 6_642_241, "critic": 6_559_169}
