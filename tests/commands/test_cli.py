import ctypes
import importlib.metadata
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
import typing

import numpy as np
import pytest
import torch
from PIL import Image

import aeot
from aeot import cli
from aeot.commands import compare, fit


def aeot_command(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "aeot", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **options,
    )


def printed(script):
    """What a script prints that may load nothing heavy."""
    script += "\nassert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    script = "import contextlib, sys, aeot\nfrom aeot import cli\n" + script
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_command_without_loading_torch():
    assert "jsonargparse" not in printed("cli.main(['--help']); print(*sys.modules)")
    told = printed("assert 'AEOT' in dir(aeot); cli.main(['--help'])")
    for name, entry in cli.COMMANDS.items():
        assert f"  {name}" in told
        assert entry[1] in told


def test_the_help_of_every_command_loads_no_torch():
    told = printed(
        "for name in cli.COMMANDS:\n"
        "    with contextlib.suppress(SystemExit): cli.main([name, '--help'])"
    )
    assert [told.count(f"usage: aeot {name} ") for name in cli.COMMANDS] == [1] * len(cli.COMMANDS)
    assert "How wrong the transport may be" in told  # of the estimator


@pytest.mark.parametrize(
    "place", [place for entry in cli.COMMANDS.values() for place in entry[::2]]
)
def test_options_read_from_the_source_are_those_of_the_code(place):
    read, real = cli._signature(place), cli._load(place)
    assert inspect.getdoc(read) == inspect.getdoc(real)
    given, wanted = (
        {name: (p.default, p.annotation) for name, p in inspect.signature(x).parameters.items()}
        for x in (read, real)
    )
    wanted.pop("model", None)
    # What takes any object, such as networks of one's own, cannot be typed: it is no option. Nor
    # can the types of other modules among several, such as a function.
    wanted = {
        name: (default, " | ".join(kind for kind in str(kinds).split(" | ") if "." not in kind))
        for name, (default, kinds) in wanted.items()
        if kinds != "Any"
    }
    assert given == wanted


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"aeot {aeot.__version__}\n"


def test_both_spellings_of_an_option_are_read():
    assert cli._underscored("--latent-dim=3-4") == "--latent_dim=3-4"
    assert cli._underscored("a-b") == "a-b"


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("a b --seed 3", ['["a", "b"]', "--seed", "3"]),
        (
            "--seed=3 --metrics fd kid --out o a b",
            ['["a", "b"]', "--seed=3", "--metrics", '["fd", "kid"]', "--out", "o"],
        ),
        ("--metrics=fd -- a -b", ['["a", "-b"]', "--metrics", '["fd"]']),
        ("[a,b] --metrics [fd,kid]", ["[a,b]", "--metrics", "[fd,kid]"]),
        ("--models a b", ["--models", '["a", "b"]']),
        ("a --metrics", ['["a"]', "--metrics", "[]"]),
        ("", []),
    ],
)
def test_words_are_gathered_into_lists(typed, read):
    assert cli._gathered(compare.compare, typed.split()) == read


@pytest.mark.parametrize(
    "name", ["r😀un", "é\u4e2d 𝕏", "x" * 300, 'a"b\\ud83d', "\x7f", "null", "1e3", "#"]
)
@pytest.mark.parametrize("command", ["report", "compare"])
def test_names_in_lists_arrive_as_typed(command, name, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_load", lambda place: lambda **options: seen.append(options))
    assert cli.main([command, name, "b"]) == 0
    assert [name, "b"] in seen[0].values()


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("faces/ --seed 3", ["--seed", "3", "--data=faces/"]),
        ("--seed=3 faces/ --overwrite=true", ["--seed=3", "--overwrite=true", "--data=faces/"]),
        ("--data a b", ["--data", "a", "b"]),  # refused: which one?
        ("a b", ["--data=a", "b"]),
        ("--seed 3", ["--seed", "3"]),
    ],
)
def test_a_word_before_the_options_of_fit_is_its_data(typed, read):
    assert cli._gathered(cli._signature("aeot.commands.fit:fit"), typed.split()) == read


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("fit --steps x", "--steps must be a whole number, got x"),
        ("fit --tol x", "--tol must be a number, got x"),
        ("fit --overwrite perhaps", "--overwrite must be true or false, got perhaps"),
        ("fit --white light", "--white must be a number, got light"),
        ("sample run --n 2.5", "--n must be a whole number, got 2.5"),
        ("translate a b --betas 3", "--betas must be two numbers, as in [0.5,0.999], got 3"),
        ("sample nowhere", "run must be a saved model, got {}/nowhere, which does not exist; give"),
        ("compare AEOT --features nowhere", "features must be a saved model"),
        ("translate digits:1 nowhere", "b must be a folder of images that exists, got 'nowhere'"),
        ("fit nowhere", "got 'nowhere', which does not exist; aeot doctor lists"),
        ("fit digitts", "did you mean 'digits'?"),
        ("fit vectors.npy --size 32", "size must be left out unless data is a folder of images or"),
        ("fit vectors.npy --root x", "root must be left out unless data is a published set"),
        ("fit folder --download", "download must be left out unless data is a published set"),
        ("fit digits --strict", "strict must be left out unless data is a folder of images"),
        ("fit digits --max-pixels 9", "max_pixels must be left out unless data is a folder"),
        ("fit folder", "data must hold images, got none in folder"),
        ("fit holes.npy", "data must be finite, got 6 NaN"),
        ("fit vectors.npy --batch-size 0", "batch_size must be a whole number >= 2, got 0"),
        (
            "compare AEOT --data vectors.npy",
            "data must be images, got rows of shape (3,); aeot fit",
        ),
        ("compare AEOT --data digits --n-samples 999", "pass --n_samples 355 or less"),
        ("fit mnist --root folder", "pass --root FOLDER, or --download"),
        ("report folder", "aeot runs lists those that are there"),
        ("fit vectors.npy --conditional true", "data must have labels for a conditional model"),
        ("fit digits --root nowhere", "root must be a folder, got nowhere"),
        ("demo --seed -1", "seed must be a whole number >= 0, got -1"),
    ],
)
def test_what_is_typed_is_refused_as_it_is_typed(typed, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    np.save("vectors.npy", np.eye(3))
    np.save("holes.npy", np.full((2, 3), np.nan))
    assert cli.main(typed.split()) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("aeot: error: ")
    assert message.format(tmp_path) in error
    assert "\n" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "holes.npy", "vectors.npy"]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_has_a_type_that_the_command_line_can_read(command):
    for place in cli.COMMANDS[command][::2]:  # one unknown name leaves all of them unchecked
        empty = cli._signature(place)
        assert typing.get_type_hints(empty).keys() <= inspect.signature(empty).parameters.keys()


def test_no_option_is_explained_by_less_than_a_sentence():
    for command in cli.COMMANDS:
        for place in cli.COMMANDS[command][::2]:
            described = inspect.getdoc(cli._signature(place))
            for name in inspect.signature(cli._signature(place)).parameters:
                told = re.search(rf"^    {name}: ((?:.+\n(?:     .+\n)*))", described + "\n", re.M)
                assert told, f"--{name} of {command} is not explained"
                assert len(told[1].split()) >= 4, f"--{name} of {command}: {told[1]}"


def test_doctor_names_what_is_installed(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"torch {torch.__version__.split('+')[0]}" in out
    assert f"numpy {np.__version__}" in out
    assert "digits" in out


OPTIONS = ["--latent_dim", "3", "--steps", "6", "--tol", "0.2", "--precision", "float32"]


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """Sixty pictures of one blurred spot, each somewhere else, and two copies of the first."""
    draw = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(8), np.arange(8))
    spots = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / 4) for a, b in draw.uniform(1, 6, (60, 2))]
    path = tmp_path_factory.mktemp("data") / "blobs.npy"
    np.save(path, np.rint(255 * np.stack([*spots, spots[0], spots[0]])).astype(np.uint8))
    return path


def test_a_fit_says_what_it_keeps_apart_how_long_it_takes_and_what_is_next(blobs, tmp_path, capsys):
    options = ["--latent_dim", "2", "--steps", "40", "--tol", "0.5", "--out", str(tmp_path / "r")]
    assert cli.main(["fit", str(blobs), *options]) == 0
    out, error = capsys.readouterr()
    assert "aeot: blobs: 56 rows to learn from; 6 others are kept out" in error
    assert re.search(r"aeot: training: 40 steps, about \d+:\d\d; then the transport", error)
    assert f"aeot report {tmp_path / 'r'}" in out
    assert cli.main(["report", str(tmp_path / "r"), "--picture", "pca"]) == 0
    assert (tmp_path / "r" / "report.html").is_file()
    assert cli.main(["fit", str(blobs), *options, "--overwrite"]) == 0  # and its page
    assert not (tmp_path / "r" / "report.html").exists()


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "blobs"
    assert cli.main(["fit", "--data", str(blobs), "--out", str(path), *OPTIONS]) == 0
    return path


def model_bytes(run):
    return (run / "model" / "model.safetensors").read_bytes()


def test_a_run_directory_holds_all_there_is_to_know(finished):
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["versions"]["torch"] == importlib.metadata.version("torch")
    assert environment["threads"] == torch.get_num_threads()
    records = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert {"joint", "decoder", "transport"} <= {record["name"] for record in records}
    for name in ("generated", "compared", "nearest", "paths", "training"):
        with Image.open(finished / "pictures" / f"{name}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 0
    assert not (finished / "checkpoint").exists()


def test_the_summary_agrees_with_the_model(finished, blobs):
    summary = json.loads((finished / "summary.json").read_text())
    model = aeot.AEOT.load(finished)
    pixels = torch.from_numpy(np.load(blobs)).float()[:, None] / 127.5 - 1
    assert summary["rows"] + summary["held_out_rows"] == len(pixels) == 62
    assert summary["held_out_rows"] == 6
    assert summary["merged"]["images"] + summary["targets"] == summary["rows"]
    # The errors are means over two disjoint parts of the data, in [0, 1] units.
    error = float((model.autoencoder_.decode(model.encode(pixels)) - pixels).square().mean()) / 4
    losses = summary["reconstruction"]
    both = summary["rows"] * losses["train"] + summary["held_out_rows"] * losses["held_out"]
    assert error == pytest.approx(both / 62, rel=1e-4)
    generated = model.sample(100, seed=0)
    kept = pixels[
        model.encode(pixels).unsqueeze(1).ne(model.brenier_.sites).any(2).all(1).logical_not()
    ]
    distances = torch.cdist(generated.flatten(1), kept.flatten(1)).min(1).values / 2 / 8
    assert summary["nearest"]["median"] == pytest.approx(float(distances.median()), rel=1e-3)
    assert summary["nearest"]["smallest"] > 0, "no training image is handed out again"
    assert 0.05 < summary["peak_memory_gib"] < 64


def test_the_summary_is_printed(blobs, finished, tmp_path, capsys):
    again = tmp_path / "again"
    options = ["--config", str(finished / "config.yaml"), "--out", str(again)]
    assert cli.main(["fit", *options]) == 0
    out = capsys.readouterr().out
    summary = json.loads((again / "summary.json").read_text())
    assert f"{summary['reconstruction']['held_out']:.4f}" in out
    assert summary["certificate"]["message"] in out
    assert f"{summary['sampled']['acceptance']:.1%}" in out
    assert str(again) in out
    assert model_bytes(again) == model_bytes(finished), "same options, same seed, same model"


def test_a_finished_run_is_replaced_only_when_asked(finished, blobs, capsys):
    before = model_bytes(finished)
    argv = ["fit", "--data", str(blobs), "--out", str(finished), *OPTIONS]
    assert cli.main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert model_bytes(finished) == before


def test_only_what_a_run_writes_is_replaced(finished, blobs, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    argv = ["fit", "--data", str(blobs), "--out", str(path), *OPTIONS, "--overwrite"]
    stale = path / "samples-7"
    assert cli.main(["sample", str(path), "--n", "1", "--seed", "7"]) == 0
    for other in ("thesis.tex", "model/thesis.tex", "chapters/thesis.tex"):
        (path / other).parent.mkdir(exist_ok=True)
        (path / other).write_text("precious")
        before = model_bytes(path)
        capsys.readouterr()
        assert cli.main(argv) == 2
        assert f"with {other} beside the run; move it" in capsys.readouterr().err
        assert (model_bytes(path), (path / other).read_text()) == (before, "precious")
        (path / other).unlink()
    assert cli.main([*argv, "--seed", "1"]) == 0
    assert model_bytes(path) != before
    assert not any(stale.iterdir())  # of the model that was replaced


def test_a_folder_with_a_config_of_its_own_is_no_run(blobs, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("title: thesis\n")
    (tmp_path / "thesis.tex").write_text("precious")
    argv = ["fit", "--data", str(blobs), "--out", str(tmp_path), *OPTIONS]
    for more in ([], ["--overwrite"]):
        assert cli.main([*argv, *more]) == 2
        error = capsys.readouterr().err
        assert "out must be new or empty" in error
        assert "--overwrite" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "thesis.tex"]


def test_a_refused_overwrite_leaves_the_checkpoint(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    (path / "checkpoint" / "joint").mkdir(parents=True)
    (path / "checkpoint" / "joint" / "config.json").write_text("{}")
    assert cli.main(["fit", "--data", "nowhere", "--out", str(path), "--overwrite"]) == 2
    assert (path / "checkpoint" / "joint" / "config.json").is_file()


def test_training_that_diverges_is_one_line_and_can_be_corrected(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(60, 3)))
    argv = ["fit", str(tmp_path / "rows.npy"), "--out", str(tmp_path / "run"), *OPTIONS]
    assert cli.main([*argv, "--learning_rate", "1e6"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("aeot: error: ")
    assert "lower the learning rate" in error
    assert cli.main(argv) == 2
    assert "--overwrite to start anew" in capsys.readouterr().err
    assert cli.main([*argv, "--overwrite"]) == 0


def test_a_run_killed_before_its_first_step_is_repeated(blobs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").touch()
    assert cli.main(["fit", "--data", str(blobs), "--out", str(tmp_path / "run"), *OPTIONS]) == 0


def test_a_stopped_run_goes_on_where_it_was(blobs, finished, tmp_path, monkeypatch, capsys):
    path = tmp_path / "run"
    argv = ["fit", "--data", str(blobs), "--out", str(path), *OPTIONS]

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aeot.AEOT, "fit_transport", stop)
        assert cli.main(argv) == 130
    assert (path / "checkpoint").is_dir()
    assert not (path / "summary.json").exists()
    assert cli.main([*argv, "--seed", "7"]) == 2
    assert "unfinished" in capsys.readouterr().err
    lines = (path / "log.jsonl").read_text().splitlines()
    assert cli.main(argv) == 0
    assert (path / "log.jsonl").read_text().splitlines()[: len(lines)] == lines
    assert model_bytes(path) == model_bytes(finished)


def test_a_run_whose_checkpoint_was_damaged_goes_on_from_the_one_before(
    blobs, finished, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "run"
    argv = ["fit", "--data", str(blobs), "--out", str(path), *OPTIONS]

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aeot.AEOT, "fit_transport", stop)
        patch.setattr(aeot.training._loop.Pace, "due", lambda self: True)  # after every step
        assert cli.main(argv) == 130
    for place in (path / "checkpoint").iterdir():
        assert (place / "previous" / "manifest.json").is_file()
        (place / "model.safetensors").write_bytes(b"cut")
    capsys.readouterr()
    assert cli.main(argv) == 0
    told = capsys.readouterr().err
    assert told.count("going on from the one before it") == len(["joint", "decoder"])
    assert model_bytes(path) == model_bytes(finished)


@pytest.mark.parametrize("how", ["cut", "another state"])
def test_a_later_stage_whose_only_checkpoint_is_damaged_begins_anew(
    how, blobs, finished, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "run"
    argv = ["fit", "--data", str(blobs), "--out", str(path), *OPTIONS]

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aeot.AEOT, "fit_transport", stop)
        assert cli.main(argv) == 130
    damage(path / "checkpoint" / "decoder", how, "checkpoint")
    capsys.readouterr()
    assert cli.main(argv) == 0
    told = capsys.readouterr().err
    place = path / "checkpoint" / "decoder"
    assert told.count(f"{place} is damaged and holds nothing earlier: its stage begins anew") == 1
    assert model_bytes(path) == model_bytes(finished)


def damage(place, how, kind):
    shutil.rmtree(place / "previous", ignore_errors=True)
    if how == "no manifest":
        (place / "manifest.json").unlink()
    elif how == "another state":  # whole, and of something else
        tensors, config = aeot._io.load(place, kind=kind)
        tensors = {name: x[:1] if x.ndim else x for name, x in tensors.items()}
        aeot._io.save(place, tensors, config, kind=kind)
    else:
        (place / "model.safetensors").write_bytes(b"cut")


def test_a_run_without_any_whole_checkpoint_says_what_to_delete(
    blobs, tmp_path, monkeypatch, capsys
):
    argv = ["fit", "--data", str(blobs), "--out", str(tmp_path / "run"), *OPTIONS]

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aeot.AEOT, "fit_transport", stop)
        assert cli.main(argv) == 130
    for file in (tmp_path / "run" / "checkpoint").rglob("config.json"):
        file.write_text("{")
    capsys.readouterr()
    assert cli.main(argv) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "delete" in told
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    assert cli.main(argv) == 0


def test_a_new_process_draws_the_same_images(finished, tmp_path):
    done = aeot_command("sample", finished, "--n", 5, "--seed", 3, "--out", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    expected = aeot.to_uint8(aeot.AEOT.load(finished).sample(5, seed=3))
    assert sorted(p.name for p in (tmp_path / "new").iterdir())[-1] == "grid.png"
    for k, image in enumerate(expected):
        with Image.open(tmp_path / "new" / f"{k:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), image[0].numpy())


def test_a_folder_of_images_and_masses(tmp_path, capsys):
    folder = tmp_path / "faces"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for k in range(9):  # too few to keep any from training
        Image.fromarray(draw.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    masses = np.arange(1, 10) / 45
    np.save(tmp_path / "masses.npy", masses)
    options = ["--data", folder, "--masses", tmp_path / "masses.npy", "--out", tmp_path / "run"]
    assert cli.main(["fit", *map(str, options), *OPTIONS, "--size", "8"]) == 0
    model = aeot.AEOT.load(tmp_path / "run")
    assert model.brenier_.masses.tolist() == pytest.approx(masses.tolist())
    assert model.sample(2).shape == (2, 3, 8, 8)
    # images that memory does not hold: the same model, and no file of them is left
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "_HELD", 0)
        options[-1] = tmp_path / "stored" / "run"
        assert cli.main(["fit", *map(str, options), *OPTIONS, "--size", "8"]) == 0
    assert os.listdir(tmp_path / "stored") == ["run"]
    other = aeot.AEOT.load(tmp_path / "stored" / "run")
    assert torch.equal(other.sample(4, seed=1), model.sample(4, seed=1))


def test_vectors_are_drawn_as_points(tmp_path):
    np.save(tmp_path / "plane.npy", np.random.default_rng(0).normal(size=(50, 4)))
    argv = ["fit", "--data", str(tmp_path / "plane.npy"), "--out", str(tmp_path / "run")]
    assert cli.main([*argv, *OPTIONS]) == 0
    assert cli.main(["sample", str(tmp_path / "run"), "--n", "4"]) == 0
    rows = np.load(tmp_path / "run" / "samples-0" / "samples.npy")
    assert np.array_equal(rows, aeot.AEOT.load(tmp_path / "run").sample(4, seed=0).numpy())
    assert (tmp_path / "run" / "pictures" / "generated.png").is_file()


@pytest.mark.parametrize("limit", [30, 300, 3000])
def test_a_full_disk_ends_commands_with_one_line_and_leaves_nothing_cut(
    finished, blobs, tmp_path, capsys, limit
):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    shutil.copytree(finished, tmp_path / "run")
    fresh = ["fit", "--data", str(blobs), "--out", str(tmp_path / "new"), *OPTIONS]
    for argv in (["sample", str(tmp_path / "run"), "--n", "90"], fresh):
        capsys.readouterr()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))  # as a disk that fills up
        try:
            assert cli.main(argv) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        *told, line = capsys.readouterr().err.splitlines()  # first what is learned from, or warned
        assert not [x for x in told if "error" in x or "Traceback" in x]
        assert re.fullmatch(r"aeot: error: .*(File too large|No space left).*/(run|new)/.*", line)
    assert not list((tmp_path / "run").glob("*samples*"))
    for file in (tmp_path / "new").rglob("*"):
        assert file.is_dir() or ".writing-" not in file.name
    for file in (tmp_path / "new").glob("log.jsonl"):
        assert all(json.loads(line) for line in file.read_text().splitlines())
    assert cli.main(fresh) == 0, "the same command goes on once there is room"
    assert model_bytes(tmp_path / "new") == model_bytes(finished)


def test_only_the_first_of_several_processes_works(blobs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["fit", "--data", str(blobs), "--out", str(tmp_path / "run"), *OPTIONS]) == 0
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_printed_config_is_a_config(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", "--latent-dim", "5", "--print_config"])
    assert stopped.value.code == 0
    config = capsys.readouterr().out
    assert "latent_dim: 5\n" in config
    with pytest.raises(SystemExit):
        cli.main(["fit", "--print_config", "--latent-dim", "5"])
    assert capsys.readouterr().out == config
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", str(tmp_path / "config.yaml"), "--print_config"])
    assert capsys.readouterr().out == config


BOMB = "a: &a0 [x, x]\n" + "".join(
    f"b{k}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(12)
)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (BOMB.encode(), "it has an alias, *a0; write the value out"),
        (b"out: &x runs/a\ndata: *x\n", "it has an alias, *x; write the value out"),
        (b"out: " + b"[" * 100_000, "nested more than 20 deep"),
        (b"out: " + b"{a: " * 3000, "nested more than 20 deep"),
        (b"# \n" * 600_000, "longer than 1 MB"),
        ("out: mod\u00e8le\n".encode("latin-1"), "it is not UTF-8 text"),
        ("out: x\n".encode("utf-16"), "it is not UTF-8 text"),
        (b"out: a\0b\n", "must be plain YAML"),
        (b"out: [a\n", "must be plain YAML"),
        (b"\x80\x04\x95", "it is not UTF-8 text"),
        (b"out: !!python/object/apply:os.system [echo hello]\n", "a tag, !!python/object/apply:os"),
        (b"out: !mine a\n", "it has a tag, !mine; write the value without it"),
        (b"seed: !!int '3'\n", "it has a tag, !!int; write"),
        (b"out: !!binary aGVsbG8=\n", "it has a tag, !!binary; write"),
        (b"!!map {out: a}\n", "it has a tag, !!map; write"),
        (b"- a\n- b\n", ""),
        (b"latent_dim: .nan\n", "latent_dim"),
        (b"no_such: 1\n", "no_such"),
        (b"latent_dim: {a: 1}\n", "latent_dim"),
    ],
    ids=range(19),
)
@pytest.mark.parametrize("joined", [False, True])
def test_a_config_that_is_none_is_one_line_at_once(tmp_path, capsys, body, told, joined):
    path, begun = tmp_path / "config.yaml", time.monotonic()
    path.write_bytes(body)
    given = [f"--config={path}"] if joined else ["--config", str(path)]
    assert cli.main(["fit", *given, "--out", str(tmp_path / "out")]) == 2
    assert time.monotonic() - begun < 60  # aliases of aliases would take minutes
    out, err = capsys.readouterr()
    assert not out
    assert told in err
    assert err.startswith("aeot: error: ")
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


def test_a_bare_flag_means_true():
    argv = ["--overwrite", "--steps", "3", "--download"]
    assert cli._flagged(fit.fit, argv) == ["--overwrite=true", "--steps", "3", "--download=true"]
    assert cli._flagged(fit.fit, ["--overwrite", "false"]) == ["--overwrite", "false"]


def test_a_number_of_rows_is_learned_from_and_drawn_in_the_plane(blobs, tmp_path, capsys):
    path = tmp_path / "run"
    words = ["fit", str(blobs), *OPTIONS, "--rows", "40", "--embedding", "--out", str(path)]
    assert cli.main(words) == 0
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["rows"], summary["held_out_rows"]) == (40, len(np.load(blobs)) // 10)
    assert (path / "pictures" / "embedding.png").stat().st_size > 2000
    chosen = aeot.AEOT.load(path).brenier_.sites
    assert len(chosen) == 40
    assert cli.main([*words[:2], *OPTIONS, "--rows", "100000", "--out", str(path) + "2"]) == 2
    assert "rows must be at most" in capsys.readouterr().err


def test_the_settings_of_the_paper_are_options(blobs, tmp_path):
    path = tmp_path / "run"
    chosen = ["--source", "ball", "--samples_per_site", "100", "--max_angle", "90%"]
    assert cli.main(["fit", str(blobs), *OPTIONS, *chosen, "--out", str(path)]) == 0
    model = aeot.AEOT.load(path)
    assert (model.source, model.samples_per_site, model.max_angle) == ("ball", 100, "90%")
    assert isinstance(model.brenier_.source, aeot.UniformBall)
    cut = model.singular_
    share = len(cut.pairs) / len(cut.facets.pairs)
    assert share == pytest.approx(0.1, abs=1.5 / len(cut.facets.pairs))


def test_an_option_that_a_config_says_twice_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    assert cli.main(["fit", "digits", "--config", "twice.yaml"]) == 2
    assert "twice.yaml: it says seed twice" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["twice.yaml"]


@pytest.mark.parametrize("given", ["nowhere.yaml", "folder", "", "{seed: 3}"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_config_that_is_no_file_is_named(given, joined, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert cli.main(["fit", *([f"--config={given}"] if joined else ["--config", given])]) == 2
    err = capsys.readouterr().err
    what = {"folder": "'folder', which is a folder", "": "none"}
    got = what.get(given, f"{given!r}, which does not exist")
    way_out = "aeot fit --print_config > options.yaml writes one"
    assert err == f"aeot: error: --config must be a YAML file, got {got}; {way_out}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    "typed",
    [
        ["fit", "--out", ""],
        ["fit", "--out="],
        ["fit", "digits", "--root", ""],
        ["fit", ""],
        ["sample", "run", "--label", ""],
        ["compare", "VAE", "--features", ""],
        ["report", "run", "--data="],
        ["demo", "--out", ""],
        ["translate", "a", "b", "--out", ""],
    ],
)
def test_an_empty_value_is_not_taken_for_the_default(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(typed) == 2
    told = r"aeot: error: (--\w+) must have a value, got ''; leave \1 out to have its default\n"
    assert re.fullmatch(told, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["a=", "=", "null", "~", "3", "1e3", "yes", "[a]", "a b", "#1"])
def test_a_label_arrives_as_typed(label, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_load", lambda place: lambda **options: seen.append(options))
    assert cli.main(["sample", "run", f"--label={label}"]) == 0
    assert cli.main(["sample", "run", "--label", label, "--out", label]) == 0
    assert [got["label"] for got in seen] == [label] * 2
    assert (seen[0]["out"], seen[1]["out"]) == (None, label)


def test_a_page_that_cannot_be_written_is_refused_before_any_work(
    finished, tmp_path, monkeypatch, capsys
):
    def work(*_):
        raise AssertionError("read before the place was looked at")

    os.mkfifo(tmp_path / "pipe")  # which would be replaced
    with monkeypatch.context() as patch:
        patch.setattr("aeot.commands.report._read", work)
        for out in ("/proc/page.html", "/proc/none/page.html", tmp_path / "pipe", tmp_path):
            assert cli.main(["report", str(finished), "--out", str(out)]) == 2
            err = capsys.readouterr().err
            assert err.startswith("aeot: error: out must be ")
            assert str(out) in err
            assert err.count("\n") == 1
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(FileExistsError, match="no regular file"):
        aeot._io.write_text(tmp_path / "pipe", "text")

    def refused(*_, **__):
        raise OSError(30, "Read-only file system")

    before = sorted(finished.rglob("*"))
    monkeypatch.setattr("aeot.commands.directory.tempfile.TemporaryFile", refused)
    assert cli.main(["report", str(finished), "--picture", "pca"]) == 2
    told = capsys.readouterr().err
    assert f"{finished} takes no new file (Read-only file system): choose another out" in told
    assert sorted(finished.rglob("*")) == before


def test_a_report_takes_the_data_that_it_is_given(finished, blobs, tmp_path, capsys):
    page = tmp_path / "page.html"
    argv = ["report", str(finished / "model"), "--out", str(page), "--picture", "pca"]
    assert cli.main(argv) == 0
    assert "does not say what it was fitted to; pass --data for real images" in (
        capsys.readouterr().err
    )
    without = page.stat().st_size
    assert cli.main([*argv, "--data", str(blobs)]) == 0
    assert not capsys.readouterr().err
    assert page.stat().st_size > without
    page.unlink()
    assert cli.main([*argv, "--data", "nowhere"]) == 2
    assert "data must be one of" in capsys.readouterr().err
    assert not page.exists()


def test_images_of_a_class_are_drawn_from_a_run_that_has_classes(finished, tmp_path, capsys):
    draw = np.random.default_rng(0)
    for k in range(16):
        place = tmp_path / "pets" / "cd"[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        spot = draw.integers(0, 120, (8, 8)) + 120 * (k % 2)
        Image.fromarray(spot.astype(np.uint8)).save(place / f"{k}.png")
    run = tmp_path / "run"
    argv = ["fit", str(tmp_path / "pets"), "--size", "8", "--conditional", "true", *OPTIONS]
    assert cli.main([*argv, "--out", str(run)]) == 0
    assert cli.main(["sample", str(run), "--n", "3", "--label", "d"]) == 0
    expected = aeot.to_uint8(aeot.AEOT.load(run).sample(3, seed=0, labels="d"))
    for k, image in enumerate(expected):
        with Image.open(run / "samples-d-0" / f"{k:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), image[0].numpy())
    capsys.readouterr()
    for place, label in ((run, "e"), (finished, "d")):
        assert cli.main(["sample", str(place), "--label", label]) == 2
        err = capsys.readouterr().err
        assert err.startswith("aeot: error: label")
        assert repr(label) in err
        assert not list(place.glob(f"samples-{label}*/*e*"))


def test_an_error_near_the_variance_of_the_data_is_said(finished, blobs):
    summary = json.loads((finished / "summary.json").read_text())
    pixels = np.load(blobs) / 255
    assert summary["variance"] == pytest.approx(np.var(pixels, axis=0).mean(), rel=0.1)
    points = np.random.default_rng(0).normal(size=(50, 4)) * 30
    spread = fit._variance(aeot.tensors(points), 0)
    assert spread == pytest.approx(np.var(points, axis=0).mean(), rel=1e-5)
    for share, said in ((0.1, False), (0.45, False), (0.62, True), (1.3, True)):
        summary["reconstruction"]["held_out"] = share * summary["variance"]
        told = str(fit.Summary(summary, finished))
        assert (f"warning      the error is {share:.0%} of the data's variance" in told) == said
        assert ("warning" in told) == said
    del summary["variance"]  # of a run before
    assert "warning" not in str(fit.Summary(summary, finished))


READ_ONLY = """
import os, sys
from aeot import cli
run, data = sys.argv[1:]
fit = ["fit", data, "--latent_dim", "3", "--steps", "6", "--tol", "0.2", "--precision", "float32"]
compare = ["compare", "VAE", "--data", data, "--images_seen", "64", "--latent_dim", "2"]
translate = ["translate", "digits:1", "digits:2", "--size", "8"]
for argv in (
    ["report", run, "--picture", "pca"],
    ["report", run, "--out", f"{run}/page.html"],
    ["sample", run, "--n", "2"],
    [*fit, "--out", f"{run}/new"],
    [*fit, "--out", run, "--overwrite"],
    [*compare, "--out", f"{run}/new"],
    [*translate, "--out", f"{run}/new"],
    ["demo", "--out", f"{run}/new"],
    ["runs", os.path.dirname(run)],
):
    print(cli.main(argv), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="drops a right of root as Linux does")
def test_a_folder_that_may_not_be_written_is_named_by_every_command(finished, blobs, tmp_path):
    run = tmp_path / "runs" / "run"
    shutil.copytree(finished, run)
    before = sorted(run.rglob("*"))
    for place in (run, *(p for p in before if p.is_dir())):
        place.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, run, blobs],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        # CAP_DAC_OVERRIDE, by which root writes everywhere.
        preexec_fn=lambda: ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) if os.getuid() == 0 else None,
    )
    assert "Traceback" not in done.stderr, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("aeot: error: ")]
    statuses = [line for line in done.stdout.splitlines() if line in ("0", "2")]
    assert statuses == ["2"] * 8 + ["0"]
    assert len(told) == 8
    for line in told:
        assert re.search(
            r"out must be writable, got .*/run.*; .*\(Permission denied\): choose", line
        )
    assert sorted(run.rglob("*")) == before
    for place in (run, *(p for p in before if p.is_dir())):
        place.chmod(0o755)
