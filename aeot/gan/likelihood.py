"""Generators that reconstruct every datum: the variational autoencoder, and GLO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize, softplus

from aeot import _check
from aeot._rng import generator
from aeot.data.arrays import Dataset
from aeot.gan.estimator import Estimator, descend, noise
from aeot.networks.autoencoder import autoencoder_pair


@dataclass(kw_only=True, eq=False)
class VAE(Estimator):
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
        architecture: As in `Autoencoder`: "auto", "infogan", "dcgan" or "mlp".
        width: Width of that architecture, None for its default.
        likelihood: "bernoulli" (of pixels in [0, 1], summed over all of them) or "gaussian" with
            standard deviation `std`; vectors need "gaussian".
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

    architecture: str = "auto"
    width: int | None = None
    likelihood: str = "bernoulli"
    std: float = 1.0
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.5, 0.999)

    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments(data)
        _check.choice("likelihood", self.likelihood, ("bernoulli", "gaussian"))
        _check.real("std", self.std, above=0)
        if self.likelihood == "bernoulli" and len(data.shape) == 1:
            raise _check.fail("likelihood", "be 'gaussian' for vectors", "'bernoulli'")

    def _build(self, facts: dict[str, Any]) -> dict[str, nn.Module]:
        _, decoder = autoencoder_pair(
            self.shape_, self.latent_dim, architecture=self.architecture, width=self.width
        )
        encoder, _ = autoencoder_pair(
            self.shape_, 2 * self.latent_dim, architecture=self.architecture, width=self.width
        )
        return {"encoder": encoder, "decoder": decoder}

    def _optimizers(self) -> dict[str, Any]:
        self._all = [p for module in self._modules.values() for p in module.parameters()]
        self._mover = torch.optim.Adam(self._all, lr=self.learning_rate, betas=self.betas)
        return {"optimizer": self._mover}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        mean, spread = self.encoder_(real).float().chunk(2, dim=1)
        std = softplus(spread) + 1e-6
        stream = generator(self.seed, "noise", step)
        out = self.decoder_(mean + std * noise(tuple(mean.shape), stream, mean)).float()
        misfit = self._misfit(out, real).flatten(1).sum(1).mean()
        divergence = gaussian_divergence(mean, std).mean()
        descend(misfit + divergence, self._all)
        self._mover.step()
        misfit, divergence = misfit.item(), divergence.item()
        return {"bound": misfit + divergence, "misfit": misfit, "divergence": divergence}

    def _misfit(self, out: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if self.likelihood == "gaussian":
            scale = math.log(self.std * math.sqrt(2 * math.pi))
            return ((out - real) / self.std).square() / 2 + scale
        # The decoder ends in tanh(a); (1 + tanh(a)) / 2 is the sigmoid of 2 a.
        share, wanted = ((1 + out) / 2).clamp(1e-6, 1 - 1e-6), (1 + real) / 2
        return -(wanted * share.log() + (1 - wanted) * (1 - share).log())

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        return self.decoder_(noise((n, self.latent_dim), stream, self.decoder_))


def gaussian_divergence(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mean, std^2) || N(0, 1)) of each row, summed over its axes, in nats: (B,)."""
    return (mean.square() + std.square() - 1 - 2 * std.log()).sum(1) / 2


class Codes(nn.Module):
    """One learnable code per row of a data set, on the unit sphere."""

    def __init__(self, n: int, latent_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(torch.randn(n, latent_dim), dim=1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the codes of rows (B,), (B, latent_dim)."""
        return normalize(self.weight[rows], dim=1)


@dataclass(kw_only=True, eq=False)
class GLO(Estimator):
    """Generative latent optimisation: codes and generator learned together, no encoder.

    Sampling draws from a Gaussian fitted to the codes and projects to the sphere. The loss is the
    L1 distance of pixels; the published image numbers use a perceptual loss of a pretrained
    network instead, and are not comparable.

    Rates, their halving and the batch are those of the GLANN code, which differs in three more
    ways. There the codes are projected to the sphere inside the generator and once more after
    each epoch, and Adam starts afresh at each epoch. Here they are projected where they are used,
    which trains and samples the same points of the sphere, and Adam keeps its state: no step then
    depends on where an epoch ends, only the halved rates do. The stored vectors grow, because a
    code's slope is tangent to its sphere, and so the codes slow down a little more than
    `code_rate` says. There the generator has no biases in its linear layers and no batch
    normalisation after the first; here it is the decoder that the other models have.

    Args:
        latent_dim: Width of the codes.
        seed: Of generator, codes and the order of the data.
        batch_size: Rows per step.
        precision: "float32" or "bfloat16" (autocast).
        architecture: As in `Autoencoder`.
        width: Width of that architecture, None for its default.
        learning_rate: Adam's, for the generator.
        code_rate: Adam's, for the codes.
        betas: Of Adam.
        halve_every: Epochs after which both rates are halved.

    References:
        P. Bojanowski, A. Joulin, D. Lopez-Paz, A. Szlam, "Optimizing the latent space of
        generative networks", 2018; settings of the GLANN code.
    """

    batch_size: int = 128
    architecture: str = "auto"
    width: int | None = None
    learning_rate: float = 1e-3
    code_rate: float = 1e-2
    betas: tuple[float, float] = (0.5, 0.999)
    halve_every: int = 20

    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments(data)
        if len(data) < 2:
            way_out = "samples follow the covariance of their codes"
            raise _check.fail("data", "hold at least two rows", str(len(data)), way_out)
        _check.real("code_rate", self.code_rate, above=0)
        _check.integer("halve_every", self.halve_every)

    def _build(self, facts: dict[str, Any]) -> dict[str, nn.Module]:
        _, decoder = autoencoder_pair(
            self.shape_, self.latent_dim, architecture=self.architecture, width=self.width
        )
        return {"generator": decoder, "codes": Codes(facts["n"], self.latent_dim)}

    def _optimizers(self) -> dict[str, Any]:
        self._mover = torch.optim.Adam(
            [
                {"params": list(self.generator_.parameters()), "lr": self.learning_rate},
                {"params": [self.codes_.weight], "lr": self.code_rate},
            ],
            betas=self.betas,
        )
        return {"optimizer": self._mover}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        age = step * self.batch_size // (self._facts["n"] * self.halve_every)
        for group, rate in zip(
            self._mover.param_groups, (self.learning_rate, self.code_rate), strict=True
        ):
            group["lr"] = rate * 0.5**age
        misfit = (self.generator_(self.codes_(rows)) - real).abs().mean()
        descend(misfit, [*self.generator_.parameters(), self.codes_.weight])
        self._mover.step()
        return {"misfit": misfit.item()}

    def _latent(self, n: int, stream: torch.Generator) -> torch.Tensor:
        codes = normalize(self.codes_.weight.detach(), dim=1).double()
        mean, spread = codes.mean(0), torch.cov(codes.T).reshape(self.latent_dim, self.latent_dim)
        values, axes = torch.linalg.eigh(spread)
        draw = torch.randn(n, self.latent_dim, generator=stream, dtype=torch.float64).to(mean)
        draw = mean + (draw * values.clamp(min=0).sqrt()) @ axes.T
        return normalize(draw, dim=1).float()

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        return self.generator_(self._latent(n, stream))
