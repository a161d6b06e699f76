"""Implicit maximum likelihood: every datum is given its nearest sample, which moves to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import normalize

from aeot import _check, _loop
from aeot._environment import in_parts
from aeot._estimator import rate
from aeot._rng import generator
from aeot.data.arrays import Dataset
from aeot.gan.estimator import GenerativeModel, Trained, noise, set_gradient
from aeot.gan.glo import GLO
from aeot.networks.blocks import init_normal
from aeot.search.nearest import nearest


@dataclass(kw_only=True, eq=False, repr=False)
class GLANN(GLO):
    """GLO, then a small network from noise to codes trained by implicit maximum likelihood.

    Each epoch of the second stage draws noise, maps it, finds for every code the nearest image,
    and pulls that image to the code: every datum is looked after, none can be dropped.

    Args:
        noise_dim: Width of the noise.
        mapping_share: Share of `steps` given to the second stage.
        mapping_rate: Adam's rate in it.

    References:
        Y. Hoshen, J. Malik, "Non-adversarial image synthesis with generative latent nearest
        neighbors", 2019. K. Li, J. Malik, "Implicit maximum likelihood estimation", 2018.
    """

    noise_dim: int = 32
    mapping_share: float = 0.3
    mapping_rate: float = 1e-3

    _open_ended: ClassVar[bool] = False  # the second stage begins at a share of all steps

    _checks = GLO._checks | {
        "noise_dim": _check.integer,
        "mapping_rate": rate,
        "mapping_share": partial(_check.real, above=0, maximum=1),
    }

    def _build(self) -> dict[str, nn.Module]:
        self.mapping_ = _mapping(self.noise_dim, self.latent_dim)
        self.choice_ = _Choice(self.n_rows_)
        return super()._build() | {"mapping_": self.mapping_, "choice_": self.choice_}

    def _states(self) -> dict[str, Any]:
        self._mapper = _mapping_optimizer(self.mapping_, self.mapping_rate)
        return super()._states() | {"mapping_optimizer": self._mapper}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        turn = round(self._steps * (1 - self.mapping_share))
        if step < turn:
            return super()._update(step, rows, real)
        epoch = (step - turn) // max(1, self.n_rows_ // self.batch_size)
        codes = normalize(self.codes_.weight.detach(), dim=1)
        misfit = _implicit_step(self, codes, rows, epoch)
        return {"mapping_misfit": misfit}

    def _latent(self, n: int, stream: torch.Generator) -> torch.Tensor:
        return in_parts(self.mapping_, noise((n, self.noise_dim), stream, self.mapping_))


@dataclass(kw_only=True, eq=False, repr=False)
class IMLE(GenerativeModel):
    """Implicit maximum likelihood on vectors, such as codes: for every datum its nearest sample.

    Args:
        seed: Of the network, the noise and the order of the data.
        batch_size: Rows per step.
        precision: "float32" or "bfloat16" (autocast).
        device: Where to train; None: the first GPU, else the CPU.
        noise_dim: Width of the noise.
        mapping_rate: Adam's rate.

    References:
        K. Li, J. Malik, "Implicit maximum likelihood estimation", 2018.

    Example:
        >>> import aeot
        >>> imle = IMLE(batch_size=50).fit(aeot.data.toy("ring", 100), steps=4)
        >>> imle.sample(3).shape
        torch.Size([3, 2])
    """

    batch_size: int = 128
    noise_dim: int = 32
    mapping_rate: float = 1e-3

    _checks = Trained._checks | {"noise_dim": _check.integer, "mapping_rate": rate}

    def _check_data(self, data: Dataset) -> None:
        if len(data.shape) != 1:
            raise _check.fail("data", "be vectors", f"rows of shape {data.shape}", "use GLANN")

    def _build(self) -> dict[str, nn.Module]:
        self.mapping_ = _mapping(self.noise_dim, self.shape_[0])
        self.choice_ = _Choice(self.n_rows_)
        return {"mapping_": self.mapping_, "choice_": self.choice_}

    def _states(self) -> dict[str, Any]:
        self._mapper = _mapping_optimizer(self.mapping_, self.mapping_rate)
        return {"mapping_optimizer": self._mapper}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        epoch = step // max(1, self.n_rows_ // self.batch_size)
        return {"mapping_misfit": _implicit_step(self, self._data.values[:], rows, epoch)}

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        return self.mapping_(noise((n, self.noise_dim), stream, self.mapping_))


def _mapping(noise_dim: int, dim: int) -> nn.Module:
    layers: list[nn.Module] = []
    width = noise_dim
    for _ in range(2):
        layers += [nn.Linear(width, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
        width = 128
    mapping = nn.Sequential(*layers, nn.Linear(width, dim, bias=False))
    init_normal(mapping, std=0.1)
    return mapping


def _mapping_optimizer(mapping: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(mapping.parameters(), lr=rate, betas=(0.5, 0.999), weight_decay=1e-5)


class _Choice(nn.Module):
    """Which of an epoch's noises is each datum's; state, because it was chosen when it began."""

    nearest: torch.Tensor
    epoch: torch.Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("nearest", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("epoch", torch.tensor(-1))
        # The chosen noises (n, noise_dim) themselves follow from the seed: drawn once an epoch,
        # and once more when a run is resumed in the middle of one.
        self.noise, self.drawn = torch.empty(0), -1


def _implicit_step(
    model: GLANN | IMLE, targets: torch.Tensor, rows: torch.Tensor, epoch: int
) -> float:
    """Pull the samples chosen for these rows towards them; choose anew at each epoch."""
    choice, mapping = model.choice_, model.mapping_
    if choice.drawn != epoch:
        stream = generator(model.seed, "implicit", epoch)
        drawn = noise((2 * len(targets), model.noise_dim), stream, targets)
        if int(choice.epoch) != epoch:
            mapping.eval()
            with torch.no_grad():
                images = torch.cat([mapping(part).float() for part in drawn.split(4096)])
            mapping.train()
            with _loop.whole(False):  # it may take minutes, and nothing is changed so far
                _, found = nearest(targets.flatten(1), images.flatten(1))
            choice.nearest.copy_(found[:, 0])
            choice.epoch.fill_(epoch)
        choice.noise, choice.drawn = drawn[choice.nearest], epoch
    out = mapping(choice.noise[rows]).float()
    misfit = (out - targets[rows]).square().mean()
    set_gradient(misfit, model._mapper)
    model._mapper.step()
    return misfit.item()
