"""What all models here share: a fit on the one loop that can fail without loss, and sampling."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from aeot import _check, _loop, _ranks, training
from aeot._check import ArrayLike
from aeot._environment import resolve_device
from aeot._estimator import Check, Estimator
from aeot._rng import forked, generator
from aeot.data.arrays import Dataset, digest, domain, indices
from aeot.networks.autoencoder import resolve_architecture
from aeot.networks.blocks import count_parameters
from aeot.networks.sharing import shared

if TYPE_CHECKING:
    from typing_extensions import Self

OnStep = Callable[[int, dict[str, float]], "bool | None"]

_BLOCK = 500  # rows made at a time, which bounds the memory


def _betas(name: str, value: object) -> None:
    pair = value if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(0 <= _check.real(name, beta) < 1 for beta in pair):
        raise _check.fail(name, "be two numbers in [0, 1)", _check.shown(value))


natural: Check = partial(_check.integer, minimum=0)


@dataclass(kw_only=True, eq=False, repr=False)
class Trained(Estimator):
    """Networks that are trained together: subclasses supply them, optimisers and the update."""

    seed: int = 0
    batch_size: int = 64
    precision: str = "float32"

    _fitted_by = "history_"
    _checks = Estimator._checks | {
        "precision": partial(_check.choice, options=("float32", "bfloat16")),
        "device": _check.device,
        "betas": _betas,
        "hidden": _check.integer,
    }

    def _states(self) -> dict[str, Any]:
        """Make the optimisers, and whatever else beside the networks a checkpoint must hold."""
        raise NotImplementedError

    @property
    def _modules(self) -> dict[str, nn.Module]:
        """The networks, by their attributes' names without the underscore at the end."""
        return {k[:-1]: value for k, value in vars(self).items() if isinstance(value, nn.Module)}

    def _train(
        self,
        update: Callable[[Any], dict[str, float]],
        batches: Callable[[int], Iterator[Any]],
        *,
        device: torch.device,
        note: Callable[[], None],
        **options: Any,  # noqa: ANN401 - those of training.run
    ) -> Self:
        """Make the networks and train them; what is refused before the first step leaves no trace.

        Args:
            update: Does a step on what `batches` yields.
            batches: A function from the first step to an iterator.
            device: Where to compute.
            note: Sets what the networks are made for: attributes such as ``shape_``.
            options: Of `aeot.training.run`.
        """
        before, begun = vars(self).copy(), False

        def step(item: Any) -> dict[str, float]:  # noqa: ANN401
            nonlocal begun
            begun = True
            # No cache: it would keep the casts of weights that the optimisers of one update move.
            low = self.precision == "bfloat16"
            with torch.autocast(device.type, torch.bfloat16, enabled=low, cache_enabled=False):
                return update(item)

        try:
            for name in [name for name in before if name.endswith("_")]:  # of an earlier fit
                delattr(self, name)
            self.history_: list[dict[str, float]] = []
            note()
            self._check_networks()
            with forked(self.seed, "networks"):
                vars(self).update(self._build())
            parts = [part for module in self._modules.values() for part in module.modules()]
            if self.batch_size == 1 and any(isinstance(part, nn.BatchNorm1d) for part in parts):
                way_out = "batch statistics need two rows"
                raise _check.fail("batch_size", "be at least 2", "1", way_out)
            for module in self._modules.values():
                module.to(device).train()
            state = self._modules | self._states()
            with shared(state, self.batch_size):
                training.run(
                    step,
                    batches,
                    state=state,
                    history=self.history_,
                    name=type(self).__name__,
                    **options,
                )
        except BaseException:
            if not begun:
                vars(self).clear()
                vars(self).update(before)
            raise
        finally:
            for module in self._modules.values():
                module.eval()
        return self

    def count_parameters(self) -> dict[str, int]:
        """Return the number of trainable numbers of each network."""
        self._check_fitted()
        return {name: count_parameters(module) for name, module in self._modules.items()}


@dataclass(kw_only=True, eq=False, repr=False)
class GenerativeModel(Trained):
    """What learns from a data set and samples more of it.

    Attributes set by `fit`: ``history_``, one dict per hundred steps, and of the data ``shape_``,
    the shape of a row, ``n_rows_`` and ``n_classes_``.
    """

    _learned = {
        "shape_": tuple[int, ...],
        "n_rows_": int,
        "n_classes_": int,
        "history_": list[dict],
    }
    device: str | None = None

    _multiple: ClassVar[int] = 1  # batches of real rows that one update takes
    _open_ended: ClassVar[bool] = True  # no step depends on how many will follow

    def _note(self, data: Dataset) -> None:
        self.shape_: tuple[int, ...] = data.shape
        self.n_rows_: int = len(data)
        self.n_classes_: int = 0 if data.labels is None else int(data.labels.max()) + 1

    def _facts(self) -> dict[str, Any]:
        """What else a checkpoint must have begun with."""
        return {}

    def _check_data(self, data: Dataset) -> None:
        """Raise a ValueError if the arguments do not fit the data or each other."""

    def _check_width(self, data: Dataset) -> None:
        """Refuse a width, which some have, where the networks chosen for the data have none."""
        named = resolve_architecture(getattr(self, "architecture"), data.shape, published=True)  # noqa: B009
        if named == "infogan":
            self._check_unused("with the networks 'infogan', which have one width", "width")

    def _update(self, step: int, rows: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
        """Do step `step` on the rows of the data set numbered `rows`."""
        raise NotImplementedError

    def _generate(self, n: int, stream: torch.Generator) -> torch.Tensor:
        """Draw n samples with networks in eval mode."""
        raise NotImplementedError

    @_ranks.together("fit")
    def fit(
        self,
        data: Dataset | ArrayLike,
        *,
        steps: int = 20_000,
        checkpoint: str | os.PathLike | None = None,
        on_step: OnStep | None = None,
        log: str | os.PathLike | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Train on a data set, on the model's ``device``; None: the first GPU, else the CPU.

        Args:
            data: A `Dataset` of images or vectors, or anything `aeot.tensors` takes.
            steps: Updates of the generator in all.
            checkpoint: Directory to resume from, if it exists, and to write to. A run that was
                cut short and resumed equals one that was not; class, arguments and data must be
                those it began with.
            on_step: Called with the step and what it measured; returning True ends the run.
            log: File that gets one JSON line per record; after a kill, the records since the last
                writing of the checkpoint come a second time.
            progress: Whether to show progress on stderr; None: a bar if that is a terminal, else a
                line a minute.

        Returns:
            Itself.

        Raises:
            ValueError: If an argument is out of range or does not fit the data.
            aeot.training.Diverged: If a loss or a weight is no longer finite.
        """
        data = domain("data", data)
        self._check_arguments()
        if len(data) == 0:
            raise _check.fail("data", "hold at least one row", "none")
        self._check_data(data)
        way_out = "choose a smaller one"
        _check.rows("batch_size", self.batch_size, math.prod(data.shape), way_out=way_out)
        steps = _check.integer("steps", steps, minimum=0)
        facts = {"class": type(self).__name__, **self.arguments(), **digest(data), **self._facts()}
        del facts["device"]  # any may go on
        if not self._open_ended:
            facts["steps"] = steps
        size, n = self.batch_size * self._multiple, len(data)

        def batches(step: int) -> Iterator[tuple[int, torch.Tensor]]:
            return enumerate(indices(n, size, seed=self.seed, start=step), step)

        device = resolve_device(self.device)
        data = data.to(device)
        self._data, self._steps = data, steps
        try:
            return self._train(
                lambda item: self._update(item[0], item[1], data[item[1]]),
                batches,
                device=device,
                note=lambda: self._note(data),
                steps=steps,
                checkpoint=checkpoint,
                facts=facts,
                on_step=on_step,
                log=log,
                progress=progress,
            )
        finally:
            del self._data, self._steps

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
        return self._in_blocks(n, seed, "sample", lambda part, s: self._generate(len(part), s))

    def _in_blocks(
        self,
        n: int,
        seed: int,
        key: str,
        make: Callable[[range, torch.Generator], torch.Tensor],
    ) -> torch.Tensor:
        """Join what `make(rows, stream)` returns for one block of row numbers after another."""
        _check.rows("n", n, math.prod(self.shape_))
        _check.seed("seed", seed)
        blocks = (range(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))
        # Without a trace: inside `on_step` training must go on as it was.
        modes = [(module, module.training) for module in self._modules.values()]
        for module, _ in modes:
            module.eval()
        try:
            parts = []
            with torch.no_grad(), _loop.Loop("sampling", n, unit="row", stops=False) as loop:
                for part in blocks:
                    parts.append(make(part, generator(seed, key, part.start)))
                    loop.at(part.stop)
            return torch.cat(parts)
        finally:
            for module, was in modes:
                module.train(was)


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


def set_gradient(
    loss: torch.Tensor, optimizer: torch.optim.Optimizer, *, retain_graph: bool = False
) -> None:
    """Put the gradient of `loss` in the optimiser's parameters and in no others."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = None
    loss.backward(inputs=parameters, retain_graph=retain_graph)
