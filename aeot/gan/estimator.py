"""What every trained generator here shares: fitting on the one loop, sampling, storage."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from aeot import _check
from aeot._rng import generator
from aeot.data.arrays import Dataset, digest, domain, indices
from aeot.gan.fitted import Fitted

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(kw_only=True, eq=False)
class Estimator(Fitted):
    """A generator in the making: subclasses supply networks, optimisers and the update.

    Attributes set by `fit`: ``history_``, one dict per hundred steps, and ``shape_``, the shape
    of one sample.
    """

    latent_dim: int = 64
    seed: int = 0
    batch_size: int = 64
    precision: str = "float32"

    _multiple: ClassVar[int] = 1  # batches of real rows that one update takes
    _open_ended: ClassVar[bool] = True  # no step depends on how many will follow

    # What a subclass supplies.
    def _check_arguments(self, data: Dataset) -> None:
        super()._check_arguments()
        _check.integer("latent_dim", self.latent_dim)
        if len(data) == 0:
            raise _check.fail("data", "hold at least one row", "none")

    def _optimizers(self) -> dict[str, Any]:
        """Make the optimisers, and whatever else a checkpoint must hold."""
        raise NotImplementedError

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        """Do step `step` on the rows of the data set numbered `rows`."""
        raise NotImplementedError

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        """Draw n samples with networks in eval mode."""
        raise NotImplementedError

    # What all have.
    def fit(
        self,
        data: Any,  # noqa: ANN401 - a data set or anything array-like
        *,
        steps: int = 20_000,
        checkpoint: str | os.PathLike | None = None,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
        log: str | os.PathLike | None = None,
    ) -> Self:
        """Train on a data set, on the device where it lies.

        Args:
            data: A `Dataset` of images or vectors, or anything `aeot.tensors` takes.
            steps: Updates of the generator in all.
            checkpoint: Directory to resume from, if it exists, and to write to. A run that was
                cut short and resumed equals one that was not; class, arguments and data must be
                those it began with.
            on_step: Called with the step and what it measured; returning True ends the run.
            log: File that gets one JSON line per record; after a kill, the records since the last
                writing of the checkpoint come a second time.

        Returns:
            Itself.

        Raises:
            ValueError: If an argument is out of range or does not fit the data.
            aeot.training.Diverged: If a loss or a weight is no longer finite.
        """
        data = domain("data", data)
        self._check_arguments(data)
        steps = _check.integer("steps", steps, minimum=0)
        classes = 0 if data.labels is None else int(data.labels.max()) + 1
        facts = {"class": type(self).__name__, **dataclasses.asdict(self), **digest(data)}
        if not self._open_ended:
            facts["steps"] = steps
        with self._refusable():
            self._start({"shape": list(data.shape), "n": len(data), "classes": classes})
            parts = [part for module in self._modules.values() for part in module.modules()]
            if self.batch_size == 1 and any(isinstance(part, nn.BatchNorm1d) for part in parts):
                way_out = "batch statistics need two rows"
                raise _check.fail("batch_size", "be at least 2", "1", way_out)
            self._data, self._steps = data, steps
            for module in self._modules.values():
                module.to(data.values.device)

            def batches(step: int) -> Iterator[tuple[int, torch.Tensor]]:
                size = self.batch_size * self._multiple
                return enumerate(indices(len(data), size, seed=self.seed, start=step), step)

            try:
                self._run(
                    lambda item: self._update(*item, data[item[1]]),
                    batches,
                    data.values.device,
                    steps=steps,
                    state=self._modules | self._optimizers(),
                    checkpoint=checkpoint,
                    facts=facts,
                    on_step=on_step,
                    log=log,
                )
            finally:
                del self._data, self._steps
        return self

    def sample(self, n: int, *, seed: int = 0) -> torch.Tensor:
        """Generate.

        Args:
            n: How many.
            seed: Of the noise; the same seed gives the same samples.

        Returns:
            Samples (n, C, H, W) in [-1, 1] or (n, d), on the model's device.

        Raises:
            NotFittedError: Before `fit`.
        """
        self._check_fitted()
        return self._in_blocks(n, seed)

    def _in_blocks(self, n: int, seed: int, **given: Any) -> torch.Tensor:  # noqa: ANN401
        _check.integer("n", n)
        _check.integer("seed", seed, minimum=0)
        with self._evaluated():  # 500 at a time bound the memory; each block has its own stream
            parts = [
                self._block(start, min(start + 500, n), generator(seed, "sample", start), **given)
                for start in range(0, n, 500)
            ]
        return torch.cat(parts)

    @contextlib.contextmanager
    def _evaluated(self) -> Iterator[None]:
        """Use the networks without a trace: inside `on_step` training must go on as it was."""
        modes = [(module, module.training) for module in self._modules.values()]
        for module, _ in modes:
            module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, was in modes:
                module.train(was)

    def _block(self, start: int, stop: int, stream: torch.Generator) -> torch.Tensor:
        return self._generate(stop - start, stream)

    @classmethod
    def load(cls, path: str | os.PathLike, *, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote.

        Args:
            path: The directory.
            device: Where the networks go.

        Returns:
            The fitted generator.

        Raises:
            ValueError: If nothing is there, it is damaged, or holds another class.
        """
        return cls._loaded(path, device)


def noise(
    shape: tuple[int, ...],
    stream: torch.Generator,
    like: torch.Tensor | nn.Module,
    prior: str = "normal",
) -> torch.Tensor:
    """Draw a latent batch on the CPU, so that all devices see the same, and move it.

    Args:
        shape: Of the batch.
        stream: Where it is drawn from.
        like: A tensor or module on the device wanted.
        prior: "normal": N(0, 1); "uniform": U(-1, 1).
    """
    device = like.device if isinstance(like, torch.Tensor) else next(like.parameters()).device
    if prior == "uniform":
        return torch.rand(shape, generator=stream).mul_(2).sub_(1).to(device)
    return torch.randn(shape, generator=stream).to(device)


def descend(
    loss: torch.Tensor, parameters: list[nn.Parameter], *, retain_graph: bool = False
) -> None:
    """Put the gradient of `loss` in exactly these parameters where an optimiser looks for it."""
    slopes = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
    for parameter, slope in zip(parameters, slopes, strict=True):
        parameter.grad = slope
