"""The benchmark of reliability sees what holds and what does not, and its page tells its lines."""

import argparse
import json
import math
import os
import signal
import time
from pathlib import Path

import bench_reliability as bench
import pytest
import torch

from aeot import _io

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "benchmarks/results/reliability.jsonl").read_text().splitlines()
RESULTS = {line["part"]: line for line in map(json.loads, LINES)}


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(seed=3, seconds=60.0, fresh=False, work=tmp_path)


def test_damage_is_counted_and_a_reader_that_checks_nothing_is_found_out(options, monkeypatch):
    told = bench.corruption(options, 60)
    assert (told["cases"], told["held"]) == (60, 60)
    # Digests that are never compared: what was flipped in the tensors passes.
    monkeypatch.setattr(_io, "_file_digest", lambda *_: "0" * 64, raising=True)
    assert bench.corruption(options, 200)["held"] < 200


def test_hostile_files_are_counted(options):
    told = bench.files(options, 5)
    assert (told["cases"], told["held"]) == (5, 5)


def test_a_count_sees_heights_that_are_wrong(options, monkeypatch):
    told = bench.certificates(options, 3)
    assert told["held"] == told["cases"] == 3
    again = bench.certificates(options, 3)  # kept, not run again
    assert again == told
    solve = bench.aeot.solve_semidiscrete

    def wrong(*arguments, **given):
        found = solve(*arguments, **given)
        object.__setattr__(found, "heights", found.heights * 0)
        return found

    monkeypatch.setattr(bench.aeot, "solve_semidiscrete", wrong)
    options.fresh = True
    assert bench.certificates(options, 3)["held"] < 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_are_killed_and_go_on(options, monkeypatch):
    def count(folder, to=30):
        """A job that keeps every step."""
        place = folder / "step"
        step = int(place.read_text()) if place.exists() else 0
        while step < to:
            time.sleep(0.01)
            step += 1
            _io.write_text(place, str(step))
        return {"step": torch.tensor(step)}

    def forgetful(folder):
        again = (folder / "begun").exists()
        (folder / "begun").touch()
        time.sleep(0.2)
        return {"step": torch.tensor(float(again))}

    monkeypatch.setattr(bench, "_known", {})
    monkeypatch.setattr(bench, "KILLED", {"count": count})
    told = bench.kills(options, 2)
    assert told["held"] == 2
    assert told["kills"] > 0
    options.fresh = True
    monkeypatch.setattr(bench, "KILLED", {"forgetful": forgetful})
    assert bench.kills(options, 2)["held"] < 2
    child = bench.begun(forgetful, options.work / "stopped", every_step=False)
    os.kill(child, signal.SIGKILL)
    assert bench.ended(child) == -signal.SIGKILL


@pytest.mark.parametrize("part", RESULTS)
def test_the_page_tells_the_results(part):
    page, line = (ROOT / "docs/reliability.md").read_text(), RESULTS[part]
    row = f"| {line['held']} of {line['cases']}"
    told = [text for text in page.splitlines() if row in text.replace("\u202f", " ")]
    assert told
    # A part that was cut short says what it leaves out, and gives each case that did not hold.
    if line["cases"] != line["of"]:
        assert any("not run" in text and f"bench_reliability.py {part}" in text for text in told)
        assert len(line["failed"]) == line["cases"] - line["held"]
    assert f"bench_reliability.py {part}" in page
    assert math.isfinite(line["seconds"])
