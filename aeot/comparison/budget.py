"""Equal budgets: train any model for so many seconds or images, and record what it cost."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from aeot import _check, _environment, _io, _loop, training
from aeot.data import Dataset
from aeot.models.autoencoder import Autoencoder

_SPENT = "spent.json"
_STATUS = Path("/proc/self/status")


class Peak:
    """The largest memory from here on: resident on the CPU, allocated on a GPU.

    On Linux the process's high-water mark is set back first; elsewhere the mark of the whole
    process is all there is. It includes libraries and data, which all models share.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self.exact = False
        else:
            self.exact = True

    def gib(self) -> float:
        """Return the peak so far in GiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        if self.exact:
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 2**20
        return _environment.peak_memory()


class Trainable(Protocol):
    """An estimator that can be stopped: ``fit(data, steps=, on_step=)``."""

    batch_size: int
    fit: Callable[..., Any]


class _Enough(Exception):
    """Ends a calibration."""


def train(
    model: Trainable,
    data: Dataset,
    *,
    seconds: float | None = None,
    images_seen: int | None = None,
    reserve: float = 0.3,
    processor: bool = False,
    checkpoint: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Fit a model within a budget of seconds or of training images.

    A model whose steps do not depend on how many will follow is simply stopped in time. Others
    lower their learning rate along the way or have two phases: for them a budget in seconds must
    become a number of steps first. They are fitted for 3 % of it to learn their pace, and then
    anew, from their seed, for the steps that fit into the rest. Should the pace drop, training
    ends at the limit. A budget in images counts every real image that an update takes: five
    critic steps see five batches.

    Args:
        model: An estimator whose ``fit`` takes ``steps`` and ``on_step``.
        data: What it is fitted to.
        seconds: Seconds of wall clock; one of the two must be given.
        images_seen: Number of images.
        reserve: Share of the seconds kept for ``fit_transport``, of models that have one.
        processor: Count seconds of the processor, of all threads together, instead: what else
            runs on the machine then takes nothing away.
        checkpoint: Folder for checkpoints, from which a training for a number of images goes on;
            one for a time cannot. The time that was spent before counts.

    Returns:
        ``budget``, ``train_seconds`` (all that was spent, whatever the budget), ``cpu_seconds``,
        ``steps``, ``images_seen``, ``peak_gib``, ``device``.

    Raises:
        ValueError: If not exactly one budget is given, it is less than the fewest steps cost, or
            ``fit`` cannot be stopped.
    """
    if (seconds is None) == (images_seen is None):
        got = "none of them" if seconds is None else "both"
        raise _check.fail("seconds or images_seen", "be given", got)
    reserve = _check.real("reserve", reserve, minimum=0, maximum=1)
    fit = getattr(model, "fit_autoencoder", model.fit)
    known = inspect.signature(fit).parameters
    if "on_step" not in known or "steps" not in known:
        got = f"{type(model).__name__}.fit({', '.join(known)})"
        raise _check.fail("model", "have fit(data, steps=, on_step=)", got)
    if images_seen is not None:
        _check.unused("beside images_seen", processor=(processor, False))
    clock = time.process_time if processor else time.perf_counter
    fit_transport = getattr(model, "fit_transport", None)
    per_step = _images(model, data)
    if images_seen is None or "checkpoint" not in known:
        checkpoint = None
    device = _environment.resolve_device(getattr(model, "device", None))
    peak, spent = Peak(device), _Spent(checkpoint)
    if images_seen is not None:
        count = steps(model, data, images_seen)
        budget, begun, limit = f"{images_seen} images", 0.0, math.inf
    else:
        given = _check.real("seconds", seconds, above=0)
        budget = f"{given:g} {'processor ' * processor}s"
        begun = clock()
        limit = begun + given * (1 - reserve * (fit_transport is not None))
        if getattr(model, "_open_ended", False):
            count = training.OPEN_ENDED
        else:
            pace = _pace(fit, data, max(0.03 * given, 0.1), clock)
            count = max(2, int((limit - clock()) / pace))
    done = 0

    def on_step(step: int, record: dict[str, float]) -> bool:  # noqa: ARG001
        nonlocal done
        done += 1
        spent.note()
        now = clock()
        if shown is not None:
            shown.at(now - begun)
        return now >= limit

    shown = None if seconds is None else _loop.Loop("budget", seconds, unit="second", stops=False)
    try:
        with shown or contextlib.nullcontext():
            fit(data, steps=count, on_step=on_step, **spent.place("state"))
        if fit_transport is not None:
            fit_transport(data, **spent.place("transport"))
    except KeyboardInterrupt:
        spent.note(now=True)
        raise
    if images_seen is not None:
        done = count
    return {
        "budget": budget,
        **{name: round(value, 2) for name, value in spent.seconds().items()},
        "steps": done,
        "images_seen": done * per_step,
        "peak_gib": round(peak.gib(), 3),
        "device": str(device),
    }


class _Spent:
    """The seconds that a training takes, those before it was stopped included."""

    def __init__(self, folder: str | os.PathLike | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.begun = time.perf_counter(), time.process_time()
        self.before = 0.0, 0.0
        self.pace = _loop.Pace(5.0)
        if self.folder and (self.folder / _SPENT).is_file():
            known = _io.read_json(self.folder / _SPENT, dict)
            self.before = known["train_seconds"], known["cpu_seconds"]

    def place(self, name: str) -> dict[str, Path]:
        """The argument ``checkpoint`` of a fit, if there is any."""
        return {} if self.folder is None else {"checkpoint": self.folder / name}

    def seconds(self) -> dict[str, float]:
        """Wall clock, and that of the processor."""
        return {
            "train_seconds": self.before[0] + time.perf_counter() - self.begun[0],
            "cpu_seconds": self.before[1] + time.process_time() - self.begun[1],
        }

    def note(self, *, now: bool = False) -> None:
        """Write them beside the checkpoints, every five seconds or `now`."""
        if self.folder and (now or self.pace.due()):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.pace.measured():
                _io.write_text(self.folder / _SPENT, json.dumps(self.seconds()) + "\n")


def steps(model: Trainable, data: Dataset, images_seen: int) -> int:
    """Return how many steps a budget in images pays for.

    Raises:
        ValueError: If they are fewer than the model must have.
    """
    per_step = _images(model, data)
    count = _check.integer("images_seen", images_seen) // per_step
    least = 1 if getattr(model, "_open_ended", False) else 2
    if count < least:
        must = f"pay for {least} step(s) of {type(model).__name__}, {per_step} images each"
        raise _check.fail("images_seen", must, str(images_seen))
    return count


def _images(model: Trainable, data: Dataset) -> int:
    # The autoencoder takes smaller batches of smaller data, the others draw rows again.
    whole = hasattr(model, "fit_transport") or isinstance(model, Autoencoder)
    batch = min(model.batch_size, len(data)) if whole else model.batch_size
    return batch * getattr(model, "_multiple", 1)


def _pace(
    fit: Callable[..., Any], data: Dataset, seconds: float, clock: Callable[[], float]
) -> float:
    """Return the seconds of a step, over the latter half of a short training."""
    times: list[float] = []

    def watch(step: int, record: dict[str, float]) -> None:  # noqa: ARG001
        times.append(clock())
        if len(times) >= 4 and times[-1] - times[0] >= seconds:
            raise _Enough

    with contextlib.suppress(_Enough):
        fit(data, steps=10**6, on_step=watch)
    late = times[len(times) // 2 :]
    return (late[-1] - late[0]) / (len(late) - 1)
