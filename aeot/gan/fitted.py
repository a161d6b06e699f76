"""What all trained models of several networks share: a fit that can fail without loss, storage."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from aeot import _check, _io, training
from aeot._rng import forked
from aeot.networks import blocks


class Fitted:
    """Networks by name, made for the facts of a data set, and the run that trains them."""

    _modules: dict[str, nn.Module]
    _facts: dict[str, Any]

    def _build(self, facts: dict[str, Any]) -> dict[str, nn.Module]:
        """Make the networks for the facts of a data set."""
        raise NotImplementedError

    def _check_arguments(self, *_: Any) -> None:  # noqa: ANN401
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool):  # "no" would be true
                raise _check.fail(name, "be True or False", repr(value))
            if name in ("learning_rate", "mapping_rate"):
                _check.real(name, value, above=0)
            if name == "betas":
                numbers = isinstance(value, (tuple, list)) and len(value) == 2
                if not numbers or not all(0 <= _check.real(name, beta) < 1 for beta in value):
                    raise _check.fail(name, "be two numbers in [0, 1)", repr(value))
        _check.integer("batch_size", self.batch_size)
        _check.choice("precision", self.precision, ("float32", "bfloat16"))
        _check.integer("seed", self.seed, minimum=0)

    def _start(self, facts: dict[str, Any]) -> None:
        self._facts, self.shape_ = facts, tuple(facts["shape"])
        self.history_: list[dict[str, float]] = []
        with forked(self.seed, "networks"):
            self._modules = self._build(facts)
        for name, module in self._modules.items():
            setattr(self, f"{name}_", module)

    @contextlib.contextmanager
    def _refusable(self) -> Iterator[None]:
        """Go back to what was there before if an exception comes before the first step."""
        before = vars(self).copy()
        self._stepped = False
        try:
            yield
        except BaseException:
            if not self._stepped:
                vars(self).clear()
                vars(self).update(before)
            raise
        finally:
            vars(self).pop("_stepped", None)
            for module in getattr(self, "_modules", {}).values():
                module.eval()

    def _run(
        self,
        update: Callable[[Any], dict[str, float]],
        batches: Callable[[int], Iterator[Any]],
        device: torch.device | str,
        **options: Any,  # noqa: ANN401 - those of training.run
    ) -> None:
        def step(item: Any) -> dict[str, float]:  # noqa: ANN401
            self._stepped = True
            # No cache: it would keep the casts of weights that the optimisers of one update move.
            with torch.autocast(
                torch.device(device).type,
                torch.bfloat16,
                enabled=self.precision == "bfloat16",
                cache_enabled=False,
            ):
                return update(item)

        for module in self._modules.values():
            module.train()
        name = type(self).__name__
        training.run(step, batches, history=self.history_, name=name, **options)

    def save(self, path: str | os.PathLike) -> None:
        """Write the networks and arguments to a directory; nothing is pickled.

        Args:
            path: Created, or replaced if it holds an earlier save of this class.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the directory holds something else or cannot be written.
        """
        self._check_fitted()
        tensors = {
            f"{name}.{key}": value
            for name, module in self._modules.items()
            for key, value in module.state_dict().items()
        }
        arguments = dataclasses.asdict(self)
        config = {"arguments": arguments, "facts": self._facts, "history": self.history_}
        _io.save(path, tensors, config, kind=type(self).__name__)

    @classmethod
    def _loaded(cls, path: str | os.PathLike, device: torch.device | str, /, **changed: Any) -> Any:  # noqa: ANN401
        _check.device("device", device)
        tensors, config = _io.load(path, kind=cls.__name__, device=device)
        arguments = {
            k: tuple(v) if isinstance(v, list) else v for k, v in config["arguments"].items()
        }
        self = cls(**arguments | changed)
        self._start(config["facts"])
        self.history_ = config["history"]
        for name, module in self._modules.items():
            prefix = name + "."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            module.load_state_dict(state)
            module.to(device).eval()
        return self

    def count_parameters(self) -> dict[str, int]:
        """Return the number of trainable numbers of each network."""
        self._check_fitted()
        return {name: blocks.count_parameters(m) for name, m in self._modules.items()}

    def _check_fitted(self) -> None:
        if not hasattr(self, "_modules"):
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted yet; call fit first")
