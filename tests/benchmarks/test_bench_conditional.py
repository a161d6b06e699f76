"""The benchmark of classes ends where it is told to, and goes on from there."""

import json

import bench_conditional as bench
import pytest
import torch

import aeot


@pytest.mark.filterwarnings("ignore:mass error")
def test_a_case_that_was_ended_goes_on_and_is_run_once(monkeypatch, tmp_path, capsys):
    sites, labels = torch.randn(90, 4, generator=aeot.generator(0)), torch.arange(90) % 3
    monkeypatch.setattr(bench, "codes", lambda n, d, root: (sites, labels))
    monkeypatch.setattr(bench, "ROWS", tmp_path / "rows.jsonl")
    words = ["bench", "--n", "90", "--d", "4", "--work", str(tmp_path / "work")]
    for more in (["--limit", "0"], [], []):
        monkeypatch.setattr("sys.argv", [*words, *more])
        bench.main()
    ended, row = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert ended["limit"] == 0
    assert not ended["unconditional"]["converged"]
    assert "limit" not in row
    for name, parts in (("conditional", 3), ("unconditional", 1)):
        assert row[name]["converged"]
        assert len(row[name]["bounds"]) == parts
        assert max(row[name]["bounds"]) <= row["tol"]
        assert row[name]["processor_seconds"] > ended[name]["processor_seconds"] > 0
    found = aeot.solve_semidiscrete(aeot.UniformBox(dim=4), sites, tol=0.05)
    assert row["unconditional"]["bounds"] == [found.mass_error_upper]  # the same bits
    assert row["unconditional"]["scores"] == 90 * row["unconditional"]["samples"]
    printed = capsys.readouterr().out
    assert "grow" in printed
    assert printed.endswith("this case is in the rows\n")
