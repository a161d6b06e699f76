"""The one form of estimator: arguments, what was learned, and one way to save and load both."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from aeot import _check, _io
from aeot._environment import PRECISIONS, is_out_of_memory, plain_methods, resolve_device
from aeot._rng import forked

if TYPE_CHECKING:
    from typing_extensions import Self

# Called with an argument's name and value; raises a ValueError that names both.
Check = Callable[[str, Any], object]

_MOST = 1e15  # torch multiplies by whole numbers of 64 bits
positive: Check = partial(_check.real, above=0, maximum=_MOST)
not_negative: Check = partial(_check.real, minimum=0, maximum=_MOST)
rate: Check = partial(_check.real, above=0, maximum=1e6)  # what float32 can still step by
depth: Check = partial(_check.integer, maximum=1000)
# Arguments by which networks grow.
_SIZES = (
    *("latent_dim", "noise_dim", "width", "hidden", "channels", "filters", "layers"),
    *("packing", "kernels", "n_blocks", "n_layers", "noise_channels"),
)


@plain_methods
class Saved:
    """What `state` takes apart and `from_state` puts together, in a directory."""

    def state(self) -> dict[str, Any]:
        """Return what makes it up, as nested dicts of tensors and plain values."""
        raise NotImplementedError

    @classmethod
    def from_state(cls, state: dict[str, Any], *, device: str | torch.device | None = None) -> Self:
        """Make what `state` took apart."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write it to a directory, whole or not at all; nothing is pickled.

        Beside the numbers the directory holds ``README.md``, a page that says what this is.

        Args:
            path: New or empty, or an earlier save of this class that may be replaced.
            overwrite: Whether it may.

        Raises:
            NotFittedError: Of an estimator, before `fit`.
            ValueError: If the directory holds something else, or an earlier save without
                `overwrite`, or cannot be written.
        """
        kind = type(self)
        tensors, config = _io.pack(self.state())
        card = _io.card(kind, self._page())
        _io.save(path, tensors, config, kind=kind.__name__, overwrite=overwrite, card=card)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        device: str | torch.device | None = None,
        **given: Any,  # noqa: ANN401
    ) -> Self:
        """Read what `save` wrote; it gives the same results.

        Args:
            path: The directory, or a run directory with the model in ``model``.
            device: Where to compute; None: the first GPU, else the CPU. It becomes the argument
                `device` of what has one.
            given: What cannot be stored and `from_state` takes: the ``source`` of a transport
                where that is a function.

        Raises:
            ValueError: If nothing is there, a byte of it changed, or it is another class.
        """
        taken = ("path", *inspect.signature(cls.from_state).parameters)
        _check.keywords(f"{cls.__name__}.load", [name for name in taken if name != "state"], given)
        tensors, config = _io.load(path, kind=cls.__name__)
        with _io.using(path):
            return cls.from_state(_io.unpack(tensors, config), device=device, **given)

    def _page(self) -> dict[str, dict[str, Any]]:
        """Return what the page beside it says, under headings."""
        return {}


@plain_methods
@dataclass(kw_only=True, eq=False, repr=False)
class Estimator(Saved):
    """Arguments stored unchanged under their names; what `fit` learns ends in an underscore.

    A subclass is a dataclass with the same three options and supplies

    - ``fit``, which calls `_check_arguments` before any work starts,
    - ``_fitted_by``, the attribute that is there once it is fitted,
    - ``_checks``, where it has arguments that the table below does not know,
    - ``_learned``, where `fit` learns other things than networks,
    - ``_build``, where it has networks.
    """

    _fitted_by: ClassVar[str]
    # What an argument of this name must be, in every estimator that has it. Where the default is
    # None, None is right too, and what is annotated as a bool must be one.
    _checks: ClassVar[dict[str, Check]] = {
        "latent_dim": _check.integer,
        "batch_size": _check.integer,
        "learning_rate": rate,
        "precision": partial(_check.choice, options=PRECISIONS),
        "tol": partial(_check.real, above=0, maximum=1),
        "seed": _check.seed,
    }

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401
        super().__init_subclass__(**options)
        plain_methods(cls, grad=True)  # `fit` trains, also where the caller records no gradients

    def __new__(cls, *args: object, **given: object) -> Self:
        """Refuse arguments that the class does not have, and those without a name."""
        fields = [field.name for field in dataclasses.fields(cls)]
        if args:
            way_out = f"write {fields[0]}={_check.shown(args[0])}" if fields else "leave it out"
            got = _check.shown(args[0])
            raise TypeError(f"{cls.__name__} takes its arguments by name, got {got}; {way_out}")
        _check.keywords(cls.__name__, fields, given)
        return super().__new__(cls)

    # Types of what is learned, by attribute: a saved model without them is damaged.
    _learned: ClassVar[dict[str, Any]] = {}

    def __repr__(self) -> str:
        changed = [
            f"{field.name}={value!r}"
            for field in dataclasses.fields(self)
            if repr(value := getattr(self, field.name)) != repr(field.default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, as stored."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def state(self) -> dict[str, Any]:
        """Return what makes up the fitted model, as nested dicts of tensors and plain values.

        Returns:
            ``arguments``, and as ``learned`` all attributes that end in an underscore; networks
            as their ``state_dict``, other estimators as their own state.

        Raises:
            NotFittedError: Before `fit`.
        """
        self._check_fitted()
        learned = {k: _parts(value) for k, value in vars(self).items() if k.endswith("_")}
        return {"arguments": self.arguments(), "learned": learned}

    @classmethod
    def from_state(cls, state: dict[str, Any], *, device: str | torch.device | None = None) -> Self:
        """Make the fitted model of which `state` returned the parts.

        Args:
            state: What `state` returned.
            device: Where to compute; None: the first GPU, else the CPU.

        Raises:
            aeot._io.Damaged: If it did not; nothing large was made of it then.
        """
        where = resolve_device(device)
        try:
            arguments, learned = (dict(state[name]) for name in ("arguments", "learned"))
            if "device" in arguments:
                arguments |= {"device": None if device is None else str(device)}
            self = cls(**arguments)
            self._check_stored(learned)
            self._restore(learned, where)
        except _io.Damaged:
            raise
        except Exception as error:  # of whatever kind: it is made of what somebody wrote
            if is_out_of_memory(error):
                raise
            got = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise _io.Damaged(f"a saved {cls.__name__} must be whole, got {got}") from error
        return self

    def _page(self) -> dict[str, dict[str, Any]]:
        data = getattr(self, "data_", None)
        if data is None:
            names = {"rows": "n_rows_", "shape": "shape_", "classes": "n_classes_"}
            data = {key: getattr(self, name) for key, name in names.items() if hasattr(self, name)}
        elif isinstance(data, str):
            data = {"name": data}
        return {"Arguments": self.arguments(), "Data": data}

    def _build(self) -> dict[str, nn.Module]:
        """Make the networks, by attribute, for the arguments and what else was learned."""
        return {}

    def _check_networks(self) -> None:
        """Refuse data that networks cannot be made for, and sizes that no memory could hold."""
        asked = {k: v for k, v in self.arguments().items() if k in _SIZES and v is not None}
        try:
            with _check.renamed("shape", "data"), forked(0), torch.device("meta"):  # no numbers
                parts = [p for net in self._build().values() for p in net.state_dict().values()]
            needed = 4 * sum(part.nbytes for part in parts)  # with slopes and Adam's two moments
        except (RuntimeError, MemoryError, OverflowError):  # more than 64 bits can count
            if not asked:
                raise
            needed = 1 << 63
        if needed > _check.memory() and asked:
            name = max(asked, key=lambda key: asked[key])
            must = f"make networks that the memory of this machine holds ({_check.memory():.1e} B)"
            raise _check.fail(name, must, f"{asked[name]}, which takes {needed:.1e} B", "lower it")

    def _check_stored(self, learned: dict[str, Any]) -> None:
        """Raise a ValueError if stored arguments, or what was learned, are of another kind."""
        types = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            value = tuple(value) if isinstance(value, list) else value
            if not _io.fits(value, types[field.name]):
                raise _check.fail(field.name, f"be {field.type}", _check.shown(value))
        Estimator._check_arguments(self)
        for name in learned:
            if not name.endswith("_") or name.startswith("_"):
                raise ValueError(f"{name[:80]!r} is nothing that is learned")
        for name, kind in self._learned.items():
            if not _io.fits(learned.get(name), kind):
                raise _check.fail(name, f"be {kind}", _check.shown(learned.get(name)))

    def _restore(self, learned: dict[str, Any], device: torch.device) -> None:
        """Take over what `state` called learned."""
        vars(self).update(learned)
        # What arguments ask for may be larger than any memory: first it is made without numbers.
        stored = [part for part in learned.values() if isinstance(part, dict)]
        for name in ("layers", "n_layers", "n_blocks"):
            if (getattr(self, name, None) or 0) > sum(map(len, stored)):
                raise _check.fail(name, "be what was saved", getattr(self, name))
        with torch.device("meta"):
            wanted = {name: network.state_dict() for name, network in self._build().items()}
        for name, parts in wanted.items():
            for key, tensor in parts.items():
                got = learned[name].get(key)
                if not isinstance(got, torch.Tensor) or (got.shape, got.dtype) != (
                    tensor.shape,
                    tensor.dtype,
                ):
                    must = f"be {tensor.dtype} of shape {tuple(tensor.shape)}"
                    raise _check.fail(f"{name}.{key}", must, _check.shown(got))
        for name, network in self._build().items():
            network.load_state_dict(learned[name])
            setattr(self, name, network.to(device).eval())

    def _check_arguments(self) -> None:
        """Raise a ValueError if an argument is not what its check wants."""
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if field.type == "bool":
                _check.flag(name, value)
            if name in self._checks:
                self._checks[name](name, value)

    def _check_unused(self, where: str, *names: str, way_out: str = "") -> None:
        """Raise a ValueError if one of these, which change nothing, differs from its default."""
        for field in dataclasses.fields(self):
            if field.name in names:
                value = getattr(self, field.name)
                _check.unused(where, way_out=way_out, **{field.name: (value, field.default)})

    def _check_fitted(self, attribute: str | None = None) -> None:
        if not hasattr(self, attribute or self._fitted_by):
            name = type(self).__name__
            raise NotFittedError(f"this {name} is not fitted yet; call fit first")


def _parts(value: Any) -> Any:  # noqa: ANN401 - anything that was learned
    """Return networks and estimators as dicts, also inside a dict; other values as they are."""
    if isinstance(value, Estimator):
        return value.state()
    if isinstance(value, nn.Module):
        return dict(value.state_dict())
    if isinstance(value, dict):
        return {key: _parts(inner) for key, inner in value.items()}
    return value
