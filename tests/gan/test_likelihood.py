"""The non-adversarial generators against closed forms, and the protocol all share."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from aeot import GLANN, GLO, IMLE, VAE, FlowMatching
from aeot._rng import generator
from aeot.data import tensors, toy
from aeot.gan import implicit
from aeot.gan.implicit import nearest_rows
from aeot.gan.likelihood import gaussian_divergence

FAMILY = [
    VAE(latent_dim=2, width=8, batch_size=10, likelihood="gaussian", std=0.1),
    GLO(latent_dim=2, width=8, batch_size=10),
    GLANN(latent_dim=2, width=8, batch_size=10, noise_dim=3, mapping_share=0.5),
    IMLE(batch_size=50, noise_dim=3),
    FlowMatching(hidden=8, batch_size=10),
]
NAMES = [type(m).__name__ for m in FAMILY]


def weights(model):
    named = ((n, m.state_dict()) for n, m in model._modules.items())
    return {f"{n}.{k}": v.clone() for n, state in named for k, v in state.items()}


@pytest.fixture(scope="module")
def ring():
    return toy("ring", 200, seed=1)


@pytest.mark.parametrize("model", FAMILY, ids=NAMES)
def test_resume_equals_never_stopping_and_saves_sample_alike(model, ring, tmp_path):
    straight = dataclasses.replace(model).fit(ring, steps=10)
    stop = lambda step, record: step == 7  # noqa: E731 - a run that was cut short
    dataclasses.replace(model).fit(ring, steps=10, checkpoint=tmp_path / "run", on_step=stop)
    resumed = dataclasses.replace(model).fit(ring, steps=10, checkpoint=tmp_path / "run")
    mine, theirs = weights(straight), weights(resumed)
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    straight.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert torch.equal(loaded.sample(501, seed=2), straight.sample(501, seed=2))
    assert loaded.sample(4).shape == (4, 2)


def test_divergence_is_that_of_torch_distributions():
    mean, std = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    wanted = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(gaussian_divergence(mean, std), wanted)


def test_likelihoods_are_those_of_torch_distributions():
    out, real = torch.rand(4, 6) * 1.8 - 0.9, torch.randint(2, (4, 6)).float() * 2 - 1
    vae = VAE(likelihood="bernoulli")
    wanted = -Bernoulli((1 + out) / 2).log_prob((1 + real) / 2)
    torch.testing.assert_close(vae._misfit(out, real), wanted, rtol=1e-4, atol=1e-5)
    vae = VAE(likelihood="gaussian", std=0.3)
    torch.testing.assert_close(vae._misfit(out, real), -Normal(out, 0.3).log_prob(real))


def test_linear_vae_reaches_the_exact_likelihood_of_gaussian_data():
    # Data N(0, 2^2) with noise 1: the marginal is N(0, 4) whatever splits it, and the bound is
    # tight for a Gaussian posterior. Its optimum is the entropy of the data.
    stream = torch.Generator().manual_seed(0)
    data = tensors(2 * torch.randn(4000, 1, generator=stream))
    vae = VAE(
        latent_dim=1, width=32, batch_size=256, likelihood="gaussian", std=1.0, learning_rate=5e-3
    ).fit(data, steps=400)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 4)
    assert vae.history_[-1]["bound"] == pytest.approx(entropy, abs=0.06)
    assert float(vae.sample(4000).std()) < 2.0  # decoded means lack the noise of variance 1


def test_glo_learns_codes_and_keeps_them_on_the_sphere():
    rows = tensors(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    glo = GLO(latent_dim=4, width=32, batch_size=20, halve_every=100).fit(rows, steps=200)
    codes = glo.codes_(torch.arange(40))
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(40))
    assert glo.history_[-1]["misfit"] < 0.6 * float(rows[:].abs().mean())
    drawn = glo._latent(2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(2000))
    # The fitted Gaussian keeps the mean of the codes, up to the projection to the sphere.
    apart = (drawn.mean(0) - codes.detach().mean(0)).norm()
    assert float(apart) < 0.15


def test_glo_halves_both_rates_by_epochs():
    # 40 rows in batches of 20: two steps are an epoch, and each second epoch halves.
    rows = tensors(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    glo = GLO(latent_dim=4, width=8, batch_size=20, halve_every=2)
    rates = []

    def note(step, record):
        rates.append([group["lr"] for group in glo._mover.param_groups])

    glo.fit(rows, steps=9, on_step=note)
    factors = [1, 1, 1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 4]
    assert rates == [pytest.approx([1e-3 * f, 1e-2 * f]) for f in factors]


def test_noise_is_drawn_once_an_epoch_and_stays_that_of_the_seed(ring, monkeypatch):
    drawn = []

    def counted(shape, stream, like):
        drawn.append(implicit_noise(shape, stream, like))
        return drawn[-1]

    implicit_noise = implicit.noise
    monkeypatch.setattr(implicit, "noise", counted)
    # 200 rows in batches of 50: four steps are an epoch.
    imle = IMLE(batch_size=50, noise_dim=3).fit(ring, steps=9)
    assert len(drawn) == 3
    for epoch, values in enumerate(drawn):
        wanted = torch.randn(400, 3, generator=generator(0, "implicit", epoch))
        assert torch.equal(values, wanted)
    # In the last epoch every datum has the noise that was chosen for it.
    assert torch.equal(imle.choice_.noise, drawn[2][imle.choice_.nearest])


def test_nearest_rows_by_hand_in_any_blocks():
    pool = torch.tensor([[0.0], [2.0], [5.0]])
    queries = torch.tensor([[0.9], [1.1], [9.0], [-3.0]])
    for block in (1, 3, 100):
        assert nearest_rows(queries, pool, block).tolist() == [0, 1, 2, 0]


def test_nearest_rows_far_from_the_origin():
    draw = torch.Generator().manual_seed(0)
    queries, pool = (torch.randn(n, 2, generator=draw) + 3000 for n in (200, 400))
    exact = torch.cdist(queries.double(), pool.double()).argmin(1)
    assert torch.equal(implicit.nearest_rows(queries, pool), exact)


def test_codes_of_one_row_have_no_spread():
    with pytest.raises(ValueError, match="data must hold at least two rows, got 1"):
        GLO(latent_dim=2).fit(torch.zeros(1, 3), steps=1)


def test_implicit_likelihood_leaves_no_mode_out():
    # Four far modes, one of them rare: each datum pulls its own nearest sample.
    stream = torch.Generator().manual_seed(0)
    modes = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    labels = torch.cat([torch.arange(3).repeat(60), torch.full((20,), 3)])
    points = modes[labels] + 0.1 * torch.randn(200, 2, generator=stream)
    imle = IMLE(batch_size=100, noise_dim=4).fit(tensors(points), steps=300)
    near = torch.cdist(modes, imle.sample(1000)).min(1).values
    assert float(near.max()) < 0.5


def test_flow_carries_a_gaussian_to_a_gaussian():
    mean, axes = torch.tensor([5.0, -1.0]), torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    stream = torch.Generator().manual_seed(0)
    data = torch.randn(4000, 2, generator=stream) @ axes.T + mean
    flow = FlowMatching(hidden=64, layers=2, learning_rate=3e-3).fit(tensors(data), steps=400)
    samples = flow.sample(4000, seed=1).numpy()
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.25)
    np.testing.assert_allclose(np.cov(samples.T), (axes @ axes.T).numpy(), atol=0.6)


def test_bad_arguments_are_named():
    points, images = torch.zeros(9, 2), torch.zeros(9, 1, 8, 8)
    with pytest.raises(ValueError, match="likelihood must be 'gaussian' for vectors"):
        VAE().fit(points)
    with pytest.raises(ValueError, match="halve_every must be a whole number >= 1, got 0"):
        GLO(halve_every=0).fit(points)
    with pytest.raises(ValueError, match="code_rate must be a finite number > 0, got 0"):
        GLANN(code_rate=0).fit(points)
    for model in (IMLE(), FlowMatching()):
        with pytest.raises(ValueError, match="data must be vectors"):
            model.fit(images)
