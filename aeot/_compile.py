"""Loops that numba compiles where it is installed; plain Python runs them too, slower."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
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
        if _has_folder():
            with contextlib.suppress(RuntimeError, OSError):  # none that can be written
                kept = numba.njit(cache=True, **options)(function)
                kept._cache = _Forgiving(kept._cache)
                return kept
        return numba.njit(**options)(function)

    return compiled


def _has_folder() -> bool:
    """Whether a folder can be named for compiled code; without a home numba makes one named ~."""
    named = bool(os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME"))
    known = os.path.isabs(os.path.expanduser("~"))
    return named or known or os.access(Path(__file__).parent, os.W_OK)


class _Forgiving:
    """numba's store for one function, which does without what the disk refuses or lost."""

    def __init__(self, store: Any) -> None:  # noqa: ANN401 - numba has no types
        self._store = store

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._store, name)

    def load_overload(self, *arguments: Any) -> Any:  # noqa: ANN401
        """Return what is kept for a signature; None if nothing is, or cannot be read."""
        with contextlib.suppress(OSError):
            try:
                return self._store.load_overload(*arguments)
            except (EOFError, ValueError, TypeError, AttributeError, pickle.PickleError):
                self._store.flush()  # it was cut or damaged: begin anew
        return None

    def save_overload(self, *arguments: Any) -> None:  # noqa: ANN401
        """Keep what was compiled, if there is room."""
        with contextlib.suppress(OSError):
            self._store.save_overload(*arguments)
