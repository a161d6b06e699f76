"""An autoencoder of the caller's own, in the place of one that is trained here."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from aeot import _check, _io, _loop
from aeot._check import ArrayLike
from aeot._rng import generator
from aeot.data import Dataset
from aeot.data.arrays import rows_of
from aeot.models.autoencoder import in_blocks

# Where encoders and decoders of diffusers keep what they return; a law gives its mean.
_PLACES = ("latent_dist", "latents", "latent", "sample", "mean")
_ROWS = 10_000  # for the errors


class GivenAutoencoder:
    """Encode and decode with modules that are taken as they are, and never trained.

    What encodes may return codes (B, d) or spatial ones (B, c, h, w), which are flattened, and
    restored to be decoded; the objects that diffusers' autoencoders return are looked into, and a
    law of codes gives its mean. A ``config`` with ``scaling_factor`` or ``shift_factor`` is
    followed: codes are (latent - shift) * scale, and taken back before they are decoded. Modules
    run where they lie, in their own precision and in eval mode, and are left as they were.

    Args:
        parts: An encoder and a decoder, or an object with ``encode`` and ``decode``.
        shape: Of one row of the data: (C, H, W) or (d,).

    Attributes:
        shape_: Shape of one row.
        latent_shape_: Shape of one code as the encoder gives it.
        latent_dim: Numbers of a code.
        losses_: As those of `Autoencoder`, once `measure` was called.

    Raises:
        ValueError: If rows of this shape cannot be encoded and decoded.

    References:
        Rombach, Blattmann, Lorenz, Esser, Ommer, High-resolution image synthesis with latent
        diffusion models, 2022, for the scale of codes.
    """

    def __init__(self, parts: Any, shape: tuple[int, ...]) -> None:  # noqa: ANN401
        self._encode, self._decode = functions(parts)
        self.name = " and ".join(type(part).__name__ for part in _parts(parts))
        self.modules = _modules(parts)
        config = getattr(parts, "config", None)
        self.scale = _setting(config, "scaling_factor", 1.0)
        self.shift = _setting(config, "shift_factor", 0.0)
        self.shape_ = tuple(shape)
        self.losses_: dict[str, float] = {}
        self.history_: list[dict[str, Any]] = []
        probe = torch.zeros(2, *shape)
        with torch.inference_mode(), self._at_rest():
            latent = self._tried(f"take rows of shape {self.shape_}", self._encode, probe)
            if latent.ndim < 2 or len(latent) != 2:
                must = "give a code for each row, (2, ...) for 2 rows"
                raise _check.fail("autoencoder", must, f"shape {tuple(latent.shape)}")
            took = f"take codes of shape {tuple(latent.shape[1:])}, as its encoder gives them,"
            way_out = "of several things that an encoder returns the first is taken"
            back = self._tried(f"{took} to be decoded", self._decode, latent, way_out)
        if back.shape != probe.shape:
            must = f"{took} back to rows of shape {self.shape_}"
            raise _check.fail("autoencoder", must, f"shape {tuple(back.shape[1:])}")
        self.latent_shape_ = tuple(latent.shape[1:])
        self.latent_dim = math.prod(self.latent_shape_)
        self._block = max(1, min(256, 2**22 // math.prod(self.shape_)))  # rows at a time

    def _tried(
        self, must: str, part: Callable[..., Any], rows: torch.Tensor, way_out: str = ""
    ) -> torch.Tensor:
        """Return what a part makes of rows; say what went wrong, and where, if it makes none."""
        try:
            made = part(self._placed(rows))
        except Exception as error:  # of whatever kind: it is the caller's code
            got = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise _check.fail("autoencoder", must, got, way_out) from error
        try:
            return _tensor(made)
        except TypeError as error:
            way_out = "wrap the module in one that returns the tensor"
            must = f"{must} and return a tensor"
            raise _check.fail("autoencoder", must, str(error), way_out) from error

    @property
    def compute_device(self) -> torch.device:
        """Where the modules lie."""
        first = next((t for m in self.modules.values() for t in m.parameters()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def precision_(self) -> str:
        """The arithmetic of the modules."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def _dtype(self) -> torch.dtype:
        first = next((t for m in self.modules.values() for t in m.parameters()), None)
        return torch.float32 if first is None else first.dtype

    def encode(self, data: Dataset | ArrayLike) -> torch.Tensor:
        """Return the codes of rows, flat: (m, latent_dim), float32, on the CPU."""
        rows = rows_of("data", data, self.shape_)

        def encoded(block: torch.Tensor) -> torch.Tensor:
            latent = _tensor(self._encode(self._placed(block))).float()
            return (latent.flatten(1) - self.shift) * self.scale

        with _loop.Loop("encoding", len(rows), unit="row", stops=False), self._at_rest():
            return _finite(in_blocks(encoded, rows, self.latent_dim, block=self._block), "codes")

    def decode(self, codes: ArrayLike) -> torch.Tensor:
        """Return the rows of codes (m, latent_dim): images, cut to [-1, 1], or vectors."""
        codes = _check.points("codes", codes, dim=self.latent_dim)

        def decoded(block: torch.Tensor) -> torch.Tensor:
            latent = (block / self.scale + self.shift).unflatten(1, self.latent_shape_)
            return _tensor(self._decode(self._placed(latent))).float()

        with _loop.Loop("decoding", len(codes), unit="row", stops=False), self._at_rest():
            rows = _finite(in_blocks(decoded, codes, *self.shape_, block=self._block), "rows")
        return rows.clamp_(-1, 1) if len(self.shape_) == 3 else rows

    def error(self, data: Dataset | ArrayLike) -> float:
        """Return the mean squared reconstruction error, for images in [0, 1] units."""
        rows = rows_of("data", data, self.shape_)
        if len(rows) == 0:
            raise _check.fail("data", "hold at least one row", "none")
        few = max(self._block, min(1024, 2**24 // math.prod(self.shape_)))  # bounds the memory
        total = 0.0
        for start in range(0, len(rows), few):
            block = rows[start : start + few]
            restored = self.decode(self.encode(block))
            total += float((restored - block.cpu()).double().square().sum())
        mean = total / (len(rows) * math.prod(self.shape_))
        return mean * 0.25 if len(self.shape_) == 3 else mean

    def measure(self, data: Dataset, held_out: Dataset | None, *, seed: int) -> None:
        """Note the errors on some rows of the data, and on those held out, as `losses_`."""
        some = torch.randperm(len(data), generator=generator(seed, "measure"))[:_ROWS]
        self.losses_ = {"train": self.error(data.subset(some))}
        if held_out is not None and len(held_out):
            self.losses_["held_out"] = self.error(held_out)

    def state(self, *, weights: bool) -> dict[str, Any]:
        """Return what a saved model keeps of it: shapes, a hash, and the weights if asked to."""
        tensors = self._tensors()
        kept = {"name": self.name, "shape": list(self.shape_), "losses": dict(self.losses_)}
        kept |= {"latent_shape": list(self.latent_shape_), "sha256": _io.digest(tensors)}
        return {"given": kept, "weights": tensors if weights else {}}

    @classmethod
    def restored(cls, parts: Any, state: dict[str, Any]) -> GivenAutoencoder:  # noqa: ANN401
        """Return what `state` was of; saved weights are put into the modules of `parts`.

        Raises:
            ValueError: If these are other modules, or hold other weights than a save by reference
                knows.
        """
        kept, weights = state["given"], state["weights"]
        self = cls(parts, tuple(kept["shape"]))
        if list(self.latent_shape_) != list(kept["latent_shape"]):
            must = f"give codes of shape {tuple(kept['latent_shape'])} as the one saved"
            raise _check.fail("autoencoder", must, f"{self.latent_shape_} of {self.name}")
        if weights:
            own = self._tensors()
            wanted = {name: (tuple(t.shape), t.dtype) for name, t in own.items()}
            if wanted != {name: (tuple(t.shape), t.dtype) for name, t in weights.items()}:
                must = f"have the {len(weights)} tensors of the saved {kept['name']}"
                raise _check.fail("autoencoder", must, f"{len(own)} of {self.name}")
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(weights[name])
        if _io.digest(self._tensors()) != kept["sha256"]:
            must = f"hold the weights of the {kept['name']} that the model was fitted with"
            raise _check.fail("autoencoder", must, f"other ones in {self.name}")
        self.losses_ = dict(kept["losses"])
        return self

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{part}.{name}": tensor.detach()
            for part, module in self.modules.items()
            for name, tensor in module.state_dict().items()
        }

    def _placed(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.to(self.compute_device, self._dtype)

    @contextlib.contextmanager
    def _at_rest(self) -> Iterator[None]:
        """Have all modules in eval mode, and as they were afterwards."""
        training = [m for module in self.modules.values() for m in module.modules() if m.training]
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


def check_parts(name: str, value: object) -> None:
    """Raise a ValueError if an argument is no autoencoder as `AEOT` takes one."""
    two = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(callable, value))
    if not two and not all(callable(getattr(value, part, None)) for part in ("encode", "decode")):
        must = "be two modules, (encoder, decoder), or an object with encode and decode"
        raise _check.fail(name, must, _check.shown(value))


def functions(parts: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:  # noqa: ANN401
    """Return what encodes and what decodes."""
    check_parts("autoencoder", parts)
    return tuple(parts) if isinstance(parts, (tuple, list)) else (parts.encode, parts.decode)


def _parts(parts: Any) -> list[Any]:  # noqa: ANN401
    return list(parts) if isinstance(parts, (tuple, list)) else [parts]


def _modules(parts: Any) -> dict[str, nn.Module]:  # noqa: ANN401
    """Return the modules by name: the parts themselves, or those that an object holds."""
    if isinstance(parts, nn.Module):
        return {"autoencoder": parts}
    named = dict(getattr(parts, "__dict__", {}))
    if isinstance(parts, (tuple, list)):
        named = dict(zip(("encoder", "decoder"), parts, strict=True))
    return {name: part for name, part in named.items() if isinstance(part, nn.Module)}


def _setting(config: Any, name: str, default: float) -> float:  # noqa: ANN401
    value = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return default if value is None else _check.real(f"autoencoder.config.{name}", value)


def _tensor(output: Any) -> torch.Tensor:  # noqa: ANN401
    """Return the tensor in what a module returned."""
    if isinstance(output, (tuple, list)) and output:
        return _tensor(output[0])
    for name in () if isinstance(output, torch.Tensor) else _PLACES:
        inside = getattr(output, name, None)
        if inside is not None and not callable(inside):
            return _tensor(inside)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"no tensor in a {type(output).__name__}")
    return output


def _finite(rows: torch.Tensor, what: str) -> torch.Tensor:
    if not bool(torch.isfinite(rows).all()):
        raise _check.fail("autoencoder", f"give finite {what}", "NaN or infinity")
    return rows
