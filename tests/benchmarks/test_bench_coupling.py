"""The benchmark of couplings: its rivals' pairs, its integrator, and going on after a stop."""

import json

import bench_coupling as bench
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import aeot


def test_mini_batches_are_paired_by_an_optimal_plan(monkeypatch):
    source, data = aeot.Gaussian(dim=3), torch.randn(500, 3, generator=aeot.generator(0))
    monkeypatch.setattr(bench, "BATCH", 32)
    pairs = bench.MiniBatch(source, data, 0, 64)
    x0, x1 = (torch.cat(parts) for parts in zip(pairs.batch(0), pairs.batch(1), strict=True))
    noise, rows = bench.Independent(source, data, 0).batch(0, 64)
    best = linear_sum_assignment(torch.cdist(noise, rows).square())[1]
    partner = {tuple(a): b for a, b in zip(noise.tolist(), rows[best], strict=True)}
    for a, b in zip(x0.tolist(), x1, strict=True):  # drawn with repetition, as torchcfm draws
        assert torch.equal(partner[tuple(a)], b)


def test_euler_follows_a_field_that_is_known():
    x = torch.randn(7, 2, generator=aeot.generator(0))
    end, seen = bench.euler(lambda x, t: 2 * t + 0 * x, x, 8)
    torch.testing.assert_close(end, x + 2 * sum(k / 8 for k in range(8)) / 8)
    assert len(seen) == 8


@pytest.mark.parametrize("way", bench.WAYS)
def test_cases_are_whole_and_not_run_twice(way, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "SIZES", {"plane": (60, 0.2, 8, 1)})
    monkeypatch.setattr(bench, "ROWS", tmp_path / "rows.jsonl")
    monkeypatch.setattr(bench, "N_TEST", 40)
    arguments = ["bench", "plane", "--ways", way, "--steps", "2"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", arguments)
        bench.main()
    (line,) = (tmp_path / "rows.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["way"], row["steps"], row["d"]) == (way, 2, 2)
    assert row["missed_32"] < row["missed_1"]
    monkeypatch.setattr("sys.argv", ["bench", "--table"])
    bench.main()
    assert f"| {way} | 1 |" in capsys.readouterr().out
