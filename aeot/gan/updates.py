"""What the updates of a translator are made of: past images, the schedule, random crops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from aeot import _check
from aeot.data.arrays import check_range


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
    return 1 - max(0, step + 1 - constant) / (decay + 1)


class Schedule:
    """The learning rate of a run of `steps`: constant, then falling to zero.

    Args:
        steps: Length of the run.
        decay: Share of the steps over which the rate falls, in [0, 1].
    """

    def __init__(self, steps: int, decay: float) -> None:
        self.steps = _check.integer("steps", steps, minimum=0)
        self.decay = _check.real("decay", decay, minimum=0, maximum=1)
        self.falling = round(steps * decay)

    def set(self, optimizer: torch.optim.Optimizer, step: int, rate: float) -> None:
        """Set the rate of `optimizer` for `step`, counted from 0."""
        constant = self.steps - self.falling
        factor = linear_decay(step, constant=constant, decay=self.falling) if self.falling else 1.0
        for group in optimizer.param_groups:
            group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        """Return the length and the share."""
        return {"steps": self.steps, "decay": self.decay}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that a resumed run follows the schedule that it began with."""
        same = state["decay"] == self.decay and state["steps"] == self.steps
        if self.falling == 0 and state["decay"] == 0:
            same = True  # a constant rate can be prolonged
        if not same:
            got = f"steps={self.steps}, decay={self.decay}"
            began = f"steps={state['steps']}, decay={state['decay']}"
            way_out = "pass those, or choose another checkpoint"
            raise _check.fail("steps", f"be as when the checkpoint began ({began})", got, way_out)


def jitter(
    images: list[torch.Tensor],
    *,
    enlarge: float,
    flip: bool,
    generator: torch.Generator,
) -> list[torch.Tensor]:
    """Enlarge, crop back at random and mirror at random, several batches in the same way.

    Args:
        images: Batches (B, C, H, W); row i of each gets the same crop and flip.
        enlarge: Factor on the sides before the crop, >= 1; 286 / 256 is the published one.
        flip: Whether to mirror every other image on average.
        generator: Source of the randomness.

    Returns:
        Batches of the same shapes, in [-1, 1].
    """
    count, _, height, width = images[0].shape
    draws = torch.rand(count, 3, generator=generator)
    tall, wide = round(height * enlarge), round(width * enlarge)
    tops = (draws[:, 0] * (tall - height + 1)).long().tolist()
    lefts = (draws[:, 1] * (wide - width + 1)).long().tolist()
    mirrored = (draws[:, 2] < 0.5).tolist() if flip else [False] * count
    out = []
    for batch in images:
        if (tall, wide) != (height, width):
            batch = F.interpolate(batch, (tall, wide), mode="bicubic", antialias=True).clamp(-1, 1)
        rows = [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(batch, tops, lefts, strict=True)
        ]
        rows = [row.flip(-1) if mirror else row for row, mirror in zip(rows, mirrored, strict=True)]
        out.append(torch.stack(rows))
    return out


def check_images(
    x: Any,  # noqa: ANN401 - a data set or an array-like
    shape: tuple[int, ...],
    *,
    multiple: int = 4,
) -> torch.Tensor:
    """Return images to translate as a float tensor, or say what is wrong with them.

    Args:
        x: A tensor or array (B, C, H, W) in [-1, 1], or a data set.
        shape: (C, H, W) of the images a network was made for; only C must agree.
        multiple: What the sides must be multiples of.

    Raises:
        ValueError: If the channels, the sides or the range do not fit.
    """
    images = _check.array("x", x[:] if hasattr(x, "values") and hasattr(x, "shape") else x)
    if images.ndim != 4 or images.shape[1] != shape[0]:
        requirement = f"have shape (B, {shape[0]}, H, W)"
        raise _check.fail("x", requirement, f"shape {tuple(images.shape)}")
    if images.shape[2] % multiple or images.shape[3] % multiple:
        got = f"{images.shape[2]} x {images.shape[3]}"
        raise _check.fail("x", f"have sides that are multiples of {multiple}", got, "resize it")
    check_range("x", images)
    return images
