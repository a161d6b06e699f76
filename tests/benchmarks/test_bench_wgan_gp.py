"""WGAN-GP's toy benchmark: its distance, its settled critic, resuming and stopping."""

import functools
import json
import multiprocessing.dummy
import sys
import time

import bench_wgan_gp as toys
import numpy as np
import pytest
import torch

from aeot import WGANGP


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
    rule = {"architecture": "mlp", "hidden": 64, "learning_rate": 1e-3, "batch_size": 256}
    model = WGANGP(latent_dim=2, penalty=0.1, **rule).fit(toys.stream("ring", 1000), steps=0)
    held = [p.clone() for p in (*model.generator_.parameters(), *model.critic_.parameters())]
    real, fake = toys.stream("ring", 2500, "test").values, model.sample(2500, seed=1)

    def excess(critic):
        # d/dt of gap - penalty E (slope - 1)^2 where the critic is multiplied by 1 + t
        slope = toys.on_segments(critic, real, fake, 0)
        gap = toys.critics.estimate(critic, real, fake)
        return gap / float(2 * model.penalty * ((slope - 1) * slope).mean()) - 1

    assert abs(excess(toys.settle(model, "ring", 0, steps=200))) < 0.05 < abs(excess(model.critic_))
    assert all(
        map(torch.equal, held, (*model.generator_.parameters(), *model.critic_.parameters()))
    )


def test_toy_runs_resume_and_stop_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(toys, "POINTS", 5000)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    model, record = toys.train("swissroll", 4, whole, every=2)
    toys.train("swissroll", 2, parts, every=2)
    again, resumed = toys.train("swissroll", 4, parts, every=2)
    pairs = zip(model.generator_.parameters(), again.generator_.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert record | {"seconds": 0} == resumed | {"seconds": 0}
    assert [line["step"] for line in record["history"]] == [2, 4]
    facts = toys.verdict(model, "swissroll", 0, samples=2000, blocks=2, steps=2)
    assert facts["expected"] == pytest.approx(1 + facts["w"] / 0.2)
    assert facts["w"] > 10 * facts["w_floor"] > 0  # an untrained generator is far away
    text = toys.markdown([record | {"verdict": facts}, {"set": "ring", "steps": 0}])
    assert f"| 4 (0) | {facts['w']:.4f} ± {facts['w_se']:.4f} |" in text

    def poisoned(self, step, *rest):
        next(self.generator_.parameters()).data[0, 0] = np.nan
        return {}

    monkeypatch.setattr(WGANGP, "_update", poisoned)
    kept = (parts / "wgan-gp-swissroll-0" / "model.safetensors").read_bytes()
    found = toys.work("swissroll", 6, parts, time.time() + 60, samples=1000)
    assert found["error"].startswith("swissroll: generator.0.weight became NaN or infinite at step")
    assert (parts / "wgan-gp-swissroll-0" / "model.safetensors").read_bytes() == kept
    assert json.loads((parts / "wgan-gp-swissroll-0.json").read_text())["history"] == [
        *record["history"]
    ]


def test_training_alone_writes_a_state_and_no_table(tmp_path, monkeypatch):
    output = tmp_path / "t.json"
    given = ["--train-only", "--sets", "swissroll", "--steps", "1", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench", *given, "--output", str(output)])
    monkeypatch.setattr(toys.multiprocessing, "get_context", lambda _: multiprocessing.dummy)
    monkeypatch.setattr(toys, "train", functools.partial(toys.train, every=1))
    toys.main()
    record = json.loads((tmp_path / "toys" / "wgan-gp-swissroll-0.json").read_text())
    assert [line["step"] for line in record["history"]] == [1]
    assert not output.exists()
