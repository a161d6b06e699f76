"""The hand-written networks of the 2-D benchmark against the library's classes and autograd."""

import importlib
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aeot import ALI, GAN, WGAN, WGANGP
from aeot._rng import generator
from aeot.data import tensors
from aeot.gan import losses
from aeot.networks.discriminators import MaxoutDiscriminator

# By its own name: the compiled code is cached under it.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
planar = importlib.import_module("planar")


def draws(n, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)) * 3


def trained(estimator, data, steps):
    """Train the library's estimator and return (before, after) of each network, and the rows."""
    start = replace(estimator).fit(data, steps=0)
    rows = []

    class Spy(type(estimator)):
        def _update(self, step, which, real):
            rows.append(real)
            self.measured = super()._update(step, which, real)  # the history holds means
            return self.measured

    return start, Spy(**asdict(estimator)).fit(data, steps=steps), rows


def compare(game, start, end):
    # Relative, over all weights: early steps of Adam and RMSprop are near the sign of the slope,
    # so that a weight whose slope is rounding noise may go either way.
    for name, network in game.networks.items():
        before, theirs = (network.flat(getattr(m, f"{name}_")) for m in (start, end))
        apart = np.linalg.norm(network.theta - theirs) / np.linalg.norm(theirs - before)
        assert apart < 0.05, name


@pytest.mark.parametrize(("packing", "kernels"), [(1, 0), (3, 0), (1, 20)])
def test_gan_rows_train_like_the_library(packing, kernels):
    rule = {"prior": "normal", "batch_size": 100, "learning_rate": 1e-4, "betas": (0.8, 0.999)}
    gan = GAN(latent_dim=2, simultaneous=True, packing=packing, kernels=kernels, **rule)
    start, end, rows = trained(gan, tensors(draws(1000)), 3)
    game = planar.Game(packing, kernels)
    for name, network in game.networks.items():
        network.take(getattr(start, f"{name}_"))
    for step, real in enumerate(rows):
        stream = generator(gan.seed, "noise", step)
        noise = torch.cat([torch.randn(100, 2, generator=stream) for _ in range(packing)])
        game.step(real.numpy(), noise.numpy())
    compare(game, start, end)
    population = end.generator_[1].running_mean.numpy()
    np.testing.assert_allclose(game.generator.population[0][0], population, atol=1e-6)
    points = draws(7, seed=2)
    end.generator_.eval()
    with torch.no_grad():
        theirs = end.generator_(points).numpy()
    np.testing.assert_allclose(game.generator.evaluate(points.numpy()), theirs, atol=1e-4)


def test_ali_row_trains_like_the_library():
    start, end, rows = trained(ALI(latent_dim=2), tensors(draws(1000)), 3)
    game = planar.Inference()
    for name, network in game.networks.items():
        network.take(getattr(start, f"{name}_"))
    for step, real in enumerate(rows):
        stream = generator(0, "noise", step)
        noise = torch.cat([torch.randn(100, 2, generator=stream) for _ in range(2)])
        game.step(real.numpy(), noise.numpy())
    compare(game, start, end)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_wasserstein_rows_train_like_the_library(clip):
    rule = {"latent_dim": 2, "prior": "normal", "batch_size": 256, "architecture": "mlp"}
    wgan = WGANGP(penalty=0.1, **rule) if clip is None else WGAN(warm_up_steps=5, clip=clip, **rule)
    start, end, rows = trained(wgan, tensors(draws(2000)), 2)
    game = planar.Wasserstein(0.1, clip)
    for name, network in game.networks.items():
        network.take(getattr(start, f"{name}_"))
    for step, real in enumerate(rows):
        stream = generator(0, "noise", step)
        for part in real.chunk(5):
            noise = torch.randn(256, 2, generator=stream)
            share = torch.rand(256, 1, generator=stream) if clip is None else torch.zeros(256, 1)
            game.critic_step(part.numpy(), noise.numpy(), share.numpy()[:, 0])
        game.generator_step(torch.randn(256, 2, generator=stream).numpy())
    compare(game, start, end)
    assert game.gap == pytest.approx(end.measured["score_gap"], rel=0.01)


def test_slope_penalty_is_the_library_penalty():
    torch.manual_seed(0)
    game = planar.Game()
    critic = MaxoutDiscriminator(2)
    with torch.no_grad():
        for p in critic.parameters():
            p.normal_(0, 0.1)
    game.critic.take(critic)
    game.critic.grad[:] = 0
    points = draws(50)
    norms = game.critic.slope_penalty(points.numpy(), 10.0)
    theirs = losses.gradient_norms(critic, points)
    losses.slope_penalty(theirs, weight=10.0).backward()
    np.testing.assert_allclose(norms, theirs.detach().numpy(), rtol=1e-4)
    slopes = [p.grad if p.grad is not None else torch.zeros_like(p) for p in critic.parameters()]
    flat = np.concatenate([(g.T if g.ndim == 2 else g).numpy().ravel() for g in slopes])
    np.testing.assert_allclose(game.critic.grad, flat, atol=1e-4 * np.abs(flat).max())
