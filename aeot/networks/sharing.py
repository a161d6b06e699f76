"""Networks that several processes train together: each rank computes its rows of every batch.

All ranks hold every batch. A call of a network computes the rows of this rank and returns those of
all, so that samplers, losses and updates see whole batches and know of no ranks. Then each rank has
its part of the gradients of the weights; their sum over the ranks is what the optimisers get. What
passes between ranks is differentiable as often as anybody likes (gradient penalties).

Batch normalisation takes the statistics of all rows. Results are those of one process but for the
order in which numbers are added up.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from aeot import _ranks
from aeot.networks.discriminators import MinibatchDiscrimination

_LOG = logging.getLogger(__name__)


class _Own(torch.autograd.Function):
    """The rows of this rank, of a tensor that all ranks hold."""

    @staticmethod
    def forward(ctx: Any, call: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        ctx.call = call
        return x[call.rows(len(x))].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401
        return None, _Whole.apply(ctx.call, *gradients)


class _Whole(torch.autograd.Function):
    """The rows of all ranks, of which each has its own; all ranks go on with them alike."""

    @staticmethod
    def forward(ctx: Any, call: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        ctx.call = call
        return call.joined(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401
        return None, _Own.apply(ctx.call, *gradients)


class _Total(torch.autograd.Function):
    """The sum of what the ranks have; each goes on with it by its own rows."""

    @staticmethod
    def forward(ctx: Any, call: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        ctx.call = call
        return call.added(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401
        return None, _Total.apply(ctx.call, *gradients)


@contextlib.contextmanager
def shared(parts: Mapping[str, Any], batch_size: int) -> Iterator[None]:
    """Have the ranks share the rows of every call of networks in training.

    Where a batch has fewer rows than there are ranks, and where a network drops out numbers at
    random, every rank trains the whole instead, which comes to the same.

    Args:
        parts: Networks and their optimisers by name; anything else is left alone.
        batch_size: Rows of a batch.
    """
    call = _ranks.present()
    networks = [part for part in parts.values() if isinstance(part, nn.Module)]
    layers = [layer for network in networks for layer in network.modules()]
    random = any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in layers)
    if call is None or call.size == 1 or batch_size < call.size or random:
        if call is not None and call.size > 1 and call.rank == 0:
            _LOG.info("every rank trains the whole: dropout, or too few rows in a batch")
        yield
        return
    rows = _Rows(call)
    with contextlib.ExitStack() as undo:
        for network in networks:
            before = network.register_forward_pre_hook(rows.enter, with_kwargs=True)
            after = network.register_forward_hook(rows.leave, always_call=True)
            undo.callback(before.remove)
            undo.callback(after.remove)
        for layer in layers:
            for kind, forward in ((_BatchNorm, _normalised), (MinibatchDiscrimination, _among_all)):
                if isinstance(layer, kind) and "forward" not in vars(layer):
                    vars(layer)["forward"] = partial(forward, layer, rows)
                    undo.callback(vars(layer).pop, "forward")
        for part in parts.values():
            if isinstance(part, torch.optim.Optimizer):
                hook = part.register_step_pre_hook(partial(_add_gradients, call))
                undo.callback(hook.remove)
        yield


class _Rows:
    """Which call of a network is under way.

    Attributes:
        call: The ranks.
        inside: The network that was called; None: none.
        count: Rows of its batch.
    """

    def __init__(self, call: Any) -> None:  # noqa: ANN401
        self.call, self.count = call, 0
        self.inside: nn.Module | None = None

    def enter(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Cut what a network is given to the rows of this rank."""
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.ndim]
        if self.inside is not None or not network.training or not given:
            return None
        self.inside, self.count = network, len(given[0])
        if self.count < self.call.size:
            raise RuntimeError(f"{self.count} rows cannot be shared by {self.call.size} ranks")

        def own(x: Any) -> Any:  # noqa: ANN401
            whole = isinstance(x, torch.Tensor) and x.ndim and len(x) == self.count
            return _Own.apply(self.call, x) if whole else x

        return tuple(map(own, args)), {name: own(x) for name, x in kwargs.items()}

    def leave(self, network: nn.Module, args: Any, made: Any) -> Any:  # noqa: ANN401, ARG002
        """Put what a network made of the rows of all ranks together."""
        if self.inside is not network:
            return None
        self.inside = None
        if made is None:  # it failed
            return None
        if isinstance(made, (tuple, list)):
            return type(made)([_Whole.apply(self.call, x) for x in made])
        return _Whole.apply(self.call, made)


def _normalised(layer: Any, rows: _Rows, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Batch normalisation by the statistics of the rows of all ranks."""
    if rows.inside is None or not layer.training:
        return type(layer).forward(layer, x)
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    count = rows.count * x[0, 0].numel()
    wide, fine = x.to(torch.promote_types(x.dtype, torch.float32)), torch.float64
    mean = _Total.apply(rows.call, wide.sum(axes, dtype=fine)) / count
    away = wide - mean.to(wide.dtype).view(shape)
    variance = _Total.apply(rows.call, away.square().sum(axes, dtype=fine)) / count
    if layer.track_running_stats:
        with torch.no_grad():
            layer.num_batches_tracked += 1
            step = layer.momentum
            step = 1 / float(layer.num_batches_tracked) if step is None else step
            unbiased = variance * (count / max(count - 1, 1))
            for kept, new in ((layer.running_mean, mean), (layer.running_var, unbiased)):
                kept.mul_(1 - step).add_(step * new.to(kept))
    scale = (variance + layer.eps).rsqrt().to(wide.dtype)
    if layer.affine:
        scale = scale * layer.weight
    made = away * scale.view(shape)
    return (made + layer.bias.view(shape) if layer.affine else made).to(x.dtype)


def _among_all(layer: Any, rows: _Rows, x: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Minibatch discrimination among the rows of all ranks."""
    if rows.inside is None:
        return type(layer).forward(layer, x)
    # Others' rows count as much as this rank's: a sum over ranks of rows that are zero elsewhere.
    own = rows.call.rows(rows.count)
    beside = [0, 0, own.start, rows.count - own.stop]
    every = _Total.apply(rows.call, nn.functional.pad(x, beside))
    return type(layer).forward(layer, every)[own]


def _add_gradients(call: Any, optimizer: torch.optim.Optimizer, *_: Any) -> None:  # noqa: ANN401
    """Add up the gradients of all ranks, in one message."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = call.added(torch.cat([g.reshape(-1) for g in gradients]))
    for g, new in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(new.view_as(g))
