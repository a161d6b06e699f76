"""Where a result was made: versions, processor, devices, threads, memory; torch's settings."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from aeot import __version__, _check

if sys.platform != "win32":
    import resource

_Class = TypeVar("_Class", bound=type)
_Made = TypeVar("_Made")
_Function = TypeVar("_Function", bound=Callable[..., Any])

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
        "world_size": processes()[1],
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


def processes() -> tuple[int, int]:
    """Rank of this process and how many there are, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or torch says that memory could not be had."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("can't allocate memory", "Cannot allocate", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in words)


def in_parts(work: Callable[..., _Made], rows: torch.Tensor, *others: torch.Tensor) -> _Made:
    """Apply a function that treats every row alone; in halves where memory does not suffice.

    Args:
        work: From tensors of m rows each to one of m rows, or several.
        rows: The first of them.
        others: More of them, as many rows each.

    Returns:
        What `work` returns for all rows: the same bits, unless not even a layer's product of
        matrices for all rows fits into memory and a library rounds that of fewer differently.

    Raises:
        MemoryError, RuntimeError: If memory does not suffice for a single row.

    Example:
        >>> in_parts(torch.square, torch.arange(3.0))
        tensor([0., 1., 4.])
    """
    return _in_parts(work, (rows, *others), 0, len(rows))


def _in_parts(
    work: Callable[..., _Made], tensors: tuple[torch.Tensor, ...], first: int, whole: int
) -> _Made:
    """Treat rows `first` and following of a block that had `whole` rows."""
    count = len(tensors[0])
    try:
        with _AmongAll(first, count, whole) if count < whole else contextlib.nullcontext():
            return work(*tensors)
    except (MemoryError, RuntimeError) as error:
        if count < 2 or not is_out_of_memory(error):
            raise
    # Here, not above: the error's traceback held all that had been computed.
    cut = 1 << (count - 1).bit_length() - 1
    halves = ((first, slice(None, cut)), (first + cut, slice(cut, None)))
    made: Any = [
        _in_parts(work, tuple(tensor[rows] for tensor in tensors), start, whole)
        for start, rows in halves
    ]
    if isinstance(made[0], tuple):
        return cast(_Made, tuple(torch.cat(pieces) for pieces in zip(*made, strict=True)))
    return cast(_Made, torch.cat(made))


class _AmongAll(TorchFunctionMode):
    """Has linear layers multiply all rows of a block of which only some are there.

    The libraries of matrix products share out sums by the number of rows, so that a row rounds
    differently in another company; convolutions, which take the memory, do not. Where even the
    product of all rows does not fit, that of the rows alone is taken.
    """

    def __init__(self, first: int, count: int, whole: int) -> None:
        super().__init__()
        self.first, self.count, self.whole = first, count, whole

    def __torch_function__(
        self,
        func: Callable,
        types: Any,  # noqa: ANN401, ARG002
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is F.linear and len(args[0]) == self.count:
            some, *weights = args
            beside = [0, 0] * (some.ndim - 1)
            beside += [self.first, self.whole - self.first - self.count]
            try:
                made = func(F.pad(some, beside), *weights, **kwargs)
                return made[self.first : self.first + self.count].clone()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
        return func(*args, **kwargs)


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


class _Process:
    """Settings that torch keeps for the whole process, set aside while any thread computes here."""

    def __init__(self) -> None:
        self.lock, self.users, self.undo = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self._set_aside()
            self.users += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.undo.close()

    def _set_aside(self) -> None:
        if torch.get_default_dtype() != torch.float32:
            self.undo.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        # What torch.set_float32_matmul_precision("medium") sets: products of fewer digits.
        mkldnn: Any = torch.backends.mkldnn
        for place in (mkldnn.matmul, mkldnn.conv, torch.backends.cuda.matmul):
            if (before := place.fp32_precision) not in ("none", "ieee"):
                self.undo.callback(setattr, place, "fp32_precision", before)
                place.fp32_precision = "ieee"


_PROCESS = _Process()
_NUMPY: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


class _Plain(contextlib.ContextDecorator):
    """What `plain_torch` returns."""

    def __init__(self, grad: bool | None) -> None:
        self.grad = grad

    def __enter__(self) -> None:
        self._inside = _plain(self.grad)
        self._inside.__enter__()

    def __exit__(self, *error: Any) -> bool | None:  # noqa: ANN401
        return self._inside.__exit__(*error)

    def __call__(self, function: _Function) -> _Function:
        check = _check.arguments(function)

        @functools.wraps(function)
        def inner(*args: Any, **given: Any) -> Any:  # noqa: ANN401
            check(args, given)
            with _plain(self.grad):
                return function(*args, **given)

        return cast(_Function, inner)


def plain_torch(*, grad: bool | None = None) -> _Plain:
    """Compute as if the caller had changed no setting of torch, and put every setting back.

    Inside, tensors are float32 on the CPU where nothing else is said, products have all digits of
    their dtype (no autocast, no TF32 or bfloat16 in float32 products), small numbers are not
    flushed to zero, there is no inference mode, and numpy warns where it would by default. As a
    decorator it checks that a function takes what it is given (`_check.arguments`), too; for
    generators it changes no setting.

    Args:
        grad: Record gradients; None: if the caller does.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16), plain_torch():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    return _Plain(grad)


@contextlib.contextmanager
def _plain(grad: bool | None) -> Iterator[None]:
    probe = torch.empty(0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_PROCESS)
        if probe.device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        wanted = torch.is_grad_enabled() if grad is None else grad
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))  # it turns gradients on
        if torch.is_grad_enabled() != wanted:
            stack.enter_context(torch.set_grad_enabled(wanted))
        if sys.float_info.min * 0.5 == 0:
            torch.set_flush_denormal(False)
            stack.callback(torch.set_flush_denormal, True)
        if np.geterr() != _NUMPY:
            stack.enter_context(np.errstate(**_NUMPY))
        yield


def plain_methods(cls: _Class, *, grad: bool | None = None) -> _Class:
    """Run the constructor, the public methods and the properties of a class in `plain_torch`."""
    plain = plain_torch(grad=grad)
    for name, value in vars(cls).copy().items():
        if name.startswith("_") and name not in ("__init__", "__call__", "__getitem__"):
            continue
        if isinstance(value, FunctionType):
            setattr(cls, name, plain(value))
        elif isinstance(value, (classmethod, staticmethod)):
            setattr(cls, name, type(value)(plain(value.__func__)))
        elif isinstance(value, property) and value.fget is not None:
            setattr(cls, name, value.getter(plain(value.fget)))
        elif isinstance(value, functools.cached_property):
            value.func = plain(value.func)
    return cls
