"""What a comparison takes for a generator: how it is opened, what it draws, what it holds."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

import aeot
from aeot import _check, _io
from aeot._check import ArrayLike
from aeot._rng import generator
from aeot.comparison.result import REAL, RESTORED
from aeot.data import Dataset, images, tensors, to_uint8

_LOG = logging.getLogger(__name__)
# What makes images, sample(n, seed=) or a call; restores them, encode and decode; or holds them.
Contestant: TypeAlias = Any


def opened(
    models: Mapping[str, Any], data: Dataset, n_samples: int | None = None
) -> dict[str, list[Any]]:
    """Return name -> list of generators or data sets for what `compare` is given as ``models``.

    Raises:
        ValueError: If one cannot be opened, has another name's place, or holds too few images.
    """
    if not isinstance(models, Mapping):
        raise _check.fail("models", "map names to generators", type(models).__name__)
    if not models:
        raise _check.fail("models", "name at least one generator", "none")
    groups = {}
    for name, entry in models.items():
        check_name(name)
        group = list(entry) if isinstance(entry, (list, tuple)) else [entry]
        if not group:
            raise _check.fail(f"models[{name!r}]", "hold at least one generator", "an empty list")
        groups[name] = [_opened(f"models[{name!r}]", model, data) for model in group]
        if len({(samples(model), codes(model)) for model in groups[name]}) > 1:
            got = "some that can be drawn from, or that reconstruct, and others that cannot"
            raise _check.fail(f"models[{name!r}]", "hold models of one kind", got)
        n = min(10_000, len(data)) if n_samples is None else n_samples
        for model in groups[name]:
            makes = getattr(getattr(model, "autoencoder_", model), "shape_", None)
            makes = model.shape if isinstance(model, Dataset) else makes
            if makes is not None and tuple(makes) != data.shape:
                must = f"make images of shape {data.shape}"
                raise _check.fail(f"models[{name!r}]", must, str(tuple(makes)))
            if isinstance(model, Dataset) and len(model) < n:
                way_out = f"pass n_samples={len(model)} or less"
                raise _check.fail(f"models[{name!r}]", f"hold {n} images", str(len(model)), way_out)
            _tried(name, model, data)
    return groups


def check_name(name: object) -> None:
    """Refuse a row's name that is no text or belongs to a reference row."""
    if not isinstance(name, str):
        raise _check.fail("models", "have names that are text", repr(name))
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise _check.fail("models", "have names that are text", repr(name)) from error
    if name == REAL or name.endswith(RESTORED):
        raise _check.fail("models", "leave the names of reference rows free", repr(name))


class Reconstructions:
    """Decoded codes of the reference images, in place of samples."""

    def __init__(self, model: Contestant, data: Dataset) -> None:
        self.model, self.data = model, data

    def sample(self, n: int, *, seed: int) -> torch.Tensor:
        """Return n of them as uint8 images."""
        rows = torch.randperm(len(self.data), generator=generator(seed, "reconstructions"))[:n]
        parts = (self.model.decode(self.model.encode(self.data[part])) for part in rows.split(500))
        return torch.cat([to_uint8(part) for part in parts])


def samples(model: Contestant) -> bool:
    """Whether images can be drawn from it."""
    return isinstance(model, Dataset) or hasattr(model, "sample") or callable(model)


def codes(model: Contestant) -> bool:
    """Whether it has reconstructions."""
    return hasattr(model, "encode") and hasattr(model, "decode")


def _opened(which: str, model: Contestant, data: Dataset) -> Contestant:
    """Return a generator or a data set for whatever the caller named."""
    must = "be a generator, a function, images or a folder"
    if isinstance(model, type):
        got, way_out = f"the class {model.__name__}", "pass a fitted instance"
        raise _check.fail(which, must, got, way_out)
    if isinstance(model, str) and not model:
        raise _check.fail(which, must, "an empty name")
    if not isinstance(model, (str, Path, torch.Tensor, np.ndarray)):
        if samples(model) or codes(model):
            return model
        raise _check.fail(which, must, type(model).__name__)
    if isinstance(model, (str, Path)) and (Path(model) / "comparison.json").is_file():
        got, way_out = f"the comparison in {model}", "name one of the models in it"
        raise _check.fail(which, must, got, way_out)
    try:
        return _read(model, data)
    except ValueError as error:
        raise _check.fail(which, must, f"an error: {error}") from error


def _read(model: Contestant, data: Dataset) -> Contestant:
    """Return a data set of given images, or what a folder holds."""
    if not isinstance(model, (str, Path)):
        return tensors(model)
    folder = _check.path("models", model)
    for place in (folder, folder / "model"):
        if (place / "manifest.json").is_file():
            kind = _io.read_json(place / "config.json", dict).get("kind")
            known = getattr(aeot, kind) if kind in list(aeot.__all__) else None
            if known is None or not hasattr(known, "load"):
                raise ValueError(f"{place} holds a saved {_check.shown(kind)}")
            return known.load(place)
    return images(folder, size=data.shape[-1], channels=data.shape[0])


def _tried(name: str, model: Contestant, data: Dataset) -> None:
    """Have two images made, so that a model that cannot is known before any is measured."""
    if isinstance(model, Dataset):
        return
    if samples(model):
        made(name, model, 2, 0, data.shape)
    if codes(model):
        few = data.subset(torch.arange(2) % len(data))
        made(name + RESTORED, Reconstructions(model, few), 2, 0, data.shape)


def device_of(model: Contestant) -> str | None:
    """Return where a generator computes; None where it has no networks and says nothing."""
    held = [model] if isinstance(model, nn.Module) else _modules(model, depth=2)
    parts = [p for module in held for p in (*module.parameters(), *module.buffers())]
    return str(parts[0].device) if parts else None


def one_device(groups: Mapping[str, list[Any]], facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the device that all generators compute on, and were trained on if facts say so.

    Raises:
        ValueError: If there are several: equal seconds of a CPU and a GPU are not equal.
    """
    found: dict[str, str] = {}
    for name, group in groups.items():
        told = facts.get(name, {}).get("device")
        for device in (*map(device_of, group), told):
            if device is not None:
                found.setdefault(str(torch.device(device)), name)
    if len(found) > 1:
        got = ", ".join(f"{device} ({name})" for device, name in found.items())
        way_out = "train and load all of them with one device"
        raise _check.fail("models", "compute on one device", got, way_out)
    return next(iter(found), "none")


def size(model: Contestant) -> dict[str, int]:
    """Count trainable parameters, and the other numbers that a fitted generator keeps."""
    held = [model] if isinstance(model, nn.Module) else _modules(model, depth=2)
    parameters = {id(p): p.numel() for module in held for p in module.parameters()}
    buffers = {id(b): b.numel() for module in held for b in module.buffers()}
    if not held:
        return {}
    return {"parameters": sum(parameters.values()), "stored": sum(buffers.values())}


def _modules(model: Contestant, depth: int) -> list[nn.Module]:
    found = []
    for value in vars(model).values() if hasattr(model, "__dict__") else ():
        if isinstance(value, nn.Module):
            found.append(value)
        elif depth > 1 and type(value).__module__.startswith("aeot"):
            found += _modules(value, depth - 1)
    return found


def made(name: str, model: Contestant, n: int, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return n images, checked and as uint8, or say of whom there are none."""
    try:
        batch = _draw(model, n, seed)
    except Exception as error:  # not fitted, for one; whatever it is, say whose it is
        got = f"{type(error).__name__}: {error}"
        raise _check.fail(f"models[{name!r}]", "make images", got) from error
    return _checked(name, batch, (n, *shape))


def _draw(model: Contestant, n: int, seed: int) -> ArrayLike:
    """Return what a generator, function or data set gives for n images."""
    if isinstance(model, Dataset):
        rows = torch.randperm(len(model), generator=generator(seed, "rows"))[:n]
        return model.values[rows] if model.values.dtype == torch.uint8 else model[rows]
    if hasattr(model, "sample"):
        return model.sample(n, seed=seed)
    try:
        call = model.forward if isinstance(model, nn.Module) else model  # not its (*args, **kwargs)
        known = inspect.signature(call).parameters.values()
    except ValueError:  # some builtins have none
        known = {}.values()
    seeded = any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in known)
    return model(n, seed=seed) if seeded else model(n)


def _checked(name: str, batch: ArrayLike, expected: tuple[int, ...]) -> torch.Tensor:
    """Return what a model drew as uint8 images, or say what is wrong with it."""
    who = f"samples of {name!r}"
    try:
        batch = _check.tensor(who, batch).detach()
    except ValueError as error:
        raise _check.fail(who, "be an array of images", _check.shown(batch)) from error
    if batch.shape != expected:
        raise _check.fail(who, f"have shape {expected}", str(tuple(batch.shape)))
    if batch.dtype == torch.uint8:
        return batch.cpu()
    batch = _check.array(who, batch)
    if float(batch.abs().max()) > 1.5:
        got = f"values from {float(batch.min()):.3g} to {float(batch.max()):.3g}"
        raise _check.fail(who, "lie in [-1, 1] or be uint8", got)
    if float(batch.min()) >= 0:
        _LOG.warning("%s have no value below 0: black is -1 here, is it 0 there?", who)
    return to_uint8(batch).cpu()
