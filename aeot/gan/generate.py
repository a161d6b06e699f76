"""The GAN family: one update rule, and one small class per idea."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from aeot import _check
from aeot._rng import generator
from aeot.data.arrays import Dataset
from aeot.gan import constraints, losses
from aeot.gan.estimator import Estimator, descend, noise
from aeot.networks.autoencoder import autoencoder_pair
from aeot.networks.blocks import UpTrunk
from aeot.networks.discriminators import ImageDiscriminator, MaxoutDiscriminator, MLPCritic
from aeot.networks.generators import MLPGenerator

Losses = tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]

_ROWS = "a penalised slope is per sample, and this makes the scores of a batch depend on each other"
PER_SAMPLE = {"critic_batch_norm": _ROWS, "kernels": _ROWS}


@dataclass(kw_only=True, eq=False)
class GAN(Estimator):
    """Generator against discriminator, in the game of Goodfellow et al.

    Attributes set by `fit`: ``generator_``, ``critic_``, ``history_``, ``shape_``.

    Args:
        latent_dim: Width of the noise.
        seed: Of networks, noise and the order of the data.
        batch_size: Rows the discriminator judges at a time.
        precision: "float32" or "bfloat16" (autocast; penalties stay in float32).
        loss: "non-saturating", "minimax", "least-squares" or "wasserstein".
        prior: Law of the noise, "uniform" on [-1, 1] or "normal".
        architecture: "infogan" for images of sides divisible by 4, "maxout" or "mlp" for vectors;
            "auto" takes the first for images and the published choice of the class for vectors.
        hidden: Width of the hidden layers of "maxout" and "mlp"; None: 400 for the generator and
            200 for the discriminator, and 512 for both. Must be None for images.
        critic_batch_norm: Normalise in the image discriminator; those for vectors never do.
        learning_rate: Of Adam, in both networks.
        betas: Of Adam.
        critic_steps: Discriminator steps, each on a fresh batch, before a generator step.
        simultaneous: Take both gradients at the same point and move both networks at once, as the
            2-D experiments do; otherwise the discriminator goes first.
        packing: Samples judged together (PacGAN).
        kernels: Numbers appended by minibatch discrimination, 0 for none; not with "mlp".
        spectral: Spectral normalisation of the discriminator.

    References:
        I. Goodfellow et al., "Generative adversarial nets", 2014. M. Lucic et al., "Are GANs
        created equal?", 2018, for images: networks, noise and defaults.

    Example:
        >>> import aeot
        >>> gan = GAN(latent_dim=2, hidden=8, batch_size=16).fit(aeot.data.toy("ring", 64), steps=2)
        >>> gan.sample(3, seed=1).shape
        torch.Size([3, 2])
    """

    loss: str = "non-saturating"
    prior: str = "uniform"
    architecture: str = "auto"
    hidden: int | None = None
    critic_batch_norm: bool = True
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.0, 0.999)
    critic_steps: int = 1
    simultaneous: bool = False
    packing: int = 1
    kernels: int = 0
    spectral: bool = False

    _vectors: ClassVar[str] = "maxout"  # what "auto" means for vectors
    # Arguments that a class cannot honour: they keep their default. name -> the reason
    _fixed: ClassVar[dict[str, str]] = {}

    # Networks.
    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments(data)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            value = tuple(value) if isinstance(value, list) else value
            if field.name in self._fixed and value != field.default:
                requirement = f"be {field.default!r} in {type(self).__name__}"
                raise _check.fail(field.name, requirement, repr(value), self._fixed[field.name])
        _check.choice("loss", self.loss, losses.LOSSES)
        _check.choice("prior", self.prior, ("uniform", "normal"))
        _check.choice("architecture", self.architecture, ("auto", "infogan", "maxout", "mlp"))
        images = len(data.shape) == 3
        if self.architecture != "auto" and images != (self.architecture == "infogan"):
            what = f"{self.architecture!r} for rows of shape {data.shape}"
            raise _check.fail("architecture", "fit the data", what, "pass 'auto'")
        for name in ("critic_steps", "packing"):
            _check.integer(name, getattr(self, name))
        if self.hidden is not None:
            _check.integer("hidden", self.hidden)
            if images:
                way_out = "the networks for images have one width"
                raise _check.fail("hidden", "be None for images", self.hidden, way_out)
        if _check.integer("kernels", self.kernels, minimum=0) and self._kind(data.shape) == "mlp":
            way_out = "pass architecture='maxout'"
            raise _check.fail("kernels", "be 0 with architecture 'mlp'", self.kernels, way_out)
        if self.simultaneous and self.critic_steps != 1:
            way_out = "pass simultaneous=False"
            raise _check.fail("critic_steps", "be 1 if simultaneous", self.critic_steps, way_out)

    def _kind(self, shape: tuple[int, ...]) -> str:
        if self.architecture != "auto":
            return self.architecture
        return "infogan" if len(shape) == 3 else self._vectors

    def _make_generator(self, width: int) -> nn.Module:
        kind = self._kind(self.shape_)
        if kind == "infogan":
            return UpTrunk(self.shape_, width)
        if kind == "maxout":
            return MLPGenerator(width, self.shape_[0], hidden=self.hidden or 400)
        return MLPGenerator(
            width, self.shape_[0], hidden=self.hidden or 512, layers=3, batch_norm=False
        )

    def _make_critic(self, beside: int = 0) -> nn.Module:
        kind, norm = self._kind(self.shape_), self.critic_batch_norm
        if kind == "infogan":
            critic = ImageDiscriminator(
                self.shape_, self.packing, batch_norm=norm, beside=beside, kernels=self.kernels
            )
        elif kind == "maxout":
            critic = MaxoutDiscriminator(
                # Only the sample is packed; what stands beside it is not.
                self.shape_[0] * self.packing + beside,
                hidden=self.hidden or 200,
                kernels=self.kernels,
            )
        else:
            critic = MLPCritic(self.shape_[0] * self.packing + beside, hidden=self.hidden or 512)
        return constraints.spectral_normalise(critic) if self.spectral else critic

    def _build(self, facts: dict[str, Any]) -> dict[str, nn.Module]:
        return {"generator": self._make_generator(self.latent_dim), "critic": self._make_critic()}

    def _optimizers(self) -> dict[str, Any]:
        self._movers = {
            f"{name}_optimizer": torch.optim.Adam(
                module.parameters(), lr=self.learning_rate, betas=self.betas, fused=True
            )
            for name, module in self._modules.items()
        }
        return self._movers

    # The update.
    @property
    def _multiple(self) -> int:
        return self.critic_steps * self.packing

    def _score(self, x: torch.Tensor) -> torch.Tensor:
        return self.critic_(x)

    def _losses(self) -> Losses:
        return losses.LOSSES[self.loss]

    def _latent(self, n: int, stream: torch.Generator) -> torch.Tensor:
        return noise((n, self.latent_dim), stream, self.generator_, self.prior)

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        return self.generator_(self._latent(n, stream))

    def _fakes(self, n: int, stream: torch.Generator) -> torch.Tensor:
        # Each member of a pack is its own batch: so are its batch-normalisation statistics.
        return torch.cat([self._generate(n, stream) for _ in range(self.packing)], dim=1).float()

    def _penalty(
        self, real: torch.Tensor, fake: torch.Tensor, stream: torch.Generator
    ) -> tuple[torch.Tensor | float, dict[str, float]]:
        return 0.0, {}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        stream = generator(self.seed, "noise", step)
        if self.simultaneous:
            return self._both(real, stream)
        record: dict[str, float] = {}
        for part, which in zip(
            real.chunk(self.critic_steps), rows.chunk(self.critic_steps), strict=True
        ):
            record = self._critic_step(losses.pack(part, self.packing), stream, which)
        return record | self._generator_step(stream)

    def _critic_step(
        self, real: torch.Tensor, stream: torch.Generator, rows: torch.Tensor
    ) -> dict[str, float]:
        with torch.no_grad():
            fake = self._fakes(len(real), stream)
        scores = self._score(real), self._score(fake)
        penalty, facts = self._penalty(real, fake, stream)
        loss = self._losses()[0](*scores)
        descend(loss + penalty, list(self.critic_.parameters()))
        self._movers["critic_optimizer"].step()
        gap = scores[0].detach().mean() - scores[1].detach().mean()
        return {"critic_loss": loss.item(), "score_gap": gap.item(), **facts}

    def _generator_step(self, stream: torch.Generator) -> dict[str, float]:
        loss = self._losses()[1](self._score(self._fakes(self.batch_size, stream)))
        descend(loss, list(self.generator_.parameters()))
        self._movers["generator_optimizer"].step()
        return {"generator_loss": loss.item()}

    def _both(self, rows: torch.Tensor, stream: torch.Generator) -> dict[str, float]:
        real = losses.pack(rows, self.packing)
        fake = self._fakes(len(real), stream)
        scores = self._score(real), self._score(fake)
        penalty, facts = self._penalty(real, fake.detach(), stream)
        critic_loss = self._losses()[0](*scores)
        generator_loss = self._losses()[1](scores[1])
        descend(critic_loss + penalty, list(self.critic_.parameters()), retain_graph=True)
        descend(generator_loss, list(self.generator_.parameters()))
        for mover in self._movers.values():
            mover.step()
        gap = scores[0].detach().mean() - scores[1].detach().mean()
        return {
            "critic_loss": critic_loss.item(),
            "score_gap": gap.item(),
            **facts,
            "generator_loss": generator_loss.item(),
        }


@dataclass(kw_only=True, eq=False)
class PacGAN(GAN):
    """A GAN whose discriminator judges `packing` samples at once, otherwise untouched.

    Defaults are those of the 2-D mixtures: simultaneous steps, batches of 100, normal noise.

    References:
        Z. Lin, A. Khetan, G. Fanti, S. Oh, "PacGAN: the power of two samples in generative
        adversarial networks", 2018.
    """

    packing: int = 2
    prior: str = "normal"
    batch_size: int = 100
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.8, 0.999)
    simultaneous: bool = True


@dataclass(kw_only=True, eq=False)
class LSGAN(GAN):
    """Scores are regressed to 1 and 0 instead of classified.

    References:
        X. Mao et al., "Least squares generative adversarial networks", 2017.
    """

    loss: str = "least-squares"
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)

    _fixed: ClassVar[dict[str, str]] = {"loss": "GAN takes other losses"}


@dataclass(kw_only=True, eq=False)
class DRAGAN(GAN):
    """A GAN with the discriminator's slope held at 1 around the data.

    Args:
        penalty: Weight of the penalty.

    References:
        N. Kodali, J. Abernethy, J. Hays, Z. Kira, "On convergence and stability of GANs", 2017.
    """

    penalty: float = 10.0
    critic_batch_norm: bool = False
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)

    _fixed: ClassVar[dict[str, str]] = PER_SAMPLE

    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments(data)
        _check.real("penalty", self.penalty, minimum=0)

    def _penalty(
        self, real: torch.Tensor, fake: torch.Tensor, stream: torch.Generator
    ) -> tuple[torch.Tensor | float, dict[str, float]]:
        points = losses.perturb(real, generator=stream)
        norms = losses.gradient_norms(self.critic_, points)
        facts = {"gradient_norm": norms.detach().mean().item()}
        return losses.slope_penalty(norms, weight=self.penalty), facts


@dataclass(kw_only=True, eq=False)
class BEGAN(GAN):
    """The discriminator is an autoencoder: it reconstructs data well and samples badly.

    A balance keeps the two reconstruction errors at a fixed ratio; ``history_`` holds the
    published measure of convergence, L(real) + |ratio L(real) - L(fake)|. For vectors the
    autoencoder has plain ReLU layers, whatever the `architecture` of the generator.

    Args:
        ratio: Gamma, in (0, 1]: wanted error on samples over error on data; lower means less
            diversity.
        rate: How fast the balance adapts.

    References:
        D. Berthelot, T. Schumm, L. Metz, "BEGAN: boundary equilibrium generative adversarial
        networks", 2017, eq. 5 and 6.
    """

    ratio: float = 0.75
    rate: float = 1e-3
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)

    _fixed: ClassVar[dict[str, str]] = dict.fromkeys(
        ("loss", "critic_batch_norm", "simultaneous", "packing", "kernels", "spectral"),
        "its discriminator is an autoencoder with losses of its own, and moves first",
    )

    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments(data)
        _check.real("ratio", self.ratio, above=0, maximum=1)
        _check.real("rate", self.rate, above=0)

    def _make_critic(self, beside: int = 0) -> nn.Module:
        kind = "infogan" if len(self.shape_) == 3 else "mlp"  # as the generator's, at every size
        encoder, decoder = autoencoder_pair(
            self.shape_, self.latent_dim, architecture=kind, width=self.hidden
        )
        critic = nn.Sequential(encoder, decoder)
        critic.register_buffer("balance", torch.zeros(()))
        return critic

    def _score(self, x: torch.Tensor) -> torch.Tensor:
        return (self.critic_(x) - x).abs().flatten(1).mean(1)

    def _critic_step(
        self, real: torch.Tensor, stream: torch.Generator, rows: torch.Tensor
    ) -> dict[str, float]:
        with torch.no_grad():
            fake = self._fakes(len(real), stream)
        good, bad = self._score(real).mean(), self._score(fake).mean()
        balance = float(self.critic_.balance)
        descend(good - balance * bad, list(self.critic_.parameters()))
        self._movers["critic_optimizer"].step()
        good, bad = good.item(), bad.item()
        measure = good + abs(self.ratio * good - bad)
        facts = {"critic_loss": good - balance * bad, "convergence": measure}
        balance = losses.equilibrium(balance, good, bad, ratio=self.ratio, rate=self.rate)
        self.critic_.balance.fill_(balance)  # of the next step
        return facts | {"balance": balance}

    def _generator_step(self, stream: torch.Generator) -> dict[str, float]:
        loss = self._score(self._fakes(self.batch_size, stream)).mean()
        descend(loss, list(self.generator_.parameters()))
        self._movers["generator_optimizer"].step()
        return {"generator_loss": loss.item()}
