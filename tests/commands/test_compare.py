import json
import shutil

import pytest
import torch
from PIL import Image

import aeot
from aeot import cli
from aeot.commands import compare
from aeot.comparison.result import Comparison
from aeot.features import Classifier


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    train = aeot.dataset("digits").subset(slice(0, 300))
    Classifier(channels=4, width=8, epochs=2).fit(train).save(folder / "net")
    (folder / "pngs").mkdir()
    for k, image in enumerate(train.values[:, 0]):
        Image.fromarray(image.numpy()).save(folder / "pngs" / f"{k:03d}.png")
    return folder


def run(place, *extra):
    return cli.main(
        [
            "compare",
            f"mine={place / 'pngs'}",
            *extra,
            *("--features", str(place / "net")),
            *("--n-samples", "200", "--out", str(place / "out")),
        ]
    )


def test_a_folder_is_compared_and_everything_is_kept(place, capsys):
    assert run(place) == 0
    kept = {path.name for path in (place / "out").iterdir()}
    assert {
        "comparison.json",
        "comparison.md",
        "data",
        "report.html",
        "prd.png",
        "precision_recall.png",
        "samples.png",
    } <= kept
    body = json.loads((place / "out" / "comparison.json").read_text())
    assert [row["model"] for row in body["rows"]] == ["real training images", "mine"]
    assert body["protocol"]["n_samples"] == 200
    assert "| mine |" in capsys.readouterr().out
    assert run(place, "--seed", "5") == 2  # not the same comparison
    assert "made with another seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Nobody"], "models must be classes, or paths that exist, got 'Nobody'; classes are A"),
        (["GAN", "GAN"], "models must have different labels, got 'GAN' twice"),
        (["GAN", "--seconds", "0"], "seconds must be a finite number > 0"),
        (["GAN", "--metrics", "[fid]"], "metrics must be one of"),
        (["GAN", "--data", "nowhere"], "data must be one of"),
        (["../x=GAN"], "models must have labels that can name a folder, got '../x'"),
        (["=GAN"], "models must have labels that can name a folder"),
        (["real training images=GAN"], "models must leave the names of reference rows free"),
        (["x: reconstructions=GAN"], "models must leave the names of reference rows free"),
        ([f"{'é' * 101}=GAN"], "models must have labels of at most 200 bytes"),
        (["GAN", "--n-samples", "400"], "data must keep 400 images apart to compare with, got 355"),
        (["GAN", "--images-seen", "0"], "images_seen must be"),
        (["GAN", "--repeats", "0"], "repeats must be a whole number >= 1, got 0"),
        (["GAN", "--latent-dim", "0"], "latent_dim must be a whole number >= 1, got 0"),
        (["GAN", "--seconds", "5", "--images-seen", "9"], "seconds must be the only budget, got 5"),
        (["GAN", "--n-samples", "8", "--metrics", "[fd]", "--features", "~/net"], "columns"),
        (["IMLE"], "models must be classes, or paths that exist, got 'IMLE'; classes are AEOT"),
        (
            ["GAN", "x=AEOT", "--images-seen", "200"],
            "be trainable on these images, got 'x', AEOT, which says: images_seen must pay for 2",
        ),
        (
            ["GAN", "ConditionalWGANGP", "--size", "8", "--data", "~/pngs"],
            "got 'ConditionalWGANGP', ConditionalWGANGP, which says: data must have labels",
        ),
        (["GAN", "=", "--data", "~/pngs"], "have labels that can name a folder"),
    ],
)
def test_the_command_refuses_and_writes_nothing(
    arguments, message, place, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(place))
    assert cli.main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_opened_is_said_before_training(place, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few=images").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "few=images" / "0.png")
    assert cli.main(["compare", "GAN", "few=images", "--features", str(place / "net")]) == 2
    assert "models['few=images'] must hold 355 images, got 1" in capsys.readouterr().err
    (tmp_path / "VAE").mkdir()
    assert cli.main(["compare", "VAE"]) == 2
    assert "got 'VAE', a class and a path; write ./VAE for the path" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"few=images", "VAE"}
    assert cli.main(["report", "x", "--shown", "0"]) == 2
    assert "shown must be a whole number >= 1" in capsys.readouterr().err


def test_costs_of_several_trainings_are_averaged():
    costs = [{"train_seconds": 1.0, "images_seen": 10, "class": "GAN"}] * 2
    costs.append({"train_seconds": 4.0, "images_seen": 13, "class": "GAN"})
    assert compare._mean(costs) == {"train_seconds": 2.0, "images_seen": 11, "class": "GAN"}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_model_is_trained_by_one_rank(size, tmp_path, monkeypatch):
    jobs = [(tmp_path / f"m-{k}", lambda k=k: k) for k in range(5)]
    trained, met = [[] for _ in range(size)], [0] * size
    for rank in range(size):
        ranks = {"rank": lambda rank=rank: rank, "size": lambda: size}
        ranks["pause"] = lambda rank=rank: met.__setitem__(rank, met[rank] + 1)
        for name, value in ranks.items():
            monkeypatch.setattr(compare._ranks, name, value)
        monkeypatch.setattr(
            compare, "_fitted", lambda model, *_, rank=rank: trained[rank].append(model)
        )
        compare._train(jobs, None, {"images_seen": 1})
    assert sorted(sum(trained, [])) == [0, 1, 2, 3, 4]
    assert {-(-5 // size) - len(own) for own in trained} <= {0, 1}
    assert len(set(met)) == 1  # none waits for another


@pytest.mark.slow
def test_models_are_trained_within_the_budget_kept_and_taken_up_again(place, capsys):
    out = place / "trained"
    command = ["compare", "GAN", "--seconds", "2", "--seeds", "2", "--latent-dim", "4"]
    command += ["--features", str(place / "net"), "--n-samples", "100", "--out", str(out)]
    assert cli.main(command) == 0
    first = json.loads((out / "comparison.json").read_text())
    facts = first["rows"][1]["facts"]
    assert facts["models"] == 2
    assert facts["budget"] == "2 s"
    assert first["rows"][1]["metrics"]["fd"]["error"] > 0
    stamps = {p: p.stat().st_mtime_ns for p in (out / "models").rglob("*.safetensors")}
    assert len(stamps) == 2
    assert cli.main(command) == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in (out / "models").rglob("*.safetensors")}
    again = json.loads((out / "comparison.json").read_text())
    assert again["rows"][1]["metrics"] == first["rows"][1]["metrics"]


def test_an_interrupted_comparison_goes_on_and_a_label_keeps_its_class(
    place, capsys, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    command = ["compare", "a=VAE", f"mine={place / 'pngs'}", "b=GAN"]
    command += ["--images-seen", "256", "--latent-dim", "2"]
    command += ["--features", str(place / "net"), "--n-samples", "40", "--out", str(out)]
    train, calls = compare.budget.train, []

    def stopped(model, data, **limit):
        calls.append(type(model).__name__)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(model, data, **limit)

    monkeypatch.setattr(compare.budget, "train", stopped)
    assert cli.main(command) == 130
    assert (
        "the models finished are kept: the same command goes on with b" in capsys.readouterr().err
    )
    assert cli.main(command) == 0
    assert calls == ["VAE", "GAN", "GAN"]
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    names = [row["model"] for row in rows if row["kind"] != "reconstructions"]
    assert names == ["real training images", "a", "mine", "b"]
    capsys.readouterr()
    assert cli.main(["compare", "a=GAN", *command[2:]]) == 2
    message = "models must keep their labels, got 'a' for GAN, which was VAE before in"
    assert message in capsys.readouterr().err
    # Refused options leave what was there.
    before = {path for path in out.rglob("*") if path.is_file()}
    assert cli.main([*command, "--n-samples", "8", "--metrics", "[fd]"]) == 2
    assert "more rows than its" in capsys.readouterr().err
    assert before == {path for path in out.rglob("*") if path.is_file()}
    weights = out / "models" / "a-0" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    (out / "models" / "b-0.json").unlink()
    assert cli.main(command) == 2  # before b is trained again
    message = "out must hold whole models, got models['a'] must be a generator"
    told = capsys.readouterr().err
    assert message in told
    assert f"delete {out / 'models' / 'a-0.json'} to have it trained again" in told
    weights.write_bytes(whole)
    (out / "models" / "a-0.json").write_text("")
    assert cli.main(command) == 2
    assert "a-0.json must be a JSON file, got a damaged one" in capsys.readouterr().err
    (out / "models" / "a-0.json").write_text("[]")
    assert cli.main(command) == 2
    assert (
        "a-0.json must be a JSON file, got a damaged one (holds a list)" in capsys.readouterr().err
    )
    (out / "compare.json").write_text("[1]")
    assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert f"got {out / 'compare.json'}, which is damaged; choose another folder" in told
    assert calls == ["VAE", "GAN", "GAN"]


def test_runs_have_their_costs(tmp_path):
    assert compare._costs_of_run(tmp_path) == {}
    summary = {"seconds": {"reading": 1.0, "autoencoder": 20.5, "transport": 9.5, "pictures": 2.0}}
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "peak_memory_gib": 1.5}))
    assert compare._costs_of_run(tmp_path) == {"train_seconds": 30.0, "peak_gib": 1.5}
    (tmp_path / "summary.json").write_text('{"seconds": [3], "peak_memory_gib": "x"}')
    assert compare._costs_of_run(tmp_path) == {}


def test_an_empty_folder_stays_and_old_pictures_go(place, capsys, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    command = ["compare", f"mine={place / 'pngs'}", "--features", str(place / "net")]
    command += ["--out", str(out), "--n-samples"]
    assert cli.main([*command, "4", "--metrics", "[fd]"]) == 2
    assert list(out.iterdir()) == []
    assert cli.main([*command, "40"]) == 0
    assert (out / "prd.png").is_file()
    assert cli.main([*command, "40", "--metrics", "sliced", "precision", "--repeats", "2"]) == 0
    row = json.loads((out / "comparison.json").read_text())["rows"][1]
    assert set(row["metrics"]) == {"sliced", "precision"}
    assert row["facts"]["sets"] == 2
    last = [*command[2:], "40", "--metrics=sliced", command[1]]  # the model behind the options
    assert cli.main(["compare", *last]) == 0
    assert {path.name for path in out.glob("*.png")} == {"samples.png"}


def test_a_tilde_is_the_home_folder(place, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(place))
    command = ["compare", "mine=~/pngs", "--features", str(place / "net"), "--n-samples", "40"]
    assert cli.main([*command, "--metrics=sliced", "--out=~/home"]) == 0
    assert (place / "home" / "comparison.json").is_file()
    assert cli.main(["report", "~/home", "--out", "~/home.html"]) == 0
    assert (place / "home.html").is_file()
    assert not list(tmp_path.iterdir())
    Comparison.load("~/home").save("~/again")
    assert (place / "again" / "comparison.json").is_file()


def test_other_images_under_the_same_path_are_another_comparison(place, capsys, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(60):
        shade = Image.new("L", (8, 8), 4 * k)
        shade.save(pictures / f"{k}.png")
    command = ["compare", f"mine={place / 'pngs'}", "--data", str(pictures)]
    command += ["--n-samples", "12", "--metrics", "[sliced]", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    assert cli.main(command) == 0
    Image.new("L", (8, 8), 255).save(pictures / "0.png")
    assert cli.main(command) == 2
    assert "made with another images" in capsys.readouterr().err


def test_a_run_is_not_measured_on_images_that_it_learned_from(place, capsys, tmp_path, monkeypatch):
    """What `aeot fit` kept out of a folder is what `aeot compare` measures its run on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # a folder, although a published set has that name
    for k in range(100):
        Image.fromarray(aeot.dataset("digits").values[k, 0].numpy()).save(f"digits/{k:03d}.png")
    fit = ["fit", "--data", "digits/", "--size", "8", "--steps", "2", "--latent_dim", "2"]
    assert cli.main([*fit, "--width", "4", "--out", "runs/a", "--seed", "3"]) == 0
    told = capsys.readouterr().err
    assert "90 rows to learn from; 10 others are kept out" in told
    learned = aeot.AEOT.load("runs/a").brenier_.sites
    seen = []
    monkeypatch.setattr(compare, "_digest", lambda *sets: seen.append(sets) or "images")
    command = ["compare", "runs/a", "--data", str(tmp_path / "digits"), "--size", "8"]
    command += ["--metrics", "sliced", "--out"]
    assert cli.main([*command, "out"]) == 0  # of another seed than the run, and by another path
    training, reference = seen[-1]
    assert (len(training), len(reference)) == (90, 10)
    codes = aeot.AEOT.load("runs/a").encode(training)
    assert torch.equal(codes.sort(0).values, learned.sort(0).values)
    both = torch.cat([training.values, reference.values]).flatten(1)
    assert len(both.unique(dim=0)) == len(aeot.images("digits", size=8).values.unique(dim=0))
    command[1] = "runs/a/model"
    assert cli.main([*command, "model"]) == 0
    assert torch.equal(seen[-1][1].values, reference.values)
    shutil.copytree("runs/a", "runs/b")
    config = tmp_path / "runs/b/config.yaml"
    config.write_text(config.read_text().replace("seed: 3", "seed: 4"))
    assert cli.main([*command, "other", "runs/b"]) == 2
    assert "models must have kept the same images of" in capsys.readouterr().err
    Image.new("L", (8, 8), 7).save("digits/100.png")
    assert cli.main([*command, "other"]) == 2
    message = capsys.readouterr().err
    assert "data must be the 100 images that a was fitted to, got 101" in message
    assert not (tmp_path / "other").exists()
