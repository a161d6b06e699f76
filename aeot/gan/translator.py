"""What both translators share: fitting on the one loop, past images, crops, blocks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from aeot import _check, _loop, _ranks
from aeot._check import ArrayLike
from aeot._environment import in_parts, resolve_device
from aeot._estimator import not_negative
from aeot._rng import forked, generator
from aeot.data.arrays import Dataset, Domains, check_range, digest, loader
from aeot.gan import losses
from aeot.gan.estimator import OnStep, Trained, natural, set_gradient
from aeot.networks import blocks
from aeot.networks.discriminators import PatchDiscriminator
from aeot.networks.generators import (
    UPSAMPLING,
    ResNetGenerator,
    UpscaleGenerator,
    init_translator,
)

if TYPE_CHECKING:
    from typing_extensions import Self

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
    "wasserstein": (losses.wasserstein_critic_loss, losses.wasserstein_generator_loss),
}


@dataclass(kw_only=True, eq=False, repr=False)
class Translator(Trained):
    """A translator in the making: subclasses supply networks, optimisers and the update.

    Attributes set by `fit`: ``history_``, one dict per hundred steps; ``shape_`` and
    ``out_shape_``, (C, H, W) of both domains; and the networks.
    """

    _learned = {"shape_": tuple[int, ...], "out_shape_": tuple[int, ...], "history_": list[dict]}

    n_blocks: int | None = None
    filters: int = 64
    n_layers: int = 3
    norm: str = "instance"
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    batch_size: int = 1
    decay: float = 0.5
    enlarge: float = 286 / 256
    crop: int | None = None
    flip: bool = True
    upsampling: str = "transposed"
    penalty: float = 10.0
    device: str | None = None

    _checks = Trained._checks | {
        "n_blocks": natural,
        "filters": _check.integer,
        "n_layers": natural,
        "norm": partial(_check.choice, options=blocks.NORMS),
        "decay": partial(_check.real, minimum=0, maximum=1),
        "enlarge": partial(_check.real, minimum=1, maximum=8),
        "crop": _check.integer,
        "upsampling": partial(_check.choice, options=UPSAMPLING),
        "penalty": not_negative,
        **dict.fromkeys(("cycle", "identity", "cycle_noise", "l1", "diversity"), not_negative),
    }

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.crop is not None:
            self._check_unused("beside crop, which takes images as they are", "enlarge")
        if self._adversary != "wasserstein":
            self._check_unused("unless adversary is 'wasserstein'", "penalty")

    @property
    def _adversary(self) -> str:
        """The argument ``adversary``, of which subclasses have different ones."""
        return getattr(self, "adversary")  # noqa: B009

    @property
    def _has_critic(self) -> bool:
        return self._adversary in ADVERSARIES

    # What a subclass supplies.
    _sides: ClassVar[int] = 4  # heights and widths are multiples of this

    def _check_data(self, data: Domains) -> None:
        raise NotImplementedError

    def _networks(self) -> dict[str, nn.Module]:
        raise NotImplementedError

    def _movers(self) -> dict[str, list[str]]:
        """Return which networks each optimiser moves."""
        raise NotImplementedError

    def _update(self, step: int, a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
        raise NotImplementedError

    # What all have.
    def _resnet(self, inside: int, outside: int, dropout: float = 0.0, times: int = 1) -> nn.Module:
        """Return a residual network that keeps the size, or makes it so many times as large."""
        n_blocks = self.n_blocks
        if n_blocks is None:
            n_blocks = 9 if min(self.shape_[1:]) >= 256 else 6
        how: dict[str, Any] = {"n_blocks": n_blocks, "filters": self.filters, "norm": self.norm}
        how |= {"dropout": dropout, "upsampling": self.upsampling}
        if times > 1:
            return UpscaleGenerator(inside, outside, times, **how)
        return ResNetGenerator(inside, outside, **how)

    def _critic(self, channels: int) -> nn.Module:
        return PatchDiscriminator(channels, self.n_layers, filters=self.filters, norm=self.norm)

    def _critic_loss(
        self,
        critic: Callable[[torch.Tensor], torch.Tensor],
        real: torch.Tensor,
        fake: torch.Tensor,
        stream: torch.Generator,
    ) -> torch.Tensor:
        """Return what a critic of patches lowers; Wasserstein's with the penalty on its slope.

        That critic is the mean over its patches, whose slope in the whole image is held at 1.
        """
        loss = ADVERSARIES[self._adversary][0](critic(real).float(), critic(fake).float())
        if self._adversary != "wasserstein":
            return loss
        points = losses.interpolate(real.float(), fake.float(), generator=stream)
        norms = losses.gradient_norms(lambda x: critic(x).flatten(1).mean(1), points)
        return loss + losses.slope_penalty(norms, weight=self.penalty)

    def _cropped(self, data: Domains) -> list[tuple[int, ...]]:
        """Return the shapes of what networks see of both domains, b a multiple of a in size."""
        shapes, side = [data.a.shape, data.b.shape], data.a.shape[1]
        if self.crop is None:
            return shapes
        return [(shape[0], *[self.crop * (shape[1] // side)] * 2) for shape in shapes]

    def _note(self, data: Domains) -> None:
        self.shape_: tuple[int, ...]
        self.out_shape_: tuple[int, ...]
        self.shape_, self.out_shape_ = self._cropped(data)

    def _build(self) -> dict[str, nn.Module]:
        networks = self._networks()
        for network in networks.values():
            init_translator(network, self.norm)
        return networks

    @_ranks.together("fit")
    def fit(
        self,
        data: Domains,
        *,
        steps: int | None = None,
        checkpoint: str | os.PathLike | None = None,
        on_step: OnStep | None = None,
        log: str | os.PathLike | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Train on two domains.

        Args:
            data: `aeot.unpaired(a, b)` for `CycleGAN`, `aeot.paired(...)` for `Pix2Pix`.
            steps: Batches in all, at least 1; None for the published 200 passes over the larger
                domain.
            checkpoint: Directory to resume from, if it exists, and to write to. A run that was
                cut short and resumed equals one that was not; steps and `decay` must be those it
                began with, except that a constant rate can be prolonged.
            on_step: Called with the step and what it measured; returning True ends the run. It
                may call `translate`, for instance to save sample grids while training.
            log: File that gets one JSON line per record.
            progress: Whether to show progress on stderr; None: a bar if that is a terminal, else a
                line a minute.

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
        if self.crop is not None and self.crop > min(data.a.shape[1:]):
            must = f"be at most {min(data.a.shape[1:])}, the side of the images"
            raise _check.fail("crop", must, self.crop, "load them larger")
        if self._adversary == "wasserstein" and self.norm == "batch":
            way_out = "'instance', 'instance-affine' and 'none' judge images one by one"
            raise _check.fail("norm", "not be 'batch' with 'wasserstein'", self.norm, way_out)
        (_, height, width), (_, *large) = self._cropped(data)
        if height % self._sides or width % self._sides:
            name = "data" if self.crop is None else "crop"
            must = f"have sides that are multiples of {self._sides}"
            raise _check.fail(name, must, f"{height} x {width}", "resize it")
        judge = PatchDiscriminator(1, self.n_layers, filters=1)
        if self._has_critic and judge.output_size(min(large)) < 1:
            got = f"{self.n_layers} for {large[0]} x {large[1]} images"
            raise _check.fail("n_layers", "leave the discriminator an output", got, "use fewer")
        if steps is None:
            steps = 200 * math.ceil(len(data) / self.batch_size)
        facts = {"class": type(self).__name__, **self.arguments()}
        del facts["device"]  # any may go on
        facts["steps"] = steps if self.decay else None
        for name, side in (("a", data.a), ("b", data.b)):
            facts |= {f"{key} of {name}": value for key, value in digest(side).items()}

        def batches(step: int) -> Iterator[Any]:
            return enumerate(loader(data, self.batch_size, seed=self.seed, start=step), step)

        def update(item: tuple[int, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
            step, (a, b) = item
            stream = generator(self.seed, "jitter", step)

            def alter(images: list[torch.Tensor]) -> list[torch.Tensor]:
                how: dict[str, Any] = {"crop": self.crop, "flip": self.flip}
                return jitter(images, enlarge=self.enlarge, generator=stream, **how)

            a, b = alter([a, b]) if data.paired else (alter([a])[0], alter([b])[0])
            with forked(self.seed, "dropout", step):
                return self._update(step, a.to(device), b.to(device))

        device, self._steps = resolve_device(self.device), steps
        return self._train(
            update,
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

    def _states(self) -> dict[str, Any]:
        falling = round(self._steps * self.decay)
        factor = partial(linear_decay, constant=self._steps - falling, decay=falling)
        self._optimizers, self._schedules = {}, {}
        for mover, names in self._movers().items():
            parameters = [p for name in names for p in self._modules[name].parameters()]
            adam = torch.optim.Adam(parameters, lr=self.learning_rate, betas=self.betas)
            self._optimizers[mover] = adam
            self._schedules[f"{mover}_schedule"] = LambdaLR(adam, lambda step: factor(step))
        return self._optimizers | self._schedules

    def _descend(self, loss: torch.Tensor, mover: str) -> None:
        """Step down, with gradients for this optimiser's parameters only: the rest is frozen."""
        set_gradient(loss, self._optimizers[mover])
        self._optimizers[mover].step()
        self._schedules[f"{mover}_schedule"].step()

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
        was, device = network.training, next(network.parameters()).device
        network.eval()
        if seed is not None:
            for layer in network.modules():
                if isinstance(layer, nn.Dropout):
                    layer.train()
        parts = []
        try:
            with _loop.Loop("translating", len(images), unit="image", stops=False) as loop:
                for start in range(0, len(images), _BLOCK):
                    block = images[start : start + _BLOCK].to(device, torch.float32)
                    count = len(block)
                    if seed is not None and count < _BLOCK:
                        # Dropout draws for the whole block: a full one keeps image i's noise.
                        filler = block.new_zeros(_BLOCK - count, *block.shape[1:])
                        block = torch.cat([block, filler])
                    if noise_channels:
                        stream = generator(seed or 0, "noise", start)
                        z = torch.randn(len(block), noise_channels, generator=stream)
                        block = with_noise(block, z.to(block))
                    with forked(seed or 0, "translate", start):
                        # Dropout draws for the whole block, so that is not taken apart.
                        made = network(block) if seed is not None else in_parts(network, block)
                        parts.append(made[:count])
                    loop.at(start + count)
        finally:
            network.train(was)
        return torch.cat(parts) if parts else images.new_empty(0, *self.out_shape_)


def with_noise(images: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Add a noise vector (B, k) to images (B, C, H, W) as k constant channels."""
    planes = z[:, :, None, None].expand(-1, -1, *images.shape[-2:])
    return torch.cat([images, planes], dim=1)


class ImagePool:
    """Up to `size` past fakes, so that a discriminator does not forget them.

    While it fills, images go in and come straight out. Afterwards each image comes straight out
    with probability one half; otherwise a stored one comes out and the new one takes its place.

    Args:
        size: How many images to keep; 0 switches the pool off.

    References:
        A. Shrivastava and others, "Learning from simulated and unsupervised images through
        adversarial training", 2017, section 2.3.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = _check.integer("pool_size", size, minimum=0)
        self.images = torch.empty(0)

    def query(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Exchange new fakes (B, C, H, W) for as many new or past ones.

        Images are taken in their order in the batch; each draws one uniform number in [0, 1): from
        one half on it is stored, in the slot that the rest of the number points to.
        """
        images = images.detach()
        if self.size == 0:
            return images
        if len(self.images) == 0:
            self.images = images.new_empty(0, *images.shape[1:])
        self.images = self.images.to(images.device)  # a checkpoint gives them back on the CPU
        out = []
        for image, draw in zip(images, torch.rand(len(images), generator=generator), strict=True):
            if len(self.images) < self.size:
                self.images = torch.cat([self.images, image[None]])
                out.append(image)
            elif draw < 0.5:
                out.append(image)
            else:
                slot = int((2 * float(draw) - 1) * self.size)
                out.append(self.images[slot].clone())
                self.images[slot] = image
        return torch.stack(out)

    def state_dict(self) -> dict[str, Any]:
        """Return the stored images."""
        return {"images": self.images.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back the stored images."""
        self.images = state["images"].clone()


def linear_decay(step: int, *, constant: int, decay: int) -> float:
    """Return the factor on the learning rate: one for `constant` steps, then a line to zero.

    ``1 - max(0, step + 1 - constant) / (decay + 1)`` for steps counted from zero: the published
    schedule, which counts epochs (100 and 100), at the resolution of steps.

    Example:
        >>> [round(linear_decay(step, constant=2, decay=3), 2) for step in range(5)]
        [1.0, 1.0, 0.75, 0.5, 0.25]
    """
    return 1 - max(0, step + 1 - constant) / (decay + 1) if decay else 1.0


def jitter(
    images: list[torch.Tensor],
    *,
    enlarge: float,
    flip: bool,
    generator: torch.Generator,
    crop: int | None = None,
) -> list[torch.Tensor]:
    """Enlarge, crop back at random and mirror at random, several batches in the same way.

    Args:
        images: Batches (B, C, H, W); row i of each gets the same crop and flip. Those after the
            first may be a whole number of times as large, and are cropped where it is.
        enlarge: Factor on the sides before the crop, >= 1; 286 / 256 is the published one.
        flip: Whether to mirror every other image on average.
        generator: Source of the randomness.
        crop: Side of the crop from the first as they are; None: they are enlarged first.

    Returns:
        Batches of the same shapes, or of square images of side `crop`, in [-1, 1].
    """
    count, _, height, width = images[0].shape
    draws = torch.rand(count, 3, generator=generator)
    if crop is None:
        tall, wide = round(height * enlarge), round(width * enlarge)
    else:
        tall, wide, height, width = height, width, crop, crop
    tops = (draws[:, 0] * (tall - height + 1)).long().tolist()
    lefts = (draws[:, 1] * (wide - width + 1)).long().tolist()
    mirrored = (draws[:, 2] < 0.5).tolist() if flip else [False] * count
    out = []
    side = images[0].shape[2]
    for batch in images:
        k = batch.shape[2] // side
        if tuple(batch.shape[2:]) != (k * tall, k * wide):
            how: dict[str, Any] = {"mode": "bicubic", "antialias": True}
            batch = F.interpolate(batch, (k * tall, k * wide), **how).clamp(-1, 1)
        rows = [
            image[:, k * top : k * (top + height), k * left : k * (left + width)]
            for image, top, left in zip(batch, tops, lefts, strict=True)
        ]
        rows = [row.flip(-1) if mirror else row for row, mirror in zip(rows, mirrored, strict=True)]
        out.append(torch.stack(rows))
    return out


def check_images(
    x: Dataset | ArrayLike, shape: tuple[int, ...], *, multiple: int = 4
) -> torch.Tensor:
    """Return images to translate as a float tensor, or say what is wrong with them.

    Args:
        x: A tensor or array (B, C, H, W) in [-1, 1], or a data set.
        shape: (C, H, W) of the images a network was made for; only C must agree.
        multiple: What the sides must be multiples of.

    Raises:
        ValueError: If the channels, the sides or the range do not fit.
    """
    images = _check.array("x", x[:] if isinstance(x, Dataset) else x).detach()
    if images.ndim != 4 or images.shape[1] != shape[0]:
        requirement = f"have shape (B, {shape[0]}, H, W)"
        raise _check.fail("x", requirement, f"shape {tuple(images.shape)}")
    if images.shape[2] % multiple or images.shape[3] % multiple:
        got = f"{images.shape[2]} x {images.shape[3]}"
        raise _check.fail("x", f"have sides that are multiples of {multiple}", got, "resize it")
    check_range("x", images)
    return images
