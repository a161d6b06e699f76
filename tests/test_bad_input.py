"""What a user can get wrong: one line that names the argument, exit status 2, nothing written."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from aeot import cli


def save(array, name="data.npy"):
    np.save(name, array)
    return name


def images(count=12, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


def with_nan():
    rows = np.zeros((10, 3))
    rows[4, 1] = np.nan
    return ["--data", save(rows)]


def empty_folder():
    os.mkdir("empty")
    return ["--data", "empty"]


def broken_folder():
    os.mkdir("broken")
    for k in range(3):
        with open(f"broken/{k}.png", "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n but no more than that")
    return ["--data", "broken"]


def one_image():
    os.mkdir("one")
    Image.fromarray(images()[0]).save("one/a.png")
    return ["--data", "one"]


def bad_masses():
    return ["--data", save(images()), "--masses", save(np.full(12, 0.1), "masses.npy")]


def too_few_masses():
    return ["--data", save(images()), "--masses", save(np.full(11, 1 / 11), "masses.npy")]


def text_file():
    with open("notes.txt", "w") as file:
        file.write("no data")
    return ["--data", "notes.txt"]


def damaged_array():
    with open("cut.npy", "wb") as file:
        file.write(b"\x93NUMPY and then nothing")
    return ["--data", "cut.npy"]


def pickled_array():
    np.save("objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return ["--data", "objects.npy"]


def file_in_the_way():
    with open("taken", "w") as file:
        file.write("mine")
    return ["--data", save(images()), "--out", "taken"]


def under_a_file():
    with open("taken", "w") as file:
        file.write("mine")
    return ["--data", save(images()), "--out", "taken/run"]


def folder_with_other_files():
    os.mkdir("thesis")
    with open("thesis/chapter.tex", "w") as file:
        file.write("precious")
    return ["--data", save(images()), "--out", "thesis", "--overwrite"]


def no_pseudo_files():
    return ["--data", save(images()), "--out", "/proc/aeot/run"]


def missing_config():
    return ["--config", "nowhere.yaml"]


def damaged_config():
    with open("bad.yaml", "w") as file:
        file.write("data: [unclosed\n")
    return ["--config", "bad.yaml"]


def unknown_key_in_config():
    with open("bad.yaml", "w") as file:
        file.write("data: digits\nlatent_size: 3\n")
    return ["--config", "bad.yaml"]


FIT = {  # what is wrong: (options, words the line must hold)
    "NaN in the data": (with_nan, ["finite", "(4, 1)"]),
    "an empty folder": (empty_folder, ["folder", "empty"]),
    "a folder of broken images": (broken_folder, ["folder", "3 unreadable", "0.png"]),
    "a single image": (one_image, ["data", "at least 2"]),
    "masses that do not sum to one": (bad_masses, ["masses must sum to 1", "1.2", "divide"]),
    "masses of another length": (too_few_masses, ["masses", "(12,)", "(11,)"]),
    "a five-dimensional array": (
        lambda: ["--data", save(np.zeros((2, 3, 8, 8, 1)))],
        ["shape", "(2, 3, 8, 8, 1)"],
    ),
    "images of five channels": (lambda: ["--data", save(np.zeros((9, 5, 8, 8)))], ["channels"]),
    "an array without rows": (lambda: ["--data", save(np.zeros((0, 3)))], ["shape", "(0, 3)"]),
    "values out of range": (lambda: ["--data", save(images() / 1.0)], ["[-1, 1]", "255"]),
    "words instead of numbers": (lambda: ["--data", save(np.array(["a", "b"]))], ["numeric"]),
    "a pickled array": (pickled_array, ["data", "objects.npy"]),
    "a damaged array": (damaged_array, ["data", "cut.npy"]),
    "a text file": (text_file, ["data", "notes.txt"]),
    "a missing path": (lambda: ["--data", "nowhere/at/all"], ["data", "nowhere/at/all", "exist"]),
    "an unknown data set": (lambda: ["--data", "mnits"], ["data", "mnits", "fashion-mnist"]),
    "a missing data set": (lambda: ["--data", "cifar10"], ["cifar10", "looked in", "download"]),
    "a missing root": (lambda: ["--data", "mnist", "--root", "gone"], ["root", "gone"]),
    "latent size 0": (lambda: ["--latent_dim", "0"], ["latent_dim", ">= 1", "0"]),
    "a latent size that is a word": (lambda: ["--latent_dim", "big"], ["latent_dim", "big"]),
    "tolerance 0": (lambda: ["--tol", "0"], ["tol", "> 0"]),
    "an unknown extension": (lambda: ["--extension", "cubic"], ["extension", "affine", "cubic"]),
    "an unknown architecture": (lambda: ["--architecture", "vit"], ["architecture", "vit"]),
    "negative steps": (lambda: ["--steps", "-5"], ["steps", "-5"]),
    "a negative seed": (lambda: ["--seed", "-1"], ["seed", "-1"]),
    "a batch of one": (lambda: ["--batch_size", "1"], ["batch_size", "2"]),
    "an unknown device": (lambda: ["--device", "abacus"], ["device", "abacus"]),
    "an unknown option": (lambda: ["--latent", "8"], ["--latent", "aeot fit --help"]),
    "a file where the run should go": (file_in_the_way, ["out", "taken", "choose another"]),
    "a file above the run": (under_a_file, ["out", "taken", "file"]),
    "a folder with other files": (folder_with_other_files, ["out", "thesis"]),
    "a place that takes no files": (no_pseudo_files, ["out", "/proc"]),
    "a missing config": (missing_config, ["config", "nowhere.yaml"]),
    "a damaged config": (damaged_config, ["config"]),
    "an unknown key in the config": (unknown_key_in_config, ["latent_size"]),
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
    make, words = FIT[case]
    options = make()
    before = tree()
    status = cli.main(["fit", "--out", "run", *options])
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
        (["sample", "nowhere"], ["path", "nowhere"]),
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
    "case", ["NaN in the data", "an empty folder", "latent size 0", "a file above the run"]
)
def test_the_process_ends_with_status_2_and_no_traceback(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, words = FIT[case]
    options = make()
    before = tree()
    done = subprocess.run(
        [sys.executable, "-m", "aeot", "fit", *options],
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
