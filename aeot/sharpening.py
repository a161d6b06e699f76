"""Sharpening: a decoder whose images have the texture of the data, not the mean of many images.

A code of few numbers does not say where every fold and button is. The squared error is least for
the mean of all images that share a code, which is blurred: details are missing, and classes told
apart by details alone merge. What is lost is not accuracy, which the code does not allow, but the
distribution of small patches; it is put back by a transport distance between patches.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from aeot import _check, training
from aeot._rng import generator
from aeot.autoencoder import Autoencoder, cosine_adam
from aeot.data import Dataset, indices, tensors
from aeot.rows import Rows
from aeot.transport.extension import nearest


def patch_distance(
    images: torch.Tensor, reference: torch.Tensor, filters: torch.Tensor
) -> torch.Tensor:
    """Return the sliced squared Wasserstein distance between the patches of two sets of images.

    Each filter makes one number of every patch; the mean squared difference of the sorted numbers
    is the squared Wasserstein distance of these two laws, and the mean over filters is returned.

    Args:
        images: (B, C, H, W).
        reference: The same shape.
        filters: (k, C, p, p), p <= H, W.

    Returns:
        A scalar in squared units of the images, differentiable in both sets.

    References:
        J. Rabin, G. Peyré, J. Delon, M. Bernot, "Wasserstein barycenter and its application to
        texture mixing", 2011. E. Heitz et al., "A sliced Wasserstein loss for neural texture
        synthesis", 2021, eq. 3.

    Example:
        >>> x = torch.randn(4, 1, 8, 8)
        >>> bool(patch_distance(x, x.flip(0), patch_filters(3, 1, 5)) < 1e-9)  # the order is free
        True
    """
    ours, theirs = (
        F.conv2d(x, filters).transpose(0, 1).flatten(1).sort(1).values for x in (images, reference)
    )
    return (ours - theirs).square().mean()


def patch_filters(
    count: int, channels: int, size: int, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return random filters (count, channels, size, size) of norm 1, each channel's mean zero.

    They do not see the brightness of a patch, which the squared error takes care of.
    """
    filters = torch.randn(count, channels, size, size, generator=generator)
    filters = filters - filters.mean((2, 3), keepdim=True)
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None]


def sharpen(
    autoencoder: Autoencoder,
    data: Dataset | Any,  # noqa: ANN401 - or an array-like
    *,
    steps: int | None = None,
    weight: float = 10.0,
    spread: float = 1.2,
    patch: int = 5,
    checkpoint: str | os.PathLike | None = None,
    log: str | os.PathLike | None = None,
    on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
) -> Autoencoder:
    """Train a copy of the decoder further, on squared error and on the law of small patches.

    The squared error is taken where the data's codes are; the distance between the patches of
    decoded and real images there and at new codes around them, drawn as the local affine
    extension draws them: y_i plus `spread` times a Gaussian with the covariance of y_i and its 20
    nearest codes. The encoder stays as it is, so codes and a transport map onto them stay valid.

    The squared error rises: no decoder has both the least error and images distributed as the
    data (Blau and Michaeli, "The perception-distortion tradeoff", 2018).

    Args:
        autoencoder: A fitted one, of images.
        data: What it was trained on.
        steps: Batches of the autoencoder's `batch_size`; None: 4 passes, at least 400 steps.
        weight: Of the patch distance, against a squared error of weight 1.
        spread: Size of the displacements; 0 draws none.
        patch: Side of the patches in pixels.
        checkpoint: Directory for checkpoints; training resumes from one it finds.
        log: File that gets one line of JSON per record.
        on_step: Called as ``on_step(step, record)`` after each step; returning True ends it.

    Returns:
        A new autoencoder with the same encoder; ``losses_`` also holds ``train_sharp`` (squared
        error in [0, 1] units) and ``history_`` records of phase 3.

    Raises:
        NotFittedError: If the autoencoder is not fitted.
        ValueError: If an argument is out of range or the data are not images of its shape.
    """
    stored, config = autoencoder.state()
    weight, spread = (
        _check.real(name, value, minimum=0)
        for name, value in (("weight", weight), ("spread", spread))
    )
    data = data if isinstance(data, Dataset) else tensors(data)
    if len(data.shape) != 3:
        raise _check.fail("data", "be images (C, H, W)", f"rows of shape {data.shape}")
    if _check.integer("patch", patch, minimum=2) > min(data.shape[1:]):
        raise _check.fail("patch", f"be at most {min(data.shape[1:])}", str(patch))
    codes = autoencoder.encode(data)
    sharp = Autoencoder.from_state(
        {name: value.clone() for name, value in stored.items()}, config, device=autoencoder.device
    )
    decoder, device = sharp.decoder_.train().requires_grad_(True), sharp.compute_device
    around = nearest(codes, codes, min(21, len(codes)))[1].to(device)
    codes, rows = codes.to(device), Rows(data, device)
    batch_size = min(sharp.batch_size, len(rows))
    passes = max(4 * -(-len(rows) // batch_size), 400)
    steps = passes if steps is None else _check.integer("steps", steps)
    optimizer, schedule = cosine_adam(list(decoder.parameters()), sharp.decoder_rate, steps)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=sharp.precision_ == "bfloat16")

    def update(numbered: tuple[int, torch.Tensor]) -> dict[str, float]:
        step, index = numbered
        draw = generator(sharp.seed, "sharpen", step)
        index, batch = index.to(device), rows[index]
        new = codes[index] + spread * _displacement(codes, around[index], draw)
        with autocast:
            output = decoder(torch.cat([codes[index], new])).float()
        filters = patch_filters(8, batch.shape[1], patch, generator=draw).to(device)
        error = F.mse_loss(output[: len(batch)], batch)
        apart = sum(patch_distance(part, batch, filters) for part in output.split(len(batch)))
        optimizer.zero_grad(set_to_none=True)
        (error + weight * apart).backward()
        optimizer.step()
        schedule.step()
        return {"loss": error.item() / 4, "patches": apart.item() / 4}

    history = training.run(
        update,
        lambda step: enumerate(
            indices(len(rows), batch_size, seed=sharp.seed, start=step, key="sharpen"), step
        ),
        steps=steps,
        state={"decoder": decoder, "optimizer": optimizer, "schedule": schedule},
        name="sharpen",
        checkpoint=None if checkpoint is None else Path(checkpoint) / "sharpen",
        log=log,
        on_step=on_step,
    )
    decoder.eval().requires_grad_(False)
    sharp.history_ = [*sharp.history_, *({"phase": 3, **record} for record in history)]
    some = torch.randperm(len(data), generator=generator(sharp.seed, "measure"))[:10_000]
    sharp.losses_ = sharp.losses_ | {"train_sharp": sharp.error(data.subset(some))}
    return sharp


def _displacement(codes: torch.Tensor, around: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    # A Gaussian with the covariance of the codes in each row of `around` (B, k): w (Y - mean).
    near = codes[around]
    near = near - near.mean(1, keepdim=True)
    weights = torch.randn(len(near), 1, near.shape[1], generator=draw).to(near)
    return (weights @ near)[:, 0] / max(near.shape[1] - 1, 1) ** 0.5
