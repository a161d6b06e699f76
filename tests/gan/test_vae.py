"""The variational autoencoder against closed forms."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from aeot import VAE
from aeot.data import tensors
from aeot.gan.vae import gaussian_divergence


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
