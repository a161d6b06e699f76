import dataclasses
import errno
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from aeot import _io

TENSORS = {"a": torch.arange(5.0), "b": torch.tensor([[True, False]]), "c": torch.tensor(3)}
CONFIG = {"name": "x", "values": [1, 2.5, None]}


def test_what_is_saved_is_loaded(tmp_path):
    tied = {**TENSORS, "again": TENSORS["a"]}
    _io.save(tmp_path / "m", tied, CONFIG, kind="Thing")
    tensors, config = _io.load(tmp_path / "m", kind="Thing")
    assert config == CONFIG
    assert tensors.keys() == tied.keys()
    for name, tensor in tied.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]  # no scratch is left behind


def test_a_run_directory_leads_to_its_model(tmp_path):
    _io.save(tmp_path / "run" / "model", TENSORS, CONFIG, kind="Thing")
    assert _io.load(tmp_path / "run", kind="Thing")[1] == CONFIG


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_one_flipped_bit_is_found(tmp_path, name):
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    path = tmp_path / "m" / name
    body = bytearray(path.read_bytes())
    for position in (0, len(body) // 2, len(body) - 1):
        damaged = bytearray(body)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name} was changed or damaged"):
            _io.load(tmp_path / "m", kind="Thing")
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        _io.load(tmp_path / "m", kind="Thing")


def test_other_kinds_formats_and_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a saved model"):
        _io.load(tmp_path / "nothing", kind="Thing")
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    with pytest.raises(ValueError, match="holds a 'Thing', not a 'Other'"):
        _io.load(tmp_path / "m", kind="Other")
    manifest = tmp_path / "m" / "manifest.json"
    body = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(body | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        _io.load(tmp_path / "m", kind="Thing")
    del body["sha256"]["model.safetensors"]
    manifest.write_text(json.dumps(body))
    with pytest.raises(ValueError, match="does not list model.safetensors"):
        _io.load(tmp_path / "m", kind="Thing")
    manifest.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        _io.load(tmp_path / "m", kind="Thing")


def test_a_changed_format_is_damage_unless_both_files_say_it(tmp_path):
    place = tmp_path / "m"
    for k in range(2):
        _io.save(place, TENSORS, {"k": k}, kind="Thing", keep_previous=True)
    manifest, config = place / "manifest.json", place / "config.json"
    listed = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(listed | {"format": 3}))
    assert _io.load(place, kind="Thing")[1] == {"k": 0}  # the one before it
    config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 3}))
    with pytest.raises(ValueError, match="has format 3, this version reads 2; load it with the v"):
        _io.load(place, kind="Thing")


def test_nothing_of_others_is_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    for name in ("file", "folder", "file/inside"):
        with pytest.raises(ValueError, match="path must be"):
            _io.save(tmp_path / name, TENSORS, CONFIG, kind="Thing")
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture(params=["in one step", "in two steps"])
def swap(request, monkeypatch):
    """Directories are exchanged in one step where the system can, else renamed twice."""
    if request.param == "in two steps":
        monkeypatch.setattr(_io, "_exchange", mock_refusal(errno.EINVAL))
    return request.param


def mock_refusal(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_save_is_replaced_and_leaves_nothing_else(tmp_path, swap):
    for k in range(3):
        _io.save(tmp_path / "m", TENSORS, {"k": k}, kind="Thing")
        assert _io.load(tmp_path / "m", kind="Thing")[1] == {"k": k}
        assert [p.name for p in tmp_path.iterdir()] == ["m"]
        assert len(list((tmp_path / "m").iterdir())) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("stage", ["save_file", "_sync", "_exchange", "replace", "replace twice"])
def test_a_process_killed_while_saving_leaves_a_whole_model(tmp_path, swap, stage, keep):
    for k in range(2):
        _io.save(tmp_path / "m", TENSORS, {"k": k}, kind="Thing", keep_previous=keep)
    child = os.fork()
    if child == 0:  # a process of its own, killed at its first or second call of `stage`
        owner, name = (os, "replace") if stage.startswith("replace") else (_io, stage)
        original, calls = getattr(owner, name), []

        def dying(*args):
            calls.append(1)
            if len(calls) > stage.endswith("twice"):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)

        setattr(owner, name, dying)
        try:
            new = {"a": torch.zeros(2)}
            _io.save(tmp_path / "m", new, {"k": 2}, kind="Thing", keep_previous=keep)
        finally:
            os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    renames = {"in one step": int(keep), "in two steps": 2 + keep}[swap]
    needed = {"replace": 1, "replace twice": 2}.get(stage, 0)
    assert killed == (-signal.SIGKILL if renames >= needed else 0)
    assert _io.holds_save(tmp_path / "m")
    tensors, config = _io.load(tmp_path / "m", kind="Thing")
    newer = config == {"k": 2}
    assert newer or (config == {"k": 1} and torch.equal(tensors["a"], TENSORS["a"]))
    _io.save(tmp_path / "m", {"a": torch.zeros(2)}, {"k": 3}, kind="Thing", keep_previous=keep)
    assert _io.load(tmp_path / "m", kind="Thing")[1] == {"k": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path, caplog, swap):
    for k in range(3):
        _io.save(tmp_path / "m", TENSORS, {"k": k}, kind="Thing", keep_previous=True)
    for name, damage in itertools.product(
        ("model.safetensors", "config.json", "manifest.json"),
        (lambda body: body[:-9], lambda body: b"", lambda body: b"[" + body[1:], None),
    ):
        caplog.clear()
        path = tmp_path / "m" / name
        body = path.read_bytes()
        path.unlink() if damage is None else path.write_bytes(damage(body))
        tensors, config = _io.load(tmp_path / "m", kind="Thing")
        assert config == {"k": 1}
        assert torch.equal(tensors["a"], TENSORS["a"])
        assert len(caplog.records) == 1
        assert "going on from the one before it" in caplog.text
        assert name in caplog.text
        _io.check_writable(tmp_path / "m", kind="Thing")
        path.write_bytes(body)
    caplog.clear()
    assert _io.load(tmp_path / "m", kind="Thing")[1] == {"k": 2}
    assert not caplog.records
    for place in (tmp_path / "m", tmp_path / "m" / "previous"):
        (place / "config.json").write_text("{")
    with pytest.raises(_io.Damaged, match=r"so is the one before it: delete .*m to start anew"):
        _io.load(tmp_path / "m", kind="Thing")
    with pytest.raises(ValueError, match=r"delete .*m or choose another"):
        _io.check_writable(tmp_path / "m", kind="Thing")


def test_after_a_damage_the_next_save_counts(tmp_path):
    for k in range(2):
        _io.save(tmp_path / "m", TENSORS, {"k": k}, kind="Thing", keep_previous=True)
    (tmp_path / "m" / "model.safetensors").write_bytes(b"cut")
    assert _io.load(tmp_path / "m", kind="Thing")[1] == {"k": 0}
    _io.save(tmp_path / "m", TENSORS, {"k": 2}, kind="Thing", keep_previous=True)
    assert _io.load(tmp_path / "m", kind="Thing")[1] == {"k": 2}
    _io.save(tmp_path / "m", TENSORS, {"k": 3}, kind="Thing", keep_previous=True)
    (tmp_path / "m" / "model.safetensors").write_bytes(b"cut")
    assert _io.load(tmp_path / "m", kind="Thing")[1] == {"k": 2}


def test_folders_of_others_beside_a_save_are_let_alone(tmp_path, swap):
    for name in (".m.previous", ".m.writing-notes", ".m.replaced-notes", ".m.writing-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("precious")
    others = sorted(p.name for p in tmp_path.iterdir())
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    assert _io.load(tmp_path / "m", kind="Thing")[1] == CONFIG
    shutil.rmtree(tmp_path / "m")
    assert not _io.holds_save(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == others  # process 1 is always alive


def test_what_dead_processes_left_is_deleted_and_what_live_ones_write_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [tmp_path / f".m.writing-{dead.pid}", tmp_path / f".m.writing-{dead.pid}-0a1b2c"]
    held = tmp_path / f".m.writing-{dead.pid}-333333"  # of another machine, by its number
    live = tmp_path / f".m.writing-{os.getppid()}"
    for folder in (*left, held, live):
        folder.mkdir()
        (folder / "config.json").write_text("{")
    handle = os.open(held, os.O_RDONLY)
    assert _io.lock(handle)
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([held.name, live.name, "m"])
    os.close(handle)
    os.utime(live, (0, 0))  # its number is another process's by now
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_all_files_have_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
        _io.write_text(tmp_path / "text", "x")
    finally:
        os.umask(before)
    files = [tmp_path / "text", *(tmp_path / "m").iterdir()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o750


WRITER = """
import itertools, sys, torch
from aeot import _io

def refuse(*_):
    raise OSError(22, "no")

ways = {"in one step": _io._exchange, "in two steps": refuse}
for k in itertools.count():
    for way, _io._exchange in ways.items():
        place = f"{sys.argv[1]}/{way}"
        _io.save(place, {"a": torch.full((1000,), float(k))}, {"k": k}, kind="Thing")
"""


def test_readers_beside_a_writer_never_fail(tmp_path):
    seen = {tmp_path / way: set() for way in ("in one step", "in two steps")}
    for path in seen:
        _io.save(path, {"a": torch.full((1000,), -1.0)}, {"k": -1}, kind="Thing")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=environment)
    try:
        while _io.load(path, kind="Thing")[1]["k"] < 0:  # it begins
            time.sleep(0.05)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            for path, found in seen.items():
                tensors, config = _io.load(path, kind="Thing")
                assert bool((tensors["a"] == config["k"]).all())
                found.add(config["k"])
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
    assert min(map(len, seen.values())) > 3


def test_what_is_saved_is_on_the_disk_before_it_takes_its_place_and_its_place_after(
    tmp_path, monkeypatch
):
    """The order that a loss of power needs; a test cannot cut the power."""
    events, sync, replace = [], os.fsync, os.replace
    names = {}

    def opened(path, *rest, original=os.open, **options):
        handle = original(path, *rest, **options)
        names[handle] = pathlib.Path(path)
        return handle

    def synced(handle):
        events.append(("sync", names[handle].name))
        sync(handle)

    def placed(one, other):
        events.append(("place", pathlib.Path(other).name))
        replace(one, other)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", placed)
    (tmp_path / "above").mkdir()
    path = tmp_path / "above" / "m"
    _io.save(path, TENSORS, CONFIG, kind="Thing")
    at = events.index(("place", "m"))
    written = sorted(name for what, name in events[:at])
    scratch = [name for name in written if name.startswith(".m.writing-")]
    assert written == sorted([*(p.name for p in path.iterdir()), *scratch])
    assert len(scratch) == 1
    assert events[at + 1 :] == [("sync", "above")]


def test_a_refused_second_rename_takes_the_first_one_back(tmp_path, monkeypatch):
    path, replace, calls = tmp_path / "m", os.replace, []
    _io.save(path, TENSORS, {"k": 0}, kind="Thing")
    monkeypatch.setattr(_io, "_exchange", mock_refusal(errno.EINVAL))

    def second(one, other):
        calls.append(other)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(one, other)

    monkeypatch.setattr(os, "replace", second)
    with pytest.raises(OSError, match=r"m'"):
        _io.save(path, TENSORS, {"k": 1}, kind="Thing")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert _io.load(path, kind="Thing")[1] == {"k": 0}


def test_a_save_that_is_replaced_between_its_check_and_its_reading_is_read_anew(
    tmp_path, monkeypatch
):
    path, read, found = tmp_path / "m", _io.load_file, []
    for k in (0, 1):
        _io.save(tmp_path / f"{k}", {"a": torch.full((9,), float(k))}, {"k": k}, kind="Thing")
    (tmp_path / "0").rename(path)

    def late(*args, **options):  # the writer is between two renames when this is opened
        if found:
            return read(*args, **options)
        path.rename(tmp_path / "0")
        try:
            return read(*args, **options)
        except Exception as error:
            found.append(error)
            raise
        finally:
            (tmp_path / "1").rename(path)

    monkeypatch.setattr(_io, "load_file", late)
    tensors, config = _io.load(path, kind="Thing")
    assert found, "the file was there after all"
    assert (config["k"], tensors["a"].tolist()) == (1, [1.0] * 9)


FULL = [errno.ENOSPC, errno.EIO, errno.EROFS]


class Refusing:
    """The k-th call of all that changes a disk, counted from 0, is refused."""

    def __init__(self, monkeypatch, k, number):
        self.calls, self.k, self.number = 0, k, number
        for owner, name in (
            *((os, n) for n in ("open", "write", "fsync", "replace", "mkdir", "ftruncate")),
            *((pathlib.Path, n) for n in ("write_text", "write_bytes", "touch", "chmod")),
            (_io, "save_file"),
            (_io, "_exchange"),
        ):
            monkeypatch.setattr(owner, name, self.refusing(name, getattr(owner, name)))

    def refusing(self, name, original):
        def call(*args, **kwargs):
            reads = name == "open" and not args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            if not reads:
                self.calls += 1
                if self.calls == self.k + 1:
                    if name == "save_file":  # as safetensors tells it
                        raise SafetensorError(f"I/O error: no (os error {self.number})")
                    raise OSError(self.number, os.strerror(self.number))
            return original(*args, **kwargs)

        return call


def write_save(path):
    _io.save(path, {"a": torch.zeros(2)}, {}, kind="Thing", keep_previous=True)


def write_folder(path):
    with _io.replacing(path, folder=True) as fresh:
        (fresh / "picture").write_bytes(b"x")


def write_rows(path):
    with _io.replacing(path, folder=True) as fresh:
        np.save(fresh / "samples.npy", np.zeros(9000))


WRITERS = {
    "save": (write_save, lambda path: _io.load(path, kind="Thing")[1].get("k") == 1),
    "text": (lambda path: _io.write_text(path, "new"), lambda path: path.read_text() == "old"),
    "lines": (lambda path: _io.append_lines(path, {"k": 1}), lambda p: p.read_text() == "old"),
    "folder": (write_folder, lambda path: not list(path.iterdir())),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("number", FULL, ids=errno.errorcode.get)
def test_a_disk_that_refuses_any_write_leaves_all_as_it_was(tmp_path, monkeypatch, kind, number):
    write, is_as_before = WRITERS[kind]

    def tried(k):
        path = tmp_path / f"{k}" / "m"
        path.parent.mkdir()
        if kind == "save":
            for before in range(2):
                _io.save(path, TENSORS, {"k": before}, kind="Thing", keep_previous=True)
        else:
            path.mkdir() if kind == "folder" else path.write_text("old")
        with monkeypatch.context() as patch:
            refusing, error = Refusing(patch, k, number), None
            try:
                write(path)
            except OSError as raised:
                error = raised
        assert [p.name for p in path.parent.iterdir()] == ["m"], f"litter of call {k}"
        return path, error, refusing.calls

    path, error, calls = tried(-1)
    assert error is None
    assert not is_as_before(path)
    assert calls >= {"save": 10, "text": 4, "lines": 2, "folder": 4}[kind]
    for k in range(calls):
        path, error, _ = tried(k)
        if error is not None:
            assert (error.errno, error.filename) == (number, str(path))
            assert "\n" not in str(error)
        if kind == "save" and k == calls - 1:  # the entry in the folder above was not synced
            assert _io.load(path, kind="Thing")[1] == {}
        else:  # some calls may fail, such as the exchange where two renames do, too
            assert is_as_before(path) == (error is not None)


def test_files_that_may_not_grow_are_never_cut(tmp_path):
    resource = pytest.importorskip("resource")
    path, text = tmp_path / "m", tmp_path / "log"
    big = {"a": torch.rand(2000)}
    _io.save(path, big, {"k": list(range(500))}, kind="Thing")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    text.write_text("old\n")
    for limit in (1, 20, 100, 1000, 4000, 8000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            with pytest.raises(OSError, match=r"File too large: '.*m'"):
                _io.save(path, {"b": torch.rand(2000)}, {"k": list(range(900))}, kind="Thing")
            with pytest.raises(OSError, match=r"File too large|No space left"):
                _io.append_lines(text, {"record": "x" * 9000})
            with pytest.raises(OSError, match=r"File too large|No space left.*rows'"):
                write_rows(tmp_path / "rows")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert torch.equal(_io.load(path, kind="Thing")[0]["a"], big["a"])
        assert text.read_text() == "old\n"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "m"]


def test_too_little_space_is_known_before_anything_is_written(tmp_path, monkeypatch):
    _io.save(tmp_path / "m", TENSORS, CONFIG, kind="Thing")
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(_io, "save_file", lambda *_: pytest.fail("wrote"))
    wanted = r"No space left on device: 4\.1 MB are needed and 1\.0 MB are free.*m'"
    with pytest.raises(OSError, match=wanted) as error:
        _io.save(tmp_path / "m", {"a": torch.zeros(1_000_000)}, {}, kind="Thing")
    assert error.value.errno == errno.ENOSPC
    assert _io.load(tmp_path / "m", kind="Thing")[1] == CONFIG


def test_a_link_to_a_save_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "disk" / "m")
    for k in range(2):
        _io.save(tmp_path / "m", TENSORS, {"k": k}, kind="Thing")
        assert _io.load(tmp_path / "disk" / "m", kind="Thing")[1] == {"k": k}
        assert (tmp_path / "m").is_symlink()


def test_a_text_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    place = tmp_path / "text"
    _io.write_text(place, "first")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_io.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            _io.write_text(place, "second")
    assert place.read_text() == "first"
    assert list(tmp_path.iterdir()) == [place]
    with pytest.raises(ValueError, match=r"text must be a JSON file, got a damaged one.*delete it"):
        _io.read_json(place)


def test_pack_keeps_optimiser_states(tmp_path):
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, amsgrad=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tree = {"opt": optimizer.state_dict(), "pair": (1, [None, "x", True]), "empty": {}}
    tree["like a mark"] = {"$tuple": [1]}
    tensors, skeleton = _io.pack(tree)
    _io.save(tmp_path / "m", tensors, {"tree": skeleton}, kind="checkpoint")
    stored, config = _io.load(tmp_path / "m", kind="checkpoint")
    back = _io.unpack(stored, config["tree"])
    assert back["pair"] == tree["pair"]
    assert back["empty"] == {}
    assert back["like a mark"] == tree["like a mark"]
    assert config["tree"]["pair"] == {"$tuple": [1, [None, "x", True]]}  # the rest is plain JSON
    assert back["opt"]["param_groups"] == tree["opt"]["param_groups"]
    for key, state in tree["opt"]["state"].items():
        for name, value in state.items():
            assert torch.equal(back["opt"]["state"][key][name], value)


def test_pack_refuses_what_it_cannot_keep():
    with pytest.raises(TypeError, match=r"a\.0: a set cannot be saved"):
        _io.pack({"a": [{1, 2}]})
    with pytest.raises(TypeError, match="same name"):
        _io.pack({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}})


def test_unwritable_places_are_found_before_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(ValueError, match="path must be writable"):
        _io.check_writable(tmp_path / "new")


@dataclasses.dataclass(frozen=True)
class Inner:
    values: torch.Tensor
    rule: float | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    owner: nn.Module
    inner: Inner
    flag: bool


def test_records_are_put_together_around_what_was_left_out():
    owner = nn.Linear(1, 1)
    outer = Outer(owner, Inner(torch.arange(3), 0.5), True)
    parts = _io.take_apart(outer, leave_out=nn.Module)
    tensors, skeleton = _io.pack(parts)
    back = _io.put_together(
        _io.unpack(tensors, json.loads(json.dumps(skeleton))), globals(), owner=owner
    )
    assert back.owner is owner
    assert back.flag is True
    assert back.inner.rule == 0.5
    assert torch.equal(back.inner.values, outer.inner.values)
    with pytest.raises(ValueError, match="unknown record 'os'"):
        _io.put_together({"record": "os"}, globals())


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_flip_and_cut_is_found_and_the_checkpoint_before_is_used(tmp_path, count):
    path, draw = tmp_path / "m", random.Random(count)
    for k in range(2):
        _io.save(path, {"a": torch.full((500,), float(k))}, {"k": k}, kind="T", keep_previous=True)
    files = [path / name for name in ("model.safetensors", "config.json", "manifest.json")]
    whole = {file: file.read_bytes() for file in files}
    for _ in range(count):
        file = draw.choice(files)
        body = bytearray(whole[file])
        place = draw.randrange(len(body))
        if draw.random() < 0.5:
            body[place] ^= 1 << draw.randrange(8)
        else:
            del body[place:]
        file.write_bytes(body)
        tensors, config = _io.load(path, kind="T")
        # A flip in the white space of a manifest changes nothing that it says.
        same = file.name == "manifest.json" and config["k"] != 0
        if same:
            assert json.loads(bytes(body)) == json.loads(whole[file])
        assert bool((tensors["a"] == config["k"]).all())
        file.write_bytes(whole[file])
    assert _io.load(path, kind="T")[1] == {"k": 1}
