"""The autoencoder: images to codes and back, trained in two phases."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from aeot import _check, _io, _loop, _ranks, training
from aeot._check import ArrayLike
from aeot._environment import in_parts, resolve_device, resolve_precision
from aeot._estimator import Estimator, rate
from aeot._rng import forked, generator
from aeot.data import Dataset, indices
from aeot.data.arrays import digest, domain, facts_of, rows_of
from aeot.networks.autoencoder import (
    ARCHITECTURES,
    autoencoder_pair,
    resolve_architecture,
)
from aeot.networks.sharing import shared

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK = 256  # rows per forward pass


@dataclass(kw_only=True, eq=False, repr=False)
class AutoencoderOptions(Estimator):
    """The arguments of an `Autoencoder`, shared with what trains one for itself."""

    latent_dim: int = 128
    architecture: str = "auto"
    width: int | None = None
    learning_rate: float = 3e-3
    decoder_rate: float = 1e-3
    batch_size: int = 128
    flips: bool = False
    shifts: int = 0
    precision: str = "auto"
    device: str | None = None
    seed: int = 0

    _checks = Estimator._checks | {
        "architecture": partial(_check.choice, options=ARCHITECTURES),
        "width": _check.integer,
        "decoder_rate": rate,
        "batch_size": partial(_check.integer, minimum=2),  # batch statistics need two rows
        "shifts": partial(_check.integer, minimum=0),
    }

    def planned_steps(self, n: int, shape: tuple[int, ...], *, stop: str = "steps") -> int:
        """Return the steps that `fit` chooses for n rows of a shape."""
        named = resolve_architecture(self.architecture, shape)
        share = 1.0 if named == "residual" else 0.5  # in the same time
        passes, least = (48 * share, 2400 * share) if stop == "steps" else (400, 40_000)
        return int(max(passes * math.ceil(n / min(self.batch_size, n)), least))


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
        architecture: "auto" ("residual" for images, "mlp" for vectors), "residual", "infogan" (the
            paper's, 20 times larger), "dcgan" or "mlp"; see
            `aeot.networks.autoencoder.autoencoder_pair`.
        width: Channels or hidden units of "residual", "dcgan" and "mlp"; None for their defaults.
        learning_rate: Of Adam with betas (0.5, 0.999), at the start of phase 1.
        decoder_rate: The same for phase 2.
        batch_size: Images per step.
        flips: In phase 1, mirror each image from left to right with a chance of one half.
        shifts: In phase 1, shift each image by up to so many pixels along both axes; its border
            is repeated.
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
        architecture_: What "auto" stood for.

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
    _learned |= {"architecture_": str | None}  # saves of 0.2.0 and before have none

    @_ranks.together("Autoencoder.fit")
    def fit(
        self,
        data: Dataset | ArrayLike,
        *,
        steps: int | None = None,
        stop: str = "steps",
        held_out: Dataset | float = 0.05,
        checkpoint: str | os.PathLike | None = None,
        log: str | os.PathLike | None = None,
        on_step: Callable[[int, dict[str, float]], bool | None] | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Train on `data`.

        Args:
            data: A data set, or anything `aeot.tensors` takes.
            steps: Steps of both phases together, 2/3 of them in phase 1. None: 48 passes over the
                data, at least 2 400 steps; half as many with other networks than "residual", which
                take twice the time; 400 passes, at least 40 000, where `stop` is "plateau".
            stop: "steps": the learning rate falls along a cosine over the steps of each phase.
                "plateau": it stays until the mean loss of three windows has not fallen by 1 %, is
                divided by 10 then, and the third time the phase ends, or when its steps are used
                up; a window is a pass over the data, at least 100 steps.
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
        _check.choice("stop", stop, ("steps", "plateau"))
        if steps is not None:
            _check.integer("steps", steps, minimum=2)
        data = domain("data", data)
        if len(data) < 2:
            raise _check.fail("data", "hold at least 2 rows", str(len(data)))
        self._check_augmentation(data.shape)
        trained, kept = split(data, held_out, self.seed)
        if len(trained) < 2:
            raise _check.fail("data", "hold at least 2 rows to train on", str(len(trained)))
        self.architecture_ = resolve_architecture(self.architecture, data.shape)
        if self.architecture_ == "infogan":
            self._check_unused("with the networks 'infogan', which have one width", "width")
        if steps is None:
            steps = self.planned_steps(len(trained), data.shape, stop=stop)
        joint, refining = _phases(steps)
        device = self.compute_device
        self.shape_, self.precision_ = data.shape, resolve_precision(self.precision, device)
        self._set_scale(trained)
        self.data_ = facts_of(data)
        self._check_networks()
        with forked(self.seed, "autoencoder"):
            self.encoder_, self.decoder_ = (part.to(device) for part in self._build().values())
        facts = {**self.arguments(), "steps": joint + refining, "stop": stop, **digest(trained)}
        del facts["device"]  # any may go on
        self._earlier = 0.0
        with _loop.Loop("", stops=False, progress=progress):
            train = partial(
                self._train,
                trained.to(device),
                stop=stop,
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
            history = train("decoder", refining, lambda index, _: decoder(codes[index]))
            self.history_ += [{"phase": 2, **record} for record in history]
            self.losses_.update(self._measure(trained, kept, suffix=""))
        return self

    def forecast(self, data: Dataset | ArrayLike, *, steps: int | None = None) -> dict[str, float]:
        """Return how long `fit` will take about, in seconds, by training a few steps on a copy.

        Args:
            data: What `fit` will get.
            steps: The same.

        Returns:
            Seconds of ``autoencoder``, both phases, and ``encoding``, of all rows once.

        Raises:
            ValueError: As `fit` does.

        Example:
            >>> model = Autoencoder(latent_dim=2, precision="float32")
            >>> sorted(model.forecast(torch.rand(500, 5)))
            ['autoencoder', 'encoding']
        """
        data = domain("data", data)
        few = data.subset(slice(0, max(self.batch_size, 2)))
        marks: list[float] = []
        probe = type(self)(**self.arguments())
        probe.fit(
            few,
            steps=18,  # 12 and 6 of the phases
            held_out=0.0,
            on_step=lambda *_: marks.append(time.perf_counter()),
            progress=False,
        )
        begun = time.perf_counter()
        probe.encode(few)
        encoding = (time.perf_counter() - begun) / len(few)
        durations = [after - before for before, after in zip(marks, marks[1:], strict=False)]
        paces = [statistics.median(durations[2:11]), statistics.median(durations[13:])]
        phases = _phases(self.planned_steps(len(data), data.shape) if steps is None else steps)
        total = sum(pace * count for pace, count in zip(paces, phases, strict=True))
        return {"autoencoder": total, "encoding": encoding * len(data)}

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
            return in_blocks(
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
            rows = in_blocks(self.decoder_, codes, *self.shape_)
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
        few = max(_BLOCK, min(4096, 2**24 // math.prod(self.shape_)))  # bounds the memory
        total = 0.0
        for start in range(0, len(data), few):
            block = data[start : start + few]
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
            self.shape_, self.latent_dim, architecture=self.architecture_, width=self.width
        )
        return {"encoder_": encoder, "decoder_": decoder}

    def _restore(self, learned: dict[str, Any], device: torch.device) -> None:
        if learned.get("architecture_") is None:
            named = resolve_architecture(self.architecture, learned["shape_"], published=True)
            learned = learned | {"architecture_": named}
        super()._restore(learned, device)
        for part in (self.encoder_, self.decoder_):
            part.requires_grad_(False)

    def _check_augmentation(self, shape: tuple[int, ...]) -> None:
        for name in ("flips", "shifts"):
            value = getattr(self, name)
            if value and len(shape) != 3:
                raise _check.fail(name, "be left out for vectors", repr(value))
        if self.shifts and self.shifts >= min(shape[1:]):
            raise _check.fail("shifts", f"be below {min(shape[1:])} pixels", self.shifts)

    def _augmented(self, rows: torch.Tensor, step: int) -> torch.Tensor:
        """Return images flipped and shifted as the seed and the step say."""
        draw = generator(self.seed, "augment", step)
        if self.flips:
            flipped = torch.rand(len(rows), generator=draw) < 0.5
            rows = torch.where(flipped.to(rows.device)[:, None, None, None], rows.flip(-1), rows)
        return _shifted(rows, self.shifts, draw) if self.shifts else rows

    def _set_scale(self, data: Dataset) -> None:
        # Vectors come in any unit: one shift and one factor bring them to mean 0, variance 1.
        self.shift_, self.scale_ = 0.0, 1.0
        if len(data.shape) == 1:
            rows = data.values[:]
            self.shift_, self.scale_ = float(rows.mean()), float(rows.std()) or 1.0

    def _scaled(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if len(self.shape_) == 3 else (rows - self.shift_) / self.scale_

    def _train(
        self,
        data: Dataset,
        name: str,
        steps: int,
        forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        stop: str,
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
        size = min(self.batch_size, len(data))
        schedule: _Cosine | _Plateau = (
            _Cosine(optimizer, steps)
            if stop == "steps"
            else _Plateau(optimizer, max(100, len(data) // size))
        )
        augment = name == "joint" and bool(self.flips or self.shifts)
        device = data.values.device
        low = self.precision_ == "bfloat16"
        # No cache: inside a caller's autocast it would outlive the step, and the weights move.
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=low, cache_enabled=False)
        # Images span [-1, 1] here and [0, 1] in the literature: squared errors differ by 4.
        unit = 0.25 if len(self.shape_) == 3 else self.scale_**2

        def update(batch: tuple[int, torch.Tensor]) -> dict[str, float]:
            step, index = batch[0], batch[1].to(device)
            rows = self._scaled(data[index])
            if augment:
                rows = self._augmented(rows, step)
            with autocast:
                output = forward(index, rows)
            loss = F.mse_loss(output.float(), rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            value = loss.item()
            schedule.step(value)
            return {"loss": value * unit}

        place = None if checkpoint is None else Path(checkpoint) / name
        state = {**parts, "optimizer": optimizer, "schedule": schedule}
        train = partial(
            training.run,
            update,
            lambda step: enumerate(
                indices(len(data), size, seed=self.seed, start=step, key=name), step
            ),
            steps=steps,
            finer=10 if steps < 2000 else 1,  # else short runs have two or three points
            done=schedule.done,
            state=state,
            checkpoint=place,
            name=name,
            **options,
        )
        begun = time.perf_counter()
        with shared(state, size):
            first = _ranks.rank() == 0
            history = (
                train() if name == "joint" else _io.anew_if_damaged(train, place, removes=first)
            )
        self._earlier += max(history[-1]["seconds"] - (time.perf_counter() - begun), 0.0)
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


def _phases(steps: int) -> tuple[int, int]:
    """Return the steps of both phases."""
    joint = max(1, round(steps * 2 / 3))
    return joint, max(1, steps - joint)


class _Cosine(torch.optim.lr_scheduler.LambdaLR):
    """A short linear rise of the learning rate, then a cosine to zero."""

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        warm = max(1, min(100, steps // 20))

        def share(step: int) -> float:
            return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))

        super().__init__(optimizer, share)

    def step(self, loss: float | None = None) -> None:  # type: ignore[override]
        """Set the rate of the next step, whatever the loss."""
        super().step()

    def done(self) -> bool:
        """The steps alone say when to end."""
        return False


class _Plateau:
    """The learning rate falls to a tenth where the loss stops falling; the third time it is over.

    Args:
        optimizer: Whose rate it is; it rises over the first 100 steps.
        window: Steps over which a loss is a mean; three without a fall by 1 % are a plateau.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, window: int) -> None:
        self.groups = optimizer.param_groups
        self.rate, self.window = self.groups[0]["lr"], window
        self.seen, self.total, self.best, self.waited, self.drops = 0, 0.0, -1.0, 0, 0
        self._set()

    def step(self, loss: float) -> None:
        """Take the loss of a step, and set the rate of the next."""
        self.seen, self.total = self.seen + 1, self.total + loss
        if self.seen % self.window == 0:
            mean, self.total = self.total / self.window, 0.0
            if self.best < 0 or mean < 0.99 * self.best:
                self.best, self.waited = mean, 0
            else:
                self.waited += 1
            if self.waited == 3:
                self.drops, self.waited = self.drops + 1, 0
        self._set()

    def done(self) -> bool:
        """Whether the loss stopped falling at the lowest rate, too."""
        return self.drops == 3

    def _set(self) -> None:
        for group in self.groups:
            group["lr"] = self.rate * 0.1**self.drops * min(1, (self.seen + 1) / 100)

    def state_dict(self) -> dict[str, float]:
        """Return where it stands, for a checkpoint."""
        return {name: getattr(self, name) for name in ("seen", "total", "best", "waited", "drops")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from there."""
        vars(self).update({name: state[name] for name in self.state_dict()})
        self._set()


def _shifted(images: torch.Tensor, reach: int, draw: torch.Generator) -> torch.Tensor:
    """Shift each image by up to `reach` pixels along both axes, repeating its border."""
    numbers = torch.arange(len(images), device=images.device)[:, None]
    for axis in (2, 3):
        by = torch.randint(-reach, reach + 1, (len(images), 1), generator=draw)
        places = torch.arange(images.shape[axis]) + by
        places = places.clamp_(0, images.shape[axis] - 1).to(images.device)
        images = images.transpose(1, axis)[numbers, places].transpose(1, axis)
    return images


def split(data: Dataset, held_out: Dataset | float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Return the rows to train on, and those kept from training if there are any."""
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


def in_blocks(
    network: Callable[[torch.Tensor], torch.Tensor],
    rows: Dataset | torch.Tensor,
    *width: int,
    block: int = _BLOCK,
) -> torch.Tensor:
    """Apply a network in eval mode to all rows, without gradients; ranks share the blocks.

    Every block has the same shape and the last one is padded, because matrix products round
    differently for other shapes: what a row gives does not depend on its company.

    Args:
        network: From (B, ...) to (B, *width).
        rows: (m, ...), on the network's device.
        width: Shape of one row of the result.
        block: Rows at a time.

    Returns:
        (m, *width), float32, on the CPU.
    """
    own = _ranks.part(range(len(rows)), block)
    out = torch.empty(len(own), *width)
    with torch.inference_mode():
        for start in own[::block]:
            stop, first = min(start + block, own.stop), start - own.start
            some = rows[start:stop].to(torch.float32)
            padded = F.pad(some, [0, 0] * (some.ndim - 1) + [0, block - len(some)])
            out[first : first + len(some)] = in_parts(network, padded)[: len(some)]
            _loop.at(stop)
    return _ranks.joined(out)[0]
