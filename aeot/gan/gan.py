"""The GAN family: one update rule, the parts it is put together from, and a class per idea."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from aeot import _check
from aeot._environment import in_parts
from aeot._estimator import not_negative, positive
from aeot._rng import generator
from aeot.data.arrays import Dataset
from aeot.gan import losses
from aeot.gan.estimator import GenerativeModel, Trained, natural, noise, set_gradient
from aeot.gan.sinkhorn import sinkhorn_divergence
from aeot.networks.autoencoder import autoencoder_pair
from aeot.networks.blocks import UpTrunk
from aeot.networks.discriminators import ImageDiscriminator, MaxoutDiscriminator, MLPCritic
from aeot.networks.generators import MLPGenerator

Penalty = Callable[..., "tuple[torch.Tensor, dict[str, float]]"]


@dataclass(frozen=True, kw_only=True)
class Game:
    """What a GAN is put together from: `loss` and whatever else a class of the family wants.

    Args:
        loss: The critic's loss of real and fake scores, and the generator's of fake scores.
        penalty: Added to the critic's loss: ``penalty(real, fake, rows, stream, *beside)`` returns
            it and what it measured; `rows` are the numbers of the real rows, `beside` is what the
            networks see beside samples and noise.
        constrain: What is done to the critic before each of its steps.
        betas: Of Adam in both networks; None for RMSprop.
        critic_steps: As in `GAN`, and so are the others.
        simultaneous: Whether both networks move at once.
        packing: Samples judged together.
        critic_batch_norm: Whether the image discriminator normalises.
        kernels: Numbers appended by minibatch discrimination.
        spectral: Whether the discriminator has spectral normalisation.
    """

    loss: tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]
    penalty: Penalty | None = None
    constrain: Callable[[nn.Module], None] | None = None
    betas: tuple[float, float] | None = None
    critic_steps: int = 1
    simultaneous: bool = False
    packing: int = 1
    critic_batch_norm: bool = False
    kernels: int = 0
    spectral: bool = False


@dataclass(kw_only=True, eq=False, repr=False)
class Adversarial(GenerativeModel):
    """A generator against a critic: what `_game` describes, trained.

    Attributes set by `fit`: ``generator_``, ``critic_``, ``history_``, ``shape_``.
    """

    latent_dim: int = 64
    prior: str = "uniform"
    architecture: str = "auto"
    hidden: int | None = None
    learning_rate: float = 5e-5

    _vectors: ClassVar[str] = "maxout"  # what "auto" means for vectors
    _checks = Trained._checks | {
        "loss": partial(_check.choice, options=losses.LOSSES),
        "prior": partial(_check.choice, options=("uniform", "normal")),
        "architecture": partial(_check.choice, options=("auto", "infogan", "maxout", "mlp")),
        "critic_steps": _check.integer,
        "packing": _check.integer,
        "kernels": natural,
        "penalty": not_negative,
    }

    def _game(self) -> Game:
        """Return what this class is put together from."""
        raise NotImplementedError

    def _put_together(self, **parts: Any) -> Game:  # noqa: ANN401 - those of Game
        """Return the game of these parts; others are arguments of the same name, if there are."""
        own = [field.name for field in dataclasses.fields(Game) if hasattr(self, field.name)]
        return Game(**{name: getattr(self, name) for name in own} | parts)

    def _check_data(self, data: Dataset) -> None:
        images, game = len(data.shape) == 3, self._game()
        if self.architecture != "auto" and images != (self.architecture == "infogan"):
            what = f"{self.architecture!r} for rows of shape {data.shape}"
            raise _check.fail("architecture", "fit the data", what, "pass 'auto'")
        if self.hidden is not None and images:
            way_out = "the networks for images have one width"
            raise _check.fail("hidden", "be None for images", self.hidden, way_out)
        if game.kernels and self._kind(data.shape) == "mlp":
            way_out = "pass architecture='maxout'"
            raise _check.fail("kernels", "be 0 with architecture 'mlp'", game.kernels, way_out)
        if game.simultaneous and game.critic_steps != 1:
            way_out = "pass simultaneous=False"
            raise _check.fail("critic_steps", "be 1 if simultaneous", game.critic_steps, way_out)

    # Networks.
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
        kind, game = self._kind(self.shape_), self._game()
        # Only the sample is packed; what stands beside it is not.
        width = self.shape_[0] * game.packing + beside
        if kind == "infogan":
            critic: nn.Module = ImageDiscriminator(
                self.shape_,
                game.packing,
                batch_norm=game.critic_batch_norm,
                beside=beside,
                kernels=game.kernels,
            )
        elif kind == "maxout":
            critic = MaxoutDiscriminator(width, hidden=self.hidden or 200, kernels=game.kernels)
        else:
            critic = MLPCritic(width, hidden=self.hidden or 512)
        return losses.spectral_normalise(critic) if game.spectral else critic

    def _build(self) -> dict[str, nn.Module]:
        self.generator_: nn.Module = self._make_generator(self.latent_dim)
        self.critic_: nn.Module = self._make_critic()
        return {"generator_": self.generator_, "critic_": self.critic_}

    def _states(self) -> dict[str, Any]:
        self._parts = self._game()
        self._movers = {
            name: self._mover(module.parameters()) for name, module in self._modules.items()
        }
        return {f"{name}_optimizer": mover for name, mover in self._movers.items()}

    def _mover(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        rate, betas = self.learning_rate, self._parts.betas
        if betas is None:
            return torch.optim.RMSprop(parameters, lr=rate)
        return torch.optim.Adam(parameters, lr=rate, betas=betas, fused=True)

    # The update.
    @property
    def _multiple(self) -> int:  # type: ignore[override]
        return getattr(self, "critic_steps", 1) * getattr(self, "packing", 1)

    def _score(self, x: torch.Tensor, *beside: torch.Tensor) -> torch.Tensor:
        return self.critic_(x, *beside)

    def _latent(self, n: int, stream: torch.Generator) -> torch.Tensor:
        return noise((n, self.latent_dim), stream, self.generator_, self.prior)

    def _generate(self, n: int, stream: torch.Generator, *beside: torch.Tensor) -> torch.Tensor:
        latent = self._latent(n, stream)
        inputs = torch.cat([latent, *beside], dim=1) if beside else latent
        if self.generator_.training:  # batch statistics are of the whole batch
            return self.generator_(inputs)
        return in_parts(self.generator_, inputs)

    def _fakes(self, n: int, stream: torch.Generator, *beside: torch.Tensor) -> torch.Tensor:
        # Each member of a pack is its own batch: so are its batch-normalisation statistics.
        packs = [self._generate(n, stream, *beside) for _ in range(self._parts.packing)]
        return (torch.cat(packs, dim=1) if len(packs) > 1 else packs[0]).float()

    def _beside(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the networks see beside samples and noise, for the rows of these numbers."""
        return ()

    def _turns(
        self, step: int, rows: torch.Tensor, real: torch.Tensor, stream: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the rows and their numbers for one critic step after another."""
        count = self._parts.critic_steps
        return zip(real.chunk(count), rows.chunk(count), strict=True)

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        stream = generator(self.seed, "noise", step)
        if self._parts.simultaneous:
            return self._both(real, rows, stream)
        record: dict[str, float] = {}
        for part, which in self._turns(step, rows, real, stream):
            record = self._critic_step(part, which, stream)
        return record | self._generator_step(which, stream)

    def _critic_step(
        self, real: torch.Tensor, rows: torch.Tensor, stream: torch.Generator
    ) -> dict[str, float]:
        parts, beside = self._parts, self._beside(rows)
        if parts.constrain is not None:
            parts.constrain(self.critic_)
        real = losses.pack(real, parts.packing)
        with torch.no_grad():
            fake = self._fakes(len(real), stream, *beside)
        total, loss, scores, facts = self._critic_loss(real, fake, rows, stream, *beside)
        set_gradient(total, self._movers["critic"])
        self._movers["critic"].step()
        return self._measured(loss, *scores) | facts

    def _critic_loss(
        self,
        real: torch.Tensor,
        fake: torch.Tensor,
        rows: torch.Tensor,
        stream: torch.Generator,
        *beside: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor], dict[str, float]]:
        """Return what the critic lowers, that without penalty, both scores, and of the penalty."""
        scores = self._score(real, *beside), self._score(fake, *beside)
        loss = self._parts.loss[0](*scores)
        if self._parts.penalty is None:
            return loss, loss, scores, {}
        penalty, facts = self._parts.penalty(real, fake.detach(), rows, stream, *beside)
        return loss + penalty, loss, scores, facts

    def _generator_step(self, rows: torch.Tensor, stream: torch.Generator) -> dict[str, float]:
        beside = self._beside(rows)
        fake = self._fakes(self.batch_size, stream, *beside)
        loss = self._parts.loss[1](self._score(fake, *beside))
        set_gradient(loss, self._movers["generator"])
        self._movers["generator"].step()
        return {"generator_loss": loss.item()}

    def _both(
        self, real: torch.Tensor, rows: torch.Tensor, stream: torch.Generator
    ) -> dict[str, float]:
        real = losses.pack(real, self._parts.packing)
        fake = self._fakes(len(real), stream)
        total, loss, scores, facts = self._critic_loss(real, fake, rows, stream)
        generator_loss = self._parts.loss[1](scores[1])
        set_gradient(total, self._movers["critic"], retain_graph=True)
        set_gradient(generator_loss, self._movers["generator"])
        for mover in self._movers.values():
            mover.step()
        record = self._measured(loss, *scores) | facts
        return record | {"generator_loss": generator_loss.item()}

    def _measured(
        self, loss: torch.Tensor, real: torch.Tensor, fake: torch.Tensor
    ) -> dict[str, float]:
        """Return what a critic step records of its loss and scores."""
        gap = real.detach().mean() - fake.detach().mean()
        return {"critic_loss": loss.item(), "score_gap": gap.item()}


_OF_A_CRITIC = ("critic_batch_norm", "critic_steps", "simultaneous", "kernels", "spectral")


@dataclass(kw_only=True, eq=False, repr=False)
class GAN(Adversarial):
    """Generator against discriminator, in the game of Goodfellow et al.

    Attributes set by `fit`: ``generator_``, ``critic_``, ``history_``, ``shape_``.

    Args:
        latent_dim: Width of the noise.
        seed: Of networks, noise and the order of the data.
        batch_size: Rows the discriminator judges at a time.
        precision: "float32" or "bfloat16" (autocast; penalties stay in float32).
        device: Where to train; None: the first GPU, else the CPU.
        loss: "non-saturating", "minimax", "least-squares" or "wasserstein". "sinkhorn": no
            discriminator; the generator lowers the debiased Sinkhorn divergence between a batch of
            samples and one of data, best of 256 and more. Arguments of a discriminator then keep
            their defaults.
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
        blur: Of the Sinkhorn divergence: the root mean square per number of a row below which two
            rows count as the same.

    References:
        I. Goodfellow et al., "Generative adversarial nets", 2014. M. Lucic et al., "Are GANs
        created equal?", 2018, for images: networks, noise and defaults. A. Genevay, G. Peyre,
        M. Cuturi, "Learning generative models with Sinkhorn divergences", 2018 ("sinkhorn").

    Example:
        >>> import aeot
        >>> gan = GAN(latent_dim=2, hidden=8, batch_size=16).fit(aeot.data.toy("ring", 64), steps=2)
        >>> gan.sample(3, seed=1).shape
        torch.Size([3, 2])
    """

    loss: str = "non-saturating"
    critic_batch_norm: bool = True
    betas: tuple[float, float] = (0.0, 0.999)
    critic_steps: int = 1
    simultaneous: bool = False
    packing: int = 1
    kernels: int = 0
    spectral: bool = False
    blur: float = 0.05

    _checks = Adversarial._checks | {
        "loss": partial(_check.choice, options=(*losses.LOSSES, "sinkhorn")),
        "blur": positive,
    }

    def _game(self) -> Game:
        # Without a critic there is no loss to take from the table; none is asked for then.
        return self._put_together(loss=losses.LOSSES.get(self.loss, losses.LOSSES["wasserstein"]))

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.loss != "sinkhorn":
            self._check_unused("unless loss is 'sinkhorn'", "blur")
            return
        self._check_unused("with loss 'sinkhorn', which has no critic", *_OF_A_CRITIC)
        if self.packing != 1:
            raise _check.fail("packing", "be 1 with loss 'sinkhorn'", self.packing)
        if self.batch_size < 2:
            way_out = "256 is a good size"
            raise _check.fail("batch_size", "be >= 2 with 'sinkhorn'", self.batch_size, way_out)

    def _build(self) -> dict[str, nn.Module]:
        if self.loss != "sinkhorn":
            return super()._build()
        self.generator_ = self._make_generator(self.latent_dim)
        return {"generator_": self.generator_}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        if self.loss != "sinkhorn":
            return super()._update(step, rows, real)
        fake = self._fakes(len(real), generator(self.seed, "noise", step))
        # Divided by the root of their number, coordinates give distances that keep their size.
        x, y = (side.flatten(1) / math.sqrt(side[0].numel()) for side in (fake, real.float()))
        loss = sinkhorn_divergence(x, y, blur=self.blur)
        set_gradient(loss, self._movers["generator"])
        self._movers["generator"].step()
        return {"generator_loss": loss.item()}


@dataclass(kw_only=True, eq=False, repr=False)
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


@dataclass(kw_only=True, eq=False, repr=False)
class LSGAN(Adversarial):
    """Scores are regressed to 1 and 0 instead of classified.

    Arguments are those of `GAN` without `loss`: `GAN` takes other losses.

    References:
        X. Mao et al., "Least squares generative adversarial networks", 2017.
    """

    critic_batch_norm: bool = True
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    critic_steps: int = 1
    simultaneous: bool = False
    packing: int = 1
    kernels: int = 0
    spectral: bool = False

    def _game(self) -> Game:
        return self._put_together(loss=losses.LOSSES["least-squares"])


@dataclass(kw_only=True, eq=False, repr=False)
class DRAGAN(Adversarial):
    """A GAN with the discriminator's slope held at 1 around the data.

    Arguments are those of `GAN` without `critic_batch_norm`, `kernels` and `loss`: a penalised
    slope is per sample, and the first two make the scores of a batch depend on each other.

    Args:
        penalty: Weight of the penalty.

    References:
        N. Kodali, J. Abernethy, J. Hays, Z. Kira, "On convergence and stability of GANs", 2017.
    """

    penalty: float = 10.0
    loss: str = "non-saturating"
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    critic_steps: int = 1
    simultaneous: bool = False
    packing: int = 1
    spectral: bool = False

    def _game(self) -> Game:
        return self._put_together(loss=losses.LOSSES[self.loss], penalty=self._penalty)

    def _penalty(
        self, real: torch.Tensor, fake: torch.Tensor, rows: torch.Tensor, stream: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        points = losses.perturb(real, generator=stream)
        return losses.gradient_penalty(self._score, points, weight=self.penalty)


@dataclass(kw_only=True, eq=False, repr=False)
class BEGAN(Adversarial):
    """The discriminator is an autoencoder: it reconstructs data well and samples badly.

    A balance keeps the two reconstruction errors at a fixed ratio; ``history_`` holds the
    published measure of convergence, L(real) + |ratio L(real) - L(fake)|. For vectors the
    autoencoder has plain ReLU layers, whatever the `architecture` of the generator.

    Of the arguments of `GAN` it has no `loss`, `critic_batch_norm`, `simultaneous`, `packing`,
    `kernels` and `spectral`: its discriminator is an autoencoder with losses of its own, and moves
    first.

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
    critic_steps: int = 1

    _checks = Adversarial._checks | {
        "ratio": partial(_check.real, above=0, maximum=1),
        "rate": positive,
    }

    def _game(self) -> Game:
        return self._put_together(loss=(self._weighed, torch.mean))

    def _make_critic(self, beside: int = 0) -> nn.Module:
        kind = "infogan" if len(self.shape_) == 3 else "mlp"  # as the generator's, at every size
        encoder, decoder = autoencoder_pair(
            self.shape_, self.latent_dim, architecture=kind, width=self.hidden
        )
        critic = nn.Sequential(encoder, decoder)
        critic.register_buffer("balance", torch.zeros(()))
        return critic

    def _score(self, x: torch.Tensor, *beside: torch.Tensor) -> torch.Tensor:
        return (self.critic_(x) - x).abs().flatten(1).mean(1)

    def _weighed(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return real.mean() - float(self.critic_.get_buffer("balance")) * fake.mean()

    def _measured(
        self, loss: torch.Tensor, real: torch.Tensor, fake: torch.Tensor
    ) -> dict[str, float]:
        good, bad, held = real.mean().item(), fake.mean().item(), self.critic_.get_buffer("balance")
        balance = losses.equilibrium(float(held), good, bad, ratio=self.ratio, rate=self.rate)
        held.fill_(balance)  # of the next step
        measure = good + abs(self.ratio * good - bad)
        return {"critic_loss": loss.item(), "convergence": measure, "balance": balance}
