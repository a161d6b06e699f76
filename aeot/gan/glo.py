"""Generative latent optimisation: a learned code for every datum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from aeot import _check
from aeot._environment import in_parts
from aeot._estimator import rate
from aeot.data.arrays import Dataset
from aeot.gan.estimator import GenerativeModel, Trained, set_gradient
from aeot.networks.autoencoder import autoencoder_pair, resolve_architecture


class Codes(nn.Module):
    """One learnable code per row of a data set, on the unit sphere."""

    def __init__(self, n: int, latent_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(torch.randn(n, latent_dim), dim=1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the codes of rows (B,), (B, latent_dim)."""
        return normalize(self.weight[rows], dim=1)


@dataclass(kw_only=True, eq=False, repr=False)
class GLO(GenerativeModel):
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
        device: Where to train; None: the first GPU, else the CPU.
        architecture: As in `VAE`.
        width: Width of that architecture, None for its default.
        learning_rate: Adam's, for the generator.
        code_rate: Adam's, for the codes.
        betas: Of Adam.
        halve_every: Epochs after which both rates are halved.

    References:
        P. Bojanowski, A. Joulin, D. Lopez-Paz, A. Szlam, "Optimizing the latent space of
        generative networks", 2018; settings of the GLANN code.
    """

    latent_dim: int = 64
    batch_size: int = 128
    architecture: str = "auto"
    width: int | None = None
    learning_rate: float = 1e-3
    code_rate: float = 1e-2
    betas: tuple[float, float] = (0.5, 0.999)
    halve_every: int = 20

    _checks = Trained._checks | {"code_rate": rate, "halve_every": _check.integer}

    def _check_data(self, data: Dataset) -> None:
        if len(data) < 2:
            way_out = "samples follow the covariance of their codes"
            raise _check.fail("data", "hold at least two rows", str(len(data)), way_out)
        self._check_width(data)

    def _build(self) -> dict[str, nn.Module]:
        named = resolve_architecture(self.architecture, self.shape_, published=True)
        _, self.generator_ = autoencoder_pair(
            self.shape_, self.latent_dim, architecture=named, width=self.width
        )
        self.codes_ = Codes(self.n_rows_, self.latent_dim)
        return {"generator_": self.generator_, "codes_": self.codes_}

    def _states(self) -> dict[str, Any]:
        self._mover = torch.optim.Adam(
            [
                {"params": list(self.generator_.parameters()), "lr": self.learning_rate},
                {"params": [self.codes_.weight], "lr": self.code_rate},
            ],
            betas=self.betas,
        )
        return {"optimizer": self._mover}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        age = step * self.batch_size // (self.n_rows_ * self.halve_every)
        for group, first in zip(
            self._mover.param_groups, (self.learning_rate, self.code_rate), strict=True
        ):
            group["lr"] = first * 0.5**age
        misfit = (self.generator_(self.codes_(rows)) - real).abs().mean()
        set_gradient(misfit, self._mover)
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
        return in_parts(self.generator_, self._latent(n, stream))
