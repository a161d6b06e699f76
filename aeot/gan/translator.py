"""What both translators share: fitting on the one loop, translating in blocks, storage."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aeot import _check
from aeot._rng import forked, generator
from aeot.data.arrays import Domains, digest, loader
from aeot.gan import losses, updates
from aeot.gan.fitted import Fitted
from aeot.networks import blocks
from aeot.networks.discriminators import PatchDiscriminator

_BLOCK = 32  # images translated at a time

# name -> (loss of a discriminator on real and fake scores, loss of the generator on fake scores);
# the published codes halve the discriminator's loss, which slows it down against the generator.
ADVERSARIES = {
    "least-squares": (
        losses.least_squares_critic_loss,
        lambda fake: 2 * losses.least_squares_generator_loss(fake),
    ),
    "non-saturating": (
        lambda real, fake: losses.logistic_critic_loss(real, fake) / 2,
        losses.nonsaturating_generator_loss,
    ),
}


@dataclass(kw_only=True, eq=False)
class Translator(Fitted):
    """A translator in the making: subclasses supply networks, optimisers and the update.

    Attributes set by `fit`: ``history_``, one dict per hundred steps; ``shape_``, (C, H, W) of
    domain A; and the networks, by their names with an underscore at the end.
    """

    filters: int = 64
    n_layers: int = 3
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    batch_size: int = 1
    decay: float = 0.5
    enlarge: float = 286 / 256
    flip: bool = True
    precision: str = "float32"
    device: str = "cpu"
    seed: int = 0

    # What a subclass supplies.
    def _check_data(self, data: Domains) -> None:
        raise NotImplementedError

    def _networks(self, facts: dict[str, Any]) -> dict[str, nn.Module]:
        raise NotImplementedError

    def _states(self) -> dict[str, Any]:
        """Make the optimisers, and whatever else a checkpoint must hold."""
        raise NotImplementedError

    def _update(self, step: int, a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
        raise NotImplementedError

    # What all have.
    def _build(self, facts: dict[str, Any]) -> dict[str, nn.Module]:
        modules = self._networks(facts)
        for module in modules.values():
            blocks.init_normal(module)
        return modules

    def fit(
        self,
        data: Domains,
        *,
        steps: int | None = None,
        checkpoint: str | os.PathLike | None = None,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
        log: str | os.PathLike | None = None,
    ) -> Translator:
        """Train on two domains.

        Args:
            data: `aeot.unpaired(a, b)` for `CycleGAN`, `aeot.paired(...)` for `Pix2Pix`.
            steps: Batches in all, at least 1; None for the published 200 passes over the larger
                domain.
            checkpoint: Directory to resume from, if it exists, and to write to. A run that was
                cut short and resumed equals one that was not.
            on_step: Called with the step and what it measured; returning True ends the run. It
                may call `translate`, for instance to save sample grids while training.
            log: File that gets one JSON line per record.

        Returns:
            Itself.

        Raises:
            ValueError: If an argument is out of range or does not fit the data.
            aeot.training.Diverged: If a loss or a weight is no longer finite.
        """
        self._check_arguments()
        if steps is not None:
            _check.integer("steps", steps)
        if not isinstance(data, Domains):
            wanted = "aeot.unpaired(a, b) or aeot.paired(a, b)"
            raise _check.fail("data", f"be made by {wanted}", type(data).__name__)
        for name, side in (("a", data.a), ("b", data.b)):
            if len(side) == 0:
                raise _check.fail(f"data.{name}", "hold at least one image", "none")
            if len(side.shape) != 3:
                raise _check.fail(f"data.{name}", "hold images (C, H, W)", f"rows {side.shape}")
        self._check_data(data)
        if steps is None:
            steps = 200 * math.ceil(len(data) / self.batch_size)
        facts = {"class": type(self).__name__, **dataclasses.asdict(self)}
        # Any device may go on, and the schedule compares the decay.
        del facts["device"], facts["decay"]
        for side, images in (("a", data.a), ("b", data.b)):
            facts |= {f"{key} of {side}": value for key, value in digest(images).items()}

        def batches(step: int) -> Iterator[Any]:
            return enumerate(loader(data, self.batch_size, seed=self.seed, start=step), step)

        def update(item: tuple[int, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
            step, (a, b) = item
            stream = generator(self.seed, "jitter", step)
            options = {"enlarge": self.enlarge, "flip": self.flip, "generator": stream}
            if data.paired:
                a, b = updates.jitter([a, b], **options)
            else:
                a, b = (updates.jitter([side], **options)[0] for side in (a, b))
            with forked(self.seed, "dropout", step):
                return self._update(step, a.to(self.device), b.to(self.device))

        with self._refusable():
            self._schedule = updates.Schedule(steps, self.decay)
            self._start({"shape": list(data.a.shape), "out_shape": list(data.b.shape)})
            for module in self._modules.values():
                module.to(self.device)
            self._run(
                update,
                batches,
                self.device,
                steps=steps,
                state=self._modules | self._states() | {"schedule": self._schedule},
                checkpoint=checkpoint,
                facts=facts,
                on_step=on_step,
                log=log,
            )
        return self

    @classmethod
    def load(cls, path: str | os.PathLike, *, device: str = "cpu") -> Translator:
        """Read what `save` wrote.

        Args:
            path: The directory.
            device: Where the networks go.

        Returns:
            The fitted translator.

        Raises:
            ValueError: If nothing is there, it is damaged, or holds another class; if this
                machine has no such device.
        """
        return cls._loaded(path, device, device=str(device))

    def _check_arguments(self) -> None:
        super()._check_arguments()
        _check.integer("filters", self.filters)
        _check.integer("n_layers", self.n_layers, minimum=0)
        _check.real("decay", self.decay, minimum=0, maximum=1)
        _check.real("enlarge", self.enlarge, minimum=1)
        _check.device("device", self.device)

    def _adam(self, *names: str) -> torch.optim.Adam:
        parameters = [p for name in names for p in self._modules[name].parameters()]
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=self.betas)

    def _descend(self, loss: torch.Tensor, optimizer: torch.optim.Adam, step: int) -> None:
        """Step down, with gradients for this optimiser's parameters only: the rest is frozen."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        slopes = torch.autograd.grad(loss, parameters)
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope
        self._schedule.set(optimizer, step, self.learning_rate)
        optimizer.step()

    @torch.no_grad()
    def _in_blocks(
        self,
        network: nn.Module,
        images: torch.Tensor,
        *,
        seed: int | None,
        noise_channels: int = 0,
    ) -> torch.Tensor:
        """Translate block by block; `seed` switches the noise on (dropout, extra channels)."""
        was = network.training
        network.eval()
        if seed is not None:
            for layer in network.modules():
                if isinstance(layer, nn.Dropout):
                    layer.train()
        parts = []
        try:
            for start in range(0, len(images), _BLOCK):
                block = images[start : start + _BLOCK].to(self.device, torch.float32)
                count = len(block)
                if seed is not None and count < _BLOCK:
                    # Dropout draws for the whole block: a full one keeps image i's noise the same.
                    filler = block.new_zeros(_BLOCK - count, *block.shape[1:])
                    block = torch.cat([block, filler])
                if noise_channels:
                    stream = generator(seed or 0, "noise", start)
                    z = torch.randn(len(block), noise_channels, generator=stream)
                    block = with_noise(block, z.to(block))
                with forked(seed or 0, "translate", start):
                    parts.append(network(block)[:count])
        finally:
            network.train(was)
        return torch.cat(parts) if parts else images.new_empty(0, *self._facts["out_shape"])


def with_noise(images: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Add a noise vector (B, k) to images (B, C, H, W) as k constant channels."""
    planes = z[:, :, None, None].expand(-1, -1, *images.shape[-2:])
    return torch.cat([images, planes], dim=1)


def check_depth(critic: PatchDiscriminator, sides: tuple[int, int]) -> None:
    """Raise an error if images of these sides are too small for a discriminator's depth."""
    if critic.output_size(min(sides)) < 1:
        got = f"{critic.n_layers} for {sides[0]} x {sides[1]} images"
        raise _check.fail("n_layers", "leave the discriminator an output", got, "use fewer")
