"""Loops that numba compiles where it is installed; plain Python runs them too, slower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]  # a module, or nothing

Function = TypeVar("Function", bound=Callable)


def njit(
    *, fastmath: bool = False, error_model: Literal["python", "numpy"] = "python"
) -> Callable[[Function], Function]:
    """Compile a function of numbers and arrays at its first call; it lets go of the GIL.

    What is compiled is kept on disk for the next process, unless no folder for it can be written.
    Without numba the function stays as it is.

    Args:
        fastmath: Allow what IEEE arithmetic does not: another order of sums, no infinities.
        error_model: "numpy" divides by zero without an exception.
    """

    def compiled(function: Function) -> Function:
        if numba is None:
            return function
        options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": error_model}
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep compiled code in
            return numba.njit(**options)(function)

    return compiled
