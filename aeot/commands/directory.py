"""The directory of a run: its options, its log, what it came to, and who may write there."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aeot import _check, _io
from aeot._estimator import Estimator
from aeot.data import Dataset

if TYPE_CHECKING:
    from typing_extensions import Self

Model = TypeVar("Model", bound=Estimator)

_LOG = logging.getLogger(__name__)
_LONGEST = 1 << 20  # bytes of recorded options
_LOCK = ".lock"  # held by the process that works in the folder; says which one that is
_WRITTEN = re.compile(  # all that `fit` and `sample` write, and what a kill can leave of it
    r"\.lock|\.?(config\.yaml|(environment|summary)\.json|log\.jsonl)(\.writing-[\w-]+)?"
    r"|report\.html|pictures/\w+\.png|samples-[\w-]+/(\d+\.png|grid\.png|samples\.npy)"
    r"|(\.?model|checkpoint/\.?\w+(/\w{16})?)(\.(writing|replaced)-[\w-]+)?(/previous)?"
    r"/(model\.safetensors|\w+\.json|README\.md)"
)


class RunDirectory:
    """A folder that belongs to one run and records its options.

    Used in a `with` statement, which keeps other runs out until the block or the process ends. What
    is recorded is written by `begin`, so a refused run leaves nothing behind. A run of the same
    options goes on where it stopped; one of other options is refused, or replaced if asked to.

    Args:
        out: The folder: new, empty, or of the same run.
        options: Plain values that the run depends on.
        record: The file that keeps them, YAML or JSON.
        last: The file that a finished run leaves; it does not go on then. None: it may.
        overwrite: Whether an earlier run is replaced; None where that is not offered.

    Raises:
        ValueError: If `out` cannot be written, holds anything else, or another run works there.
    """

    def __init__(
        self,
        out: str | os.PathLike,
        options: dict[str, Any],
        *,
        record: str = "config.yaml",
        last: str | None = None,
        overwrite: bool | None = None,
    ) -> None:
        self.path = _check.path("out", out).absolute()
        self._record, self._last = self.path / record, last
        self._options = json.loads(json.dumps(options))  # as they will be read
        self._overwrite = overwrite
        self._begun = self._replaces = False
        self._held = contextlib.ExitStack()
        if (self.path / _LOCK).is_file():
            with _alone(self.path):
                pass
        self._check()

    def __enter__(self) -> Self:
        self._held.enter_context(_alone(self.path))
        try:
            self._check()  # of what another run may have done meanwhile
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt) and not getattr(error, "way_out", ""):
            # Of a run that is to be replaced, and is not yet, nothing is gone on with.
            mine = self._begun or self._resumed
            saved = mine and next(self.path.rglob("manifest.json"), None) is not None
            left = "goes on" if saved else "starts anew: nothing was saved yet"
            vars(error)["way_out"] = f"the same command {left}"
        self._held.close()

    def _check(self) -> None:
        """Find out whether the run is new, goes on, or replaces another; else refuse it."""
        last, overwrite = self._last, self._overwrite
        finished = last is not None and (self.path / last).is_file()
        before = read_options(self._record)
        self._resumed = before == self._options and not finished and not overwrite
        if self._resumed:
            return
        # A config.yaml alone may be the user's own.
        marked = overwrite is None or (self.path / "environment.json").is_file()
        if not self._record.is_file() or not marked:
            check_new(self.path)
        elif overwrite:
            self._check_alone()
            self._replaces = True
        else:
            got, way_out = f"{self.path} with a finished run", "add --overwrite to replace it"
            if before is None:
                got, way_out = f"{self._record}, which is damaged", "choose another folder"
            elif not finished:
                both = self._options | before
                changed = [k for k in both if before.get(k) != self._options.get(k)]
                got = f"{self.path} with an unfinished run" if last else f"{self.path} with a run"
                got += f", made with another {', '.join(changed)}"
                other = (
                    "choose another folder" if overwrite is None else "--overwrite to start anew"
                )
                way_out = f"give the same options to go on, or {other}"
            raise _check.fail("out", "be new or of the same run", got, way_out)

    def begin(self) -> None:
        """Create the folder and record the options; of a run that is replaced, delete the rest."""
        if self._begun:
            return
        self._begun = True
        self.path.mkdir(parents=True, exist_ok=True)
        for file in self._written() if self._replaces else ():
            if file != self._record:  # replaced in one step
                file.unlink()
        if not self._resumed:
            # Scalars look the same in JSON and in YAML.
            lines = "".join(f"{name}: {json.dumps(v)}\n" for name, v in self._options.items())
            plain = json.dumps(self._options) + "\n"
            _io.write_text(self._record, lines if self._record.suffix == ".yaml" else plain)

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write plain values as a JSON file."""
        self.begin()
        _io.write_text(self.path / name, json.dumps(values, indent=1, default=str) + "\n")

    def log(self, name: str, record: dict[str, Any]) -> None:
        """Append a record to log.jsonl."""
        _io.append_lines(self.path / "log.jsonl", {"name": name, **record})

    def _written(self) -> list[Path]:
        """The files there that a fit, and `sample`, write."""
        files = (p for p in self.path.rglob("*") if p.is_file() and not p.is_symlink())
        return [p for p in files if _WRITTEN.fullmatch(p.relative_to(self.path).as_posix())]

    def _check_alone(self) -> None:
        """Refuse to replace a run beside which there are other files."""
        files = {p for p in self.path.rglob("*") if p.is_symlink() or not p.is_dir()}
        if others := sorted(files - set(self._written())):
            got = f"{self.path} with {others[0].relative_to(self.path)} beside the run"
            raise _check.fail("out", "hold a run alone", got, "move it, or choose another out")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made, until the block or this process ends."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    file = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _taken(file)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise _unwritable(folder, f"it takes no new file ({error.strerror})") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)
        with contextlib.suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _taken(file: Path) -> int:
    """Return the open file that holds the lock, in which its holder is named."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = _io.lock(handle)
            if free is False:
                holder = os.read(handle, 500).decode(errors="replace").strip()
                got = f"{file.parent}, where another run works: {holder}"
                way_out = "wait until it ends, or choose another folder"
                raise _check.fail("out", "be free", got, way_out)
            if free is None:
                _LOG.warning(
                    "%s lies on a file system without locks: see to it that no other run uses it",
                    file.parent,
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), file.stat()):  # not one that was let go
                    since = time.strftime("%Y-%m-%d %H:%M:%S")
                    holder = f"host {platform.node()}, process {os.getpid()}, since {since}\n"
                    os.ftruncate(handle, 0)
                    os.write(handle, holder.encode())
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def read_options(record: Path) -> dict[str, Any] | None:
    """Return the options that a run recorded; None if the file is missing or damaged."""
    try:
        if record.stat().st_size > _LONGEST:
            return None
        text = record.read_text(encoding="utf-8")
        if record.suffix == ".yaml":
            return {k: _io.parse_json(v) for k, v in (x.split(": ", 1) for x in text.splitlines())}
        return _io.parse_json(text, dict)
    except (OSError, ValueError):
        return None


def passed_over(data: Dataset) -> dict[str, Any]:
    """Return, for the record of a run, what lay in the folder of these data and was not read.

    ``skipped`` says of each image that could not be read why, ``repeated`` which links lead to
    others, ``others`` counts files that are no images; what there is none of is left out.
    """
    names = {"skipped": "reasons", "repeated": "repeated", "others": "others"}
    return {name: data.info[key] for name, key in names.items() if data.info.get(key)}


def load_model(
    name: str, kind: type[Model], path: str | os.PathLike, device: str | None = None
) -> Model:
    """Open a run or a saved model for the option called `name`.

    Raises:
        ValueError: If there is none, or it is damaged or of another class.
    """
    with _check.renamed("path", name):
        return kind.load(path, device=device)


def check_new(out: str | os.PathLike) -> Path:
    """Check, before any work, that the folder `out` can be created.

    Args:
        out: A path at which nothing or an empty folder is.

    Returns:
        The absolute path.

    Raises:
        ValueError: If something is there, or no folder can be made there.
    """
    path = _check.path("out", out).absolute()
    if path.exists() and not path.is_dir():
        raise _check.fail("out", "be a folder", f"the file {path}", "choose another name")
    # A run killed before its first step leaves an empty log, and its lock.
    files = [p for p in path.iterdir() if p.name != _LOCK] if path.is_dir() else []
    if any(p.name != "log.jsonl" or p.stat().st_size for p in files):
        raise _check.fail("out", "be new or empty", f"{path} with files in it", "choose another")
    parent = path
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise _check.fail("out", "be writable", str(path), f"{parent} is a file")
    try:  # trying is the only sure test: permissions say nothing to root or of a read-only disk
        tempfile.TemporaryDirectory(prefix=".aeot-", dir=parent).cleanup()
    except OSError as error:
        raise _unwritable(path, f"{parent} takes no new folder ({error.strerror})") from error
    return path


def check_page(out: str | os.PathLike) -> Path:
    """Check, before any work, that the file `out` can be written; return its path.

    Raises:
        ValueError: If it is a folder, or none can be made there.
    """
    path = _check.path("out", out)
    folder = path.absolute().parent
    if (path.exists() and not path.is_file()) or not folder.is_dir():
        way_out = "name a .html file in a folder that is there"
        raise _check.fail("out", "be a file in a folder that exists", str(path), way_out)
    try:
        tempfile.TemporaryFile(prefix=".aeot-", dir=folder).close()
    except OSError as error:
        raise _unwritable(path, f"{folder} takes no new file ({error.strerror})") from error
    return path


def _unwritable(path: Path, why: str) -> ValueError:
    return _check.fail("out", "be writable", str(path), f"{why}: choose another out")
