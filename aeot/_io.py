"""Saved models: a directory of safetensors, JSON and a manifest of hashes, replaced whole.

What is written lies beside its place, under ``.NAME.writing-PID-...``, until it is whole and on the
disk; then it takes that place in one step. Checkpoints keep the one before in ``previous``.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import glob
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aeot import __all__ as _public
from aeot import __version__, _check
from aeot._environment import is_out_of_memory

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # a module, or nothing

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")
FORMAT = 2
_MANIFEST = "manifest.json"
_FILES = ("config.json", "model.safetensors")
_CARD = "README.md"  # what people read; no load does, so they may change it
_PREVIOUS = "previous"  # in a checkpoint: the one before it
_LONGEST = 1 << 26  # bytes of JSON; half a million records of a history
_DEEPEST = 100  # dicts and lists within each other
_DAY = 86_400.0  # seconds
_TRIES = 200  # of a reader, against a writer that replaces what it reads


class Damaged(ValueError):
    """A save of which a byte changed or a part is missing, or that no `save` wrote.

    Attributes:
        place: The directory that was to be read; None where that is not known.
    """

    place: Path | None = None


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


def lock(handle: int) -> bool | None:
    """Take the lock of an open file, which ends with its process.

    Returns:
        Whether it was free; None where the file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have errors of the disk name the path that was to be written, and no scratch beside it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if isinstance(error, SafetensorError) and (
            found := re.search(r"os error (\d+)", str(error))
        ):
            number = int(found[1])
        if number is None and "requested and" in str(error):  # numpy's short write has no number
            number = errno.ENOSPC
        reason = str(error) if number is None else os.strerror(number)
        if isinstance(error, OSError) and str(error.filename) == str(path):
            reason = error.strerror or reason  # may say more
        raise OSError(number or errno.EIO, reason, str(path)) from error


def check_space(path: Path, needed: int) -> None:
    """Raise an OSError if the disk of `path` has less than `needed` bytes left."""
    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        reason = f"{needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; make room"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {reason}", str(path))


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, folder: bool = False) -> Iterator[Path]:
    """Yield a scratch name beside `path`; what is written there takes its place in one step.

    That is at the end of the block. After an error, or a kill, `path` is what it was.

    Args:
        path: A file, or a folder that is new or empty.
        folder: Which of them; a folder is made.

    Raises:
        OSError: If the disk refuses; it names `path`.
    """
    path = Path(path)
    if not folder and path.exists() and not path.is_file():  # a device, which would be replaced
        raise FileExistsError(errno.EEXIST, "it is there and no regular file", str(path))
    with _named(path), _scratch(path, folder=folder) as fresh:
        yield fresh
        _sync(fresh)
        os.replace(fresh, path)


@contextlib.contextmanager
def _scratch(path: Path, *, folder: bool) -> Iterator[Path]:
    """Make a file or folder beside `path` that is ours while we live, and delete what is left."""
    _remove_abandoned(path)
    fresh = path.with_name(f".{path.name}.writing-{os.getpid()}-{secrets.token_hex(3)}")
    if folder:
        fresh.mkdir()
    else:
        fresh.touch(exist_ok=False)
    handle = os.open(fresh, os.O_RDONLY)
    try:
        lock(handle)
        yield fresh
    finally:
        os.close(handle)
        _remove(fresh)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _remove_abandoned(path: Path) -> None:
    """Delete what killed processes left beside `path`; what another one writes now stays."""
    for scratch in path.parent.glob(f".{glob.escape(path.name)}.writing-*"):
        with contextlib.suppress(OSError):  # gone, or not ours to open
            found = re.fullmatch(r"(\d+)(-[0-9a-f]{6})?", scratch.name.rpartition(".writing-")[2])
            if found is None:
                continue
            old = time.time() - scratch.stat().st_mtime > _DAY
            if not old and _alive(int(found[1])):
                continue
            handle = os.open(scratch, os.O_RDONLY)
            try:
                free = lock(handle)  # a process of another machine or container may hold it
                if free or (free is None and old):
                    _remove(scratch)
            finally:
                os.close(handle)


def _alive(process: int) -> bool:
    if os.name != "posix":  # the signal would end it there
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file that appears whole or not at all, whatever stops the process."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def append_lines(path: str | os.PathLike, *records: dict[str, Any]) -> None:
    """Add records to a file of JSON lines, which is made, all of them or none.

    Raises:
        OSError: If the disk refuses; it names the path.
    """
    lines = "".join(json.dumps(record, default=str) + "\n" for record in records).encode()
    path = Path(path)
    with _named(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            before = os.fstat(handle).st_size
            try:
                if lines and os.write(handle, lines) < len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except BaseException:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


def parse_json(text: str | bytes, kind: type = object) -> Any:  # noqa: ANN401
    """Return the value of this kind that a text of JSON holds.

    Raises:
        ValueError: If it is none, is too long or nested too deeply, or says a key twice.
    """
    if len(text) > _LONGEST:
        raise ValueError(
            f"{len(text) / 1e6:.0f} MB of JSON, where {_LONGEST / 1e6:.0f} are allowed"
        )
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (RecursionError, MemoryError) as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, kind):
        raise ValueError(f"holds a {type(value).__name__}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def read_json(path: str | os.PathLike, kind: type = object) -> Any:  # noqa: ANN401
    """Read a JSON file that holds a value of this kind.

    Raises:
        ValueError: If it is damaged; the message names the file.
    """
    try:
        return parse_json(_bounded(Path(path)), kind)
    except ValueError as error:
        raise ValueError(
            f"{path} must be a JSON file, got a damaged one ({error}); delete it"
        ) from error


def _bounded(path: Path) -> bytes:
    """Return what a file of JSON holds, a byte more than is allowed at most."""
    with path.open("rb") as file:
        return file.read(_LONGEST + 1)


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


def check_writable(
    directory: str | os.PathLike,
    *,
    kind: str | None = None,
    name: str = "path",
    overwrite: bool = True,
) -> Path:
    """Check, before any work starts, that `directory` can be created or replaced by `save`.

    Args:
        directory: Where the model will go.
        kind: What will be saved there; an earlier save of another kind is not replaced.
        name: The argument, as the caller spells it.
        overwrite: Whether an earlier save of the same kind is replaced.

    Returns:
        The path.

    Raises:
        ValueError: If it is a file, holds something else, or cannot be written.
    """
    path = _check.path(name, directory).absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{name} must be a directory, got the file {path}; choose another name")
    if path.is_dir():
        _check_replaceable(path, kind, name)
        if not overwrite and _places(path):
            way_out = "pass overwrite=True to replace it, or choose another name"
            raise _check.fail(name, "be new or empty", f"{path} with an earlier save", way_out)
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{name} must be writable, got {path}; {parent} refuses new files")
    return path


def _check_replaceable(path: Path, kind: str | None, name: str) -> None:
    # Replacing a directory deletes what is in it, so it may hold nothing but an earlier save.
    inside = {file.name for file in path.iterdir() if not file.name.startswith(".")}
    before = path / _PREVIOUS
    ours = {_MANIFEST, _CARD, *_FILES}
    if (before / _MANIFEST).is_file() and {file.name for file in before.iterdir()} <= ours:
        ours.add(_PREVIOUS)
    others = sorted(inside - ours if inside & {_MANIFEST, _PREVIOUS} & ours else inside)
    if others:
        told = f"{path} with other files in it, such as {others[0]}; choose another name"
        error = Damaged if inside <= ours else ValueError  # a save without its manifest
        raise _at(path, error(f"{name} must be new, empty or a saved model, got {told}"))
    kinds, reason = [], ""
    for place in (path, before):
        if kind is not None and (place / "config.json").is_file():
            try:
                kinds.append(_json(place / "config.json").get("kind"))
            except Damaged as error:
                reason = reason or str(error)
    if kinds and kinds[0] != kind:
        raise ValueError(
            f"{name} must be new, empty or an earlier save of a {kind!r}, got {path} with a "
            f"{_check.shown(kinds[0])}; choose another name"
        )
    if reason and not kinds:
        raise _at(path, Damaged(f"{reason}; delete {path} or choose another name"))


_Error = TypeVar("_Error", bound=ValueError)


def _at(path: str | os.PathLike, error: _Error) -> _Error:
    """Return an error that knows, if it is of damage, which directory was to be read."""
    if isinstance(error, Damaged):
        error.place = Path(path).absolute()
    return error


def save(
    directory: str | os.PathLike,
    tensors: Mapping[str, torch.Tensor],
    config: dict[str, Any],
    *,
    kind: str,
    overwrite: bool = True,
    keep_previous: bool = False,
    card: str | None = None,
) -> None:
    """Write tensors and plain values as a directory that appears whole or not at all.

    A process killed half-way, or a disk that is full, leaves the directory that was there before.

    Args:
        directory: Created, or replaced if it holds an earlier save of the same kind.
        tensors: What to store, by name; any device, stored as on the CPU.
        config: Plain values that JSON can hold.
        kind: What this is (a class name); `load` asks for the same.
        overwrite: Whether an earlier save is replaced.
        keep_previous: Keep the save that is replaced; `load` takes it where this one is damaged.
        card: What ``README.md`` shall say (see `card`); no such file if left out.

    Raises:
        ValueError: If the directory holds something else, an earlier save that is not to be
            replaced, or cannot be written.
        OSError: If the disk is full or refuses; it names the directory.
    """
    _check.flag("overwrite", overwrite)
    path = check_writable(directory, kind=kind, overwrite=overwrite)
    path = path.resolve()  # what a link leads to, not the link
    stored = _separate(tensors)
    body = {"format": FORMAT, "kind": kind, "config": config}
    text = (json.dumps(body, indent=1, sort_keys=True, default=plain) + "\n").encode()
    if len(text) > _LONGEST:
        got = f"{len(text) / 1e6:.0f} MB"
        must = f"take at most {_LONGEST / 1e6:.0f} MB as JSON"
        raise ValueError(f"config must {must}, got {got}; keep a shorter history")
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        check_space(path, sum(t.nbytes for t in stored.values()) + len(text) + (1 << 16))
        with _scratch(path, folder=True) as fresh:
            config_file, tensor_file = (fresh / name for name in _FILES)
            config_file.write_bytes(text)
            save_file(stored, tensor_file)
            tensor_file.chmod(config_file.stat().st_mode)  # which is what the umask gives
            manifest = {
                "format": FORMAT,
                "sha256": {name: _file_digest(fresh / name) for name in _FILES},
            }
            (fresh / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            if card is not None:
                (fresh / _CARD).write_text(card, encoding="utf-8")
            for file in [*fresh.iterdir(), fresh]:
                _sync(file)
            _swap(fresh, path, keep=keep_previous)
            _sync(path.parent)


def card(kind: type, facts: Mapping[str, Mapping[str, object]]) -> str:
    """Return what the ``README.md`` of a saved model says: what it is, its facts, how to load it.

    Args:
        kind: The class.
        facts: Plain values by name, under headings.
    """
    name, module = kind.__name__, kind.__module__
    come = f"import aeot\n\nmodel = aeot.{name}"
    if name not in _public:
        come = f"from {module} import {name}\n\nmodel = {name}"
    lines = [
        f"# {name}",
        "",
        f"Saved by aeot {__version__}. To load it, from where this folder lies:",
        "",
        f'```python\n{come}.load("path/to/this/folder")\n```',
        "",
        "Loading checks `config.json` and `model.safetensors` against the hashes in",
        "`manifest.json`; nothing is pickled. This page is for people: change it as you like.",
    ]
    for heading, values in facts.items():
        lines += ["", f"## {heading}", ""]
        lines += [f"- {key.replace('_', ' ')}: {_told(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _told(value: object) -> str:
    """Return a value in one short line without marks of its own."""
    text = f"{value:.6g}" if isinstance(value, float) else value
    text = " ".join(text.split()) if isinstance(text, str) else _check.shown(text)
    return re.sub(r"([\\`*<>\[\]|])", r"\\\1", text)


def _separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors on the CPU, none in the memory of another: safetensors refuses that."""
    stored, seen = {}, set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        memory = here.untyped_storage()
        if memory.nbytes() != here.nbytes or memory.data_ptr() in seen:
            here = here.clone()
        seen.add(here.untyped_storage().data_ptr())
        stored[name] = here
    return stored


def _swap(fresh: Path, path: Path, *, keep: bool) -> None:
    """Put the folder `fresh` at `path`; of what was there, keep it in `previous` or nothing."""
    old = fresh
    if not path.exists():
        os.replace(fresh, path)
        old = next(iter(_replaced(path)), fresh)
    else:
        try:
            _exchange(fresh, path)
        except OSError:  # an old kernel, another system, some network disks: there, in two steps
            old = path.with_name(fresh.name.replace(".writing-", ".replaced-"))
            os.replace(path, old)
            try:
                os.replace(fresh, path)
            except BaseException:
                os.replace(old, path)
                raise
    if keep and (old / _MANIFEST).is_file():
        _remove(old / _PREVIOUS)
        with contextlib.suppress(OSError):  # another process was faster
            os.replace(old, path / _PREVIOUS)
    for left in {old, *_replaced(path)}:
        _remove(left)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two directories in one step, as only Linux offers it.

    Raises:
        OSError: Where that is not offered; then nothing happened.
    """
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if function(here, os.fsencode(one), here, os.fsencode(other), exchange) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _replaced(path: Path) -> list[Path]:
    """Return what a kill between two renames of `_swap` left beside `path`: whole saves of ours."""
    beside = path.parent.glob(f".{glob.escape(path.name)}.replaced-*")
    return [place for place in beside if (place / _MANIFEST).is_file()]


def _main(directory: str | os.PathLike) -> Path:
    """Return where the newest save should lie: a run directory holds its own under ``model``."""
    path = _check.path("path", directory).absolute()
    inside = path / "model"
    return path if (path / _MANIFEST).is_file() or not (inside / _MANIFEST).is_file() else inside


def _places(directory: str | os.PathLike) -> list[Path]:
    """Return where saves lie that `load` would read, the newest first."""
    path = _main(directory)
    places = [path, path / _PREVIOUS, *([] if path.exists() else _replaced(path))]
    return [place for place in places if (place / _MANIFEST).is_file()]


def holds_save(directory: str | os.PathLike) -> bool:
    """Return whether `load` would find something there."""
    return bool(_places(directory))


def load(
    directory: str | os.PathLike, *, kind: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save` wrote, after checking every byte against the manifest.

    A writer may replace the directory meanwhile: what is returned is of one save. Where the
    newest is damaged and the one before it was kept, that is returned, with a warning.

    Args:
        directory: The saved model, or a run directory that holds one under ``model``.
        kind: The class the caller expects.
        device: Where the tensors go.

    Returns:
        The tensors by name, and the config.

    Raises:
        Damaged: If a file is missing or changed, or is not what `save` writes.
        ValueError: If nothing is there, or what is there is of an unknown format or another class.
    """
    for tried in range(_TRIES):
        before = _stamps(directory)
        try:
            found = _newest_whole(directory, kind, str(device))
        except ValueError as error:
            # A look between two renames may find nothing; three in a row do not.
            if before == _stamps(directory) and (before or tried > 2):
                _at(directory, error)
                raise
        else:
            if before == _stamps(directory):
                return found
        time.sleep(0.005)
    raise ValueError(f"{directory} is replaced faster than it can be read; stop its writer")


def _stamps(directory: str | os.PathLike) -> list[tuple[str, int, int]]:
    """Return what tells the saves that lie there now from later ones."""
    stamps = []
    for place in _places(directory):
        with contextlib.suppress(OSError):
            found = (place / _MANIFEST).stat()
            stamps.append((str(place), found.st_ino, found.st_mtime_ns))
    return stamps


def _newest_whole(
    directory: str | os.PathLike, kind: str, device: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    places = _places(directory)
    if not places:
        path = _check.path("path", directory).absolute()
        got = f"{path}, which does not exist; give the directory of a run or of a save"
        if (path / "checkpoint").is_dir():
            got = f"{path}, a run that is not finished; repeat its command to go on"
        elif path.exists():
            got = f"{path} without {_MANIFEST}; give the directory of a run or of a save"
        raise ValueError(f"path must be a saved model, got {got}")
    path, errors = _main(directory), []
    if path not in places:
        errors.append(
            Damaged(f"{path} is incomplete: {_MANIFEST} is missing; restore or save it again")
        )
    for place in places:
        try:
            found = _read(place, kind, device)
        except Damaged as error:
            errors.append(error)
        else:
            if errors and path.exists():
                _LOG.warning("%s; going on from the one before it, in %s", errors[0], place)
            return found
    if len(errors) == 1:
        raise errors[0]
    way_out = f"so is the one before it: delete {path} to start anew"
    raise Damaged(f"{errors[0]}; {way_out}") from errors[1]


def _read(path: Path, kind: str, device: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read one save, believing nothing."""
    manifest = _json(path / _MANIFEST)
    if type(manifest.get("format")) is not int:
        raise Damaged(f"{path / _MANIFEST} has no format; restore or save it again")
    if manifest["format"] != FORMAT:
        if _json(path / "config.json").get("format") == FORMAT:  # saves have it twice
            got = f"format {str(manifest['format'])[:9]}, its config.json {FORMAT}"
            raise Damaged(f"{path / _MANIFEST} has {got}; restore or save it again")
        raise ValueError(
            f"{path} has format {str(manifest['format'])[:9]}, this version reads {FORMAT}; "
            "load it with the version of aeot that wrote it"
        )
    digests = manifest.get("sha256")
    if not isinstance(digests, dict):
        raise Damaged(f"{path / _MANIFEST} lists no files; restore or save it again")
    for name in sorted({*_FILES} - digests.keys()):
        told = f"its manifest does not list {name}; restore or save it again"
        raise Damaged(f"{path} is incomplete: {told}")
    for name in sorted(digests.keys() - {*_FILES}):
        raise Damaged(f"{path / _MANIFEST} lists {name[:80]!r}, which no save holds; save it again")
    for name in _FILES:
        file = path / name
        if not file.is_file():
            raise Damaged(f"{path} is incomplete: {name} is missing; restore or save it again")
        try:
            found = _file_digest(file)
        except OSError as error:
            raise Damaged(f"{file} cannot be read ({error}); restore or save it again") from error
        if found != digests[name]:
            told = "was changed or damaged: its SHA-256 is not the manifest's"
            raise Damaged(f"{file} {told}; take a copy, or delete {path} and make it again")
    body = _json(path / "config.json")
    if not isinstance(body.get("kind"), str) or not isinstance(body.get("config"), dict):
        raise Damaged(f"{path / 'config.json'} must hold a kind and a config; save it again")
    if body["kind"] != kind:
        got = f"{body['kind'][:80]!r}"
        raise ValueError(f"{path} holds a {got}, not a {kind!r}; load it with that")
    file = path / "model.safetensors"
    try:
        return load_file(file, device=device), body["config"]
    # KeyError: numbers that torch lacks; RuntimeError: it cannot open a file that is gone by now.
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise Damaged(f"{file} is no file of tensors ({error}); save it again") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return parse_json(_bounded(path), dict)
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read ({error}); restore or save it again") from error


@contextlib.contextmanager
def using(path: str | os.PathLike) -> Iterator[None]:
    """Have errors about what was loaded say from where."""
    try:
        yield
    except Damaged as error:
        told = f"{path} cannot be used: {error}; restore or delete it"
        raise _at(path, Damaged(told)) from error


def anew_if_damaged(
    work: Callable[[], _Result], folder: str | os.PathLike | None, *, removes: bool = True
) -> _Result:
    """Do a later stage of a long work; where its checkpoint is damaged, begin it anew.

    What the stage begins with is kept elsewhere, so that only the stage is lost. A line of the log
    says so.

    Args:
        work: Does the stage, from the checkpoints it finds in `folder`.
        folder: Where they are, or will be; None: it keeps none.
        removes: Whether it is this process that removes what is damaged.

    Returns:
        What `work` returns.
    """
    while True:
        try:
            return work()
        except Damaged as error:
            place = error.place
            if folder is None or place is None or not place.is_relative_to(Path(folder).absolute()):
                raise
            if not removes:
                continue
            _remove(place)
            if place.exists():
                raise
            told = "%s is damaged and holds nothing earlier: its stage begins anew"
            _LOG.warning(told, place)


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


def unpack(tensors: Mapping[str, torch.Tensor], skeleton: Any) -> Any:  # noqa: ANN401
    """Put together again what `pack` took apart.

    Raises:
        Damaged: If `pack` returned no such skeleton.
    """

    def walk(node: Any, depth: int) -> Any:  # noqa: ANN401
        if depth > _DEEPEST:
            raise Damaged(f"a tree must be at most {_DEEPEST} deep")
        if isinstance(node, list):
            return [walk(value, depth + 1) for value in node]
        if not isinstance(node, dict):
            return node
        mark = next((key for key in node if key[:1] == "$"), None)
        if mark is None:
            return {key: walk(value, depth + 1) for key, value in node.items()}
        inside = node[mark]
        if mark == "$tensor" and isinstance(inside, str) and inside in tensors:
            return tensors[inside]
        if mark == "$tuple" and isinstance(inside, list):
            return tuple(walk(inside, depth + 1))
        if mark == "$dict" and isinstance(inside, list):
            pairs = [item for item in inside if isinstance(item, list) and len(item) == 2]
            keys = [key for key, _ in pairs if isinstance(key, (str, int, float))]
            if len(keys) == len(inside):
                return {key: walk(value, depth + 1) for key, value in pairs}
        raise Damaged(f"{mark} must be followed by what was saved, got {str(inside)[:80]}")

    return walk(skeleton, 0)


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
        Damaged: If a class is not known, or its fields are not of the types it declares.
    """
    name = parts.get("record") if isinstance(parts, dict) else None
    kind = kinds.get(name) if isinstance(name, str) else None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise Damaged(f"unknown record {str(name)[:80]!r}; load it with the version that saved")
    values = {}
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in given:
            values[field.name] = given[field.name]
        elif field.name in parts:
            value = parts[field.name]
            if isinstance(value, dict) and "record" in value:
                value = put_together(value, kinds, **given)
            if not fits(value, types[field.name]):
                got = f"a {type(value).__name__} as {field.name}"
                raise Damaged(f"a {name} must hold {field.type}, got {got}")
            values[field.name] = value
    try:
        return kind(**values)
    except TypeError as error:
        raise Damaged(f"a {name} must be whole, got one without a field: {error}") from error


def fits(value: object, annotation: Any) -> bool:  # noqa: ANN401 - a type, of any form
    """Return whether a value is of a type as annotations write it, numbers as JSON has them."""
    inside = get_args(annotation)
    kind = get_origin(annotation) or annotation
    if kind in (Union, UnionType):
        return any(fits(value, option) for option in inside)
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, kind):
        return False
    if kind is tuple and inside:
        every = (inside[0],) * len(value) if inside[-1] is Ellipsis else inside
        return len(every) == len(value) and all(map(fits, value, every))
    if kind is list and inside:
        return all(fits(item, inside[0]) for item in value)
    if kind is dict and inside:
        return all(fits(k, inside[0]) and fits(v, inside[1]) for k, v in value.items())
    return True
