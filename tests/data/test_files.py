import gzip
import importlib
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import aeot
from aeot.commands.fit import open_data


@pytest.fixture(scope="module")
def published():
    """The sets of torchvision, whose import takes seconds: only the process that needs it."""
    return importlib.import_module("torchvision.datasets")


def write(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path, **options)


def test_a_folder_of_everything(tmp_path):
    level = np.full((12, 12), 64, np.uint8)
    write(tmp_path / "gray.png", level)
    write(tmp_path / "deep.png", (level.astype(np.uint16) * 257))
    write(tmp_path / "colour.png", np.stack([level] * 3, -1))
    transparent = np.zeros((12, 12, 4), np.uint8)
    transparent[:6, :, 3] = 255
    write(tmp_path / "alpha.png", transparent)
    Image.fromarray(np.stack([level] * 3, -1)).quantize(4).save(tmp_path / "palette.gif")
    Image.fromarray(level).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(np.stack([level] * 4, -1), "CMYK").save(tmp_path / "print.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    with pytest.warns(UserWarning, match=r"skipped 1 unreadable image.*broken\.png"):
        data = aeot.images(tmp_path, size=12)
    assert data.info["files"] == sorted(data.info["files"])
    assert data.info["skipped"] == ["deeper/broken.png"]
    assert data.shape == (3, 12, 12)
    rows = dict(zip(data.info["files"], data.values, strict=True))
    for name in ("gray.png", "deep.png", "colour.png", "palette.gif"):
        assert bool((rows[name] == 64).all()), name
    assert bool((rows["alpha.png"][:, :6] == 0).all())  # opaque black
    assert bool((rows["alpha.png"][:, 6:] == 255).all())  # transparent: white paper
    assert data.labels is None


def test_gray_folders_stay_gray_and_channels_can_be_forced(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "a.png", rng.integers(0, 255, (8, 8), np.uint8))
    assert aeot.images(tmp_path, size=8).shape == (1, 8, 8)
    assert aeot.images(tmp_path, size=8, channels=3).shape == (3, 8, 8)
    write(tmp_path / "b.png", rng.integers(0, 255, (8, 8, 3), np.uint8))
    gray = aeot.images(tmp_path, size=8, channels=1)
    expected = np.asarray(Image.open(tmp_path / "b.png").convert("L")).astype(int)
    assert np.abs(gray.values[1, 0].numpy() - expected).max() <= 1


def test_exif_orientation_is_followed(tmp_path):
    array = np.zeros((8, 8, 3), np.uint8)
    array[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # half a turn
    write(tmp_path / "turned.png", array, exif=exif)
    assert bool((aeot.images(tmp_path, size=8).values[0, :, 7, 7] == 255).all())


def test_subfolders_name_the_classes(tmp_path):
    for name, level in (("boots", 10), ("shoes/left", 20), ("shoes/right", 30)):
        write(tmp_path / name / "x.png", np.full((8, 8), level, np.uint8))
    data = aeot.images(tmp_path, size=8)
    assert data.classes == ("boots", "shoes")
    assert data.labels.tolist() == [0, 1, 1]


def test_hidden_folders_are_passed_over(tmp_path):
    for name in ("x.png", ".ipynb_checkpoints/x.png", "boots/.cache/y.png"):
        write(tmp_path / name, np.full((8, 8), 9, np.uint8))
    data = aeot.images(tmp_path, size=8)
    assert (len(data), data.info["files"]) == (1, ["x.png"])


def test_bad_folders_say_so(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        aeot.images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="folder must hold images"):
        aeot.images(tmp_path)
    (tmp_path / "a.png").write_bytes(b"nothing")
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"folder must hold readable images.*a\.png.*b\.jpg"):
        aeot.images(tmp_path)


def test_two_files_of_one_name_are_no_pair(tmp_path):
    for name in ("a/x.png", "b/x.png", "b/x.bmp"):
        write(tmp_path / name, np.full((8, 8), 9, np.uint8))
    with pytest.raises(ValueError, match="hold one file of each name, got x.bmp and x.png in"):
        aeot.paired(tmp_path, size=8)


def test_pairs_from_halves_and_from_subfolders(tmp_path):
    left, right = np.full((8, 8), 10, np.uint8), np.full((8, 8), 90, np.uint8)
    write(tmp_path / "halves" / "x.png", np.hstack([left, right]))
    write(tmp_path / "sides" / "a" / "x.png", left)
    write(tmp_path / "sides" / "b" / "x.jpg", right)
    for folder in ("halves", "sides"):
        pairs = aeot.paired(tmp_path / folder, size=8)
        assert bool((pairs.a.values == 10).all()), folder
        assert bool((pairs.b.values == 90).all()), folder
    write(tmp_path / "sides" / "b" / "y.jpg", right)
    with pytest.raises(ValueError, match="no partner for y"):
        aeot.paired(tmp_path / "sides")


def idx(array):
    sizes = struct.pack(f">{array.ndim}i", *array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("name", "folder", "zipped"),
    [
        ("mnist", "MNIST/raw", False),
        ("fashion-mnist", "FashionMNIST/raw", True),
        ("mnist", ".", True),
    ],
)
def test_idx_files_in_every_layout(tmp_path, name, folder, zipped, published):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 28, 28)), rng.integers(0, 10, 6)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for part, kind, array in (
        ("t10k", "images-idx3", images),
        ("t10k", "labels-idx1", labels),
        ("train", "images-idx3", images[:2]),
        ("train", "labels-idx1", labels[:2]),
    ):
        path = tmp_path / folder / f"{part}-{kind}-ubyte"
        body = idx(array)
        if zipped:
            Path(f"{path}.gz").write_bytes(gzip.compress(body))
        else:
            path.write_bytes(body)
    data = aeot.dataset(name, tmp_path, split="test")
    assert np.array_equal(data.values[:, 0].numpy(), images)
    assert np.array_equal(data.labels.numpy(), labels)
    if not zipped:  # torchvision reads the very same files
        theirs = published.MNIST(tmp_path, train=False)
        assert torch.equal(theirs.data, data.values[:, 0])
    assert aeot.dataset(name, tmp_path, split="test", size=32).shape == (1, 32, 32)


def test_damaged_idx_files_are_named(tmp_path):
    body = gzip.compress(idx(np.zeros((6, 28, 28))))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(body[:-12])
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(6))[:-1]))
    with pytest.raises(ValueError, match="train-images.*damaged"):
        aeot.dataset("mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(body)
    with pytest.raises(ValueError, match="train-labels.*damaged"):
        aeot.dataset("mnist", tmp_path)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (b"\0\0\x08\3" + struct.pack(">3i", 2**31 - 1, 2**31 - 1, 2**31 - 1), None),
        (b"\0\0\x08\3" + struct.pack(">3i", -2, -28, 28) + bytes(1568), None),
        (b"\0\0\x08\3" + struct.pack(">3i", 0, 28, 28), None),
        (b"\0\0\x08\3" + struct.pack(">3i", 60_000, 28, 28) + bytes(99), None),
        (b"\0\0\x08\xff" + b"\1" * 2000, None),
        (b"\0\0\x0d\3" + struct.pack(">3i", 2, 2, 2) + bytes(32), None),
        (idx(np.zeros((6, 28))), None),
        (idx(np.zeros((6, 4, 4))) + b"more", None),
        (b"", None),
        (idx(np.zeros((6, 4, 4))), idx(np.full(6, 26))),
        (idx(np.zeros((6, 4, 4))), idx(np.zeros((6, 1)))),
        (idx(np.zeros((6, 4, 4))), idx(np.zeros(5))),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_that_say_what_they_are_not(images, labels, zipped, tmp_path):
    labels = idx(np.zeros(6)) if labels is None else labels
    for kind, body in (("images-idx3", images), ("labels-idx1", labels)):
        path = tmp_path / f"train-{kind}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(body) if zipped else body)
    with pytest.raises(ValueError, match="is damaged"):
        aeot.dataset("mnist", tmp_path)


def test_a_zipped_set_is_unpacked_no_further_than_it_says(tmp_path):
    head = b"\0\0\x08\3" + struct.pack(">3i", 6, 28, 28)
    bomb = gzip.compress(head + bytes(2**28))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(6))))
    tracemalloc.start()
    with pytest.raises(ValueError, match="train-images.*damaged"):
        aeot.dataset("mnist", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    broken = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (6, 28, 28)))))
    broken[40:60] = b"\xff" * 20  # of deflate, not of gzip
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(broken)
    with pytest.raises(ValueError, match="train-images.*damaged"):
        aeot.dataset("mnist", tmp_path)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


def test_only_the_published_pickles_are_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"cifar-10-batches-py is not the whole published set"):
        aeot.dataset("cifar10", tmp_path)
    assert not Path("unpickled").exists()


def test_cifar_files(tmp_path, monkeypatch, published):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3072), np.uint8)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        body = {"data": pixels, "labels": [4, 9]}
        (folder / name).write_bytes(pickle.dumps(body))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(published.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(published.cifar, "check_integrity", lambda *args: True)
    data = aeot.dataset("cifar10", tmp_path)
    assert (len(data), data.shape) == (10, (3, 32, 32))
    assert np.array_equal(data.values[1].numpy(), pixels[1].reshape(3, 32, 32))
    assert data.labels[:2].tolist() == [4, 9]


def test_celeba_files(tmp_path, monkeypatch, published):
    root = tmp_path / "celeba"
    names = [f"{i:06d}.jpg" for i in range(1, 4)]
    for i, name in enumerate(names):
        write(root / "img_align_celeba" / name, np.full((218, 178, 3), 60 * i, np.uint8))
    (root / "list_eval_partition.txt").write_text(
        "".join(f"{name} {part}\n" for name, part in zip(names, (0, 2, 0), strict=True))
    )
    (root / "identity_CelebA.txt").write_text("".join(f"{name} 1\n" for name in names))
    for file, columns in (("list_bbox_celeba.txt", 4), ("list_landmarks_align_celeba.txt", 10)):
        head = f"3\n{' '.join('c' * columns)}\n"
        rows = "".join(f"{name} {' '.join('1' * columns)}\n" for name in names)
        (root / file).write_text(head + rows)
    (root / "list_attr_celeba.txt").write_text(
        "3\nSmiling\n" + "".join(f"{name} 1\n" for name in names)
    )
    monkeypatch.setattr(published.CelebA, "_check_integrity", lambda self: True)
    data = aeot.dataset("celeba", tmp_path)
    assert (len(data), data.shape) == (2, (3, 64, 64))
    assert [int(row.float().mean().round()) for row in data.values] == [0, 120]
    (root / "img_align_celeba" / names[2]).write_bytes(b"\xff\xd8 no more")
    with pytest.raises(ValueError, match=rf"{names[2]} is damaged: .*; fetch it again"):
        aeot.dataset("celeba", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "celeba"])
def test_a_missing_set_says_where_it_looked(name, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}.*{tmp_path}.*download=True"):
        aeot.dataset(name, tmp_path)


@pytest.mark.parametrize(
    "shape", [(10**15, 4), (10**30,), (-5,), (2**62, 2**62), (2, 3), "x", None]
)
def test_numpy_files_that_say_what_they_are_not(shape, tmp_path):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape!r}}}".encode()
    header = header.ljust(117) + b"\n"
    path = tmp_path / "rows.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + b"few")
    with pytest.raises(ValueError, match="^data must be a NumPy file of numbers, got .*rows.npy"):
        open_data(str(path))
    np.savez(tmp_path / "more.npz", np.zeros(3))
    (tmp_path / "more.npz").rename(tmp_path / "more.npy")
    with pytest.raises(ValueError, match=r"more.npy, an archive; save one array"):
        open_data(str(tmp_path / "more.npy"))


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="Debian's package is absent"
)
def test_fashion_mnist_is_found_by_itself(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    data = aeot.dataset("fashion-mnist", split="test")
    assert data.labels.bincount().tolist() == [1000] * 10
    assert 72 < float(data.values.float().mean()) < 74  # published mean 0.2868 (test) x 255
