"""WGAN-GP's toy benchmark: its distance, its settled critic, resuming and stopping."""

import functools
import importlib
import multiprocessing.dummy
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
toys = importlib.import_module("bench_wgan_gp")
training = importlib.import_module("table2_training")
planar = importlib.import_module("planar")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def without_times(record):
    history = [{k: v for k, v in h.items() if k != "seconds"} for h in record["history"]]
    return record | {"seconds": None, "history": history}


def test_binned_distance_of_known_problems():
    draw = np.random.default_rng(0)
    points = draw.normal(size=(200_000, 2)) * 0.2
    # A shift by t costs |t|, a stretch by 1 + s costs s E|x|: both maps are optimal.
    assert toys.binned_distance(points, points + [0.3, -0.4], 0.05) == pytest.approx(0.5, rel=1e-3)
    stretched = toys.binned_distance(points, 1.5 * points, 0.05)
    assert stretched == pytest.approx(0.5 * np.linalg.norm(points, axis=1).mean(), rel=0.01)
    assert toys.binned_distance(points, points[::-1], 0.05) == pytest.approx(0, abs=1e-9)


def test_the_distance_sees_a_small_shift_of_the_ring():
    shift = np.array([0.03, 0.04])

    def draw_samples(n, block):
        data = toys.aeot.data.toy("ring", n, scaling="wgan-gp", seed=50 + block)
        return data.values.numpy() + shift

    found = toys.distance(draw_samples, "ring", 0, samples=20_000, blocks=2)
    assert found["w"] == pytest.approx(0.05, rel=0.03)
    assert found["w_se"] < 0.002
    # The floor: modes drawn at random, so that masses are off by sqrt(p / n) each.
    assert 0.001 < found["w_floor"] < 0.03


def test_a_settled_critic_is_best_along_its_own_direction():
    game = planar.Wasserstein(toys.PENALTY)
    training.initialise(game, "WGAN-GP", 0)
    noise = np.random.default_rng(1).normal(size=(2500, 2)).astype(np.float32)
    real = toys.stream("ring", 2500, 1).values.numpy()
    share = np.linspace(0, 1, 2500, dtype=np.float32)[:, None]

    def excess():
        # d/dt of gap - penalty E (slope - 1)^2 where the critic is multiplied by 1 + t
        fake = game.generator.evaluate(noise)
        slope = game.critic.slopes_at(fake + share * (real - fake))
        gap = game.critic.evaluate(real).mean() - game.critic.evaluate(fake).mean()
        return gap / (2 * toys.PENALTY * ((slope - 1) * slope).mean()) - 1

    before, held = excess(), game.generator.theta.copy()
    toys.settle(game, "ring", 0, steps=260)
    assert abs(excess()) < 0.1 < abs(before)
    np.testing.assert_array_equal(game.generator.theta, held)
    assert game.rate == 1e-4


def test_toy_runs_resume_and_stop_by_name(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    game, record = toys.train("swissroll", 2, whole, every=1)
    toys.train("swissroll", 1, parts, every=1)
    again, resumed = toys.train("swissroll", 2, parts, every=1)
    np.testing.assert_array_equal(game.generator.theta, again.generator.theta)
    assert without_times(record) == without_times(resumed)
    facts = toys.verdict(game, "swissroll", 0, samples=2000, blocks=2, steps=2)
    assert facts["expected"] == pytest.approx(1 + facts["w"] / 0.2)
    assert facts["w"] > 10 * facts["w_floor"] > 0  # an untrained generator is far away
    text = toys.markdown([record | {"verdict": facts}, {"set": "ring", "steps": 0}])
    assert f"| swissroll | 2 (0) | {facts['w']:.4f} ± {facts['w_se']:.4f} |" in text

    def poisoned(self, noise):
        self.generator.theta[3] = np.nan

    monkeypatch.setattr(planar.Wasserstein, "generator_step", poisoned)
    found = toys.work("swissroll", 3, parts, time.time() + 60, samples=1000)
    assert found["error"].startswith(
        "swissroll, after 2 generator steps, step 5: weights of the generator"
    )
    assert (
        training.load_state(parts / "wgan-gp-swissroll-0.npz", planar.Wasserstein(0.1))[0]
        == resumed
    )


@pytest.mark.parametrize("device", DEVICES)
def test_toys_train_together_as_they_do_alone_and_resume(device, tmp_path):
    names, later = ["ring", "swissroll"], time.time() + 300
    (tmp_path / "alone").mkdir()
    for folder, stops in (("whole", (3,)), ("parts", (1, 3))):
        for steps in stops:
            toys.train_together(names, steps, tmp_path / folder, later, device, every=1, judged=1)
    for name in names:
        alone, record = toys.train(name, 3, tmp_path / "alone", every=1)
        (one, first), (two, second) = (
            toys.stand(name, 0, tmp_path / folder) for folder in ("whole", "parts")
        )
        start = planar.Wasserstein(toys.PENALTY)
        training.initialise(start, "WGAN-GP", 0)
        for part in ("generator", "critic"):
            np.testing.assert_array_equal(one.networks[part].theta, two.networks[part].theta)
            moved = alone.networks[part].theta - start.networks[part].theta
            apart = alone.networks[part].theta - one.networks[part].theta
            assert np.linalg.norm(apart) < 0.2 * np.linalg.norm(moved)
        assert [h["step"] for h in first["history"]] == [1, 2, 3]
        for ours, theirs in zip(first["history"], record["history"], strict=True):
            assert ours["gap"] == pytest.approx(theirs["gap"], rel=0.05)
        assert without_times(first) == without_times(second)
    toys.train(names[0], 4, tmp_path / "whole", every=1)
    with pytest.raises(ValueError, match="equally far"):
        toys.train_together(names, 5, tmp_path / "whole", later, device, every=1)


def test_training_alone_writes_a_state_and_no_table(tmp_path, monkeypatch):
    output = tmp_path / "t.json"
    given = ["--train-only", "--sets", "swissroll", "--steps", "1", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench", *given, "--output", str(output)])
    monkeypatch.setattr(toys.multiprocessing, "get_context", lambda _: multiprocessing.dummy)
    monkeypatch.setattr(toys, "train", functools.partial(toys.train, every=1))
    toys.main()
    assert toys.stand("swissroll", 0, tmp_path / "toys")[1]["steps"] == 1
    assert not output.exists()
