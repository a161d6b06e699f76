"""The command `aeot translate`, through the real command line, on folders of images."""

import json

import numpy as np
from PIL import Image

from aeot import _io
from aeot.cli import main
from aeot.gan.cyclegan import CycleGAN
from aeot.gan.pix2pix import Pix2Pix

QUICK = ["--size", "16", "--filters", "4", "--n-blocks", "0", "--n-layers", "1"]


def folder(path, count=4, mode="L", seed=0):
    path.mkdir()
    draw = np.random.default_rng(seed)
    shape = (20, 24) if mode == "L" else (20, 24, 3)
    for k in range(count):
        Image.fromarray(draw.integers(0, 255, shape, dtype=np.uint8)).save(path / f"{k}.png")
    return str(path)


def test_two_folders_to_a_run_directory(tmp_path, capsys):
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", mode="RGB", seed=1)
    out = tmp_path / "run"
    options = [*QUICK, "--steps", "2", "--every", "1", "--out", str(out)]
    assert main(["translate", a, b, *options]) == 0
    told = capsys.readouterr()
    assert "model/" in told.out
    assert "aeot: one collection is gray and one in colour" in told.err
    names = {p.name for p in (out / "pictures").iterdir()}
    assert names == {"step-000001.png", "step-000002.png", "final.png"}
    facts = json.loads((out / "run.json").read_text())
    assert facts["rows"] == [4, 4]
    assert "torch" in json.dumps(facts["environment"])
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
    model = CycleGAN.load(out)  # a gray folder beside a coloured one is treated as coloured
    assert model.shape_ == (3, 16, 16)
    assert model.filters == 4


def test_mistakes_are_one_line_and_write_nothing(tmp_path, capsys):
    a = folder(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "run")
    for wrong, message in [
        ([a, str(tmp_path / "empty"), *QUICK], "empty"),
        ([a, str(tmp_path / "missing"), *QUICK], "missing"),
        ([a, a, *QUICK, "--size", "18"], "size must be a multiple of 4"),
        ([a, a, *QUICK, "--n-layers", "5"], "n_layers must leave"),
        ([a, "digits:77", *QUICK], "b must name a folder, or a class of digits"),
        ([a, a, *QUICK, "--device", "foo"], "device must be a device of this machine, got 'foo'"),
        # Before the folders are looked at.
        ([str(tmp_path / "missing"), a, "--device", "cuda:99"], "device must be a device"),
        ([str(tmp_path / "missing"), a, "--steps", "0"], "steps must be a whole number >= 1"),
        ([a, a, *QUICK, "--steps", "-1"], "steps must be a whole number >= 1, got -1"),
    ]:
        assert main(["translate", "--steps", "1", "--out", out, *wrong]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error, error
        assert error.startswith("aeot: error: ")
        assert "\n" not in error
    assert not (tmp_path / "run").exists()


def test_another_run_is_not_taken_for_this_one(tmp_path, capsys):
    a, b, c = (folder(tmp_path / name, seed=k) for k, name in enumerate("abc"))
    options = [*QUICK, "--steps", "1", "--out", str(tmp_path / "run")]
    assert main(["translate", a, b, *options]) == 0
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    for other, message in [
        ([a, c, *options], "with a run, made with another b; give the same options to go on"),
        ([a, b, *options, "--seed", "1"], "with a run, made with another seed"),
        ([a, b, *options, "--steps", "2"], "with a run, made with another steps"),
        ([a, b, *options, "--out", str(tmp_path / "a")], "be new or empty"),
        ([a, b, *options, "--out", str(tmp_path / "a" / "0.png")], "out must be a folder"),
    ]:
        assert main(["translate", *other]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before
    assert len(list((tmp_path / "a").iterdir())) == 4


def test_options_are_written_once_and_whole(tmp_path, monkeypatch):
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", seed=1)
    run, seen, write = tmp_path / "run", [], _io.write_text
    run.mkdir()
    (run / "log.jsonl").touch()  # of a call that was killed before its first step
    monkeypatch.setattr(_io, "write_text", lambda p, text: (seen.append(p.name), write(p, text)))
    assert main(["translate", a, b, *QUICK, "--steps", "3", "--out", str(run)]) == 0
    assert seen == ["config.yaml", "run.json"]


def test_a_run_goes_on_where_it_stopped(tmp_path):
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", seed=1)
    options = [*QUICK, "--steps", "3", "--decay", "0"]
    assert main(["translate", a, b, *options, "--out", str(tmp_path / "one")]) == 0
    short = [*QUICK, "--steps", "2", "--decay", "0", "--out", str(tmp_path / "two")]
    assert main(["translate", a, b, *short]) == 0
    assert main(["translate", a, b, *options, "--out", str(tmp_path / "two")]) == 0
    one, two = (CycleGAN.load(tmp_path / name) for name in ("one", "two"))
    for x, y in zip(one.to_b_.parameters(), two.to_b_.parameters(), strict=True):
        assert bool((x == y).all())


def test_files_of_one_name_train_a_translator_of_pairs(tmp_path, capsys):
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", mode="RGB", seed=1)
    out = tmp_path / "run"
    options = [*QUICK, "--steps", "2", "--every", "1", "--out", str(out), "--size", "20"]
    chosen = ["--paired", "--crop", "16", "--l1", "7"]
    assert main(["translate", a, b, *options, *chosen]) == 0
    assert "aeot.Pix2Pix.load" in capsys.readouterr().out
    model = Pix2Pix.load(out)
    assert (model.shape_, model.out_shape_) == ((1, 16, 16), (3, 16, 16))
    assert (model.l1, model.filters, model.crop, model.norm) == (7, 4, 16, "instance-affine")
    (tmp_path / "b" / "3.png").rename(tmp_path / "b" / "other.png")
    for words, message in [
        ([*chosen], "a must hold a partner in b for each image, got none for '3'"),
        (["--paired", "--cycle", "3"], "cycle must be left out beside paired, got 3"),
        (["--l1", "3"], "l1 must be left out of a run that is not paired"),
    ]:
        assert main(["translate", a, b, *options, *words]) == 2
        assert message in capsys.readouterr().err
