"""The GAN family as estimators: updates by hand, resume, divergence, storage."""

import copy
import dataclasses

import pytest
import torch

import aeot
from aeot import ALI, BEGAN, DRAGAN, GAN, LSGAN, WGAN, WGANGP, ConditionalWGANGP, PacGAN, _io
from aeot._rng import generator
from aeot.data import tensors, toy
from aeot.gan import losses
from aeot.training import Diverged

SMALL = {"latent_dim": 2, "hidden": 8, "batch_size": 10}


@pytest.fixture(scope="module")
def ring():
    return toy("ring", 300, seed=1)


def weights(model):
    return {name: tensor.clone() for name, tensor in _io.pack(model.state())[0].items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[k], second[k]) for k in first)


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


def test_alternating_update_moves_the_discriminator_first(ring, monkeypatch):
    asked = []  # the discriminator that the generator's step asks
    step = GAN._generator_step

    def spy(self, rows, stream):
        asked.append([p.clone() for p in self.critic_.parameters()])
        return step(self, rows, stream)

    monkeypatch.setattr(GAN, "_generator_step", spy)
    begun = GAN(**SMALL, learning_rate=0.1).fit(ring, steps=0)
    ended = GAN(**SMALL, learning_rate=0.1).fit(ring, steps=1)
    (critic,) = asked
    was, now, last = (
        torch.cat([p.flatten() for p in side])
        for side in (begun.critic_.parameters(), critic, ended.critic_.parameters())
    )
    assert not torch.equal(was, now)
    assert torch.equal(now, last)


def test_critic_steps_and_warm_up_are_counted(ring, monkeypatch):
    calls = []
    step = WGAN._critic_step

    def counted(self, real, rows, stream):
        calls.append(len(real))
        return step(self, real, rows, stream)

    monkeypatch.setattr(WGAN, "_critic_step", counted)
    WGAN(**SMALL, critic_steps=3, warm_up_steps=5).fit(ring, steps=27)
    assert calls == [10] * (25 * 5 + 2 * 3)


def test_clipped_critic_obeys_its_bound_up_to_one_step(ring):
    model = WGAN(**SMALL, clip=0.01, warm_up_steps=5).fit(ring, steps=3)
    largest = max(float(p.detach().abs().max()) for p in model.critic_.parameters())
    # RMSprop moves a weight by at most rate / sqrt(1 - 0.99) after clipping.
    assert largest <= 0.01 + 5e-5 * 10 + 1e-6


def slopes(network):
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]


def started(model, data):
    """Fit no step, but leave networks and data as they are in the middle of training."""
    model.fit(data, steps=0)
    model._data = data
    for module in model._modules.values():
        module.train()
    return model


def steep(model):
    """Give the networks of 2-D experiments larger weights: under the first ones slopes vanish."""
    with torch.no_grad():
        for module in model._modules.values():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator(0, "steep")) / 3)
    return model


FORMULAS = {  # name -> of the real and fake scores, the critic's and the generator's loss
    "minimax": (
        lambda r, f: -(torch.sigmoid(r).log().mean() + (1 - torch.sigmoid(f)).log().mean()),
        lambda f: (1 - torch.sigmoid(f)).log().mean(),
    ),
    "non-saturating": (
        lambda r, f: -(torch.sigmoid(r).log().mean() + (1 - torch.sigmoid(f)).log().mean()),
        lambda f: -torch.sigmoid(f).log().mean(),
    ),
    "least-squares": (
        lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
        lambda f: ((f - 1) ** 2).mean() / 2,
    ),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *((GAN(loss=name, **SMALL), name) for name in FORMULAS),
        (GAN(**SMALL), "non-saturating"),
        (LSGAN(**SMALL), "least-squares"),
        (WGAN(**SMALL, clip=1e9), "wasserstein"),
        (WGANGP(**SMALL, penalty=0.0), "wasserstein"),
    ],
)
def test_each_game_is_that_of_its_formulas(model, name, ring):
    model = steep(started(dataclasses.replace(model), ring))
    rows, which = ring[:10], torch.arange(10)
    critic, generator_ = copy.deepcopy(model.critic_), copy.deepcopy(model.generator_)
    fake = generator_(model._latent(10, generator(0, "x")))
    FORMULAS[name][0](critic(rows), critic(fake.detach())).backward()
    record = model._critic_step(rows, which, generator(0, "x"))
    torch.testing.assert_close(slopes(model.critic_), slopes(critic))
    gap = (critic(rows).mean() - critic(fake).mean()).item()
    assert record["score_gap"] == pytest.approx(gap, abs=1e-6)
    critic = copy.deepcopy(model.critic_)  # it has moved
    FORMULAS[name][1](critic(fake)).backward()
    model._generator_step(torch.arange(10), generator(0, "x"))
    torch.testing.assert_close(slopes(model.generator_), slopes(generator_))


def test_dragan_penalises_the_slope_around_the_data(ring):
    model = started(DRAGAN(**SMALL, penalty=7.0), ring)
    model.critic_ = lambda x: x.square().sum(1) / 2  # its slope at x is x
    real, fake = 3 + torch.rand(10, 2), torch.full((10, 2), 50.0)
    penalty, facts = model._penalty(real, fake, torch.arange(10), generator(0, "x"))
    stream = generator(0, "x")
    noise, share = torch.rand(10, 2, generator=stream), torch.rand(10, 1, generator=stream)
    lengths = (real + share * noise * real.std(correction=0) / 2).norm(dim=1)
    assert penalty.item() == pytest.approx(7 * (lengths - 1).square().mean().item(), rel=1e-5)
    assert facts["gradient_norm"] == pytest.approx(float(lengths.mean()), rel=1e-5)


def test_dragan_descends_on_its_penalty(ring):
    model = steep(started(DRAGAN(**SMALL, penalty=7.0), ring))
    rows, stream = ring[:10], generator(0, "x")
    critic, maker = copy.deepcopy(model.critic_), copy.deepcopy(model.generator_)
    with torch.no_grad():
        fake = maker(torch.rand(10, 2, generator=stream) * 2 - 1)
    noise, share = torch.rand(10, 2, generator=stream), torch.rand(10, 1, generator=stream)
    points = (rows + share * noise * rows.std(correction=0) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    penalty = 7 * (slope.norm(dim=1) - 1).square().mean()
    (FORMULAS["non-saturating"][0](critic(rows), critic(fake)) + penalty).backward()
    model._critic_step(rows, torch.arange(10), generator(0, "x"))
    torch.testing.assert_close(slopes(model.critic_), slopes(critic), rtol=1e-4, atol=1e-6)


def test_pack_members_are_normalised_apart(ring):
    model = PacGAN(**SMALL, packing=3).fit(ring, steps=0)
    model.generator_.train()
    packed = model._fakes(10, generator(0, "x"))
    stream = generator(0, "x")
    parts = [model.generator_(torch.randn(10, 2, generator=stream)) for _ in range(3)]
    torch.testing.assert_close(packed, torch.cat(parts, dim=1))


def test_ali_moves_both_sides_by_their_losses(ring):
    model = steep(started(ALI(**SMALL), ring))
    rows, stream = ring[:10], generator(0, "x")
    maker, encoder, critic = (
        copy.deepcopy(getattr(model, name)) for name in ("generator_", "encoder_", "critic_")
    )
    latent, blur = torch.randn(10, 2, generator=stream), torch.randn(10, 2, generator=stream)
    good = torch.sigmoid(critic(torch.cat([rows, encoder(torch.cat([rows, blur], 1))], 1)))
    bad = torch.sigmoid(critic(torch.cat([maker(latent), latent], 1)))
    pair = [*maker.parameters(), *encoder.parameters()]
    loss = -(1 - good).log().mean() - bad.log().mean()
    torch.autograd.backward(loss, inputs=pair, retain_graph=True)
    loss = -good.log().mean() - (1 - bad).log().mean()
    torch.autograd.backward(loss, inputs=list(critic.parameters()))
    before = weights(model)
    model._both(rows, torch.arange(10), generator(0, "x"))
    for mine, theirs in (
        (model.generator_, maker),
        (model.encoder_, encoder),
        (model.critic_, critic),
    ):
        torch.testing.assert_close(slopes(mine), slopes(theirs), rtol=1e-4, atol=1e-6)
        assert max(float(slope.abs().max()) for slope in slopes(theirs)) > 1e-3
    for name, after in weights(model).items():
        trained = name.endswith(("weight", "bias"))
        assert not trained or not torch.equal(before[name], after), name


def test_began_weighs_samples_by_its_balance_and_the_generator_lowers_their_error(ring):
    model = started(BEGAN(**SMALL, ratio=0.6, rate=0.5), ring)
    model.critic_.balance.fill_(0.3)
    rows = ring[:10]
    critic, maker = copy.deepcopy(model.critic_), copy.deepcopy(model.generator_)
    fake = maker(torch.rand(10, 2, generator=generator(0, "x")) * 2 - 1)
    good, bad = (critic(rows) - rows).abs().mean(), (critic(fake) - fake).abs().mean()
    torch.autograd.backward(good - 0.3 * bad, inputs=list(critic.parameters()))
    record = model._critic_step(rows, torch.arange(10), generator(0, "x"))
    torch.testing.assert_close(slopes(model.critic_), slopes(critic))
    good, bad = good.item(), bad.item()
    # The errors are off balance here, so that the sign of their difference counts.
    assert abs(0.6 * good - bad) > 0.05
    assert record["convergence"] == pytest.approx(good + abs(0.6 * good - bad), rel=1e-5)
    wanted = min(max(0.3 + 0.5 * (0.6 * good - bad), 0), 1)
    assert 0 < wanted < 1
    assert record["balance"] == pytest.approx(wanted, rel=1e-5)
    critic = copy.deepcopy(model.critic_)  # it has moved
    fake = maker(torch.rand(10, 2, generator=generator(0, "x")) * 2 - 1)
    (critic(fake) - fake).abs().mean().backward()
    model._generator_step(torch.arange(10), generator(0, "x"))
    torch.testing.assert_close(slopes(model.generator_), slopes(maker))


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
    # At -2 and 2 in the end; after so few steps they still swing, differently on every processor.
    assert float(low) < 0 < float(high)
    assert float(high - low) > 2
    record = model.history_[-1]
    assert {"gradient_norm_0", "gradient_norm_1", "score_gap"} <= record.keys()
    with pytest.raises(ValueError, match="labels must be 2 whole numbers from 0 to 1"):
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


def test_encoding_while_training_leaves_no_trace(ring):
    quiet, watched = (ALI(**SMALL) for _ in range(2))
    quiet.fit(ring, steps=4)
    codes = []
    watched.fit(ring, steps=4, on_step=lambda *_: codes.append(watched.encode(ring)))
    assert same(weights(quiet), weights(watched))
    assert torch.equal(codes[-1], watched.encode(ring.values.double().tolist()))
    # A code does not depend on the other rows (torch draws whole sixteens of normals alike).
    torch.testing.assert_close(codes[-1][:80], watched.encode(ring.values[:80]))
    for x, words in (
        (torch.zeros(3, 4), r"x must have rows of shape \(2,\), got \(4,\)"),
        (torch.full((3, 2), torch.nan), "x must be finite"),
        (["a"], "x must be a numeric array"),
    ):
        with pytest.raises(ValueError, match=words):
            watched.encode(x)


def test_began_records_the_loss_it_minimised(ring):
    seen = []
    began = BEGAN(**SMALL, rate=0.5, ratio=0.9)
    began.fit(ring, steps=2, on_step=lambda step, record: seen.append(record))
    first, second = seen
    # The first weight is 0: the loss is that of the data alone, which the measure contains.
    error = first["convergence"] - abs(first["balance"] / 0.5)
    assert first["critic_loss"] == pytest.approx(error, rel=1e-5)
    assert second["balance"] > first["balance"] > 0


def noise_of(monkeypatch, seed):
    seen, latent = [], GAN._latent

    def spy(self, n, stream):
        seen.append(latent(self, n, stream))
        return seen[-1]

    monkeypatch.setattr(GAN, "_latent", spy)
    GAN(latent_dim=2, hidden=8, batch_size=10, seed=seed).fit(toy("ring", 100), steps=2)
    monkeypatch.setattr(GAN, "_latent", latent)
    return seen


def test_noise_follows_seed_and_step(monkeypatch):
    one, again, other = (noise_of(monkeypatch, s) for s in (1, 1, 2))
    assert len(one) == 4  # critic and generator, twice
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(torch.equal(one[i], one[j]) for i in range(4) for j in range(i))


def test_the_sinkhorn_loss_moves_a_generator_onto_shifted_data():
    """Of a shift by t the divergence is |t|^2 / 2 for every blur: samples go where data are."""
    g = aeot.generator(0, "x")
    data = aeot.tensors(torch.randn(512, 2, generator=g) + 4)
    model = aeot.GAN(
        latent_dim=2, loss="sinkhorn", architecture="mlp", hidden=16, batch_size=32,
        learning_rate=1e-2, betas=(0.5, 0.9), blur=0.5,
    )  # fmt: skip
    off = [
        float((model.fit(data, steps=steps).sample(500).mean(0) - data.values.mean(0)).norm())
        for steps in (0, 60)
    ]
    assert not hasattr(model, "critic_")
    assert off[0] > 4
    assert off[1] < 0.2 * off[0]


def test_the_blur_of_a_model_is_that_of_its_divergence():
    """Data at (4, 4) and (-4, -4), samples at 0: W2^2 / 2 for a small blur, 0 for a large one."""
    data = aeot.tensors(4.0 * torch.ones(64, 2) * torch.tensor([1.0, -1.0]).repeat(32)[:, None])
    loss = {}
    for blur in (0.1, 100.0):
        model = aeot.GAN(
            latent_dim=2, loss="sinkhorn", architecture="mlp", hidden=8, batch_size=64, blur=blur
        )
        loss[blur] = model.fit(data, steps=1).history_[0]["generator_loss"]
    # Divided by the root of two numbers a row; untrained samples lie within a tenth or so of 0.
    assert loss[0.1] == pytest.approx(16 / 2, rel=0.1)
    assert loss[100.0] < 0.1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"critic_steps": 2}, "critic_steps must be left out with loss 'sinkhorn'"),
        ({"spectral": True}, "spectral must be left out with loss 'sinkhorn'"),
        ({"packing": 2}, "packing must be 1 with loss 'sinkhorn'"),
        ({"batch_size": 1}, "batch_size must be >= 2"),
        ({"blur": 0}, "blur must be a finite number > 0"),
    ],
)
def test_what_a_critic_alone_has_is_refused_without_one(options, told):
    with pytest.raises(ValueError, match=told):
        aeot.GAN(loss="sinkhorn", **options).fit(torch.zeros(8, 2), steps=1)
