"""The Wasserstein members of the GAN family: clipped, penalised, conditional."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import one_hot

from aeot import _check, _io
from aeot._check import ArrayLike
from aeot._environment import resolve_device
from aeot._estimator import not_negative, positive
from aeot._rng import generator
from aeot.data.arrays import Dataset, domain
from aeot.gan import losses
from aeot.gan.estimator import OnStep
from aeot.gan.gan import Adversarial, Game

if TYPE_CHECKING:
    from typing_extensions import Self

_KEPT = 4096  # conditions of the data that a model keeps to draw from


@dataclass(kw_only=True, eq=False, repr=False)
class WGAN(Adversarial):
    """The Wasserstein GAN with clipped weights.

    The critic is trained `warm_up_steps` instead of `critic_steps` times before each of the first
    25 generator steps and every 500th, so that it starts near its optimum.

    Of the arguments of `GAN` it has no `betas`, because RMSprop moves its networks; no
    `simultaneous`, because its critic is to be near its optimum before the generator moves; and no
    `spectral`, which would undo the clipping: ``GAN(loss="wasserstein", spectral=True)`` has it.

    Args:
        clip: Bound on every critic weight, applied before each critic step.
        warm_up_steps: Critic steps of the long rounds; `critic_steps` to do without them.

    References:
        M. Arjovsky, S. Chintala, L. Bottou, "Wasserstein GAN", 2017, algorithm 1 and its code.
    """

    clip: float = 0.01
    warm_up_steps: int = 100
    critic_batch_norm: bool = True
    critic_steps: int = 5
    packing: int = 1
    kernels: int = 0

    _checks = Adversarial._checks | {"clip": positive, "warm_up_steps": _check.integer}

    def _game(self) -> Game:
        clip = partial(losses.clip_weights, bound=self.clip)
        return self._put_together(loss=losses.LOSSES["wasserstein"], constrain=clip)

    def _turns(
        self, step: int, rows: torch.Tensor, real: torch.Tensor, stream: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        count = self.warm_up_steps if step < 25 or step % 500 == 0 else self.critic_steps
        turns = super()._turns(step, rows, real, stream)
        return islice(chain(turns, self._drawn_again(stream)), count)

    def _drawn_again(self, stream: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # The long rounds draw their further batches with replacement.
        shape = (self.batch_size * self.packing,)
        while True:
            which = torch.randint(len(self._data), shape, generator=stream)
            yield self._data[which], which


@dataclass(kw_only=True, eq=False, repr=False)
class SlopePenalised(Adversarial):
    """What `WGANGP` and its conditional form share: a critic whose slope is held at 1."""

    penalty: float = 10.0
    where: str = "mixed"
    one_sided: bool = False
    prior: str = "normal"
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.9)
    critic_steps: int = 5
    spectral: bool = False

    _vectors: ClassVar[str] = "mlp"
    _checks = Adversarial._checks | {
        "where": partial(_check.choice, options=("mixed", "real", "fake")),
        "condition_penalty": not_negative,
    }

    def _game(self) -> Game:
        return self._put_together(loss=losses.LOSSES["wasserstein"], penalty=self._penalty)

    def _penalty(
        self,
        real: torch.Tensor,
        fake: torch.Tensor,
        rows: torch.Tensor,
        stream: torch.Generator,
        *beside: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        points = losses.interpolate(real, fake, where=self.where, generator=stream)
        return self._penalty_at(points, rows, *beside)

    def _penalty_at(
        self, points: torch.Tensor, rows: torch.Tensor, *beside: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return losses.gradient_penalty(
            self._score,
            points,
            *beside,
            weight=self.penalty,
            one_sided=self.one_sided,
            groups=self._groups(rows),
        )

    def _groups(self, rows: torch.Tensor) -> torch.Tensor | None:
        """Return the group of each row if every group's slopes are to count alike, or None."""
        raise NotImplementedError


@dataclass(kw_only=True, eq=False, repr=False)
class WGANGP(SlopePenalised):
    """The Wasserstein GAN with a gradient penalty.

    ``history_`` holds ``score_gap``, the estimate of the Wasserstein-1 distance (positive, and
    inflated by the penalty: at the optimum slopes are 1 + W / (2 penalty), not 1), and
    ``gradient_norm``, the mean slope of the critic where it was penalised, also per group.

    Of the arguments of `GAN` it has no `simultaneous`, because its critic is to be near its
    optimum before the generator moves, and neither `critic_batch_norm` nor `kernels`: a penalised
    slope is per sample, and these make the scores of a batch depend on each other.

    Args:
        penalty: Weight lambda of the penalty; 10 for images, 0.1 for the published toy examples.
        where: Where slopes are penalised: "mixed" (between data and samples), "real" or "fake".
        one_sided: Let slopes below 1 go free.
        grouped: Penalise the slopes near each label of the data by itself, so that all labels
            count alike, and record the mean slope of each; for `packing` 1.

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

    grouped: bool = False
    packing: int = 1

    def _check_data(self, data: Dataset) -> None:
        super()._check_data(data)
        if self.grouped:
            _labels(data)
            if self.packing != 1:
                raise _check.fail("packing", "be 1 with labels", self.packing)

    def _groups(self, rows: torch.Tensor) -> torch.Tensor | None:
        return _labels(self._data)[rows] if self.grouped else None


@dataclass(kw_only=True, eq=False, repr=False)
class ConditionalWGANGP(SlopePenalised):
    """WGAN-GP for each label or condition of the data, in one generator and one critic.

    The critic is held 1-Lipschitz in the sample for each label by itself: segments join a real
    and a generated sample of the same label, every label counts alike, and the slope in the label
    is free unless `condition_penalty` asks for a flat one.

    Conditions can be vectors instead of labels: ``fit(data, conditions=...)``, one row of numbers
    for each row of data, such as the cosine and sine of an angle, an embedding, or an image,
    flattened. Samples under conditions between those of the data then interpolate. Segments join a
    sample with the row whose condition it was drawn under, and all rows count alike.

    Arguments are those of `WGANGP` without `grouped`, because labels are groups already, and
    without `packing`, because each sample has a label of its own.

    Args:
        condition_penalty: Weight of the mean squared slope of the critic in the condition, or in
            the label's one-hot code, at the same points, for a critic that changes little with it;
            0 leaves it out. ``history_`` then holds ``condition_gradient_norm``.

    Example:
        >>> import aeot
        >>> wgan = ConditionalWGANGP(latent_dim=2, hidden=16, batch_size=32)
        >>> wgan = wgan.fit(aeot.data.toy("ring", 1000), steps=2)
        >>> wgan.sample(3, labels=[0, 0, 7]).shape
        torch.Size([3, 2])
    """

    condition_penalty: float = 0.0

    # Some conditions of the data, from which `sample` draws; none of saves before there were any.
    _learned = SlopePenalised._learned | {"conditions_": torch.Tensor | None}

    def fit(
        self,
        data: Dataset | ArrayLike,
        *,
        conditions: ArrayLike | None = None,
        steps: int = 20_000,
        checkpoint: str | os.PathLike | None = None,
        on_step: OnStep | None = None,
        log: str | os.PathLike | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Train on labelled data, or on rows with a condition each.

        Args:
            data: With labels, unless there are conditions.
            conditions: (n, k), numbers of about unit size; None: the labels of the data.
            steps: As in `GAN.fit`, and so are the others.
            checkpoint: See there.
            on_step: See there.
            log: See there.
            progress: See there.

        Returns:
            Itself.

        Raises:
            ValueError: As `GAN.fit` does, or if conditions are not as many as rows.
        """
        options: dict[str, Any] = {"steps": steps, "checkpoint": checkpoint, "on_step": on_step}
        data = domain("data", data)
        if conditions is not None:
            self._check_arguments()
            given = _check.points("conditions", conditions).detach().float()
            if len(given) != len(data):
                raise _check.fail("conditions", f"have {len(data)} rows like data", len(given))
            self._given = given.to(resolve_device(self.device))
        try:
            return super().fit(data, log=log, progress=progress, **options)
        finally:
            vars(self).pop("_given", None)

    @property
    def _conditions(self) -> torch.Tensor | None:
        """The conditions of all rows while it is fitted to some."""
        return vars(self).get("_given")

    def _note(self, data: Dataset) -> None:
        super()._note(data)
        self.conditions_: torch.Tensor | None = None
        if self._conditions is not None:
            some = torch.linspace(0, len(data) - 1, min(len(data), _KEPT)).long()
            self.conditions_ = self._conditions.cpu()[some]

    def _facts(self) -> dict[str, Any]:
        if self._conditions is None:
            return {}
        return {"conditions": _io.digest({"conditions": self._conditions})[:16]}

    def _check_data(self, data: Dataset) -> None:
        super()._check_data(data)
        if self._conditions is not None:
            return
        way_out = "pass labels to aeot.tensors, or conditions to fit"
        present = _labels(data, way_out).unique()
        gaps = (present != torch.arange(len(present)).to(present)).nonzero()
        if len(gaps):  # its samples would come from a condition never trained
            must = f"hold a row of every label from 0 to {int(present[-1])}"
            got = f"none of label {int(gaps[0])}"
            raise _check.fail("data", must, got, "number the labels that occur from 0")

    def _build(self) -> dict[str, nn.Module]:
        known = getattr(self, "conditions_", None)
        width = self.n_classes_ if known is None else known.shape[1]
        self.generator_ = self._make_generator(self.latent_dim + width)
        self.critic_ = self._make_critic(width)
        return {"generator_": self.generator_, "critic_": self.critic_}

    def _groups(self, rows: torch.Tensor) -> torch.Tensor | None:
        return _labels(self._data)[rows] if self._conditions is None else None

    def _beside(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if (given := self._conditions) is not None:
            return (given[rows.to(given.device)],)
        code = one_hot(_labels(self._data)[rows], self.n_classes_).float()
        return (code.to(self._data.values.device),)

    def _penalty_at(
        self, points: torch.Tensor, rows: torch.Tensor, *beside: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        penalty, facts = super()._penalty_at(points, rows, *beside)
        if self.condition_penalty == 0:
            return penalty, facts
        norms = losses.gradient_norms(lambda code: self._score(points, code), *beside)
        flatness = losses.slope_penalty(norms, weight=self.condition_penalty, target=0.0)
        return penalty + flatness, facts | {"condition_gradient_norm": norms.detach().mean().item()}

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: ArrayLike | None = None,
        conditions: ArrayLike | None = None,
    ) -> torch.Tensor:
        """Generate, under what is given or, by default, under labels or conditions drawn alike.

        Args:
            n: How many.
            seed: Of the noise and of what is drawn.
            labels: (n,) whole numbers from 0, or None.
            conditions: (n, k), or (k,) for all, of a model that was fitted with conditions.

        Returns:
            Samples (n, C, H, W) or (n, d).

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If `labels` has another length or an unknown label, or they or the
                conditions are not what the model was fitted with.
        """
        self._check_fitted()
        n = _check.rows("n", n, math.prod(self.shape_))
        stream = generator(_check.seed("seed", seed), "labels")
        known = getattr(self, "conditions_", None)
        if known is not None and labels is not None:
            raise _check.fail(
                "labels", "be left out of a model of conditions", _check.shown(labels)
            )
        if known is None and conditions is not None:
            must = "be left out of a model of labels"
            raise _check.fail("conditions", must, _check.shown(conditions))
        if known is None:
            code = self._codes(n, labels, stream)
        elif conditions is None:
            code = known[torch.randint(len(known), (n,), generator=stream).to(known.device)]
        else:
            code = _check.array("conditions", conditions).detach().float()
            if tuple(code.shape) not in ((n, known.shape[1]), (known.shape[1],)):
                must = f"have shape ({n}, {known.shape[1]}) or ({known.shape[1]},)"
                raise _check.fail("conditions", must, f"shape {tuple(code.shape)}")
            code = code.expand(n, -1)
        code = code.to(next(self.generator_.parameters()).device)
        return self._in_blocks(
            n,
            seed,
            "sample",
            lambda part, stream: self._generate(len(part), stream, code[part.start : part.stop]),
        )

    def _codes(self, n: int, labels: ArrayLike | None, stream: torch.Generator) -> torch.Tensor:
        """Return the one-hot codes (n, classes) of labels, given or drawn."""
        classes = self.n_classes_
        if labels is None:
            labels = torch.randint(classes, (n,), generator=stream)
        wanted = f"be {n} whole numbers from 0 to {classes - 1}"
        try:
            labels = _check.tensor("labels", labels)
        except ValueError as error:
            raise _check.fail("labels", wanted, type(labels).__name__) from error
        if labels.shape != (n,) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise _check.fail("labels", wanted, f"{labels.dtype} of shape {tuple(labels.shape)}")
        unknown = labels[(labels < 0) | (labels >= classes)]
        if len(unknown):
            raise _check.fail("labels", wanted, int(unknown[0]))
        return one_hot(labels.long(), classes).float()


def _labels(data: Dataset, way_out: str = "pass labels to aeot.tensors") -> torch.Tensor:
    if data.labels is None:
        raise _check.fail("data", "have labels", "none", way_out)
    return data.labels
