"""The translation benchmark's plumbing, on digits and with models that train in no time."""

import json
import sys

import bench_translation as module
import pytest
import torch

import aeot
from aeot.features import Classifier

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(monkeypatch, tmp_path):

    def clothes(split, label=None):
        data = aeot.dataset("digits", split=split, size=32)
        return data if label is None else data.subset((data.labels == label).nonzero()[:, 0])

    monkeypatch.setattr(module, "clothes", clothes)
    Classifier(channels=4, width=8, epochs=1).fit(aeot.dataset("digits")).save(tmp_path / "net")

    def run(*extra):
        arguments = ["bench", "--steps", "8", "--filters", "2", *extra]
        arguments += ["--cache", str(tmp_path / "cache"), "--classifier", str(tmp_path / "net")]
        arguments += ["--results", str(tmp_path / "r.json"), "--images", str(tmp_path / "images")]
        monkeypatch.setattr(sys, "argv", arguments)
        module.main()
        path = tmp_path / "r.json"
        return json.loads(path.read_text())["rows"] if path.exists() else []

    run.folder, run.module = tmp_path, module
    return run


def test_rows_are_trained_once_and_kept_beside_each_other(bench):
    assert bench("--rows", "cyclegan", "--minutes", "0") == []  # a turn of one step
    assert (bench.folder / "cache" / "cyclegan" / "checkpoint").is_dir()
    first = bench("--rows", "cyclegan")
    assert 0 <= first[0]["to_b"]["flip"] <= 1
    names = ["edges", "edges-noise", "sinkhorn", "pix2pix", "pix2pix-stochastic"]
    rows = bench("--rows", *names)
    assert [row["row"] for row in rows] == ["cyclegan", "edges", "edges-noise", *names[2:]]
    assert rows[0] == first[0]
    assert bench("--rows", "cyclegan")[-1] == first[0]  # only measured again, in its place
    pictures = {path.stem for path in (bench.folder / "images").iterdir()}
    assert pictures == {f"translation_{name}" for name in ("cyclegan", "hiding", *names)}


class Halves:
    """A translator that halves the contrast."""

    def translate(self, x, *, to="b", seed=0):
        return x[:] / 2


def test_rows_say_how_many_images_were_used(bench):
    digits = aeot.dataset("digits", size=8)
    many = digits.subset(torch.arange(2100) % len(digits))
    data, tests = aeot.paired(digits, digits), {"a": many, "b": many}
    net = Classifier.load(bench.folder / "net")
    row = bench.module.measure_pairs(Halves(), data, tests, net)
    assert row["tests"] == 2000
    row = bench.module.measure_lines(Halves(), data, tests, net)
    assert row["tests"] == row["steganography_tests"] == 200
    row = bench.module.measure_classes(Halves(), data, tests, net)
    assert row["steganography_tests"] == 200
    assert "tests" not in row  # all of them, which the caller counts


def test_diversity_and_the_best_draw(bench):
    rows = {row["row"]: row for row in bench("--rows", "pix2pix", "pix2pix-stochastic")}
    still, moving = rows["pix2pix"], rows["pix2pix-stochastic"]
    assert still["diversity"] == 0
    assert still["mae_best_of_8"] == still["mae"]
    assert moving["diversity"] > 0
    assert moving["mae_best_of_8"] < moving["mae"]
    # The mean answer is no further off than the answers are on average: a distance is convex.
    assert moving["mae_of_mean_of_8"] <= moving["mae"] * 1.05
    for row in rows.values():
        split = row["split"]
        assert split["structure"] + split["texture"] == pytest.approx(split["total"])
        assert row["mae"] ** 2 <= split["total"]
