"""Saves that somebody made up: every hash fits, and nothing in them is what `save` writes.

Each must end in one clear error, soon, and before anything large is made.
"""

import functools
import hashlib
import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import aeot
from aeot import _io, training
from aeot._rng import generator
from aeot.comparison.result import Comparison
from aeot.features import Classifier

POINTS = torch.randn(40, 2, generator=generator(0, "points"))
IMAGES = torch.rand(12, 1, 16, 16, generator=generator(0, "images")) * 2 - 1
LABELLED = aeot.tensors(IMAGES, labels=torch.arange(12) % 2)
SMALL = {"latent_dim": 2, "batch_size": 8}
HUGE = 20_000_000_000_000


def seal(place):
    """Have the manifest fit whatever the files hold."""
    digests = {
        name: hashlib.sha256((place / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    (place / "manifest.json").write_text(json.dumps({"format": _io.FORMAT, "sha256": digests}))


def body_of(place):
    return json.loads((place / "config.json").read_text())


def forge(place, change):
    """Apply `change` to the config and the tensors of a save, in place."""
    body, tensors = body_of(place), load_file(place / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    config = change(body["config"], tensors)
    body["config"] = body["config"] if config is None else config
    (place / "config.json").write_text(json.dumps(body))
    save_file(tensors, place / "model.safetensors")
    seal(place)


def put(value, *keys):
    """A change that sets what stands under the keys, in the config; None deletes it."""

    def change(config, tensors):
        for key in keys[:-1]:
            config = config[key]
        if value is None:
            del config[keys[-1]]
        else:
            config[keys[-1]] = value

    return change


def shaped(name, tensor):
    """A change that puts another tensor in the place of the one whose name ends so."""

    def change(config, tensors):
        (found,) = (key for key in tensors if key.endswith(name))
        tensors[found] = tensor

    return change


def error_of(call):
    """Return the one line of the error that a call must end in, at once."""
    begun = time.monotonic()
    with pytest.raises(ValueError, match=".") as caught:
        call()
    assert time.monotonic() - begun < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.fixture
def saved(tmp_path):
    _io.save(tmp_path / "m", {"a": torch.arange(4.0)}, {"k": 1}, kind="Thing")
    return tmp_path / "m"


DEEP = "[" * 100_000 + "]" * 100_000
MANIFESTS = {
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "deep": DEEP,
    "deep inside": '{"format": 2, "sha256": ' + DEEP + "}",
    "empty": "",
    "no format": '{"sha256": {}}',
    "format as text": '{"format": "2", "sha256": {}}',
    "format true": '{"format": true, "sha256": {}}',
    "format 2.0": '{"format": 2.0, "sha256": {}}',
    "format of the future": '{"format": 99, "sha256": {}}',
    "format huge": '{"format": ' + "9" * 4000 + ', "sha256": {}}',
    "no files": '{"format": 2}',
    "files as a list": '{"format": 2, "sha256": ["config.json", "model.safetensors"]}',
    "files as text": '{"format": 2, "sha256": "config.json"}',
    "one file": '{"format": 2, "sha256": {"config.json": "0"}}',
    "other digests": '{"format": 2, "sha256": {"config.json": 1, "model.safetensors": []}}',
    "a key twice": '{"format": 2, "format": 2, "sha256": {}}',
    "not text": "\ud800",
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_of_any_other_form(saved, name):
    (saved / "manifest.json").write_text(MANIFESTS[name], errors="surrogatepass")
    told = error_of(lambda: _io.load(saved, kind="Thing"))
    assert str(saved) in told


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "a\0b", "x" * 70_000, "", "config.json/..", "~/x"]
)
def test_manifests_that_name_other_files(saved, name, tmp_path):
    (tmp_path / "x").write_text("mine")
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["sha256"][name] = "0" * 64
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert "which no save holds" in error_of(lambda: _io.load(saved, kind="Thing"))


CONFIGS = {
    "a list": "[]",
    "text": '"Thing"',
    "deep": DEEP,
    "deep inside": '{"format": 2, "kind": "Thing", "config": {"k": ' + DEEP + "}}",
    "no kind": '{"format": 2, "config": {}}',
    "kind as a list": '{"kind": ["Thing"], "config": {}}',
    "no config": '{"kind": "Thing"}',
    "config as a list": '{"kind": "Thing", "config": [1]}',
    "config null": '{"kind": "Thing", "config": null}',
    "a key twice": '{"kind": "Thing", "kind": "Thing", "config": {}}',
    "a long kind": '{"kind": "' + "x" * 100_000 + '", "config": {}}',
    "cut": '{"kind": "Thing", "config": {',
    "no JSON": "kind: Thing",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_of_any_other_form(saved, name):
    (saved / "config.json").write_text(CONFIGS[name])
    seal(saved)
    assert str(saved) in error_of(lambda: _io.load(saved, kind="Thing"))
    for place in ("config.json", "manifest.json"):
        (saved / place).write_text(CONFIGS[name])
    error_of(lambda: _io.save(saved, {}, {}, kind="Other"))


def test_more_json_than_any_save_writes_is_not_parsed(saved, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("parsed"))
    for place in ("config.json", "manifest.json"):
        with (saved / place).open("wb") as file:
            file.truncate(_io._LONGEST + 1)
        if place == "config.json":
            monkeypatch.undo()
            seal(saved)
            monkeypatch.setattr(_io, "_once", lambda *_: pytest.fail("parsed"))
    assert "MB of JSON" in error_of(lambda: _io.load(saved, kind="Thing"))
    with pytest.raises(ValueError, match="config must take at most 67 MB as JSON"):
        _io.save(saved.parent / "n", {}, {"k": "x" * _io._LONGEST}, kind="Thing")
    assert not (saved.parent / "n").exists()


def file_of(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


def one_tensor(dtype, shape, end, data=b""):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}
    return file_of(json.dumps({"a": entry}).encode(), data)


TENSORS = {
    "empty": b"",
    "no header": b"\xff" * 64,
    "a header without end": (1 << 60).to_bytes(8, "little") + b"{}",
    "a list": file_of(b"[]"),
    "deep": file_of(DEEP.encode()),
    "400 TB": one_tensor("F64", [50_000_000_000_000], 400_000_000_000_000),
    "overflow": one_tensor("F64", [1 << 62, 8], 0),
    "negative": one_tensor("F32", [-1], 4, b"0000"),
    "a type nobody knows": one_tensor("X9", [1], 4, b"0000"),
    "a pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
}


@pytest.mark.parametrize("name", TENSORS)
def test_files_of_tensors_of_any_other_form(saved, name):
    (saved / "model.safetensors").write_bytes(TENSORS[name])
    seal(saved)
    told = error_of(lambda: _io.load(saved, kind="Thing"))
    assert "model.safetensors" in told
    assert "save it again" in told


SKELETONS = {
    "a tensor that is not there": {"$tensor": "b"},
    "a tensor by number": {"$tensor": 3},
    "a tensor by list": {"$tensor": ["a"]},
    "a tuple of a number": {"$tuple": 3},
    "pairs of three": {"$dict": [[1, 2, 3]]},
    "pairs that are none": {"$dict": {"a": 1}},
    "keys that are lists": {"$dict": [[[1], 2]]},
    "another mark": {"$exec": "os"},
    "deep": functools.reduce(lambda inner, _: [inner], range(500), []),
}


@pytest.mark.parametrize("name", SKELETONS)
def test_trees_that_were_never_taken_apart(name):
    error_of(lambda: _io.unpack({"a": torch.ones(1)}, {"k": SKELETONS[name]}))


def classifier():
    return Classifier(channels=2, width=4, epochs=1, batch_size=4).fit(LABELLED, LABELLED)


def transported():
    return aeot.AEOT(tol=0.5, **SMALL).fit(POINTS, steps=4)


def two_domains():
    return aeot.unpaired(IMAGES[:6], IMAGES[6:])


MAKERS = {
    "Autoencoder": lambda: aeot.Autoencoder(**SMALL).fit(POINTS, steps=4),
    "AEOT": transported,
    "GAN": lambda: aeot.GAN(hidden=8, **SMALL).fit(POINTS, steps=2),
    "FlowMatching": lambda: aeot.FlowMatching(hidden=8, batch_size=8).fit(POINTS, steps=2),
    "GLANN": lambda: aeot.GLANN(width=8, **SMALL).fit(POINTS, steps=3),
    "CycleGAN": lambda: aeot.CycleGAN(n_blocks=1, n_layers=1, filters=2).fit(
        two_domains(), steps=1
    ),
    "TransportTranslator": lambda: aeot.TransportTranslator(latent_dim=2, tol=0.9).fit(
        two_domains(), steps=2
    ),
    "Classifier": classifier,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a function that copies a fitted and saved model of a class into a folder."""
    kept = tmp_path_factory.mktemp("kept")

    @functools.cache
    def made(name):
        model = MAKERS[name]()
        model.save(kept / name)
        return type(model)

    def copy(name, place):
        kind = made(name)
        body, tensors = body_of(kept / name), load_file(kept / name / "model.safetensors")
        _io.save(place, tensors, body["config"], kind=name)
        return kind

    return copy


FORGED = [
    *((name, put(None, "arguments"), "arguments") for name in MAKERS),
    *((name, put(None, "learned"), "learned") for name in MAKERS),
    *((name, put([], "learned"), "") for name in ("AEOT", "GAN")),
    *((name, put({}, "learned"), "got") for name in MAKERS),
    *((name, put(1, "arguments", "no_such"), "no_such") for name in ("AEOT", "CycleGAN")),
    *((name, put(-1, "arguments", "seed"), "seed") for name in MAKERS),
    ("AEOT", put(True, "arguments", "latent_dim"), "latent_dim"),
    ("AEOT", put("2", "arguments", "latent_dim"), "latent_dim"),
    ("AEOT", put(float("nan"), "arguments", "tol"), "tol"),
    ("AEOT", put("no", "arguments", "sharpen"), "sharpen"),
    ("AEOT", put(7, "arguments", "latent_dim"), ""),
    ("Autoencoder", put(HUGE, "arguments", "latent_dim"), "encoder_"),
    ("Autoencoder", put(HUGE, "arguments", "width"), "whole"),
    ("Autoencoder", put({"$tuple": [HUGE]}, "learned", "shape_"), "encoder_"),
    ("Autoencoder", put({"$tuple": [2.0]}, "learned", "shape_"), "shape_"),
    ("Autoencoder", put({"$tuple": []}, "learned", "shape_"), ""),
    ("Autoencoder", put("none", "learned", "scale_"), "scale_"),
    ("Autoencoder", put(3, "learned", "sample"), "sample"),
    ("Autoencoder", put(3, "learned", "__class__"), "__class__"),
    ("Autoencoder", put([3], "learned", "history_"), "history_"),
    ("GAN", put(HUGE, "arguments", "hidden"), "whole"),
    ("GAN", put(HUGE, "arguments", "latent_dim"), "generator_"),
    ("GAN", put([1, 2, 3], "arguments", "betas"), "betas"),
    ("GAN", put(3, "learned", "shape_"), "shape_"),
    ("FlowMatching", put(10**9, "arguments", "layers"), "layers"),
    ("FlowMatching", put({"$tuple": [-2]}, "learned", "shape_"), ""),
    ("GLANN", put(HUGE, "learned", "n_rows_"), ""),
    ("GLANN", put(True, "learned", "n_rows_"), "n_rows_"),
    ("CycleGAN", put(10**9, "arguments", "n_blocks"), "n_blocks"),
    ("CycleGAN", put(10**9, "arguments", "filters"), ""),
    ("CycleGAN", put("batch!", "arguments", "norm"), "norm"),
    ("CycleGAN", put({"$tuple": [HUGE, 16, 16]}, "learned", "shape_"), ""),
    ("CycleGAN", put(3, "learned", "to_b_"), ""),
    ("TransportTranslator", put({}, "learned", "maps_"), ""),
    ("TransportTranslator", put([], "learned", "certificates_"), "certificates_"),
    ("TransportTranslator", put(-1.0, "arguments", "smoothing"), "smoothing"),
    ("Classifier", put({"$tuple": ["a"] * 9}, "learned", "classes_"), "network_"),
    ("Classifier", put({"$tuple": [1, 2**40, 2**40]}, "learned", "shape_"), ""),
    ("Classifier", put(None, "learned", "network_"), ""),
    ("AEOT", put({}, "learned", "brenier_"), ""),
    ("AEOT", put({}, "learned", "singular_"), "record"),
    ("AEOT", put("os", "learned", "singular_", "record"), "record"),
    ("AEOT", put(["Facets"], "learned", "singular_", "record"), "record"),
    ("AEOT", put(1, "learned", "singular_", "sheets"), "sheets"),
    ("AEOT", put(None, "learned", "singular_", "pairs"), "pairs"),
    ("AEOT", put([1], "learned", "certificate_"), "certificate_"),
    ("AEOT", shaped("singular_.components", torch.full((40,), 7_000_000)), "components"),
    ("AEOT", shaped("singular_.components", torch.zeros(3, dtype=torch.int64)), "components"),
    ("AEOT", shaped("singular_.pairs", torch.tensor([[0, 10**12]])), "pairs"),
    ("AEOT", shaped("singular_.facets.pairs", torch.zeros(9, 3)), "facets"),
    ("AEOT", shaped("singular_.facets.mass", torch.zeros(1, 1)), "mass"),
    ("AEOT", shaped("brenier_.heights", torch.zeros(3)), "heights"),
    ("AEOT", shaped("brenier_.sites", torch.zeros(40, 9)), "sites"),
    ("AEOT", shaped("brenier_.sites", torch.full((40, 2), torch.nan)), "sites"),
    ("AEOT", shaped("brenier_.masses", torch.full((40,), -1.0)), "masses"),
    ("AEOT", shaped("autoencoder_.learned.encoder_.0.weight", torch.zeros(1)), "encoder_"),
    ("GAN", shaped("generator_.0.weight", torch.zeros(8, 2, dtype=torch.int64)), "generator_"),
]


@pytest.mark.parametrize(
    ("name", "change", "word"), FORGED, ids=[f"{k} {name}" for k, (name, *_) in enumerate(FORGED)]
)
def test_models_that_were_never_fitted(store, tmp_path, name, change, word):
    kind = store(name, tmp_path / "m")
    kind.load(tmp_path / "m", device="cpu")
    forge(tmp_path / "m", change)
    told = error_of(lambda: kind.load(tmp_path / "m", device="cpu"))
    assert word in told
    assert str(tmp_path / "m") in told


@pytest.fixture(scope="module")
def compared():
    def noisy(n, seed):
        return (LABELLED[:n] + 0.1).clamp(-1, 1)

    options = {"features": aeot.features.Pixels(2), "metrics": ["sliced"], "n_samples": 6}
    return aeot.compare({"noisy": noisy}, LABELLED, **options)


ROWS = [
    put(None, "rows"),
    put({}, "rows"),
    put([1], "rows"),
    put([{}], "rows"),
    put(1, "more"),
    put([], "protocol"),
    put(None, "protocol", "features"),
    put("machine", "environment"),
    put(3, "rows", 0, "model"),
    put([], "rows", 0, "metrics"),
    put({"mean": 1.0}, "rows", 0, "metrics", "sliced"),
    put({"mean": "1", "error": None, "values": []}, "rows", 0, "metrics", "sliced"),
    put({"mean": 1.0, "error": None, "values": []}, "rows", 0, "metrics", "beauty"),
    put({"precision": "x"}, "rows", 0, "curve"),
    shaped("shown/noisy", torch.zeros(3, dtype=torch.uint8)),
    shaped("shown/noisy", torch.zeros(3, 1, 4, 4)),
]


@pytest.mark.parametrize("k", range(len(ROWS)))
def test_comparisons_that_were_never_made(compared, tmp_path, k):
    compared.save(tmp_path)
    assert Comparison.load(tmp_path).rows == compared.rows
    forge(tmp_path / "data", ROWS[k])
    assert str(tmp_path / "data") in error_of(lambda: Comparison.load(tmp_path))


def train(place):
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters())

    def update(batch):
        optimizer.zero_grad()
        layer(POINTS).square().mean().backward()
        optimizer.step()
        return {"loss": 1.0}

    state = {"layer": layer, "optimizer": optimizer}
    return training.run(update, range(9), steps=4, state=state, checkpoint=place, every=1)


CHECKPOINTS = [
    put(None, "step"),
    put(-3, "step"),
    put("2", "step"),
    put(True, "step"),
    put(2.0, "step"),
    put({}, "history"),
    put([1], "history"),
    put([{"step": "x"}], "history"),
    put([], "part"),
    put({"sums": []}, "part"),
    put(None, "state"),
    put({}, "state"),
    put([], "facts"),
    put({"$tensor": "nothing"}, "state", "layer"),
    put({}, "state", "layer"),
    put({}, "state", "optimizer"),
    put([], "state", "optimizer", "param_groups"),
    put(["x"], "state", "optimizer", "param_groups"),
    shaped("layer.weight", torch.zeros(9, 9)),
]


@pytest.mark.parametrize("k", range(len(CHECKPOINTS)))
def test_checkpoints_of_no_training(tmp_path, k):
    train(tmp_path / "run")
    forge(tmp_path / "run", CHECKPOINTS[k])
    assert str(tmp_path / "run") in error_of(lambda: train(tmp_path / "run"))


def solve(place, steps=99):
    box, records = aeot.UniformBox(dim=5), []

    def on_step(record):
        records.append(record)
        return len(records) >= steps

    codes = torch.randn(30, 5, generator=generator(0, "codes"))
    return aeot.solve_semidiscrete(
        box, codes, tol=0.2, checkpoint=place, on_step=on_step, engine="torch"
    )


TRANSPORTS = [
    put(None, "problem"),
    put([], "problem"),
    put({}, "problem"),
    put(None, "state"),
    put([], "state"),
    put({"record": "State"}, "state"),
    put({"record": "Path"}, "state"),
    put("2", "state", "step"),
    put("nowhere", "state", "phase"),
    put(None, "state", "heights"),
    put(3, "state", "history"),
    shaped("heights", torch.zeros(7)),
    shaped("sums", torch.zeros(30, 4)),
    shaped("counts", torch.zeros(1, dtype=torch.int64)),
]


@pytest.mark.parametrize("k", range(len(TRANSPORTS)))
def test_checkpoints_of_no_transport(tmp_path, k, transport):
    body, tensors = transport
    _io.save(tmp_path / "run", tensors, json.loads(body), kind="transport")
    forge(tmp_path / "run", TRANSPORTS[k])
    assert str(tmp_path / "run") in error_of(lambda: solve(tmp_path / "run"))


@pytest.fixture(scope="module")
def transport(tmp_path_factory):
    place = tmp_path_factory.mktemp("transport") / "run"
    solve(place, 1)
    tensors = load_file(place / "model.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if name != "best_heights"}
    config = body_of(place)["config"]
    config["state"]["best_heights"] = None
    return json.dumps(config), tensors
