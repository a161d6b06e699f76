import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn

import aeot
from aeot import metrics
from aeot._rng import stream_seed
from aeot.comparison import contestants, result
from aeot.comparison.compare import compare, default_features
from aeot.comparison.result import REAL, Comparison
from aeot.data import Dataset, to_uint8
from aeot.features import Classifier, Pixels, extract
from aeot.metrics import precision_recall


@pytest.fixture(scope="module")
def digits():
    return aeot.dataset("digits"), aeot.dataset("digits", split="test")


@pytest.fixture(scope="module")
def net(digits):
    return Classifier(channels=8, width=16, epochs=6, batch_size=64).fit(*digits)


class Replay:
    """A generator that draws training images of some classes, with noise."""

    def __init__(self, data, classes=range(10), noise=0.0):
        keep = torch.isin(data.labels, torch.tensor(list(classes)))
        self.data, self.noise = data.subset(keep), noise
        self.network = nn.Linear(3, 4)
        self.network.register_buffer("kept", torch.zeros(7))

    def sample(self, n, *, seed):
        draw = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(self.data), (n,), generator=draw)
        x = self.data[rows]
        return (x + self.noise * torch.randn(x.shape, generator=draw)).clamp(-1, 1)


class Coder(Replay):
    def encode(self, x):
        return x[:, :, ::2, ::2]

    def decode(self, codes):
        return codes.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(scope="module")
def found(digits, net):
    train, test = digits
    return compare(
        {
            "all": Replay(train),
            "few": [Replay(train, range(4)), Replay(train, range(4))],
            "noisy": lambda n, seed: Replay(train, noise=0.5).sample(n, seed=seed),
            "coder": Coder(train),
        },
        test,
        features=net,
        training=train,
        repeats=2,
        facts={"all": {"train_seconds": 12.5}},
        seed=3,
    )


def test_a_comparison_is_a_mapping_of_numbers(found):
    assert list(found) == [
        "real training images",
        "all",
        "few",
        "noisy",
        "coder",
        "coder: reconstructions",
    ]
    assert set(found["all"]) == set(result.METRICS)
    assert all(math.isfinite(value) for name in found for value in found[name].values())
    with pytest.raises(KeyError):
        found["nobody"]


def test_metrics_tell_the_generators_apart(found):
    assert found["all"]["fd"] < found["few"]["fd"]
    assert found["all"]["fd"] < found["noisy"]["fd"]
    # a balanced generator of 4 of 10 balanced classes, seen through a classifier
    assert found["few"]["classes"] == pytest.approx(math.log(10 / 4), abs=0.15)
    assert found["few"]["recall"] < 0.6 < found["all"]["recall"]
    assert found["few"]["f8"] < found["all"]["f8"]
    assert found["noisy"]["precision"] < found["few"]["precision"]
    assert found["all"]["copied"] == 1
    assert found["all"]["memorisation"] == 0


def test_numbers_are_those_of_the_formulas(found, digits, net):
    train, test = digits
    row = found.rows[1]
    assert row["model"] == "all"
    reference = extract(net, test)
    values = []
    for repeat in range(2):
        batch = Replay(train).sample(len(test), seed=stream_seed(3, "all", repeat) % 2**31)
        values.append(metrics.frechet_distance(extract(net, batch), reference))
    assert row["metrics"]["fd"]["values"] == pytest.approx(values, rel=1e-12)
    assert row["metrics"]["fd"]["mean"] == pytest.approx(np.mean(values))
    error = np.std(values, ddof=1) / math.sqrt(2)
    assert row["metrics"]["fd"]["error"] == pytest.approx(error, rel=1e-5)
    curve = precision_recall.prd_curve(extract(net, batch), reference, seed=3)
    f8, f1_8 = precision_recall.prd_scores(*curve)
    assert row["metrics"]["f8"]["values"][1] == f8
    assert row["metrics"]["f1_8"]["values"][1] == f1_8


def test_fewer_images_than_there_are_come_from_all_over(digits, net):
    train, test = digits
    order = Dataset(test.values[test.labels.argsort(stable=True)], "sorted")  # by class
    found = compare(
        {"x": train}, order, features=net, metrics=["classes"], n_samples=100, repeats=2
    )
    values = found.rows[0]["metrics"]["classes"]["values"]
    assert values[0] != values[1]  # not the same images twice
    assert max(values) < 0.5  # the first 100 of the reference hold three of ten classes


def test_the_unit_of_errors_is_the_model_where_there_are_several(found, digits, net):
    few = next(row for row in found.rows if row["model"] == "few")["metrics"]["fd"]
    assert len(few["values"]) == 4
    assert few["values"][:2] == few["values"][2:]  # the same model twice, and different sets
    assert few["values"][0] != few["values"][1]
    assert few["error"] == 0
    two = [Replay(digits[0], range(k)) for k in (4, 9)]
    other = compare({"two": two}, digits[1], features=net, metrics=["fd"], repeats=2)
    values = np.reshape(other.rows[0]["metrics"]["fd"]["values"], (2, 2))
    assert other["two"]["fd"] == pytest.approx(values.mean(), rel=1e-12)
    expected = values.mean(1).std(ddof=1) / math.sqrt(2)
    assert other.rows[0]["metrics"]["fd"]["error"] == pytest.approx(expected, rel=1e-12)


def test_metrics_that_cannot_be_had_are_left_out_with_the_reason(digits, net):
    found = compare({"x": Replay(digits[0])}, digits[1], features=net, n_samples=16)
    assert "fd" not in found["x"]
    assert {"precision", "sliced", "kid"} <= set(found["x"])
    assert "more rows than its 16 columns" in found.protocol["left out"]["fd"]
    assert found.protocol["left out"]["copied"] == "no training images"
    some = digits[0].subset(slice(15))
    found = compare({"x": Replay(digits[0])}, digits[1], features=net, n_samples=16, training=some)
    assert list(found) == ["x"]
    assert found.protocol["left out"]["real training images"] == "15 of them"
    told = next(x for x in found.markdown().splitlines() if x.startswith("- left out: "))
    assert "more rows than its 16 columns" in told


def test_classes_are_compared_as_the_classifier_sees_them(digits, net):
    labels = digits[1].labels.flip(0)
    wrong = Dataset(digits[1].values, "wrong", labels)  # whatever the labels say
    model = Replay(digits[0])
    seen = [
        compare({"x": model}, data, features=net, metrics=["classes"])["x"]["classes"]
        for data in (digits[1], wrong)
    ]
    assert seen[0] == seen[1]
    drawn = to_uint8(model.sample(355, seed=stream_seed(0, "x", 0) % 2**31))
    q, p = (torch.bincount(net.predict(x), minlength=10).numpy() for x in (drawn, digits[1]))
    assert seen[0] == pytest.approx(stats.entropy(q, p), rel=1e-9)


def test_costs_and_protocol_are_recorded(found, net):
    facts = {row["model"]: row["facts"] for row in found.rows}
    assert facts["all"]["train_seconds"] == 12.5
    assert facts["all"]["parameters"] == 16
    assert facts["all"]["stored"] == 7
    assert facts["all"]["sample_seconds"] > 0
    assert facts["all"]["peak_gib"] > 0.05
    assert (facts["few"]["models"], facts["few"]["sets"]) == (2, 4)
    assert facts["coder: reconstructions"]["sets"] == 1  # all of the reference, every time
    assert found.protocol["features"]["hash"] == net.hash_
    assert found.protocol["features"]["accuracy"] == net.accuracy_
    assert found.protocol["n_samples"] == 355
    assert "torch" in found.environment["versions"]


def test_the_reconstructions_stand_beside_their_model(found, digits, net):
    test = digits[1]
    coder = Coder(digits[0])
    restored = coder.decode(coder.encode(test[:]))
    expected = metrics.frechet_distance(extract(net, restored), extract(net, test))
    assert found["coder: reconstructions"]["fd"] == pytest.approx(expected, rel=1e-9)


def test_of_an_autoencoder_alone_the_reconstructions_are_measured(found, digits, net):
    class Alone:
        encode, decode = Coder.encode, Coder.decode

        def __init__(self, rows):
            self.__dict__.update(vars(Coder(rows)))

    facts = {"alone": {"train_seconds": 7}}
    alone = aeot.compare(
        {"alone": Alone(digits[0])}, digits[1], features=net, metrics=["fd"], facts=facts
    )
    assert list(alone) == ["alone: reconstructions"]
    assert alone.rows[0]["facts"]["sets"] == 1
    expected = found["coder: reconstructions"]["fd"]
    assert alone["alone: reconstructions"]["fd"] == pytest.approx(expected, rel=1e-9)
    assert alone.rows[0]["facts"]["train_seconds"] == 7


def test_the_sampling_time_is_that_of_the_fastest_set(digits, monkeypatch):
    clock = iter([0, 9, 10, 12, 20, 25])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock, 40))
    found = compare(
        {"x": Replay(digits[0])}, digits[1], features=Pixels(), metrics=["sliced"], repeats=3
    )
    assert found.rows[0]["facts"]["sample_seconds"] == 2


@pytest.mark.parametrize(("images", "width"), [(40, 8), (355, 35), (2000, 128)])
def test_the_classifier_has_at_most_a_tenth_as_many_features_as_images(
    images, width, digits, monkeypatch
):
    monkeypatch.setattr(Classifier, "fit", lambda self, *_: self)
    reference = Dataset(torch.zeros(images, 1, 28, 28, dtype=torch.uint8), "black")
    assert default_features(digits[0], reference, seed=0).width == width


def test_by_default_ten_thousand_images_are_enough():
    black = torch.zeros(10_001, 1, 4, 4, dtype=torch.uint8)
    data = Dataset(black, "black")
    assert len(contestants.opened({"x": black[1:]}, data)["x"][0]) == 10_000
    with pytest.raises(ValueError, match="must hold 10000 images, got 9999"):
        contestants.opened({"x": black[2:]}, data)


def test_functions_get_the_seed_if_they_can_take_it(digits):
    seen = []

    def keywords(n, **options):
        seen.append(options)
        return 1.4 * torch.cat([digits[0][: n // 2], -digits[0][: n - n // 2]])  # clipped

    def bare(n):
        return digits[0][:n].requires_grad_()

    compare({"a": keywords, "b": bare}, digits[1], features=Pixels(), metrics=["sliced"])
    assert [set(options) for options in seen] == [{"seed"}, {"seed"}]


def test_modules_and_flipped_arrays_are_functions_and_images(digits):
    class Module(nn.Module):
        def forward(self, n):
            return digits[0][:n].numpy()[..., ::-1]

    flipped = digits[0][: len(digits[1])].flip(3)
    found = compare(
        {"module": Module(), "flipped": flipped}, digits[1], features=Pixels(), metrics=["sliced"]
    )
    assert found["module"]["sliced"] == found["flipped"]["sliced"]


def test_no_generator_is_best_where_all_are_alike(digits, net):
    found = compare(
        {"a": digits[0], "b": digits[0]},
        digits[1],
        features=net,
        metrics=["fd", "copied"],
        training=digits[0],
        n_samples=len(digits[1]),
    )
    for row in found.rows:
        row["metrics"]["fd"]["mean"] = 0.0
    assert found.best("fd") == set()


def test_a_collapsed_generator_gets_no_star():
    def row(name, kind, **means):
        metrics = {k: {"mean": v, "error": None, "values": [v]} for k, v in means.items()}
        return {"model": name, "kind": kind, "metrics": metrics, "facts": {}, "curve": None}

    rows = [
        row(REAL, "real", precision=0.8, recall=0.7, coverage=0.95),
        row("one image", "GAN", precision=1.0, recall=0.01, coverage=0.02),
        row("fair", "VAE", precision=0.6, recall=0.3, coverage=0.5),
    ]
    found = Comparison(rows, {"features": {}}, {})
    assert found.collapsed() == {"one image"}
    assert found.best("precision") == found.best("recall") == {"fair"}
    assert "**1**" not in found.markdown()
    rows[1] = row("one image", "GAN", precision=1.0, recall=0.08, coverage=0.2)
    assert found.collapsed() == set()
    assert found.best("precision") == {"one image"}


def test_pictures_and_their_nearest_training_images(found, digits):
    assert found.shown["all"].shape == (64, 1, 28, 28)
    assert torch.equal(found.shown["all"], found.nearest["all"])  # it replays training images
    assert not torch.equal(found.shown["noisy"], found.nearest["noisy"])


def test_the_same_seed_gives_the_same_numbers(digits, net):
    run = lambda seed: compare(  # noqa: E731
        {"all": Replay(digits[0])}, digits[1], features=net, metrics=["fd", "f8"], seed=seed
    )
    assert run(1)["all"] == run(1)["all"] != run(2)["all"]


def test_saved_and_loaded_comparisons_are_equal(found, tmp_path):
    found.save(tmp_path / "out")
    again = Comparison.load(tmp_path / "out")
    assert again.plain() == json.loads(json.dumps(found.plain()))
    assert list(again) == list(found)
    for name in found:
        assert torch.equal(again.shown[name], found.shown[name])
        assert torch.equal(again.nearest[name], found.nearest[name])
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["rows"][1]["metrics"]["fd"]["mean"] == found["all"]["fd"]


def test_the_markdown_marks_the_best_generator_and_escapes_names(digits, net):
    names = ["a|b *c* <script>", "plain"]
    found = compare(
        dict(zip(names, [Replay(digits[0]), Replay(digits[0], range(3))], strict=True)),
        digits[1],
        features=net,
        training=digits[0],
        metrics=["fd", "coverage"],
    )
    text = found.markdown()
    line = next(x for x in text.splitlines() if x.startswith("| a"))
    assert line == (
        f"| a\\|b \\*c\\* \\<script> | **{found[names[0]]['fd']:.4g}** "
        f"| **{found[names[0]]['coverage']:.4g}** |"
    )
    assert "FD ↓" in text
    assert "FID" not in text  # these are not Inception features
    assert found.best("fd") == {names[0]}
    real = found.rows[0]
    assert real["kind"] == "real"
    real["metrics"]["fd"]["mean"] = 0.0  # real images win nothing
    assert found.best("fd") == {names[0]}


def test_only_inception_features_make_it_fid(found):
    assert found.heading("fd") == "FD"
    protocol = {**found.protocol, "features": {**found.protocol["features"], "fid": True}}
    assert Comparison(found.rows, protocol, {}).heading("fd") == "FID"


def test_images_come_from_folders_data_sets_tensors_and_saved_models(digits, net, tmp_path):
    train, test = digits
    (tmp_path / "pngs").mkdir()
    for i, picture in enumerate(train.values[:40, 0]):
        Image.fromarray(picture.numpy()).save(tmp_path / "pngs" / f"{i:03d}.png")
    first = train.subset(slice(0, 40))
    found = compare(
        {
            "folder": tmp_path / "pngs",
            "set": first,
            "tensor": train.values[:40],
            "array": train.values[:40].numpy(),
            "str": str(tmp_path / "pngs"),
        },
        test,
        features=net,
        metrics=["fd", "precision"],
        n_samples=40,
    )
    found.save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"models\['x'\] must be a gen.* the comparison in .*name"):
        compare({"x": tmp_path / "saved"}, test, features=net)
    for name in ("set", "tensor", "array", "str"):
        assert found[name] == pytest.approx(found["folder"], rel=1e-9)


def test_merging_keeps_rows_apart_and_refuses_other_protocols(digits, net):
    parts = [
        compare({name: Replay(digits[0], k)}, digits[1], features=net, metrics=["fd"], seed=s)
        for name, k, s in (("a", range(10), 0), ("b", range(5), 0), ("c", range(5), 1))
    ]
    both = result.merge(parts[:2])
    assert list(both) == ["a", "b"]
    assert both["b"] == parts[1]["b"]
    with pytest.raises(ValueError, match="comparisons must follow one protocol, got seed 0 and 1"):
        result.merge(parts)
    with pytest.raises(ValueError, match=r"comparisons must be a list of at least one, got \[\]"):
        result.merge([])


def test_without_labels_pixels_are_used_and_said(digits):
    bare = Dataset(digits[1].values, "bare")
    found = compare({"x": digits[0]}, bare, n_samples=100)
    assert found.protocol["features"]["name"] == "pixels 8x8"
    assert "classes" not in found["x"]
    assert "copied" not in found["x"]
