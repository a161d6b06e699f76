"""Saved models: a directory of safetensors, JSON and a manifest of hashes, replaced whole."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

FORMAT = 2
_MANIFEST = "manifest.json"


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of named tensors, 64 hexadecimal digits.

    It depends on names, shapes, types and values, not on the order or the device.
    """
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file that appears whole or not at all, whatever stops the process."""
    path = Path(path)
    fresh = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        _sync(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def read_json(path: str | os.PathLike, kind: type = object) -> Any:  # noqa: ANN401
    """Read a JSON file that holds a value of this kind.

    Raises:
        ValueError: If it is damaged; the message names the file.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, kind):
            raise ValueError(f"holds a {type(value).__name__}")
        return value
    except ValueError as error:
        raise ValueError(
            f"{path} must be a JSON file, got a damaged one ({error}); delete it"
        ) from error


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return a NumPy number or a device as the plain value that JSON can hold.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (torch.device, os.PathLike)):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be saved")


def _previous(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.previous")


def check_writable(directory: str | os.PathLike, *, kind: str | None = None) -> Path:
    """Check, before any work starts, that `directory` can be created or replaced by `save`.

    Args:
        directory: Where the model will go.
        kind: What will be saved there; an earlier save of another kind is not replaced.

    Returns:
        The path.

    Raises:
        ValueError: If it is a file, holds something else, or cannot be written.
    """
    path = Path(directory).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"path must be a directory, got the file {path}; choose another name")
    if path.is_dir():
        _check_replaceable(path, kind)
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"path must be writable, got {path}; {parent} refuses new files")
    return path


def _check_replaceable(path: Path, kind: str | None) -> None:
    # Replacing a directory deletes what is in it, so it may hold nothing but an earlier save.
    ours = {_MANIFEST, "config.json", "model.safetensors"}
    inside = {file.name for file in path.iterdir() if not file.name.startswith(".")}
    others = sorted(inside - ours if _MANIFEST in inside else inside)
    if others:
        raise ValueError(
            f"path must be new, empty or a saved model, got {path} with other files in it, such "
            f"as {others[0]}; choose another name"
        )
    if kind is not None and (path / "config.json").is_file():
        there = _json(path / "config.json").get("kind")
        if there != kind:
            raise ValueError(
                f"path must be new, empty or an earlier save of a {kind!r}, got {path} with a "
                f"{there!r}; choose another name"
            )


def save(
    directory: str | os.PathLike,
    tensors: dict[str, torch.Tensor],
    config: dict[str, Any],
    *,
    kind: str,
) -> None:
    """Write tensors and plain values as a directory that appears whole or not at all.

    A process killed half-way leaves the directory that was there before.

    Args:
        directory: Created, or replaced if it holds an earlier save of the same kind.
        tensors: What to store, by name; any device, stored as on the CPU.
        config: Plain values that JSON can hold.
        kind: What this is (a class name); `load` asks for the same.

    Raises:
        ValueError: If the directory holds something else or cannot be written.
    """
    path = check_writable(directory, kind=kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.writing-{os.getpid()}")
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.writing-*"):
        with contextlib.suppress(FileNotFoundError):  # another process may be done with its own
            if time.time() - leftover.stat().st_mtime > 86_400:  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        # clone: safetensors refuses tensors that share memory, such as tied weights.
        stored = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(stored, fresh / "model.safetensors")
        body = {"format": FORMAT, "kind": kind, "config": config}
        (fresh / "config.json").write_text(
            json.dumps(body, indent=1, sort_keys=True, default=plain) + "\n"
        )
        files = sorted(p.name for p in fresh.iterdir())
        manifest = {
            "format": FORMAT,
            "sha256": {name: _file_digest(fresh / name) for name in files},
        }
        (fresh / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        for file in [*fresh.iterdir(), fresh]:
            _sync(file)
        previous = _previous(path)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(path, previous)
        os.replace(fresh, path)
        _sync(path.parent)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _restored(directory: str | os.PathLike) -> Path:
    """Return the path, after putting back what a kill between the renames of `save` left aside."""
    path = Path(directory).expanduser().absolute()
    if path.exists():
        # Not needed any more; left, it would come back if the user deleted the directory.
        shutil.rmtree(_previous(path), ignore_errors=True)
    elif _previous(path).is_dir():
        with contextlib.suppress(OSError):
            os.replace(_previous(path), path)
    return path


def holds_save(directory: str | os.PathLike) -> bool:
    """Return whether `load` would find something there."""
    return (_restored(directory) / _MANIFEST).is_file()


def load(
    directory: str | os.PathLike, *, kind: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save` wrote, after checking every byte against the manifest.

    Args:
        directory: The saved model, or a run directory that holds one under ``model``.
        kind: The class the caller expects.
        device: Where the tensors go.

    Returns:
        The tensors by name, and the config.

    Raises:
        ValueError: If nothing is there, a file is missing, changed or of an unknown format, or
            the saved class is another one.
    """
    path = _restored(directory)
    if not (path / _MANIFEST).is_file() and (path / "model" / _MANIFEST).is_file():
        path = path / "model"
    if not (path / _MANIFEST).is_file():
        got = f"{path}, which does not exist"
        if (path / "checkpoint").is_dir():
            got = f"{path}, a run that is not finished; repeat its command to go on"
        elif path.exists():
            got = f"{path} without {_MANIFEST}"
        raise ValueError(f"path must be a saved model, got {got}")
    manifest = _json(path / _MANIFEST)
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {manifest.get('format')!r}, this version reads {FORMAT}; "
            "load it with the version of aeot that wrote it"
        )
    digests = manifest.get("sha256", {})
    for name in {"model.safetensors", "config.json"} - digests.keys():
        raise ValueError(f"{path} is incomplete: its manifest does not list {name}")
    for name, digest in digests.items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"{path} is incomplete: {name} is missing; restore or save it again")
        if _file_digest(file) != digest:
            raise ValueError(f"{file} was changed or damaged: its SHA-256 is not the manifest's")
    body = _json(path / "config.json")
    if body.get("kind") != kind:
        raise ValueError(f"{path} holds a {body.get('kind')!r}, not a {kind!r}; load it with that")
    return load_file(path / "model.safetensors", device=str(device)), body["config"]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def pack(tree: Any) -> tuple[dict[str, torch.Tensor], Any]:  # noqa: ANN401 - any state_dict
    """Split nested dicts, lists and tuples into tensors by name and a skeleton JSON can hold.

    Args:
        tree: For instance a ``state_dict`` of a module or an optimiser: dict keys are strings or
            whole numbers, leaves are tensors or plain values.

    Returns:
        The tensors (not copied), and the skeleton for `unpack`: the tree itself, but for what
        JSON does not know. ``{"$tensor": name}`` stands for a tensor, ``{"$tuple": [...]}`` for a
        tuple, ``{"$dict": [[key, value], ...]}`` for a dict whose keys are not all strings.

    Raises:
        TypeError: If a leaf is neither a tensor nor a plain value.

    Example:
        >>> tensors, skeleton = pack({"weights": [torch.ones(2)], 3: ("adam", 0.1)})
        >>> sorted(tensors)
        ['weights.0']
        >>> unpack(tensors, skeleton)
        {'weights': [tensor([1., 1.])], 3: ('adam', 0.1)}
    """
    tensors: dict[str, torch.Tensor] = {}

    def walk(node: Any, path: str) -> Any:  # noqa: ANN401
        if isinstance(node, torch.Tensor):
            if path in tensors:
                raise TypeError(f"two tensors have the same name {path!r}")
            tensors[path] = node
            return {"$tensor": path}
        inner = f"{path}." if path else ""
        if isinstance(node, dict):
            parts = {key: walk(value, f"{inner}{key}") for key, value in node.items()}
            plain_keys = all(isinstance(key, str) and key[:1] != "$" for key in parts)
            return parts if plain_keys else {"$dict": [list(item) for item in parts.items()]}
        if isinstance(node, (list, tuple)):
            items = [walk(value, f"{inner}{i}") for i, value in enumerate(node)]
            return {"$tuple": items} if isinstance(node, tuple) else items
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        try:
            return plain(node)
        except TypeError as error:
            raise TypeError(f"{path}: {error}") from None

    return tensors, walk(tree, "")


def unpack(tensors: dict[str, torch.Tensor], skeleton: Any) -> Any:  # noqa: ANN401
    """Put together again what `pack` took apart."""
    if isinstance(skeleton, list):
        return [unpack(tensors, value) for value in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if "$tensor" in skeleton:
        return tensors[skeleton["$tensor"]]
    if "$tuple" in skeleton:
        return tuple(unpack(tensors, value) for value in skeleton["$tuple"])
    items = skeleton.get("$dict", skeleton.items())
    return {key: unpack(tensors, value) for key, value in items}


def take_apart(
    record: Any,  # noqa: ANN401 - a dataclass
    *,
    leave_out: type | tuple[type, ...] = (),
) -> dict[str, Any]:
    """Turn a dataclass, and those it holds, into dicts that `pack` takes.

    Args:
        record: An instance of a dataclass.
        leave_out: Fields of this type are left out; `put_together` is given them again.

    Returns:
        Its fields by name, with the name of its class under ``record``.
    """
    parts: dict[str, Any] = {"record": type(record).__name__}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            value = take_apart(value, leave_out=leave_out)
        if not isinstance(value, leave_out):
            parts[field.name] = value
    return parts


def put_together(parts: dict[str, Any], kinds: Mapping[str, Any], **given: Any) -> Any:  # noqa: ANN401
    """Make again what `take_apart` took apart.

    Args:
        parts: What it returned.
        kinds: The dataclasses by name, such as the ``vars`` of their module.
        given: The fields that were left out, for every class that has a field of that name.

    Raises:
        ValueError: If a class is not known.
    """
    kind = kinds.get(parts["record"])
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ValueError(f"unknown record {parts['record']!r}; load it with the version that saved")
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in given.items() if name in fields}
    for name, value in parts.items():
        if name != "record":
            nested = isinstance(value, dict) and "record" in value
            values[name] = put_together(value, kinds, **given) if nested else value
    return kind(**values)
