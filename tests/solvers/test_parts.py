"""The parts of a start are steps: told, stopped between, and gone on from to the same bits."""

import os
import signal
import time

import pytest
import torch
from problems import flat_sites, nested_clusters, twin_sites, wide_and_tight

import aeot
from aeot.solvers.solution import Outcome

KINDS = {
    "flat": (aeot.UniformBall(dim=10), flat_sites(2)),
    "pairs": (aeot.UniformBox(dim=6), twin_sites(1e-4)),
    "a tight cluster": (aeot.UniformBox(dim=8), wide_and_tight()),
    "clusters in clusters": (aeot.Gaussian(dim=5), nested_clusters()),
}
OPTIONS = {"tol": 0.1, "seed": 1, "progress": False}


class Killed(Exception):
    pass


def after(count, records):
    """A hook that ends the process, as it were, with the step of this number."""

    def on_step(record):
        records.append(record)
        if len(records) == count:
            raise Killed

    return on_step


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_that_was_stopped_anywhere_goes_on_to_the_same_bits(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("aeot._loop.Pace.due", lambda self: True)
    source, sites = KINDS[kind]
    every = []
    whole = aeot.solve_semidiscrete(source, sites, on_step=every.append, **OPTIONS)
    assert [r["stage"] for r in every] == [r["stage"] for r in whole.history]
    parts = [r for r in every if r["stage"].startswith("part ")]
    assert parts
    assert all(r["error"] is r["upper"] is None for r in parts)  # of the whole nothing is known
    done, path = 0, tmp_path / "kept"
    while True:  # die after one to four steps
        seen = []
        stop = after(1 + done % 4, seen)
        try:
            again = aeot.solve_semidiscrete(source, sites, checkpoint=path, on_step=stop, **OPTIONS)
        except Killed:
            done += len(seen)
            assert done <= len(every)
            continue
        break
    assert torch.equal(again.heights, whole.heights)
    assert again.history == whole.history
    assert again.n_samples == whole.n_samples


def test_what_is_done_of_a_start_is_not_done_again(tmp_path):
    sites, drawn = nested_clusters(), []

    def draw(n, stream):
        drawn.append(n)
        return torch.randn(n, 5, generator=stream)

    source, path, seen = aeot.Sampler(draw, dim=5), tmp_path / "kept", []
    with pytest.raises(Killed):
        aeot.solve_semidiscrete(source, sites, checkpoint=path, on_step=after(4, seen), **OPTIONS)
    before, told = sum(drawn), []
    drawn.clear()
    again = aeot.solve_semidiscrete(source, sites, checkpoint=path, on_step=told.append, **OPTIONS)
    assert len(seen) + len(told) == len(again.history)
    # The source's moments and the points that groups are told apart on are drawn again.
    assert before + sum(drawn) < 1.5 * again.n_samples
    assert sum(drawn) < again.n_samples
    assert [r["seconds"] for r in seen + told] == sorted(r["seconds"] for r in seen + told)


def test_on_step_ends_a_start_with_certified_heights(tmp_path):
    source, sites = KINDS["a tight cluster"]
    told = []

    def enough(record):
        told.append(record)
        return True

    found = aeot.solve_semidiscrete(
        source, sites, checkpoint=tmp_path / "kept", on_step=enough, **OPTIONS
    )
    assert len(told) == 1
    assert found.outcome in (Outcome.STOPPED, Outcome.CONVERGED)
    assert torch.isfinite(found.heights).all()
    assert 0 < found.mass_error_upper <= 1
    whole = aeot.solve_semidiscrete(source, sites, **OPTIONS)
    again = aeot.solve_semidiscrete(source, sites, checkpoint=tmp_path / "kept", **OPTIONS)
    assert torch.equal(again.heights, whole.heights)


def test_a_signal_stops_a_start_within_a_second_and_the_same_call_goes_on(tmp_path):
    source, sites = KINDS["clusters in clusters"]
    whole = aeot.solve_semidiscrete(source, sites, **OPTIONS)
    asked = []

    def interrupt(record):
        if not asked and record["stage"].startswith("part "):
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt, match=f"{path} holds it, and the same call goes on"):
        aeot.solve_semidiscrete(source, sites, checkpoint=path, on_step=interrupt, **OPTIONS)
    assert time.monotonic() - asked[0] < 1.0
    again = aeot.solve_semidiscrete(source, sites, checkpoint=path, **OPTIONS)
    assert torch.equal(again.heights, whole.heights)


@pytest.mark.parametrize("name", ["heights", "state", "stage"])
def test_forged_parts_are_damage(name, tmp_path):
    from aeot import _io

    source, sites = KINDS["pairs"]
    path = tmp_path / "kept"
    with pytest.raises(Killed):
        aeot.solve_semidiscrete(source, sites, checkpoint=path, on_step=after(2, []), **OPTIONS)
    tensors, config = _io.load(path, kind="transport")
    state = config["state"]["state"]
    if name == "heights":
        state["heights"], tensors["odd"] = {"$tensor": "odd"}, torch.zeros(3).double()
    elif name == "state":
        config["state"]["done"] = {"1": 3}
    else:
        state["phase"] = "nowhere"
    _io.save(path, tensors, config, kind="transport")
    with pytest.raises(_io.Damaged, match="cannot be used"):
        aeot.solve_semidiscrete(source, sites, checkpoint=path, **OPTIONS)
