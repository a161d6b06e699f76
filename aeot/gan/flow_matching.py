"""Flow matching on vectors, such as latent codes: a learned velocity carries noise to data."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aeot import _check
from aeot._check import ArrayLike
from aeot._environment import in_parts
from aeot._estimator import depth
from aeot._rng import generator
from aeot.data.arrays import Dataset
from aeot.gan.estimator import GenerativeModel, OnStep, Trained, noise, set_gradient
from aeot.maps.coupling import Coupling
from aeot.measures import Gaussian
from aeot.networks.blocks import mlp

if TYPE_CHECKING:
    from typing_extensions import Self


class Velocity(nn.Module):
    """An MLP of the point and a few waves of the time, both in units of the data."""

    mean: torch.Tensor
    std: torch.Tensor
    waves: torch.Tensor

    def __init__(self, dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("waves", 2 * math.pi * torch.arange(1, 5))
        self.body = mlp([dim + 8 + 1, *[hidden] * layers, dim])

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Return the velocity at points (B, dim) and times (B, 1), in standardised units."""
        waves = time * self.waves
        return self.body(torch.cat([x, time, waves.sin(), waves.cos()], dim=1))


@dataclass(kw_only=True, eq=False, repr=False)
class FlowMatching(GenerativeModel):
    """Straight paths from Gaussian noise to data, and the velocity that realises them on average.

    The data are standardised by their mean and one common deviation. Fit it to the codes of an
    autoencoder and decode its samples to have a latent flow model of images.

    Args:
        seed: Of network, noise, times and the order of the data.
        batch_size: Rows per step.
        precision: "float32" or "bfloat16" (autocast).
        device: Where to train; None: the first GPU, else the CPU.
        hidden: Width of the hidden layers.
        layers: How many there are.
        learning_rate: Adam's.
        integration_steps: Heun steps from noise to sample.

    References:
        Y. Lipman et al., "Flow matching for generative modeling", 2023, section 4.1, the optimal
        transport paths; X. Liu, C. Gong, Q. Liu, "Flow straight and fast", 2023.

    Example:
        >>> import aeot
        >>> flow = FlowMatching(hidden=16, batch_size=32).fit(aeot.data.toy("ring", 100), steps=5)
        >>> flow.sample(3).shape
        torch.Size([3, 2])
    """

    batch_size: int = 256
    hidden: int = 256
    layers: int = 3
    learning_rate: float = 1e-3
    integration_steps: int = 40

    _checks = Trained._checks | {"layers": depth, "integration_steps": _check.integer}

    def fit(
        self,
        data: Dataset | ArrayLike,
        *,
        coupling: Coupling | None = None,
        steps: int = 20_000,
        checkpoint: str | os.PathLike | None = None,
        on_step: OnStep | None = None,
        log: str | os.PathLike | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Train on a data set, on the device where it lies, as other baselines do.

        Args:
            data: A `Dataset` of vectors, or anything `aeot.tensors` takes.
            coupling: Which noise goes with which row: an `aeot.coupling` whose sites are these
                rows, from standard normal noise, with this model's `batch_size`. Shifts and units
                of the data change no pair. None: any noise with any row.
            steps: As for every baseline, such as `GAN.fit`, and so are the others.
            checkpoint: See there.
            on_step: See there.
            log: See there.
            progress: See there.

        Returns:
            Itself.

        Raises:
            ValueError: If an argument is out of range or does not fit the data.
        """
        options: dict[str, Any] = {"steps": steps, "checkpoint": checkpoint, "on_step": on_step}
        self._coupling = coupling
        try:
            return super().fit(data, log=log, progress=progress, **options)
        finally:
            del self._coupling

    def _facts(self) -> dict[str, Any]:
        return {"coupling": None if self._coupling is None else self._coupling.digest()}

    def _check_data(self, data: Dataset) -> None:
        if len(data.shape) != 1:
            way_out = "fit it to the codes of an autoencoder"
            raise _check.fail("data", "be vectors", f"rows of shape {data.shape}", way_out)
        if self._coupling is None:
            return
        way_out = f"aeot.coupling(solution, data, batch_size={self.batch_size}) makes one"
        _check.instance("coupling", self._coupling, Coupling, way_out)
        brenier, source = self._coupling.brenier, self._coupling.brenier.source
        if (len(brenier.sites), source.dim) != (len(data), data.shape[0]):
            got = f"{len(brenier.sites)} sites in {source.dim} dimensions"
            must = f"be of the {len(data)} rows of data, in {data.shape[0]} dimensions"
            raise _check.fail("coupling", must, got, way_out)
        if self._coupling.batch_size != self.batch_size:
            must = f"have the batch_size of the model, {self.batch_size}"
            raise _check.fail("coupling", must, self._coupling.batch_size, way_out)
        if not isinstance(source, Gaussian) or bool(
            source.mean.any()
            or not (source.is_round or torch.eye(source.dim).to(source.factor).equal(source.factor))
        ):
            must = f"draw from Gaussian(dim={source.dim}), as samples of the model begin there"
            raise _check.fail("coupling", must, repr(source), "solve the transport from that")

    def _build(self) -> dict[str, nn.Module]:
        self.velocity_ = Velocity(self.shape_[0], self.hidden, self.layers)
        return {"velocity_": self.velocity_}

    def _states(self) -> dict[str, Any]:
        values = self._data.values[:]
        self.velocity_.mean.copy_(values.mean(0))
        self.velocity_.std.copy_((values - values.mean(0)).square().mean().sqrt().clamp(min=1e-12))
        self._mover = torch.optim.Adam(self.velocity_.parameters(), lr=self.learning_rate)
        return {"optimizer": self._mover}

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        stream = generator(self.seed, "noise", step)
        if self._coupling is None:
            start = noise(tuple(real.shape), stream, real)
        else:
            start, rows, *_ = self._coupling.batch(step)
            start, real = start.to(real), self._data[rows.to(real.device)]
        end = (real - self.velocity_.mean) / self.velocity_.std
        time = torch.rand((len(end), 1), generator=stream).to(end)
        out = self.velocity_(torch.lerp(start, end, time), time).float()
        loss = (out - (end - start)).square().mean()
        set_gradient(loss, self._mover)
        self._mover.step()
        return {"misfit": loss.item()}

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        x = noise((n, *self.shape_), stream, self.velocity_)
        stride = 1 / self.integration_steps
        for step in range(self.integration_steps):
            time = torch.full((n, 1), step * stride).to(x)
            first = in_parts(self.velocity_, x, time)
            second = in_parts(self.velocity_, x + stride * first, time + stride)
            x = x + stride * (first + second) / 2
        return x * self.velocity_.std + self.velocity_.mean
