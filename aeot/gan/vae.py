"""The variational autoencoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import softplus

from aeot import _check
from aeot._environment import in_parts
from aeot._rng import generator
from aeot.data.arrays import Dataset
from aeot.gan.estimator import GenerativeModel, Trained, noise, set_gradient
from aeot.networks.autoencoder import autoencoder_pair, resolve_architecture


@dataclass(kw_only=True, eq=False, repr=False)
class VAE(GenerativeModel):
    """The variational autoencoder with a Gaussian encoder and a standard normal prior.

    ``history_`` holds ``bound``, the mean of minus the evidence bound per sample, and its two
    parts, all in nats.

    The rate, the latent law and the likelihood of images are those of the study below, with two
    differences: the decoder of "infogan" is the generator of the GANs here, with leaky units where
    the study has plain ReLU, so that all models share one decoder; and the Bernoulli likelihood
    is summed over colour channels too, as a likelihood must be (the study leaves them out).
    `aeot.networks.blocks.DownTrunk` names what differs in the networks themselves.

    Args:
        latent_dim: Width of the codes.
        seed: Of networks, noise and the order of the data.
        batch_size: Rows per step.
        precision: "float32" or "bfloat16" (autocast).
        device: Where to train; None: the first GPU, else the CPU.
        architecture: As in `Autoencoder`, but for "auto", which of images is "infogan", or "dcgan"
            from 64 pixels on.
        width: Width of that architecture, None for its default.
        likelihood: "bernoulli" (of pixels in [0, 1], summed over all of them) or "gaussian" with
            standard deviation `std`, which vectors need; None: the one that fits the data.
        std: Of the Gaussian likelihood, in the units of the data.
        learning_rate: Of Adam.
        betas: Of Adam.

    References:
        D. Kingma, M. Welling, "Auto-encoding variational Bayes", 2014; settings of M. Lucic et
        al., "Are GANs created equal?", 2018.

    Example:
        >>> import aeot
        >>> ring = aeot.data.toy("ring", 100)
        >>> vae = VAE(latent_dim=2, width=8, likelihood="gaussian", std=0.1).fit(ring, steps=2)
        >>> vae.sample(3).shape
        torch.Size([3, 2])
    """

    latent_dim: int = 64
    architecture: str = "auto"
    width: int | None = None
    likelihood: str | None = None
    std: float = 1.0
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.5, 0.999)

    _checks = Trained._checks | {
        "likelihood": partial(_check.choice, options=("bernoulli", "gaussian")),
        # Its square divides in float32.
        "std": partial(_check.real, minimum=1e-6, maximum=1e6),
    }

    def _check_data(self, data: Dataset) -> None:
        if self.likelihood == "bernoulli" and len(data.shape) == 1:
            raise _check.fail("likelihood", "be 'gaussian' for vectors", "'bernoulli'")
        if self.likelihood != "gaussian" and len(data.shape) == 3:
            way_out = "pass likelihood='gaussian'"
            self._check_unused("with the likelihood 'bernoulli'", "std", way_out=way_out)
        self._check_width(data)

    def _build(self) -> dict[str, nn.Module]:
        named = resolve_architecture(self.architecture, self.shape_, published=True)

        def pair(codes: int) -> tuple[nn.Module, nn.Module]:
            return autoencoder_pair(self.shape_, codes, architecture=named, width=self.width)

        self.decoder_ = pair(self.latent_dim)[1]
        self.encoder_ = pair(2 * self.latent_dim)[0]
        return {"encoder_": self.encoder_, "decoder_": self.decoder_}

    def _states(self) -> dict[str, Any]:
        both = [*self.encoder_.parameters(), *self.decoder_.parameters()]
        self._mover = torch.optim.Adam(both, lr=self.learning_rate, betas=self.betas)
        return {"optimizer": self._mover}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        mean, spread = self.encoder_(real).float().chunk(2, dim=1)
        std = softplus(spread) + 1e-6
        stream = generator(self.seed, "noise", step)
        out = self.decoder_(mean + std * noise(tuple(mean.shape), stream, mean)).float()
        misfit = self._misfit(out, real).flatten(1).sum(1).mean()
        divergence = gaussian_divergence(mean, std).mean()
        set_gradient(misfit + divergence, self._mover)
        self._mover.step()
        parts = {"misfit": misfit.item(), "divergence": divergence.item()}
        return {"bound": sum(parts.values()), **parts}

    def _misfit(self, out: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        vectors = self.likelihood is None and real.ndim == 2
        if self.likelihood == "gaussian" or vectors:
            scale = math.log(self.std * math.sqrt(2 * math.pi))
            return ((out - real) / self.std).square() / 2 + scale
        # The decoder ends in tanh(a); (1 + tanh(a)) / 2 is the sigmoid of 2 a.
        share, wanted = ((1 + out) / 2).clamp(1e-6, 1 - 1e-6), (1 + real) / 2
        return -(wanted * share.log() + (1 - wanted) * (1 - share).log())

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        return in_parts(self.decoder_, noise((n, self.latent_dim), stream, self.decoder_))


def gaussian_divergence(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mean, std^2) || N(0, 1)) of each row, summed over its axes, in nats: (B,)."""
    return (mean.square() + std.square() - 1 - 2 * std.log()).sum(1) / 2
