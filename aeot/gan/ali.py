"""Adversarially learned inference: a generator and an encoder against one joint discriminator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aeot import _check
from aeot._check import ArrayLike
from aeot.data.arrays import Dataset, domain
from aeot.gan import losses
from aeot.gan.estimator import noise, set_gradient
from aeot.gan.gan import Adversarial, Game
from aeot.networks.blocks import DownTrunk
from aeot.networks.generators import MLPGenerator


@dataclass(kw_only=True, eq=False, repr=False)
class ALI(Adversarial):
    """The discriminator tells pairs (x, E(x)) of data from pairs (G(z), z) of noise.

    Its generator and encoder move together, simultaneously with the discriminator. The encoder is
    stochastic: for vectors noise is appended to its input, for images it returns mean and
    logarithmic spread. Also sets ``encoder_``.

    Arguments are those of `GAN` without `loss`, `simultaneous`, `critic_steps` and `packing`: it is
    the logistic game of single pairs, in which all networks move at once.

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
    critic_batch_norm: bool = True
    kernels: int = 0
    spectral: bool = False

    def _game(self) -> Game:
        both = (losses.logistic_critic_loss, losses.ali_generator_loss)
        return self._put_together(loss=both, simultaneous=True)

    def _build(self) -> dict[str, nn.Module]:
        if len(self.shape_) == 3:
            self.encoder_: nn.Module = DownTrunk(self.shape_, 2 * self.latent_dim)
        else:  # the sample and as much noise go in
            width = 2 * self.shape_[0]
            hidden = self.hidden or 400
            self.encoder_ = MLPGenerator(width, self.latent_dim, hidden=hidden, layers=2)
        self.generator_ = self._make_generator(self.latent_dim)
        self.critic_ = self._make_critic(self.latent_dim)
        names = ("generator_", "encoder_", "critic_")
        return {name: getattr(self, name) for name in names}

    def _states(self) -> dict[str, Any]:
        self._parts = self._game()
        pair = [*self.generator_.parameters(), *self.encoder_.parameters()]
        self._movers = {
            "critic": self._mover(self.critic_.parameters()),
            "pair": self._mover(pair),
        }
        return {f"{name}_optimizer": mover for name, mover in self._movers.items()}

    def _encode(self, x: torch.Tensor, stream: torch.Generator) -> torch.Tensor:
        if x.ndim == 2:
            return self.encoder_(torch.cat([x, noise(tuple(x.shape), stream, x)], dim=1))
        mean, spread = self.encoder_(x).chunk(2, dim=1)
        return mean + spread.exp() * noise(tuple(mean.shape), stream, x)

    def _both(
        self, real: torch.Tensor, rows: torch.Tensor, stream: torch.Generator
    ) -> dict[str, float]:
        latent = self._latent(len(real), stream)
        fake = self.generator_(latent)
        scores = self._score(real, self._encode(real, stream)), self._score(fake, latent)
        critic_loss, pair_loss = (loss(*scores) for loss in self._parts.loss)
        set_gradient(critic_loss, self._movers["critic"], retain_graph=True)
        set_gradient(pair_loss, self._movers["pair"])
        for mover in self._movers.values():
            mover.step()
        return self._measured(critic_loss, *scores) | {"generator_loss": pair_loss.item()}

    def encode(self, x: Dataset | ArrayLike, *, seed: int = 0) -> torch.Tensor:
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
        _check.seed("seed", seed)
        data = domain("x", x)
        if data.shape != self.shape_:
            raise _check.fail("x", f"have rows of shape {self.shape_}", str(data.shape))
        device = next(self.encoder_.parameters()).device
        return self._in_blocks(
            len(data),
            seed,
            "encode",
            lambda part, stream: self._encode(data[part.start : part.stop].to(device), stream),
        )
