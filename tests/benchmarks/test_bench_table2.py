"""The 2-D benchmark's scripts: resuming, stopping, reporting; a few updates' worth of training."""

import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import bench_table2 as bench
import numpy as np
import pytest
import table2_report as tables
import table2_training as training

from aeot import GAN

TINY = 300  # three updates of a GAN


def without_times(record):
    history = [{k: v for k, v in h.items() if k != "seconds"} for h in record["history"]]
    return json.dumps(record | {"seconds": None, "history": history})  # NaN equals itself


def state(path):
    """The samples kept in a file, and the bytes of the networks beside it."""
    with np.load(path) as stored:
        kept = {key: stored[key].tobytes() for key in stored if key != "record"}
    return kept | {"networks": (path.with_suffix("") / "model.safetensors").read_bytes()}


# Training
@pytest.mark.parametrize("row", ["MD", "PacGAN2", "WGAN-GP"])
def test_a_killed_run_resumes_to_the_same_state(row, tmp_path, monkeypatch):
    points = 256 * 10 if row == "WGAN-GP" else TINY
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    record = bench.train("ring", row, 0, 2, whole, points=points)
    bench.train("ring", row, 0, 1, parts, points=points)
    step = training.GAMES[row][0]._update

    def killed(model, number, *rest):  # in the middle of an epoch, weights already moved
        step(model, number, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.GAMES[row][0], "_update", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.train("ring", row, 0, 2, parts, points=points)
    resumed = bench.train("ring", row, 0, 2, parts, points=points)
    assert without_times(resumed) == without_times(record)
    assert state(parts / f"ring-{row}-0.npz") == state(whole / f"ring-{row}-0.npz")
    assert ("gradient_norm" in record["history"][0]) == (row == "WGAN-GP")  # never made up


@pytest.mark.parametrize("row", ["GAN", "WGAN-GP"])
def test_a_nan_stops_a_row_and_keeps_its_last_state(row, tmp_path, monkeypatch):
    points = 256 * 10 if row == "WGAN-GP" else TINY
    bench.work(("ring", row, 0), 1, tmp_path, time.time() + 60, points)
    good = state(tmp_path / f"ring-{row}-0.npz")
    kind = training.GAMES[row][0]
    step = kind._update

    def poisoned(model, number, *rest):
        if number == 4:
            next(model.critic_.parameters()).data[0, -1] = np.nan
        return step(model, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "_update", poisoned)
        found = bench.work(("ring", row, 0), 3, tmp_path, time.time() + 60, points)
    assert "at step 5; " in found["error"]
    epochs = 2 if row == "WGAN-GP" else 1  # of two updates, of three
    with np.load(tmp_path / f"ring-{row}-0.npz") as stored:
        assert json.loads(str(stored["record"]))["epochs"] == epochs
    assert (state(tmp_path / f"ring-{row}-0.npz") == good) == (epochs == 1)
    # Trained past it, the failure is forgotten.
    assert (tmp_path / f"ring-{row}-0.failed.json").exists()
    assert bench.work(("ring", row, 0), 3, tmp_path, time.time() + 60, points)["epochs"] == 3
    assert not (tmp_path / f"ring-{row}-0.failed.json").exists()


@pytest.mark.parametrize(
    ("row", "updates", "rows"),
    [("GAN", 1000, 100_000), ("PacGAN3", 1000, 300_000), ("WGAN", 78, 390 * 256)],
)
def test_what_an_epoch_is(row, updates, rows, monkeypatch):
    model, seen = training.estimator(row), []
    monkeypatch.setattr(
        type(model), "_update", lambda self, step, which, real: seen.append(len(real)) or {}
    )
    model.fit(training.mixture("ring", row), steps=training.updates(model))
    assert len(seen) == updates
    assert sum(seen) == rows


def test_every_row_trains(tmp_path):
    for row in training.GAMES:
        points = 256 * 5 if row.startswith("WGAN") else 100
        record = bench.train("grid", row, 1, 1, tmp_path, points=points)
        assert record["history"][0]["step"] == 1
        assert 0 <= record["history"][0]["modes"] <= 25


def test_no_row_and_seed_is_trained_twice_at_a_time():
    plan = {("a", 0): [1, 2, 5], ("b", 0): [1, 2, 5], ("c", 0): [None]}
    busy, seen = set(), []

    def task(key, stage):
        assert key not in busy
        busy.add(key)
        time.sleep(0.02 if key[0] == "a" else 0.002)
        busy.remove(key)
        seen.append((key, stage))
        return {"error": "b stops here"} if (key[0], stage) == ("b", 2) else {"epochs": stage}

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(bench.in_rounds(lambda *at: pool.submit(task, *at), plan, 4))
    a, b = (("a", 0), ("b", 0))
    assert [s for k, s in seen if k == a] == [1, 2, 5]
    assert [s for k, s in seen if k == b] == [1, 2]  # its failure stops nobody else
    assert len(outcomes) == len(seen) == 6


def test_what_another_process_trains_is_left_to_it(tmp_path):
    key, later = ("ring", "GAN", 0), time.time() + 60
    with training.alone(tmp_path / "ring-GAN-0.lock") as mine:
        assert mine
        assert bench.work(key, 1, tmp_path, later, TINY) is None
    assert bench.work(key, 1, tmp_path, later, TINY)["epochs"] == 1
    assert bench.work(key, 1, tmp_path, time.time() - 1, TINY) is None
    with pytest.raises(ValueError, match=f"--points must be {TINY} as .* began, got {2 * TINY}"):
        bench.work(key, 2, tmp_path, later, 2 * TINY)
    shutil.rmtree(tmp_path / "ring-GAN-0")
    with pytest.raises(ValueError, match="ring-GAN-0 must stand beside"):
        bench.work(key, 2, tmp_path, later, TINY)


# Reporting
def store(folder, row, seed, epochs, quality=0.9, group="grid", **more):
    folder.mkdir(exist_ok=True)
    record = {"set": group, "row": row, "seed": seed, "epochs": epochs, "history": []}
    record |= {"aeot": "0.1.0"} | more
    record["seconds"] = 2.0 * epochs
    for epoch in range(1, epochs + 1):
        scores = {"modes": 10.0 + seed, "high_quality": quality, "reverse_kl": 0.5}
        scores |= {"variance_ratio": 1.0, "seconds": 2.0, "epoch": epoch}
        record["history"].append(scores)
    samples = {f"samples{epochs}": np.full((5, 2), float(epochs), np.float32)} if epochs else {}
    path = folder / f"{group}-{row}-{seed}.npz"
    np.savez(path, record=np.array(json.dumps(record)), **samples)


def write(folder, output, why=None):
    facts = {"environment": {}, "published": bench.PUBLISHED}
    tables.report(folder, output, facts, bench.ROWS, bench.WHY if why is None else why)
    return json.loads(output.read_text()), output.with_suffix(".md").read_text()


def test_every_horizon_has_a_line(tmp_path):
    for seed, epochs in enumerate((400, 100, 100, 0)):
        store(tmp_path / "s", "GAN", seed, epochs)
    body, text = write(tmp_path / "s", tmp_path / "t.json")
    short, long = body["tables"]["grid"]["GAN"]
    assert (short["seeds"], short["epochs"]) == ([0, 1, 2], 100)
    assert (long["seeds"], long["epochs"]) == ([0], 400)
    assert short["values"]["modes"] == [10, 11, 12]
    assert short["modes"] == 11
    assert short["modes_se"] == pytest.approx(1 / 3**0.5, rel=1e-4)
    assert "| GAN | 0.1.0 | 3 × 100 | 11.0 ± 0.6 |" in text
    assert "| GAN | 0.1.0 | 1 × 400 | 10.0 |" in text
    histories = [len(record["history"]["modes"]) for record in body["records"]]
    assert histories == [400, 100, 100]
    assert tables.horizons([57, 55, 60, 100], 100) == [55, 100]  # not a line for every straggler
    assert tables.horizons([383], 100) == [100, 383]
    assert tables.horizons([383, 400], 100) == [100, 383, 400]  # a full run is always told


def test_seconds_and_samples_stay_with_the_run_they_belong_to(tmp_path):
    for seed in (0, 1):
        store(tmp_path / "gpu", "GAN", seed, 6, device="a GPU")
    write(tmp_path / "gpu", tmp_path / "t.json")
    store(tmp_path / "here", "GAN", 0, 8)
    body, text = write(tmp_path / "here", tmp_path / "t.json")
    assert body["tables"]["grid"]["GAN"][0]["seconds"] == {"one thread": 2.0, "a GPU": 2.0}
    assert "2.00 (one thread), 2.00 (a GPU)" in text
    with np.load(tmp_path / "t_samples.npz") as samples:
        assert set(samples) == {"grid|GAN|0|8"}  # not its predecessor's after six


def test_what_was_written_is_kept(tmp_path):
    store(tmp_path / "a", "GAN", 0, 5)
    store(tmp_path / "a", "ALI", 0, 2)
    first, _ = write(tmp_path / "a", tmp_path / "t.json")
    again, text = write(tmp_path / "empty", tmp_path / "t.json")
    assert again == first
    facts = {"published": bench.PUBLISHED}  # a report does not say where it was trained
    tables.report(tmp_path / "empty", tmp_path / "t.json", facts, bench.ROWS, bench.WHY)
    assert json.loads((tmp_path / "t.json").read_text()) == first
    assert not list(tmp_path.glob(".*"))
    assert "| GAN | 0.1.0 | 1 × 5 |" in text
    store(tmp_path / "b", "GAN", 0, 3)  # shorter: the written one stays
    store(tmp_path / "b", "ALI", 0, 4)  # longer: it is replaced
    third, _ = write(tmp_path / "b", tmp_path / "t.json")
    assert [(r["row"], r["epochs"]) for r in third["records"]] == [("GAN", 5), ("ALI", 4)]
    assert third["records"][0] == first["records"][0]
    with np.load(tmp_path / "t_samples.npz") as samples:
        assert "grid|GAN|0|5" in samples
        assert float(samples["grid|ALI|0|4"][0, 0]) == 4
    for figure in ("t_grid", "t_trajectory"):
        assert (tmp_path / f"{figure}.png").stat().st_size > 2000


def test_a_contradiction_is_told_with_its_reason(tmp_path):
    known = bench.PUBLISHED["grid"]["GAN"]
    line = {"seeds": [0, 1], "epochs": 400, "modes": 17.3, "modes_se": 0.6}
    line |= {"high_quality": 90.0, "high_quality_se": 1.0, "reverse_kl": 0.7, "reverse_kl_se": 0.0}
    far = tables.contradictions(line, known)
    assert far == {"high_quality": pytest.approx(4.8 / (1.0**2 + 0.7**2) ** 0.5)}
    assert "quality 90.0 ± 1.0 against 94.8 ± 0.7" in tables.remark("GAN", line, known, {})
    assert tables.remark("GAN", line, known, {"GAN": "Because {modes}."}).endswith("Because 17.3.")
    short = line | {"epochs": 100}
    assert tables.remark("GAN", short, known, {}).endswith("trained for 100 of 400 epochs.")
    # One trial has the published deviation of a trial, 0.7 * sqrt(10) = 2.2: 4.8 is not far.
    lone = line | {"seeds": [0], "modes_se": None, "high_quality_se": None, "reverse_kl_se": None}
    assert tables.contradictions(lone, known) == {}
    fine = line | {"high_quality": 94.0}
    assert tables.remark("GAN", fine, known, bench.WHY) is None
    store(tmp_path / "s", "GAN", 0, 2, quality=0.5)
    assert "More than three" in write(tmp_path / "s", tmp_path / "t.json")[1]
    sure = ((25.0, 0.0), (99.8, 0.2), (0.007, 0.002))
    exact = line | {"modes": 25.0, "modes_se": 0.0, "high_quality": 99.8, "reverse_kl": 0.007}
    assert tables.contradictions(exact, sure) == {}  # no error and no difference
    assert "modes" in tables.contradictions(exact | {"modes": 24.9}, sure)


def test_a_row_that_fails_leaves_the_others_and_the_report(tmp_path, monkeypatch):
    output = tmp_path / "t.json"
    arguments = ["bench", "--rows", "GAN", "AE-OT exact linear", "--sets", "ring", "--seeds", "1"]
    arguments += ["--points", "100", "--epochs", "1", "--folder", str(tmp_path / "s")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--output", str(output), "--minutes", "5"])
    monkeypatch.setattr(bench, "ProcessPoolExecutor", lambda n, context: ThreadPoolExecutor(1))
    monkeypatch.setattr(GAN, "_update", lambda self, *rest: {"critic_loss": np.nan})
    with pytest.raises(SystemExit) as stop:
        bench.main()
    assert stop.value.code == 1
    body = json.loads(output.read_text())
    (failed,) = body["failures"]
    error = failed.pop("error")
    assert failed == {"set": "ring", "row": "GAN", "seed": 0}
    assert error.startswith("'critic_loss' became nan at step 1; ")
    assert error in output.with_suffix(".md").read_text()
    (line,) = body["tables"]["ring"]["AE-OT exact linear"]
    assert line["converged"]
    assert line["modes"] == 8
    assert line["nearest_support"] > 0


def threads(_):
    import threadpoolctl  # after the worker's own libraries

    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]


def test_workers_have_one_thread(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
        monkeypatch.delenv(name)
    training.single_threaded()
    with bench.multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(threads, [0])[0]
    assert found
    assert set(found) == {1}
