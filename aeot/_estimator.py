"""The one form of estimator: arguments, what was learned, and one way to save and load both."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from sklearn.exceptions import NotFittedError

from aeot import _io

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(kw_only=True, eq=False, repr=False)
class Estimator:
    """Arguments stored unchanged under their names; what `fit` learns ends in an underscore.

    A subclass is a dataclass with keyword-only fields. It supplies `fit`, `state` and
    `from_state`, and names in ``_learned`` the attribute that is there once it is fitted.
    """

    _learned: ClassVar[str]

    def __repr__(self) -> str:
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, as stored."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return what makes up the fitted model: tensors by name, and plain values.

        Raises:
            NotFittedError: Before `fit`.
        """
        raise NotImplementedError

    @classmethod
    def from_state(
        cls,
        tensors: dict[str, torch.Tensor],
        config: dict[str, Any],
        *,
        device: str | torch.device | None = None,
    ) -> Self:
        """Make the fitted model of which `state` returned the parts.

        Args:
            tensors: The tensors by name.
            config: The plain values.
            device: Where to compute; None: the first GPU, else the CPU.
        """
        raise NotImplementedError

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted model to a directory, whole or not at all; nothing is pickled.

        Args:
            path: Created, or replaced if it holds an earlier save of this class.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the directory holds something else or cannot be written.
        """
        self._check_fitted()
        _io.save(path, *self.state(), kind=type(self).__name__)

    @classmethod
    def load(cls, path: str | os.PathLike, *, device: str | torch.device | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            path: The directory, or a run directory with the model in ``model``.
            device: Where to compute; None: the first GPU, else the CPU.

        Raises:
            ValueError: If nothing is there, a byte of it changed, or it is another class.
        """
        return cls.from_state(*_io.load(path, kind=cls.__name__), device=device)

    def _check_fitted(self) -> None:
        if not hasattr(self, self._learned):
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted yet; call fit first")
