"""A fitted AE-OT model as files: tensors by name and plain values, nothing pickled."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

import torch

from aeot import _io
from aeot.autoencoder import Autoencoder
from aeot.measures import UniformBox
from aeot.transport import singular
from aeot.transport.brenier import BrenierMap


def save(model: Any, path: str | os.PathLike) -> None:  # noqa: ANN401 - a fitted AEOT
    """Write a fitted model to a directory, whole or not at all."""
    stored, autoencoder = model.autoencoder_.state()
    brenier, brenier_shape = _io.pack(dict(model.brenier_.state_dict()))
    cut, cut_shape = _io.pack(_io.take_apart(model.singular_, leave_out=BrenierMap))
    stored = {f"autoencoder.{name}": tensor for name, tensor in stored.items()}
    stored |= {f"brenier.{name}": tensor for name, tensor in brenier.items()}
    stored |= {f"singular.{name}": tensor for name, tensor in cut.items()}
    if model.gain_ is not None:
        stored["gain"] = model.gain_
    config = {
        "arguments": model.arguments(),
        "autoencoder": autoencoder,
        "brenier": brenier_shape,
        "singular": cut_shape,
        "certificate": model.certificate_,
        "merged": model.merged_,
        "history": {"transport": model.history_["transport"]},
        "seconds": model.seconds_,
    }
    _io.save(path, stored, config, kind="AEOT")


def load(cls: type, path: str | os.PathLike, device: str | None) -> Any:  # noqa: ANN401
    """Read what `save` wrote, as an instance of `cls`."""
    stored, config = _io.load(path, kind="AEOT")
    model = cls(**config["arguments"] | {"device": device})
    model.gain_ = stored.pop("gain", None)
    parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in stored.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = tensor
    model.autoencoder_ = Autoencoder.from_state(
        parts["autoencoder"], config["autoencoder"], device=device
    )
    buffers = _io.unpack(parts["brenier"], config["brenier"])
    model.brenier_ = BrenierMap(UniformBox(dim=model.latent_dim), **buffers)
    model.brenier_.to(model.autoencoder_.compute_device)
    plain = _io.unpack(parts["singular"], config["singular"])
    model.singular_ = _io.put_together(plain, vars(singular), brenier=model.brenier_)
    model.certificate_, model.merged_ = config["certificate"], config["merged"]
    model.history_ = {"autoencoder": model.autoencoder_.history_, **config["history"]}
    model.seconds_ = config["seconds"]
    return model
