"""The Wasserstein members of the GAN family: clipped, penalised, conditional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import one_hot

from aeot import _check
from aeot._rng import generator
from aeot.data.arrays import Dataset
from aeot.gan import constraints, losses
from aeot.gan.generate import GAN, PER_SAMPLE

CRITIC_FIRST = {
    "loss": "GAN takes other losses",
    "simultaneous": "its critic is to be near its optimum before the generator moves",
}


@dataclass(kw_only=True, eq=False)
class WGAN(GAN):
    """The Wasserstein GAN with clipped weights.

    The critic is trained `warm_up_steps` instead of `critic_steps` times before each of the first
    25 generator steps and every 500th, so that it starts near its optimum.

    Args:
        clip: Bound on every critic weight, applied before each critic step.
        warm_up_steps: Critic steps of the long rounds; `critic_steps` to do without them.

    References:
        M. Arjovsky, S. Chintala, L. Bottou, "Wasserstein GAN", 2017, algorithm 1 and its code.
    """

    clip: float = 0.01
    warm_up_steps: int = 100
    loss: str = "wasserstein"
    critic_steps: int = 5

    _fixed: ClassVar[dict[str, str]] = CRITIC_FIRST | {
        "betas": "RMSprop moves its networks",
        "spectral": "it would undo the clipping; GAN(loss='wasserstein') takes it",
    }

    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments(data)
        _check.real("clip", self.clip, above=0)
        _check.integer("warm_up_steps", self.warm_up_steps)

    def _optimizers(self) -> dict[str, Any]:
        self._movers = {
            f"{name}_optimizer": torch.optim.RMSprop(module.parameters(), lr=self.learning_rate)
            for name, module in self._modules.items()
        }
        return self._movers

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        stream = generator(self.seed, "noise", step)
        count = self.warm_up_steps if step < 25 or step % 500 == 0 else self.critic_steps
        parts = list(zip(real.chunk(self.critic_steps), rows.chunk(self.critic_steps), strict=True))
        record: dict[str, float] = {}
        for turn in range(count):
            if turn < len(parts):
                part, which = parts[turn]
            else:  # the long rounds draw their further batches with replacement
                shape = (self.batch_size * self.packing,)
                which = torch.randint(len(self._data), shape, generator=stream)
                part = self._data[which]
            constraints.clip_weights(self.critic_, self.clip)
            record = self._critic_step(losses.pack(part, self.packing), stream, which)
        return record | self._generator_step(stream)


@dataclass(kw_only=True, eq=False)
class WGANGP(GAN):
    """The Wasserstein GAN with a gradient penalty.

    ``history_`` holds ``score_gap``, the estimate of the Wasserstein-1 distance (positive, and
    inflated by the penalty: at the optimum slopes are 1 + W / (2 penalty), not 1), and
    ``gradient_norm``, the mean slope of the critic where it was penalised, also per group.

    Args:
        penalty: Weight lambda of the penalty; 10 for images, 0.1 for the published toy examples.
        where: Where slopes are penalised: "mixed" (between data and samples), "real" or "fake".
        one_sided: Let slopes below 1 go free.
        grouped: Penalise the slopes near each label of the data by itself, so that all labels
            count alike, and record the mean slope of each.

    References:
        I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin, A. Courville, "Improved training of
        Wasserstein GANs", 2017, algorithm 1.

    Example:
        >>> import aeot
        >>> wgan = WGANGP(latent_dim=2, hidden=16, penalty=0.1, batch_size=32)
        >>> wgan = wgan.fit(aeot.data.toy("ring", 1000), steps=20)
        >>> wgan.history_[-1]["score_gap"] > 0
        True
    """

    penalty: float = 10.0
    where: str = "mixed"
    one_sided: bool = False
    grouped: bool = False
    loss: str = "wasserstein"
    prior: str = "normal"
    critic_batch_norm: bool = False
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.9)
    critic_steps: int = 5

    _vectors: ClassVar[str] = "mlp"
    _fixed: ClassVar[dict[str, str]] = CRITIC_FIRST | PER_SAMPLE
    _needs_labels: ClassVar[bool] = False

    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments(data)
        _check.real("penalty", self.penalty, minimum=0)
        _check.choice("where", self.where, ("mixed", "real", "fake"))
        if self.grouped or self._needs_labels:
            if data.labels is None:
                raise _check.fail("data", "have labels", "none", "pass labels to aeot.tensors")
            if self.packing != 1:
                raise _check.fail("packing", "be 1 with labels", self.packing)

    def _critic_step(
        self, real: torch.Tensor, stream: torch.Generator, rows: torch.Tensor
    ) -> dict[str, float]:
        labels = self._data.labels
        self._labels = None if labels is None else labels[rows]
        return super()._critic_step(real, stream, rows)

    def _penalty(
        self, real: torch.Tensor, fake: torch.Tensor, stream: torch.Generator
    ) -> tuple[torch.Tensor | float, dict[str, float]]:
        points = losses.interpolate(real, fake, where=self.where, generator=stream)
        return self._penalty_at(points)

    def _penalty_at(self, points: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        norms = losses.gradient_norms(self._score, points)
        facts = {"gradient_norm": norms.detach().mean().item()}
        if not (self.grouped or self._needs_labels):
            penalty = losses.slope_penalty(norms, weight=self.penalty, one_sided=self.one_sided)
            return penalty, facts
        penalty, slopes = losses.grouped_penalty(
            norms, self._labels, weight=self.penalty, one_sided=self.one_sided
        )
        return penalty, facts | {f"gradient_norm_{k}": slope for k, slope in slopes.items()}


@dataclass(kw_only=True, eq=False)
class ConditionalWGANGP(WGANGP):
    """WGAN-GP for each label of the data, in one generator and one critic.

    The critic is held 1-Lipschitz in the sample for each label by itself: segments join a real
    and a generated sample of the same label, every label counts alike, and the slope in the label
    is free unless `condition_penalty` asks for a flat one.

    Args:
        condition_penalty: Weight of the mean squared slope of the critic in the label's one-hot
            code, taken at the same points, for a critic that changes little from label to label;
            0 leaves it out. ``history_`` then holds ``condition_gradient_norm``.

    Example:
        >>> import aeot
        >>> wgan = ConditionalWGANGP(latent_dim=2, hidden=16, batch_size=32)
        >>> wgan = wgan.fit(aeot.data.toy("ring", 1000), steps=2)
        >>> wgan.sample(3, labels=[0, 0, 7]).shape
        torch.Size([3, 2])
    """

    condition_penalty: float = 0.0

    _fixed: ClassVar[dict[str, str]] = WGANGP._fixed | {"grouped": "labels are groups already"}
    _needs_labels: ClassVar[bool] = True

    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments(data)
        _check.real("condition_penalty", self.condition_penalty, minimum=0)
        present = data.labels.unique()
        gaps = (present != torch.arange(len(present)).to(present)).nonzero()
        if len(gaps):  # its samples would come from a condition never trained
            must = f"hold a row of every label from 0 to {int(present[-1])}"
            got = f"none of label {int(gaps[0])}"
            raise _check.fail("data", must, got, "number the labels that occur from 0")

    def _build(self, facts: dict[str, Any]) -> dict[str, nn.Module]:
        classes = facts["classes"]
        return {
            "generator": self._make_generator(self.latent_dim + classes),
            "critic": self._make_critic(classes),
        }

    def _code(self) -> torch.Tensor:
        return one_hot(self._labels, self._facts["classes"]).float()

    def _score(self, x: torch.Tensor) -> torch.Tensor:
        return self.critic_(x, self._code().to(x.device))

    def _penalty_at(self, points: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        penalty, facts = super()._penalty_at(points)
        if self.condition_penalty == 0:
            return penalty, facts
        code = self._code().to(points.device)
        norms = losses.gradient_norms(lambda y: self.critic_(points, y), code)
        flatness = losses.slope_penalty(norms, weight=self.condition_penalty, target=0.0)
        return penalty + flatness, facts | {"condition_gradient_norm": norms.detach().mean().item()}

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        latent = self._latent(n, stream)
        return self.generator_(torch.cat([latent, self._code().to(latent.device)], dim=1))

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Any = None,  # noqa: ANN401 - anything array-like
    ) -> torch.Tensor:
        """Generate, under given labels or, by default, under labels drawn alike.

        Args:
            n: How many.
            seed: Of the noise and of drawn labels.
            labels: (n,) whole numbers from 0, or None.

        Returns:
            Samples (n, C, H, W) or (n, d).

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If `labels` has another length or an unknown label.
        """
        self._check_fitted()
        n, classes = _check.integer("n", n), self._facts["classes"]
        if labels is None:
            stream = generator(_check.integer("seed", seed, minimum=0), "labels")
            labels = torch.randint(classes, (n,), generator=stream)
        wanted = f"be {n} whole numbers from 0 to {classes - 1}"
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _check.fail("labels", wanted, f"{type(labels).__name__} ({error})") from error
        if labels.shape != (n,) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise _check.fail("labels", wanted, f"{labels.dtype} of shape {tuple(labels.shape)}")
        labels = labels.long()
        unknown = labels[(labels < 0) | (labels >= classes)]
        if len(unknown):
            raise _check.fail("labels", wanted, int(unknown[0]))
        return self._in_blocks(n, seed, labels=labels)

    def _block(self, start: int, stop: int, stream: torch.Generator, **given: Any) -> torch.Tensor:  # noqa: ANN401
        before, self._labels = getattr(self, "_labels", None), given["labels"][start:stop]
        try:
            return self._generate(stop - start, stream)
        finally:
            self._labels = before
