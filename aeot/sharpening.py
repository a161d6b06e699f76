"""Sharpening: a decoder trained on the look of its images too, not on their squared error alone.

A code of few numbers does not say where every fold and button is. The squared error is least for
the mean of all images that share a code, which is blurred: details are missing, and classes told
apart by details alone merge. Here a critic compares decoded new codes with real images, while the
squared error keeps every code of the data at its own image. Whether it helps has to be measured:
see docs/singular.md, where reconstructions gain and images of far codes lose.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from aeot import _check, training
from aeot._rng import forked, generator
from aeot.autoencoder import Autoencoder, cosine_adam
from aeot.data import Dataset, indices, tensors
from aeot.gan.losses import spectral_normalise
from aeot.networks.blocks import DownTrunk
from aeot.rows import Rows
from aeot.transport.extension import nearest


def sharpen(
    autoencoder: Autoencoder,
    data: Dataset | Any,  # noqa: ANN401 - or an array-like
    *,
    steps: int = 1500,
    weight: float = 0.03,
    spread: float = 1.2,
    learning_rate: float = 4e-4,
    batch_size: int = 64,
    checkpoint: str | os.PathLike | None = None,
    log: str | os.PathLike | None = None,
    on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
) -> Autoencoder:
    """Train a copy of the decoder further, against a critic that sees decoded new codes.

    The decoder lowers the squared error at the data's codes plus `weight` times the hinge loss of
    a spectrally normalised critic at new codes around them, drawn as the local affine extension
    draws them: y_i plus `spread` times a Gaussian with the covariance of y_i and its 20 nearest
    codes. The encoder stays as it is, so codes and a transport map onto them stay valid.

    The squared error rises: no decoder has both the least error and images distributed as the
    data are (Blau and Michaeli, "The perception-distortion tradeoff", 2018).

    Args:
        autoencoder: A fitted one, of images whose sides are divisible by 4. It is not changed.
        data: What it was trained on.
        steps: Batches.
        weight: Of the critic's verdict, against a squared error of weight 1 on [-1, 1].
        spread: Size of the displacements; 0 judges the data's own codes.
        learning_rate: Of the decoder and the critic, at the start of a cosine.
        batch_size: Images of each kind per step.
        checkpoint: Directory for checkpoints; training resumes from one it finds.
        log: File that gets one line of JSON per record.
        on_step: Called as ``on_step(step, record)`` after each step; returning True ends it.

    Returns:
        A new autoencoder with the same encoder; ``losses_`` also holds ``train_sharp`` (squared
        error in [0, 1] units) and ``history_`` the records of phase 3.

    Raises:
        NotFittedError: If the autoencoder is not fitted.
        ValueError: If an argument is out of range or the data are not images of its shape.

    References:
        D. An, Y. Guo, M. Zhang, X. Qi, N. Lei, S.-T. Yau, X. Gu, "AE-OT-GAN: training GANs from
        data specific latent distribution", 2020. T. Miyato et al., "Spectral normalization for
        generative adversarial networks", 2018.
    """
    stored, config = autoencoder.state()
    for name, value in (("weight", weight), ("spread", spread)):
        _check.real(name, value, minimum=0)
    _check.real("learning_rate", learning_rate, above=0)
    data = data if isinstance(data, Dataset) else tensors(data)
    if len(data.shape) != 3:
        raise _check.fail("data", "be images (C, H, W)", f"rows of shape {data.shape}")
    codes = autoencoder.encode(data)
    sharp = Autoencoder.from_state(stored, config, device=autoencoder.device)
    seed, device, low = sharp.seed, sharp.compute_device, sharp.precision_ == "bfloat16"
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=low)
    batch_size = min(_check.integer("batch_size", batch_size, minimum=2), len(data))
    steps = _check.integer("steps", steps)
    around = nearest(codes, codes, min(21, len(codes)))[1].to(device)
    codes, rows = codes.to(device), Rows(data, device)
    decoder = sharp.decoder_.train().requires_grad_(True)
    with forked(seed, "critic"):
        critic = spectral_normalise(DownTrunk(data.shape, 1, batch_norm=False)).to(device)
    optimizer, schedule = cosine_adam(list(decoder.parameters()), learning_rate, steps)
    against, its_schedule = cosine_adam(list(critic.parameters()), learning_rate, steps)

    def update(numbered: tuple[int, torch.Tensor]) -> dict[str, float]:
        step, index = numbered
        index, batch = index.to(device), rows[index]
        draw = generator(seed, "sharpen", step)
        new = codes[index] + spread * displacement(codes, around[index], draw)
        with autocast:
            output = decoder(torch.cat([codes[index], new])).float()
            made = output[len(batch) :]
            real, fake = critic(batch).float(), critic(made.detach()).float()
        verdict = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        _descend(against, its_schedule, verdict)
        critic.requires_grad_(False)
        with autocast:
            wanted = -critic(made).float().mean()
        critic.requires_grad_(True)
        error = F.mse_loss(output[: len(batch)], batch)
        _descend(optimizer, schedule, error + weight * wanted)
        return {"loss": error.item() / 4, "critic": verdict.item()}

    history = training.run(
        update,
        lambda step: enumerate(
            indices(len(rows), batch_size, seed=seed, start=step, key="sharpen"), step
        ),
        steps=steps,
        state={
            "decoder": decoder,
            "critic": critic,
            "optimizer": optimizer,
            "schedule": schedule,
            "against": against,
            "its_schedule": its_schedule,
        },
        name="sharpen",
        checkpoint=checkpoint,
        log=log,
        on_step=on_step,
    )
    decoder.eval().requires_grad_(False)
    sharp.history_ = [*sharp.history_, *({"phase": 3, **record} for record in history)]
    some = torch.randperm(len(data), generator=generator(seed, "measure"))[:10_000]
    sharp.losses_ = sharp.losses_ | {"train_sharp": sharp.error(data.subset(some))}
    return sharp


def displacement(
    codes: torch.Tensor, around: torch.Tensor, draw: torch.Generator | None
) -> torch.Tensor:
    """Draw a Gaussian with the covariance of each group of codes.

    Args:
        codes: (n, d).
        around: The groups, row numbers (B, k).
        draw: Source of all randomness.

    Returns:
        (B, d).

    Example:
        >>> plane = torch.randn(50, 3) * torch.tensor([2.0, 1.0, 0.0])
        >>> moved = displacement(plane, torch.arange(50).expand(4, -1), None)
        >>> moved.shape, bool(moved[:, 2].any())
        (torch.Size([4, 3]), False)
    """
    near = codes[around]
    near = near - near.mean(1, keepdim=True)
    weights = torch.randn(len(near), 1, near.shape[1], generator=draw).to(near)
    return (weights @ near)[:, 0] / max(near.shape[1] - 1, 1) ** 0.5


def _descend(
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    loss: torch.Tensor,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()
