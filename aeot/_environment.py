"""Where a result was made: versions, processor, devices, threads, memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from aeot import __version__, _check

if sys.platform != "win32":
    import resource

PRECISIONS = ("auto", "float32", "bfloat16")
_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "pykeops",
    "matplotlib",
    "pillow",
    "safetensors",
    "jsonargparse",
)


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what is written beside every result.

    Args:
        device: Where the computation runs.

    Returns:
        Plain values: versions of the packages that matter, platform, processor, cores, threads,
        memory in GiB, devices, the device asked for, and the ranks of a distributed run.

    Example:
        >>> environment()["device"]
        'cpu'
    """
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        # Of aeot what runs: an editable installation may have been made from an older tree.
        "versions": {"aeot": __version__}
        | {name: version for name in _PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "gpus": gpus,
        "device": str(device),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }


def peak_memory() -> float:
    """Return the largest resident memory this process has had so far, in GiB; nan if unknown."""
    if sys.platform == "win32":
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << (30 if sys.platform == "darwin" else 20))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def is_writer() -> bool:
    """Whether this process writes files and prints: rank 0 under torchrun, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the named device; None: the first GPU, else the CPU.

    Raises:
        ValueError: If this machine has no such device.
    """
    if device is not None:
        return _check.device("device", device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return the arithmetic that "auto" stands for: bfloat16 where the hardware computes in it.

    Args:
        precision: "auto", "float32" or "bfloat16".
        device: Where the networks run.

    Raises:
        ValueError: For any other name.

    Example:
        >>> resolve_precision("float32", torch.device("cpu"))
        'float32'
    """
    _check.choice("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"
