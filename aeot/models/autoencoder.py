"""The autoencoder: images to codes and back, trained in two phases."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.nn import functional as F

from aeot import _check, _io, training
from aeot._environment import PRECISIONS, resolve_device, resolve_precision
from aeot._rng import forked, generator
from aeot.data import Dataset, indices, tensors
from aeot.data.arrays import digest, rows_of
from aeot.networks.autoencoder import ARCHITECTURES, autoencoder_pair

_BLOCK = 256  # rows per forward pass


class Autoencoder:
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

    def __init__(
        self,
        *,
        latent_dim: int = 64,
        architecture: str = "auto",
        width: int | None = None,
        learning_rate: float = 3e-3,
        decoder_rate: float = 1e-3,
        batch_size: int = 128,
        precision: str = "auto",
        device: str | None = None,
        seed: int = 0,
    ) -> None:
        self.latent_dim = latent_dim
        self.architecture = architecture
        self.width = width
        self.learning_rate = learning_rate
        self.decoder_rate = decoder_rate
        self.batch_size = batch_size
        self.precision = precision
        self.device = device
        self.seed = seed

    def fit(
        self,
        data: Dataset | Any,  # noqa: ANN401 - or an array-like
        *,
        steps: int | None = None,
        held_out: Dataset | float = 0.05,
        checkpoint: str | os.PathLike | None = None,
        log: str | os.PathLike | None = None,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
    ) -> Autoencoder:
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

        Returns:
            The autoencoder itself.

        Raises:
            ValueError: If an argument is out of range or the data does not fit the architecture.
            aeot.training.Diverged: If the loss or a weight became NaN.
        """
        data = self._validate(data, steps)
        trained, held_out = _split(data, held_out, self.seed)
        if len(trained) < 2:
            raise _check.fail("data", "hold at least 2 rows to train on", str(len(trained)))
        batch_size = min(self.batch_size, len(trained))
        if steps is None:
            steps = max(12 * math.ceil(len(trained) / batch_size), 1200)
        joint = max(1, round(steps * 2 / 3))
        device = self.compute_device
        self.shape_, self.precision_ = data.shape, resolve_precision(self.precision, device)
        self._set_scale(trained)
        with forked(self.seed, "autoencoder"):
            encoder, decoder = self._build()
        self.encoder_, self.decoder_ = encoder.to(device), decoder.to(device)
        rows = Rows(trained, device, shift=self.shift_, scale=self.scale_)
        facts = {**self._arguments(), "steps": steps, **digest(trained)}
        del facts["device"]  # any may go on
        options = {"checkpoint": checkpoint, "facts": facts, "log": log, "on_step": on_step}
        encoder, decoder = self.encoder_, self.decoder_
        both = {"encoder": encoder, "decoder": decoder}
        history = self._train(
            "joint",
            both,
            lambda _, x: decoder(encoder(x)),
            rows,
            self.learning_rate,
            joint,
            options,
        )
        self.history_ = [{"phase": 1, **record} for record in history]
        self._freeze()
        self.losses_ = self._measure(trained, held_out, suffix="_joint")

        codes = self.encode(trained).to(device)
        decoder.requires_grad_(True)
        history = self._train(
            "decoder",
            {"decoder": decoder},
            lambda index, _: decoder(codes[index]),
            rows,
            self.decoder_rate,
            max(1, steps - joint),
            options,
        )
        self.history_ += [{"phase": 2, **record} for record in history]
        self._freeze()
        self.losses_.update(self._measure(trained, held_out, suffix=""))
        return self

    def encode(self, data: Dataset | torch.Tensor) -> torch.Tensor:
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
        data = rows_of("data", data, self.shape_)
        rows = Rows(data, self.compute_device, shift=self.shift_, scale=self.scale_)
        return apply(self.encoder_, rows, self.latent_dim)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
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
        codes = _check.points("codes", codes, dim=self.latent_dim)
        rows = Rows(codes, self.compute_device)
        out = apply(self.decoder_, rows, *self.shape_)
        return out if len(self.shape_) == 3 else out.mul_(self.scale_).add_(self.shift_)

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted autoencoder to a directory; see `load`.

        Raises:
            ValueError: If `path` cannot be written or holds something else.
        """
        stored, config = self.state()
        _io.save(path, stored, config, kind="Autoencoder")

    @classmethod
    def load(cls, path: str | os.PathLike, *, device: str | None = None) -> Autoencoder:
        """Read an autoencoder that `save` wrote.

        Args:
            path: The directory.
            device: Where to use it; None: the first GPU, else the CPU.

        Raises:
            ValueError: If there is none, or a byte of it changed.
        """
        return cls.from_state(*_io.load(path, kind="Autoencoder"), device=device)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what makes up the fitted autoencoder: tensors by name, and plain values."""
        self._check_fitted()
        stored = {f"encoder.{k}": v for k, v in self.encoder_.state_dict().items()}
        stored |= {f"decoder.{k}": v for k, v in self.decoder_.state_dict().items()}
        config = {
            "arguments": self._arguments(),
            "shape": list(self.shape_),
            "shift": self.shift_,
            "scale": self.scale_,
            "losses": self.losses_,
            "history": self.history_,
            "precision": self.precision_,
        }
        return stored, config

    @classmethod
    def from_state(
        cls, stored: dict[str, torch.Tensor], config: dict[str, Any], *, device: str | None = None
    ) -> Autoencoder:
        """Make the autoencoder of which `state` returned the parts."""
        self = cls(**config["arguments"] | {"device": device})
        self.shape_, self.precision_ = tuple(config["shape"]), config["precision"]
        self.shift_, self.scale_ = config["shift"], config["scale"]
        self.losses_, self.history_ = config["losses"], config["history"]
        self.encoder_, self.decoder_ = self._build()
        for prefix, part in (("encoder.", self.encoder_), ("decoder.", self.decoder_)):
            own = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
            part.load_state_dict(own)
            part.to(self.compute_device)
        self._freeze()
        return self

    def _arguments(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in inspect.signature(Autoencoder).parameters}

    def _validate(self, data: Dataset | Any, steps: int | None) -> Dataset:  # noqa: ANN401
        for name in ("latent_dim", "batch_size"):
            _check.integer(name, getattr(self, name))
        if self.batch_size < 2:
            raise _check.fail("batch_size", "be at least 2", "1", "batch statistics need two rows")
        for name in ("learning_rate", "decoder_rate"):
            _check.real(name, getattr(self, name), above=0)
        _check.integer("seed", self.seed, minimum=0)
        _check.choice("architecture", self.architecture, ARCHITECTURES)
        _check.choice("precision", self.precision, PRECISIONS)
        if steps is not None:
            _check.integer("steps", steps, minimum=2)
        data = data if isinstance(data, Dataset) else tensors(data)
        if len(data) < 2:
            raise _check.fail("data", "hold at least 2 rows", str(len(data)))
        return data

    @property
    def compute_device(self) -> torch.device:
        """Where the networks run."""
        return resolve_device(self.device)

    def _build(self) -> tuple[nn.Module, nn.Module]:
        return autoencoder_pair(
            self.shape_, self.latent_dim, architecture=self.architecture, width=self.width
        )

    def _set_scale(self, data: Dataset) -> None:
        # Vectors come in any unit: one shift and one factor bring them to mean 0, variance 1.
        self.shift_, self.scale_ = 0.0, 1.0
        if len(data.shape) == 1:
            self.shift_ = float(data.values.mean())
            self.scale_ = float(data.values.std()) or 1.0

    def _train(
        self,
        name: str,
        parts: dict[str, nn.Module],
        forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        rows: Rows,
        rate: float,
        steps: int,
        options: dict[str, Any],
    ) -> list[dict[str, float]]:
        """Train `parts` so that ``forward(index, rows[index])`` gives the rows back."""
        parameters = [p for part in parts.values() for p in part.train().parameters()]
        optimizer, schedule = cosine_adam(parameters, rate, steps)
        low = self.precision_ == "bfloat16"
        autocast = torch.autocast(rows.device.type, torch.bfloat16, enabled=low)
        batch_size = min(self.batch_size, len(rows))
        folder = options["checkpoint"]

        def update(index: torch.Tensor) -> dict[str, float]:
            batch = rows[index]
            with autocast:
                output = forward(index, batch)
            loss = F.mse_loss(output.float(), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            return {"loss": loss.item() * self._unit()}

        return training.run(
            update,
            lambda step: indices(len(rows), batch_size, seed=self.seed, start=step, key=name),
            steps=steps,
            state={**parts, "optimizer": optimizer, "schedule": schedule},
            name=name,
            **options | {"checkpoint": None if folder is None else Path(folder) / name},
        )

    def _unit(self) -> float:
        # Images span [-1, 1] here and [0, 1] in the literature: squared errors differ by 4.
        return 0.25 if len(self.shape_) == 3 else self.scale_**2

    def _freeze(self) -> None:
        for part in (self.encoder_, self.decoder_):
            part.eval().requires_grad_(False)

    def _measure(
        self, trained: Dataset, held_out: Dataset | None, *, suffix: str
    ) -> dict[str, float]:
        draw = generator(self.seed, "measure")
        some = torch.randperm(len(trained), generator=draw)[:10_000]
        losses = {f"train{suffix}": self.error(trained.subset(some))}
        if held_out is not None and len(held_out):
            losses[f"held_out{suffix}"] = self.error(held_out)
        return losses

    def error(self, data: Dataset) -> float:
        """Return the mean squared reconstruction error, for images in [0, 1] units.

        Args:
            data: Images or vectors of the shape trained on.
        """
        self._check_fitted()
        total = 0.0
        for start in range(0, len(data), 4096):
            block = data[start : start + 4096]
            restored = self.decode(self.encode(block))
            total += float((restored - block).double().square().sum())
        mean = total / (len(data) * math.prod(self.shape_))
        return mean * 0.25 if len(self.shape_) == 3 else mean

    def _check_fitted(self) -> None:
        if not hasattr(self, "decoder_"):
            raise NotFittedError("this Autoencoder is not fitted yet; call fit(data) first")


def cosine_adam(
    parameters: list[nn.Parameter], rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return Adam and its schedule: a short linear rise, then a cosine to zero at `steps`."""
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.999), fused=True)
    warm = max(1, min(100, steps // 20))

    def factor(step: int) -> float:
        return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


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


class Rows:
    """Rows of a data set or tensor as float32 on one device, shifted and scaled.

    Args:
        data: A data set, or a tensor (n, ...).
        device: Where the rows go; bytes stay bytes until they are indexed.
        shift: Subtracted from every number.
        scale: Every number is divided by it.
    """

    def __init__(
        self,
        data: Dataset | torch.Tensor,
        device: torch.device,
        *,
        shift: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        self.data, self.device = data.to(device), device
        self.shift, self.scale = shift, scale

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: slice | torch.Tensor) -> torch.Tensor:
        if isinstance(index, torch.Tensor):
            index = index.to(self.device)
        rows = self.data[index].to(torch.float32)
        return rows if (self.shift, self.scale) == (0, 1) else (rows - self.shift) / self.scale


def apply(network: nn.Module, rows: Rows, *width: int) -> torch.Tensor:
    """Apply a network to all rows, without gradients.

    Every block has the same shape and the last one is padded, because matrix products round
    differently for other shapes: what a row gives does not depend on its company.

    Args:
        network: In eval mode.
        rows: n rows.
        width: Shape of one row of the result.

    Returns:
        (n, *width), float32, on the CPU.
    """
    out = torch.empty(len(rows), *width)
    with torch.inference_mode():
        for start in range(0, len(rows), _BLOCK):
            block = rows[slice(start, start + _BLOCK)]
            padded = F.pad(block, [0, 0] * (block.ndim - 1) + [0, _BLOCK - len(block)])
            out[start : start + len(block)] = network(padded)[: len(block)]
    return out
