"""Images in a file: what memory would hold, read a few rows at a time."""

import copy
import gc
import os
import pickle
import warnings

import hostile_images as hostile
import numpy as np
import pytest
import torch
from PIL import Image

import aeot
from aeot.data.stored import RowWriter, StoredRows

COLOUR = Image.new("RGB", (12, 9), (200, 30, 90))


def table(n=40, shape=(3, 6, 6), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture
def stored(tmp_path):
    np.save(tmp_path / "rows.npy", table())
    return StoredRows(tmp_path / "rows.npy")


@pytest.mark.parametrize(
    "index",
    [
        0, -1, slice(None), slice(3, 9), slice(30, 2, 5), slice(0, 0), [5, 5, 0, 39], [],
        torch.tensor([7, 2, 2, 3, 4]), torch.arange(40) % 3 == 0, torch.tensor([[1, 2], [0, 9]]),
    ],
)  # fmt: skip
def test_rows_are_those_of_an_array(stored, index):
    wanted = torch.from_numpy(table())
    if isinstance(index, list):
        index = torch.tensor(index, dtype=torch.int64)
    assert torch.equal(stored[index], wanted[index])
    assert stored[index].dtype == torch.uint8
    if not isinstance(index, int) and getattr(index, "ndim", 1) == 1:
        part = stored.only(index)
        assert part.shape == wanted[index].shape
        assert torch.equal(part[:], wanted[index])
        if len(part) > 2:
            assert torch.equal(part.only([2, 0])[1], wanted[index][0])


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (1, 5, 4), (5, 4, 3), (5, 4, 1), (3, 3, 3)])
def test_images_may_lie_in_any_way_that_arrays_may(tmp_path, shape):
    np.save(tmp_path / "rows.npy", table(9, shape))
    wanted = aeot.tensors(table(9, shape)).values
    assert torch.equal(StoredRows(tmp_path / "rows.npy")[:], wanted)


def test_a_copy_of_another_process_and_a_deleted_file_read_on(stored):
    wanted = torch.from_numpy(table())
    assert torch.equal(pickle.loads(pickle.dumps(stored.only([3, 1])))[:], wanted[[3, 1]])
    assert torch.equal(copy.copy(stored).to("cpu")[1:3], wanted[1:3])
    stored.path.unlink()
    assert torch.equal(stored[4:6], wanted[4:6])


def test_other_files_and_changed_ones_are_named(stored, tmp_path):
    wrong = tmp_path / "wrong.npy"
    for rows in (table().astype(np.int64), table()[0, 0], np.asfortranarray(table()), table(0)):
        np.save(wrong, rows)
        with pytest.raises(ValueError, match=r"path must hold images .* as bytes, .*got .*wrong"):
            StoredRows(wrong)
    wrong.write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"path must be a \.npy file, got .*wrong"):
        StoredRows(wrong)
    with open(stored.path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="rows.npy has changed: it ends before row 40"):
        stored[:]


def filled(folder, kinds):
    """A folder with a class for each letter: gray and colour files, deep ones, a damaged one."""
    for k, kind in enumerate(kinds):
        place = folder / "ab"[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        if kind == "damaged":
            (place / f"{k}.png").write_bytes(hostile.saved("PNG")[:40])
        elif kind == "float":
            deep = np.linspace(0, 1, 99, dtype=np.float32).reshape(9, 11)
            Image.fromarray(deep).save(place / f"{k}.tif")
        else:
            rows = table(1, (9, 12, 3) if kind == "colour" else (9, 12), seed=k)[0]
            Image.fromarray(rows).save(place / f"{k}.png")
    return folder


KINDS = {
    "mixed": ["gray", "damaged", "colour", "float", "gray", "colour", "damaged"],
    "gray": ["damaged", "gray", "float", "gray"],
    "colour": ["colour", "colour"],
}


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_a_stored_folder_is_the_one_in_memory(tmp_path, name, channels):
    folder = filled(tmp_path / "folder", KINDS[name])
    held = aeot.images(folder, size=8, channels=channels)
    kept = aeot.images(folder, size=8, channels=channels, store=tmp_path / "x.npy")
    assert torch.equal(kept[:], held[:])
    assert torch.equal(kept.labels, held.labels)
    assert (kept.classes, kept.info, kept.shape) == (held.classes, held.info, held.shape)
    assert np.array_equal(np.load(tmp_path / "x.npy"), held.values.numpy())
    assert "x.npy" in repr(kept)
    np.save(tmp_path / "own.npy", held.values.numpy())
    with pytest.raises(ValueError, match="store must be a new file, got .*own.npy, which exists"):
        aeot.images(folder, size=8, store=tmp_path / "own.npy")
    with pytest.raises(ValueError, match="store must lie in a folder that can be written"):
        aeot.images(folder, size=8, store=tmp_path / "none" / "x.npy")


@pytest.mark.parametrize("name", KINDS)
def test_the_same_call_takes_up_what_it_stored(tmp_path, name, monkeypatch, recwarn):
    folder, place = filled(tmp_path / "folder", KINDS[name]), tmp_path / "x.npy"
    first = aeot.images(folder, size=8, store=place)
    told = [str(warning.message) for warning in recwarn]
    before = place.stat()
    recwarn.clear()
    monkeypatch.setattr("aeot.data.folder._read_all", None)  # no image is read again
    again = aeot.images(folder, size=8, store=place)
    assert [str(warning.message) for warning in recwarn] == told
    assert (place.stat().st_ino, place.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert torch.equal(again[:], first[:])
    assert torch.equal(again.labels, first.labels)
    assert (again.classes, again.info, again.shape) == (first.classes, first.info, first.shape)
    if "damaged" in KINDS[name]:
        with pytest.raises(ValueError, match="folder must hold no other images if strict"):
            aeot.images(folder, size=8, store=place, strict=True)


def rewritten(folder):
    Image.new("L", (5, 5), 9).save(folder / "a" / "0.png")


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (None, {"size": 9}, "another size"),
        (None, {"channels": 3}, "another channels"),
        (None, {"white": 2.0, "max_pixels": 9}, "another white, another max_pixels"),
        (rewritten, {}, "another set of files"),
        (
            lambda folder: (folder / "a" / "0.png").rename(folder / "a" / "7.png"),
            {},
            "set of files",
        ),
        (lambda folder: (folder / "b" / "1.png").unlink(), {}, "another set of files"),
        (lambda folder: os.utime(folder / "a" / "0.png", (1, 1)), {}, "another set of files"),
    ],
)
def test_a_store_of_other_images_is_refused(tmp_path, change, options, told):
    folder, place = filled(tmp_path / "folder", ["colour"] * 3), tmp_path / "x.npy"
    aeot.images(folder, size=8, store=place)
    if change is not None:
        change(folder)
    with pytest.raises(ValueError, match=rf"store must be new, or .*x.npy, made with .*{told}; "):
        aeot.images(folder, **{"size": 8, "store": place, **options})
    assert len(StoredRows(place)) == 3


def test_a_store_of_another_version_is_refused(tmp_path, monkeypatch):
    folder, place = filled(tmp_path / "folder", ["gray"]), tmp_path / "x.npy"
    aeot.images(folder, size=8, store=place)
    monkeypatch.setattr("aeot.data.folder.__version__", "9.9")
    with pytest.raises(ValueError, match="made with another version of aeot"):
        aeot.images(folder, size=8, store=place)


def test_a_store_that_was_changed_is_refused(tmp_path):
    folder, place = filled(tmp_path / "folder", ["gray"] * 4), tmp_path / "x.npy"
    aeot.images(folder, size=8, store=place)
    body = bytearray(place.read_bytes())
    for wrong, told in ((300, "which has changed; delete it"), (len(body) - 1, "which exists")):
        damaged = bytearray(body)
        damaged[wrong] ^= 1
        place.write_bytes(damaged)
        with pytest.raises(ValueError, match=told):
            aeot.images(folder, size=8, store=place)
    place.write_bytes(body[:-30])
    with pytest.raises(ValueError, match="store must be a new file, got .*which exists"):
        aeot.images(folder, size=8, store=place)


def test_a_file_is_closed_when_nobody_reads_from_it(stored):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        part = stored.only([1, 2])
        wanted, held = part[:], stored._file
        vars(stored).clear()
        gc.collect()
        assert torch.equal(part[:], wanted)
        assert not held.closed
        del part, held
        gc.collect()
    assert not seen


def test_a_disk_that_takes_a_part_of_a_row_gets_the_rest(tmp_path):
    writer = RowWriter(tmp_path / "x.npy", 2, (1, 6, 6))
    file = writer._file

    class Slow:
        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, body):
            return file.write(body[:10])

    writer._file = Slow()
    for k, row in enumerate(torch.from_numpy(table(2, (1, 6, 6)))):
        writer.put(k, row)
    writer._file = file
    writer.close([0, 1], 1)
    assert np.array_equal(np.load(tmp_path / "x.npy"), table(2, (1, 6, 6)))


def test_a_full_disk_is_told_and_skips_no_file(tmp_path, monkeypatch):
    folder = filled(tmp_path / "folder", ["gray"] * 4)

    class Full:
        def __init__(self, file):
            self.file = file

        def seek(self, place):
            return self.file.seek(place)

        def write(self, body):
            raise OSError(28, "No space left on device")

    made = RowWriter.__init__

    def small(self, *arguments):
        made(self, *arguments)
        self._file = Full(self._file)

    monkeypatch.setattr(RowWriter, "__init__", small)
    with pytest.raises(OSError, match="No space left"):
        aeot.images(folder, size=8, store=tmp_path / "x.npy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder"]


def test_equal_rows_are_found_without_a_copy(tmp_path):
    rows = table(30)
    rows[[4, 9]] = rows[2]
    np.save(tmp_path / "rows.npy", rows)
    for values in (StoredRows(tmp_path / "rows.npy"), torch.from_numpy(rows)):
        first, kind = aeot.data.distinct(values)
        assert len(first) == 28
        assert torch.equal(kind[[4, 9]], kind[[2, 2]])
        assert np.array_equal(rows[first[kind]], rows)
    wide = torch.zeros(3, 40)
    wide[1, 7] = -0.0
    wide[2, 7] = 1e-30
    assert aeot.data.distinct(wide)[1].tolist() == [0, 0, 1]
    assert [len(part) for part in aeot.data.distinct(wide[:0])] == [0, 0]


class Pooled:
    """Codes of 16 numbers by averaging, and back."""

    def encode(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 4)

    def decode(self, z):
        return torch.nn.functional.interpolate(z, (128, 128))


def test_a_fit_holds_few_of_its_rows_at_a_time(tmp_path, monkeypatch):
    """And finds the same bits."""
    n = 1500
    small = torch.from_numpy(table(n, (1, 4, 4)))
    big = torch.nn.functional.interpolate(small.float(), (128, 128)).to(torch.uint8).numpy()
    np.save(tmp_path / "rows.npy", big)
    held = aeot.data.Dataset(torch.from_numpy(big))
    kept = aeot.data.Dataset(StoredRows(tmp_path / "rows.npy"))
    most, read = [], StoredRows.__getitem__

    def counted(self, index):
        rows = read(self, index)
        most.append(rows.numel())
        return rows

    monkeypatch.setattr(StoredRows, "__getitem__", counted)
    found = []
    for data in (held, kept):  # all of a fit that looks at rows; the transport looks at codes
        model = aeot.AEOT(autoencoder=Pooled(), device="cpu").fit_autoencoder(data, held_out=0.2)
        codes, losses = model.encode(data), model.autoencoder_.losses_
        found.append((codes, losses, aeot.data.distinct(data.values)[1]))
    assert max(most) <= 1 << 24 < big.size
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][2], found[1][2])


def test_training_on_stored_rows_gives_the_same_bits(tmp_path):
    rows = table(80, (1, 8, 8))
    np.save(tmp_path / "rows.npy", rows)
    kept = aeot.data.Dataset(StoredRows(tmp_path / "rows.npy"))
    options = {"latent_dim": 4, "width": 4, "batch_size": 20, "precision": "float32"}
    models = [
        aeot.Autoencoder(**options, flips=True, device="cpu").fit(data, steps=3)
        for data in (aeot.tensors(rows), kept)
    ]
    assert torch.equal(*(model.encode(rows) for model in models))
    assert models[0].losses_ == models[1].losses_
