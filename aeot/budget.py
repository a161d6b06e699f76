"""Equal budgets: train any model for so many seconds or images, and record what it cost."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

import torch

from aeot import _check, _environment
from aeot.data import Dataset

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


def train(
    model: Any,  # noqa: ANN401 - an estimator with fit(data, steps=, on_step=)
    data: Dataset,
    *,
    seconds: float | None = None,
    images_seen: int | None = None,
) -> dict[str, Any]:
    """Fit a model within a budget of wall-clock seconds or of training images.

    A budget in seconds ends the training at the first step after it, so models are compared as
    they are after equal time; what `fit` does after its steps (a transport map, say) is added to
    ``train_seconds``, not hidden. A budget in images counts every real image that an update takes:
    five critic steps see five batches.

    Args:
        model: An estimator whose ``fit`` takes ``steps`` and ``on_step``.
        data: What it is fitted to.
        seconds: Wall-clock seconds; one of the two must be given.
        images_seen: Number of images.

    Returns:
        ``train_seconds``, ``cpu_seconds``, ``images_seen``, ``steps``, ``peak_gib``, ``budget``.

    Raises:
        ValueError: If not exactly one budget is given, or ``fit`` cannot be stopped.
    """
    if (seconds is None) == (images_seen is None):
        raise _check.fail(
            "seconds or images_seen", "be given, and only one of them", "both or none"
        )
    known = inspect.signature(model.fit).parameters
    if "on_step" not in known or "steps" not in known:
        got = f"{type(model).__name__}.fit({', '.join(known)})"
        raise _check.fail("model", "have fit(data, steps=, on_step=)", got)
    per_step = model.batch_size * getattr(model, "_multiple", 1)
    if images_seen is not None:
        steps = max(1, _check.integer("images_seen", images_seen) // per_step)
        budget = f"{images_seen} images"
    else:
        steps = 10**9  # never reached
        budget = f"{_check.real('seconds', seconds, above=0):g} s"
    peak, begun, cpu = Peak(data.values.device), time.perf_counter(), time.process_time()
    done = 0

    def spent(step: int, record: dict[str, float]) -> bool:  # noqa: ARG001
        nonlocal done
        done += 1
        return seconds is not None and time.perf_counter() - begun >= seconds

    model.fit(data, steps=steps, on_step=spent)
    return {
        "budget": budget,
        "train_seconds": round(time.perf_counter() - begun, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "images_seen": done * per_step,
        "steps": done,
        "peak_gib": round(peak.gib(), 3),
    }
