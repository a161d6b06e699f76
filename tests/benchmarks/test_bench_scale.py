import argparse
import json
import subprocess
import sys

import bench_scale
import numpy as np
import pytest
import torch


@pytest.mark.parametrize("d", [2, 16])
def test_no_group_that_bounds_skip_holds_the_best_site(d):
    rng = np.random.default_rng(0)
    sites, cells = rng.standard_normal((300, d)), rng.random((300, d))
    heights, x = rng.standard_normal(300), rng.random((50, d))
    for _ in range(40):
        own = rng.choice(300, int(rng.integers(1, 30)), replace=False)
        best = (x @ sites[own].T + heights[own]).max(1)
        assert (bench_scale.bounds(x, sites[own], heights[own], cells[own]) >= best - 1e-12).all()


def test_a_search_looks_at_all_sites_where_nothing_is_skipped():
    rng = np.random.default_rng(0)
    sites, heights, x = rng.standard_normal((256, 2)), rng.standard_normal(256), rng.random((50, 2))
    told = sites, heights, rng.random((256, 2))
    # The tree of 256 sites has 16 leaves of 16, and 31 groups whose bounds are looked at.
    assert bench_scale.looked(x, np.full(50, -np.inf), *told, leaf=16) == 256 + 31
    assert bench_scale.looked(x, np.full(50, np.inf), *told, leaf=16) == 1


def test_the_model_finds_the_constants_it_was_made_with():
    a, b, c = 3e-8, 2e-4, 1e-4
    rows = [
        {"n": n, "ranks": k, "processor_seconds": a * n**2 / k + b * n / k + c * n}
        for n in (1000, 4000, 16_000)
        for k in (1, 2)
    ]
    model = bench_scale.Model(rows)
    assert model.parts == pytest.approx([a, b, c])
    assert model(10**6, 8) == pytest.approx(a * 1e12 / 8 + b * 1e6 / 8 + c * 1e6)


def test_simulated_ranks_wait_for_the_one_with_most_blocks():
    model = bench_scale.Model(
        [{"n": n, "ranks": k, "processor_seconds": n**2 / k} for n in (1, 2, 4) for k in (1, 2)]
    )
    like = {"n": 10, "block": 10, "steps": [["grow", 50, 1.0]]}
    two = {"n": 10, "messages": 3, "message_seconds": 1.0, "bytes": 40, "bytes_a_second": 2.0}
    assert bench_scale.simulated(model, 10, 1, like, two)[0] == pytest.approx(100)
    total, talk = bench_scale.simulated(model, 10, 2, like, two)  # five blocks: three and two
    assert talk == pytest.approx(3 + 40 / 2)
    assert total == pytest.approx(60 + talk)


def test_what_is_left_of_a_solve_takes_samples_a_site_and_time_a_score_of_another():
    like = {
        "n": 10,
        "ranks": 1,
        "steps": [["coarse", 5, 1.0], ["grow", 30, 2.0], ["stream", 40, 6.0]],
    }
    row = {"n": 20, "ranks": 2, "steps": [["coarse", 9, 1.5], ["grow", 50, 3.0]]}
    row |= {"samples": 59, "processor_seconds": 4.5, "seconds": 5.0}
    row |= {"peak_memory_gib": 1.0, "foreseen_gib": 2.0}
    told = bench_scale.foretold(row, like)  # four times the scores, by two ranks
    assert told.endswith("4 samples a site, 12 s of each")
    assert "coarse 1.5 s, grow 3 s" in told


def test_what_two_ranks_send_is_counted(monkeypatch):
    for name in ("all_reduce", "all_gather", "all_to_all_single"):
        monkeypatch.setattr(torch.distributed, name, lambda *_, **__: None)
    traffic, x = bench_scale.Traffic(4, 1), torch.zeros(12)
    torch.distributed.all_reduce(x)  # of 48 bytes, six quarters
    torch.distributed.all_gather([x] * 4, x)  # to three others
    torch.distributed.all_to_all_single(x, x, [3] * 4, [2, 1, 0, 9])  # all but its own
    assert (traffic.bytes, traffic.messages) == (72 + 144 + 44, 3)


@pytest.mark.slow
def test_a_small_problem_is_solved_kept_and_reported(tmp_path):
    rows, figure = str(tmp_path / "rows.jsonl"), str(tmp_path / "scale.png")
    command = [sys.executable, bench_scale.__file__]
    small = [
        "solve",
        "--n",
        "300",
        "--tol",
        "0.3",
        "--rows",
        rows,
        "--keep",
        str(tmp_path / "keep"),
    ]
    begun = subprocess.run([*command, *small, "--until", "settle"], capture_output=True, text=True)
    assert begun.returncode == 0, begun.stderr
    for _ in range(2):  # the second time there is nothing to do
        done = subprocess.run([*command, *small], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    first, row = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert (first["part"], row["part"]) == ("begun", "solve")
    assert row["steps"][: len(first["steps"])] == first["steps"]  # it went on
    assert row["converged"]
    told = subprocess.run(
        [*command, "report", "--rows", rows, "--figure", figure], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "300" in told.stdout


@pytest.mark.slow
def test_winners_that_leaves_miss_are_counted(tmp_path):
    args = argparse.Namespace(n=[3000], d=[8], seed=0, rows=str(tmp_path / "rows.jsonl"))
    bench_scale.few(args)
    (row,) = bench_scale.rows(args.rows)
    for share in (0.98, 0.998):
        at = row[f"at_{share:g}"]
        # 8 192 judge, and 1 024 chose the leaves.
        assert abs(at["found"] - share) <= 5 * (share * (1 - share) / 1024) ** 0.5
        assert at["probes"] < row["leaves"]
