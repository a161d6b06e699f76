"""Adversarially learned inference: a generator and an encoder against one joint discriminator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from aeot import _check
from aeot._rng import generator
from aeot.data.arrays import domain
from aeot.gan import losses
from aeot.gan.estimator import descend, noise
from aeot.gan.generate import GAN
from aeot.networks.blocks import DownTrunk
from aeot.networks.generators import MLPGenerator


@dataclass(kw_only=True, eq=False)
class ALI(GAN):
    """The discriminator tells pairs (x, E(x)) of data from pairs (G(z), z) of noise.

    Its generator and encoder move together, simultaneously with the discriminator. The encoder is
    stochastic: for vectors noise is appended to its input, for images it returns mean and
    logarithmic spread. Also sets ``encoder_``.

    References:
        V. Dumoulin et al., "Adversarially learned inference", 2017, algorithm 1; 2-D networks as
        in the PacGAN experiments.

    Example:
        >>> import aeot
        >>> data = aeot.data.toy("ring", 200)
        >>> ali = ALI(latent_dim=2, hidden=8, batch_size=50).fit(data, steps=2)
        >>> ali.encode(data[:5], seed=0).shape
        torch.Size([5, 2])
    """

    prior: str = "normal"
    batch_size: int = 100
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.8, 0.999)
    simultaneous: bool = True

    _fixed: ClassVar[dict[str, str]] = dict.fromkeys(
        ("loss", "simultaneous", "critic_steps", "packing"),
        "it is the logistic game of single pairs, in which all networks move at once",
    )

    def _build(self, facts: dict[str, Any]) -> dict[str, nn.Module]:
        if len(self.shape_) == 3:
            encoder: nn.Module = DownTrunk(self.shape_, 2 * self.latent_dim)
        else:  # the sample and as much noise go in
            width = 2 * self.shape_[0]
            encoder = MLPGenerator(width, self.latent_dim, hidden=self.hidden or 400, layers=2)
        return {
            "generator": self._make_generator(self.latent_dim),
            "encoder": encoder,
            "critic": self._make_critic(self.latent_dim),
        }

    def _optimizers(self) -> dict[str, Any]:
        self._pair = [*self.generator_.parameters(), *self.encoder_.parameters()]
        rule = {"lr": self.learning_rate, "betas": self.betas, "fused": True}
        self._movers = {
            "critic_optimizer": torch.optim.Adam(self.critic_.parameters(), **rule),
            "pair_optimizer": torch.optim.Adam(self._pair, **rule),
        }
        return self._movers

    def _encode(self, x: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        if x.ndim == 2:
            return self.encoder_(torch.cat([x, noise(tuple(x.shape), stream, x)], dim=1))
        mean, spread = self.encoder_(x).chunk(2, dim=1)
        return mean + spread.exp() * noise(tuple(mean.shape), stream, x)

    def _both(self, rows: torch.Tensor, stream: torch.Generator) -> dict[str, float]:
        latent = self._latent(len(rows), stream)
        fake = self.generator_(latent)
        scores = self.critic_(rows, self._encode(rows, stream)), self.critic_(fake, latent)
        critic_loss = losses.logistic_critic_loss(*scores)
        pair_loss = losses.ali_generator_loss(*scores)
        descend(critic_loss, list(self.critic_.parameters()), retain_graph=True)
        descend(pair_loss, self._pair)
        for mover in self._movers.values():
            mover.step()
        gap = scores[0].detach().mean() - scores[1].detach().mean()
        return {
            "critic_loss": critic_loss.item(),
            "score_gap": gap.item(),
            "generator_loss": pair_loss.item(),
        }

    def encode(
        self,
        x: Any,  # noqa: ANN401 - a data set or anything array-like
        *,
        seed: int = 0,
    ) -> torch.Tensor:
        """Infer latents of samples.

        Args:
            x: A `Dataset`, or anything `aeot.tensors` takes, of the shape trained on.
            seed: Of the encoder's noise.

        Returns:
            (n, latent_dim), on the model's device.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If `x` is not finite or of another shape.
        """
        self._check_fitted()
        _check.integer("seed", seed, minimum=0)
        data = domain("x", x)
        if data.shape != self.shape_:
            raise _check.fail("x", f"have rows of shape {self.shape_}", str(data.shape))
        device = next(self.encoder_.parameters()).device
        with self._evaluated():  # as many rows at a time as `sample` makes
            parts = [
                self._encode(data[start : start + 500].to(device), generator(seed, "encode", start))
                for start in range(0, len(data), 500)
            ]
        return torch.cat(parts)
