"""What a folder may hold beside good images: each thing is said once and costs nothing else."""

import json
import os
import shutil
import threading
import time
import warnings
from pathlib import Path

import hostile_images as hostile
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import aeot
from aeot import cli
from aeot.data import image_file

GOOD = hostile.saved("PNG")
DARK_AND_LIGHT = torch.tensor([40] * 4 + [200] * 4)


def quietly(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return aeot.images(*arguments, **options)


@pytest.fixture(scope="module")
def spoilt():
    return hostile.spoilt()


def test_every_hostile_file_is_named_and_the_others_are_read(tmp_path, spoilt, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    names = hostile.write(tmp_path, {"b.png": GOOD, **spoilt, "y.png": GOOD})[1:-1]
    names += hostile.special(tmp_path)
    assert len(names) > 90
    before = list(warnings.filters)
    with pytest.warns(UserWarning, match="^skipped ") as said:
        data = aeot.images(tmp_path, size=8)
    assert warnings.filters == before
    assert sorted(data.info["skipped"]) == sorted(names)
    assert data.info["files"] == ["b.png", "y.png"]
    assert bool((data.values == DARK_AND_LIGHT).all())
    assert data.info["reasons"].keys() == set(names)
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert str(said[0].message).isprintable()
    for reason in data.info["reasons"].values():
        assert reason == " ".join(reason.split())
        assert 0 < len(reason) <= 200
    json.dumps(data.info)


def test_each_hostile_file_gives_one_line(tmp_path, spoilt):
    for k, (name, body) in enumerate(spoilt.items()):
        folder = tmp_path / str(k)
        hostile.write(folder, {"good.png": GOOD, name: body})
        with pytest.warns(UserWarning, match="^skipped ") as said:
            data = aeot.images(folder, size=8)
        assert (len(data), data.info["skipped"]) == (1, [name])
        assert len(said) == 1
        written = name.replace("\n", "\\n")
        assert f"skipped 1 unreadable image(s): {folder / written}: " in str(said[0].message)
        with pytest.raises(ValueError, match="^folder must hold no other images if strict, got 1 "):
            aeot.images(folder, size=8, strict=True)


def test_a_folder_of_hostile_files_alone_is_one_error(tmp_path, spoilt):
    hostile.write(tmp_path, spoilt)
    count = len(spoilt)
    with pytest.raises(ValueError, match=f"folder must hold readable images, got {count} unr"):
        aeot.images(tmp_path)


def test_only_the_orientation_of_metadata_is_wanted(tmp_path):
    names = hostile.write(tmp_path, hostile.odd())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = aeot.images(tmp_path, size=8, strict=True)
    assert sorted(data.info["files"]) == sorted(names)
    assert int((data.values.int() - DARK_AND_LIGHT).abs().max()) <= 8  # JPEG at an edge


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("deep"),
        RuntimeError("of a\nlibrary"),
        ZeroDivisionError("zero"),
        AttributeError("none"),
        TypeError("type"),
        PermissionError(13, "Permission denied"),
        Image.DecompressionBombWarning("large"),
        KeyError("key"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("place", ["open", "load"])
def test_whatever_a_file_raises_is_its_own(error, place, tmp_path, monkeypatch):
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(GOOD + bytes(k))
    owner = {"open": Image, "load": ImageFile.ImageFile}[place]
    whole = getattr(owner, place)
    lock = threading.Lock()
    bad = []

    def fails(body, *arguments, **options):
        file = body if place == "open" else body.fp
        name = getattr(file, "name", "")
        if str(name).endswith("2.png"):
            with lock:
                bad.append(name)
            raise error
        return whole(body, *arguments, **options)

    monkeypatch.setattr(owner, place, fails)
    data = quietly(tmp_path, size=8)
    assert bad
    assert data.info["skipped"] == ["2.png"]
    assert len(data) == 3
    assert data.info["reasons"]["2.png"]


def test_an_interruption_is_no_damaged_file(tmp_path, monkeypatch):
    for k in range(200):
        (tmp_path / f"{k}.png").write_bytes(GOOD)
    read = []

    def interrupted(path, *_, **__):
        read.append(path)
        time.sleep(0.01)  # as long as a file takes
        raise KeyboardInterrupt

    monkeypatch.setattr(image_file, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        aeot.images(tmp_path, size=8)
    assert len(read) < 150  # it does not go through all of them first


def test_files_that_vanish_or_shrink_while_they_are_read(tmp_path, monkeypatch):
    for name in "abc":
        Image.fromarray(np.full((400, 400), 9, np.uint8)).save(tmp_path / f"{name}.bmp")
    whole = image_file._opened

    def opened(body):
        file = whole(body)
        if body.name.endswith("a.bmp"):
            os.truncate(body.name, 2000)  # a file mapped into memory would end the process
        if body.name.endswith("b.bmp"):
            os.unlink(body.name)
        return file

    monkeypatch.setattr(image_file, "_opened", opened)
    data = quietly(tmp_path, size=8)
    assert data.info["skipped"] == ["a.bmp"]  # the other one is held open


# -- the memory of pixels


GRAY = torch.zeros(1, 8, 8, dtype=torch.uint8)


def test_images_of_too_many_pixels_are_not_decoded(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(GOOD)
    Image.new("RGB", (50, 50)).save(tmp_path / "b.png")
    assert len(aeot.images(tmp_path, size=8, max_pixels=2500)) == 2
    decoded = []
    monkeypatch.setattr(image_file, "_bytes", lambda *_: decoded.append(0) or GRAY)
    with pytest.warns(UserWarning, match="50 x 50 pixels, more than max_pixels=2499"):
        assert len(aeot.images(tmp_path, size=8, max_pixels=2499)) == 1
    assert len(decoded) == 1
    for bad in (0, -1, 1.5, None):
        with pytest.raises(ValueError, match="^max_pixels must be a whole number >= 1"):
            aeot.images(tmp_path, max_pixels=bad)


def test_readers_wait_for_room():
    room, inside, most = image_file.Room(100), [], []
    lock = threading.Lock()

    def enter(side):
        with room.of(side, 10):
            with lock:
                inside.append(side * 10)
                most.append(sum(inside))
            threading.Event().wait(0.002)
            with lock:
                inside.remove(side * 10)

    threads = [threading.Thread(target=enter, args=(1 + k % 10,)) for k in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 60
    assert 60 < max(most) <= 100
    with pytest.raises(ValueError, match="max_pixels=100"), room.of(11, 10):
        pass


# -- what lies in a folder


def test_links_are_followed_and_each_file_is_taken_once(tmp_path):
    store, root = tmp_path / "store", tmp_path / "root"
    hostile.write(store / "cats", {"1.png": GOOD, "2.png": GOOD})
    hostile.write(store / "dogs", {"1.png": GOOD})
    hostile.write(root / "birds", {"1.png": GOOD})
    (root / "cats").symlink_to(store / "cats")
    (root / "felines").symlink_to(store / "cats")
    (root / "birds" / "2.png").symlink_to(store / "dogs" / "1.png")
    (root / "birds" / "loop").symlink_to(root)
    (root / "birds" / "here").symlink_to(".")
    (root / "a.png").symlink_to(root / "birds" / "1.png")  # sorted first, but only a link
    (store / "cats" / "back").symlink_to(root / "birds")
    with pytest.warns(UserWarning, match=r"5 link\(s\) lead to what is in the folder already"):
        data = aeot.images(root, size=8)
    assert data.info["files"] == ["birds/1.png", "birds/2.png", "cats/1.png", "cats/2.png"]
    assert data.classes == ("birds", "cats")
    assert data.info["repeated"] == {
        "a.png": "birds/1.png",
        "birds/here": "birds",
        "birds/loop": ".",
        "cats/back": "birds",
        "felines": "cats",
    }
    assert data.info["skipped"] == []


def test_the_folder_itself_may_be_a_link(tmp_path):
    hostile.write(tmp_path / "store", {"1.png": GOOD})
    (tmp_path / "link").symlink_to("store")
    assert aeot.images(tmp_path / "link", size=8).info["files"] == ["1.png"]


def test_hard_links_and_copies_are_files_of_their_own(tmp_path):
    hostile.write(tmp_path, {"1.png": GOOD, "2.png": GOOD})
    os.link(tmp_path / "1.png", tmp_path / "3.png")
    assert len(aeot.images(tmp_path, size=8)) == 3


def test_other_files_are_counted_and_what_desktops_leave_is_not(tmp_path):
    quiet = [".hidden.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/._1.png", "._1.png"]
    for name in [*quiet, "1.png", "notes.TXT", "more.txt", "README", "labels.csv", "x/table.csv"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(GOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = aeot.images(tmp_path, size=8, strict=True)
    assert data.info["files"] == ["1.png"]
    assert data.info["others"] == {".csv": 2, ".txt": 2, "no suffix": 1}


def test_images_of_other_formats_are_named(tmp_path):
    hostile.write(tmp_path, {"1.png": GOOD, "2.HEIC": b"x", "3.svg": b"<svg/>", "4.cr2": b"x"})
    with pytest.warns(UserWarning, match=r"skipped 3 .*2.HEIC: .heic is not read; save it as PNG"):
        data = aeot.images(tmp_path, size=8)
    assert data.info["skipped"] == ["2.HEIC", "3.svg", "4.cr2"]
    (tmp_path / "1.png").unlink()
    (tmp_path / "notes.txt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"folder must hold images, got none in .*1 .txt.*2.HEIC"):
        aeot.images(tmp_path)


def test_nothing_but_the_listed_formats_is_tried(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: started.append(a))
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(a))
    Image.init()
    file = tmp_path / "figure.png"
    Image.new("RGB", (8, 8)).save(file, "EPS")
    (tmp_path / "1.png").write_bytes(GOOD)
    assert quietly(tmp_path, size=8).info["skipped"] == ["figure.png"]
    assert started == []


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    hostile.write(tmp_path / "open", {"1.png": GOOD})
    hostile.write(tmp_path / "closed", {"1.png": GOOD})
    scan = os.scandir

    def refuse(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"closed: Permission denied"):
        data = aeot.images(tmp_path, size=8)
    assert data.info["skipped"] == ["closed"]
    assert data.info["files"] == ["open/1.png"]


@pytest.mark.filterwarnings("ignore:.*lead to what is in the folder already:UserWarning")
def test_the_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    names = ["b/1.png", "a/10.png", "a/9.png", "a-b/1.png", "B/1.png", "a/\u00e9.png"]
    root, outside = tmp_path / "images", tmp_path / "outside"
    for k, path in enumerate([*(root / name for name in names), outside / "1.png"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), k).save(path)
    for name in "dce":  # the first of them by name counts
        (root / name).symlink_to(outside)
    expected = ["B/1.png", "a/10.png", "a/9.png", "a/\u00e9.png", "a-b/1.png", "b/1.png", "c/1.png"]
    first = aeot.images(root, size=8)
    assert first.info["files"] == expected
    assert first.info["repeated"] == {"d": "c", "e": "c"}
    assert first.classes == ("B", "a", "a-b", "b", "c")
    scan = os.scandir

    class Backwards:
        def __init__(self, place):
            self.entries = iter(sorted(scan(place), key=lambda e: e.name, reverse=True))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __iter__(self):
            return self.entries

        def __next__(self):
            return next(self.entries)

        def close(self):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    second = aeot.images(root, size=8)
    assert second.info == first.info
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.labels, second.labels)


# -- pairs


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_pair_with_a_damaged_half_is_skipped(side, tmp_path):
    for name in "ab":
        hostile.write(tmp_path / name, {f"{k}.png": GOOD for k in range(3)})
    (tmp_path / side / "1.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=rf"skipped 1 unreadable image.*{side}/1.png: damaged"):
        pairs = aeot.paired(tmp_path, size=8)
    assert len(pairs.a) == len(pairs.b) == 2
    assert pairs.a.info["files"] == ["a/0.png", "a/2.png"]
    assert pairs.b.info["files"] == ["b/0.png", "b/2.png"]
    assert pairs.a.info["skipped"] == [f"{side}/1.png"]
    with pytest.raises(ValueError, match="folder must hold no other images if strict"):
        aeot.paired(tmp_path, size=8, strict=True)
    shutil.rmtree(tmp_path / side)
    hostile.write(tmp_path / side, {f"{k}.png": b"none" for k in range(3)})
    with pytest.raises(ValueError, match="folder must hold readable images, got 3 unreadable"):
        aeot.paired(tmp_path, size=8)


def test_pairs_in_halves_skip_what_is_damaged(tmp_path):
    whole = np.hstack([np.full((8, 8), 10, np.uint8), np.full((8, 8), 90, np.uint8)])
    Image.fromarray(whole).save(tmp_path / "good.png")
    hostile.write(
        tmp_path, {"cut.png": GOOD[:40], "narrow.png": hostile.png(1, 8, 8, 0, bytes(16))}
    )
    with pytest.warns(UserWarning, match="skipped 2 unreadable"):
        pairs = aeot.paired(tmp_path, size=8)
    assert pairs.a.values.unique().tolist() == [10]
    assert pairs.b.values.unique().tolist() == [90]
    assert pairs.b.info["skipped"] == ["cut.png", "narrow.png"]


def test_sides_of_pairs_may_be_links(tmp_path):
    hostile.write(tmp_path / "store", {"1.png": GOOD})
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "store")
    (root / "b").symlink_to(tmp_path / "store")
    assert len(aeot.paired(root, size=8).a) == 1


# -- commands


def test_what_was_skipped_is_in_the_summary(tmp_path, spoilt, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    some = dict(list(spoilt.items())[:5])
    hostile.write(Path("faces"), {"notes.txt": b"x", **some})
    rng = np.random.default_rng(0)
    for k in range(12):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(f"faces/{k}.png")
    how = ["fit", "--data", "faces", "--size=8", "--out", "run", "--steps=2", "--latent-dim=2"]
    assert cli.main([*how, "--strict"]) == 2
    assert not Path("run").exists()
    error = capfd.readouterr().err
    assert "data must hold no other images if strict, got 5 unreadable file(s)" in error
    assert cli.main([*how, "--tol", "0.3"]) == 0
    assert "skipped 5 unreadable image(s): " in capfd.readouterr().err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["skipped"].keys() == some.keys()
    assert summary["others"] == {".txt": 1}
