import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import aeot
from aeot.models import aeot as aeot_module
from aeot.models.aeot import AEOT
from aeot.models.autoencoder import Autoencoder
from aeot.search import engines

OPTIONS = {"latent_dim": 4, "batch_size": 32, "precision": "float32", "tol": 0.1, "device": "cpu"}


@pytest.fixture(scope="module")
def digits():
    return aeot.dataset("digits", size=8).subset(slice(0, 150))


@pytest.fixture(scope="module")
def fitted(digits):
    return AEOT(**OPTIONS, seed=2).fit(digits, steps=90)


def test_fit_certifies_the_transport(fitted, digits):
    assert fitted.certificate_["converged"]
    assert fitted.certificate_["mass_error_upper"] <= 0.1
    assert len(fitted.brenier_.sites) == len(digits)
    # by another route: count fresh points of the source in every cell
    points = torch.rand(60_000, 4, generator=aeot.generator(9))
    counts = fitted.brenier_.cell(points).bincount(minlength=len(digits)) / 60_000
    error = float((counts - 1 / len(digits)).abs().sum() / 2)
    floor = 0.4 * (len(digits) / 60_000) ** 0.5  # of counting alone
    assert error < 0.1 + 2 * floor


def test_samples_are_new_and_look_like_the_data(fitted, digits):
    images = fitted.sample(200, seed=1)
    assert images.shape == (200, 1, 8, 8)
    assert float(images.abs().max()) <= 1
    codes = fitted.draw(200, seed=1).codes
    assert torch.equal(fitted.decode(codes), images)
    gaps = torch.cdist(codes, fitted.brenier_.sites).amin(1)
    assert float(gaps.min()) > 0  # never bare training codes
    # nearer to the data than noise of the same mean and covariance in pixel space is
    real = digits[:].flatten(1)
    noise = torch.from_numpy(
        np.random.default_rng(0).multivariate_normal(
            real.mean(0).numpy(), np.cov(real.T.numpy()), 200
        )
    )
    own = torch.cdist(images.flatten(1), real).amin(1).mean()
    assert float(own) < float(torch.cdist(noise.float(), real).amin(1).mean())


def test_the_account_of_sampling_adds_up(fitted):
    fitted.sample(50, seed=4)
    account = fitted.sampled_
    total = account["accepted"] + account["rejected"]
    assert account["acceptance"] == pytest.approx(account["accepted"] / total)
    assert len(account["acceptance_by_mode"]) == fitted.singular_.n_components


def test_seeds_decide_everything(fitted, digits):
    assert torch.equal(fitted.sample(5, seed=7), fitted.sample(5, seed=7))
    assert not torch.equal(fitted.sample(5, seed=7), fitted.sample(5, seed=8))
    again = AEOT(**OPTIONS, seed=2).fit(digits, steps=90)
    assert torch.equal(again.brenier_.sites, fitted.brenier_.sites)
    assert torch.equal(again.brenier_.heights, fitted.brenier_.heights)
    assert torch.equal(again.singular_.pairs, fitted.singular_.pairs)
    assert torch.equal(again.sample(5, seed=7), fitted.sample(5, seed=7))


def test_scores_are_saved_with_the_model(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again = AEOT.load(tmp_path / "model")
    assert torch.equal(again.singular_.scores, fitted.singular_.scores)
    assert again.singular_.level == fitted.singular_.level


def test_the_way_along_codes_ends_where_it_should_and_takes_even_steps(fitted, digits):
    cells = (fitted.singular_.components == 0).nonzero()[:, 0]
    first, last = int(cells[0]), int(cells[-1])
    ends = fitted.brenier_.sites[[first, last]]
    images = fitted.autoencoder_.decode(ends)
    path = fitted.interpolate(images[0], images[1], 6, along="codes")
    assert path.shape == (6, *digits.shape)
    codes = fitted.encode(images).to(ends)
    near = torch.cdist(codes, fitted.brenier_.sites).argmin(1)
    assert torch.allclose(path[[0, -1]], fitted.decode(fitted.brenier_.sites[near]), atol=1e-5)
    with pytest.raises(ValueError, match="along must be one of"):
        fitted.interpolate(images[0], images[1], 6, along="images")


def test_points_along_a_polygon_are_evenly_spaced():
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    points = aeot_module._evenly(corners, 5)
    expected = [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]]
    assert torch.allclose(points, torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(aeot_module._evenly(corners[:1], 3), corners[:1].expand(3, -1))


@pytest.mark.slow  # tests/commands/test_cli.py has it for the command
def test_a_new_process_samples_the_same_images(fitted, tmp_path):
    fitted.save(tmp_path / "run" / "model")
    script = (
        "import sys, numpy, aeot; model = aeot.AEOT.load(sys.argv[1], device='cpu');"
        "numpy.save(sys.argv[2], model.sample(9, seed=5).numpy()); model.summary()"
    )
    out = tmp_path / "images.npy"
    command = [sys.executable, "-c", script, str(tmp_path / "run"), str(out)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, check=True, env={**os.environ, **threads}, timeout=600)
    assert np.array_equal(np.load(out), fitted.sample(9, seed=5).numpy())


def test_saved_is_loaded_whole(fitted, tmp_path):
    fitted.save(tmp_path / "m")
    back = AEOT.load(tmp_path / "m", device="cpu")
    fitted.sample(3, seed=0)
    back.sample(3, seed=0)
    assert json.loads(json.dumps(back.summary())) == json.loads(json.dumps(fitted.summary()))
    assert back.history_ == fitted.history_
    assert back.arguments() == fitted.arguments()
    points = torch.rand(500, 4, generator=aeot.generator(3))
    assert torch.equal(back.singular_.contains(points), fitted.singular_.contains(points))
    back.save(tmp_path / "again")  # and a loaded model can be saved
    first = (tmp_path / "m" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    with pytest.raises(ValueError, match="holds a 'AEOT', not a 'Autoencoder'"):
        Autoencoder.load(tmp_path / "m")


def test_interpolation_starts_and_ends_at_the_training_images(fitted, digits):
    path = fitted.interpolate(digits[3], digits[8], 7)
    assert path.shape == (7, 1, 8, 8)
    ends = fitted.decode(fitted.encode(digits[[3, 8]]))
    assert float((path[[0, -1]] - ends).abs().max()) < 1e-3  # a centroid is sent to its site
    with pytest.raises(ValueError, match="n must be a whole number >= 2"):
        fitted.interpolate(digits[3], digits[8], 1)


def test_copies_are_merged_and_their_masses_added(fitted, digits):
    index = [0, 1, 2, 1, 0, 1]
    with pytest.warns(UserWarning, match="3 of 6 rows are exact copies"):
        codes, masses, _ = fitted._targets(
            digits.subset(index), torch.arange(1.0, 7.0).double() / 21, None
        )
    assert torch.equal(codes, fitted.encode(digits[:3]))
    expected = torch.tensor([1 + 5, 2 + 4 + 6, 3]).double() / 21
    torch.testing.assert_close(masses, expected, rtol=1e-12, atol=0)


def test_equal_codes_of_different_images_are_merged_too(fitted, digits, monkeypatch):
    monkeypatch.setattr(
        type(fitted.autoencoder_), "encode", lambda self, data: torch.tensor([[0.0], [-0.0], [1.0]])
    )
    with pytest.warns(UserWarning, match="1 more have equal codes"):
        codes, masses, _ = fitted._targets(
            digits.subset([0, 1, 2]), torch.full((3,), 1 / 3).double(), None
        )
    assert codes.tolist() == [[0.0], [1.0]]
    torch.testing.assert_close(masses, torch.tensor([2 / 3, 1 / 3]).double())
    assert fitted.merged_ == {"images": 0, "codes": 1}
    fitted.merged_ = {"images": 0, "codes": 0}


def test_masses_are_kept(digits):
    model = AEOT(**OPTIONS)
    model.autoencoder_ = Autoencoder(latent_dim=4, precision="float32", device="cpu").fit(
        digits, steps=2
    )
    few = digits.subset(slice(0, 5))
    masses = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2], dtype=torch.float64)
    model.fit_transport(few, masses)
    torch.testing.assert_close(model.brenier_.masses.cpu(), masses)
    for bad, words in (([0.5] * 5, "masses must sum to 1"), ([0.5, 0.5], r"shape \(5,\)")):
        with pytest.raises(ValueError, match=words):
            model.fit_transport(few, bad)


def test_the_engine_is_passed_on_and_a_missing_one_is_refused_before_training(
    fitted, digits, monkeypatch, tmp_path
):
    model = AEOT(**OPTIONS, engine="torch")
    model.autoencoder_ = fitted.autoencoder_
    model.fit_transport(digits.subset(slice(0, 40)))
    assert model.certificate_["engine"] == model.brenier_.engine == "torch"
    model.save(tmp_path / "m")
    assert AEOT.load(tmp_path / "m", device="cpu").brenier_.engine == "torch"
    assert model.certificate_["converged"]
    monkeypatch.setattr(engines, "installed", lambda package: False)
    with pytest.raises(ImportError, match="engine='numba' needs numba"):
        AEOT(**OPTIONS, engine="numba").fit(digits, on_step=lambda *_: pytest.fail("trained"))


def test_unfitted_models_say_so(digits, tmp_path):
    model = AEOT()
    for call in (
        lambda: model.sample(1),
        lambda: model.encode(digits),
        lambda: model.decode(torch.zeros(1, 64)),
        lambda: model.fit_transport(digits),
        lambda: model.interpolate(digits[0], digits[1]),
        lambda: model.save(tmp_path / "m"),
        lambda: model.summary(),
    ):
        with pytest.raises(NotFittedError):
            call()
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latent_dim": 0}, "latent_dim must be a whole number >= 1"),
        ({"tol": 0.0}, "tol must be"),
        ({"max_angle": -1.0}, "max_angle must be"),
        ({"max_angle": "high"}, "max_angle must be an angle, or a share"),
        ({"level": 0}, "level must be"),
        ({"extension": "spline"}, "extension must be one of"),
        ({"engine": "gpu"}, "engine must be one of"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"batch_size": 1}, "batch_size must be a whole number >= 2"),
    ],
)
def test_bad_arguments_are_named_before_any_work(digits, options, words):
    with pytest.raises(ValueError, match=words):
        AEOT(**OPTIONS | options).fit(digits)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (torch.full((4, 3), torch.nan), "NaN"),
        (torch.zeros(1, 3), "data must hold at least 2 rows"),
        (torch.zeros(4, 2, 8, 8), "1 or 3 channels"),
        (torch.zeros(4, 1, 9, 9, dtype=torch.uint8), "divisible by 4"),
    ],
)
def test_bad_data_is_named(array, words):
    with pytest.raises(ValueError, match=words):
        AEOT(**OPTIONS).fit(array)


def test_data_without_variety_is_refused():
    with (
        pytest.warns(UserWarning, match="exact copies"),
        pytest.raises(ValueError, match="at least 2 different codes"),
    ):
        AEOT(**OPTIONS).fit(torch.ones(40, 3), steps=2)


def test_sample_arguments_are_checked(fitted):
    for n in (0, -1, 2.5):
        with pytest.raises(ValueError, match="n must be a whole number >= 1"):
            fitted.sample(n)
    with pytest.raises(ValueError, match="seed must be"):
        fitted.sample(1, seed=-1)


def test_seconds_are_those_of_all_processes(digits, tmp_path, monkeypatch):
    """The clock of a process that goes on begins where that of the stopped one ended."""
    digits = digits.subset(slice(0, 100))
    clock = {"now": 0.0}

    def tick(*_):  # every step and every step of the solver takes a second
        clock["now"] += 1.0

    def stop(*_):
        tick()
        raise RuntimeError("stopped")

    monkeypatch.setattr("time.perf_counter", lambda: clock["now"])
    monkeypatch.setattr("aeot._loop.Pace.due", lambda self: True)
    options = {"steps": 6, "checkpoint": tmp_path / "kept", "held_out": 0.0}
    whole = AEOT(**OPTIONS)
    whole.fit_autoencoder(digits, steps=6, held_out=0.0, on_step=tick)
    whole.fit_transport(digits, on_step=tick)
    with pytest.raises(RuntimeError, match="stopped"):
        AEOT(**OPTIONS).fit_autoencoder(
            digits, on_step=lambda step, _: stop() if step == 3 else tick(), **options
        )
    again = AEOT(**OPTIONS).fit_autoencoder(digits, on_step=tick, **options)
    records = []
    transport = tmp_path / "kept" / "transport"
    with pytest.raises(RuntimeError, match="stopped"):
        again.fit_transport(
            digits,
            checkpoint=transport,
            on_step=lambda r: records.append(r) or (stop() if len(records) == 3 else tick()),
        )
    again.fit_transport(digits, checkpoint=transport, on_step=tick)
    for name in ("autoencoder", "transport"):
        # A step is told before its second has passed, so the one that was stopped is short of it.
        assert whole.seconds_[name] - 2 <= again.seconds_[name] <= whole.seconds_[name] + 1, name
    assert torch.equal(again.brenier_.heights, whole.brenier_.heights)


def test_seconds_of_classes_are_added(digits, tmp_path):
    digits = digits.subset(slice(0, 100))
    labels = torch.arange(len(digits)) % 2
    told = []
    model = AEOT(**OPTIONS).fit_autoencoder(digits, steps=4)
    model.fit_transport(digits, labels=labels, on_step=told.append)
    last = {record["class"]: record["seconds"] for record in told}
    assert len(last) == 2
    assert model.seconds_["transport"] >= sum(last.values())


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "classes"])
def interrupted(request, digits, tmp_path_factory):
    """A model, what its transport is fitted to and where it was stopped, and its heights else."""
    digits = digits.subset(slice(0, 100))
    model = AEOT(**OPTIONS).fit_autoencoder(digits, steps=2, held_out=0.0)
    given = {"data": digits, "labels": torch.arange(100) % 2 if request.param else None}
    heights = model.fit_transport(**given).brenier_.heights
    place, told = tmp_path_factory.mktemp("interrupted") / "kept", []

    def stop(record):
        told.append(record)
        return len(told) == 3

    model.fit_transport(**given, checkpoint=place, on_step=stop)
    assert not torch.equal(model.brenier_.heights, heights)
    return model, given, place, heights


@pytest.mark.parametrize("how", ["cut", "no manifest", "another state", "no previous"])
def test_a_damaged_checkpoint_of_the_transport_costs_the_transport(
    how, interrupted, tmp_path, caplog
):
    model, given, kept, heights = interrupted
    place = shutil.copytree(kept, tmp_path / "kept")
    (inside,) = place.iterdir()
    inside = inside if given["labels"] is None else inside / "class-0"
    shutil.rmtree(inside / "previous", ignore_errors=True)
    if how == "no manifest":
        (inside / "manifest.json").unlink()
    elif how == "another state":  # whole, and of something else
        tensors, config = aeot._io.load(inside, kind="transport")
        tensors = {name: x[:1] for name, x in tensors.items()}
        aeot._io.save(inside, tensors, config, kind="transport")
    elif how == "cut":
        (inside / "model.safetensors").write_bytes(b"cut")
    model.fit_transport(**given, checkpoint=place)
    warned = f"{inside} is damaged and holds nothing earlier: its stage begins anew"
    assert [r.getMessage() for r in caplog.records].count(warned) == (how != "no previous")
    assert torch.equal(model.brenier_.heights, heights)


@pytest.mark.parametrize("source", ["gaussian", "ball"])
def test_other_sources_are_transported_and_stored(source, digits, tmp_path):
    model = AEOT(**OPTIONS, seed=2, source=source).fit(digits, steps=20)
    kind = {"gaussian": aeot.Gaussian, "ball": aeot.UniformBall}[source]
    assert isinstance(model.brenier_.source, kind)
    # by another route: points made by hand fall into every cell equally often
    g = aeot.generator(9)
    points = torch.randn(60_000, 4, generator=g)
    if source == "ball":
        length = torch.rand(60_000, 1, generator=g) ** (1 / 4)
        points = points / points.norm(dim=1, keepdim=True) * length
    counts = model.brenier_.cell(points).bincount(minlength=len(digits)) / 60_000
    assert float((counts - 1 / len(digits)).abs().sum() / 2) < 0.14
    model.save(tmp_path / "m")
    loaded = AEOT.load(tmp_path / "m")
    assert isinstance(loaded.brenier_.source, kind)
    assert torch.equal(loaded.sample(3, seed=1), model.sample(3, seed=1))


def test_samples_per_site_bound_what_the_transport_draws(fitted, digits):
    """As many as Lei et al. take; a tolerance beyond their floor of 0.04 is not certified."""
    model = AEOT(**OPTIONS | {"tol": 0.004}, seed=2, samples_per_site=200)
    model.autoencoder_ = fitted.autoencoder_
    with pytest.warns(ConvergenceWarning):
        model.fit_transport(digits)
    assert 0 < model.certificate_["n_samples"] <= 200 * len(digits)
    assert not model.certificate_["converged"]
    # By another route: the solver's own bound, of all samples, on the same codes.
    solution = aeot.solve_semidiscrete(
        aeot.UniformBox(dim=4), model.brenier_.sites, tol=0.004, seed=2, max_samples=30_000
    )
    assert torch.equal(solution.heights, model.brenier_.heights)


def test_a_function_cuts_the_map_and_is_passed_again_to_what_was_saved(fitted, digits, tmp_path):
    shortest = float(fitted.singular_.facets.jumps.median())

    def rule(angles, jumps):
        return jumps > shortest

    model = AEOT(**OPTIONS, seed=2, max_angle=rule)
    model.autoencoder_ = fitted.autoencoder_
    model.fit_transport(digits)
    i, j = model.singular_.pairs.T  # by another route: the distances of these codes
    sites = model.brenier_.sites
    assert 10 < len(i) < len(model.singular_.facets.pairs) - 10
    assert float((sites[i] - sites[j]).norm(dim=1).min()) > shortest
    cut = {*map(tuple, model.singular_.pairs.tolist())}
    regular = {*map(tuple, model.singular_.facets.pairs.tolist())} - cut
    a, b = torch.tensor(sorted(regular)).T
    assert float((sites[a] - sites[b]).norm(dim=1).max()) <= shortest
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"max_angle must be passed.*AEOT.load\(path, max_angle="):
        AEOT.load(tmp_path / "m")
    with pytest.raises(ValueError, match="max_angle must be the function that the model was cut"):
        AEOT.load(tmp_path / "m", max_angle=lambda angles, jumps: jumps > 2 * shortest)
    loaded = AEOT.load(tmp_path / "m", max_angle=rule)
    assert loaded.max_angle is loaded.singular_.criterion is rule
    assert torch.equal(loaded.sample(3, seed=1), model.sample(3, seed=1))
    assert "function, to be passed to load" in (tmp_path / "m" / "README.md").read_text()
    fitted.save(tmp_path / "plain")
    with pytest.raises(
        ValueError, match="max_angle must be None: the model was cut by no function"
    ):
        AEOT.load(tmp_path / "plain", max_angle=rule)


def test_an_unknown_source_is_refused_before_training(digits):
    with pytest.raises(ValueError, match="source must be one of"):
        AEOT(**OPTIONS, source="torus").fit(digits, on_step=lambda *_: pytest.fail("trained"))
