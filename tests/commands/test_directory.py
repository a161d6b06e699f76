"""Who may write into a run's folder, and what is in it after an end of any kind."""

import errno
import os
import subprocess
import sys

import pytest

from aeot import _io
from aeot.commands import directory
from aeot.commands.directory import RunDirectory, check_new

HOLDER = """
import sys
from aeot.commands.directory import RunDirectory
for line in sys.stdin:
    how, path = line.rstrip("\\n").split(" ", 1)
    with RunDirectory(path, {"k": 1}, last="summary.json") as run:
        if how == "begun":
            run.begin()
        print("held", flush=True)
        sys.stdin.readline()
    print("free", flush=True)
"""


class Holder:
    """Another process, which holds run directories as it is told."""

    def __init__(self):
        self.process, self.holds = None, False

    def __call__(self, path, how="begun"):
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOLDER],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self.told(f"{how} {path}", "held")
        self.holds = True
        return self.process

    def end(self):
        if self.holds and self.process.poll() is None:
            self.told("", "free")
        self.holds = False

    def told(self, line, answer):
        print(line, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == answer + "\n"


@pytest.fixture(scope="module")
def holder():
    holder = Holder()
    yield holder
    holder.process.kill()
    holder.process.communicate()


@pytest.fixture
def hold(holder):
    """Have another process hold a run directory until it is told to end, or killed."""
    yield holder
    holder.end()


def options(overwrite=None):
    return {"options": {"k": 1}, "last": "summary.json", "overwrite": overwrite}


@pytest.mark.parametrize("how", ["begun", "reading"])
def test_a_second_run_is_told_who_works_there(tmp_path, hold, how):
    first = hold(tmp_path / "run", how)
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    told = rf"out must be free, got .*run, where another run works: host .*process {first.pid}, "
    told += r"since 20\d\d-.*; wait until it ends, or choose another folder"
    for overwrite in (None, False, True):
        with pytest.raises(ValueError, match=told):
            RunDirectory(tmp_path / "run", **options(overwrite))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before


def test_a_run_that_comes_while_another_prepares_is_refused_too(tmp_path, hold):
    second = RunDirectory(tmp_path / "run", **options())  # nobody is there yet
    hold(tmp_path / "run", "reading")
    with pytest.raises(ValueError, match="where another run works"), second:
        pytest.fail("worked")


def test_a_lock_dies_with_its_holder(tmp_path, hold):
    first = hold(tmp_path / "run")
    first.kill()
    first.wait()
    assert (tmp_path / "run" / ".lock").is_file()
    with RunDirectory(tmp_path / "run", **options()):
        assert str(os.getpid()) in (tmp_path / "run" / ".lock").read_text()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.yaml"]


def test_a_run_that_is_over_leaves_its_folder_free_and_one_that_is_refused_leaves_none(
    tmp_path, hold
):
    hold(tmp_path / "run")
    hold.end()
    with RunDirectory(tmp_path / "run", **options()):
        pass
    with pytest.raises(RuntimeError), RunDirectory(tmp_path / "a" / "b", **options()):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_another_run_did_meanwhile_is_seen(tmp_path, hold):
    late = RunDirectory(tmp_path / "run", {"k": 2}, last="summary.json", overwrite=False)
    hold(tmp_path / "run")
    hold.end()
    with pytest.raises(ValueError, match="out must be"), late:
        pytest.fail("worked")


def test_a_lock_that_was_let_go_while_it_was_opened_is_none(tmp_path, monkeypatch):
    take, file = _io.lock, tmp_path / "run" / directory._LOCK
    (tmp_path / "run").mkdir()
    taken = []

    def late(handle):  # its holder ends between our opening and our locking
        if not taken:
            file.unlink()
        taken.append(handle)
        return take(handle)

    monkeypatch.setattr(_io, "lock", late)
    with RunDirectory(tmp_path / "run", **options()):
        assert len(taken) == 2
        assert str(os.getpid()) in file.read_text()
        with pytest.raises(ValueError, match="where another run works"):
            RunDirectory(tmp_path / "run", **options())


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_io.fcntl, "flock", refuse)
    with RunDirectory(tmp_path / "run", **options()) as run:
        run.begin()
    assert "file system without locks" in caplog.text


def test_without_the_module_of_locks_runs_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(_io, "fcntl", None)
    with RunDirectory(tmp_path / "run", **options()) as run:
        run.begin()
    _io.save(tmp_path / "m", {}, {}, kind="Thing")
    assert _io.load(tmp_path / "m", kind="Thing") == ({}, {})


def test_a_lock_alone_is_an_empty_folder(tmp_path):
    (tmp_path / directory._LOCK).write_text("host gone, process 1, since long")
    assert check_new(tmp_path) == tmp_path


def test_a_log_holds_whole_lines(tmp_path, monkeypatch):
    with RunDirectory(tmp_path / "run", **options()) as run:
        run.begin()
        run.log("joint", {"step": 1})
        before = (tmp_path / "run" / "log.jsonl").read_bytes()
        with monkeypatch.context() as patch:
            write = os.write
            patch.setattr(os, "write", lambda handle, text: write(handle, text[:9]))  # a full disk
            with pytest.raises(OSError, match=r"No space left on device: '.*log.jsonl'"):
                run.log("joint", {"step": 2})
        assert (tmp_path / "run" / "log.jsonl").read_bytes() == before
