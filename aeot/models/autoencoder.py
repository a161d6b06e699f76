"""The autoencoder: images to codes and back, trained in two phases."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from aeot import _check, _loop, training
from aeot._check import ArrayLike
from aeot._environment import in_parts, resolve_device, resolve_precision
from aeot._estimator import Estimator, rate
from aeot._rng import forked, generator
from aeot.data import Dataset, indices
from aeot.data.arrays import digest, domain, facts_of, rows_of
from aeot.networks.autoencoder import ARCHITECTURES, autoencoder_pair

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK = 256  # rows per forward pass


@dataclass(kw_only=True, eq=False, repr=False)
class AutoencoderOptions(Estimator):
    """The arguments of an `Autoencoder`, shared with what trains one for itself."""

    latent_dim: int = 64
    architecture: str = "auto"
    width: int | None = None
    learning_rate: float = 3e-3
    decoder_rate: float = 1e-3
    batch_size: int = 128
    precision: str = "auto"
    device: str | None = None
    seed: int = 0

    _checks = Estimator._checks | {
        "architecture": partial(_check.choice, options=ARCHITECTURES),
        "width": _check.integer,
        "decoder_rate": rate,
        "batch_size": partial(_check.integer, minimum=2),  # batch statistics need two rows
    }

    def planned_steps(self, n: int) -> int:
        """Return the steps that `fit` chooses for n rows: twelve passes, at least 1 200 steps."""
        return max(12 * math.ceil(n / min(self.batch_size, n)), 1200)


@dataclass(kw_only=True, eq=False, repr=False)
class Autoencoder(AutoencoderOptions):
    """Encoder and decoder, trained together and then the decoder alone.

    Phase 1 trains both parts on the mean squared error while the learning rate falls to zero along
    a cosine, so that the loss has stopped falling at its end. Phase 2 freezes the encoder in eval
    mode, batch statistics included, encodes the data once, and refines the decoder on those codes
    with a second cosine.

    On a CPU it runs on torch's threads. Where other programs keep the processors busy, one thread
    (``OMP_NUM_THREADS=1``) is many times faster, because threads spin while they wait.

    Args:
        latent_dim: Size of the codes.
        architecture: "auto", "infogan", "dcgan" or "mlp"; see
            `aeot.networks.autoencoder.autoencoder_pair`.
        width: Channels or hidden units of "dcgan" and "mlp"; None for their defaults.
        learning_rate: Of Adam with betas (0.5, 0.999), at the start of phase 1.
        decoder_rate: The same for phase 2.
        batch_size: Images per step.
        precision: "float32", "bfloat16" (autocast while training; codes and images are computed
            in float32 all the same) or "auto": bfloat16 where the processor has it.
        device: Where to train; None: the first GPU, else the CPU.
        seed: Of the initial weights and the order of the batches.

    Attributes:
        encoder_: The trained encoder, in eval mode.
        decoder_: The trained decoder, in eval mode.
        shape_: Shape of one row of the data.
        losses_: Mean squared errors, for images in [0, 1] units: ``train_joint`` and
            ``held_out_joint`` after phase 1, ``train`` and ``held_out`` after phase 2.
        history_: Records of both phases, with ``phase`` 1 or 2.
        precision_: The arithmetic used.
        data_: What it was trained on: name, rows, shape, and a hash of some rows.

    References:
        Lei, An, Guo, Su, Liu, Luo, Yau, Gu, A geometric understanding of deep learning,
        Engineering 6, 2020, section 6.1 and table 1.

    Example:
        >>> plane = torch.randn(200, 2) @ torch.randn(2, 5)  # 5 numbers a row, 2 that matter
        >>> model = Autoencoder(latent_dim=2, precision="float32").fit(plane, steps=6)
        >>> codes = model.encode(plane)
        >>> codes.shape, model.decode(codes).shape
        (torch.Size([200, 2]), torch.Size([200, 5]))
    """

    _fitted_by = "decoder_"
    _learned = {"shape_": tuple[int, ...], "precision_": str, "history_": list[dict]}
    _learned |= {"losses_": dict[str, float], "shift_": float, "scale_": float}
    _learned |= {"data_": dict | None}

    def fit(
        self,
        data: Dataset | ArrayLike,
        *,
        steps: int | None = None,
        held_out: Dataset | float = 0.05,
        checkpoint: str | os.PathLike | None = None,
        log: str | os.PathLike | None = None,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Train on `data`.

        Args:
            data: A data set, or anything `aeot.tensors` takes.
            steps: Steps of both phases together, 2/3 of them in phase 1. None: 12 passes over the
                data, at least 1 200 steps.
            held_out: A data set on which the error is measured too; or the share of `data` kept
                from training for that, at most 2 000 rows; 0 for none.
            checkpoint: Directory for checkpoints; training resumes from those it finds.
            log: File that gets one line of JSON per record.
            on_step: Called as ``on_step(step, record)`` after each step; returning True ends the
                phase early.
            progress: Whether to show progress on stderr; None: a bar if that is a terminal, else a
                line a minute.

        Returns:
            The autoencoder itself.

        Raises:
            ValueError: If an argument is out of range or the data does not fit the architecture.
            aeot.training.Diverged: If the loss or a weight became NaN.
        """
        self._check_arguments()
        training.check_options(checkpoint=checkpoint, log=log, on_step=on_step, progress=progress)
        if steps is not None:
            _check.integer("steps", steps, minimum=2)
        data = domain("data", data)
        if len(data) < 2:
            raise _check.fail("data", "hold at least 2 rows", str(len(data)))
        trained, kept = _split(data, held_out, self.seed)
        if len(trained) < 2:
            raise _check.fail("data", "hold at least 2 rows to train on", str(len(trained)))
        if steps is None:
            steps = self.planned_steps(len(trained))
        joint = max(1, round(steps * 2 / 3))
        device = self.compute_device
        self.shape_, self.precision_ = data.shape, resolve_precision(self.precision, device)
        self._set_scale(trained)
        self.data_ = facts_of(data)
        self._check_networks()
        with forked(self.seed, "autoencoder"):
            self.encoder_, self.decoder_ = (part.to(device) for part in self._build().values())
        facts = {**self.arguments(), "steps": steps, **digest(trained)}
        del facts["device"]  # any may go on
        with _loop.Loop("", stops=False, progress=progress):
            train = partial(
                self._train,
                trained.to(device),
                checkpoint=checkpoint,
                facts=facts,
                log=log,
                on_step=on_step,
            )
            encoder, decoder = self.encoder_, self.decoder_
            history = train("joint", joint, lambda _, rows: decoder(encoder(rows)))
            self.history_ = [{"phase": 1, **record} for record in history]
            self.losses_ = self._measure(trained, kept, suffix="_joint")

            codes = self.encode(trained).to(device)
            history = train(
                "decoder", max(1, steps - joint), lambda index, _: decoder(codes[index])
            )
            self.history_ += [{"phase": 2, **record} for record in history]
            self.losses_.update(self._measure(trained, kept, suffix=""))
        return self

    def encode(self, data: Dataset | ArrayLike) -> torch.Tensor:
        """Return the codes of images, uint8 or in [-1, 1], or of vectors.

        Args:
            data: A data set, or rows (m, C, H, W) or (m, d).

        Returns:
            Codes (m, latent_dim), float32, on the CPU.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the rows have another shape than those trained on, or images that are
                neither uint8 nor in [-1, 1].
        """
        self._check_fitted()
        rows = rows_of("data", data, self.shape_).to(self.compute_device)
        with _loop.Loop("encoding", len(rows), unit="row", stops=False):
            return _in_blocks(
                lambda block: self.encoder_(self._scaled(block)), rows, self.latent_dim
            )

    def decode(self, codes: ArrayLike) -> torch.Tensor:
        """Return the images, in [-1, 1], or vectors of codes.

        Args:
            codes: (m, latent_dim).

        Returns:
            Rows (m, C, H, W) or (m, d), float32, on the CPU.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the codes have another width or are not finite.
        """
        self._check_fitted()
        codes = _check.points("codes", codes, dim=self.latent_dim).to(self.compute_device)
        with _loop.Loop("decoding", len(codes), unit="row", stops=False):
            rows = _in_blocks(self.decoder_, codes, *self.shape_)
        return rows if len(self.shape_) == 3 else rows.mul_(self.scale_).add_(self.shift_)

    def error(self, data: Dataset | ArrayLike) -> float:
        """Return the mean squared reconstruction error, for images in [0, 1] units.

        Args:
            data: Images or vectors of the shape trained on.

        Raises:
            ValueError: If there are none, or as `encode` does.
        """
        self._check_fitted()
        data = rows_of("data", data, self.shape_)
        if len(data) == 0:
            raise _check.fail("data", "hold at least one row", "none")
        total = 0.0
        for start in range(0, len(data), 4096):
            block = data[start : start + 4096]
            restored = self.decode(self.encode(block))
            total += float((restored - block).double().square().sum())
        mean = total / (len(data) * math.prod(self.shape_))
        return mean * 0.25 if len(self.shape_) == 3 else mean

    @property
    def compute_device(self) -> torch.device:
        """Where the networks run."""
        return resolve_device(self.device)

    def _build(self) -> dict[str, nn.Module]:
        encoder, decoder = autoencoder_pair(
            self.shape_, self.latent_dim, architecture=self.architecture, width=self.width
        )
        return {"encoder_": encoder, "decoder_": decoder}

    def _restore(self, learned: dict[str, Any], device: torch.device) -> None:
        super()._restore(learned, device)
        for part in (self.encoder_, self.decoder_):
            part.requires_grad_(False)

    def _set_scale(self, data: Dataset) -> None:
        # Vectors come in any unit: one shift and one factor bring them to mean 0, variance 1.
        self.shift_, self.scale_ = 0.0, 1.0
        if len(data.shape) == 1:
            self.shift_ = float(data.values.mean())
            self.scale_ = float(data.values.std()) or 1.0

    def _scaled(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if len(self.shape_) == 3 else (rows - self.shift_) / self.scale_

    def _train(
        self,
        data: Dataset,
        name: str,
        steps: int,
        forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        checkpoint: str | os.PathLike | None,
        **options: Any,  # noqa: ANN401 - those of training.run
    ) -> list[dict[str, float]]:
        """Train so that ``forward(index, rows)`` gives the rows of `data` back; freeze again.

        Phase "joint" trains both networks, "decoder" the decoder alone.
        """
        parts = {"encoder": self.encoder_, "decoder": self.decoder_}
        rate = self.learning_rate
        if name == "decoder":
            del parts["encoder"]
            rate = self.decoder_rate
        for part in parts.values():
            part.train().requires_grad_(True)
        parameters = [p for part in parts.values() for p in part.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.999), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=steps))
        device = data.values.device
        low = self.precision_ == "bfloat16"
        # No cache: inside a caller's autocast it would outlive the step, and the weights move.
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=low, cache_enabled=False)
        # Images span [-1, 1] here and [0, 1] in the literature: squared errors differ by 4.
        unit = 0.25 if len(self.shape_) == 3 else self.scale_**2

        def update(index: torch.Tensor) -> dict[str, float]:
            index = index.to(device)
            rows = self._scaled(data[index])
            with autocast:
                output = forward(index, rows)
            loss = F.mse_loss(output.float(), rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            return {"loss": loss.item() * unit}

        size = min(self.batch_size, len(data))
        history = training.run(
            update,
            lambda step: indices(len(data), size, seed=self.seed, start=step, key=name),
            steps=steps,
            finer=10 if steps < 2000 else 1,  # else short runs have two or three points
            state={**parts, "optimizer": optimizer, "schedule": schedule},
            checkpoint=None if checkpoint is None else Path(checkpoint) / name,
            name=name,
            **options,
        )
        for part in parts.values():
            part.eval().requires_grad_(False)
        return history

    def _measure(
        self, trained: Dataset, held_out: Dataset | None, *, suffix: str
    ) -> dict[str, float]:
        draw = generator(self.seed, "measure")
        some = torch.randperm(len(trained), generator=draw)[:10_000]
        losses = {f"train{suffix}": self.error(trained.subset(some))}
        if held_out is not None and len(held_out):
            losses[f"held_out{suffix}"] = self.error(held_out)
        return losses


def _rate(step: int, *, steps: int) -> float:
    """Return the share of the learning rate: a short linear rise, then a cosine to zero."""
    warm = max(1, min(100, steps // 20))
    return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def _split(data: Dataset, held_out: Dataset | float, seed: int) -> tuple[Dataset, Dataset | None]:
    if isinstance(held_out, Dataset):
        if held_out.shape != data.shape:
            got = f"{held_out.shape}"
            raise _check.fail("held_out", f"have rows of shape {data.shape} like data", got)
        return data, held_out
    share = _check.real("held_out", held_out, minimum=0, maximum=0.5)
    count = min(int(share * len(data)), 2000)
    if count == 0:
        return data, None
    order = torch.randperm(len(data), generator=generator(seed, "held out"))
    return data.subset(order[count:].sort().values), data.subset(order[:count])


def _in_blocks(
    network: Callable[[torch.Tensor], torch.Tensor], rows: Dataset | torch.Tensor, *width: int
) -> torch.Tensor:
    """Apply a network in eval mode to all rows, without gradients.

    Every block has the same shape and the last one is padded, because matrix products round
    differently for other shapes: what a row gives does not depend on its company.

    Args:
        network: From (B, ...) to (B, *width).
        rows: (m, ...), on the network's device.
        width: Shape of one row of the result.

    Returns:
        (m, *width), float32, on the CPU.
    """
    out = torch.empty(len(rows), *width)
    with torch.inference_mode():
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].to(torch.float32)
            padded = F.pad(block, [0, 0] * (block.ndim - 1) + [0, _BLOCK - len(block)])
            out[start : start + len(block)] = in_parts(network, padded)[: len(block)]
            _loop.at(start + len(block))
    return out
