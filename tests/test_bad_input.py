"""What a user can get wrong: one line that names the argument, exit status 2, nothing written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aeot import cli


def write_files():
    """Everything that is wrong with files, and images.npy, with which nothing is wrong."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    nan = np.zeros((10, 3))
    nan[4, 1] = np.nan
    arrays = {
        "images": images,
        "nan": nan,
        "masses": np.full(12, 0.1),
        "few-masses": np.full(11, 1 / 11),
        "five-dimensional": np.zeros((2, 3, 8, 8, 1)),
        "five-channels": np.zeros((9, 5, 8, 8)),
        "no-rows": np.zeros((0, 3)),
        "bright": images / 1.0,
        "words": np.array(["a", "b"]),
        "objects": np.array([{"a": 1}], dtype=object),
    }
    for name, array in arrays.items():
        np.save(f"{name}.npy", array, allow_pickle=True)
    for folder in ("empty", "broken", "one", "thesis"):
        Path(folder).mkdir()
    for k in range(3):
        Path(f"broken/{k}.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more than that")
    Image.fromarray(images[0]).save("one/a.png")
    Path("thesis/chapter.tex").write_text("precious")
    Path("notes.txt").write_text("no data")
    Path("cut.npy").write_bytes(b"\x93NUMPY and then nothing")
    Path("taken").write_text("mine")
    Path("bad.yaml").write_text("data: [unclosed\n")
    Path("latent.yaml").write_text("data: digits\nlatent_dims: 3\n")


FIT = {  # what is wrong: (options, words the line must hold)
    "NaN in the data": ("--data nan.npy", ["finite", "(4, 1)"]),
    "an empty folder": ("--data empty", ["data", "images", "empty"]),
    "a folder of broken images": ("--data broken", ["data", "3 unreadable", "0.png"]),
    "a single image": ("--data one", ["data", "at least 2"]),
    "masses that do not sum to one": (
        "--data images.npy --masses masses.npy",
        ["masses must sum to 1", "1.2", "divide"],
    ),
    "masses of another length": (
        "--data images.npy --masses few-masses.npy",
        ["masses", "(12,)", "(11,)"],
    ),
    "a five-dimensional array": ("--data five-dimensional.npy", ["shape", "(2, 3, 8, 8, 1)"]),
    "images of five channels": ("--data five-channels.npy", ["channels"]),
    "an array without rows": ("--data no-rows.npy", ["shape", "(0, 3)"]),
    "values out of range": ("--data bright.npy", ["[-1, 1]", "255"]),
    "words instead of numbers": ("--data words.npy", ["numeric"]),
    "a pickled array": ("--data objects.npy", ["data", "objects.npy"]),
    "a damaged array": ("--data cut.npy", ["data", "cut.npy"]),
    "a text file": ("--data notes.txt", ["data", "notes.txt"]),
    "a missing path": ("--data nowhere/at/all", ["data", "nowhere/at/all", "exist"]),
    "an unknown data set": ("--data mnits", ["data", "mnits", "fashion-mnist"]),
    "a missing data set": ("--data cifar10", ["cifar10", "looked in", "download"]),
    "a missing root": ("--data mnist --root gone", ["root", "gone"]),
    "latent size 0": ("--latent_dim 0", ["latent_dim", ">= 1", "0"]),
    "a latent size that is a word": ("--latent_dim big", ["latent_dim", "big"]),
    "tolerance 0": ("--tol 0", ["tol", "> 0"]),
    "an unknown extension": ("--extension cubic", ["extension", "affine", "cubic"]),
    "an unknown architecture": ("--architecture vit", ["architecture", "vit"]),
    "negative steps": ("--steps -5", ["steps", "-5"]),
    "a negative seed": ("--seed -1", ["seed", "-1"]),
    "a batch of one": ("--batch_size 1", ["batch_size", "2"]),
    "an unknown device": ("--device abacus", ["device", "abacus"]),
    "an unknown option": ("--latent-dims 8", ["did you mean 'latent_dim'?", "aeot fit --help"]),
    "a file where the run should go": (
        "--data images.npy --out taken",
        ["out", "taken", "choose another"],
    ),
    "a file above the run": ("--data images.npy --out taken/run", ["out", "taken", "file"]),
    "a folder with other files": (
        "--data images.npy --out thesis --overwrite",
        ["out", "thesis"],
    ),
    "a place that takes no files": ("--data images.npy --out /proc/aeot/run", ["out", "/proc"]),
    "a missing config": ("--config nowhere.yaml", ["config", "nowhere.yaml"]),
    "a damaged config": ("--config bad.yaml", ["config"]),
    "an unknown key in the config": (
        "--config latent.yaml",
        ["latent_dims", "did you mean 'latent_dim'?"],
    ),
}


def tree():
    return sorted(
        (os.path.join(folder, name), os.path.getsize(os.path.join(folder, name)))
        for folder, _, names in os.walk(".")
        for name in names
    )


@pytest.mark.parametrize("case", FIT)
def test_fit_refuses(case, tmp_path, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("AEOT_DATA", raising=False)
    write_files()
    options, words = FIT[case]
    before = tree()
    status = cli.main(["fit", "--out", "run", *options.split()])
    out, err = capsys.readouterr()
    line = err.strip().splitlines()[-1]
    assert status == 2, err
    assert line.startswith("aeot: error: ")
    for word in words:
        assert word in line
    assert "Traceback" not in err
    assert sum(text.startswith("aeot: error") for text in err.splitlines()) == 1
    assert out == ""
    assert tree() == before, "a refused run must leave nothing behind"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sample", "nowhere"], ["run", "nowhere"]),
        (["sample"], ["run"]),
        (["smaple"], ["smaple", "sample"]),
        (["doctor", "--fix"], ["--fix"]),
        (["demo", "--out", "taken"], ["out", "taken"]),
    ],
)
def test_other_commands_refuse(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("aeot: error: ")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
    assert tree() == [("./taken", 4)]


@pytest.mark.parametrize(
    "case",
    [
        "a file above the run",
        # The default run has these in `test_fit_refuses`, without a process of their own.
        pytest.param("NaN in the data", marks=pytest.mark.slow),
        pytest.param("an empty folder", marks=pytest.mark.slow),
        pytest.param("latent size 0", marks=pytest.mark.slow),
    ],
)
def test_the_process_ends_with_status_2_and_no_traceback(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files()
    options, words = FIT[case]
    before = tree()
    done = subprocess.run(
        [sys.executable, "-m", "aeot", "fit", *options.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert tree() == before
